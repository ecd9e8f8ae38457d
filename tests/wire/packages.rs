//! Gauntlet CL-04: package managers that install by a lock file or an index, and refuse what is not the package.

use std::path::Path;

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
