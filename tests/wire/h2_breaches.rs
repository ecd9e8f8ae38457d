//! Gauntlet SM-36, PM-14 and HT-06 over HTTP/2: what a client may not say in a head passes no rule, and a client that is
//! idle or takes nothing is not waited for.

use crate::support::frames::*;
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
