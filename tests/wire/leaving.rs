//! Gauntlet GI1, AU-03, HT-11 and HT-13: a client that goes in the middle of what it says. Every path ends in its record, and
//! the record says that it went.

use std::net::IpAddr;

use crate::support::bed::Mark;
use crate::support::frames::*;
use crate::support::gate::wait_until;
use crate::support::wire::PATIENCE;
use crate::support::*;

const HALF: &str = "POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\nthe first bytes";

/// How a client goes, and how it came.
type Going = (&'static str, fn(Wire));
type Way = (&'static str, &'static str, fn(&Bed) -> Wire);
type Leaving = (&'static str, fn(Raw) -> Option<Raw>);

const HTTPS: Way = ("TS", "api.good.test", |bed| bed.https(PUB1, "api.good.test").unwrap());
const HTTP: Way = ("TH", "plain.good.test", |bed| bed.tcp(PUB1, 80));

const GOINGS: [Going; 3] = [
    ("an orderly end", |mut wire| drop(wire.end_of_sending().rest())),
    ("an end of TCP alone", |mut wire| drop(wire.cut().rest())),
    ("a reset", Wire::reset),
];

#[test]
fn gi1_au_03_a_head_that_is_not_finished_has_its_record_however_its_client_goes() {
    let bed = Bed::new(P1);
    let ways: [Way; 3] = [HTTPS, HTTP, ("XH", "plain.good.test", Bed::explicit)];
    for (way, _, open) in ways {
        // Of a reset the kernel may keep the bytes before it to itself.
        for (going, go) in &GOINGS[..2] {
            let mut wire = open(&bed);
            let mark = bed.mark();
            wire.send("GET / HTTP/1.1\r\nHo");
            go(wire);
            let taps = bed.since(mark, 1);
            let record = taps.nothing_upstream().decided("deny", &["bad_request"]);
            assert!(record.mentions("in the middle"), "{way} {going}: {}", record.0);
        }
    }
    bed.control();
}

#[test]
fn gi1_a_connection_that_ends_between_requests_asked_for_nothing() {
    let bed = Bed::new(P1);
    for (_, go) in GOINGS {
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
        let mark = bed.mark();
        go(wire);
        bed.control();
        bed.since(mark, 1).decided("allow", &[]);
    }
}

/// The end record of the one upload since the mark, which must say that its client went.
fn is_abandoned(bed: &Bed, mark: Mark, what: &str) {
    let id = bed.since(mark, 1).decided("allow", &[]).text("id").to_owned();
    let end = bed.gate.wait_for_record(what, |record| record.is_end() && record.text("id") == id);
    assert_eq!(end.text("outcome"), "abandoned", "{what}: {}", end.0);
    assert!(matches!(end.text("reason"), "client_gone" | ""), "{what}: {}", end.0);
    assert_eq!(end.number("status"), None, "nobody saw one; {what}: {}", end.0);
}

fn upstream_has_begun(bed: &Bed) {
    let begun = || {
        let connections = bed.world.origin.connections();
        connections.last().filter(|seen| seen.text().contains("the first bytes")).map(|_| ())
    };
    assert!(wait_until(PATIENCE, begun).is_some(), "the upload has not begun");
}

#[test]
fn ht_11_an_upload_whose_client_goes_is_abandoned_over_http_1() {
    let inside: Way = ("XC", "api.good.test", |bed| {
        bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap()
    });
    let bed = Bed::new(P1);
    for (way, host, open) in [HTTPS, HTTP, inside] {
        for (going, go) in GOINGS {
            let mark = bed.mark();
            let mut wire = open(&bed);
            wire.send(HALF.replace("{host}", host));
            upstream_has_begun(&bed);
            go(wire);
            is_abandoned(&bed, mark, &format!("{way}: {going}"));
        }
    }
    bed.control();
}

#[test]
fn ht_11_an_upload_whose_client_goes_is_abandoned_over_http_2() {
    let bed = Bed::new(P1);
    let endings: [Leaving; 3] = [
        ("a reset of the stream", |mut raw| {
            raw.send(reset(1, 8));
            Some(raw)
        }),
        ("a goaway and an end", |mut raw| {
            raw.send(frame(GOAWAY, 0, 0, [0; 8]));
            None
        }),
        ("an end", |_| None),
    ];
    for (going, go) in endings {
        let mark = bed.mark();
        let mut raw = Raw::connect(&bed);
        raw.send(head(1, 0, &request("POST", "/upload", &[("content-length", "1000")])));
        raw.send(frame(DATA, 0, 1, "the first bytes"));
        bed.since(mark.clone(), 1).decided("allow", &[]);
        let _kept = go(raw);
        is_abandoned(&bed, mark, going);
    }
    bed.control();
}

#[test]
fn ht_13_a_body_that_does_not_come_is_a_timeout_and_a_broken_one_is_broken() {
    let limits = "body_patience = \"300ms\"";
    let bed = Bed::with(&Setup { policy: P1.into(), limits, ..Setup::default() });
    let chunked = "POST /upload HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n";
    let ways: [(IpAddr, &str); 2] = [(PUB1, "api.good.test"), (PUB1_V6, "api.good.test")];
    for (ip, host) in ways {
        for (sent, status, outcome, reason) in
            [(HALF, 408, "abandoned", "timeout"), (chunked, 400, "blocked", "bad_framing")]
        {
            let mark = bed.mark();
            let mut wire = bed.https(ip, host).unwrap();
            assert_eq!(wire.ask(sent.replace("{host}", host)).unwrap().status, status);
            let id = bed.since(mark, 1).decided("allow", &[]).text("id").to_owned();
            let end = bed.gate.wait_for_record("its end", |r| r.is_end() && r.text("id") == id);
            let told = (end.text("outcome"), end.text("reason"), end.number("status"));
            assert_eq!(told, (outcome, reason, Some(u64::from(status))), "{}", end.0);
        }
    }
    bed.control();
}
