//! Gauntlet PL: what the rule language and its hooks must mean on the wire.

use crate::support::dns::{A, AAAA, HTTPS};
use crate::support::*;

#[test]
fn pl_01_without_a_rule_everything_is_denied_at_every_door() {
    let bed = Bed::new("");
    let mark = bed.mark();
    assert_denied(bed.https(PUB1, "api.good.test"), get("api.good.test", "/"));
    assert_eq!(bed.fetch_plain(get("plain.good.test", "/")).unwrap().status, 403);
    assert_eq!(bed.tcp(PUB1_V6, 80).ask(get("plain.good.test", "/")).unwrap().status, 403);
    let absolute = "GET http://plain.good.test/ HTTP/1.1\r\nHost: plain.good.test\r\n\r\n";
    assert_eq!(bed.explicit().ask(absolute).unwrap().status, 403);
    assert_eq!(bed.tunnel("api.good.test:443").err(), Some(End::Status(403)));
    for kind in [A, AAAA, HTTPS] {
        assert!(bed.resolve("api.good.test", kind).is_denied());
    }
    let taps = bed.since(mark, 5);
    taps.nothing_upstream().no_query();
    assert!(
        taps.decisions
            .iter()
            .all(|record| record.text("verdict") == "deny" && record.text("reason") == "no_rule")
    );
}

#[test]
fn pl_02_a_deny_wins_in_both_orders_and_over_a_narrower_allow() {
    let allow = "[[rule]]\nname = \"yes\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n";
    let deny = "[[rule]]\nname = \"no\"\nhosts = [\"*.good.test\"]\naction = \"deny\"\n";
    for policy in [format!("{allow}{deny}"), format!("{deny}{allow}")] {
        let bed = Bed::new(&policy);
        let mark = bed.mark();
        assert_denied(bed.https(PUB1, "api.good.test"), get("api.good.test", "/"));
        let taps = bed.since(mark, 1);
        assert_eq!(taps.nothing_upstream().no_query().decided("deny", &["rule_denied"]).text("rule"), "no");
    }
}

#[test]
fn pl_03_a_hook_that_does_not_say_yes_says_no() {
    let scripted = |body: &str| Setup {
        policy: format!(
            "{P1}\n[[rule]]\nname = \"scripted\"\nhosts = [\"cdn.good.test\"]\naction = \"allow\"\n  [rule.script]\n  file = \"hook.rhai\"\n"
        ),
        beside: vec![("hook.rhai", format!("fn request(req) {{ {body} }}\n"))],
        ..Setup::default()
    };
    let ask = |bed: &Bed| {
        let answer = bed.https(CDN, "cdn.good.test").unwrap().ask(get("cdn.good.test", "/"));
        answer.map(|answer| answer.status)
    };
    let bad = [
        "",
        "()",
        "0",
        "true",
        "\"false\"",
        "\"allow\"",
        "#{}",
        "#{ decision: \"allow\" }",
        "[]",
        "1 / 0",
        "loop {}",
    ];
    for body in bad {
        let bed = Bed::with(&scripted(body));
        let mark = bed.mark();
        assert_eq!(ask(&bed), Some(403), "{body:?}");
        let reasons = ["script_denied", "script_error", "script_timeout"];
        bed.since(mark, 1).nothing_upstream().decided("deny", &reasons);
    }
    for body in ["pass()", "allow()"] {
        assert_eq!(ask(&Bed::with(&scripted(body))), Some(200), "{body}");
    }
}
