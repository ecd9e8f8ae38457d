//! Gauntlet HT: what a hostile HTTP/2 client may cost. Each attack ends its own connection, in bounded memory, with one
//! record, while another client's connection goes on; and what an honest client does stays below every bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::frames::*;
use crate::support::gate::wait_until;
use crate::support::h2::H2;
use crate::support::origin::Conversation;
use crate::support::*;

/// The other client, whose connection was there before the attack.
struct Neighbour(H2);

impl Neighbour {
    fn connect(bed: &Bed) -> Self {
        let socket = bed.world.agent2.connect(at(PUB2, 443), Duration::from_secs(5)).unwrap();
        let neighbour = Self(H2::over(socket, &bed.tls("files.good.test")));
        neighbour.is_served();
        neighbour
    }

    fn is_served(&self) {
        assert_eq!(self.0.get("https://files.good.test/").unwrap().0.status(), 200);
    }
}

fn get_at(stream: u32) -> Vec<u8> {
    head(stream, END_STREAM, &request("GET", "/", &[]))
}

#[test]
fn ht_01_rapid_resets_end_the_connection_after_few_requests() {
    let bed = Bed::new(P1);
    let neighbour = Neighbour::connect(&bed);
    let before = bed.world.origin.requests().len();
    let mut raw = Raw::connect(&bed);
    for hundred in 0..200 {
        let streams = (0..100).map(|n| hundred * 200 + n * 2 + 1);
        raw.send(
            streams.flat_map(|stream| [get_at(stream), reset(stream, CANCEL)].concat()).collect::<Vec<_>>(),
        );
        neighbour.is_served();
    }
    assert_eq!(raw.goaway(), Ok(ENHANCE_YOUR_CALM));
    bed.gate.wait_for_record("the flood", |record| {
        record.text("verdict") == "deny" && record.text("reason") == "limit"
    });
    let begun = bed.world.origin.requests().len() - before - 200;
    assert!(begun <= 220, "{begun} requests were begun upstream");
    bed.control();
}

#[test]
fn ht_01_a_client_that_cancels_what_it_no_longer_wants_keeps_its_connection() {
    let bed = Bed::new(P1);
    let mut raw = Raw::connect(&bed);
    for n in 0..150 {
        raw.send(head(n * 2 + 1, 0, &request("POST", "/upload", &[])));
        assert!(raw.is_alive(), "stream {n}");
        raw.send(reset(n * 2 + 1, CANCEL));
    }
    raw.send(get_at(1001));
    assert_eq!(raw.outcome(1001), Outcome::Status(200));
}

#[test]
fn ht_02_a_head_without_end_is_cut_off_in_little_memory() {
    let bed = Bed::new(P1);
    let neighbour = Neighbour::connect(&bed);
    let more = frame(CONTINUATION, 0, 1, [0; 16 * 1024]);
    let ((), growth) = growth_during(&bed, || {
        for megabytes in [4, 48] {
            let mut raw = Raw::connect(&bed);
            raw.send(frame(HEADERS, 0, 1, block(&request("GET", "/", &[]))));
            for _ in 0..megabytes * 64 {
                raw.send(&more);
            }
            let end = raw.goaway();
            // Of the larger one the client has not stopped sending when the gate stops reading.
            assert!(end == Ok(ENHANCE_YOUR_CALM) || (megabytes == 48 && end.is_err()), "{end:?}");
            neighbour.is_served();
        }
        let mut empty = Raw::connect(&bed);
        empty.send(frame(HEADERS, 0, 1, []));
        empty.send(frame(CONTINUATION, 0, 1, []).repeat(100_000));
        assert_eq!(empty.goaway(), Ok(ENHANCE_YOUR_CALM));
    });
    assert!(growth < 8 * 1024, "{growth} KiB");
    let mut honest = Raw::connect(&bed);
    let head = block(&request("GET", "/", &[("x-long", &"x".repeat(5000))]));
    honest.send(frame(HEADERS, END_STREAM, 1, &head[..9]));
    honest.send(frame(CONTINUATION, 0, 1, &head[9..20])).send(frame(CONTINUATION, 0, 1, []));
    honest.send(frame(CONTINUATION, END_HEADERS, 1, &head[20..]));
    assert_eq!(honest.outcome(1), Outcome::Status(200));
}

#[test]
fn ht_04_floods_of_frames_without_work_end_their_connection_and_no_other() {
    let bed = Bed::new(P1);
    let neighbour = Neighbour::connect(&bed);
    let floods = [
        ("SETTINGS", frame(SETTINGS, 0, 0, [])),
        ("SETTINGS", frame(SETTINGS, 0, 0, setting(4, 65_535))),
        ("PING", frame(PING, 0, 0, [7; 8])),
        ("PING", frame(PING, 1, 0, [7; 8])),
        ("PRIORITY", frame(PRIORITY, 0, 1, [0, 0, 0, 3, 9])),
        ("WINDOW_UPDATE", window(0, 1)),
        ("unknown", frame(0xee, 0, 0, b"?")),
        ("empty DATA", frame(DATA, 0, 1, [])),
    ];
    let ((), growth) = growth_during(&bed, || {
        for (name, flood) in floods {
            let mark = bed.mark();
            let mut raw = Raw::connect(&bed);
            raw.send(head(1, 0, &request("POST", "/upload", &[])));
            assert!(raw.is_alive(), "and its stream is taken");
            // Nothing is read meanwhile, the answers to PING and SETTINGS neither.
            let thousand = flood.repeat(1000);
            for n in 0..200 {
                raw.send(&thousand);
                if n % 50 == 0 {
                    neighbour.is_served();
                }
            }
            assert_eq!(raw.goaway(), Ok(ENHANCE_YOUR_CALM), "{name}");
            let taps = bed.since(mark, 2 + 4);
            let denied = taps.decisions.iter().find(|record| record.text("reason") == "limit").unwrap();
            assert!(denied.mentions(name) || denied.mentions("excessive"), "{name}: {}", denied.0);
        }
    });
    assert!(growth < 16 * 1024, "{growth} KiB");
    let counted = bed.metric(r#"outgate_decisions_total{door="transparent",verdict="deny",reason="limit"}"#);
    assert_eq!(counted, 8.0);
    bed.control();
}

#[test]
fn ht_04_a_client_with_much_to_say_for_each_request_is_served() {
    let bed = Bed::new(P1);
    let mut raw = Raw::connect(&bed);
    let ping = frame(PING, 0, 0, [7; 8]);
    let talk =
        [ping.clone(), window(0, 100), frame(PRIORITY, 0, 9, [0, 0, 0, 3, 9]), frame(0x10, 0, 0, b"u=3")];
    for n in 0..800 {
        raw.send([get_at(n * 2 + 1), talk.concat(), talk.concat()].concat());
        assert!(raw.body(n * 2 + 1).is_some(), "request {n}");
    }
    raw.send(ping.repeat(3000));
    assert!(raw.is_alive());
}

#[test]
fn ht_05_a_bomb_of_table_entries_is_cut_off_in_little_memory() {
    let bed = Bed::new(P1);
    let neighbour = Neighbour::connect(&bed);
    let mark = bed.mark();
    let fields = |times: usize| {
        let mut fields = block(&request("GET", "/", &[]));
        fields.extend(literal(0x40, "x-bomb", "x".repeat(4000)));
        fields.extend([0x80 | 62].repeat(times));
        fields
    };
    let bomb = fields(16_000);
    let ((), growth) = growth_during(&bed, || {
        for _ in 0..100 {
            let mut raw = Raw::connect(&bed);
            raw.send(frame(HEADERS, END_STREAM, 1, &bomb[..16_000]));
            raw.send(frame(CONTINUATION, END_HEADERS, 1, &bomb[16_000..]));
            assert_eq!(raw.goaway(), Ok(ENHANCE_YOUR_CALM));
        }
    });
    assert!(growth < 8 * 1024, "{growth} KiB");
    let taps = bed.since(mark, 100);
    taps.nothing_upstream();
    assert!(taps.decisions.iter().all(|record| record.text("reason") == "limit"));
    neighbour.is_served();
    let mut honest = Raw::connect(&bed);
    honest.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, fields(1)));
    assert_eq!(honest.outcome(1), Outcome::Status(200));
}

#[test]
fn ht_06_downloads_that_nobody_takes_are_not_read_and_end_in_time() {
    let limits = "response_write_timeout = \"1s\"\nidle_timeout = \"1s\"";
    let bed = Bed::with(&Setup { policy: P1.into(), limits, ..Setup::default() });
    let (told, held) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (telling, holding) = (told.clone(), held.clone());
    bed.world.origin.script((PUB1, 443), move |peer: &mut Conversation| {
        let Some(head) = peer.head() else { return };
        if !head.starts_with("GET /large ") {
            return peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        holding.fetch_add(1, Ordering::Relaxed);
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..16 * 1024 {
            if !peer.tell(&piece) {
                break;
            }
            telling.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        holding.fetch_sub(1, Ordering::Relaxed);
    });
    let ((), growth) = growth_during(&bed, || {
        // SETTINGS_INITIAL_WINDOW_SIZE of nothing.
        let mut raw = Raw::with(&bed, &[(4, 0)]);
        for n in 0..100 {
            raw.send(head(n * 2 + 1, END_STREAM, &request("GET", "/large", &[])));
        }
        let mut answered = 0;
        while let Some(frame) = raw.next() {
            assert_ne!(frame.kind, DATA, "there is no window");
            answered += u32::from(frame.kind == HEADERS);
        }
        assert_eq!(answered, 100, "and then the connection ended");
    });
    assert!(growth <= 32 * 1024, "{growth} KiB");
    let free = || (held.load(Ordering::Relaxed) == 0).then_some(());
    assert!(wait_until(Duration::from_secs(10), free).is_some(), "upstream is let go");
    let gibibytes = told.load(Ordering::Relaxed) >> 30;
    assert!(gibibytes < 2, "{gibibytes} GiB of 100 were read");
    let mut reader = Raw::connect(&bed);
    reader.send(get_at(1));
    assert_eq!(reader.body(1).as_deref(), Some(&b"ok"[..]));
}

#[test]
fn ht_11_uploads_that_are_reset_never_look_whole_upstream() {
    let bed = Bed::new(P1);
    let mut raw = Raw::connect(&bed);
    // CANCEL, and a code that says that all is well; with and without a stated length.
    let codes = [CANCEL, 0];
    let length: [&[_]; 2] = [&[("content-length", "5000")], &[]];
    for n in 0..100 {
        let fields = request("POST", "/upload", length[n / 2 % 2]);
        raw.send(head(n as u32 * 2 + 1, 0, &fields));
        raw.send(frame(DATA, 0, n as u32 * 2 + 1, [b'x'; 100]));
    }
    let begun = || (bed.world.origin.requests().len() == 100).then_some(());
    assert!(wait_until(Duration::from_secs(10), begun).is_some(), "all are under way");
    for n in 0..100 {
        raw.send(reset(n as u32 * 2 + 1, codes[n % 2]));
    }
    let ended = || (bed.gate.records().iter().filter(|record| record.is_end()).count() == 100).then_some(());
    assert!(wait_until(Duration::from_secs(10), ended).is_some(), "each has its end");
    assert!(bed.gate.records().iter().all(|record| record.text("outcome") != "done"));
    // A later upload on the same connections shows that the resets have arrived.
    raw.send(head(1001, 0, &request("POST", "/upload", &[])));
    raw.send(frame(DATA, END_STREAM, 1001, b"whole"));
    assert_eq!(raw.outcome(1001), Outcome::Status(200));
    let whole: Vec<u64> = bed
        .world
        .origin
        .requests()
        .iter()
        .filter_map(|request| request.body.lock().unwrap().as_ref().map(|body| body.0))
        .collect();
    assert_eq!(whole, [5], "only the one that ended");
}

#[test]
fn ht_12_a_client_that_does_not_come_to_its_request_is_closed() {
    let limits = "head_timeout = \"1s\"\ndrain_timeout = \"100ms\"";
    let bed = Bed::with(&Setup { policy: P1.into(), limits, ..Setup::default() });
    let timed_out = |mark| {
        bed.since(mark, 1).nothing_upstream().decided("deny", &["timeout"]);
    };
    let mark = bed.mark();
    assert_eq!(Raw::wire(&bed).exactly(1 << 20), None, "no preface");
    timed_out(mark);
    let mark = bed.mark();
    assert_eq!(Raw::connect(&bed).outcome(1), Outcome::Closed, "no stream");
    timed_out(mark);
    // A head byte by byte: the time is that of the whole head.
    let mark = bed.mark();
    let mut raw = Raw::connect(&bed);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, block(&request("GET", &"/x".repeat(500), &[])));
    for byte in &whole[..200] {
        raw.send([*byte]);
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(raw.outcome(1), Outcome::Closed);
    timed_out(mark);
    let mut slow = Raw::connect(&bed);
    for part in get_at(1).chunks(7) {
        slow.send(part);
    }
    assert_eq!(slow.outcome(1), Outcome::Status(200));
}
