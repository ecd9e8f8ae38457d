//! Gauntlet HT-09 and FR: what no HTTP/2 client may say, by section of RFC 9113 and RFC 7541. The wrong frame is answered
//! with the error that its section names; the right one beside it works.

use crate::support::frames::*;
use crate::support::h2::H2;
use crate::support::origin::Conversation;
use crate::support::*;

use Outcome::{GoAway, Reset, Status};

fn get_at(stream: u32) -> Vec<u8> {
    head(stream, END_STREAM, &request("GET", "/", &[]))
}

fn post_at(stream: u32) -> Vec<u8> {
    head(stream, 0, &request("POST", "/upload", &[]))
}

/// What is said on a connection that has shaken hands, and the error that it must be answered with, on stream 1 or on
/// the connection. Where a section lets either pass, the stricter one stands second.
fn wrong() -> Vec<(&'static str, Vec<u8>, Vec<Outcome>)> {
    let stream_or_all = |code| vec![Reset(code), GoAway(code)];
    let all = |code| vec![GoAway(code)];
    let long = block(&request("GET", &"/x".repeat(9000), &[]));
    let cut = &block(&request("GET", "/", &[]))[..20];
    vec![
        ("4.2 a frame larger than was offered", frame(DATA, 0, 1, vec![0; 16_385]), all(FRAME_SIZE_ERROR)),
        ("4.2 a head larger than was offered", frame(HEADERS, 5, 1, long), all(FRAME_SIZE_ERROR)),
        ("4.3 a block that does not decode", frame(HEADERS, 5, 1, [0x80]), all(COMPRESSION_ERROR)),
        ("4.3 a cut block", frame(HEADERS, 5, 1, cut), all(COMPRESSION_ERROR)),
        (
            "4.3 another frame in a block",
            [frame(HEADERS, 0, 1, []), frame(PING, 0, 0, [0; 8])].concat(),
            all(1),
        ),
        (
            "4.3 another stream in a block",
            [frame(HEADERS, 0, 1, []), get_at(3)].concat(),
            all(PROTOCOL_ERROR),
        ),
        ("5.1 DATA on an idle stream", frame(DATA, 1, 1, b"x"), all(PROTOCOL_ERROR)),
        ("5.1 RST_STREAM on an idle stream", reset(1, 8), all(PROTOCOL_ERROR)),
        ("5.1 WINDOW_UPDATE on an idle stream", window(1, 9), all(PROTOCOL_ERROR)),
        ("5.1 CONTINUATION on an idle stream", frame(CONTINUATION, 4, 1, [0x80]), all(PROTOCOL_ERROR)),
        (
            "5.1 DATA behind the end of a stream",
            [get_at(1), frame(DATA, 1, 1, b"x")].concat(),
            vec![Reset(5), GoAway(5), GoAway(1)],
        ),
        (
            "5.1 a head behind the end of a stream",
            [get_at(1), get_at(1)].concat(),
            vec![Reset(5), GoAway(5), GoAway(1)],
        ),
        ("5.1.1 an even stream", get_at(2), all(PROTOCOL_ERROR)),
        ("5.1.1 a stream below the last", [post_at(5), get_at(1)].concat(), vec![GoAway(1), GoAway(5)]),
        ("5.3 a stream that depends on itself", frame(PRIORITY, 0, 1, [0, 0, 0, 1, 9]), stream_or_all(1)),
        ("6.1 DATA on the connection", frame(DATA, 1, 0, b"x"), all(PROTOCOL_ERROR)),
        (
            "6.1 padding longer than the frame",
            [post_at(1), frame(DATA, PADDED | 1, 1, b"\x09abc")].concat(),
            all(PROTOCOL_ERROR),
        ),
        ("6.2 a head on the connection", get_at(0), all(PROTOCOL_ERROR)),
        ("6.3 PRIORITY of a wrong size", frame(PRIORITY, 0, 1, [0; 4]), all(FRAME_SIZE_ERROR)),
        ("6.4 RST_STREAM on the connection", reset(0, 8), all(PROTOCOL_ERROR)),
        (
            "6.4 RST_STREAM of a wrong size",
            [post_at(1), frame(RST_STREAM, 0, 1, [0; 3])].concat(),
            all(FRAME_SIZE_ERROR),
        ),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, []), all(PROTOCOL_ERROR)),
        ("6.5 an acknowledgement with settings", frame(SETTINGS, 1, 0, setting(4, 1)), all(FRAME_SIZE_ERROR)),
        ("6.5 SETTINGS of a wrong size", frame(SETTINGS, 0, 0, [0; 5]), all(FRAME_SIZE_ERROR)),
        ("6.5.2 push neither on nor off", frame(SETTINGS, 0, 0, setting(2, 2)), all(PROTOCOL_ERROR)),
        ("6.5.2 too large a window", frame(SETTINGS, 0, 0, setting(4, 1 << 31)), all(FLOW_CONTROL_ERROR)),
        ("6.5.2 too small a frame", frame(SETTINGS, 0, 0, setting(5, 16_383)), all(PROTOCOL_ERROR)),
        ("6.6 a promise of a client", frame(PUSH_PROMISE, 4, 1, [0, 0, 0, 2]), all(PROTOCOL_ERROR)),
        ("6.7 PING on a stream", frame(PING, 0, 1, [0; 8]), all(PROTOCOL_ERROR)),
        ("6.7 PING of a wrong size", frame(PING, 0, 0, [0; 7]), all(FRAME_SIZE_ERROR)),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), all(PROTOCOL_ERROR)),
        ("6.9 a window of nothing more", window(0, 0), all(PROTOCOL_ERROR)),
        ("6.9 a stream's window of nothing more", [post_at(1), window(1, 0)].concat(), stream_or_all(1)),
        ("6.9 WINDOW_UPDATE of a wrong size", frame(WINDOW_UPDATE, 0, 0, [0; 3]), all(FRAME_SIZE_ERROR)),
        ("6.9.1 a window that overflows", window(0, 0x7fff_ffff), all(FLOW_CONTROL_ERROR)),
        (
            "6.9.1 a stream's window that overflows",
            [post_at(1), window(1, 0x7fff_ffff)].concat(),
            stream_or_all(FLOW_CONTROL_ERROR),
        ),
        (
            "8.1 a second head that ends nothing",
            [post_at(1), head(1, 0, &[("x-a", "b")])].concat(),
            stream_or_all(1),
        ),
        (
            "HPACK 4.2 a table larger than offered",
            frame(HEADERS, 5, 1, [0x3f, 0xe2, 0x1f, 0x82]),
            all(COMPRESSION_ERROR),
        ),
        (
            "HPACK 5.2 padding of a byte",
            frame(HEADERS, 5, 1, [0x82, 0x87, 0x04, 0x82, 0x63, 0xff]),
            all(COMPRESSION_ERROR),
        ),
        (
            "HPACK 4.2 a table that changes behind a field",
            frame(HEADERS, 5, 1, [0x82, 0x20, 0x87, 0x84]),
            all(COMPRESSION_ERROR),
        ),
        ("HPACK 6.1 index nought", frame(HEADERS, 5, 1, [0x82, 0x80]), all(COMPRESSION_ERROR)),
    ]
}

#[test]
fn ht_09_every_wrong_frame_is_answered_with_the_error_of_its_section() {
    let bed = Bed::new(P1);
    let mut differ = Vec::new();
    for (what, bytes, expected) in wrong() {
        let mut raw = Raw::connect(&bed);
        raw.send(bytes);
        let found = loop {
            match raw.outcome(1) {
                // The answer to what was right before it.
                Status(_) => {}
                found => break found,
            }
        };
        if !expected.contains(&found) {
            differ.push(format!("{what}: {found:?}, not {expected:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    let wrong: usize = wrong().len();
    let denied = bed.gate.records().iter().filter(|record| record.text("reason") == "bad_request").count();
    assert!(
        denied >= wrong - 8,
        "{denied} of {wrong} have a record; the others ended a request that has one"
    );
    bed.control();
}

#[test]
fn ht_09_a_wrong_preface_ends_the_connection() {
    let bed = Bed::new(P1);
    for wrong in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"[..], b"GET / HTTP/1.1\r\nHost: api.good.test\r\n\r\n"]
    {
        let mark = bed.mark();
        let mut wire = Raw::wire(&bed);
        wire.send(wrong);
        assert_eq!(wire.exactly(1 << 20), None, "no answer");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
    }
    for first in [get_at(1), frame(PING, 0, 0, [0; 8]), frame(SETTINGS, 1, 0, [])] {
        let mark = bed.mark();
        let mut wire = Raw::wire(&bed);
        wire.send([PREFACE, &first, &get_at(1)].concat());
        let said = wire.rest().0;
        let goaway = said.windows(5).position(|bytes| bytes[3..] == [GOAWAY, 0]).expect("a GOAWAY");
        assert_eq!(said[goaway + 9 + 4..goaway + 9 + 8], PROTOCOL_ERROR.to_be_bytes());
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
    }
    bed.control();
}

#[test]
fn ht_09_what_is_right_in_every_section_is_served() {
    let bed = Bed::new(P1);
    let mut raw = Raw::connect(&bed);
    raw.send(frame(PRIORITY, 0, 1, [0, 0, 0, 3, 9])).send(frame(0xee, 0xff, 0x7fff_ffff, [1; 100]));
    raw.send(frame(SETTINGS, 0, 0, setting(0x7777, 9))).send(window(0, 1000));
    raw.send(get_at(1));
    assert_eq!(raw.outcome(1), Status(200));
    let fields = block(&request("GET", "/", &[]));
    let padded = [&[3, 0, 0, 0, 1, 5][..], &fields, &[0; 3]].concat();
    raw.send(frame(HEADERS, END_STREAM | END_HEADERS | PADDED | 0x20, 3, padded));
    assert_eq!(raw.outcome(3), Status(200));
    raw.send(post_at(5)).send(frame(DATA, PADDED, 5, b"\x02hel\0\0")).send(frame(DATA, END_STREAM, 5, b"lo"));
    assert_eq!(raw.outcome(5), Status(200));
    raw.send(post_at(7)).send(frame(DATA, 0, 7, b"hello"));
    raw.send(head(7, END_STREAM, &[("x-checksum", "1")]));
    assert_eq!(raw.outcome(7), Status(200), "trailers");
    assert!(raw.is_alive());
}

#[test]
fn fr_11_connect_opens_no_tunnel_over_h2() {
    let bed = Bed::new(P1);
    let mut raw = Raw::connect(&bed);
    assert_ne!(raw.settings.setting(8), Some(1), "extended CONNECT is not offered");
    for (n, authority) in ["evil.test:443", "api.good.test:443"].into_iter().enumerate() {
        let mark = bed.mark();
        let stream = n as u32 * 2 + 1;
        raw.send(head(stream, 0, &[(":method", "CONNECT"), (":authority", authority)]));
        assert_eq!(raw.outcome(stream), Status(405), "{authority}");
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["connect"]);
    }
    for (n, protocol) in ["websocket", "connect-udp", "connect-ip"].into_iter().enumerate() {
        let mark = bed.mark();
        let stream = n as u32 * 2 + 101;
        raw.send(head(stream, 0, &request("CONNECT", "/", &[(":protocol", protocol)])));
        assert_eq!(raw.outcome(stream), Reset(PROTOCOL_ERROR), "{protocol}");
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["bad_request"]);
    }
    raw.send(get_at(1001));
    assert_eq!(raw.outcome(1001), Status(200), "the connection lives on");
}

/// An upstream that says these frames before each answer, which carries `alt-svc`.
fn saying(bed: &Bed, before: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) {
    bed.world.origin.script_h2((PUB1, 443), move |peer: &mut Conversation| {
        peer.exactly(PREFACE.len());
        peer.say(frame(SETTINGS, 0, 0, []));
        while let Some(head) = peer.exactly(9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            peer.exactly(length);
            match (head[3], head[4] & 1) {
                (SETTINGS, 0) => peer.say(frame(SETTINGS, 1, 0, [])),
                (HEADERS, _) => {
                    let fields = [&[0x88][..], &literal(0, "alt-svc", "h2=\"evil.test:443\"")].concat();
                    peer.say(before(stream));
                    peer.say(frame(HEADERS, END_HEADERS, stream, fields));
                    peer.say(frame(DATA, END_STREAM, stream, b"ok"));
                }
                _ => {}
            }
        }
    });
}

#[test]
fn fr_18_no_frame_or_field_of_an_upstream_leads_the_client_elsewhere() {
    let bed = Bed::new(P1);
    saying(&bed, |stream| {
        let text = |origin: &str| [&(origin.len() as u16).to_be_bytes(), origin.as_bytes()].concat();
        let elsewhere = b"h2=\"evil.test:443\"; ma=86400";
        [
            frame(ALTSVC, 0, 0, [text("https://api.good.test"), elsewhere.to_vec()].concat()),
            frame(ALTSVC, 0, stream, [text(""), elsewhere.to_vec()].concat()),
            frame(ORIGIN, 0, 0, text("https://evil.test")),
        ]
        .concat()
    });
    let mut raw = Raw::connect(&bed);
    raw.send(get_at(1));
    let mut kinds = Vec::new();
    loop {
        let frame = raw.next().expect("an answer");
        kinds.push(frame.kind);
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            assert_eq!(frame.payload, b"ok");
            break;
        }
    }
    assert!(
        kinds.iter().all(|kind| matches!(*kind, DATA | HEADERS | SETTINGS | WINDOW_UPDATE | PING)),
        "{kinds:?}"
    );
    let h2 = H2::connect(&bed, PUB1, "api.good.test");
    let (answer, _) = h2.get("https://api.good.test/").unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"ok"[..]));
    assert!(!answer.headers().contains_key("alt-svc"));
}

#[test]
fn fr_18_an_upstream_that_pushes_has_its_answer_refused() {
    let bed = Bed::new(P1);
    saying(&bed, |stream| {
        let promised = block(&request("GET", "/pushed", &[]));
        frame(PUSH_PROMISE, END_HEADERS, stream, [&2_u32.to_be_bytes()[..], &promised].concat())
    });
    let mut raw = Raw::connect(&bed);
    assert_ne!(raw.settings.setting(2), Some(1));
    raw.send(get_at(1));
    assert_eq!(raw.outcome(1), Status(502));
}
