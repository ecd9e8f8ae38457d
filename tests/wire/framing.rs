//! Gauntlet SM: an ambiguous message is refused, or becomes exactly one canonical request upstream; nothing between.

use crate::support::origin::Conversation;
use crate::support::*;

/// What may become of a payload.
enum Fate {
    /// One of these statuses, closed, nothing upstream, one record.
    Bad(&'static [u16]),
    /// As `Bad(&[400])`, or one canonical request upstream and its 200.
    BadOrOne,
    /// The body is at fault, behind a good head: whatever the client sees, upstream never gets a complete message.
    NeverComplete,
}

use Fate::{Bad, BadOrOne, NeverComplete};

const BAD: Fate = Bad(&[400]);

struct Payload {
    id: &'static str,
    /// `{host}` stands for the allowed name; every line ends as it is written.
    bytes: &'static str,
    fate: Fate,
}

const fn payload(id: &'static str, bytes: &'static str, fate: Fate) -> Payload {
    Payload { id, bytes, fate }
}

const PAYLOADS: &[Payload] = &[
    payload(
        "sm_01 CL.TE",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 43\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_02 TE.CL",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n\
         1e\r\nGET /x HTTP/1.1\r\nHost: evil.test\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_03 chunked, then identity",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_03 a list that ends in identity",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_03 identity and a length",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi",
        BAD,
    ),
    payload(
        "sm_04 chunked twice",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_04 chunked twice in one field",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_06 gzip, chunked",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Bad(&[400, 501]),
    ),
    payload(
        "sm_06 chunked, gzip",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Bad(&[400, 501]),
    ),
    payload(
        "sm_06 deflate, chunked",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: deflate, chunked\r\n\r\n0\r\n\r\n",
        Bad(&[400, 501]),
    ),
    payload(
        "sm_08 chunks in 1.0",
        "POST / HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_08 chunks and a length in 1.0",
        "POST / HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\
         Content-Length: 5\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_09 a folded coding",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_09 a folded length",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length:\r\n 2\r\n\r\nhi",
        BAD,
    ),
    payload("sm_09 a folded host", "GET / HTTP/1.1\r\nHost:\r\n {host}\r\n\r\n", BAD),
    payload("sm_09 a fold before any field", "GET / HTTP/1.1\r\n Host: {host}\r\n\r\n", BAD),
    payload(
        "sm_10 a space before the colon of a length",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length : 2\r\n\r\nhi",
        BAD,
    ),
    payload(
        "sm_10 a space before the colon of a coding",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_10 a space before the colon of a host",
        "GET / HTTP/1.1\r\nHost: {host}\r\nHost : evil.test\r\n\r\n",
        BAD,
    ),
    payload(
        "sm_11 two lengths",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhi",
        BAD,
    ),
    payload(
        "sm_11 one length twice",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        BadOrOne,
    ),
    payload(
        "sm_13 a length that looks octal",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 010\r\n\r\n0123456789",
        BadOrOne,
    ),
    payload(
        "sm_14 a length beyond 64 bits",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 18446744073709551621\r\n\r\nhi",
        Bad(&[400, 413]),
    ),
    payload(
        "sm_14 the largest length",
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 18446744073709551615\r\n\r\nhi",
        Bad(&[400, 413]),
    ),
    payload(
        "sm_15 0x5",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        NeverComplete,
    ),
    payload(
        "sm_15 +5",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        NeverComplete,
    ),
    payload(
        "sm_15 -5",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        NeverComplete,
    ),
    payload(
        "sm_15 0_5",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n",
        NeverComplete,
    ),
    payload(
        "sm_15 a space",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
        NeverComplete,
    ),
    payload(
        "sm_15 nothing",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
        NeverComplete,
    ),
    payload(
        "sm_15 seventeen digits",
        "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
        NeverComplete,
    ),
    payload("sm_21 bare line feeds", "GET / HTTP/1.1\nHost: {host}\n\n", BadOrOne),
    payload(
        "sm_21 one bare line feed",
        "GET / HTTP/1.1\r\nHost: {host}\r\nX-One: 1\nX-Two: 2\r\n\r\n",
        BadOrOne,
    ),
    payload("sm_22 a bare CR in a value", "GET / HTTP/1.1\r\nHost: {host}\r\nX-One: a\rb\r\n\r\n", BAD),
    payload("sm_22 a bare CR in a name", "GET / HTTP/1.1\r\nHost: {host}\r\nX-\rOne: a\r\n\r\n", BAD),
    payload("sm_22 CR LF CR and more", "GET / HTTP/1.1\r\nHost: {host}\r\n\rX: a\r\n\r\n", BAD),
    payload("sm_22 NUL in a name", "GET / HTTP/1.1\r\nHost: {host}\r\nX\0: a\r\n\r\n", BAD),
    payload("sm_22 NUL in a value", "GET / HTTP/1.1\r\nHost: {host}\r\nX: a\0b\r\n\r\n", BAD),
    payload("sm_22 NUL in the target", "GET /\0 HTTP/1.1\r\nHost: {host}\r\n\r\n", BAD),
    payload("sm_22 NUL in the host", "GET / HTTP/1.1\r\nHost: {host}\0.evil.test\r\n\r\n", BAD),
];

fn run(bed: &Bed, secure: bool, payload: &Payload) {
    let Payload { id, bytes, fate } = payload;
    let host = if secure { "api.good.test" } else { "plain.good.test" };
    let mut wire = if secure { bed.https(PUB1, host).unwrap() } else { bed.tcp(PUB1, 80) };
    let mark = bed.mark();
    let status = wire.ask(bytes.replace("{host}", host)).map(|answer| answer.status);
    match (fate, status) {
        (Bad(statuses), Some(status)) if statuses.contains(&status) => refused(bed, mark, &mut wire, id),
        (BadOrOne, Some(400)) => refused(bed, mark, &mut wire, id),
        (BadOrOne, Some(200)) => {
            let taps = bed.since(mark, 1);
            assert_eq!(taps.requests.len(), 1, "{id}: {:?}", taps.upstream);
            let text = taps.upstream_text();
            let head = text.split("\r\n\r\n").next().unwrap();
            assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "{id}: {text:?}");
            let lengths = taps.requests[0].header("content-length");
            assert!(matches!(&lengths[..], [] | [_]), "{id}: {text:?}");
            assert!(!lengths.iter().any(|length| length.starts_with('0') && length != "0"), "{id}: {text:?}");
        }
        (NeverComplete, _) => {
            let (_, end) = wire.rest();
            assert!(matches!(end, End::Closed | End::Reset), "{id}: {end:?}");
            let taps = bed.since(mark, 1);
            assert!(taps.requests.iter().all(|request| request.body.lock().unwrap().is_none()), "{id}");
            assert!(!taps.upstream_text().ends_with("0\r\n\r\n"), "{id}: {:?}", taps.upstream);
        }
        (_, status) => panic!("{id}, secure {secure}: {status:?}"),
    }
}

fn refused(bed: &Bed, mark: bed::Mark, wire: &mut Wire, id: &str) {
    let (more, end) = wire.rest();
    assert!(more.is_empty(), "{id}: a second answer {:?}", String::from_utf8_lossy(&more));
    assert!(matches!(end, End::Closed | End::Reset), "{id}: {end:?}");
    let reasons = ["bad_request", "bad_framing", "too_large", "authority_mismatch"];
    bed.since(mark, 1).nothing_upstream().decided("deny", &reasons);
}

/// Every payload of these ids, in clear text and inside TLS, each followed by a control request.
fn all(ids: &[&str]) {
    let bed = Bed::new(P1);
    let chosen: Vec<&Payload> =
        PAYLOADS.iter().filter(|payload| ids.iter().any(|id| payload.id.starts_with(id))).collect();
    assert!(chosen.len() >= ids.len());
    for payload in chosen {
        for secure in [false, true] {
            run(&bed, secure, payload);
        }
        bed.control();
    }
}

#[test]
fn sm_01_02_03_04_06_08_two_framings_are_none() {
    all(&["sm_01", "sm_02", "sm_03", "sm_04", "sm_06", "sm_08"]);
}

#[test]
fn sm_09_10_11_13_14_a_length_or_coding_is_written_in_one_way() {
    all(&["sm_09", "sm_10", "sm_11", "sm_13", "sm_14"]);
}

#[test]
fn sm_15_a_chunk_size_is_hexadecimal_digits() {
    all(&["sm_15"]);
}

#[test]
fn sm_21_22_lines_end_in_one_way() {
    all(&["sm_21", "sm_22"]);
}

#[test]
fn sm_26_pipelined_requests_are_answered_in_order_each_by_its_own_verdict() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let mut wire = bed.tcp(PUB1, 80);
    let three = [get("plain.good.test", "/1"), get("evil.test", "/2"), get("plain.good.test", "/3")].concat();
    wire.send(three);
    let answers: Vec<u16> =
        std::iter::from_fn(|| wire.response()).take(3).map(|answer| answer.status).collect();
    assert_eq!(answers, [200, 403, 200]);
    let taps = bed.since(mark, 3);
    taps.no_packet_to(EVIL);
    let targets: Vec<&str> = taps.requests.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/1", "/3"]);
}

/// A host that never reads bodies: what follows a head is the next head to it.
fn careless(peer: &mut Conversation) {
    while let Some(head) = peer.head() {
        let path = head.split(' ').nth(1).unwrap_or("").to_owned();
        peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
    }
}

fn script_pub1(bed: &Bed, script: impl Fn(&mut Conversation) + Send + Sync + Clone + 'static) {
    for at in [(PUB1, 443), (PUB1_V6, 443), (PUB1, 80), (PUB1_V6, 80)] {
        bed.world.origin.script(at, script.clone());
    }
}

#[test]
fn sm_28_a_body_that_is_a_request_never_becomes_one() {
    let bed = Bed::new(P1);
    script_pub1(&bed, careless);
    let hidden = get("evil.test", "/hidden");
    for method in ["GET", "DELETE", "POST"] {
        let request = format!(
            "{method} /mine HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: {}\r\n\r\n{hidden}",
            hidden.len()
        );
        let mark = bed.mark();
        let answer = bed.fetch("api.good.test", request).unwrap();
        assert!(matches!((answer.status, answer.text().as_str()), (200, "/mine") | (400, _)), "{answer:?}");
        bed.since(mark, 1);
        for path in ["/next", "/after"] {
            assert_eq!(
                bed.fetch("api.good.test", get("api.good.test", path)).unwrap().text(),
                path,
                "after {method}"
            );
        }
    }
}

#[test]
fn sm_28_a_body_that_is_usually_none_ends_its_upstream_connection() {
    let bed = Bed::new(P1);
    script_pub1(&bed, careless);
    for method in ["GET", "HEAD", "DELETE"] {
        let hidden = get("api.good.test", "/hidden");
        let length = hidden.len();
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        wire.send(format!(
            "{method} / HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: {length}\r\n\r\n{hidden}"
        ));
        assert_eq!(wire.head().unwrap().status, 200);
        assert_eq!(bed.fetch("api.good.test", get("api.good.test", "/next")).unwrap().text(), "/next");
    }
    let connections = bed.world.origin.connections();
    let carried: Vec<String> =
        connections.iter().map(|c| c.text()).filter(|t| t.contains("/hidden")).collect();
    assert_eq!(carried.len(), 3);
    for text in carried {
        assert!(text.contains("connection: close\r\n"), "the origin is told that nothing follows: {text}");
        assert!(text.ends_with(&get("api.good.test", "/hidden")), "and nothing does: {text}");
    }
}

#[test]
fn an_answer_to_head_states_the_length_that_the_origin_states_or_none() {
    let bed = Bed::new(P1);
    script_pub1(&bed, |peer: &mut Conversation| {
        while let Some(head) = peer.head() {
            let coding =
                if head.contains("/known") { "Content-Length: 7" } else { "Transfer-Encoding: chunked" };
            peer.say(format!("HTTP/1.1 200 OK\r\n{coding}\r\n\r\n"));
        }
    });
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    for (path, length) in [("/known", Some("7")), ("/unknown", None), ("/known", Some("7"))] {
        wire.send(format!("HEAD {path} HTTP/1.1\r\nHost: api.good.test\r\n\r\n"));
        assert_eq!(wire.head().unwrap().header("content-length"), length);
    }
}

#[test]
fn sm_38_the_trailers_of_a_request_end_at_the_gate() {
    let bed = Bed::new(P1);
    let upload = |trailer: &str| {
        format!(
            "POST /upload HTTP/1.1\r\nHost: api.good.test\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"
        )
    };
    for trailer in ["X-Forwarded-Host: evil.test", "Authorization: Bearer x", "Content-Length: 5"] {
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        let answer = wire.ask(upload(trailer)).unwrap();
        assert!(answer.text().starts_with("5 "), "{trailer}: {answer:?}");
    }
    for request in bed.world.origin.requests() {
        assert!(request.body.lock().unwrap().as_ref().is_none_or(|(_, _, trailers)| trailers.is_empty()));
    }
    let leak = upload(&format!("X-Note: {}", *K2));
    assert_eq!(bed.fetch("api.good.test", leak).map(|answer| answer.status), Some(403));
}

#[test]
fn sm_31_a_response_without_one_meaning_becomes_one_502() {
    const ANSWERS: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Bare: a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Null: a\0b\r\nContent-Length: 0\r\n\r\n",
        "just a body, as HTTP/0.9 would have it\r\n\r\n",
        "HTTP/1.1 99 Too Low\r\nContent-Length: 0\r\n\r\n",
    ];
    let bed = Bed::new(P1);
    script_pub1(&bed, |peer: &mut Conversation| {
        while let Some(head) = peer.head() {
            let number = head.split([' ', '/']).nth(2).and_then(|number| number.parse::<usize>().ok());
            peer.say(number.map_or("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", |number| ANSWERS[number]));
        }
    });
    for (number, hostile) in ANSWERS.iter().enumerate() {
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        let request = format!("GET /{number} HTTP/1.1\r\nHost: api.good.test\r\nConnection: close\r\n\r\n");
        let status = wire.ask(request).map(|answer| answer.status);
        assert_eq!(status, Some(502), "{hostile:?}");
        assert!(wire.rest().0.is_empty(), "one answer, not two: {hostile:?}");
        bed.control();
    }
}

#[test]
fn sm_33_a_response_behind_the_response_reaches_nobody() {
    let bed = Bed::new(P1);
    script_pub1(&bed, |peer: &mut Conversation| {
        while let Some(head) = peer.head() {
            let path = head.split(' ').nth(1).unwrap_or("").to_owned();
            let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
            let behind = if path == "/poison" { poison } else { "" };
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}{behind}", path.len()));
        }
    });
    for round in 0..5 {
        assert_eq!(bed.fetch("api.good.test", get("api.good.test", "/poison")).unwrap().text(), "/poison");
        let path = format!("/mine/{round}");
        assert_eq!(bed.fetch("api.good.test", get("api.good.test", &path)).unwrap().text(), path);
    }
}

#[test]
fn sm_42_what_is_meant_for_the_proxy_ends_at_the_proxy() {
    let bed = Bed::new(P1);
    let hop = "Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
               TE: gzip\r\nConnection: close, keep-alive, x-mine\r\nX-Mine: 1\r\nX-Kept: 1\r\n\r\n";
    let absolute = format!("GET http://plain.good.test/ HTTP/1.1\r\nHost: plain.good.test\r\n{hop}");
    assert_eq!(bed.explicit().ask(absolute).unwrap().status, 200);
    let mut inside = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    assert_eq!(inside.ask(format!("GET / HTTP/1.1\r\nHost: api.good.test\r\n{hop}")).unwrap().status, 200);
    let requests = bed.world.origin.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        for name in ["proxy-authorization", "proxy-connection", "keep-alive", "te", "x-mine"] {
            assert!(request.header(name).is_empty(), "{name} reached the origin");
        }
        assert_eq!(request.header("x-kept"), ["1"], "other fields do");
    }
}
