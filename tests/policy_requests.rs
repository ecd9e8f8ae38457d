//! What the policy says of hosts, paths, methods and queries: rows of the gauntlet, each with its positive twin.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/policy.rs"]
#[allow(dead_code)]
mod policy;

use outgate::base::Host;
use outgate::policy::{Malformed, Reason, RequestLineError, read_request_line};
use policy::{P1, P3, P10, agent, allows, connect, denies, dns, judge, judge_with, load, request};

mod hosts {
    use super::*;

    #[test]
    fn hc_20_a_trailing_dot_changes_nothing() {
        let snapshot = load(&format!("{P10}{P1}"));
        allows(&snapshot, "GET https://api.good.test./");
        denies(&snapshot, "GET https://deny.test./", Reason::RuleDenied);
        assert_eq!(&*request("GET https://api.good.test./", &[]).authority(), "api.good.test");
        assert_eq!(connect(&snapshot, "deny.test.", 443), "rule_denied");
    }

    #[test]
    fn hc_22_case_changes_nothing() {
        let snapshot = load(P10);
        allows(&snapshot, "GET https://API.Good.TEST/");
        denies(&snapshot, "GET https://DENY.Test/", Reason::RuleDenied);
        assert_eq!(&*request("GET https://API.Good.TEST/", &[]).authority(), "api.good.test");
    }

    #[test]
    fn hc_25_a_name_that_only_looks_alike_is_denied() {
        let snapshot = load(&P1.replace("api.good.test", "github.com"));
        allows(&snapshot, "GET https://github.com/");
        for name in
            ["evilgithub.com", "github.com.evil.net", "xgithub.com", "github.comevil.net", "a.github.com"]
        {
            denies(&snapshot, &format!("GET https://{name}/"), Reason::NoRule);
            assert_eq!(connect(&snapshot, name, 443), "no_rule", "{name}");
            assert_eq!(dns(&snapshot, name, 1), "dns_denied", "{name}");
        }
    }

    #[test]
    fn hc_26_a_wildcard_is_one_or_more_labels_and_never_the_apex() {
        let snapshot = load(&P1.replace("api.good.test", "*.wild.test"));
        allows(&snapshot, "GET https://a.wild.test/");
        allows(&snapshot, "GET https://a.b.wild.test/");
        allows(&snapshot, "GET https://my_bucket.wild.test/");
        denies(&snapshot, "GET https://wild.test/", Reason::NoRule);
        assert_eq!(dns(&snapshot, "a.wild.test", 1), "resolve");
        assert_eq!(dns(&snapshot, "wild.test", 1), "dns_denied");
    }

    #[test]
    fn hc_29_an_international_name_is_its_a_label() {
        let snapshot = load(&P1.replace("api.good.test", "b\u{fc}cher.test"));
        allows(&snapshot, "GET https://xn--bcher-kva.test/");
        assert!(read_request_line("GET https://b\u{fc}cher.test/", http::HeaderMap::new()).is_err());
    }

    #[test]
    fn hc_32_no_spelling_of_loopback_is_a_destination() {
        let snapshot = load(P10);
        for literal in
            ["0.0.0.0", "127.0.0.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"]
        {
            denies(&snapshot, &format!("GET http://{literal}/"), Reason::AddrBlocked);
            assert_eq!(connect(&snapshot, literal, 443), "addr_blocked", "{literal}");
        }
        for spelling in ["127.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "0"] {
            let read = read_request_line(&format!("GET http://{spelling}/"), http::HeaderMap::new());
            assert!(matches!(read, Err(RequestLineError::Authority(_))), "{spelling}");
        }
        allows(&snapshot, "GET http://plain.good.test/");
    }

    #[test]
    fn hc_34_a_literal_address_needs_an_address_rule() {
        denies(&load(P1), "GET https://93.184.216.34/", Reason::NoRule);
        denies(&load(P10), "GET https://93.184.216.34/", Reason::NoRule);
        let rule = "[[rule]]\nname = \"range\"\naction = \"allow\"\naddresses = [\"93.184.216.0/24\", \"2606:4700::/32\"]\n";
        let snapshot = load(rule);
        allows(&snapshot, "GET https://93.184.216.34/");
        allows(&snapshot, "GET https://[2606:4700::1]/");
        denies(&snapshot, "GET https://93.184.217.1/", Reason::NoRule);
        assert_eq!(connect(&snapshot, "93.184.216.34", 443), "intercept");
        denies(
            &load(&rule.replace("93.184.216.0/24", "10.0.0.0/8")),
            "GET https://10.1.2.3/",
            Reason::AddrBlocked,
        );
        let granted =
            format!("{}private = [\"10.1.0.0/16:443\"]\n", rule.replace("93.184.216.0/24", "10.0.0.0/8"));
        allows(&load(&granted), "GET https://10.1.2.3/");
        denies(&load(&granted), "GET https://10.2.2.3/", Reason::AddrBlocked);
    }

    #[test]
    fn hc_34_what_is_said_of_a_connect_is_what_is_said_at_every_other_door() {
        let rule = "[[rule]]\nname = \"secure\"\naction = \"allow\"\naddresses = [\"10.99.0.0/24\"]\n";
        let clear = rule.replace("secure", "clear") + "scheme = \"http\"\n";
        for policy in [format!("{rule}{clear}"), format!("{clear}{rule}")] {
            let snapshot = load(&policy);
            denies(&snapshot, "GET http://10.99.0.5/", Reason::AddrBlocked);
            for (port, reason) in
                [(80, Reason::AddrBlocked), (443, Reason::AddrBlocked), (81, Reason::PortDenied)]
            {
                let place = snapshot.judge_place(agent(&snapshot), &Host::parse("10.99.0.5").unwrap(), port);
                assert_eq!(place.unwrap_err().reason, reason, "{port}");
            }
        }
        let granted = load(&format!("{rule}{clear}private = [\"10.99.0.0/24:80\"]\n"));
        assert!(granted.judge_place(agent(&granted), &Host::parse("10.99.0.5").unwrap(), 80).is_ok());
    }

    #[test]
    fn hc_48_other_ports_are_refused_as_such() {
        let snapshot = load(P1);
        assert_eq!(connect(&snapshot, "api.good.test", 443), "intercept");
        for port in [22, 25, 853, 8443] {
            assert_eq!(connect(&snapshot, "api.good.test", port), "port_denied");
            let place = snapshot.judge_place(agent(&snapshot), &Host::parse("api.good.test").unwrap(), port);
            assert_eq!(place.unwrap_err().reason, Reason::PortDenied);
        }
        let place =
            |host: &str, port| snapshot.judge_place(agent(&snapshot), &Host::parse(host).unwrap(), port);
        assert!(place("api.good.test", 443).is_ok());
        assert!(place("plain.good.test", 80).is_ok());
        assert_eq!(place("evil.test", 443).unwrap_err().reason, Reason::NoRule);
    }

    #[test]
    fn hc_52_fields_that_name_another_place_do_not_count_and_do_not_leave() {
        let snapshot = load(P3);
        let fields = [
            ("x-forwarded-host", "evil.test"),
            ("x-original-url", "/admin"),
            ("forwarded", "host=evil.test"),
        ];
        let permit = judge_with(&snapshot, "GET https://api.good.test/public/a", &fields).unwrap();
        assert!(permit.request().headers().is_empty());
        assert!(
            judge_with(&snapshot, "GET https://api.good.test/admin", &[("x-original-url", "/public/a")])
                .is_err()
        );
    }

    #[test]
    fn cr_10_clear_text_is_not_what_an_https_rule_opens() {
        let rule = r#"
            [[secret]]
            name = "k5"
            from = { env = "K5" }
            [[rule]]
            name = "with credential"
            hosts = ["api.good.test"]
            action = "allow"
            [rule.request]
            inject = [{ header = "authorization", value = "Bearer {secret.k5}" }]
        "#;
        let snapshot = load(rule);
        allows(&snapshot, "GET https://api.good.test/");
        denies(&snapshot, "GET http://api.good.test/", Reason::SchemeDenied);
        denies(&snapshot, "GET http://api.good.test:443/", Reason::SchemeDenied);
    }
}

mod paths {
    use super::*;

    fn denied(reason: Reason, targets: &[&str]) {
        let snapshot = load(P3);
        for target in targets {
            denies(&snapshot, &format!("GET https://api.good.test{target}"), reason);
        }
    }

    fn bad(targets: &[&str]) {
        for target in targets {
            let read =
                read_request_line(&format!("GET https://api.good.test{target}"), http::HeaderMap::new());
            assert!(matches!(read, Err(RequestLineError::Malformed(_))), "{target:?}: {read:?}");
        }
    }

    #[test]
    fn pm_01_02_dot_segments_are_resolved_before_the_verdict() {
        let targets = [
            "/public/../admin",
            "/public/./../admin",
            "/public/%2e%2e/admin",
            "/public/x/..%2e/..",
            "/public/.%2E/x",
        ];
        denied(Reason::PathDenied, &[targets[0], targets[1], targets[2], targets[4]]);
        let snapshot = load(P3);
        let permit = judge(&snapshot, "GET https://api.good.test/public/x/../%2e/y").unwrap();
        assert_eq!(permit.request().path(), "/public/y");
        denies(&snapshot, "GET https://api.good.test/public/a/../secret/x", Reason::RuleDenied);
    }

    #[test]
    fn pm_04_an_encoded_slash_is_refused_under_a_path_rule_and_passes_without_one() {
        let snapshot = load(P3);
        for target in [
            "/public/..%2fadmin",
            "/public%2fsecret%2fx",
            "/public/a%2Fb",
            "/public/%252e%252e/x",
            "/public/%255c",
        ] {
            let refusal = judge(&snapshot, &format!("GET https://api.good.test{target}")).unwrap_err();
            assert!(matches!(refusal.reason, Reason::PathDenied | Reason::RuleDenied), "{target}");
        }
        let public = P3.split("[[rule]]\nname = \"not secret\"").next().unwrap();
        for target in ["/public/a%2fb", "/public%2fx", "/public/%252e%252e/x", "/public/%c0%ae"] {
            denies(&load(public), &format!("GET https://api.good.test{target}"), Reason::PathDenied);
        }
        allows(&load(public), "GET https://api.good.test/public/a%20b");
        allows(&load(P1), "GET https://api.good.test/@scope%2fname");
        let rule = r#"
            [[rule]]
            name = "packages"
            hosts = ["registry.test"]
            action = "allow"
            encoded_slash = "allow"
            [[rule.match]]
            path = { prefix = "/@scope" }
            [[rule.match]]
            path = { prefix = "/@scope%2fname" }
        "#;
        let packages = load(rule);
        allows(&packages, "GET https://registry.test/@scope/name");
        denies(&packages, "GET https://registry.test/@other%2fname", Reason::PathDenied);
        denies(&packages, "GET https://registry.test/@scope%2f..%2fother", Reason::PathDenied);
    }

    #[test]
    fn pm_06_12_14_what_is_malformed_is_never_judged() {
        bad(&[
            "/public/..\\admin",
            "/public%5c..%5cadmin",
            "\\admin",
            "/%zz",
            "/%",
            "/%2",
            "/%u002e%u002e",
            "/%00",
        ]);
        bad(&[
            "/%0d%0aHost:%20evil.test",
            "/public/a#/../../admin",
            "/admin#/public/",
            "/public/a\u{7f}",
            "/public/..;/admin",
        ]);
        allows(&load(P3), "GET https://api.good.test/public/a%20b?x=%0d%0a");
    }

    #[test]
    fn pm_08_doubled_slashes_are_read_both_ways() {
        for target in ["//admin", "/public//secret/x", "/public/secret//x", "///public/x"] {
            let refusal = judge(&load(P3), &format!("GET https://api.good.test{target}")).unwrap_err();
            assert!(matches!(refusal.reason, Reason::PathDenied | Reason::RuleDenied), "{target}");
        }
        allows(&load(P3), "GET https://api.good.test/public//x");
    }

    #[test]
    fn pm_08_what_a_url_library_takes_for_a_host_hides_no_path() {
        let rule = format!(
            "{P10}[[rule]]\nname = \"no admin\"\nhosts = [\"a.test\"]\naction = \"deny\"\nencoded_slash = \"allow\"\n\
             [[rule.match]]\npath = {{ prefix = \"/admin\" }}\n"
        );
        for target in [
            "//x/admin",
            "//x//admin/y",
            "///x/admin",
            "/%2fx/admin",
            "//x%2fadmin",
            "/admin%2fx/%252e%252e/%252e%252e/y",
        ] {
            denies(&load(&rule), &format!("GET https://a.test{target}"), Reason::RuleDenied);
        }
        allows(&load(&rule), "GET https://a.test//x/other");
        allows(&load(&rule), "GET https://a.test/x/admin");
    }

    #[test]
    fn pm_10_allow_rules_mind_case_and_deny_rules_do_not() {
        denied(Reason::PathDenied, &["/PUBLIC/x"]);
        denied(Reason::RuleDenied, &["/public/SECRET/x", "/public/secret/x", "/public/%73ecret/x"]);
        let rule = format!(
            "{P10}[[rule]]\nname = \"no admin\"\nhosts = [\"a.test\"]\naction = \"deny\"\n[[rule.match]]\npath = {{ exact = \"/admin\" }}\n"
        );
        denies(&load(&rule), "GET https://a.test/Admin", Reason::RuleDenied);
        allows(&load(&rule), "GET https://a.test/administration");
    }

    #[test]
    fn pm_13_a_query_never_counts_as_path() {
        denied(Reason::PathDenied, &["", "?x=/public/a", "/?x=/public/a", "/admin?/public/a"]);
    }

    #[test]
    fn pm_17_a_prefix_ends_at_a_segment() {
        let snapshot = load(P3);
        allows(&snapshot, "GET https://api.good.test/public");
        allows(&snapshot, "GET https://api.good.test/public/");
        denied(Reason::PathDenied, &["/publicX"]);
        assert!(judge(&snapshot, "GET https://api.good.test/public%2f").is_err());
    }

    #[test]
    fn pm_18_a_legal_odd_path_leaves_as_it_came() {
        let target = "/a%20b%C3%A9+c,~!$&'()*;=:@/%7E";
        let permit = judge(&load(P1), &format!("GET https://api.good.test{target}")).unwrap();
        assert_eq!(permit.request().path_and_query().as_str(), target);
    }

    #[test]
    fn pm_18_a_deny_sees_a_path_without_its_parameters_and_an_allow_must_hold_there_too() {
        let deny = |path: &str| {
            load(&format!(
                "{P10}[[rule]]\nname = \"no\"\nhosts = [\"a.test\"]\naction = \"deny\"\n[[rule.match]]\npath = {{ {path} }}\n"
            ))
        };
        for (path, hidden, other) in [
            (
                "prefix = \"/admin\"",
                &["/admin;x/y", "/admin;", "/%61dmin;x", "/ADMIN;x", "/;/admin", "/admin%3bx/y"][..],
                "/a;/admin",
            ),
            (
                "prefix = \"/public/secret\"",
                &["/public/secret;a=b/x", "/public;y/secret", "/public%3By/%73ecret"],
                "/public/secretly;x",
            ),
            ("exact = \"/one\"", &["/one;x", "/one;x=1;y=2"], "/one;x/two"),
            ("regex = \"/hid/[^/]+\"", &["/hid;a/x", "/hid;a/x;b", "/hid/%78;b"], "/hide;a/x"),
        ] {
            let snapshot = deny(path);
            for hidden in hidden {
                denies(&snapshot, &format!("GET https://a.test{hidden}"), Reason::RuleDenied);
            }
            allows(&snapshot, &format!("GET https://a.test{other}"));
        }
        let allow = |path: &str| {
            load(&format!(
                "[[rule]]\nname = \"yes\"\nhosts = [\"a.test\"]\naction = \"allow\"\n[[rule.match]]\npath = {{ {path} }}\n"
            ))
        };
        let scripts = allow("regex = \"/.*[.]js\"");
        allows(&scripts, "GET https://a.test/a/b.js;v=1.js");
        denies(&scripts, "GET https://a.test/admin;.js", Reason::PathDenied);
        denies(&scripts, "GET https://a.test/admin%3b.js", Reason::PathDenied);
        let below = allow("prefix = \"/public\"");
        allows(&below, "GET https://a.test/public/a;v=1/b;c");
        denies(&below, "GET https://a.test/public;/x/../../admin", Reason::PathDenied);
        // Who spells the parameter out means it.
        let spelled = allow("exact = \"/public/a;v=1\"");
        allows(&spelled, "GET https://a.test/public/a;v=1");
        denies(&spelled, "GET https://a.test/public/a", Reason::PathDenied);
    }

    #[test]
    fn cr_15_nothing_outside_the_path_gets_the_rule_with_the_credential() {
        let text = P3.replace("/public/**", "/v1/**").replace("GET\", \"HEAD", "GET");
        for target in ["/v1/../admin", "/v1/..%2fadmin", "//v1/x"] {
            assert!(judge(&load(&text), &format!("GET https://api.good.test{target}")).is_err(), "{target}");
        }
        allows(&load(&text), "GET https://api.good.test/v1/x");
    }
}

mod methods_and_queries {
    use super::*;

    #[test]
    fn pm_16_a_query_condition_holds_in_every_interpretation() {
        let path = "path = { glob = \"/public/**\" }";
        let with_query = format!("{path}\n  query = [{{ name = \"repo\", value = \"ok\" }}]");
        let snapshot = load(&P3.replace(path, &with_query));
        let url = "GET https://api.good.test/public/x";
        for good in ["?repo=ok", "?a=1&repo=ok", "?repo=ok&a=1"] {
            allows(&snapshot, &format!("{url}{good}"));
        }
        for bad in [
            "?repo=ok&repo=evil",
            "?repo=evil&repo=ok",
            "?repo=ok;repo=evil",
            "?%72epo=evil",
            "?REPO=evil",
            "?repo[]=evil",
            "",
        ] {
            denies(&snapshot, &format!("{url}{bad}"), Reason::QueryDenied);
        }
    }

    #[test]
    fn pm_20_another_method_on_an_allowed_path_is_refused_as_such() {
        for method in ["POST", "PUT", "DELETE"] {
            denies(&load(P3), &format!("{method} https://api.good.test/public/x"), Reason::MethodDenied);
        }
        allows(&load(P3), "HEAD https://api.good.test/public/x");
        allows(&load(P3), "POST https://api.good.test/v1/messages");
        denies(&load(P3), "GET https://api.good.test/v1/messages", Reason::MethodDenied);
    }

    #[test]
    fn pm_21_method_overrides_do_not_leave() {
        let fields = [
            ("x-http-method-override", "DELETE"),
            ("x-http-method", "DELETE"),
            ("x-method-override", "DELETE"),
            ("accept", "a/b"),
        ];
        let permit = judge_with(&load(P3), "POST https://api.good.test/v1/messages", &fields).unwrap();
        assert_eq!(permit.request().headers().len(), 1);
    }

    #[test]
    fn pm_22_23_only_standard_methods_pass_where_a_rule_names_none() {
        for method in ["get", "Get", "gET", "FOO", "G*T", "PRI", "TRACK", "DEBUG", "PROPFIND"] {
            denies(&load(P1), &format!("{method} https://api.good.test/"), Reason::MethodDenied);
            denies(&load(P3), &format!("{method} https://api.good.test/public/x"), Reason::MethodDenied);
        }
        let trace = read_request_line("TRACE https://api.good.test/", http::HeaderMap::new());
        assert_eq!(trace.unwrap_err(), RequestLineError::Malformed(Malformed::Trace));
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            allows(&load(P1), &format!("{method} https://api.good.test/"));
        }
        let named = P3.replace("\"GET\", \"HEAD\"", "\"PROPFIND\"");
        allows(&load(&named), "PROPFIND https://api.good.test/public/x");
    }

    #[test]
    fn a_header_condition_wants_every_line_of_the_field() {
        let text = P3.replace(
            "path = { exact = \"/v1/messages\" }",
            "headers = [{ name = \"content-type\", regex = \"application/json(;.*)?\" }]",
        );
        let snapshot = load(&text);
        let post = "POST https://api.good.test/v1/messages";
        assert!(judge_with(&snapshot, post, &[("content-type", "application/json; charset=utf-8")]).is_ok());
        for fields in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "application/json"), ("content-type", "text/plain")],
            &[("content-type", "application/json"), ("content_type", "text/plain")],
            &[("content_type", "application/json")],
        ] {
            assert_eq!(judge_with(&snapshot, post, fields).unwrap_err().reason, Reason::HeaderDenied);
        }
    }

    #[test]
    fn sm_25_a_deny_by_header_sees_what_servers_fold_into_its_name() {
        let text = format!(
            "{P10}[[rule]]\nname = \"no\"\nhosts = [\"a.test\"]\naction = \"deny\"\n[[rule.match]]\nheaders = [{{ name = \"x-mode\", value = \"evil\" }}]\n"
        );
        let (snapshot, url) = (load(&text), "GET https://a.test/");
        for name in ["x-mode", "X_Mode", "x_mode", "x-mode-", "_x-mode"] {
            let refused = judge_with(&snapshot, url, &[("x-mode", "good"), (name, "Evil")]).unwrap_err();
            assert_eq!(refused.reason, Reason::RuleDenied, "{name}");
        }
        assert!(judge_with(&snapshot, url, &[("x_mode", "good"), ("x-model", "evil")]).is_ok());
    }

    #[test]
    fn fr_13_a_websocket_needs_a_rule_that_says_so() {
        let handshake = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let url = "GET https://api.good.test/";
        assert_eq!(judge_with(&load(P1), url, &handshake).unwrap_err().reason, Reason::WebSocketDenied);
        let text =
            "[[rule]]\nname = \"ws\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\nwebsocket = true\n";
        let permit = judge_with(&load(text), url, &handshake).unwrap();
        assert!(permit.request().websocket() && !permit.request().headers().contains_key("upgrade"));
        assert_eq!(judge_with(&load(text), url, &handshake[..2]).unwrap_err().reason, Reason::BadRequest);
        let foreign = [("connection", "Upgrade"), ("upgrade", "connect-udp")];
        assert_eq!(judge_with(&load(text), url, &foreign).unwrap_err().reason, Reason::Protocol);
    }
}
