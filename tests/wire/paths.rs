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
