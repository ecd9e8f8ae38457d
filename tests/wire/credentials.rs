//! Gauntlet CR: the real credential is where the rule says, over verified TLS, and nowhere else.

use crate::support::message::Response;
use crate::support::*;

fn p4() -> Bed {
    Bed::with(&Setup { policy: P4.into(), environment: p4_environment(), ..Setup::default() })
}

fn with_authorization(path: &str, value: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.good.test\r\nAuthorization: {value}\r\n\r\n")
}

fn tells_k5(answer: &Response) -> bool {
    let headers: String = answer.headers.iter().map(|(_, value)| value.as_str()).collect();
    answer.text().contains(&*K5) || headers.contains(&*K5)
}

#[test]
fn cr_01_02_the_clients_credential_is_replaced_by_the_real_one() {
    let bed = p4();
    let empty =
        "GET / HTTP/1.1\r\nHost: api.good.test\r\nAuthorization:\r\nCookie: mine=1\r\n\r\n".to_owned();
    for request in [with_authorization("/", "Bearer FAKE"), get("api.good.test", "/"), empty] {
        let mark = bed.mark();
        let answer = bed.fetch("api.good.test", request).unwrap();
        assert_eq!(answer.status, 200);
        assert!(!tells_k5(&answer));
        let taps = bed.since(mark, 1);
        assert_eq!(taps.requests[0].header("authorization"), [format!("Bearer {}", *K5)]);
        assert!(taps.requests[0].header("cookie").is_empty());
    }
    let files = bed.https(PUB2, "files.good.test").unwrap().ask(get("files.good.test", "/")).unwrap();
    assert_eq!(files.status, 200);
    assert!(
        bed.world.origin.requests().last().unwrap().header("authorization").is_empty(),
        "only where the rule says"
    );
}

#[test]
fn cr_04_an_echo_does_not_tell_the_client_the_credential() {
    let bed = p4();
    let answer = bed.fetch("api.good.test", with_authorization("/echo", "Bearer FAKE")).unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.complete, "masked with the same length, so that the framing holds");
    assert!(answer.text().contains("authorization: "), "{}", answer.text());
    assert!(!tells_k5(&answer), "{}", answer.text());
    assert!(!answer.text().contains(&K5[..12]), "nor most of it: {}", answer.text());
}

#[test]
fn cr_04_a_script_does_not_see_the_credential_in_an_answer() {
    let sections = "  [rule.dlp]\n  outbound = []\n  [rule.script]\n  file = \"tell.rhai\"\n\n[[rule]]\nname = \"without";
    let policy = P4.replacen("\n[[rule]]\nname = \"without", sections, 1);
    let script = "fn response(req, resp) { deny(resp.header(\"location\")) }";
    let beside = vec![("tell.rhai", script.to_owned())];
    let bed = Bed::with(&Setup { policy, beside, environment: p4_environment(), ..Setup::default() });
    let mark = bed.mark();
    let told = format!("/redirect?/back/{}/end", *K5);
    assert_eq!(bed.fetch("api.good.test", with_authorization(&told, "Bearer FAKE")).unwrap().status, 403);
    let id = bed.since(mark, 1).decided("allow", &[]).text("id").to_owned();
    let end = bed.gate.wait_for_record("its end", |r| r.is_end() && r.text("id") == id);
    assert!(end.text("detail").contains("/back/"), "what the script told: {}", end.0);
    assert!(!end.mentions(&K5), "{}", end.0);
}

#[test]
fn cr_08_a_redirect_is_the_clients_to_follow() {
    let bed = p4();
    let mark = bed.mark();
    let answer = bed.fetch("api.good.test", get("api.good.test", "/redirect?https://evil.test/")).unwrap();
    assert_eq!((answer.status, answer.header("location")), (302, Some("https://evil.test/")));
    bed.since(mark, 1).no_packet_to(EVIL);
}

#[test]
fn cr_10_clear_text_to_the_host_of_a_credential_is_denied() {
    let bed = p4();
    let mark = bed.mark();
    assert_eq!(bed.fetch_plain(get("api.good.test", "/")).unwrap().status, 403);
    let reasons = ["secret_plaintext", "scheme_denied", "port_denied"];
    bed.since(mark, 1).nothing_upstream().decided("deny", &reasons);
    assert_eq!(
        bed.fetch("api.good.test", get("api.good.test", "/")).unwrap().status,
        200,
        "over TLS it is allowed"
    );
}

#[test]
fn cr_12_a_host_that_cannot_prove_its_name_never_sees_the_credential() {
    let bed = p4();
    bed.world.dns.set("api.good.test", &[EVIL]);
    let mark = bed.mark();
    assert_eq!(bed.fetch("api.good.test", get("api.good.test", "/")).map(|answer| answer.status), Some(502));
    let taps = bed.since(mark, 1);
    assert_eq!(taps.upstream_text(), "", "not one byte of HTTP");
    bed.gate.wait_for_record("upstream_cert", |record| record.mentions("upstream_cert"));
}

#[test]
fn cr_13_a_placeholder_for_another_host_is_denied() {
    let bed = p4();
    let mark = bed.mark();
    let request = "GET / HTTP/1.1\r\nHost: files.good.test\r\nX-Api-Key: placeholder-of-the-agent\r\n\r\n";
    let status = bed.https(PUB2, "files.good.test").unwrap().ask(request).map(|answer| answer.status);
    assert_eq!(status, Some(403));
    bed.since(mark, 1).nothing_upstream().decided("deny", &["secret_wrong_host", "dlp"]);
}

#[test]
fn cr_swap_a_placeholder_becomes_the_secret_where_the_rule_says() {
    let policy = P4.replace(
        "inject = [{ header = \"authorization\", value = \"Bearer {secret.k5}\" }]",
        "swap = [\"k5\"]",
    );
    let policy = policy.replace("strip = [\"authorization\", \"cookie\"]", "");
    let bed = Bed::with(&Setup { policy, environment: p4_environment(), ..Setup::default() });
    let answer =
        bed.fetch("api.good.test", with_authorization("/", "Bearer placeholder-of-the-agent")).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(bed.world.origin.requests()[0].header("authorization"), [format!("Bearer {}", *K5)]);
}

#[test]
fn cr_16_no_log_at_any_level_tells_a_secret() {
    let mut environment = p4_environment();
    environment.push(("RUST_LOG", "trace".to_owned()));
    let bed = Bed::with(&Setup { policy: P4.into(), environment, ..Setup::default() });
    let token = "client-token-8h2k4";
    for round in 0..20 {
        let headers =
            format!("Authorization: Bearer {token}\r\nCookie: session={token}\r\nX-Round: {round}\r\n");
        for path in ["/echo", "/status/500", "/?token=client-token-8h2k4&access_token=client-token-8h2k4"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: api.good.test\r\n{headers}\r\n");
            bed.fetch("api.good.test", request).unwrap();
        }
        bed.fetch("api.good.test", format!("GET / HTTP/1.1\r\nHost: evil.test\r\n{headers}\r\n")).unwrap();
        bed.fetch_plain(format!("GET / HTTP/1.1\r\nHost: api.good.test\r\n{headers}\r\n")).unwrap();
    }
    let said = bed.gate.stderr();
    let records = std::fs::read_to_string(bed.gate.dir.join("audit.jsonl")).unwrap();
    let metrics =
        Wire::plain(bed.world.gate.connect("127.0.0.1:9180".parse().unwrap(), wire::PATIENCE).unwrap())
            .ask("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .unwrap()
            .text();
    let environ = std::fs::read(format!("/proc/{}/environ", bed.gate.pid())).unwrap_or_default();
    let places = [
        ("stderr", said),
        ("records", records),
        ("metrics", metrics),
        ("environ", String::from_utf8_lossy(&environ).into_owned()),
    ];
    for (place, text) in places {
        for (what, secret) in [("K5", K5.as_str()), ("the client's token", token)] {
            assert!(!text.contains(secret), "{place} tells {what}");
        }
    }
}

#[test]
fn cr_14_nothing_is_sent_while_a_placeholder_is_left_behind_a_swapped_one() {
    let policy = P4
        .replace("strip = [", "swap = [\"k5\"]\n  strip = [")
        .replace("\"authorization\", \"cookie\"", "\"cookie\"");
    let policy =
        policy.replace("  inject = [{ header = \"authorization\", value = \"Bearer {secret.k5}\" }]\n", "");
    let bed = Bed::with(&Setup { policy, environment: p4_environment(), ..Setup::default() });
    let twice =
        "Basic cGxhY2Vob2xkZXItb2YtdGhlLWFnZW50OnBsYWNlaG9sZGVyLW9mLXRoZS1hZ2VudA== placeholder-of-the-agent";
    let mark = bed.mark();
    assert_eq!(bed.fetch("api.good.test", with_authorization("/", twice)).unwrap().status, 403);
    assert!(!bed.since(mark, 1).upstream_text().contains("placeholder-of-the-agent"));
    let once =
        bed.fetch("api.good.test", with_authorization("/", "Bearer placeholder-of-the-agent")).unwrap();
    assert_eq!(once.status, 200, "one alone is swapped");
    assert_eq!(
        bed.world.origin.requests().last().unwrap().header("authorization"),
        [format!("Bearer {}", *K5)]
    );
}

#[test]
fn cl_07_a_stream_that_ends_like_the_beginning_of_a_credential_does_not_hang_and_tells_nothing() {
    let bed = p4();
    let (beginning, rest) = K5.split_at(5);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/sse"));
    assert_eq!(wire.head().unwrap().status, 200);
    bed.world.origin.pages.event(beginning);
    let seen = wire.until(format!("data: {beginning}").as_bytes());
    assert!(seen.is_some(), "five bytes of it are not kept back for ever");
    bed.world.origin.pages.event(&format!("{beginning}{rest}"));
    bed.world.origin.pages.end_events();
    let rest = wire.until(b"0\r\n\r\n").expect("the stream ends as a stream");
    assert!(!String::from_utf8_lossy(&rest).contains(&*K5), "the whole of it is masked");
}
