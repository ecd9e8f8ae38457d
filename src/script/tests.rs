//! Tests of the room as a whole: decisions, limits, what is out of reach, changes.

use super::*;
use crate::base::{Door, Host, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::time::Instant;

fn engine() -> Engine {
    // The debug build is some ten times slower than the limits are made for.
    Engine::new(Settings { wall_time: Duration::from_secs(20), ..Settings::default() })
}

pub(super) fn compile(text: &str) -> Result<Script, CompileError> {
    engine().compile(Path::new("test.rhai"), text)
}

pub(super) fn view() -> RequestView {
    let mut headers = HeaderMap::new();
    headers.insert("accept", HeaderValue::from_static("application/json"));
    headers.append("x-many", HeaderValue::from_static("one"));
    headers.append("x-many", HeaderValue::from_static("two"));
    RequestView {
        client: "agent".into(),
        door: Door::Transparent,
        method: Method::GET,
        scheme: Scheme::Https,
        host: Host::parse("api.example.com").unwrap(),
        port: 443,
        path: "/repos/acme/app".into(),
        query: Some("page=2".into()),
        headers,
    }
}

pub(super) fn flow() -> FlowView {
    FlowView {
        client: "agent".into(),
        door: Door::Explicit,
        source: "10.1.2.3".parse().unwrap(),
        scheme: Scheme::Https,
        host: Host::parse("api.example.com").unwrap(),
        port: 443,
    }
}

/// Runs `body` as the request hook.
fn request(body: &str) -> Ruling<RequestView> {
    compile(&format!("fn request(req) {{\n{body}\n}}")).unwrap().request(view())
}

fn decision(body: &str) -> Decision {
    request(body).decision.unwrap()
}

pub(super) fn failure(body: &str) -> Failure {
    request(body).decision.unwrap_err()
}

pub(super) fn compile_error(text: &str) -> String {
    compile(text).unwrap_err().to_string()
}

mod decisions {
    use super::*;

    #[test]
    fn the_four_functions_decide() {
        assert_eq!(decision("pass()"), Decision::Pass);
        assert_eq!(decision("return allow();"), Decision::Allow);
        assert_eq!(decision("allow();"), Decision::Allow, "a semicolon loses nothing in Rhai");
        assert_eq!(decision("deny(\"not today\")"), Decision::Deny("not today".into()));
        let script =
            compile("fn connect(flow) { if flow.port == 443 { tunnel() } else { pass() } }").unwrap();
        assert_eq!(script.connect(flow()).unwrap(), Decision::Tunnel);
        assert_eq!(failure("tunnel()").kind, FailureKind::NotADecision);
    }

    #[test]
    fn pl_03_anything_else_is_a_failure() {
        let odd = [
            "",
            "()",
            "0",
            "1",
            "true",
            "\"false\"",
            "\"allow\"",
            "#{}",
            "#{decision: \"allow\"}",
            "[]",
            "'a'",
        ];
        for body in odd.into_iter().chain(["req", "let x = pass();", "allow", "[allow()]"]) {
            match compile(&format!("fn request(req) {{ {body} }}")) {
                Ok(script) => {
                    let failure = script.request(view()).decision.unwrap_err();
                    assert_eq!(failure.kind, FailureKind::NotADecision, "{body}");
                }
                Err(error) => assert_eq!(body, "allow", "{error}"),
            }
        }
    }

    #[test]
    fn a_deny_whose_value_is_lost_still_denies() {
        for body in
            ["if true { deny(\"a\") } pass()", "let d = deny(\"a\"); allow()", "deny(\"a\"); deny(\"b\")"]
        {
            assert_eq!(decision(body), Decision::Deny("a".into()), "{body}");
        }
        assert_eq!(decision("pass()"), Decision::Pass, "and is forgotten by the next call");
    }

    #[test]
    fn a_reason_is_one_bounded_line() {
        let Decision::Deny(reason) = decision("deny(\"a\\r\\n\\x1b[31m\" + `\u{e9}`)") else { panic!() };
        assert_eq!(reason, "a   [31m\u{e9}");
        let Decision::Deny(reason) = decision("let s = \"\u{e9}\u{e9}\"; for i in 0..8 { s += s; } deny(s)")
        else {
            panic!()
        };
        assert!(reason.len() <= run::REASON_MOST && !reason.is_empty());
    }

    #[test]
    fn a_script_without_the_hook_passes() {
        let script = compile("fn response(req, resp) { pass() }").unwrap();
        assert!(script.has_response() && !script.has_request() && !script.has_connect());
        assert_eq!(script.request(view()).decision.unwrap(), Decision::Pass);
        assert_eq!(script.connect(flow()).unwrap(), Decision::Pass);
    }

    #[test]
    fn nothing_survives_a_call() {
        let script = compile(
            "fn request(req) { let n = req.header(\"x-n\"); req.set_header(\"x-n\", n + \"1\"); pass() }",
        );
        let script = script.unwrap();
        for _ in 0..3 {
            assert_eq!(script.request(view()).view.headers["x-n"], "1");
        }
    }
}

mod limits {
    use super::*;

    #[test]
    fn rs_10_an_endless_loop_ends_by_operations() {
        assert_eq!(failure("loop {}").kind, FailureKind::Operations);
        assert_eq!(failure("while true { let a = 1; }").kind, FailureKind::Operations);
        assert_eq!(failure("for i in 0..9223372036854775807 { }").kind, FailureKind::Operations);
    }

    #[test]
    fn rs_10_an_endless_loop_ends_in_time() {
        let settings =
            Settings { operations: u64::MAX, wall_time: Duration::from_millis(30), ..Settings::default() };
        let script =
            Engine::new(settings).compile(Path::new("test.rhai"), "fn request(req) { loop {} }").unwrap();
        let start = Instant::now();
        let failure = script.request(view()).decision.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert!(start.elapsed() >= Duration::from_millis(30) && start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_limit_cannot_be_caught() {
        assert_eq!(failure("try { loop {} } catch { } allow()").kind, FailureKind::Operations);
    }

    #[test]
    fn growth_ends_at_its_limit() {
        for body in [
            "let s = \"aaaaaaaa\"; loop { s += s; }",
            "let s = \"aaaaaaaa\"; loop { s = `${s}${s}`; }",
            "let a = [1]; loop { a = [a, a]; }",
            "let m = #{a: 1}; loop { m = #{a: m, b: m}; }",
            "let a = [\"aaaaaaaa\"]; loop { a = [a[0] + a[0], a]; }",
            "let n = 0; loop { n += 1; req.set_header(\"x-\" + n.to_string(), \"v\"); }",
            "let s = \"aaaaaaaa\"; for i in 0..8 { s += s; } loop { req.set_header(\"x\", s); s = s.to_lower(); }",
        ] {
            let failure = failure(&format!("{body} pass()"));
            assert!(
                matches!(failure.kind, FailureKind::Limit | FailureKind::Operations | FailureKind::Error),
                "{body}: {failure:?}"
            );
        }
        assert_eq!(failure("let s = \"aaaaaaaa\"; loop { s += s; }").kind, FailureKind::Limit);
    }

    #[test]
    fn recursion_ends_at_its_limit_without_using_up_the_stack() {
        let deep = format!("{}down(n + 1){}", "(".repeat(12), ")".repeat(12));
        let script = compile(&format!("fn down(n) {{ {deep} }} fn request(req) {{ down(0) }}")).unwrap();
        assert_eq!(script.request(view()).decision.unwrap_err().kind, FailureKind::Limit);
        let nested = format!("fn request(req) {{ {}1{} }}", "[".repeat(1000), "]".repeat(1000));
        assert!(compile_error(&nested).contains("complex"));
    }

    #[test]
    fn arithmetic_never_wraps_or_panics() {
        for body in
            ["9223372036854775807 + 1", "1 / 0", "1 % 0", "2 ** 200", "-9223372036854775807 - 2", "\"a\"[5]"]
        {
            assert_eq!(failure(&format!("let x = {body}; pass()")).kind, FailureKind::Error, "{body}");
        }
        for body in ["1 << 200", "1 >> -200", "1 << -9223372036854775807"] {
            let _no_panic = request(&format!("let x = {body}; pass()"));
        }
    }

    #[test]
    fn text_of_the_view_is_never_cut() {
        let script =
            compile("fn request(req) { if req.path.contains(\"evil\") { return deny(\"e\"); } pass() }")
                .unwrap();
        let long = RequestView { path: format!("/{}/evil", "a".repeat(5000)), ..view() };
        let failure = script.request(long).decision.unwrap_err();
        assert_eq!(failure.message, "test.rhai:1:26: path is longer than 4096 bytes");
        let script = compile("fn request(req) { req.header(\"x\"); req.headers(\"x\"); pass() }").unwrap();
        for value in [
            HeaderValue::from_bytes(&[0xff, 0xfe]).unwrap(),
            HeaderValue::from_str(&"a".repeat(5000)).unwrap(),
        ] {
            let mut odd = view();
            odd.headers.insert("x", value);
            assert_eq!(script.request(odd).decision.unwrap_err().kind, FailureKind::Error);
        }
        assert_eq!(
            script.request(RequestView { path: "/".repeat(9000), ..view() }).decision.unwrap(),
            Decision::Pass
        );
    }
}

mod reach {
    use super::*;

    #[test]
    fn rs_12_nothing_of_the_machine_is_there() {
        for call in [
            "eval(\"1\")",
            "print(\"x\")",
            "debug(1)",
            "sleep(1)",
            "timestamp()",
            "Fn(\"request\")",
            "open(\"/etc/passwd\")",
            "exec(\"id\")",
            "env(\"HOME\")",
            "import \"x\" as y",
            "import \"os\"",
            "export const X = 1",
            "call(\"x\")",
            "curry(1)",
            "is_def_fn(\"a\", 1)",
            "rand()",
            "now()",
            "exit()",
            "parse_json(\"{}\")",
            "|x| x",
            "blob(10)",
            "pad(\"a\", 10)",
            "global::X",
            "std::fs::read()",
            "#!sh",
            "ask(\"may I?\")",
        ] {
            assert!(compile(&format!("fn request(req) {{ {call}; pass() }}")).is_err(), "{call}");
        }
        for call in [
            "\"a\".replace(\"a\", \"b\")",
            "[3, 1].sort()",
            "[1].push(2)",
            "req.body",
            "req.secret",
            "\"a\" * 9",
        ] {
            match compile(&format!("fn request(req) {{ let x = {call}; pass() }}")) {
                Err(_) => {}
                Ok(script) => {
                    let decision = script.request(view()).decision;
                    assert!(decision.is_err(), "{call}: {decision:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_on_the_way() {
        let text = format!("{:?}", compile("fn request(req) { pass() }").unwrap());
        assert_eq!(
            text,
            "Script { file: \"test.rhai\", hooks: Hooks { connect: false, request: true, response: false, message: false } }"
        );
    }
}

mod views {
    use super::*;

    #[test]
    fn pl_06_a_hook_sees_what_is_sent() {
        let body = r#"
            let seen = `${req.client} ${req.door} ${req.method} ${req.scheme} ${req.host} ${req.port} ${req.path} ${req.query}`;
            seen += ` ${req.header("ACCEPT")} ${req.header("x-many")} ${req.headers("x-many").len()} <${req.header("none")}>`;
            for name in req.header_names() { seen += " " + name; }
            deny(seen)"#;
        let expected = "agent transparent GET https api.example.com 443 /repos/acme/app page=2 \
                        application/json one, two 2 <> accept x-many";
        assert_eq!(decision(body), Decision::Deny(expected.into()));
        let script = compile(
            "fn connect(flow) { deny(`${flow.client} ${flow.door} ${flow.source} ${flow.scheme} ${flow.host}:${flow.port}`) }",
        );
        let expected = "agent explicit 10.1.2.3 https api.example.com:443";
        assert_eq!(script.unwrap().connect(flow()).unwrap(), Decision::Deny(expected.into()));
    }

    #[test]
    fn looking_changes_nothing() {
        let ruling = request(
            "req.header(\"accept\"); req.path = req.path; req.set_header(\"accept\", \"application/json\"); req.remove_header(\"none\"); pass()",
        );
        assert_eq!(ruling.changes, Changes::default());
        assert_eq!(format!("{:?}", ruling.view), format!("{:?}", view()));
    }

    #[test]
    fn pl_04_changes_are_reported_so_that_they_are_judged_again() {
        let target = |body: &str| {
            let ruling = request(&format!("{body}; pass()"));
            assert!(ruling.decision.is_ok() && ruling.changes.target && !ruling.changes.headers, "{body}");
            ruling.view
        };
        assert_eq!(target("req.path = \"/other\"").path, "/other");
        assert_eq!(target("req.query = \"\"").query, None);
        assert_eq!(target("req.query = \"a=b\"").query.as_deref(), Some("a=b"));
        assert_eq!(target("req.host = \"EVIL.test.\"").host.to_string(), "evil.test");
        assert_eq!(target("req.host = \"169.254.169.254\"").host.to_string(), "169.254.169.254");
        assert_eq!(target("req.port = 8443").port, 8443);
        assert_eq!(target("req.scheme = \"http\"").scheme, Scheme::Http);
        let ruling = request(
            "req.set_header(\"X-New\", \"v\"); req.remove_header(\"Accept\"); req.set_header(\"x-many\", \"1\"); pass()",
        );
        assert_eq!(ruling.changes, Changes { target: false, headers: true });
        let headers = ruling.view.headers;
        assert_eq!(
            (headers.len(), &headers["x-new"], &headers["x-many"]),
            (2, &"v".parse().unwrap(), &"1".parse().unwrap())
        );
    }

    #[test]
    fn a_helper_function_changes_the_same_request() {
        let script =
            compile("fn tag(r) { r.set_header(\"x-tag\", \"1\"); } fn request(req) { tag(req); pass() }")
                .unwrap();
        assert_eq!(script.request(view()).view.headers["x-tag"], "1");
    }

    #[test]
    fn what_has_no_canonical_form_cannot_be_written() {
        for body in [
            "req.path = \"x\"",
            "req.path = \"/a b\"",
            "req.path = \"/a?b\"",
            "req.path = \"/a#b\"",
            "req.path = \"/\\r\\n\"",
            "req.query = \"a b\"",
            "req.query = \"a#b\"",
            "req.host = \"a/b\"",
            "req.host = \"\"",
            "req.host = \"127.1\"",
            "req.port = 0",
            "req.port = 65536",
            "req.port = -1",
            "req.port = \"443\"",
            "req.scheme = \"ftp\"",
            "req.method = \"POST\"",
            "req.client = \"root\"",
            "req.set_header(\"a b\", \"x\")",
            "req.set_header(\"a\", \"x\\r\\ny: z\")",
            "req.set_header(\"host\", \"evil\")",
            "req.set_header(\"Content-Length\", \"0\")",
            "req.remove_header(\"transfer-encoding\")",
            "req.header(\"\")",
        ] {
            let ruling = request(&format!("{body}; pass()"));
            assert_eq!(ruling.decision.unwrap_err().kind, FailureKind::Error, "{body}");
            assert_eq!(ruling.changes, Changes::default(), "{body}");
        }
    }

    #[test]
    fn a_response_can_be_changed_and_its_request_cannot() {
        let response = || ResponseView {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(http::header::SET_COOKIE, HeaderValue::from_static("a=b"))]),
        };
        let text = "fn response(req, resp) { if resp.status == 200 && req.path.starts_with(\"/repos\") { resp.remove_header(\"set-cookie\"); } pass() }";
        let ruling = compile(text).unwrap().response(view(), response());
        assert_eq!(ruling.decision.unwrap(), Decision::Pass);
        assert_eq!(ruling.changes, Changes { target: false, headers: true });
        assert!(ruling.view.headers.is_empty());
        for body in [
            "req.path = \"/x\"",
            "req.set_header(\"a\", \"b\")",
            "req.remove_header(\"accept\")",
            "resp.status = 500",
        ] {
            let script = compile(&format!("fn response(req, resp) {{ {body}; pass() }}")).unwrap();
            assert!(script.response(view(), response()).decision.is_err(), "{body}");
        }
    }
}
