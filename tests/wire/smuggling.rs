//! Gauntlet SM-43 and SM-30: the published ways to make two parsers disagree, in our own words. Each payload hides a
//! second request; it is refused, or becomes exactly one canonical request upstream, and the next one is served.

use crate::support::*;

/// What the second parser is to take for a request of its own.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n";

/// Fields that some parsers take for a chunked coding and others do not.
const CODINGS: &[&str] = &[
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: chunke",
    "Transfer-Encoding: CHUNKED",
    "tRANSFER-eNCODING: chunked",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding:  chunked  ",
    "Transfer-Encoding: chunked\t",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\x0b",
    "Transfer-Encoding: \x0cchunked",
    "Transfer-Encoding: \0chunked",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: \u{a0}chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "Transfer-Encoding\x0b: chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "X: x\nTransfer-Encoding: chunked",
    "X: x\rTransfer-Encoding: chunked",
    "X: x\r\n\rTransfer-Encoding: chunked",
    "Transfer-Encoding\r\n: chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding:\n\tchunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding: [chunked]",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: , ,chunked",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, cow",
    "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "Transfer-Encoding: chunked\r\nTransfer-encoding:",
    "Transfer_Encoding: chunked",
    "Transfer Encoding: chunked",
    "Transfer-Encoding; chunked",
    "TE: chunked",
    "Content-Encoding: chunked",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "Connection: content-length",
];

/// Lengths with more than one reading.
const LENGTHS: &[&str] = &[
    "Content-Length: +{n}",
    "Content-Length: -{n}",
    "Content-Length: 0{n}",
    "Content-Length: 0x{n}",
    "Content-Length: {n}.0",
    "Content-Length: {n}e0",
    "Content-Length: {n} {n}",
    "Content-Length: {n}, {n}",
    "Content-Length: {n}, 0",
    "Content-Length: 0\r\nContent-Length: {n}",
    "Content-Length: {n}\r\nContent-Length: 0",
    "Content-Length: {n}\r\ncontent-length: {n}",
    "Content-Length: {n}\0",
    "Content-Length: \x0b{n}",
    "Content-Length: {n};",
    "Content-Length: \"{n}\"",
    "Content-Length:",
    "Content-Length: ",
    "Content-Length: {n}_",
    "Content-Length : {n}",
    "Content-Length\r\n: {n}",
    "Content-Length:\r\n {n}",
    "Content_Length: {n}",
    "X: x\nContent-Length: {n}",
    "X: x\rContent-Length: {n}",
    "Connection: Content-Length\r\nContent-Length: {n}",
    "Content-Length: 18446744073709551616",
    "Content-Length: 99999999999999999999999",
];

/// Bodies in chunks whose ends parsers see in different places.
const CHUNKS: &[&str] = &[
    "0\n\n",
    "0\r\n\n",
    "0\n\r\n",
    "00\r\n\r\n",
    "0 \r\n\r\n",
    "0;\r\n\r\n",
    "0;a=\"\r\n\"\r\n\r\n",
    "0;a\nb\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "0\r\nContent-Length: 5\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "0\r\n X: y\r\n\r\n",
    "0x0\r\n\r\n",
    "-0\r\n\r\n",
    "+0\r\n\r\n",
    "\r\n0\r\n\r\n",
    "g\r\n\r\n",
    "10000000000000000\r\n\r\n",
    "2\r\nhi0\r\n\r\n",
    "2\r\nhixx0\r\n\r\n",
    "2\nhi\n0\n\n",
];

fn message(fields: &str, body: &str) -> String {
    format!("POST /front HTTP/1.1\r\nHost: plain.good.test\r\n{fields}\r\n\r\n{body}")
}

fn payloads() -> Vec<String> {
    let hidden = HIDDEN.len();
    let behind = format!("0\r\n\r\n{HIDDEN}");
    let inside = format!("{hidden:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let mut all = Vec::new();
    for coding in CODINGS {
        // Who believes the coding sees the message end before the hidden request, who believes the length behind it.
        all.push(message(&format!("Content-Length: {}\r\n{coding}", behind.len()), &behind));
        all.push(message(&format!("{coding}\r\nContent-Length: 4"), &inside));
        all.push(message(coding, &behind));
    }
    for length in LENGTHS {
        all.push(message(&length.replace("{n}", &hidden.to_string()), HIDDEN));
        let both = format!("{}\r\nTransfer-Encoding: chunked", length.replace("{n}", "5"));
        all.push(message(&both, &behind));
    }
    all.extend(
        CHUNKS.iter().map(|chunks| message("Transfer-Encoding: chunked", &format!("{chunks}{HIDDEN}"))),
    );
    all
}

#[test]
fn sm_43_no_payload_becomes_two_requests_or_another_than_was_judged() {
    let bed = Bed::new(P1);
    let payloads = payloads();
    assert!(payloads.len() >= 70);
    let mut passed = 0;
    for payload in &payloads {
        let before = bed.world.origin.requests().len();
        let mut wire = bed.tcp(PUB1, 80);
        wire.send(payload).end_of_sending();
        let (said, _) = wire.rest();
        let said = String::from_utf8_lossy(&said).into_owned();
        let new = bed.world.origin.requests().split_off(before);
        assert!(new.len() <= 1, "{payload:?} became {new:?}");
        for request in &new {
            let sent = (&*request.authority, &*request.method, &*request.target);
            assert_eq!(sent, ("plain.good.test", "POST", "/front"), "{payload:?}");
        }
        passed += usize::from(said.starts_with("HTTP/1.1 200 "));
        let refused = said.is_empty()
            || ["400", "415", "431", "501"]
                .iter()
                .any(|status| said.starts_with(&format!("HTTP/1.1 {status} ")));
        assert!(refused || new.len() == 1, "{payload:?}: {said}");
        let next = bed.fetch_plain(get("plain.good.test", "/next")).map(|answer| answer.status);
        assert_eq!(next, Some(200), "after {payload:?}");
        assert_eq!(bed.world.origin.requests().last().unwrap().target, "/next", "after {payload:?}");
    }
    let twin = format!(
        "POST /front HTTP/1.1\r\nHost: plain.good.test\r\nContent-Length: {}\r\n\r\n{HIDDEN}",
        HIDDEN.len()
    );
    assert_eq!(bed.fetch_plain(twin).unwrap().status, 200, "as an ordinary body it is one");
    eprintln!("{} payloads, of which {passed} became one canonical request", payloads.len());
    assert!(!bed.world.origin.requests().iter().any(|request| request.target == "/smuggled"));
    assert!(bed.world.dns.queries().iter().all(|query| !query.name.contains("evil")));
}

#[test]
fn sm_30_an_expectation_is_the_gates_to_meet_or_to_refuse() {
    let bed = Bed::new(P1);
    for expectation in [
        "Expect: 200-foo",
        "Expect: y 100-continue",
        "Expect: 100-continue\r\nExpect: 100-continue",
        "Expect:",
    ] {
        let mark = bed.mark();
        let request = post("plain.good.test", "/", &format!("{expectation}\r\n"), "hello");
        let status = bed.fetch_plain(request).map(|answer| answer.status);
        assert!(matches!(status, Some(400 | 417)), "{expectation}: {status:?}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
    }
    let mut wire = bed.tcp(PUB1, 80);
    wire.send("POST /upload HTTP/1.1\r\nHost: plain.good.test\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(wire.head().unwrap().status, 100, "the gate says go on");
    let answer = wire.ask("5\r\nhello\r\n0\r\n\r\n").unwrap();
    assert!(answer.text().starts_with("5 "), "{answer:?}");
    assert!(bed.world.origin.requests().iter().all(|request| request.header("expect").is_empty()));
}
