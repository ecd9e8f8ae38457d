//! What the policy says: rows of the gauntlet that are decided there, each with its positive twin.

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
        assert_eq!(request("GET https://api.good.test./", &[]).authority(), "api.good.test");
        assert_eq!(connect(&snapshot, "deny.test.", 443), "rule_denied");
    }

    #[test]
    fn hc_22_case_changes_nothing() {
        let snapshot = load(P10);
        allows(&snapshot, "GET https://API.Good.TEST/");
        denies(&snapshot, "GET https://DENY.Test/", Reason::RuleDenied);
        assert_eq!(request("GET https://API.Good.TEST/", &[]).authority(), "api.good.test");
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
    fn pm_24_git_clone_yes_push_no() {
        let snapshot = load(
            r#"
            [[rule]]
            name = "clone"
            hosts = ["git.test"]
            action = "allow"
            [[rule.match]]
            methods = ["GET"]
            path = { glob = "/**/info/refs" }
            query = [{ name = "service", value = "git-upload-pack" }]
            [[rule.match]]
            methods = ["POST"]
            path = { glob = "/**/git-upload-pack" }
        "#,
        );
        allows(&snapshot, "GET https://git.test/o/r.git/info/refs?service=git-upload-pack");
        allows(&snapshot, "POST https://git.test/o/r.git/git-upload-pack");
        denies(
            &snapshot,
            "GET https://git.test/o/r.git/info/refs?service=git-receive-pack",
            Reason::QueryDenied,
        );
        denies(
            &snapshot,
            "GET https://git.test/o/r.git/info/refs?service=git-upload-pack&service=git-receive-pack",
            Reason::QueryDenied,
        );
        denies(&snapshot, "POST https://git.test/o/r.git/git-receive-pack", Reason::PathDenied);
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
        ] {
            assert_eq!(judge_with(&snapshot, post, fields).unwrap_err().reason, Reason::HeaderDenied);
        }
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
        let text = "[[rule]]\nname = \"ws\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\nwebsocket = true\n[rule.dlp]\noutbound = []\n";
        let permit = judge_with(&load(text), url, &handshake).unwrap();
        assert!(permit.request().websocket() && !permit.request().headers().contains_key("upgrade"));
        assert_eq!(judge_with(&load(text), url, &handshake[..2]).unwrap_err().reason, Reason::BadRequest);
        let foreign = [("connection", "Upgrade"), ("upgrade", "connect-udp")];
        assert_eq!(judge_with(&load(text), url, &foreign).unwrap_err().reason, Reason::Protocol);
    }
}

mod rules {
    use super::*;

    #[test]
    fn pl_01_nothing_is_allowed_by_default() {
        let snapshot = load(policy::CLIENT);
        denies(&snapshot, "GET https://api.good.test/", Reason::NoRule);
        assert_eq!(connect(&snapshot, "api.good.test", 443), "no_rule");
        for qtype in [1, 28, 16, 15, 255] {
            assert_eq!(dns(&snapshot, "api.good.test", qtype), "dns_denied");
        }
        assert!(snapshot.client(None, "10.0.0.1".parse().unwrap()).is_none());
    }

    #[test]
    fn pl_02_a_deny_wins_in_both_orders_and_over_the_narrower_allow() {
        let allow = "[[rule]]\nname = \"a\"\nhosts = [\"x.good.test\"]\naction = \"allow\"\n[[rule.match]]\npath = { exact = \"/only\" }\n";
        let deny = "[[rule]]\nname = \"d\"\nhosts = [\"*.good.test\"]\naction = \"deny\"\n";
        for text in [format!("{allow}{deny}"), format!("{deny}{allow}")] {
            let refusal = judge(&load(&text), "GET https://x.good.test/only").unwrap_err();
            assert_eq!((refusal.reason, refusal.rule.as_deref()), (Reason::RuleDenied, Some("d")));
            assert_eq!(connect(&load(&text), "x.good.test", 443), "rule_denied");
            assert_eq!(dns(&load(&text), "x.good.test", 1), "dns_denied");
        }
        allows(&load(allow), "GET https://x.good.test/only");
    }

    #[test]
    fn a_deny_covers_every_port_and_scheme_unless_it_says_less() {
        let deny = "[[rule]]\nname = \"d\"\nhosts = [\"plain.good.test\"]\naction = \"deny\"\n";
        denies(&load(&format!("{P1}{deny}")), "GET http://plain.good.test/", Reason::RuleDenied);
        allows(&load(&format!("{P1}{deny}scheme = \"https\"\n")), "GET http://plain.good.test/");
        allows(&load(&format!("{P1}{deny}ports = [8080]\n")), "GET http://plain.good.test/");
    }

    #[test]
    fn among_allows_the_first_in_file_order_decides() {
        let rule = |name: &str, host: &str| {
            format!("[[rule]]\nname = \"{name}\"\nhosts = [\"{host}\"]\naction = \"allow\"\n")
        };
        let decides =
            |text: &str| judge(&load(text), "GET https://a.b.test/").unwrap().rule().name().to_string();
        assert_eq!(decides(&[rule("exact", "a.b.test"), rule("wide", "*.b.test")].concat()), "exact");
        assert_eq!(decides(&[rule("wide", "*.b.test"), rule("exact", "a.b.test")].concat()), "wide");
    }

    #[test]
    fn pl_09_each_client_has_its_own_rules() {
        let snapshot = load(
            r#"
            [[client]]
            name = "agent"
            source = ["192.168.128.0/24"]
            [[client]]
            name = "other"
            source = ["192.168.129.0/24"]
            [[rule]]
            name = "theirs"
            clients = ["other"]
            hosts = ["api.good.test"]
            action = "allow"
        "#,
        );
        denies(&snapshot, "GET https://api.good.test/", Reason::NoRule);
        assert_eq!(dns(&snapshot, "api.good.test", 1), "dns_denied");
        let other = snapshot.client(None, "192.168.129.1".parse().unwrap()).unwrap();
        assert_eq!(&*snapshot.client_name(other), "other");
        assert!(snapshot.judge_request(other, request("GET https://api.good.test/", &[])).is_ok());
    }

    #[test]
    fn pl_12_observe_passes_for_the_record_and_never_beats_an_allow_or_a_deny() {
        let observe = "[[rule]]\nname = \"o\"\nhosts = [\"*.test\"]\naction = \"observe\"\n";
        let snapshot = load(&format!(
            "{observe}{P1}[[rule]]\nname = \"d\"\nhosts = [\"deny.test\"]\naction = \"deny\"\n"
        ));
        assert!(judge(&snapshot, "GET https://new.test/").unwrap().observed());
        assert!(!judge(&snapshot, "GET https://api.good.test/").unwrap().observed());
        denies(&snapshot, "GET https://deny.test/", Reason::RuleDenied);
        assert_eq!(connect(&snapshot, "new.test", 443), "intercept");
    }

    #[test]
    fn a_tunnel_is_decided_at_the_connection() {
        let tunnel = "[[rule]]\nname = \"t\"\nhosts = [\"pinned.good.test\"]\naction = \"tunnel\"\n";
        let snapshot = load(&format!("{P1}{tunnel}"));
        assert_eq!(connect(&snapshot, "pinned.good.test", 443), "tunnel");
        assert_eq!(connect(&snapshot, "pinned.good.test", 8443), "port_denied");
        assert_eq!(dns(&snapshot, "pinned.good.test", 28), "resolve");
        denies(&snapshot, "GET http://pinned.good.test/", Reason::SchemeDenied);
    }

    #[test]
    fn raw_tcp_is_opened_by_name_and_port_only() {
        let text = "[[rule]]\nname = \"ssh\"\nhosts = [\"git.test\"]\naction = \"tunnel\"\nscheme = \"tcp\"\nports = [22]\n";
        let snapshot = load(&format!("{P1}{text}"));
        let judge =
            |host: &str, port| snapshot.judge_tcp(agent(&snapshot), &Host::parse(host).unwrap(), port);
        assert_eq!(snapshot.tcp_ports(), [22]);
        assert!(snapshot.opens_tcp(agent(&snapshot), 22) && !snapshot.opens_tcp(agent(&snapshot), 23));
        assert_eq!(judge("git.test", 22).unwrap().dial().port(), 22);
        assert_eq!(judge("git.test", 23).unwrap_err().reason, Reason::PortDenied);
        assert_eq!(judge("api.good.test", 22).unwrap_err().reason, Reason::SchemeDenied);
        assert_eq!(judge("evil.test", 22).unwrap_err().reason, Reason::NoRule);
    }

    #[test]
    fn a_refusal_of_a_valid_name_may_be_said_inside_tls() {
        let refusal = judge(&load(P1), "GET https://evil.test/").unwrap_err();
        assert_eq!(refusal.mint().unwrap().host(), &Host::parse("evil.test").unwrap());
    }

    #[test]
    fn cr_01_a_rule_strips_what_it_will_inject_and_asks_for_what_can_be_redacted() {
        let snapshot = load(
            r#"
            [[secret]]
            name = "k5"
            from = { env = "K5" }
            [[rule]]
            name = "with credential"
            hosts = ["api.good.test"]
            action = "allow"
            [rule.request]
            strip = ["cookie"]
            set = { "user-agent" = "acme-agent" }
            inject = [{ header = "x-vendor-key", value = "{secret.k5}" }]
        "#,
        );
        let fields = [
            ("x-vendor-key", "FAKE"),
            ("X_Vendor_Key", "FAKE"),
            ("cookie", "a=b"),
            ("range", "bytes=0-1"),
            ("accept-encoding", "br"),
            ("user-agent", "curl"),
            ("accept", "*/*"),
        ];
        let permit = judge_with(&snapshot, "GET https://api.good.test/", &fields).unwrap().edited();
        let mut left: Vec<_> =
            permit.request().headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["accept-encoding: identity", "accept: */*", "user-agent: acme-agent"]);
        assert_eq!(snapshot.secrets().iter().count(), 1);
    }
}

mod names {
    use super::*;

    #[test]
    fn dn_01_03_05_only_names_that_a_rule_could_allow_are_answered() {
        let snapshot = load(P1);
        for (name, qtype, answer) in [
            ("api.good.test", 1, "resolve"),
            ("api.good.test", 28, "resolve"),
            ("API.GOOD.TEST.", 1, "resolve"),
            ("plain.good.test", 1, "resolve"),
            ("api.good.test", 16, "nodata"),
            ("api.good.test", 65, "nodata"),
            ("api.good.test", 255, "nodata"),
            ("evil.test", 1, "dns_denied"),
            ("evil.test", 16, "dns_denied"),
            ("x.api.good.test", 1, "dns_denied"),
            ("good.test", 6, "dns_denied"),
        ] {
            assert_eq!(dns(&snapshot, name, qtype), answer, "{name} {qtype}");
        }
    }

    #[test]
    fn a_name_is_denied_only_where_no_request_to_it_could_be_allowed() {
        let deny = "[[rule]]\nname = \"d\"\nhosts = [\"api.good.test\"]\naction = \"deny\"\n";
        assert_eq!(dns(&load(&format!("{P1}{deny}")), "api.good.test", 1), "dns_denied");
        assert_eq!(dns(&load(&format!("{P1}{deny}ports = [443]\n")), "api.good.test", 1), "dns_denied");
        assert_eq!(dns(&load(&format!("{P1}{deny}ports = [80]\n")), "api.good.test", 1), "resolve");
        assert_eq!(
            dns(&load(&format!("{P1}{deny}[[rule.match]]\nmethods = [\"GET\"]\n")), "api.good.test", 1),
            "resolve"
        );
    }

    #[test]
    fn dn_23_a_grant_travels_with_the_answer_and_the_permit() {
        let text = "[[rule]]\nname = \"in\"\nhosts = [\"intern.good.test\"]\naction = \"allow\"\nprivate = [\"10.99.0.0/24:443\"]\n";
        let snapshot = load(text);
        let name = outgate::base::HostName::parse("intern.good.test").unwrap();
        match snapshot.judge_dns(agent(&snapshot), &name, 1) {
            outgate::policy::DnsVerdict::Resolve { private, .. } => {
                assert_eq!(private, ["10.99.0.0/24".parse().unwrap()])
            }
            other => panic!("{other:?}"),
        }
        let right = judge(&snapshot, "GET https://intern.good.test/").unwrap().dial();
        assert!(right.grants("10.99.0.5".parse().unwrap()));
        for address in ["10.98.0.5", "127.0.0.1", "169.254.169.254", "93.184.216.34"] {
            assert!(!right.grants(address.parse().unwrap()), "{address}");
        }
    }
}
