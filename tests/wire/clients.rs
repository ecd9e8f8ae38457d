//! Real programs in the agent's namespace, with a default route, a resolver and a CA, and no proxy setting at all.

use std::path::Path;

use crate::support::git::repository;
use crate::support::pages::{Pages, sha256};
use crate::support::*;

#[test]
fn cl_01_curl_speaks_h1_and_h2_and_clear_text() {
    let bed = Bed::new(P1);
    let curl =
        |rest: &str| bed.succeed(&format!("curl -sS -m 20 -w ' %{{http_version}} %{{http_code}}' {rest}"));
    assert_eq!(curl("--http1.1 https://api.good.test/"), "hello from api.good.test\n 1.1 200");
    assert_eq!(curl("--http2 https://api.good.test/"), "hello from api.good.test\n 2 200");
    assert_eq!(curl("http://plain.good.test/"), "hello from plain.good.test\n 1.1 200");
    assert_eq!(curl("-6 --http1.1 https://api.good.test/"), "hello from api.good.test\n 1.1 200");
    assert_eq!(curl("--http2 -d hello https://api.good.test/upload -o /dev/null"), " 2 200");
    let versions: Vec<_> = bed.world.origin.requests().iter().map(|request| request.version).collect();
    assert!(versions.contains(&::http::Version::HTTP_2) && versions.contains(&::http::Version::HTTP_11));
}

#[test]
fn cl_15_a_refusal_tells_a_tool_what_was_refused() {
    let bed = Bed::with(&Setup {
        policy: format!("{P3}{}", P4.replace("hosts = [\"api.good.test\"]", "hosts = [\"cdn.good.test\"]")),
        environment: p4_environment(),
        ..Setup::default()
    });
    let (evil, door) = ("--resolve evil.test:80:93.184.216.66", "-x http://10.77.1.1:3128");
    // By every door: what is asked for, the host that the page must name, and what else it must say.
    let refused = [
        ("--http1.1 https://api.good.test/admin", "api.good.test", "reason: path_denied"),
        ("--http2 https://api.good.test/admin", "api.good.test", "reason: path_denied"),
        ("https://api.good.test/public/secret/x", "api.good.test", "rule: no secrets"),
        (&format!("{door} https://api.good.test/public/secret/x"), "api.good.test", "rule: no secrets"),
        (&format!("{door} http://evil.test/"), "evil.test", "reason: no_rule"),
        (&format!("{evil} http://evil.test/"), "evil.test", "reason: no_rule"),
    ];
    for (line, host, words) in refused {
        let page = bed.succeed(&format!("curl -sS -m 20 -w '%{{http_code}} %{{content_type}}' {line}"));
        assert!(page.ends_with("403 text/plain; charset=utf-8"), "{line}: {page}");
        for told in ["outgate: ", host, words, "To have this opened, "] {
            assert!(page.contains(told), "{line} is not told {told:?}: {page}");
        }
        // What the client has chosen itself may be named; nothing of the gate's own may.
        for secret in ["10.77.", "10.99.", "93.184.", "127.0.", "/tmp/", K5.as_str()] {
            assert!(!page.contains(secret), "{line} is told {secret:?}: {page}");
        }
        assert!(page.len() < 600 && page.lines().count() < 8, "short: {page}");
    }
    let tunnel = bed.program(&format!("curl -sS -m 20 {door} https://evil.test/"));
    assert_eq!(tunnel.status.code(), Some(56), "{tunnel:?}");
    assert!(String::from_utf8_lossy(&tunnel.stderr).contains("403"), "{tunnel:?}");
    let unknown = bed.program("curl -sS -m 20 https://evil.test/");
    assert_eq!(unknown.status.code(), Some(6), "the name does not resolve: {unknown:?}");
    assert!(bed.world.origin.requests().is_empty());
    assert_eq!(bed.succeed("curl -sS -m 20 https://api.good.test/public/x"), "hello from api.good.test\n");
}

#[test]
fn a_client_without_the_ca_is_reported_as_exactly_that() {
    let bed = Bed::new(P1);
    let distrustful =
        bed.program("env -u CURL_CA_BUNDLE -u SSL_CERT_FILE curl -sS -m 20 https://api.good.test/");
    assert_eq!(distrustful.status.code(), Some(60), "{distrustful:?}");
    bed.gate.wait_for_record("the client's distrust", |record| {
        record.mentions("trust") && record.mentions("api.good.test")
    });
}

/// A wheel is a zip file; python makes it so that no tool is needed for one small file.
const MAKE_WHEEL: &str = r#"python3 - <<'END'
import zipfile
with zipfile.ZipFile("demo.whl", "w") as wheel:
    wheel.writestr("demo_pkg.py", "print('installed')\n")
    wheel.writestr("demo_pkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo-pkg\nVersion: 1.0\n")
    wheel.writestr("demo_pkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("demo_pkg-1.0.dist-info/RECORD", "demo_pkg.py,,\n")
END"#;

/// What each client is told to do and how its output must end. The hosts are set up for it in `dir`, by `succeed`.
pub fn lines(
    pages: &Pages,
    dir: &Path,
    succeed: &dyn Fn(&str) -> String,
) -> Vec<(&'static str, String, String)> {
    repository(dir, "demo.git");
    pages.serve_git(dir);
    succeed(MAKE_WHEEL);
    let wheel = std::fs::read(dir.join("demo.whl")).unwrap();
    let file = "demo_pkg-1.0-py3-none-any.whl";
    let link = format!("<a href=\"/packages/{file}#sha256={}\">{file}</a>", sha256(&wheel));
    pages.serve_file(
        "/simple/demo-pkg/",
        "text/html",
        format!("<!DOCTYPE html><html><body>{link}</body></html>"),
    );
    pages.serve_file(&format!("/packages/{file}"), "application/octet-stream", wheel);
    let clone = "git clone -q https://files.good.test/git/demo.git out && git -C out fsck && cat out/file";
    let pip = "python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target installed \
               --index-url https://files.good.test/simple demo-pkg && PYTHONPATH=installed python3 -m demo_pkg";
    let node =
        "node -e \"fetch('https://api.good.test/').then(r => r.text()).then(t => process.stdout.write(t))\"";
    let requests = "python3 -c \"import requests; s = requests.Session(); \
                    print(s.get('https://api.good.test/').text, end=''); \
                    print(s.post('https://api.good.test/upload', data='hello').text, end='')\"";
    let uploaded = format!("hello from api.good.test\n5 {}\n", sha256(b"hello"));
    vec![
        ("git", clone.to_owned(), "a file\n".to_owned()),
        ("pip", pip.to_owned(), "installed\n".to_owned()),
        ("node", node.to_owned(), "hello from api.good.test\n".to_owned()),
        ("requests", requests.to_owned(), uploaded),
    ]
}

#[test]
fn cl_02_03_04_git_pip_node_and_requests_work_without_any_setting_of_a_proxy() {
    let bed = Bed::new(P1);
    for (what, line, expected) in lines(&bed.world.origin.pages, &bed.gate.dir, &|line| bed.succeed(line)) {
        let out = bed.succeed(&line);
        assert!(out.ends_with(&expected), "{what}: {out}");
    }
}

#[test]
fn cl_02_a_client_is_told_that_a_name_is_not_there() {
    let bed = Bed::new(P1);
    let denied = "node -e \"fetch('https://evil.test/').then(() => process.exit(0), () => process.exit(9))\"";
    assert_eq!(bed.program(denied).status.code(), Some(9));
}

#[test]
fn the_tour_of_the_readme_ends_as_expected() {
    let tour = std::process::Command::new(env!("CARGO_BIN_EXE_outgate")).arg("demo").output().unwrap();
    let said = String::from_utf8_lossy(&tour.stdout);
    assert!(tour.status.success(), "{said}\n{}", String::from_utf8_lossy(&tour.stderr));
    assert_eq!(said.lines().filter(|line| line.starts_with("ok")).count(), 13, "{said}");
    // The records are kept for a person who ran it; here nobody reads them.
    if let Some(folder) = said.lines().last().and_then(|line| std::path::Path::new(line.trim()).parent()) {
        let _ = std::fs::remove_dir_all(folder);
    }
}
