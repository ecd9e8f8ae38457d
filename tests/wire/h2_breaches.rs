//! Gauntlet SM-36, SM-30, PM-14, CL-10, HT-06, HT-12 and GI1 over HTTP/2: what a client may not say in a head or behind
//! it passes no rule and makes no message whole, each stream has one decision on record, and whoever waits to be told
//! that its body is wanted is told.

use http::Request;

use crate::support::bed::Mark;
use crate::support::frames::*;
use crate::support::gate::{show, wait_until};
use crate::support::h2::H2;
use crate::support::origin::Conversation;
use crate::support::wire::{End, PATIENCE};
use crate::support::*;

use Outcome::{GoAway, Reset, Status};

const NO_ADMIN: &str = r#"
[[rule]]
name = "good"
hosts = ["api.good.test"]
action = "allow"

[[rule]]
name = "no admin"
hosts = ["api.good.test"]
action = "deny"
  [[rule.match]]
  headers = [{ name = "x-mode", value = "admin" }]
"#;

/// An upstream that speaks HTTP/1, on a connection for each request, and answers what has come whole.
fn speak_http_1(bed: &Bed) {
    bed.world.origin.script((PUB1, 443), |peer: &mut Conversation| {
        let Some(head) = peer.head() else { return };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = if head.contains("transfer-encoding: chunked") {
            peer.until(b"0\r\n\r\n")
        } else {
            peer.exactly(length.map_or(0, |length| length.parse().unwrap()))
        };
        if body.is_some() {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
}

fn upstream(bed: &Bed) -> String {
    bed.world.origin.connections().iter().map(|seen| seen.text()).collect()
}

/// The end record that belongs to a decision.
fn end_of(bed: &Bed, decision: &Record) -> Record {
    let id = decision.text("id").to_owned();
    bed.gate.wait_for_record("the end", |record| record.is_end() && record.text("id") == id)
}

/// The one decision since then; a request that is good is asked after it, so that a second one has time to come.
fn one_decision(bed: &Bed, mark: Mark) -> Record {
    bed.control();
    let (mut here, control): (Vec<_>, Vec<_>) =
        bed.since(mark, 2).decisions.into_iter().partition(|record| record.text("path") != "/control");
    assert_eq!((here.len(), control.len()), (1, 1), "{}", show(&here));
    here.remove(0)
}

#[test]
fn sm_36_white_space_around_a_field_passes_no_rule_over_h2() {
    let bed = Bed::new(NO_ADMIN);
    let mut raw = Raw::connect(&bed);
    let mut stream = 1;
    let mut ask = |fields: &[(&str, &str)]| {
        stream += 2;
        raw.send(head(stream, END_STREAM, &request("GET", "/", fields)));
        raw.outcome(stream)
    };
    let mark = bed.mark();
    assert_eq!(ask(&[("x-mode", "admin")]), Status(403), "the rule");
    bed.since(mark, 1).nothing_upstream().decided("deny", &["rule_denied"]);
    for value in [" admin", "admin ", "\tadmin", "admin\t", " ", "\t"] {
        for name in ["x-mode", "cookie", "accept", "x-other"] {
            let mark = bed.mark();
            assert_eq!(ask(&[(name, value)]), Status(400), "{name}: {value:?}");
            bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
        }
    }
    let mark = bed.mark();
    assert_eq!(ask(&[("cookie", "a=1"), ("cookie", " b=2")]), Status(400), "one piece of several");
    assert_eq!(ask(&[("x\"y", "a")]), Status(400), "a name that is no token");
    bed.since(mark, 2).nothing_upstream();
    for fields in [&[("x-mode", "a\tb c")][..], &[("x-mode", "")], &[("cookie", "a=1"), ("cookie", "b=2")]] {
        assert_eq!(ask(fields), Status(200), "{fields:?}");
    }
}

/// An upload and its trailers, on a connection of its own; in one record where `at_once`, else when the upload is under
/// way.
fn with_trailers(bed: &Bed, fields: &[u8], at_once: bool) -> Outcome {
    let mut raw = Raw::connect(bed);
    let begun = upstream(bed).matches("POST /upload").count();
    let first = [head(1, 0, &request("POST", "/upload", &[])), frame(DATA, 0, 1, b"hello")].concat();
    let last = frame(HEADERS, END_STREAM | END_HEADERS, 1, fields);
    if at_once {
        raw.send([first, last].concat());
    } else {
        raw.send(first);
        let under_way = || (upstream(bed).matches("POST /upload").count() > begun).then_some(());
        assert!(wait_until(PATIENCE, under_way).is_some());
        raw.send(last);
    }
    raw.outcome(1)
}

#[test]
fn sm_36_malformed_trailers_make_no_message_whole_and_are_one_decision() {
    let bed = Bed::new(P1);
    speak_http_1(&bed);
    let literal = |name: &str, value: &str| literal(0, name, value);
    // Whether only the stream is reset.
    let malformed = [
        (vec![0x84], true),
        (vec![0x83], true),
        (vec![0x88], true),
        (literal(":path", "/admin"), true),
        (literal("x-t", " a"), true),
        (literal("x-t", "a\t"), true),
        (literal("x\"t", "a"), true),
        (literal("transfer-encoding", "chunked"), true),
        (literal("X-T", "a"), false),
        (literal("x-t", "a\r\nb"), false),
        (literal("x-t\r\ny", "a"), false),
        (literal(":other", "a"), false),
        (vec![0x80], false),
    ];
    for (fields, of_the_stream) in malformed {
        for at_once in [true, false] {
            let mark = bed.mark();
            let found = with_trailers(&bed, &fields, at_once);
            let is_right =
                if of_the_stream { found == Reset(PROTOCOL_ERROR) } else { matches!(found, GoAway(1 | 9)) };
            assert!(is_right, "{fields:x?} {at_once}: {found:?}");
            let decision = one_decision(&bed, mark);
            if decision.text("verdict") == "deny" {
                assert!(at_once, "{}", decision.0);
                assert!(["bad_request", "bad_framing"].contains(&decision.text("reason")), "{}", decision.0);
            } else {
                let end = end_of(&bed, &decision);
                assert_eq!(
                    (end.text("outcome"), end.text("reason")),
                    ("blocked", "bad_framing"),
                    "{}",
                    end.0
                );
            }
        }
    }
    assert!(!upstream(&bed).contains("0\r\n\r\n"), "none is whole: {}", upstream(&bed));
    let good = literal("x-t", "a b");
    assert_eq!(with_trailers(&bed, &good, true), Status(200));
    assert_eq!(with_trailers(&bed, &good, false), Status(200));
    assert_eq!(upstream(&bed).matches("0\r\n\r\n").count(), 2);
}

#[test]
fn gi1_a_body_that_belies_its_length_is_one_decision() {
    let bed = Bed::new(P1);
    speak_http_1(&bed);
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    let bodies = [
        ("5", data(END_STREAM, b"hel")),
        ("5", data(END_STREAM, b"hello hello")),
        ("5", data(END_STREAM, b"")),
        ("0", data(END_STREAM, b"x")),
        ("", data(END_STREAM, b"hello")),
        ("5", [data(0, b"hel"), head(1, END_STREAM, &[("x-t", "a")])].concat()),
    ];
    for (length, body) in bodies {
        let head = head(1, 0, &request("POST", "/upload", &[("content-length", length)]));
        for at_once in [true, false] {
            let mark = bed.mark();
            let mut raw = Raw::connect(&bed);
            if at_once {
                raw.send([&head[..], &body].concat());
            } else {
                raw.send(&head).send(&body);
            }
            let found = raw.outcome(1);
            assert!(matches!(found, Reset(PROTOCOL_ERROR) | Status(400)), "{length} {found:?}");
            let decision = one_decision(&bed, mark);
            if decision.text("verdict") == "deny" {
                assert!(["bad_request", "bad_framing"].contains(&decision.text("reason")), "{}", decision.0);
            } else {
                let end = end_of(&bed, &decision);
                assert_eq!(
                    (end.text("outcome"), end.text("reason")),
                    ("blocked", "bad_framing"),
                    "{}",
                    end.0
                );
            }
        }
    }
    let mark = bed.mark();
    let mut raw = Raw::connect(&bed);
    raw.send(head(1, 0, &request("POST", "/upload", &[("content-length", "5")]))).send(data(1, b"hello"));
    assert_eq!(raw.outcome(1), Status(200));
    assert_eq!(end_of(&bed, &one_decision(&bed, mark)).text("outcome"), "done");
}

#[test]
fn ht_12_a_head_that_does_not_end_is_one_decision() {
    let limits = "head_timeout = \"1s\"\nidle_timeout = \"1s\"\ndrain_timeout = \"100ms\"";
    let bed = Bed::with(&Setup { policy: P1.into(), limits, ..Setup::default() });
    for bytes in [frame(HEADERS, END_STREAM, 1, [0x82]), frame(HEADERS, END_STREAM | END_HEADERS, 1, [0x82])]
    {
        let mark = bed.mark();
        let mut raw = Raw::connect(&bed);
        raw.send(bytes);
        let end = raw.goaway();
        assert!(matches!(end, Err(End::Closed | End::Reset)), "{end:?}");
        let decision = one_decision(&bed, mark);
        assert_eq!(decision.text("verdict"), "deny", "{}", decision.0);
    }
    // Trailers that do not end are the stream's own.
    let mark = bed.mark();
    let mut raw = Raw::connect(&bed);
    raw.send(head(1, 0, &request("POST", "/upload", &[]))).send(frame(HEADERS, END_STREAM, 1, [0x10]));
    let end = raw.goaway();
    assert!(matches!(end, Err(End::Closed | End::Reset)), "{end:?}");
    let decision = one_decision(&bed, mark);
    if decision.text("verdict") == "allow" {
        let end = end_of(&bed, &decision);
        assert_eq!((end.text("outcome"), end.text("reason")), ("blocked", "bad_framing"), "{}", end.0);
    }
}

#[test]
fn pm_14_a_path_over_h2_begins_with_a_slash() {
    let bed = Bed::new(P1);
    let mut raw = Raw::connect(&bed);
    for (n, path) in ["?x", "?", "?/public"].into_iter().enumerate() {
        let (mark, stream) = (bed.mark(), n as u32 * 2 + 1);
        raw.send(head(stream, END_STREAM, &request("GET", path, &[])));
        assert_eq!(raw.outcome(stream), Status(400), "{path}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
    }
    raw.send(head(101, END_STREAM, &request("GET", "/?x", &[])));
    assert_eq!(raw.outcome(101), Status(200));
    let targets: Vec<_> = bed.world.origin.requests().iter().map(|request| request.target.clone()).collect();
    assert_eq!(targets, ["/?x"]);
}

#[test]
fn sm_30_an_expectation_over_h2_is_answered_by_the_gate_alone() {
    let bed = Bed::new(P1);
    let mut raw = Raw::connect(&bed);
    let mut stream = 1;
    let two = [("expect", "100-continue"), ("expect", "100-continue")];
    for expects in [&[("expect", "200-foo")][..], &[("expect", "y 100-continue")], &two] {
        let mark = bed.mark();
        raw.send(head(stream, 0, &request("POST", "/upload", expects)));
        assert_eq!(raw.outcome(stream), Status(417), "{expects:?}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
        stream += 2;
    }
    let expects = [("expect", "100-Continue")];
    raw.send(head(stream, 0, &request("POST", "/upload", &expects)));
    assert_eq!(raw.outcome(stream), Status(100), "before anything of the body");
    raw.send(frame(DATA, END_STREAM, stream, b"hello"));
    assert_eq!(raw.outcome(stream), Status(200));
    stream += 2;
    raw.send(head(stream, 0, &request("POST", "/upload", &[])))
        .send(frame(DATA, END_STREAM, stream, b"hello"));
    assert_eq!(raw.outcome(stream), Status(200), "nobody asked to be told");
    stream += 2;
    raw.send(head(stream, END_STREAM, &request("POST", "/upload", &expects)));
    assert_eq!(raw.outcome(stream), Status(200), "there is no body");
    let requests = bed.world.origin.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.header("expect").is_empty()));
}

#[test]
fn sm_30_a_refusal_asks_for_no_body_over_h2() {
    let bed = Bed::new(NO_ADMIN);
    let mut raw = Raw::connect(&bed);
    let fields = [("expect", "100-continue"), ("x-mode", "admin")];
    raw.send(head(1, 0, &request("POST", "/upload", &fields)));
    assert_eq!(raw.outcome(1), Status(403));
    let client = H2::connect(&bed, PUB1, "api.good.test");
    let upload =
        Request::post("https://api.good.test/upload").header("expect", "100-continue").body(()).unwrap();
    let mut heard = Vec::new();
    let answer =
        client.send_and_hear(upload, Some(b"hello".to_vec()), |interim| heard.push(interim.status()));
    assert_eq!((answer.unwrap().0.status().as_u16(), heard), (200, vec![http::StatusCode::CONTINUE]));
}

const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        System.setProperty("javax.net.ssl.trustStore", arguments[0]);
        for (var version : HttpClient.Version.values()) {
            var client = HttpClient.newBuilder().version(version).build();
            for (int turn = 0; turn < 2; turn++) {
                var upload = HttpRequest.newBuilder(URI.create("https://api.good.test/upload"))
                    .expectContinue(true).POST(HttpRequest.BodyPublishers.ofString("hello")).build();
                var answer = client.send(upload, HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.version() + " " + answer.statusCode());
            }
        }
    }
}
"#;

#[test]
fn cl_10_javas_client_is_told_to_go_on() {
    let bed = Bed::new(P1);
    std::fs::write(bed.gate.dir.join("trust.jks"), outgate::tls::java_store(&bed.roots())).unwrap();
    std::fs::write(bed.gate.dir.join("Client.java"), JAVA).unwrap();
    let said = bed.succeed("java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC Client.java trust.jks");
    assert_eq!(said, "HTTP_1_1 200\nHTTP_1_1 200\nHTTP_2 200\nHTTP_2 200\n");
    let requests = bed.world.origin.requests();
    let bodies = requests.iter().map(|request| request.body.lock().unwrap().as_ref().map(|body| body.0));
    assert_eq!(bodies.collect::<Vec<_>>(), [Some(5); 4]);
}

#[test]
fn ht_06_12_an_idle_connection_and_one_that_takes_nothing_end_at_their_own_times() {
    // The other time is one that the test would not live to see.
    for (limits, taking) in [
        ("idle_timeout = \"1s\"\nresponse_write_timeout = \"1h\"\nhead_timeout = \"1h\"", true),
        (
            "idle_timeout = \"1h\"\nresponse_write_timeout = \"1s\"\nhead_timeout = \"1h\"\ndrain_timeout = \"1s\"",
            false,
        ),
    ] {
        let bed = Bed::with(&Setup { policy: P1.into(), limits, ..Setup::default() });
        let mut raw = if taking { Raw::connect(&bed) } else { Raw::with(&bed, &[(4, 0)]) };
        raw.send(head(1, END_STREAM, &request("GET", "/", &[])));
        assert_eq!(raw.outcome(1), Status(200));
        assert!(
            matches!(raw.goaway(), Err(End::Closed | End::Reset)),
            "it ended, and without a word of a fault"
        );
    }
}
