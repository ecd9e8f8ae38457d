//! Gauntlet PM-14, SM-13, SM-36, SM-40 and HC-44 over HTTP/2: a head has one reading or none, and what it becomes on the
//! other side, in either version, is that reading.

use crate::support::frames::*;
use crate::support::gate::wait_until;
use crate::support::h2::H2;
use crate::support::origin::Conversation;
use crate::support::*;

use Outcome::{Reset, Status};

/// What the world answers to a head with these raw fields, and no body.
fn outcome(bed: &Bed, fields: Vec<u8>) -> Outcome {
    let mut raw = Raw::connect(bed);
    raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, fields));
    raw.outcome(1)
}

/// A stream error, an error of the whole connection, or a 400 (or 431) of our own.
fn is_bad(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::GoAway(_) | Reset(_) | Status(400 | 431))
}

#[test]
fn pm_14_a_fragment_is_refused_over_h2_in_every_form_of_a_path() {
    let bed = Bed::new(P3);
    for path in ["/public/a#/../../admin", "/public/a#", "/admin#/public/"] {
        for first in [0x00, 0x10, 0x40] {
            let mark = bed.mark();
            let rest = block(&request("GET", "", &[])[..3]);
            let by_text = [&rest[..], &literal(first, ":path", path)].concat();
            assert_eq!(outcome(&bed, by_text), Status(400), "{path} {first:x}");
            let taps = bed.since(mark, 1);
            assert!(taps.nothing_upstream().decided("deny", &["bad_request"]).mentions("fragment"));
        }
    }
    // "/a#b" in Huffman's code, kept in the table, and then by its place there; the connection goes on.
    let mut raw = Raw::connect(&bed);
    let rest = block(&request("GET", "", &[])[..3]);
    let coded = [&rest[..], &[0x44, 0x84, 0x60, 0x7f, 0xf5, 0x1f]].concat();
    raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, coded));
    assert_eq!(raw.outcome(1), Status(400));
    raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, [&rest[..], &[0x80 | 62]].concat()));
    assert_eq!(raw.outcome(3), Status(400));
    let good = request("GET", "/public/a", &[("x-path", "/public/a#b"), ("referer", "https://a.test/#b")]);
    raw.send(head(5, END_STREAM, &good));
    assert_eq!(raw.outcome(5), Status(200), "the same without, and a fragment elsewhere");
}

#[test]
fn hc_44_a_scheme_is_that_of_the_connection() {
    let bed = Bed::new(P4.replace("\"OUTGATE_TEST_K5\"", "\"PATH\"").as_str());
    for scheme in ["http", "ftp", "", "HTTPS ", "https://evil.test/"] {
        let mark = bed.mark();
        let mut fields = request("GET", "/", &[]);
        fields[1].1 = scheme;
        let found = outcome(&bed, block(&fields));
        assert!(is_bad(found), "{scheme:?}: {found:?}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
    }
    assert_eq!(outcome(&bed, block(&request("GET", "/", &[]))), Status(200));
}

#[test]
fn sm_40_a_head_has_the_limits_of_http_1() {
    let bed = Bed::new(P1);
    let names: Vec<String> = (0..300).map(|n| format!("x-{n}")).collect();
    let many = |count: usize| {
        let more: Vec<(&str, &str)> = names[..count].iter().map(|name| (name.as_str(), "v")).collect();
        block(&request("GET", "/", &more))
    };
    let large = |length: usize| {
        let long = "x".repeat(length);
        frames_of(&block(&request("GET", "/", &[("x-long", &long)])))
    };
    for fields in [many(101), many(300)] {
        let mark = bed.mark();
        assert_eq!(outcome(&bed, fields), Status(431));
        bed.since(mark, 1).nothing_upstream().decided("deny", &["too_large"]);
    }
    let mark = bed.mark();
    let mut raw = Raw::connect(&bed);
    raw.send(large(64 * 1024));
    assert_eq!(raw.outcome(1), Status(431));
    bed.since(mark, 1).nothing_upstream().decided("deny", &["too_large"]);
    let mut huge = Raw::connect(&bed);
    huge.send(large(500 * 1024));
    assert_eq!(huge.goaway(), Ok(ENHANCE_YOUR_CALM));
    assert_eq!(outcome(&bed, many(90)), Status(200));
    let mut honest = Raw::connect(&bed);
    honest.send(large(12 * 1024));
    assert_eq!(honest.outcome(1), Status(200));
}

/// A head in as many frames as it takes.
fn frames_of(block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16 * 1024).enumerate().peekable();
    let mut out = Vec::new();
    while let Some((n, piece)) = pieces.next() {
        let ends = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let (kind, flags) = if n == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        out.extend(frame(kind, flags | ends, 1, piece));
    }
    out
}

/// Puts a host that speaks HTTP/1 only behind the gate; it answers each request that has come whole.
fn speak_http_1(bed: &Bed) {
    bed.world.origin.script((PUB1, 443), |peer: &mut Conversation| {
        while let Some(head) = peer.head() {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let body = if head.contains("transfer-encoding: chunked") {
                peer.until(b"0\r\n\r\n")
            } else {
                peer.exactly(length.map_or(0, |length| length.parse().unwrap()))
            };
            if body.is_none() {
                return;
            }
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
}

fn upstream(bed: &Bed) -> String {
    bed.world.origin.connections().iter().map(|seen| seen.text()).collect()
}

#[test]
fn sm_13_a_stated_length_goes_on_in_its_canonical_form() {
    for http_1 in [true, false] {
        let bed = Bed::new(P1);
        if http_1 {
            speak_http_1(&bed);
        }
        for length in ["5", "005"] {
            let mut raw = Raw::connect(&bed);
            raw.send(head(1, 0, &request("POST", "/upload", &[("content-length", length)])));
            raw.send(frame(DATA, END_STREAM, 1, b"hello"));
            assert_eq!(raw.outcome(1), Status(200), "{length}");
        }
        if http_1 {
            assert_eq!(upstream(&bed).matches("\r\ncontent-length: 5\r\n").count(), 2, "{}", upstream(&bed));
        } else {
            let requests = bed.world.origin.requests();
            let lengths: Vec<_> = requests.iter().map(|request| request.header("content-length")).collect();
            assert_eq!(lengths, [["5"], ["5"]]);
        }
        let two = [("content-length", "5"), ("content-length", "5")];
        let differ = [("content-length", "5"), ("content-length", "6")];
        for fields in [&[("content-length", "+5")][..], &[("content-length", "5, 5")], &two, &differ] {
            let mark = bed.mark();
            let mut raw = Raw::connect(&bed);
            raw.send(head(1, 0, &request("POST", "/upload", fields)));
            raw.send(frame(DATA, END_STREAM, 1, b"hello"));
            assert!(is_bad(raw.outcome(1)), "{fields:?}");
            bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request", "bad_framing"]);
        }
    }
}

#[test]
fn sm_36_no_field_of_an_h2_head_becomes_more_than_itself_in_http_1() {
    let bed = Bed::new(P1);
    speak_http_1(&bed);
    let smuggled = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: evil.test\r\n\r\n";
    let mut bad: Vec<Vec<(&str, &str)>> = Vec::new();
    for value in [smuggled, "a\rb", "a\nb", "a\0b"] {
        bad.push(request("GET", "/", &[("x-a", value)]));
        bad.push(request("GET", "/", &[(value, "x")]));
        bad.push(request(value, "/", &[]));
        bad.push(request("GET", value, &[]));
        let mut authority = request("GET", "/", &[]);
        authority[2].1 = value;
        bad.push(authority);
    }
    bad.push(request("GET", "/ HTTP/1.1\r\nhost: evil.test\r\n", &[]));
    bad.push(request("GET / HTTP/1.1", "/", &[]));
    for (name, value) in [
        ("X-Upper", "a"),
        ("", "a"),
        ("a b", "c"),
        ("a:b", "c"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        (":path", "/second"),
        (":status", "200"),
        (":other", "x"),
    ] {
        bad.push(request("GET", "/", &[(name, value)]));
    }
    // No method, no path, and a pseudo field behind an ordinary one.
    bad.push(request("GET", "/", &[])[1..].to_vec());
    bad.push(request("GET", "/", &[])[..3].to_vec());
    bad.push([("x-a", "b")].into_iter().chain(request("GET", "/", &[])).collect());
    for fields in bad {
        let mark = bed.mark();
        let found = outcome(&bed, block(&fields));
        assert!(is_bad(found), "{fields:?}: {found:?}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request", "authority_mismatch"]);
    }
    assert_eq!(
        outcome(&bed, block(&request("GET", "/whole", &[("x-a", "b\tc d"), ("te", "trailers")]))),
        Status(200)
    );
    let seen = upstream(&bed);
    assert!(seen.starts_with("GET /whole HTTP/1.1\r\n") && !seen.contains("smuggled"), "{seen}");
}

#[test]
fn sm_36_data_that_disagrees_with_its_length_is_never_a_whole_message() {
    for http_1 in [true, false] {
        let bed = Bed::new(P1);
        if http_1 {
            speak_http_1(&bed);
        }
        for (length, data) in
            [("5", &b"hel"[..]), ("5", b"hello GET /smuggled HTTP/1.1\r\n\r\n"), ("0", b"x")]
        {
            let mut raw = Raw::connect(&bed);
            // In one record, so that no head is answered before its data has come.
            let head = head(1, 0, &request("POST", "/upload", &[("content-length", length)]));
            raw.send([head, frame(DATA, END_STREAM, 1, data)].concat());
            assert!(is_bad(raw.outcome(1)), "{length} for {data:?}");
        }
        bed.control();
        assert!(!upstream(&bed).contains("smuggled"));
        let bodies = bed.world.origin.requests();
        let whole = bodies.iter().filter(|request| request.target == "/upload");
        assert_eq!(whole.filter(|request| request.body.lock().unwrap().is_some()).count(), 0);
    }
}

#[test]
fn sm_36_a_body_without_a_length_is_chunked_towards_http_1_and_its_end_is_its_end() {
    let bed = Bed::new(P1);
    bed.world.origin.script((PUB1, 443), |peer: &mut Conversation| {
        while let Some(head) = peer.head() {
            if head.starts_with("POST ") {
                return drop(peer.rest());
            }
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mut raw = Raw::connect(&bed);
    raw.send(head(1, 0, &request("POST", "/upload", &[])));
    raw.send(frame(DATA, 0, 1, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: evil.test\r\n\r\n"));
    let cut = || upstream(&bed).contains("/smuggled").then_some(());
    assert!(wait_until(std::time::Duration::from_secs(10), cut).is_some());
    assert!(upstream(&bed).contains("\r\ntransfer-encoding: chunked\r\n"));
    raw.send(reset(1, CANCEL));
    let ended = |record: &Record| record.is_end() && record.text("outcome") != "done";
    bed.gate.wait_for_record("its end", ended);
    let again = H2::connect(&bed, PUB1, "api.good.test");
    let (answer, _) = again.get("https://api.good.test/next").unwrap();
    assert_eq!(answer.status(), 200);
    let connections = bed.world.origin.connections();
    let next: Vec<String> =
        connections.iter().map(|seen| seen.text()).filter(|text| text.contains("/next")).collect();
    assert!(
        next.len() == 1 && next[0].starts_with("GET /next HTTP/1.1\r\n"),
        "on a connection of its own: {next:?}"
    );
}

#[test]
fn sm_36_a_request_of_http_1_becomes_one_stream_of_an_h2_only_host() {
    let bed = Bed::new(P1);
    bed.world.origin.speak_only_h2();
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    let answer = wire.ask(
        "POST /upload HTTP/1.1\r\nHost: api.good.test\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: 9\r\nTE: trailers, gzip\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\n\r\n",
    );
    assert_eq!(answer.map(|answer| answer.status), Some(200));
    let answer = wire.ask(post("api.good.test", "/upload", "", "hello"));
    assert_eq!(answer.map(|answer| answer.status), Some(200), "on the same connection");
    let answer = wire.ask(get("api.good.test", "/trailers")).unwrap();
    assert!(answer.complete && answer.body == b"body before trailers\n", "{answer:?}");
    let requests = bed.world.origin.requests();
    assert_eq!(requests.len(), 3);
    for request in requests.iter() {
        assert_eq!(request.version, ::http::Version::HTTP_2);
        assert_eq!(request.authority, "api.good.test");
        for gone in ["host", "connection", "x-hop", "keep-alive", "transfer-encoding"] {
            assert!(request.header(gone).is_empty(), "{gone}: {:?}", request.headers);
        }
    }
    for upload in &requests[..2] {
        assert_eq!(upload.body.lock().unwrap().as_ref().map(|body| body.0), Some(5));
    }
    assert_eq!(requests[0].header("te"), ["trailers"]);
    assert_eq!(requests[1].header("content-length"), ["5"]);
}

#[test]
fn pm_01_to_23_a_target_has_the_same_verdict_over_h2_as_over_http_1() {
    let bed = Bed::new(P3);
    let mut raw = Raw::connect(&bed);
    let targets = [
        ("GET", "/public/a"),
        ("HEAD", "/public"),
        ("GET", "/public/../admin"),
        ("GET", "/public/%2e%2e/admin"),
        ("GET", "/public/..%2fadmin"),
        ("GET", "/public%2fsecret%2fx"),
        ("GET", "/public/..\\admin"),
        ("GET", "/public%5c..%5cadmin"),
        ("GET", "\\admin"),
        ("GET", "//admin"),
        ("GET", "/public//secret/x"),
        ("GET", "/PUBLIC/x"),
        ("GET", "/public/%zz"),
        ("GET", "/public/%00"),
        ("GET", "/public/%0d%0aHost:%20evil.test"),
        ("GET", "/publicX"),
        ("GET", "*"),
        ("OPTIONS", "*"),
        ("GET", "public/a"),
        ("GET", "?x=/public/a"),
        ("GET", "https://api.good.test/public/a"),
        ("GET", "https://evil.test/public/a"),
        ("POST", "/public/x"),
        ("get", "/public/x"),
        ("G*T", "/public/x"),
        ("TRACE", "/public/x"),
        ("PRI", "/public/x"),
    ];
    for (n, (method, target)) in targets.into_iter().enumerate() {
        let stream = n as u32 * 2 + 1;
        let mark = bed.mark();
        let line = format!("{method} {target} HTTP/1.1\r\nHost: api.good.test\r\n\r\n");
        let first = bed.https(PUB1, "api.good.test").unwrap().send(line).head().unwrap().status;
        raw.send(head(stream, END_STREAM, &request(method, target, &[])));
        let second = raw.outcome(stream);
        match first {
            // HTTP/2 has no absolute form; what HTTP/1 takes for one is no path there.
            200 if !target.starts_with('/') => assert!(is_bad(second), "{method} {target}: {second:?}"),
            400 => assert!(is_bad(second) || second == Status(403), "{method} {target}: {second:?}"),
            first => assert_eq!(second, Status(first), "{method} {target}"),
        }
        let taps = bed.since(mark, 2);
        let paths: Vec<_> = taps.requests.iter().map(|request| request.target.clone()).collect();
        assert!(paths.iter().all(|path| path.starts_with("/public")), "{method} {target}: {paths:?}");
    }
}

#[test]
fn hc_13_to_42_an_authority_over_h2_is_the_one_name_of_its_connection() {
    let bed = Bed::new(P1);
    let with = |authority: Option<&str>, host: Option<&str>| {
        let mut fields = request("GET", "/", &[]);
        match authority {
            Some(authority) => fields[2].1 = authority,
            None => drop(fields.remove(2)),
        }
        fields.extend(host.map(|host| ("host", host)));
        outcome(&bed, block(&fields))
    };
    for authority in ["api.good.test", "API.Good.TEST", "api.good.test.", "api.good.test:443"] {
        let mark = bed.mark();
        assert_eq!(with(Some(authority), None), Status(200), "{authority}");
        assert_eq!(with(Some(authority), Some("api.good.test")), Status(200), "{authority} and host");
        let requests = bed.since(mark, 2).requests;
        assert!(requests.len() == 2 && requests.iter().all(|request| request.authority == "api.good.test"));
        assert!(requests.iter().all(|request| request.header("host").is_empty()));
    }
    for authority in ["evil.test", "api.good.test:8443", "evilapi.good.test", "api.good.test.evil.test"] {
        let mark = bed.mark();
        assert_eq!(with(Some(authority), None), Status(421), "{authority}");
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["authority_mismatch"]);
    }
    let bad = [
        (Some("api.good.test@evil.test"), None),
        (Some("evil.test@api.good.test"), None),
        (Some("api.good.test,evil.test"), None),
        (Some("api.good.test:443x"), None),
        (Some("api.good.test/x"), None),
        (Some(""), None),
        (None, None),
        (None, Some("")),
        (None, Some("api.good.test")),
        (Some("api.good.test"), Some("evil.test")),
        (Some("evil.test"), Some("api.good.test")),
        (Some("b\u{fc}cher.test"), None),
    ];
    for (authority, host) in bad {
        let mark = bed.mark();
        let found = with(authority, host);
        assert!(is_bad(found), "{authority:?} {host:?}: {found:?}");
        bed.since(mark, 1)
            .nothing_upstream()
            .no_query()
            .decided("deny", &["bad_request", "authority_mismatch"]);
    }
}

#[test]
fn ht_11_an_upload_of_its_stated_length_is_whole_upstream_only_with_its_end_of_stream() {
    let bed = Bed::new(P1);
    speak_http_1(&bed);
    for code in [CANCEL, 0] {
        let mut raw = Raw::connect(&bed);
        raw.send(head(1, 0, &request("POST", "/upload", &[("content-length", "5")])));
        raw.send(frame(DATA, 0, 1, b"hello"));
        let begun = || (upstream(&bed).matches("POST /upload ").count() > 0).then_some(());
        assert!(raw.is_alive() && wait_until(wire::PATIENCE, begun).is_some());
        let ends = || bed.gate.records().iter().filter(|record| record.is_end()).count();
        let before = ends();
        raw.send(reset(1, code));
        assert!(wait_until(wire::PATIENCE, || (ends() > before).then_some(())).is_some());
        assert!(!upstream(&bed).contains("hello"), "{code}: {}", upstream(&bed));
    }
    let mut raw = Raw::connect(&bed);
    raw.send(head(1, 0, &request("POST", "/upload", &[("content-length", "5")])));
    raw.send(frame(DATA, 0, 1, b"hello")).send(frame(DATA, END_STREAM, 1, []));
    assert_eq!(raw.outcome(1), Status(200));
    assert!(upstream(&bed).ends_with("\r\n\r\nhello"));
}
