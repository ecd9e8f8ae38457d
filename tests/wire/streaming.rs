//! The exchange: bytes flow as they come, both ways, in bounded memory; upgrades only where a rule says so.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::gate::wait_until;
use crate::support::h2::H2;
use crate::support::pages::{pattern, sha256};
use crate::support::websocket::{CLOSE, TEXT, frame, receive};
use crate::support::*;

const LARGE: usize = 100 << 20;

#[test]
fn events_arrive_one_by_one_while_the_stream_is_open() {
    let bed = Bed::new(P1);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/sse"));
    let head = wire.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    for event in ["one", "two", "three"] {
        bed.world.origin.pages.event(event);
        let seen = wire.until(format!("data: {event}\n\n").as_bytes());
        assert!(seen.is_some(), "{event} came before the next one was made");
    }
    bed.world.origin.pages.end_events();
    assert!(wire.until(b"0\r\n\r\n").is_some(), "the stream ends as a stream");
}

#[test]
fn trailers_come_through_over_h2() {
    let bed = Bed::new(P1);
    let h2 = H2::connect(&bed, PUB1, "api.good.test");
    let (answer, trailers) = h2.get("https://api.good.test/trailers").unwrap();
    assert_eq!(answer.body(), b"body before trailers\n");
    assert_eq!(trailers["x-checksum"], "abc123");
}

#[test]
fn expect_100_continue_is_answered_before_the_body_and_not_for_a_refusal() {
    let bed = Bed::new(P3);
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: api.good.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(head("/v1/messages"));
    assert_eq!(wire.head().unwrap().status, 100);
    assert_eq!(wire.ask("hello").unwrap().status, 200);
    let digest = bed.world.origin.requests()[0].body.lock().unwrap().clone().unwrap();
    assert_eq!((digest.0, digest.1), (5, sha256(b"hello")));

    let mut refused = bed.https(PUB1, "api.good.test").unwrap();
    refused.send(head("/admin"));
    assert_eq!(refused.head().unwrap().status, 403, "no 100 before it");
}

#[test]
fn a_hundred_megabytes_down_arrive_whole_in_flat_memory() {
    let bed = Bed::new(P1);
    bed.control();
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    let (answer, growth) =
        growth_during(&bed, || wire.ask(get("api.good.test", &format!("/bytes/{LARGE}"))).unwrap());
    assert_eq!((answer.status, answer.complete), (200, true));
    assert_eq!(sha256(&answer.body), sha256(&pattern(LARGE)));
    assert!(growth < 32 << 10, "resident memory grew by {growth} KiB");
}

#[test]
fn a_hundred_megabytes_up_arrive_whole_in_flat_memory() {
    let bed = Bed::new(P1);
    bed.control();
    let body = pattern(LARGE);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    let (answer, growth) = growth_during(&bed, || {
        wire.send(format!("POST /upload HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: {LARGE}\r\n\r\n"));
        wire.ask(&body).unwrap()
    });
    assert_eq!(answer.text(), format!("{LARGE} {}\n", sha256(&body)));
    assert!(growth < 32 << 10, "resident memory grew by {growth} KiB");
    let end = bed.gate.wait_for_record("the end of the upload", |record| {
        record.is_end() && record.number("bytes_up").is_some_and(|bytes| bytes >= LARGE as u64)
    });
    assert_eq!(end.number("status"), Some(200));
}

const WEBSOCKET: &str = r#"
[[rule]]
name = "talk"
hosts = ["api.good.test"]
action = "allow"
websocket = true
"#;

#[test]
fn ft_10_what_a_reload_no_longer_allows_ends_while_it_streams() {
    let bed = Bed::new(WEBSOCKET);
    let mut events = bed.https(PUB1, "api.good.test").unwrap();
    events.send(get("api.good.test", "/sse"));
    assert_eq!(events.head().unwrap().status, 200);
    let mut talk = bed.https(PUB1, "api.good.test").unwrap();
    let answer = talk.ask(
        "GET /ws HTTP/1.1\r\nHost: api.good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(answer.unwrap().status, 101);

    let more = format!(
        "{WEBSOCKET}\n[[rule]]\nname = \"more\"\nhosts = [\"files.good.test\"]\naction = \"allow\"\n"
    );
    bed.gate.write_policy(&more);
    bed.gate.signal(Signal::SIGHUP);
    let open = || bed.fetch("files.good.test", get("files.good.test", "/")).filter(|a| a.status == 200);
    assert!(wait_until(Duration::from_secs(5), open).is_some());
    std::thread::park_timeout(Duration::from_millis(1500));
    bed.world.origin.pages.event("still");
    assert!(events.until(b"data: still\n\n").is_some(), "what is still allowed goes on");
    talk.send(frame(TEXT, b"still", Some([7; 4])));
    assert_eq!(receive(&mut talk), Some((TEXT, b"still".to_vec())));

    bed.gate.write_policy(&WEBSOCKET.replace("api.good.test", "files.good.test"));
    bed.gate.signal(Signal::SIGHUP);
    let reload = |record: &Record| record.is_end() && record.text("reason") == "reload";
    bed.gate.wait_for_record("an end by the reload", reload);
    assert!(!events.rest().0.ends_with(b"0\r\n\r\n"), "cut, not ended");
    assert_eq!(talk.rest().0, frame(CLOSE, &1008_u16.to_be_bytes(), None), "it is told why");
    let both = || (bed.gate.records().iter().filter(|r| reload(r)).count() == 2).then_some(());
    assert!(wait_until(Duration::from_secs(5), both).is_some());
}

/// The median of many small exchanges on one connection, head and body in two writes: what delayed ACKs would hurt.
fn median(wire: &mut Wire, head: &str) -> Duration {
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let begun = Instant::now();
            wire.send(head);
            assert_eq!(wire.ask("hello").unwrap().status, 200);
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn no_door_pauses_for_a_delayed_acknowledgement() {
    let bed = Bed::new(P1);
    let head = |target: &str, host: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\n")
    };
    let plain = head("/", "plain.good.test");
    let secure = head("/", "api.good.test");
    let absolute = head("http://plain.good.test/", "plain.good.test");
    let inside = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    let doors = [
        ("transparent http", bed.tcp(PUB1, 80), plain),
        ("transparent https", bed.https(PUB1, "api.good.test").unwrap(), secure.clone()),
        ("explicit", bed.explicit(), absolute),
        ("connect", inside, secure),
    ];
    for (door, mut wire, head) in doors {
        let median = median(&mut wire, &head);
        assert!(median < Duration::from_millis(35), "{door}: {median:?}");
    }
}

#[test]
fn ft_17_a_refusal_before_the_upload_has_ended_is_relayed_over_h2() {
    let bed = Bed::new(P1);
    let h2 = H2::connect(&bed, PUB1, "api.good.test");
    for _ in 0..5 {
        let request = http::Request::post("https://api.good.test/status/413").body(()).unwrap();
        let (answer, _) = h2.send(request, Some(vec![b'x'; 2 << 20])).unwrap();
        assert_eq!(answer.status(), 413);
    }
    assert!(bed.world.origin.connections().iter().any(|seen| seen.is_h2()), "over HTTP/2 on both sides");
}

#[test]
fn an_answer_before_the_body_has_ended_is_relayed() {
    let bed = Bed::new(P1);
    let early = |peer: &mut crate::support::origin::Conversation| {
        if peer.head().is_some() {
            peer.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge");
            peer.rest();
        }
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), early);
    }
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(
        "POST /upload HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: 1000000\r\n\r\nonly the beginning",
    );
    let answer = wire.response().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
}
