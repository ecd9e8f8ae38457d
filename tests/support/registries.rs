//! Registries of packages as files on the test internet's hosts: npm's, and an archive for apt.
//!
//! Each is the smallest one that its client takes, with the hashes that make the client itself the judge of every byte.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::pages::{Pages, pattern, sha256};

/// One package of npm's, named with a scope, which clients ask for as `@scope%2fdemo`.
pub fn npm(pages: &Pages, dir: &Path) {
    let manifest = r#"{"name":"@scope/demo","version":"1.0.0"}"#;
    let archive = archive(
        dir,
        "package",
        &[("package.json", manifest), ("index.js", "module.exports = 'installed'\n")],
    );
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &archive);
    let integrity = STANDARD.encode(digest.as_ref());
    let tarball = "/npm/@scope/demo/-/demo-1.0.0.tgz";
    let described = format!(
        r#"{{"name":"@scope/demo","dist-tags":{{"latest":"1.0.0"}},"versions":{{"1.0.0":{{"name":"@scope/demo",
           "version":"1.0.0","dist":{{"tarball":"https://files.good.test{tarball}","integrity":"sha512-{integrity}"}}}}}}}}"#
    );
    pages.serve_file("/npm/@scope%2fdemo", "application/json", described);
    pages.serve_file(tarball, "application/octet-stream", archive);
}

/// How many packages the archive for apt has: more than its client keeps in flight on one connection.
pub const APT_PACKAGES: usize = 24;

/// An archive for apt at `/debian/`. Its index is to be had by its hash alone: nothing is at its name.
pub fn apt(pages: &Pages) {
    let mut index = String::new();
    for number in 0..APT_PACKAGES {
        let bytes = pattern(1000 + number * 7919);
        let file = format!("pool/demo-{number}_1.0_all.deb");
        index += &format!(
            "Package: demo-{number}\nVersion: 1.0\nArchitecture: all\nMaintainer: t <t@good.test>\nFilename: {file}\n\
             Size: {}\nSHA256: {}\nDescription: a demo\n\n",
            bytes.len(),
            sha256(&bytes)
        );
        pages.serve_file(&format!("/debian/{file}"), "application/octet-stream", bytes);
    }
    let digest = sha256(index.as_bytes());
    let release = format!(
        "Origin: test\nSuite: stable\nCodename: stable\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nArchitectures: amd64\n\
         Components: main\nAcquire-By-Hash: yes\nSHA256:\n {digest} {} main/binary-amd64/Packages\n",
        index.len()
    );
    let stable = "/debian/dists/stable";
    pages.serve_nothing(&format!("{stable}/InRelease"));
    pages.serve_nothing(&format!("{stable}/Release.gpg"));
    pages.serve_nothing(&format!("{stable}/main/binary-amd64/Packages"));
    pages.serve_file(&format!("{stable}/Release"), "text/plain", release);
    pages.serve_file(&format!("{stable}/main/binary-amd64/by-hash/SHA256/{digest}"), "text/plain", index);
}

/// apt with a root of its own below the folder it is called in, and with the archive as its only source.
pub fn apt_get(host_and_path: &str, arguments: &str) -> String {
    format!(
        "mkdir -p apt/etc/apt/apt.conf.d apt/etc/apt/preferences.d apt/var/lib/apt/lists/partial \
         apt/var/cache/apt/archives/partial apt/var/lib/dpkg; : > apt/var/lib/dpkg/status; \
         echo 'deb [trusted=yes] http://{host_and_path} stable main' > apt/etc/apt/sources.list; \
         printf 'Dir \"%s/apt\";\\nDir::State::status \"%s/apt/var/lib/dpkg/status\";\\n' \"$PWD\" \"$PWD\" > apt.conf; \
         export APT_CONFIG=\"$PWD/apt.conf\" LC_ALL=C; \
         apt-get -q -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Languages=none \
         -o Acquire::http::Pipeline-Depth=10 -o Acquire::Retries=0 {arguments}"
    )
}

/// A gzipped tar of one folder with these files.
fn archive(dir: &Path, folder: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let base = tempfile::tempdir_in(dir).unwrap();
    for (name, text) in files {
        let path = base.path().join(folder).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let done = Command::new("tar").arg("-C").arg(base.path()).args(["-czf", "-", folder]).output().unwrap();
    assert!(done.status.success(), "tar: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}
