//! Gauntlet CL-15 and TL-19: what a person or an agent reads when the answer is no, in the form that their client
//! shows. `git` has what git says.

use crate::support::*;

/// What every form must say, and what none may.
#[track_caller]
fn tells(said: &str, words: &[&str]) {
    for word in words.iter().chain(&["api.good.test", "operator of this gate"]) {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    for secret in ["93.184.216", "10.77.", "/admin?key"] {
        assert!(!said.contains(secret), "{secret:?} is in {said}");
    }
}

#[test]
fn cl_15_a_page_names_host_rule_and_the_way_to_ask() {
    let bed = Bed::new(P3);
    let denied =
        bed.succeed("curl -sS -m 20 -w '%{http_code} %{content_type}' 'https://api.good.test/admin?key=1'");
    tells(&denied, &["403 text/plain", "path_denied", "none lets it through, public comes closest"]);
    let denied = bed.succeed("curl -sS -m 20 https://api.good.test/public/secret/x");
    tells(&denied, &["a rule denies this", "rule: no secrets"]);
    let unknown = bed.fetch("evil.test", get("evil.test", "/")).expect("a page inside TLS").text();
    assert!(unknown.contains("evil.test") && unknown.contains("rule: none speaks for this"), "{unknown}");
    assert_eq!(bed.succeed("curl -sS -m 20 https://api.good.test/public/x"), "hello from api.good.test\n");
}

#[test]
fn cl_15_a_client_that_takes_only_json_is_told_in_json() {
    let bed = Bed::new(P3);
    let read = "import json, sys; told = json.load(sys.stdin); assert told['error'] == told['message']; \
                print(told['reason'], told['rule'], told['message'])";
    let ask = "curl -sS -m 20 -H 'accept: application/vnd.github+json' https://api.good.test/public/secret/x";
    let told = bed.succeed(&format!("{ask} | python3 -c \"{read}\""));
    assert!(told.starts_with("rule_denied no secrets"), "{told}");
    tells(&told, &["a rule denies this"]);
    let npm = "npm --userconfig=none --globalconfig=no-other --registry=https://api.good.test/ --no-update-notifier --fetch-retries=0 view some-package";
    let denied = bed.program(npm);
    tells(&String::from_utf8_lossy(&denied.stderr), &["403", "path_denied", "public comes closest"]);
}

#[test]
fn cl_15_a_grpc_call_is_told_in_trailers_alone() {
    let bed = Bed::new(P3);
    let call = "curl -sS -m 20 --http2 -D - -H 'content-type: application/grpc+proto' -H 'te: trailers' -d x";
    let told = bed.succeed(&format!("{call} https://api.good.test/pkg.Service/Method"));
    assert!(told.starts_with("HTTP/2 200"), "{told}");
    tells(
        &told,
        &["grpc-status: 7", "grpc-message: outgate: ", "path_denied", "content-type: application/grpc"],
    );
    let passed = bed.succeed(&format!("{call} https://api.good.test/v1/messages"));
    assert!(!passed.contains("grpc-status"), "what is allowed is the origin's answer: {passed}");
    bed.gate.wait_for_record("the call's denial", |record| {
        record.text("verdict") == "deny" && record.text("reason") == "path_denied"
    });
}

#[test]
fn tl_19_a_person_reads_what_is_wrong_with_the_origin() {
    let names = ["expired", "selfsigned", "wronghost", "unknownroot"].map(|name| format!("{name}.good.test"));
    let bed =
        Bed::new(&format!("{P1}\n[[rule]]\nname = \"faulty\"\nhosts = {names:?}\naction = \"allow\"\n"));
    for (name, fault) in
        names.iter().zip(["has expired", "self-signed", "another name", "issuer that is not trusted"])
    {
        let mark = bed.mark();
        let page = bed.fetch(name, get(name, "/")).unwrap();
        assert!(page.status == 502 && page.text().contains(fault), "{name}: {}", page.text());
        let taps = bed.since(mark, 1);
        assert!(taps.requests.is_empty() && taps.upstream_text().is_empty(), "an HTTP byte left");
        bed.gate.wait_for_record("the reason", |record| record.text("reason") == "upstream_cert");
    }
    bed.control();
}

#[test]
fn cl_15_a_status_line_says_why_where_nothing_else_is_shown() {
    let bed = Bed::new(P3);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/admin"));
    let line = wire.until(b"\r\n").unwrap();
    assert_eq!(line, b"HTTP/1.1 403 Forbidden (outgate: path_denied)\r\n");
    let denied = bed.succeed(
        "python3 -c \"import requests; r = requests.get('https://api.good.test/admin'); print(r.reason)\"",
    );
    assert_eq!(denied, "Forbidden (outgate: path_denied)\n");
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/public/x"));
    assert_eq!(wire.until(b"\r\n").unwrap(), b"HTTP/1.1 200 OK\r\n");
}

/// curl forgets an answer that ends before it has sent its body.
#[test]
fn cl_15_a_refused_upload_over_http_2_does_not_lose_its_page() {
    let bed = Bed::new(P3);
    let upload = "head -c 300000 /dev/zero > large; for n in 1 2 3 4 5 6 7 8 9 10; do for body in x @large; do \
                  curl -sS -m 20 --http2 -d $body https://api.good.test/admin | grep reason; done; done";
    let pages = bed.succeed(upload);
    assert_eq!(pages, "reason: path_denied\n".repeat(20));
}

const GRPC: &str = r#"
import grpc, os, sys, threading
roots = open(os.environ["SSL_CERT_FILE"], "rb").read()
channel = grpc.secure_channel("api.good.test:443", grpc.ssl_channel_credentials(roots))
same = dict(request_serializer=bytes, response_deserializer=bytes)
path, over = sys.argv[1], threading.Event()

def open_end():
    yield b"one"
    over.wait(30)

calls = [
    lambda: channel.unary_unary(path, **same)(b"x", timeout=20),
    lambda: list(channel.unary_stream(path, **same)(b"x", timeout=20)),
    lambda: channel.stream_unary(path, **same)(iter([b"x", b"y"]), timeout=20),
    lambda: list(channel.stream_stream(path, **same)(open_end(), timeout=20)),
]
for call in calls[:int(sys.argv[2])]:
    try:
        call()
        print("passed")
    except grpc.RpcError as error:
        print(error.code().name, error.details())
over.set()
"#;

#[test]
fn cl_15_a_grpc_client_reads_its_refusal_in_all_four_forms_of_a_call() {
    let bed = Bed::new(P3);
    std::fs::write(bed.gate.dir.join("call.py"), GRPC).unwrap();
    let told = bed.succeed("/usr/bin/python3 call.py /pkg.Service/Method 4");
    assert_eq!(told.lines().count(), 4, "{told}");
    for line in told.lines() {
        assert!(line.starts_with("PERMISSION_DENIED outgate: "), "{told}");
        tells(line, &["POST api.good.test", "path_denied", "public comes closest"]);
    }
    // The origin speaks no gRPC, but it is asked.
    let asked = bed.succeed("/usr/bin/python3 call.py /v1/messages 1");
    assert!(!asked.contains("PERMISSION_DENIED") && !bed.world.origin.requests().is_empty(), "{asked}");
}
