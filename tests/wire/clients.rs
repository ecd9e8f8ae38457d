//! Real programs in the agent's namespace, with a default route, a resolver and a CA, and no proxy setting at all.

use crate::support::git::repository;
use crate::support::pages::sha256;
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
    let bed = Bed::new(P3);
    let page = bed.succeed("curl -sS -m 20 -w ' %{http_code}' https://api.good.test/admin");
    assert!(page.ends_with(" 403") && page.contains("api.good.test"), "{page}");
    let unknown = bed.program("curl -sS -m 20 https://evil.test/");
    assert_eq!(unknown.status.code(), Some(6), "the name does not resolve: {unknown:?}");
    let forced = bed.program("curl -sS -m 20 --resolve evil.test:443:93.184.216.66 https://evil.test/ -o /dev/null -w '%{http_code}'");
    let refused = String::from_utf8_lossy(&forced.stdout) == "403" || !forced.status.success();
    assert!(refused, "{forced:?}");
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

#[test]
fn cl_03_git_clones_over_https() {
    let bed = Bed::new(P1);
    repository(bed.gate.dir.as_path(), "demo.git");
    bed.world.origin.pages.serve_git(&bed.gate.dir);
    let out = bed
        .succeed("git clone -q https://files.good.test/git/demo.git out && git -C out fsck && cat out/file");
    assert!(out.ends_with("a file\n"), "{out}");
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

#[test]
fn cl_04_pip_installs_from_a_local_index() {
    let bed = Bed::new(P1);
    bed.succeed(MAKE_WHEEL);
    let wheel = std::fs::read(bed.gate.dir.join("demo.whl")).unwrap();
    let file = "demo_pkg-1.0-py3-none-any.whl";
    let index = format!(
        "<!DOCTYPE html><html><body><a href=\"/packages/{file}#sha256={}\">{file}</a></body></html>",
        sha256(&wheel)
    );
    let pages = &bed.world.origin.pages;
    pages.serve_file("/simple/demo-pkg/", "text/html", index);
    pages.serve_file(&format!("/packages/{file}"), "application/octet-stream", wheel);
    let out = bed.succeed(
        "python3 -m pip install -q --no-cache-dir --disable-pip-version-check --target installed \
         --index-url https://files.good.test/simple demo-pkg && PYTHONPATH=installed python3 -m demo_pkg",
    );
    assert!(out.ends_with("installed\n"), "{out}");
}

#[test]
fn cl_02_node_fetches() {
    let bed = Bed::new(P1);
    let script = "fetch('https://api.good.test/').then(r => r.text()).then(t => process.stdout.write(t))";
    assert_eq!(bed.succeed(&format!("node -e \"{script}\"")), "hello from api.good.test\n");
    let denied = "fetch('https://evil.test/').then(() => process.exit(0), () => process.exit(9))";
    assert_eq!(bed.program(&format!("node -e \"{denied}\"")).status.code(), Some(9));
}

#[test]
fn cl_02_python_requests_gets_and_posts() {
    let bed = Bed::new(P1);
    let script = "import requests; s = requests.Session(); print(s.get('https://api.good.test/').text, end=''); \
                  print(s.post('https://api.good.test/upload', data='hello').text, end='')";
    let expected = format!("hello from api.good.test\n5 {}\n", sha256(b"hello"));
    assert_eq!(bed.succeed(&format!("python3 -c \"{script}\"")), expected);
}
