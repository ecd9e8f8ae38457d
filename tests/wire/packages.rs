//! Gauntlet CL-04 and CL-05: package managers against registries of the test internet, each verifying what it got.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::origin::Conversation;
use crate::support::pages::sha256;
use crate::support::*;

/// The machine's own settings for npm name other registries and authorities.
const NPM: &str = "npm --userconfig=none --globalconfig=no-other --no-audit --no-fund --no-update-notifier --fetch-retries=0 \
                   --registry=https://files.good.test/";

#[test]
fn cl_04_npm_installs_by_its_lock_file_and_verifies_the_hash() {
    let bed = Bed::new(P1);
    let dir = &bed.gate.dir;
    std::fs::create_dir_all(dir.join("demo")).unwrap();
    std::fs::create_dir_all(dir.join("app")).unwrap();
    std::fs::write(dir.join("demo/package.json"), r#"{"name":"demo","version":"1.0.0","main":"index.js"}"#)
        .unwrap();
    std::fs::write(dir.join("demo/index.js"), "module.exports = 'installed'\n").unwrap();
    bed.succeed(&format!("cd demo && {NPM} pack"));
    let archive = std::fs::read(dir.join("demo/demo-1.0.0.tgz")).unwrap();
    let hash = bed.succeed("openssl dgst -sha512 -binary demo/demo-1.0.0.tgz | openssl base64 -A");
    bed.world.origin.pages.serve_file("/demo/-/demo-1.0.0.tgz", "application/octet-stream", archive.clone());
    let lock = |hash: &str| {
        format!(
            r#"{{"name":"app","version":"1.0.0","lockfileVersion":3,"packages":{{"":{{"name":"app","version":"1.0.0","dependencies":{{"demo":"1.0.0"}}}},"node_modules/demo":{{"version":"1.0.0","resolved":"https://files.good.test/demo/-/demo-1.0.0.tgz","integrity":"sha512-{hash}"}}}}}}"#
        )
    };
    let app = r#"{"name":"app","version":"1.0.0","dependencies":{"demo":"1.0.0"}}"#;
    std::fs::write(dir.join("app/package.json"), app).unwrap();
    std::fs::write(dir.join("app/package-lock.json"), lock(&hash)).unwrap();
    let said = bed.succeed(&format!("cd app && {NPM} ci >&2 && node -p \"require('demo')\""));
    assert_eq!(said, "installed\n");
    bed.world.origin.pages.serve_file(
        "/demo/-/demo-1.0.0.tgz",
        "application/octet-stream",
        archive[1..].to_vec(),
    );
    let spoilt = bed.program(&format!("cd app && rm -rf node_modules ../.npm && {NPM} ci"));
    assert!(!spoilt.status.success(), "what is not the package is not installed");
}

#[test]
fn cl_04_cargo_fetches_from_a_sparse_index_and_verifies_the_hash() {
    let bed = Bed::new(P1);
    let dir = &bed.gate.dir;
    let package = |name: &str, more: &str| {
        std::fs::create_dir_all(dir.join(name).join("src")).unwrap();
        let manifest =
            format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n{more}");
        std::fs::write(dir.join(name).join("Cargo.toml"), manifest).unwrap();
        std::fs::write(dir.join(name).join("src/lib.rs"), "").unwrap();
    };
    package("demo", "license = \"MIT\"\ndescription = \"d\"\n");
    package("app", "[dependencies]\ndemo = \"1\"\n");
    let tools = Path::new(env!("CARGO")).parent().unwrap().display().to_string();
    let cargo =
        format!("env PATH={tools}:$PATH CARGO_HOME=$PWD/../home CARGO_HTTP_CAINFO=$SSL_CERT_FILE cargo");
    bed.succeed(&format!("cd demo && {cargo} package -q --no-verify --offline --target-dir target"));
    let archive = std::fs::read(dir.join("demo/target/package/demo-1.0.0.crate")).unwrap();
    let pages = &bed.world.origin.pages;
    let line = format!(
        "{{\"name\":\"demo\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"{}\",\"features\":{{}},\"yanked\":false}}\n",
        sha256(&archive)
    );
    pages.serve_file("/index/config.json", "application/json", "{\"dl\":\"https://files.good.test/crates\"}");
    pages.serve_file("/index/de/mo/demo", "text/plain", line);
    pages.serve_file("/crates/demo/1.0.0/download", "application/gzip", archive);
    std::fs::create_dir_all(dir.join("home")).unwrap();
    std::fs::write(
        dir.join("home/config.toml"),
        "[source.crates-io]\nreplace-with = \"ours\"\n[source.ours]\nregistry = \"sparse+https://files.good.test/index/\"\n",
    )
    .unwrap();
    bed.succeed(&format!("cd app && {cargo} fetch -q && {cargo} fetch -q --locked --offline"));
}

/// A mirror as apt likes it: a connection that lives, answers in order to requests that did not wait, 304 where nothing
/// is new.
fn mirror(peer: &mut Conversation, files: &[(String, Vec<u8>)]) {
    const SINCE: &str = "Sat, 01 Jan 2000 00:00:00 GMT";
    while let Some(head) = peer.head() {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let known = files.iter().find(|(name, _)| name == path);
        match known {
            Some(_) if head.to_ascii_lowercase().contains("if-modified-since:") => {
                peer.say(format!("HTTP/1.1 304 Not Modified\r\nLast-Modified: {SINCE}\r\n\r\n"));
            }
            Some((_, bytes)) => {
                let length = bytes.len();
                peer.say(format!(
                    "HTTP/1.1 200 OK\r\nLast-Modified: {SINCE}\r\nContent-Length: {length}\r\n\r\n"
                ));
                peer.say(bytes);
            }
            None => peer.say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        }
    }
}

/// A repository with packages of these names, by path.
fn repository(bed: &Bed, names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let dir = &bed.gate.dir;
    let (mut list, mut files) = (String::new(), Vec::new());
    for name in names {
        let folder = dir.join(name).join("DEBIAN");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@good.test>\nDescription: t\n"
        );
        std::fs::write(folder.join("control"), &control).unwrap();
        bed.succeed(&format!("dpkg-deb --root-owner-group --build {name} {name}.deb"));
        let bytes = std::fs::read(dir.join(format!("{name}.deb"))).unwrap();
        let (size, hash) = (bytes.len(), sha256(&bytes));
        list += &format!("{control}Filename: pool/{name}.deb\nSize: {size}\nSHA256: {hash}\n\n");
        files.push((format!("/debian/pool/{name}.deb"), bytes));
    }
    let (size, hash) = (list.len(), sha256(list.as_bytes()));
    let release = format!(
        "Origin: t\nSuite: stable\nCodename: stable\nDate: Sat, 01 Jan 2000 00:00:00 UTC\nArchitectures: all\nComponents: main\n\
         Acquire-By-Hash: yes\nSHA256:\n {hash} {size} main/binary-all/Packages\n"
    );
    files.push(("/debian/dists/stable/Release".into(), release.into_bytes()));
    // Under its hash alone: who does not ask for that gets nothing.
    files.push((format!("/debian/dists/stable/main/binary-all/by-hash/SHA256/{hash}"), list.into_bytes()));
    files
}

#[test]
fn cl_05_apt_updates_and_downloads_in_clear_text() {
    let bed = Bed::new(P1);
    let names = ["one", "two", "three", "four", "five", "six"];
    let files = repository(&bed, &names);
    bed.world.origin.script((PUB1, 80), move |peer| mirror(peer, &files));
    let settings = format!(
        "Dir \"{0}/apt\";\nDir::Etc::Parts \"none\";\nDir::Etc::Main \"none\";\nDir::State::Status \"{0}/apt/status\";\n\
         APT::Sandbox::User \"root\";\nAPT::Architecture \"all\";\nAPT::Architectures {{ \"all\"; }};\nAcquire::Languages \"none\";\n\
         Acquire::http::Pipeline-Depth \"5\";\n",
        bed.gate.dir.display()
    );
    std::fs::write(bed.gate.dir.join("apt.conf"), settings).unwrap();
    let set_up = "mkdir -p apt/etc/apt/preferences.d apt/var/lib/apt/lists/partial apt/var/cache/apt/archives/partial && \
                  touch apt/status && echo 'deb [trusted=yes] http://plain.good.test/debian stable main' > apt/etc/apt/sources.list";
    bed.succeed(set_up);
    let apt = "env APT_CONFIG=$PWD/apt.conf apt-get -q";
    bed.succeed(&format!("{apt} update && {apt} update"));
    let got = bed.succeed(&format!(
        "mkdir got && cd got && env APT_CONFIG=$PWD/../apt.conf apt-get -q download {} >&2 && ls | wc -l",
        names.join(" ")
    ));
    assert_eq!(got.trim(), "6");
    let asked: String = bed.world.origin.connections().iter().map(|seen| seen.text()).collect();
    assert!(asked.contains("/by-hash/SHA256/"), "{asked}");
    assert!(asked.to_ascii_lowercase().contains("if-modified-since: sat, 01 jan 2000"), "{asked}");
}
