//! WebSockets: both handshakes verified, every message read, judged and framed anew, both ways.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::gate::wait_until;
use crate::support::origin::Conversation;
use crate::support::pages::{accept_key, pattern, sha256};
use crate::support::websocket::*;
use crate::support::*;

const TALK: &str = r#"
[[rule]]
name = "talk"
hosts = ["api.good.test"]
action = "allow"
websocket = true
"#;

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

fn with(policy: &str) -> Bed {
    Bed::with(&Setup { policy: policy.into(), environment: p4_environment(), ..Setup::default() })
}

/// A WebSocket of the agent to the origin of `api.good.test`, which echoes unless it has a script.
fn open(bed: &Bed) -> Wire {
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(handshake("api.good.test", ""));
    assert_eq!(wire.head().map(|head| head.status), Some(101));
    wire
}

fn script(bed: &Bed, script: impl Fn(&mut Conversation) + Send + Sync + Clone + 'static) {
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), script.clone());
    }
}

/// An origin that says these frames after its handshake and then listens.
fn saying(bed: &Bed, frames: Vec<u8>) {
    script(bed, move |peer| {
        if accept(peer).is_some() {
            peer.say(&frames);
            peer.rest();
        }
    });
}

fn end(bed: &Bed) -> Record {
    bed.gate.wait_for_record("the end of a WebSocket", |record| {
        record.is_end() && record.number("close_code").is_some()
    })
}

/// The code of the close that comes, whatever stands before it.
fn closed_with(wire: &mut Wire) -> Option<u16> {
    loop {
        if let (CLOSE, payload) = receive(wire)? {
            return Some(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
        }
    }
}

/// What the last connection brought to the origin.
fn upstream(bed: &Bed) -> Vec<Seen> {
    frames(&bed.world.origin.connections().last().unwrap().bytes())
}

/// The payload of all messages that reached the origin, joined.
fn said_upstream(bed: &Bed) -> String {
    let payloads: Vec<u8> = upstream(bed).into_iter().flat_map(|frame| frame.payload).collect();
    String::from_utf8_lossy(&payloads).into_owned()
}

#[test]
fn fr_12_a_thousand_messages_pass_and_the_record_counts_them() {
    let bed = Bed::new(TALK);
    let mut wire = open(&bed);
    for number in 0..1000_usize {
        let text = format!("message {number} ").repeat(1 + number % 50);
        let kind = if number % 2 == 0 { TEXT } else { BINARY };
        wire.send(frame(kind, text.as_bytes(), Some([7, 2, 3, number as u8])));
        assert_eq!(message(&mut wire), Some((kind, text.into_bytes())));
    }
    wire.send(frame(CLOSE, &[&1000_u16.to_be_bytes()[..], b"enough"].concat(), MASK));
    assert_eq!(message(&mut wire), Some((CLOSE, [&1000_u16.to_be_bytes()[..], b"enough"].concat())));
    assert_eq!(wire.rest(), (Vec::new(), End::Closed));
    let end = end(&bed);
    let counts =
        ["messages_up", "messages_down", "close_code", "status"].map(|field| end.number(field).unwrap());
    assert_eq!((counts, end.text("outcome")), ([1000, 1000, 1000, 101], "done"));
    assert!(
        end.number("bytes_up") == end.number("bytes_down") && end.number("bytes_up") > Some(100_000),
        "{}",
        end.0
    );
}

#[test]
fn fr_12_every_door_carries_messages() {
    let clear = "[[rule]]\nname = \"clear\"\nhosts = [\"plain.good.test\"]\naction = \"allow\"\nscheme = \"http\"\n\
                 ports = [80]\nwebsocket = true\n";
    let bed = Bed::new(&format!("{TALK}{clear}"));
    let whole = handshake("plain.good.test", "");
    let absolute = whole.replace("GET /ws", "GET http://plain.good.test/ws");
    for (mut wire, asked) in [(bed.tcp(PUB1, 80), whole), (bed.explicit(), absolute)] {
        wire.send(asked);
        assert_eq!(wire.head().map(|head| head.status), Some(101));
        wire.send(frame(TEXT, b"in clear", MASK));
        assert_eq!(message(&mut wire), Some((TEXT, b"in clear".to_vec())));
        let leak = format!("{} ", *K2);
        wire.send(frame(TEXT, leak.as_bytes(), MASK));
        assert_eq!(closed_with(&mut wire), Some(1008));
    }
    for way in [Way::Connect, Way::V4, Way::V6] {
        let mut wire = bed.open_https(way, "api.good.test", PUB1, PUB1_V6).unwrap();
        wire.send(handshake("api.good.test", ""));
        assert_eq!(wire.head().map(|head| head.status), Some(101), "{way:?}");
        wire.send(frame(TEXT, b"here", MASK));
        assert_eq!(message(&mut wire), Some((TEXT, b"here".to_vec())), "{way:?}");
    }
}

#[test]
fn fr_12_messages_sent_with_the_handshake_are_not_lost() {
    let bed = Bed::new(TALK);
    saying(&bed, [frame(TEXT, b"welcome", None), frame(PING, b"you", None)].concat());
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send([handshake("api.good.test", "").into_bytes(), frame(TEXT, b"early", MASK)].concat());
    assert_eq!(wire.head().map(|head| head.status), Some(101));
    assert_eq!(message(&mut wire), Some((TEXT, b"welcome".to_vec())));
    assert_eq!(message(&mut wire).unwrap().0, PING);
    let early = || upstream(&bed).iter().any(|frame| frame.payload == b"early").then_some(());
    assert!(wait_until(Duration::from_secs(5), early).is_some());
}

#[test]
fn fr_12_frames_go_up_under_fresh_masks() {
    let bed = Bed::new(TALK);
    let mut wire = open(&bed);
    for _ in 0..20 {
        wire.send(frame(TEXT, b"same", Some([0; 4])));
        assert!(message(&mut wire).is_some());
    }
    let seen = upstream(&bed);
    let masks: std::collections::BTreeSet<_> = seen.iter().map(|frame| frame.mask).collect();
    assert_eq!(seen.len(), 20);
    assert!(masks.len() > 15 && !masks.contains(&[0; 4]), "{masks:?}");
}

#[test]
fn fr_12_pings_stand_inside_messages_and_get_their_own_payload_back() {
    let bed = Bed::new(TALK);
    let mut wire = open(&bed);
    wire.send(raw_frame(TEXT, b"one ", MASK));
    wire.send(frame(PING, b"are you there?", MASK));
    wire.send(frame(PING, b"", MASK));
    wire.send(raw_frame(128 | CONTINUATION, b"message", MASK));
    let (mut text, mut pongs) = (Vec::new(), Vec::new());
    while text != b"one message" {
        match receive(&mut wire).unwrap() {
            (PONG, payload) => pongs.push(payload),
            (TEXT | CONTINUATION, payload) => text.extend(payload),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pongs, [b"are you there?".to_vec(), Vec::new()]);
    assert!(!said_upstream(&bed).contains("there?"), "a ping brings nothing across");
}

#[test]
fn fr_14_an_answer_that_does_not_fit_the_handshake_is_502_and_opens_nothing() {
    let bed = Bed::new(TALK);
    let good = accept_key(KEY.as_bytes());
    let line = |name: &str, value: &str| format!("{name}: {value}\r\n");
    let join = |lines: &[&str]| lines.concat();
    let (connection, websocket) = (line("Connection", "Upgrade"), line("Upgrade", "websocket"));
    let upgrade = join(&[&connection, &websocket]);
    let accept = line("Sec-WebSocket-Accept", &good);
    let offer = "Sec-WebSocket-Protocol: chat, superchat\r\n";
    let protocol = |name: &str| line("Sec-WebSocket-Protocol", name);
    for (what, head) in [
        ("another key's answer", join(&[&upgrade, &line("Sec-WebSocket-Accept", &accept_key(b"x"))])),
        ("no answer to the key", upgrade.clone()),
        ("two answers", join(&[&upgrade, &accept, &accept])),
        ("another protocol", join(&[&connection, &line("Upgrade", "h2c"), &accept])),
        ("no upgrade", join(&[&connection, &accept])),
        ("an upgrade that the connection does not name", join(&[&websocket, &accept])),
        ("an extension", join(&[&upgrade, &accept, &line("Sec-WebSocket-Extensions", "permessage-deflate")])),
        ("a subprotocol that was not offered", join(&[&upgrade, &accept, &protocol("other")])),
        ("two subprotocols", join(&[&upgrade, &accept, &protocol("chat, superchat")])),
    ] {
        script(&bed, move |peer| {
            if peer.head().is_some() {
                peer.say(format!("HTTP/1.1 101 Switching Protocols\r\n{head}\r\n"));
                peer.say(frame(TEXT, b"through the hole", None));
                peer.rest();
            }
        });
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        let mark = bed.mark();
        wire.send([handshake("api.good.test", offer).into_bytes(), frame(TEXT, b"early", MASK)].concat());
        assert_eq!(wire.head().map(|head| head.status), Some(502), "{what}");
        let (rest, _) = wire.rest();
        assert!(!String::from_utf8_lossy(&rest).contains("through the hole"), "{what}");
        let id = bed.since(mark, 1).decided("allow", &[]).text("id").to_owned();
        bed.gate.wait_for_record(what, |record| {
            record.is_end() && record.text("id") == id && record.text("reason") == "upstream_protocol"
        });
        assert!(upstream(&bed).is_empty(), "{what}");
    }
    let chosen = join(&[&upgrade, &accept, &protocol("superchat")]);
    script(&bed, move |peer| {
        if peer.head().is_some() {
            peer.say(format!("HTTP/1.1 101 Switching Protocols\r\n{chosen}\r\n"));
            peer.rest();
        }
    });
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(handshake("api.good.test", offer));
    let head = wire.head().unwrap();
    assert_eq!((head.status, head.header("sec-websocket-protocol")), (101, Some("superchat")));
    assert_eq!(head.header("sec-websocket-accept"), Some(good.as_str()));
}

#[test]
fn fr_13_half_a_handshake_is_400_before_anything_is_asked_upstream() {
    let bed = Bed::new(TALK);
    let whole = handshake("api.good.test", "");
    for (what, asked) in [
        ("an old version", whole.replace("Version: 13", "Version: 8")),
        ("two versions", handshake("api.good.test", "Sec-WebSocket-Version: 8\r\n")),
        ("no key", whole.replace("Sec-WebSocket-Key", "X-Key")),
        ("a short key", whole.replace(KEY, "c2hvcnQ=")),
        ("a key that is not base64", whole.replace(KEY, "dGhlIHNhbXBsZSBub25jZQ!!")),
        ("two keys", handshake("api.good.test", &format!("Sec-WebSocket-Key: {KEY}\r\n"))),
        ("another method", whole.replace("GET", "POST")),
        ("a body", handshake("api.good.test", "Content-Length: 4\r\n") + "body"),
        ("nothing that names the upgrade", whole.replace("Connection: Upgrade", "Connection: keep-alive")),
    ] {
        let mark = bed.mark();
        assert_eq!(bed.fetch("api.good.test", &asked).map(|answer| answer.status), Some(400), "{what}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
    }
    let old = whole.replace("HTTP/1.1", "HTTP/1.0");
    let answer = bed.fetch("api.good.test", old).map(|answer| answer.status);
    assert_ne!(answer, Some(101), "HTTP/1.0 cannot be left for another protocol");
    let empty = handshake("api.good.test", "Content-Length: 0\r\n");
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(empty);
    assert_eq!(wire.head().map(|head| head.status), Some(101));
}

#[test]
fn fr_12_compression_is_not_offered_and_nothing_else_is_missing() {
    let bed = Bed::new(TALK);
    let offer =
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nOrigin: https://a.test\r\n";
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(handshake("api.good.test", offer));
    let head = wire.head().unwrap();
    assert_eq!((head.status, head.header("sec-websocket-extensions")), (101, None));
    let asked = bed.world.origin.requests().pop().unwrap();
    assert!(asked.header("sec-websocket-extensions").is_empty());
    assert_eq!(asked.header("origin"), ["https://a.test"]);
    assert_eq!(asked.header("sec-websocket-key"), [KEY]);
}

#[test]
fn dl_31_a_canary_in_a_message_closes_with_1008_and_never_goes_up() {
    let bed = Bed::new(TALK);
    let k2 = &*K2;
    let (first, second) = k2.split_at(9);
    let in_base64 = STANDARD.encode(format!("x{k2}"));
    for (what, sent) in [
        ("a text", frame(TEXT, format!("before {k2} after").as_bytes(), MASK)),
        ("a binary message", frame(BINARY, &[b"\0\xFF", k2.as_bytes()].concat(), MASK)),
        ("base64", frame(TEXT, in_base64.as_bytes(), MASK)),
        (
            "fragments that cut it",
            [
                raw_frame(TEXT, format!("before {first}").as_bytes(), MASK),
                frame(PING, b"between", MASK),
                raw_frame(128, format!("{second} after").as_bytes(), MASK),
            ]
            .concat(),
        ),
        (
            "fragments of a byte",
            k2.bytes()
                .enumerate()
                .flat_map(|(at, byte)| raw_frame(if at == 0 { TEXT } else { CONTINUATION }, &[byte], MASK))
                .chain(raw_frame(128, b" ", MASK))
                .collect(),
        ),
        ("the reason of a close", frame(CLOSE, &[&1000_u16.to_be_bytes()[..], k2.as_bytes()].concat(), MASK)),
        ("the end of a long message", frame(TEXT, format!("{}{k2}", ".".repeat(200_000)).as_bytes(), MASK)),
    ] {
        let mut wire = open(&bed);
        wire.send(frame(TEXT, b"clean", MASK));
        assert_eq!(message(&mut wire), Some((TEXT, b"clean".to_vec())), "{what}");
        let mark = bed.gate.records().len();
        wire.send(sent);
        assert_eq!(closed_with(&mut wire), Some(1008), "{what}");
        let is_end = |record: &&Record| record.is_end() && record.number("close_code") == Some(1008);
        let found = || bed.gate.records().iter().skip(mark).find(is_end).cloned();
        let end = wait_until(Duration::from_secs(5), found).expect(what);
        assert_eq!((end.text("outcome"), end.text("reason")), ("blocked", "dlp"), "{what}");
        assert!(end.mentions("\"message\"") && !end.mentions(k2), "{what}: {}", end.0);
        let said = said_upstream(&bed);
        assert!(
            !said.contains(k2) && !said.contains(&in_base64) && !said.contains(&k2[4..]),
            "{what}: {said}"
        );
        assert!(upstream(&bed).iter().any(|frame| frame.kind == CLOSE), "{what}: the origin is told");
    }
    let mut wire = open(&bed);
    for clean in ["ghp_ is how they begin", "and no more", &STANDARD.encode(pattern(3000))] {
        wire.send(frame(TEXT, clean.as_bytes(), MASK));
        assert_eq!(message(&mut wire), Some((TEXT, clean.as_bytes().to_vec())));
    }
}

#[test]
fn dl_49_a_rule_that_only_logs_lets_messages_pass_and_says_so() {
    let bed = Bed::new(&format!("{TALK}  [rule.dlp]\n  on_match = \"log\"\n"));
    let mut wire = open(&bed);
    let text = format!("before {} after", *K2);
    wire.send(frame(TEXT, text.as_bytes(), MASK));
    assert_eq!(message(&mut wire), Some((TEXT, text.into_bytes())));
    wire.send(frame(CLOSE, &1000_u16.to_be_bytes(), MASK));
    assert_eq!(closed_with(&mut wire), Some(1000));
    let end = end(&bed);
    assert_eq!((end.text("outcome"), end.text("reason")), ("done", "dlp"));
    assert!(end.mentions("\"message\""), "{}", end.0);
}

#[test]
fn dl_31_where_nothing_is_inspected_messages_pass_as_they_are() {
    let bed = Bed::new(&format!("{TALK}  [rule.dlp]\n  outbound = []\n"));
    let mut wire = open(&bed);
    wire.send(frame(TEXT, K2.as_bytes(), MASK));
    assert_eq!(message(&mut wire), Some((TEXT, K2.as_bytes().to_vec())));
}

#[test]
fn dl_28_a_message_that_is_too_long_to_inspect_does_not_pass() {
    let bed = Bed::new(&format!("{TALK}  [rule.dlp]\n  max_body = \"1 KiB\"\n"));
    let mut wire = open(&bed);
    for _ in 0..3 {
        wire.send(frame(TEXT, &[b'.'; 1024], MASK));
        assert!(message(&mut wire).is_some(), "each message has its own limit");
    }
    wire.send(frame(TEXT, &[b'.'; 1025], MASK));
    assert_eq!(closed_with(&mut wire), Some(1009));
    assert_eq!(end(&bed).text("reason"), "dlp_limit");
}

#[test]
fn dl_40_inbound_detectors_read_what_comes_back() {
    let bed = Bed::new(&format!("{TALK}  [rule.dlp]\n  inbound = [\"tokens\"]\n"));
    let (first, second) = K2.split_at(7);
    let leak = [
        frame(TEXT, b"hello", None),
        raw_frame(TEXT, first.as_bytes(), None),
        raw_frame(128, format!("{second} ").as_bytes(), None),
    ];
    saying(&bed, leak.concat());
    let mut wire = open(&bed);
    assert_eq!(message(&mut wire), Some((TEXT, b"hello".to_vec())));
    let (rest, _) = wire.rest();
    assert!(rest.ends_with(&frame(CLOSE, &1008_u16.to_be_bytes(), None)), "{rest:?}");
    assert!(!String::from_utf8_lossy(&rest).contains(second));
    assert_eq!(end(&bed).text("reason"), "dlp");
}

#[test]
fn cr_04_a_credential_is_masked_in_every_message_that_comes_back() {
    let bed = with(&P4.replace("action = \"allow\"\n", "action = \"allow\"\nwebsocket = true\n"));
    let (first, second) = K5.split_at(K5.len() / 2);
    let frames = [
        frame(TEXT, format!("you sent {} to me", *K5).as_bytes(), None),
        raw_frame(BINARY, first.as_bytes(), None),
        raw_frame(128, second.as_bytes(), None),
        frame(PING, &K5.as_bytes()[..K5.len().min(125)], None),
        frame(TEXT, STANDARD.encode(format!("user:{}", *K5)).as_bytes(), None),
        frame(CLOSE, &[&1000_u16.to_be_bytes()[..], K5.as_bytes()].concat(), None),
    ];
    saying(&bed, frames.concat());
    let mut wire = open(&bed);
    let head = bed.world.origin.connections().last().unwrap().text();
    assert!(head.contains(&format!("Bearer {}", *K5)), "the origin has the credential");
    let masked = "*".repeat(K5.len());
    assert_eq!(message(&mut wire), Some((TEXT, format!("you sent {masked} to me").into_bytes())));
    assert_eq!(message(&mut wire), Some((BINARY, masked.clone().into_bytes())));
    let (kind, ping) = message(&mut wire).unwrap();
    assert!(kind == PING && ping.len() <= 4, "{ping:?}");
    let (_, encoded) = message(&mut wire).unwrap();
    let stars = encoded.iter().filter(|byte| **byte == b'*').count();
    assert!(stars + 2 >= K5.len(), "{}", String::from_utf8_lossy(&encoded));
    assert_eq!(message(&mut wire), Some((CLOSE, [&1000_u16.to_be_bytes()[..], masked.as_bytes()].concat())));
    assert!(end(&bed).mentions("secret_redacted"));
}

#[test]
fn fr_12_what_the_standard_forbids_a_client_ends_the_connection_and_goes_nowhere() {
    let bed = Bed::new(TALK);
    let bad_text = b"caf\xC3\x28";
    for (what, sent, code) in [
        ("no mask", frame(TEXT, b"forbidden", None), 1002),
        ("a reserved bit", raw_frame(0xC1, b"forbidden", MASK), 1002),
        ("a reserved opcode", raw_frame(0x83, b"forbidden", MASK), 1002),
        ("a ping in fragments", raw_frame(PING, b"forbidden", MASK), 1002),
        ("a long ping", raw_frame(0x89, &[b'f'; 126], MASK), 1002),
        ("a continuation of nothing", raw_frame(128, b"forbidden", MASK), 1002),
        (
            "a message in a message",
            [raw_frame(TEXT, b"a", MASK), frame(TEXT, b"forbidden", MASK)].concat(),
            1002,
        ),
        ("a length in a long form", vec![0x82, 0xFE, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5], 1002),
        ("a text that is not UTF-8", frame(TEXT, bad_text, MASK), 1007),
        ("a text that ends inside a character", frame(TEXT, b"\xE2\x82", MASK), 1007),
        ("a close with half a code", frame(CLOSE, &[3], MASK), 1002),
        ("a close with a code that is none", frame(CLOSE, &1005_u16.to_be_bytes(), MASK), 1002),
        ("a close whose reason is not UTF-8", frame(CLOSE, b"\x03\xE8\xC0\xAF", MASK), 1007),
    ] {
        let mark = bed.gate.records().len();
        let mut wire = open(&bed);
        wire.send([frame(TEXT, b"fine", MASK), sent].concat());
        assert_eq!(
            message(&mut wire),
            Some((TEXT, b"fine".to_vec())),
            "{what}: what came before is answered"
        );
        assert_eq!(closed_with(&mut wire), Some(code), "{what}");
        assert_eq!(wire.rest().0, b"", "{what}");
        let is_end = |record: &&Record| record.is_end() && record.number("close_code").is_some();
        let end =
            wait_until(Duration::from_secs(5), || bed.gate.records().iter().skip(mark).find(is_end).cloned());
        let end = end.expect(what);
        assert_eq!((end.text("outcome"), end.text("reason")), ("blocked", "bad_framing"), "{what}");
        assert!(!said_upstream(&bed).contains("forbidden"), "{what}");
        assert!(
            upstream(&bed).iter().all(|frame| [TEXT, CLOSE, CONTINUATION].contains(&frame.kind)),
            "{what}"
        );
    }
}

#[test]
fn fr_12_what_the_standard_forbids_an_origin_ends_the_connection_and_comes_nowhere() {
    let bed = Bed::new(TALK);
    for (what, said, code) in [
        ("a mask", frame(TEXT, b"forbidden", MASK), 1002_u16),
        ("a reserved bit", raw_frame(0xA1, b"forbidden", None), 1002),
        ("a continuation of nothing", raw_frame(128, b"forbidden", None), 1002),
        ("a text that is not UTF-8", frame(TEXT, b"forbidden \xFF", None), 1007),
    ] {
        saying(&bed, [frame(TEXT, b"fine", None), said].concat());
        let mark = bed.gate.records().len();
        let mut wire = open(&bed);
        assert_eq!(message(&mut wire), Some((TEXT, b"fine".to_vec())), "{what}");
        let (rest, _) = wire.rest();
        assert_eq!(rest, frame(CLOSE, &1011_u16.to_be_bytes(), None), "{what}");
        let is_end = |record: &&Record| record.is_end() && record.number("close_code").is_some();
        let end =
            wait_until(Duration::from_secs(5), || bed.gate.records().iter().skip(mark).find(is_end).cloned());
        let end = end.expect(what);
        assert_eq!((end.text("outcome"), end.text("reason")), ("failed", "upstream_protocol"), "{what}");
        let told = || upstream(&bed).iter().any(|frame| frame.payload == code.to_be_bytes()).then_some(());
        assert!(wait_until(Duration::from_secs(5), told).is_some(), "{what}: {:?}", upstream(&bed));
    }
}

#[test]
fn fr_12_the_handshake_of_a_close_passes_both_ways() {
    let bed = Bed::new(TALK);
    let with_reason = [&4001_u16.to_be_bytes()[..], "später".as_bytes()].concat();
    for payload in [&[][..], &1001_u16.to_be_bytes(), &with_reason] {
        let mut wire = open(&bed);
        wire.send(frame(CLOSE, payload, MASK));
        assert_eq!(message(&mut wire), Some((CLOSE, payload.to_vec())));
        assert_eq!(wire.rest(), (Vec::new(), End::Closed));
    }
    // An origin that closes has its close answered by the client, not by the gate.
    saying(&bed, frame(CLOSE, &with_reason, None));
    let mut wire = open(&bed);
    assert_eq!(message(&mut wire), Some((CLOSE, with_reason)));
    assert!(upstream(&bed).is_empty());
    wire.send(frame(CLOSE, &4001_u16.to_be_bytes(), MASK));
    let told = || upstream(&bed).iter().any(|frame| frame.payload == 4001_u16.to_be_bytes()).then_some(());
    assert!(wait_until(Duration::from_secs(5), told).is_some());
    assert_eq!(wire.rest(), (Vec::new(), End::Closed));
    let codes = || -> Vec<u64> {
        bed.gate.records().iter().filter_map(|record| record.number("close_code")).collect()
    };
    wait_until(Duration::from_secs(5), || (codes().len() == 4).then_some(()));
    assert_eq!(codes(), [1005, 1001, 4001, 4001]);
}

#[test]
fn fr_12_a_side_that_is_gone_takes_the_other_with_it() {
    let bed = Bed::new(TALK);
    let wire = open(&bed);
    drop(wire);
    let gone = end(&bed);
    assert_eq!((gone.text("outcome"), gone.number("close_code")), ("abandoned", Some(1006)));
    script(&bed, |peer| {
        if accept(peer).is_some() {
            peer.say(frame(TEXT, b"last words", None));
        }
    });
    let mut wire = open(&bed);
    assert_eq!(message(&mut wire), Some((TEXT, b"last words".to_vec())));
    assert_eq!(wire.rest(), (Vec::new(), End::Closed));
    bed.gate.wait_for_record("the origin is gone", |record| {
        record.is_end() && record.text("outcome") == "failed" && record.number("close_code") == Some(1006)
    });
}

#[test]
fn rs_06_a_huge_message_streams_in_flat_memory() {
    const LENGTH: usize = 48 << 20;
    let bed = Bed::new(TALK);
    let mut wire = open(&bed);
    wire.send(frame(TEXT, b"warm", MASK));
    assert!(message(&mut wire).is_some());
    let (growth, seen) = std::thread::scope(|scope| {
        let before = bed.gate.resident_kib();
        script(&bed, |peer| {
            if accept(peer).is_some() {
                peer.rest();
            }
        });
        let mut wire = open(&bed);
        let sender = scope.spawn(move || {
            let whole = frame(BINARY, &pattern(LENGTH), Some([0; 4]));
            wire.send(whole);
            wire.send(frame(CLOSE, &1000_u16.to_be_bytes(), MASK));
            wire
        });
        let mut peak = before;
        let all = || {
            peak = peak.max(bed.gate.resident_kib());
            bed.gate.records().into_iter().find(|record| {
                record.is_end() && record.number("bytes_up").is_some_and(|bytes| bytes >= LENGTH as u64)
            })
        };
        let end = wait_until(Duration::from_secs(120), all);
        drop(sender.join());
        (peak - before, end.is_some())
    });
    assert!(seen, "{:?}", bed.gate.records().last().map(|record| record.0.clone()));
    assert!(growth < 16 << 10, "resident memory grew by {growth} KiB");
}

#[test]
fn rs_06_the_beginning_of_a_message_does_not_wait_for_its_end() {
    let bed = Bed::new(TALK);
    let mut wire = open(&bed);
    let payload = pattern(300_000);
    let whole = frame(BINARY, &payload, MASK);
    let (first, rest) = whole.split_at(200_000);
    wire.send(first);
    let (kind, mut echoed) = receive(&mut wire).unwrap();
    assert_eq!(kind, BINARY);
    assert!(payload.starts_with(&echoed) && echoed.len() >= 64 << 10);
    wire.send(rest);
    while echoed.len() < payload.len() {
        let (kind, more) = receive(&mut wire).unwrap();
        assert_eq!(kind, CONTINUATION);
        echoed.extend(more);
    }
    assert_eq!(sha256(&echoed), sha256(&payload));
}

#[test]
fn cl_07_a_fragment_that_ends_like_the_beginning_of_a_token_does_not_hang() {
    let bed = Bed::new(TALK);
    let mut wire = open(&bed);
    wire.send(raw_frame(TEXT, b"it is ghp_", MASK));
    let mut echoed = Vec::new();
    while echoed != b"it is ghp_" {
        echoed.extend(receive(&mut wire).expect("nothing is kept back for ever").1);
    }
    wire.send(raw_frame(128, &K2.as_bytes()[4..], MASK));
    assert_eq!(closed_with(&mut wire), Some(1008), "what was released is still in mind");
    assert!(!said_upstream(&bed).contains(&K2[..12]));
}

const HOOK: &str = r#"
fn message(ws) {
    if ws.direction == "down" { return pass(); }
    if ws.kind == "binary" { return if ws.length < 9 { pass() } else { deny("too long for us") }; }
    if ws.text.starts_with("ask:") && ws.path == "/ws" { pass() } else { deny("not a question") }
}
"#;

fn hooked() -> Bed {
    Bed::with(&Setup {
        policy: format!("{TALK}  [rule.script]\n  file = \"hook.rhai\"\n"),
        beside: vec![("hook.rhai", HOOK.to_owned())],
        limits: "script_wall_time = \"5s\"",
        ..Setup::default()
    })
}

#[test]
fn pl_06_a_script_is_asked_about_each_whole_message() {
    let bed = hooked();
    let (question, no) = (frame(TEXT, b"ask: why?", MASK), frame(TEXT, b"tell: all", MASK));
    let cut =
        [raw_frame(TEXT, b"as", MASK), frame(PING, b"x", MASK), raw_frame(128, b"k: cut", MASK)].concat();
    let cut_no = [raw_frame(TEXT, b"ask", MASK), raw_frame(128, b"no: cut", MASK)].concat();
    for (what, sent, code) in [
        ("another text", no, 1008),
        ("a fragment that looks right alone", cut_no, 1008),
        ("a long binary message", frame(BINARY, &[0; 9], MASK), 1008),
        ("more than a text of a script", frame(TEXT, &[&b"ask:"[..], &[b'.'; 5000]].concat(), MASK), 1008),
        ("more than is held", frame(TEXT, &[&b"ask:"[..], &[b'.'; 70_000]].concat(), MASK), 1009),
    ] {
        let mut wire = open(&bed);
        wire.send(&question);
        assert_eq!(message(&mut wire), Some((TEXT, b"ask: why?".to_vec())), "{what}");
        wire.send(&cut);
        let mut got = vec![message(&mut wire), message(&mut wire)];
        got.sort();
        assert_eq!(got, [Some((TEXT, b"ask: cut".to_vec())), Some((PONG, b"x".to_vec()))], "{what}");
        wire.send(frame(BINARY, &[7; 8], MASK));
        assert_eq!(message(&mut wire), Some((BINARY, vec![7; 8])), "{what}");
        wire.send(sent);
        assert_eq!(closed_with(&mut wire), Some(code), "{what}");
        let said = upstream(&bed).into_iter().filter(|frame| frame.kind <= BINARY).map(|frame| frame.payload);
        let said: Vec<_> = said.collect();
        assert_eq!(said, [b"ask: why?".to_vec(), b"ask: cut".to_vec(), vec![7; 8]], "{what}");
    }
    bed.gate.wait_for_record("the script's word", |record| {
        record.is_end() && record.text("reason") == "script_denied" && record.mentions("not a question")
    });
    let mut wire = open(&bed);
    wire.send(frame(CLOSE, &[&1000_u16.to_be_bytes()[..], b"in the reason"].concat(), MASK));
    assert_eq!(
        message(&mut wire),
        Some((CLOSE, 1000_u16.to_be_bytes().to_vec())),
        "no reason passes beside it"
    );
}

#[test]
fn fr_12_silence_ends_it_and_a_ping_keeps_it() {
    let bed =
        Bed::with(&Setup { policy: TALK.into(), limits: "tunnel_idle_timeout = \"2s\"", ..Setup::default() });
    let mut wire = open(&bed);
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        wire.send(frame(PING, b"still", MASK));
        assert_eq!(message(&mut wire), Some((PONG, b"still".to_vec())));
        std::thread::park_timeout(Duration::from_millis(200));
    }
    assert_eq!(closed_with(&mut wire), Some(1001));
    assert_eq!((end(&bed).text("reason"), end(&bed).number("close_code")), ("timeout", Some(1001)));
}

#[test]
fn fr_12_a_frame_that_does_not_go_on_is_not_waited_for_for_ever() {
    let bed = Bed::with(&Setup { policy: TALK.into(), limits: "body_patience = \"1s\"", ..Setup::default() });
    let mut wire = open(&bed);
    std::thread::park_timeout(Duration::from_millis(1500));
    wire.send(frame(TEXT, b"between frames there is time", MASK));
    assert!(message(&mut wire).is_some());
    wire.send(&frame(TEXT, b"half a frame", MASK)[..8]);
    assert_eq!(closed_with(&mut wire), Some(1008));
    assert_eq!(end(&bed).text("reason"), "timeout");
}

#[test]
fn cl_node_opens_a_websocket_with_nothing_but_the_authority() {
    let bed = Bed::new(TALK);
    let program = "const ws = new WebSocket('wss://api.good.test/ws'); const big = 'x'.repeat(200000); \
        ws.onopen = () => { ws.send('hello'); ws.send(big); }; let n = 0; \
        ws.onmessage = e => { n += e.data.length; if (n == 200005) ws.close(1000, 'done'); }; \
        ws.onclose = e => { console.log(n, e.code, e.reason, e.wasClean, ws.extensions); }; \
        ws.onerror = e => { console.log('error', e.message); process.exit(3); };";
    let said = bed.succeed(&format!("node --experimental-websocket -e \"{program}\""));
    assert_eq!(said.trim(), "200005 1000 done true");
    assert_eq!(end(&bed).number("messages_up"), Some(2));
}
