//! Gauntlet PM: a path is judged in every reading, and what was judged is what is sent.

use crate::support::*;

/// All must be denied, with nothing upstream and one record.
fn denied(paths: &[&str]) -> Bed {
    let bed = Bed::new(P3);
    for path in paths {
        let mark = bed.mark();
        let status = bed.fetch("api.good.test", get("api.good.test", path)).map(|answer| answer.status);
        assert_eq!(status, Some(403), "{path}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["path_denied", "rule_denied", "no_rule"]);
    }
    for path in ["/public", "/public/", "/public/a"] {
        let status = bed.fetch("api.good.test", get("api.good.test", path)).map(|answer| answer.status);
        assert_eq!(status, Some(200), "{path}");
    }
    bed
}

#[test]
fn pm_01_dot_segments_are_judged_as_what_they_lead_to() {
    let bed = denied(&["/public/../admin", "/public/./../admin", "/public/x/../../admin"]);
    let mark = bed.mark();
    assert_eq!(bed.fetch("api.good.test", get("api.good.test", "/x/../public/./a")).unwrap().status, 200);
    let taps = bed.since(mark, 1);
    assert_eq!(taps.decided("allow", &[]).text("path"), "/public/a");
    let last = bed.world.origin.requests().pop().unwrap();
    assert_eq!(last.target, "/public/a", "what was judged is what is sent");
}

#[test]
fn pm_02_encoded_dots_are_dots() {
    denied(&["/public/%2e%2e/admin", "/public/%2E./admin", "/public/.%2e/admin"]);
}

#[test]
fn pm_04_an_encoded_slash_is_denied_under_a_path_rule_and_passes_without_one() {
    denied(&["/public/..%2fadmin", "/public%2fsecret%2fx", "/public/a%2fb", "/public/%252e%252e/admin"]);
    let bed = Bed::new(P1);
    assert_eq!(bed.fetch("api.good.test", get("api.good.test", "/@scope%2fname")).unwrap().status, 200);
    assert_eq!(bed.world.origin.requests()[0].target, "/@scope%2fname");
}

#[test]
fn pm_08_doubled_slashes_are_judged_in_every_reading() {
    denied(&["//admin", "/public//secret/x", "/public/secret//x", "///public/x"]);
}

#[test]
fn pm_20_another_method_on_an_allowed_path_is_denied() {
    let bed = Bed::new(P3);
    for method in ["POST", "PUT", "DELETE"] {
        let mark = bed.mark();
        let request =
            format!("{method} /public/x HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(bed.fetch("api.good.test", request).unwrap().status, 403, "{method}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["method_denied"]);
    }
    let twin = post("api.good.test", "/v1/messages", "", "{}");
    assert_eq!(bed.fetch("api.good.test", twin).unwrap().status, 200);
}

/// All must be answered so, with nothing upstream and one record of these reasons.
fn refused(bed: &Bed, targets: &[&str], status: u16, reasons: &[&str]) {
    for target in targets {
        let mark = bed.mark();
        let answer = bed.fetch("api.good.test", get("api.good.test", target));
        assert_eq!(answer.map(|answer| answer.status), Some(status), "{target:?}");
        bed.since(mark, 1).nothing_upstream().decided("deny", reasons);
    }
}

fn passes(bed: &Bed, targets: &[&str]) {
    for target in targets {
        let answer = bed.fetch("api.good.test", get("api.good.test", target));
        assert_eq!(answer.map(|answer| answer.status), Some(200), "{target:?}");
        let last = bed.world.origin.requests().pop().unwrap();
        assert_eq!(last.target, *target, "what was judged is what is sent");
    }
}

#[test]
fn pm_06_12_14_what_has_no_canonical_form_is_400_and_one_line_of_the_record() {
    let bed = Bed::new(P3);
    let targets = [
        "/public/..\\admin",
        "/public%5c..%5cadmin",
        "\\admin",
        "/public/%zz",
        "/public/%",
        "/public/%2",
        "/public/%u002e%u002e/admin",
        "/public/%00",
        "/public/%0d%0aHost:%20evil.test",
        "/public/\ta",
        "/public/\u{1}",
        "/public/\u{7f}",
        "/public/a#/../../admin",
        "/admin#/public/",
        "/public/\u{e9}",
        "/public/a b",
    ];
    refused(&bed, &targets, 400, &["bad_request"]);
    passes(&bed, &["/public/a", "/public/%C3%A9", "/public/a%20b"]);
}

#[test]
fn pm_10_case_counts_for_an_allow_and_not_for_a_deny() {
    let bed = Bed::new(P3);
    refused(
        &bed,
        &["/PUBLIC/x", "/public/SECRET/x", "/public/Secret/"],
        403,
        &["path_denied", "rule_denied"],
    );
    let open = "[[rule]]\nname = \"open\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n\
                [[rule]]\nname = \"no admin\"\nhosts = [\"api.good.test\"]\naction = \"deny\"\n\
                [[rule.match]]\npath = { prefix = \"/admin\" }\n";
    let bed = Bed::new(open);
    refused(&bed, &["/admin", "/Admin", "/ADMIN/x", "/%61dmin", "/%41dmin"], 403, &["rule_denied"]);
    passes(&bed, &["/administrator", "/public"]);
}

#[test]
fn pm_13_an_absolute_form_without_a_path_asks_for_the_root_and_its_query_is_no_path() {
    let bed = Bed::new(&P3.replace(
        "hosts = [\"api.good.test\"]",
        "hosts = [\"plain.good.test\"]\nscheme = \"http\"\nports = [80]",
    ));
    for target in
        ["http://plain.good.test", "http://plain.good.test?x=/public/a", "http://plain.good.test?/public/"]
    {
        let mark = bed.mark();
        let request = format!("GET {target} HTTP/1.1\r\nHost: plain.good.test\r\n\r\n");
        assert_eq!(bed.explicit().ask(request).unwrap().status, 403, "{target}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["path_denied"]);
    }
    let twin = "GET http://plain.good.test/public/a?x HTTP/1.1\r\nHost: plain.good.test\r\n\r\n";
    assert_eq!(bed.explicit().ask(twin).unwrap().status, 200);
}

#[test]
fn pm_16_a_query_is_judged_in_every_interpretation_and_in_any_order() {
    let policy = "[[rule]]\nname = \"one repository\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n\
                  [[rule.match]]\npath = { prefix = \"/public\" }\nquery = [{ name = \"repo\", regex = \"ok\" }]\n";
    let bed = Bed::new(policy);
    let evil = [
        "/public?repo=ok&repo=evil",
        "/public?repo=evil&repo=ok",
        "/public?repo=ok;repo=evil",
        "/public?%72epo=evil",
        "/public?REPO=evil",
        "/public?repo[]=evil",
        "/public?a=1",
        "/public",
        "/public?repo=okay",
        "/public?repo=ok&%72epo=evil",
        "/public?repo=ok&REPO=evil",
        "/public?repo=ok&repo[]=evil",
        "/public?repo=ok&repo%5B0%5D=evil",
        "/public?repo=ok%00",
    ];
    for target in evil {
        let mark = bed.mark();
        let answer = bed.fetch("api.good.test", get("api.good.test", target)).unwrap();
        assert!(matches!(answer.status, 400 | 403), "{target}: {}", answer.status);
        bed.since(mark, 1).nothing_upstream().decided("deny", &["query_denied", "bad_request"]);
    }
    passes(
        &bed,
        &["/public?repo=ok", "/public?a=1&repo=ok", "/public?repo=ok&a=1", "/public/x?b&repo=ok&c="],
    );
}

#[test]
fn pm_17_18_a_prefix_ends_at_a_segment_and_legal_odd_paths_leave_as_they_came() {
    let bed = Bed::new(P3);
    passes(&bed, &["/public", "/public/"]);
    refused(&bed, &["/publicX", "/public%2f", "/public;x", "/publi"], 403, &["path_denied", "rule_denied"]);
    passes(
        &Bed::new(P1),
        &[
            "/a%20b%C3%A9+c,~!$&'()*;=:@/%7E",
            "/@scope%2fname",
            "/a//b",
            "/%41?q=%2e%2e/&&=;#".trim_end_matches('#'),
        ],
    );
}

#[test]
fn pm_21_a_field_that_names_another_method_does_not_leave_where_methods_are_ruled() {
    let bed = Bed::new(P3);
    let overrides = "X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\nX-Kept: 1\r\n";
    let answer =
        bed.fetch("api.good.test", post("api.good.test", "/v1/messages", overrides, "_method=DELETE"));
    assert_eq!(answer.unwrap().status, 200);
    let request = bed.world.origin.requests().pop().unwrap();
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        assert!(request.header(name).is_empty(), "{name}");
    }
    assert_eq!(request.header("x-kept"), ["1"]);
}

#[test]
fn pm_21_a_form_field_that_names_another_method_is_on_record_where_methods_are_ruled() {
    let bed = Bed::new(P3);
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n";
    let flagged = |path: &str, kind: &str, body: &str| {
        let mark = bed.mark();
        let answer = bed.fetch("api.good.test", post("api.good.test", path, kind, body));
        assert_eq!(answer.map(|answer| answer.status), Some(200), "{path} {body}");
        let taps = bed.since(mark, 1);
        let decision = taps.decided("allow", &[""]);
        let id = decision.text("id");
        let end = bed.gate.wait_for_record("its end", |record| record.is_end() && record.text("id") == id);
        assert_eq!((end.text("outcome"), end.text("reason")), ("done", ""), "{}", end.0);
        let find = |record: &Record, place: &str| {
            record.mentions("\"method-override\"") && record.mentions(&format!("\"place\":\"{place}\""))
        };
        (find(decision, "query"), find(&end, "body"))
    };
    assert_eq!(flagged("/v1/messages", FORM, "a=b&_method=DELETE"), (false, true));
    assert_eq!(flagged("/v1/messages?%5fMethod=DELETE", FORM, "a=b"), (true, false));
    assert_eq!(flagged("/v1/messages?a=_method", FORM, "a=_method&_methods=x"), (false, false));
    assert_eq!(flagged("/v1/messages", "Content-Type: text/plain\r\n", "_method=DELETE"), (false, false));
    let late = format!("a={}&_method=DELETE", "x".repeat(64 << 10));
    assert_eq!(flagged("/v1/messages", FORM, &late), (false, false), "beyond what is looked at");
}

#[test]
fn pm_18_a_path_is_denied_without_its_parameters_and_sent_with_them() {
    let open = "[[rule]]\nname = \"open\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n\
                [[rule]]\nname = \"no admin\"\nhosts = [\"api.good.test\"]\naction = \"deny\"\n\
                [[rule.match]]\npath = { prefix = \"/admin\" }\n";
    let bed = Bed::new(open);
    let hidden = ["/admin;x", "/%61dmin;x", "/ADMIN;a=b/x", "/admin;", "/;/admin", "/admin%3bx"];
    refused(&bed, &hidden, 403, &["rule_denied"]);
    refused(&bed, &["/a/..;/admin", "/a/..%3b/admin", "/a/%2e%2E%3Bx/admin"], 400, &["bad_request"]);
    passes(&bed, &["/a%20b%C3%A9+c,~!$&'()*;=:@/%7E", "/a;v=1/b%3Bc", "/a;/admin"]);
}

#[test]
fn pm_22_23_a_method_is_what_it_says_and_only_the_standard_ones_are_ruled_by_path() {
    let bed = Bed::new(P3);
    let odd = [
        "get",
        "Get",
        "gET",
        "FOO",
        "G*T",
        "PRI",
        "TRACE",
        "TRACK",
        "DEBUG",
        "PROPFIND",
        "HEAD\u{b}",
        "",
        "CONNECT",
    ];
    for method in odd {
        let mark = bed.mark();
        let request = format!("{method} /public/x HTTP/1.1\r\nHost: api.good.test\r\n\r\n");
        let status = bed.fetch("api.good.test", request).map(|answer| answer.status);
        assert!(matches!(status, Some(400 | 403 | 405)), "{method:?}: {status:?}");
        bed.since(mark, 1).nothing_upstream();
    }
    for line in [
        "GET\t/public/x HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET  /public/x HTTP/1.1",
        "GET /public/x HTTP/1.1 x",
    ] {
        let mark = bed.mark();
        let status = bed.fetch("api.good.test", format!("{line}\r\nHost: api.good.test\r\n\r\n"));
        assert!(matches!(status.map(|answer| answer.status), Some(400 | 403)), "{line:?}");
        bed.since(mark, 1).nothing_upstream();
    }
    // Not even where a rule names no method: a page of it would show the credential that was put in.
    let bed = Bed::with(&Setup { policy: P4.into(), environment: p4_environment(), ..Setup::default() });
    let trace = bed.fetch("api.good.test", "TRACE / HTTP/1.1\r\nHost: api.good.test\r\n\r\n");
    assert!(matches!(trace.map(|answer| answer.status), Some(400 | 403 | 405)));
    assert!(bed.world.origin.requests().is_empty());
}

#[test]
fn pm_27_a_target_has_a_longest() {
    let bed = Bed::new(P3);
    let long = |length: usize| format!("/public/{}", "a".repeat(length - 8));
    passes(&bed, &[&long(8_000)]);
    let mark = bed.mark();
    for length in [70_000, 200_000] {
        let answer = bed.fetch("api.good.test", get("api.good.test", &long(length)));
        let status = answer.map(|answer| answer.status);
        assert!(matches!(status, Some(400 | 414 | 431)), "{length}: {status:?}");
    }
    bed.since(mark, 2).nothing_upstream();
}
