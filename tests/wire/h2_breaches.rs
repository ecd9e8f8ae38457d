//! Gauntlet SM-36, SM-30, PM-14, CL-10 and HT-06 over HTTP/2: what a client may not say in a head passes no rule, whoever
//! waits to be told that its body is wanted is told, and a client that is idle or takes nothing is not waited for.

use http::Request;

use crate::support::frames::*;
use crate::support::h2::H2;
use crate::support::wire::End;
use crate::support::*;

use Outcome::Status;

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
