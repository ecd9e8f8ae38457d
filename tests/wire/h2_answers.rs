//! Gauntlet FT, SM and HT over HTTP/2 to the upstream side: an answer is whole with its END_STREAM and with nothing else,
//! has the one reading that it would have over HTTP/1, and costs no more than an honest one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::frames::*;
use crate::support::gate::wait_until;
use crate::support::h2::H2;
use crate::support::message::Response;
use crate::support::origin::Conversation;
use crate::support::*;

const URL: &str = "https://api.good.test/";
const NO_ERROR: u32 = 0;

/// What an HTTP/2 host says to a request, and whether it goes on with the connection.
type Say = Arc<dyn Fn(&mut Conversation, u32) -> bool + Send + Sync>;

/// `api.good.test`, which speaks HTTP/2 only, and answers each request as it was last told to.
struct Host {
    bed: Bed,
    say: Arc<Mutex<Say>>,
}

impl Host {
    fn new() -> Self {
        Self::beginning_with(frame(SETTINGS, 0, 0, []))
    }

    /// One whose connections begin with these frames.
    fn beginning_with(first: Vec<u8>) -> Self {
        let bed = Bed::new(P1);
        let say: Arc<Mutex<Say>> = Arc::new(Mutex::new(Arc::new(|_, _| false)));
        for ip in [PUB1, PUB1_V6] {
            let (first, say) = (first.clone(), say.clone());
            bed.world.origin.script_h2((ip, 443), move |peer: &mut Conversation| {
                peer.exactly(PREFACE.len());
                peer.say(&first);
                while let Some((kind, flags, stream)) = next_frame(peer) {
                    let say = say.lock().unwrap().clone();
                    match kind {
                        SETTINGS if flags & 1 == 0 => peer.say(frame(SETTINGS, 1, 0, [])),
                        HEADERS if !say(peer, stream) => return,
                        _ => {}
                    }
                }
            });
        }
        Self { bed, say }
    }

    fn does(&self, say: impl Fn(&mut Conversation, u32) -> bool + Send + Sync + 'static) {
        *self.say.lock().unwrap() = Arc::new(say);
    }

    /// Answers with these frames of the request's stream.
    fn says(&self, of: impl Fn(u32) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        self.does(move |peer, stream| peer.tell(of(stream).concat()));
    }

    /// The same, and then ends the connection.
    fn says_and_closes(&self, of: impl Fn(u32) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        self.does(move |peer, stream| {
            peer.say(of(stream).concat());
            false
        });
    }
}

fn next_frame(peer: &mut Conversation) -> Option<(u8, u8, u32)> {
    let head = peer.exactly(9)?;
    peer.exactly(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize)?;
    Some((head[3], head[4], u32::from_be_bytes(head[5..9].try_into().unwrap())))
}

fn ok(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    head(stream, 0, &[&[(":status", "200")], more].concat())
}

fn data(stream: u32, flags: u8, text: &str) -> Vec<u8> {
    frame(DATA, flags, stream, text)
}

fn over_h1(Host { bed, .. }: &Host) -> Option<Response> {
    bed.fetch("api.good.test", get("api.good.test", "/"))
}

fn over_h2(Host { bed, .. }: &Host) -> Result<(u16, String), String> {
    let (response, _) = H2::connect(bed, PUB1, "api.good.test").get(URL)?;
    Ok((response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned()))
}

/// Both clients are shown that the answer broke off, or get a 502, and so do the records say.
fn is_cut(host: &Host, what: &str) {
    let ends = || host.bed.gate.records().iter().filter(|record| record.is_end()).count();
    let before = ends();
    let first = over_h1(host);
    assert!(
        first.as_ref().is_none_or(|answer| !answer.complete || answer.status == 502),
        "{what}: {first:?}"
    );
    let second = over_h2(host);
    assert!(second.as_ref().map_or(true, |(status, _)| *status == 502), "{what}: {second:?}");
    let both = || (ends() == before + 2).then_some(());
    assert!(wait_until(Duration::from_secs(10), both).is_some(), "{what}: both have their end");
    let records = host.bed.gate.records();
    for end in records.iter().filter(|record| record.is_end()).skip(before) {
        assert_eq!(end.text("outcome"), "failed", "{what}: {}", end.0);
    }
}

fn is_whole(host: &Host, what: &str) {
    let answer = over_h1(host).unwrap();
    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "hello", true), "{what}");
    assert_eq!(over_h2(host), Ok((200, "hello".to_owned())), "{what}");
}

/// Both clients get a 502 and nothing of the host's answer.
fn is_refused(host: &Host, what: &str) {
    assert_eq!(over_h1(host).map(|answer| answer.status), Some(502), "{what}");
    assert_eq!(over_h2(host).map(|(status, _)| status), Ok(502), "{what}");
    host.bed
        .gate
        .wait_for_record(what, |record| record.is_end() && record.text("reason") == "upstream_protocol");
}

#[test]
fn ft_01_02_an_answer_without_its_end_of_stream_is_visibly_cut() {
    let five = [("content-length", "5")];
    let host = Host::new();
    host.says(|n| vec![ok(n, &[]), data(n, 0, "hello"), reset(n, NO_ERROR)]);
    is_cut(&host, "data and a reset without error");
    host.says(|n| vec![ok(n, &[]), reset(n, NO_ERROR)]);
    is_cut(&host, "a reset without error behind the head");
    host.says(|n| vec![ok(n, &[]), data(n, 0, "hello"), reset(n, CANCEL)]);
    is_cut(&host, "a reset with an error");
    host.says(move |n| vec![ok(n, &five), data(n, 0, "hello"), reset(n, NO_ERROR)]);
    is_cut(&host, "the stated length and a reset");
    host.says(move |n| vec![ok(n, &five), data(n, 0, "hello"), data(n, 0, "more")]);
    is_cut(&host, "more than the stated length");
    host.says_and_closes(move |n| vec![ok(n, &five), data(n, 0, "hello")]);
    is_cut(&host, "the stated length and a close");
    host.says_and_closes(|n| vec![ok(n, &[]), data(n, 0, "hello")]);
    is_cut(&host, "data and a close");
    host.says_and_closes(|n| vec![ok(n, &[]), data(n, 0, "hello"), frame(GOAWAY, 0, 0, [0; 8])]);
    is_cut(&host, "data and a GOAWAY without error");
}

#[test]
fn ft_01_02_an_answer_with_its_end_of_stream_is_whole_whatever_follows() {
    let five = [("content-length", "5")];
    let host = Host::new();
    host.says(|n| vec![ok(n, &[]), data(n, END_STREAM, "hello"), reset(n, NO_ERROR)]);
    is_whole(&host, "a reset without error behind the end");
    host.says(move |n| vec![ok(n, &five), data(n, 0, "hello"), data(n, END_STREAM, "")]);
    is_whole(&host, "the stated length, and then the end");
    host.says(move |n| vec![ok(n, &five), data(n, 0, "hel"), data(n, 0, ""), data(n, END_STREAM, "lo")]);
    is_whole(&host, "an empty piece between");
    host.says(move |n| {
        vec![ok(n, &five), data(n, 0, "hello"), data(n, 0, ""), head(n, END_STREAM, &[("x", "y")])]
    });
    is_whole(&host, "the stated length, and then trailers");
    host.says_and_closes(|n| vec![ok(n, &[]), data(n, 0, "hello"), data(n, END_STREAM, "")]);
    is_whole(&host, "a close behind the end");
}

#[test]
fn ft_18_a_request_on_an_h2_connection_that_dies_under_it_is_tried_once_more_if_it_may_be() {
    let host = Host::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    // One request a connection, which it keeps, and closes when the next one arrives.
    host.does(move |peer, stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        stream == 1 && peer.tell([ok(stream, &[]), data(stream, END_STREAM, "hello")].concat())
    });
    let ask = |method: &str, body: &str| {
        let dialled = || host.bed.world.origin.connections().len();
        let (connections, requests) = (dialled(), seen.load(Ordering::Relaxed));
        let client = H2::connect(&host.bed, PUB1, "api.good.test");
        let request = http::Request::builder().method(method).uri(URL).body(()).unwrap();
        let (answer, _) = client.send(request, (!body.is_empty()).then(|| body.into())).unwrap();
        (answer.status().as_u16(), dialled() - connections, seen.load(Ordering::Relaxed) - requests)
    };
    assert_eq!(ask("GET", ""), (200, 1, 1));
    for method in ["GET", "OPTIONS", "DELETE"] {
        assert_eq!(ask(method, ""), (200, 1, 2), "{method}: once more, on a fresh connection");
    }
    for (method, body) in [("POST", "x"), ("PUT", "x"), ("PATCH", "x"), ("POST", "")] {
        assert_eq!(ask(method, body), (502, 0, 1), "{method}: on the kept connection, and not repeated");
        assert_eq!(ask("GET", ""), (200, 1, 1), "and the next one opens another");
    }
    // One that dies under every request is asked twice, and no more.
    host.does(|_, _| false);
    assert_eq!(ask("GET", ""), (502, 1, 0));
}

#[test]
fn sm_40_the_head_of_an_answer_has_the_limits_of_http_1() {
    let host = Host::new();
    let names: Arc<Vec<String>> = Arc::new((0..140).map(|n| format!("x-{n}")).collect());
    let answer = move |fields: usize| {
        let names = names.clone();
        move |n| {
            let more: Vec<_> = names[..fields].iter().map(|name| (name.as_str(), "v")).collect();
            vec![ok(n, &more), data(n, END_STREAM, "hello")]
        }
    };
    host.says(answer(128));
    is_whole(&host, "as many as it may have");
    host.says(answer(129));
    is_refused(&host, "one more");
    host.says(answer(140));
    is_refused(&host, "twelve more");
}

#[test]
fn sm_13_a_length_that_is_no_number_is_refused_in_an_answer() {
    let host = Host::new();
    for lengths in [&[""][..], &["+5"], &["5, 5"], &["0x5"], &["5", "5"], &["5", "6"]] {
        host.says(move |n| {
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            vec![ok(n, &fields), data(n, END_STREAM, "hello")]
        });
        is_refused(&host, &format!("{lengths:?}"));
    }
    host.says(|n| vec![ok(n, &[("content-length", "005")]), data(n, END_STREAM, "hello")]);
    is_whole(&host, "a decimal number");
}

/// Fields that no block may have, over and above what the `h2` crate refuses.
const BAD: [(&str, &str); 6] =
    [("x\"y", "v"), ("x", " v"), ("x", "v "), ("x", "\tv"), ("x", "v\t"), ("x", " ")];

#[test]
fn sm_36_a_field_that_is_malformed_is_refused_in_a_head_and_cuts_in_trailers() {
    let host = Host::new();
    for field in BAD {
        host.says(move |n| vec![ok(n, &[field]), data(n, END_STREAM, "hello")]);
        is_refused(&host, &format!("{field:?} in a head"));
        host.says(move |n| vec![ok(n, &[]), data(n, 0, "hello"), head(n, END_STREAM, &[field])]);
        is_cut(&host, &format!("{field:?} in trailers"));
        host.says(move |n| {
            vec![head(n, 0, &[(":status", "103"), field]), ok(n, &[]), data(n, END_STREAM, "hello")]
        });
        is_refused(&host, &format!("{field:?} in an interim answer"));
    }
    let good = [("x!#$%&'*+-.^_`|~y", "v"), ("x", "a \t b"), ("y", "")];
    host.says(move |n| vec![ok(n, &good), data(n, 0, "hello"), head(n, END_STREAM, &good)]);
    is_whole(&host, "what a field may be");
}

#[test]
fn sm_36_pseudo_header_fields_stand_where_they_belong_or_their_answer_does_not_pass() {
    let host = Host::new();
    let fields = [(":path", "/"), (":authority", "api.good.test"), (":method", "GET"), (":scheme", "https")];
    for field in fields {
        host.says(move |n| vec![head(n, 0, &[(":status", "200"), field]), data(n, END_STREAM, "hello")]);
        is_refused(&host, &format!("{field:?} beside the status"));
        host.says(move |n| vec![head(n, END_STREAM, &[field, (":status", "204")])]);
        is_refused(&host, &format!("{field:?} before the status"));
    }
    host.says(|n| vec![frame(HEADERS, END_HEADERS, n, [0x88, 0x84]), data(n, END_STREAM, "hello")]);
    is_refused(&host, "both by their places in the table");
    for field in fields.into_iter().chain([(":status", "200"), (":status", "103")]) {
        host.says(move |n| vec![ok(n, &[]), data(n, 0, "hello"), head(n, END_STREAM, &[field, ("x", "y")])]);
        is_cut(&host, &format!("{field:?} in trailers"));
    }
    host.says(|n| vec![ok(n, &[]), data(n, 0, "hello"), frame(HEADERS, END_HEADERS | END_STREAM, n, [0x88])]);
    is_cut(&host, "a status in trailers by its place in the table");
    host.says(|n| {
        vec![head(n, END_STREAM, &[(":status", "103"), ("link", "</a>")]), ok(n, &[]), data(n, 0, "hello")]
    });
    is_refused(&host, "an interim answer that ends its stream");
    host.says(|n| {
        let block = block(&[(":status", "200"), ("x", "y")]);
        let parts =
            [frame(HEADERS, 0, n, &block[..3]), frame(CONTINUATION, END_HEADERS, n, &block[3..])].concat();
        let early = head(n, 0, &[(":status", "103"), ("link", "</a>")]);
        vec![early, parts, data(n, 0, "hello"), head(n, END_STREAM, &[("x", "y")])]
    });
    is_whole(&host, "an interim answer, a head in two frames, and trailers");
}

#[test]
fn ht_04_a_host_that_sends_frames_without_work_costs_neither_log_nor_time() {
    let host = Host::new();
    let floods = [
        ("PING", frame(PING, 1, 0, [7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, setting(3, 100))),
        ("WINDOW_UPDATE", window(0, 1)),
        ("unknown", frame(0xee, 0, 0, b"?")),
    ];
    for (name, flood) in floods {
        host.does(move |peer, n| {
            let thousand = flood.repeat(1000);
            (0..200).all(|_| peer.tell(&thousand))
                && peer.tell([ok(n, &[]), data(n, END_STREAM, "hello")].concat())
        });
        is_refused(&host, name);
        host.bed.gate.wait_for_record(name, |record| {
            record.is_end() && record.mentions(&format!("more {name} frames"))
        });
    }
    let log = host.bed.gate.stderr();
    assert!(log.len() < 64 * 1024, "{} bytes of log", log.len());
    let ping = frame(PING, 0, 0, [7; 8]).repeat(500);
    host.does(move |peer, n| {
        let half = ping.len() / 2;
        peer.say(&ping[..half]);
        peer.tell([&ok(n, &[])[..], &ping[half..], &data(n, END_STREAM, "hello")].concat())
    });
    for _ in 0..4 {
        is_whole(&host, "a host with much to say beside its answer");
    }
}

#[test]
fn ht_09_a_host_that_does_not_begin_as_a_server_does_is_502() {
    let push = |value| frame(SETTINGS, 0, 0, [setting(3, 100), setting(2, value)].concat());
    let begin = |first: Vec<u8>| {
        let host = Host::beginning_with(first);
        host.says(|n| vec![ok(n, &[]), data(n, END_STREAM, "hello")]);
        host
    };
    for (what, first) in [
        ("HEADERS", [ok(1, &[]), frame(SETTINGS, 0, 0, [])].concat()),
        ("a PING", [frame(PING, 0, 0, [7; 8]), frame(SETTINGS, 0, 0, [])].concat()),
        ("only the answer to our SETTINGS", frame(SETTINGS, 1, 0, [])),
        ("SETTINGS of a client", push(1)),
    ] {
        is_refused(&begin(first), what);
    }
    is_whole(&begin(push(0)), "a server that says what goes without saying");
}
