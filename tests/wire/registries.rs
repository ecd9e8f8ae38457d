//! Gauntlet CL-04, CL-05 and CL-15: those who install packages, against registries on the test internet's hosts. Each
//! of these clients checks the hash of what it got.

use std::path::Path;

use crate::support::registries::{APT_PACKAGES, apt, apt_get, npm};
use crate::support::*;

/// npm in a folder of its own, told of the registry and of nothing else.
fn npm_line(registry: &str, arguments: &str) -> String {
    format!(
        "mkdir -p app && cd app && printf '{{\"name\":\"app\",\"version\":\"1.0.0\",\"dependencies\":{{\"@scope/demo\":\"1.0.0\"}}}}' \
         > package.json; NPM='npm --globalconfig ./none --registry https://{registry} --cache ./cache --no-audit --no-fund --no-update-notifier \
         --fetch-retries 0 --loglevel http'; {arguments}"
    )
}

/// cargo in a folder of its own. The program is the one that runs this test, not a chooser of toolchains.
fn cargo_line(index: &str, arguments: &str) -> String {
    let cargo = Path::new(env!("CARGO"));
    format!(
        "mkdir -p crate/src && cd crate && : > src/lib.rs; \
         printf '[package]\\nname = \"app\"\\nversion = \"1.0.0\"\\n[dependencies]\\ndemo = {{ version = \"1\", registry = \"local\" }}\\n' \
         > Cargo.toml; export PATH=\"{}:$PATH\" CARGO_HOME=\"$PWD/home\" CARGO_HTTP_CAINFO=\"$SSL_CERT_FILE\" CARGO_NET_RETRY=0 CARGO_NET_OFFLINE=false \
         CARGO_REGISTRIES_LOCAL_INDEX=sparse+https://{index}; cargo {arguments}",
        cargo.parent().unwrap().display()
    )
}

#[test]
fn cl_04_npm_installs_a_package_with_a_scope_and_again_by_its_lock_file() {
    let bed = Bed::new(P1);
    npm(&bed.world.origin.pages, &bed.gate.dir);
    let line = npm_line(
        "files.good.test/npm/",
        "$NPM install && test -s package-lock.json && rm -rf node_modules cache && $NPM ci && \
         exec node -p \"require('@scope/demo')\"",
    );
    let said = bed.succeed(&line);
    assert!(said.ends_with("installed\n"), "{said}");
    let lock = std::fs::read_to_string(bed.gate.dir.join("app/package-lock.json")).unwrap();
    assert!(lock.contains("sha512-"), "the hash was there to be checked: {lock}");
    let asked: Vec<_> =
        bed.world.origin.requests().iter().map(|request| request.target.to_lowercase()).collect();
    assert!(asked.contains(&"/npm/@scope%2fdemo".to_owned()), "as npm writes it: {asked:?}");
}

#[test]
fn cl_05_apt_updates_by_hash_and_downloads_in_one_pipeline_over_clear_text() {
    let bed = Bed::new(P1);
    apt(&bed.world.origin.pages);
    bed.succeed(&apt_get("plain.good.test/debian", "update"));
    let again = bed.succeed(&apt_get("plain.good.test/debian", "update"));
    assert!(again.contains("Hit:"), "nothing has changed since: {again}");
    let all: String = (0..APT_PACKAGES).map(|number| format!(" demo-{number}")).collect();
    bed.succeed(&apt_get("plain.good.test/debian", &format!("download{all}")));
    for number in 0..APT_PACKAGES {
        let got = std::fs::read(bed.gate.dir.join(format!("demo-{number}_1.0_all.deb"))).unwrap();
        assert_eq!(got, crate::support::pages::pattern(1000 + number * 7919), "demo-{number}");
    }
    let requests = bed.world.origin.requests();
    let asked = |part: &str| requests.iter().filter(|request| request.target.contains(part)).count();
    assert_eq!((asked("/by-hash/SHA256/"), asked("/pool/")), (1, APT_PACKAGES));
    let conditional = |request: &&std::sync::Arc<crate::support::pages::Request>| {
        request.target.ends_with("/Release") && !request.header("if-modified-since").is_empty()
    };
    assert_eq!(requests.iter().filter(conditional).count(), 1, "the condition came through");
}

const NOT_THESE: &str = r#"
[[rule]]
name = "no packages from here"
hosts = ["files.good.test", "plain.good.test"]
action = "deny"
  [[rule.match]]
  path = { prefix = "/denied" }
"#;

/// What a tool shows of a refusal is up to it: all of them show the status, and some show the page.
#[test]
fn cl_15_every_installer_shows_that_it_was_refused() {
    let bed = Bed::new(&format!("{P1}{NOT_THESE}"));
    let git = "git clone -q https://files.good.test/denied/demo.git out";
    let pip = "python3 -m pip download --no-cache-dir --disable-pip-version-check --no-deps \
               https://files.good.test/denied/demo_pkg-1.0-py3-none-any.whl";
    let page = "rule: no packages from here";
    let lines = [
        (
            "curl",
            "curl -sS -m 20 https://files.good.test/denied/file".to_owned(),
            vec![page, "files.good.test"],
        ),
        ("git", git.to_owned(), vec!["403", "files.good.test"]),
        ("pip", pip.to_owned(), vec!["403", "files.good.test"]),
        ("npm", npm_line("files.good.test/denied/", "$NPM install"), vec!["403", "files.good.test"]),
        ("cargo", cargo_line("files.good.test/denied/", "fetch"), vec!["403", "files.good.test", page]),
        ("apt", apt_get("plain.good.test/denied", "update"), vec!["403", "plain.good.test"]),
    ];
    for (what, line, words) in lines {
        let done = bed.program(&format!("exec 2>&1; {line}"));
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(done.status.success(), what == "curl", "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what} does not say {word:?}: {said}");
        }
    }
    assert!(bed.world.origin.requests().is_empty(), "nothing of it reached the hosts");
}
