//! How rules work together, and what follows for connections, names, raw TCP and permits.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/policy.rs"]
#[allow(dead_code)]
mod policy;

use outgate::base::Host;
use outgate::policy::Reason;
use policy::{P1, agent, allows, connect, denies, dns, judge, judge_with, load, request};

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
        assert!(snapshot.open_ports().contains(&22));
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

mod git {
    use super::*;

    const HOST: &str =
        "[[rule]]\nname = \"git\"\nhosts = [\"git.test\"]\naction = \"allow\"\n[[rule.match]]\n";
    const PATH: &str = "path = { exact = \"/o/r\" }";

    fn rule(lines: &str) -> String {
        format!("{HOST}{lines}\n")
    }

    #[test]
    fn pm_24_a_clone_passes_and_a_push_does_not() {
        for path in [PATH, "path = { exact = \"/o/r.git\" }", "path = { glob = \"/*/r.git\" }"] {
            let snapshot = load(&rule(&format!("git = \"read\"\n{path}")));
            for repository in ["/o/r", "/o/r.git"] {
                let url = format!("https://git.test{repository}");
                allows(&snapshot, &format!("GET {url}/info/refs?service=git-upload-pack"));
                allows(&snapshot, &format!("POST {url}/git-upload-pack"));
                let push = format!("GET {url}/info/refs?service=git-receive-pack");
                denies(&snapshot, &push, Reason::GitDenied);
                denies(&snapshot, &format!("POST {url}/git-receive-pack"), Reason::GitDenied);
                denies(&snapshot, &format!("POST {url}/info/lfs/objects/batch"), Reason::GitDenied);
            }
            denies(
                &snapshot,
                "GET https://git.test/o/x/info/refs?service=git-upload-pack",
                Reason::PathDenied,
            );
            denies(&snapshot, "POST https://git.test/o/r/x/git-upload-pack", Reason::PathDenied);
            denies(&snapshot, "GET https://git.test/o/r", Reason::PathDenied);
        }
    }

    #[test]
    fn pm_24_no_spelling_of_a_push_passes_for_a_clone() {
        let snapshot = load(&rule("git = \"read\""));
        for line in [
            "GET https://git.test/o/r.git/info/refs?service=git-receive-pack",
            "GET https://git.test/o/r.git/info/refs?service=git-upload-pack&service=git-receive-pack",
            "GET https://git.test/o/r.git/info/refs?service=git-receive-pack&service=git-upload-pack",
            "GET https://git.test/o/r.git/info/refs?x=1&service=git-receive-pack",
            "GET https://git.test/o/r.git/info/refs?service=git%2dreceive%2Dpack",
            "GET https://git.test/o/r.git/info/refs?%73ervice=git-receive-pack",
            "GET https://git.test/o/r.git/info/refs",
            "GET https://git.test/o/r.git/info/refs?",
            "POST https://git.test/o/r.git/git-receive-pack",
            "POST https://git.test/o/r.git/git%2Dreceive-pack",
            "POST https://git.test/o/r.git/git-upload-pack/../git-receive-pack",
            "POST https://git.test/o/r.git//git-receive-pack",
            "POST https://git.test/o/r.git%2fgit-receive-pack",
            "POST https://git.test/o/r.git%2fgit-receive-pack/git-upload-pack",
            "POST https://git.test/o/git-receive-pack/git-upload-pack",
            "POST https://git.test/o/r.git/git-upload-pack?service=git-receive-pack",
            "PUT https://git.test/o/r.git/info/refs?service=git-upload-pack",
            "PUT https://git.test/o/r.git/objects/aa/bb",
        ] {
            assert!(judge(&snapshot, line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_allow_of_writing_opens_reading_and_lfs_too() {
        let snapshot = load(&rule(&format!("git = \"write\"\n{PATH}")));
        for line in [
            "GET https://git.test/o/r.git/info/refs?service=git-upload-pack",
            "POST https://git.test/o/r.git/git-upload-pack",
            "GET https://git.test/o/r.git/info/refs?service=git-receive-pack",
            "POST https://git.test/o/r.git/git-receive-pack",
            "POST https://git.test/o/r.git/info/lfs/objects/batch",
            "PUT https://git.test/o/r.git/info/lfs/objects/0123",
        ] {
            allows(&snapshot, line);
        }
        denies(&snapshot, "POST https://git.test/o/x.git/git-receive-pack", Reason::PathDenied);
    }

    #[test]
    fn pm_24_a_deny_of_writing_leaves_reading_and_closes_every_spelling_of_a_push() {
        let open = "[[rule]]\nname = \"all\"\nhosts = [\"git.test\"]\naction = \"allow\"\n";
        let deny = |lines: &str| load(&format!("{open}{}", rule(lines).replace("allow", "deny")));
        let everywhere = deny("git = \"write\"");
        let here = deny(&format!("git = \"write\"\n{PATH}"));
        for line in [
            "GET https://git.test/o/r.git/info/refs?service=git-receive-pack",
            "GET https://git.test/o/r.git/info/refs?a=b;service=git-receive-pack",
            "GET https://git.test/O/R.GIT/info/refs?SERVICE=git%2Dreceive-pack",
            "POST https://git.test/o/r/git-receive-pack",
            "POST https://git.test/o/r.git//Git-Receive-Pack;x",
            "POST https://git.test/o/r.git/git%2Dreceive-pack/",
            "POST https://git.test/o/r.git%2Fgit-receive-pack",
            "POST https://git.test/o/r.git/info/lfs/objects/batch",
        ] {
            for snapshot in [&everywhere, &here] {
                denies(snapshot, line, Reason::RuleDenied);
            }
        }
        for line in [
            "GET https://git.test/o/r.git/info/refs?service=git-upload-pack",
            "POST https://git.test/o/r.git/git-upload-pack",
            "GET https://git.test/o/r/blob/main/git-receive-pack.c",
        ] {
            allows(&everywhere, line);
        }
        allows(&here, "POST https://git.test/o/other.git/git-receive-pack");
        let closed = deny("git = \"read\"");
        for line in [
            "GET https://git.test/o/r.git/info/refs?service=git-upload-pack",
            "GET https://git.test/o/r.git/info/refs",
            "POST https://git.test/o/r.git/git-receive-pack",
        ] {
            denies(&closed, line, Reason::RuleDenied);
        }
        allows(&closed, "GET https://git.test/o/r");
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
