//! Gauntlet TL-22: what no library sends behind the hello of TLS 1.3. Whatever it is, the session ends soon, and a
//! request behind it reaches nobody.

use crate::support::tls13::*;
use crate::support::*;

const LIMITS: &str = "hello_timeout = \"1s\"";

fn bed() -> Bed {
    Bed::with(&Setup { policy: P1.to_owned(), limits: LIMITS, ..Setup::default() })
}

fn begin(bed: &Bed) -> Session {
    Session::begin(bed.tcp(PUB1, 443), &bed.tls("api.good.test"))
}

fn open(bed: &Bed) -> Session {
    Session::open(bed.tcp(PUB1, 443), &bed.tls("api.good.test"))
}

/// The one request that a session is asked for last.
const BEHIND: &str = "GET /behind HTTP/1.1\r\nHost: api.good.test\r\nConnection: close\r\n\r\n";

fn asked_behind(bed: &Bed) -> usize {
    bed.world.origin.requests().iter().filter(|request| request.target == "/behind").count()
}

/// Sends the request and looks on while it is not answered.
fn ends(bed: &Bed, what: &str, mut session: Session) {
    let before = asked_behind(bed);
    let said = session.say(DATA, BEHIND).rest();
    assert!(matches!(said.end, End::Closed | End::Reset), "{what}: {said:?}");
    assert_eq!((said.data.as_str(), asked_behind(bed)), ("", before), "{what}: {said:?}");
}

fn goes_on(bed: &Bed, what: &str, mut session: Session) {
    let before = asked_behind(bed);
    let said = session.say(DATA, BEHIND).rest();
    assert!(said.data.starts_with("HTTP/1.1 200 ") && said.end == End::Closed, "{what}: {said:?}");
    assert_eq!(said.alert, Some(CLOSE_NOTIFY[1]), "{what}: it says goodbye: {said:?}");
    assert_eq!(asked_behind(bed), before + 1, "{what}");
}

#[test]
fn tl_22_a_handshake_that_does_not_end_as_it_should_carries_no_request() {
    let bed = bed();
    type Step = fn(&mut Session) -> Vec<u8>;
    let bad: [(&str, Step); 14] = [
        ("nothing", |_| vec![]),
        ("a Finished that is not right", |session| {
            let mut finished = session.finished();
            finished[20] ^= 1;
            session.handshake.seal(HANDSHAKE, &finished)
        }),
        ("a Finished that is too short", |session| {
            let finished = session.finished();
            session.handshake.seal(HANDSHAKE, &message(20, &finished[4..35]))
        }),
        ("a Finished that is too long", |session| {
            let finished = session.finished();
            session.handshake.seal(HANDSHAKE, &message(20, &[&finished[4..], &[0]].concat()))
        }),
        ("an empty Finished", |session| session.handshake.seal(HANDSHAKE, &message(20, &[]))),
        ("a Finished in the clear", |session| record(HANDSHAKE, &session.finished())),
        ("a Finished under the wrong keys", |session| {
            let finished = session.finished();
            session.data.clone().seal(HANDSHAKE, &finished)
        }),
        ("a Finished and more in its record", |session| {
            let finished = session.finished();
            session.handshake.seal(HANDSHAKE, &[finished, message(KEY_UPDATE, &[0])].concat())
        }),
        ("a certificate that nobody asked for", |session| {
            let empty = session.handshake.seal(HANDSHAKE, &message(11, &[0, 0, 0, 0]));
            let finished = session.finished();
            [empty, session.handshake.seal(HANDSHAKE, &finished)].concat()
        }),
        ("a change of keys before it", |session| {
            session.handshake.seal(HANDSHAKE, &message(KEY_UPDATE, &[0]))
        }),
        ("an end of early data that never was", |session| {
            let end = session.handshake.seal(HANDSHAKE, &message(5, &[]));
            let finished = session.finished();
            [end, session.handshake.seal(HANDSHAKE, &finished)].concat()
        }),
        ("data under the handshake's keys", |session| session.handshake.seal(DATA, BEHIND.as_bytes())),
        ("a change of cipher spec that says two", |session| {
            let finished = session.finished();
            [record(CHANGE_CIPHER_SPEC, &[2]), session.handshake.seal(HANDSHAKE, &finished)].concat()
        }),
        ("many changes of cipher spec", |session| {
            let finished = session.finished();
            let mut bytes = record(CHANGE_CIPHER_SPEC, &[1]).repeat(100);
            bytes.extend(session.handshake.seal(HANDSHAKE, &finished));
            bytes
        }),
    ];
    for (what, step) in bad {
        let mut session = begin(&bed);
        let bytes = step(&mut session);
        session.wire.send(bytes);
        ends(&bed, what, session);
    }
    let good: [(&str, Step); 3] = [
        ("a Finished as it should be", |session| {
            let finished = session.finished();
            session.handshake.seal(HANDSHAKE, &finished)
        }),
        ("one that is cut into bytes", |session| {
            let finished = session.finished();
            finished.iter().flat_map(|byte| session.handshake.seal(HANDSHAKE, &[*byte])).collect()
        }),
        ("one that is padded, behind a change of cipher spec", |session| {
            let finished = session.finished();
            let padded = [&finished[..], &[HANDSHAKE], &[0; 900]].concat();
            [record(CHANGE_CIPHER_SPEC, &[1]), session.handshake.seal_inner(&padded)].concat()
        }),
    ];
    for (what, step) in good {
        let mut session = begin(&bed);
        let bytes = step(&mut session);
        session.wire.send(bytes);
        goes_on(&bed, what, session);
    }
    bed.control();
}

#[test]
fn tl_22_what_does_not_belong_behind_a_handshake_ends_the_session() {
    let bed = bed();
    type Step = fn(&mut Session) -> Vec<u8>;
    let bad: [(&str, Step); 22] = [
        ("an unknown type", |session| session.data.seal(99, b"what")),
        ("no type at all", |session| session.data.seal_inner(&[0; 20])),
        ("nothing inside", |session| session.data.seal_inner(&[])),
        ("a record shorter than its tag", |_| record(DATA, &[7; 15])),
        ("an empty record in the clear", |_| record(DATA, &[])),
        ("bytes that nobody sealed", |_| record(DATA, &[7; 200])),
        ("a request in the clear", |_| record(DATA, BEHIND.as_bytes())),
        ("more text than a record may hold", |session| {
            session.data.seal_inner(&[&[b'a'; (1 << 14) + 1][..], &[DATA]].concat())
        }),
        ("more cipher than a record may hold", |_| record(DATA, &[7; (1 << 14) + 257])),
        ("a record of an unknown type in the clear", |_| record(99, &[1])),
        ("an alert in the clear", |_| record(ALERT, &[2, 40])),
        ("a goodbye in the clear", |_| record(ALERT, &CLOSE_NOTIFY)),
        ("a fatal alert", |session| session.data.seal(ALERT, &[2, 80])),
        ("an alert that is too short", |session| session.data.seal(ALERT, &[2])),
        ("an empty alert", |session| session.data.seal(ALERT, &[])),
        ("empty pieces of a handshake without end", |session| {
            (0..1000).flat_map(|_| session.data.seal(HANDSHAKE, &[])).collect()
        }),
        ("a change of cipher spec", |_| record(CHANGE_CIPHER_SPEC, &[1]).repeat(3)),
        ("a sealed change of cipher spec", |session| session.data.seal(CHANGE_CIPHER_SPEC, &[1])),
        ("a message without an end", |session| {
            session.data.seal(HANDSHAKE, &[&[KEY_UPDATE, 0xff, 0xff, 0xff][..], &[0; 9000]].concat())
        }),
        ("a message that data breaks", |session| session.data.seal(HANDSHAKE, &[KEY_UPDATE, 0])),
        ("a heartbeat", |session| session.data.seal(24, &[1, 0x40, 0, 1])),
        ("a second Finished", |session| {
            let finished = session.finished();
            session.data.seal(HANDSHAKE, &finished)
        }),
    ];
    for (what, step) in bad {
        let mut session = open(&bed);
        let bytes = step(&mut session);
        session.wire.send(bytes);
        ends(&bed, what, session);
    }
    // Hello, hello again, ticket, end of early data, extensions, certificate, request, verification, and no such thing.
    for kind in [0, 1, 2, 4, 5, 8, 11, 13, 15, 99] {
        let mut session = open(&bed);
        session.say(HANDSHAKE, message(kind, &[0; 4]));
        ends(&bed, &format!("a message of type {kind}"), session);
    }
    let padded = |bed: &Bed| {
        let mut session = open(bed);
        let empty = session.data.seal_inner(&[&[DATA][..], &[0; 1000]].concat());
        session.wire.send(empty);
        session
    };
    goes_on(&bed, "an empty record, padded", padded(&bed));
    bed.control();
}

#[test]
fn tl_22_keys_change_when_they_are_told_to_and_not_without_end() {
    let bed = bed();
    let changed = |times: usize, request: u8| {
        let mut session = open(&bed);
        for _ in 0..times {
            session.say(HANDSHAKE, message(KEY_UPDATE, &[request]));
            session.data.update();
        }
        session
    };
    goes_on(&bed, "a change", changed(1, 0));
    goes_on(&bed, "a change and a wish for one", changed(1, 1));
    goes_on(&bed, "a few", changed(5, 1));
    ends(&bed, "wishes without end", changed(1000, 1));
    ends(&bed, "changes without end", changed(5000, 0));
    for body in [&[][..], &[2], &[0xff], &[0, 0], &[1, 1]] {
        let mut session = open(&bed);
        session.say(HANDSHAKE, message(KEY_UPDATE, body));
        session.data.update();
        ends(&bed, &format!("a change that says {body:?}"), session);
    }
    let mut session = open(&bed);
    session.say(HANDSHAKE, message(KEY_UPDATE, &[0]));
    ends(&bed, "a change that did not happen", session);
    let mut session = open(&bed);
    session.say(HANDSHAKE, message(KEY_UPDATE, &[0]).repeat(2));
    session.data.update();
    ends(&bed, "two changes in one record", session);
    bed.control();
}

#[test]
fn tl_22_what_comes_behind_a_goodbye_is_not_read() {
    let bed = bed();
    let mut session = open(&bed);
    session.say(ALERT, CLOSE_NOTIFY);
    ends(&bed, "behind a goodbye", session);
    let mut session = open(&bed);
    session.say(DATA, get("api.good.test", "/before")).say(ALERT, CLOSE_NOTIFY);
    let said = session.say(DATA, BEHIND).rest();
    assert_eq!(asked_behind(&bed), 0, "whether or not the first was still answered");
    // What came behind and was not read makes the kernel reset the connection.
    assert!(matches!(said.end, End::Closed | End::Reset), "{:?}", said.end);
    bed.control();
}

#[test]
fn tl_22_records_without_content_do_not_come_without_end() {
    let bed = bed();
    let after = |times: usize, kind: u8, content: &[u8]| {
        let mut session = open(&bed);
        let bytes: Vec<u8> = (0..times).flat_map(|_| session.data.seal(kind, content)).collect();
        session.wire.send(bytes);
        session
    };
    goes_on(&bed, "a few empty records", after(10, DATA, &[]));
    bed.control();
    let (_, growth) = growth_during(&bed, || {
        ends(&bed, "empty records", after(10_000, DATA, &[]));
        // That the user has ended something is a warning (RFC 8446 section 6.1).
        ends(&bed, "warnings", after(10_000, ALERT, &[1, 90]));
    });
    assert!(growth < 8 << 10, "resident memory grew by {growth} KiB");
    bed.control();
}
