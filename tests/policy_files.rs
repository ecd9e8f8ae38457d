//! What a wrong policy is told: every problem at once, with its place and a way out.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/policy.rs"]
#[allow(dead_code)]
mod policy;

use outgate::policy::{LoadOptions, Snapshot, environment_names};
use policy::{CLIENT, P1, file, try_load};
use std::sync::Arc;

/// The report on a policy that must not load.
#[track_caller]
fn report(text: &str) -> String {
    match try_load(text) {
        Ok(_) => panic!("it loads: {text}"),
        Err(problems) => problems.to_string(),
    }
}

fn rule(lines: &str) -> String {
    format!("[[rule]]\nname = \"r\"\n{lines}\n")
}

/// Each text must be refused with each of these words in the report.
#[track_caller]
fn refused(lines: &str, words: &[&str]) {
    let report = report(&rule(lines));
    for word in words {
        assert!(report.contains(word), "{word:?} is not in:\n{report}");
    }
}

const ALLOW: &str = "hosts = [\"a.test\"]\naction = \"allow\"";

#[test]
fn every_problem_of_every_file_is_told_at_once_with_its_place() {
    let first = "[[rule]]\nname = \"a\"\nhost = [\"a.test\"]\naction = \"alow\"\n\n[[rule]]\nname = \"b\"\nhosts = [\"*.com\"]\naction = \"allow\"\nports = [0]\n";
    let second =
        "[[rule]]\nname = \"b\"\nclients = [\"nobody\"]\nhosts = [\"b.test\"]\naction = \"allow\"\nwat = 1\n";
    let files = [file("p/1.toml", first), file("p/2.toml", second), file("p/3.toml", "[[rule]\n")];
    let report = Snapshot::parse(&files, &LoadOptions::default()).unwrap_err().to_string();
    for place in [
        "p/1.toml:3:1: error: unknown key \"host\" in [[rule]]\n    help: did you mean \"hosts\"?",
        "p/1.toml:1:1: error: a rule without hosts and addresses",
        "p/1.toml:4:10: error: no such action: \"alow\"",
        "p/1.toml:8:10: error: \"*.com\" opens every site under a public suffix",
        "p/1.toml:10:10: error: a port is a number from 1 to 65535",
        "p/2.toml:3:12: error: no such client: \"nobody\"",
        "p/2.toml:6:1: error: unknown key \"wat\" in [[rule]]",
        "p/3.toml:1:",
    ] {
        assert!(report.contains(place), "{place:?} is not in:\n{report}");
    }
}

#[test]
fn hc_28_hosts_that_open_too_much_are_refused_and_denies_may_be_wide() {
    for host in [
        "*",
        "*.com",
        "*.co.uk",
        "**",
        "a*.wild.test",
        "[ab].wild.test",
        "?.wild.test",
        "wild.*",
        "10.0.0.1",
        "https://a.test",
    ] {
        let report = report(&rule(&format!("action = \"allow\"\nhosts = [\"{host}\"]")));
        assert!(
            report.starts_with("policy.toml:4:10: error:") && report.contains("help:"),
            "{host}: {report}"
        );
    }
    let wide = rule("action = \"allow\"\nhosts = [\"*\", \"*.com\"]");
    assert!(try_load(&format!("danger_any_host = true\n{wide}")).is_ok());
    assert!(
        report(&format!("danger_any_host = true\n{}", rule("action = \"allow\"\nhosts = [\"a*.b.test\"]")))
            .contains("policy.toml:5:10")
    );
    assert!(try_load(&rule("action = \"deny\"\nhosts = [\"*\", \"*.com\"]")).is_ok());
    assert!(try_load(&rule("action = \"allow\"\nhosts = [\"*.wild.test\", \"*.corp\"]")).is_ok());
    let warned = try_load(&rule("action = \"allow\"\nhosts = [\"*.github.io\"]")).unwrap();
    assert!(warned.warnings().iter().any(|w| w.warning && w.line == 4 && w.message.contains("github.io")));
}

#[test]
fn ft_08_an_empty_file_or_folder_is_an_error_and_so_is_half_a_file() {
    for (text, words) in [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("[[rule]]\nname = \"a", "policy.toml:2:"),
    ] {
        let error =
            Snapshot::parse(&[file("policy.toml", text)], &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{text:?}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let load = || Snapshot::load(dir.path(), &LoadOptions::default());
    assert!(load().unwrap_err().to_string().contains("no policy files"));
    std::fs::create_dir(dir.path().join("a.toml")).unwrap();
    assert!(load().unwrap_err().to_string().contains("not a regular file"));
    std::fs::remove_dir(dir.path().join("a.toml")).unwrap();
    std::fs::write(dir.path().join("a.toml"), [0xff, 0xfe]).unwrap();
    assert!(load().unwrap_err().to_string().contains("not UTF-8"));
    assert!(Snapshot::load(&dir.path().join("absent"), &LoadOptions::default()).is_err());
    std::fs::write(dir.path().join("a.toml"), format!("{CLIENT}{P1}")).unwrap();
    std::fs::write(dir.path().join(".b.toml.swp"), "half").unwrap();
    assert_eq!(load().unwrap().rules().len(), 2);
}

#[test]
fn files_are_read_in_the_order_of_their_names_and_every_byte_counts_for_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("20.toml", &rule(ALLOW).replace("\"r\"", "\"second\""));
    write("10.toml", &format!("{CLIENT}{}[rule.script]\nfile = \"a.rhai\"\n", rule(ALLOW)));
    write("a.rhai", "fn request(req) { pass() }");
    let load = || Snapshot::load(dir.path(), &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let first = load();
    let names: Vec<_> = first.rules().iter().map(|r| r.name().to_string()).collect();
    assert_eq!(names, ["r", "second"]);
    assert!(first.rules()[0].script().is_some());
    assert_eq!(first.version(), load().version());
    write("a.rhai", "fn request(req) { deny(\"no\") }");
    assert_ne!(first.version(), load().version());
    write("a.rhai", "fn request(req) {");
    let problems = Snapshot::load(dir.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(problems.contains("a.rhai:1:"), "{problems}");
    std::fs::remove_file(dir.path().join("a.rhai")).unwrap();
    assert!(
        Snapshot::load(dir.path(), &LoadOptions::default()).unwrap_err().to_string().contains("10.toml:9:8")
    );
}

#[test]
fn a_hook_for_messages_needs_a_rule_that_opens_websockets() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let load =
        || Snapshot::load(dir.path(), &LoadOptions::default()).map_err(|problems| problems.to_string());
    let with = |keys: &str| {
        format!("{CLIENT}{}[rule.script]\nfile = \"a.rhai\"\n", rule(&format!("{ALLOW}\n{keys}")))
    };
    write("a.rhai", "fn message(ws) { pass() }");
    write("a.toml", &with("websocket = true\n"));
    assert!(load().unwrap().rules()[0].script().unwrap().has_message());
    write("a.toml", &with(""));
    let error = load().unwrap_err();
    assert!(error.contains("opens no WebSocket") && error.contains("add websocket = true"), "{error}");
}

#[test]
fn a_credential_leaves_over_tls_only_and_only_by_a_rule_that_allows() {
    let secret = "[[secret]]\nname = \"k\"\nfrom = { env = \"K5\" }\nplaceholder = \"placeholder-of-k\"\n";
    let with =
        |rule_lines: &str, request: &str| format!("{secret}{}[rule.request]\n{request}\n", rule(rule_lines));
    let inject = "inject = [{ header = \"authorization\", value = \"Bearer {secret.k}\" }]";
    let swap = "swap = [\"k\"]";
    for edit in [inject, swap] {
        assert!(try_load(&with(ALLOW, edit)).is_ok(), "{}", report(&with(ALLOW, edit)));
        assert!(report(&with(&format!("{ALLOW}\nscheme = \"http\""), edit)).contains("verified TLS only"));
        assert!(report(&with("hosts = [\"a.test\"]\naction = \"observe\"", edit)).contains("observe rule"));
    }
    assert!(report(&with(ALLOW, &inject.replace("secret.k", "secret.x"))).contains("no such secret: \"x\""));
    assert!(
        report(&with(ALLOW, "inject = [{ header = \"a\", value = \"plain\" }]")).contains("without a secret")
    );
    assert!(
        report(&with(ALLOW, "inject = [{ header = \"host\", value = \"{secret.k}\" }]"))
            .contains("canonical name")
    );
    assert!(
        report(&with(ALLOW, "set = { \"content-length\" = \"1\" }")).contains("made or removed by the gate")
    );
    assert!(report(&with(ALLOW, "set = { \"a\" = \"{secret.k}\" }")).contains("help: use inject"));
    assert!(
        report(&with(ALLOW, swap).replace("placeholder = \"placeholder-of-k\"\n", ""))
            .contains("no placeholder")
    );
}

#[test]
fn cr_25_secrets_that_cannot_be_had_are_problems_with_a_place_and_without_the_value() {
    let unset = "[[secret]]\nname = \"k\"\nfrom = { env = \"NOT_THERE\" }\n";
    assert!(report(unset).contains("policy.toml:1:1: error: secret \"k\""));
    let text = format!("{unset}{CLIENT}");
    let options = LoadOptions { without_secrets: true, ..LoadOptions::default() };
    assert!(Snapshot::parse(&[file("policy.toml", &text)], &options).is_ok());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.toml"), text).unwrap();
    assert_eq!(environment_names(dir.path()).unwrap(), ["NOT_THERE"]);
    assert!(report("[[secret]]\nname = \"k\"\n").contains("without from"));
    assert!(
        report("[[secret]]\nname = \"k\"\nfrom = { env = \"A\", file = \"b\" }\n").contains("exactly one of")
    );
}

#[test]
fn a_tunnel_is_not_judged_so_nothing_may_pretend_to() {
    let tunnel = "[[rule]]\nname = \"t\"\nhosts = [\"*.a.test\"]\naction = \"tunnel\"\n";
    let deny = |host: &str, more: &str| {
        format!("{tunnel}[[rule]]\nname = \"d\"\nhosts = [\"{host}\"]\naction = \"deny\"\n{more}")
    };
    let condition = "[[rule.match]]\nmethods = [\"GET\"]\n";
    for host in ["x.a.test", "*.a.test", "*.x.a.test", "*.test", "*"] {
        assert!(report(&deny(host, condition)).contains("tunnels the same place unread"), "{host}");
        assert!(try_load(&deny(host, "")).is_ok());
    }
    assert!(try_load(&deny("a.test", condition)).is_ok());
    assert!(try_load(&deny("*.b.test", condition)).is_ok());
    assert!(try_load(&deny("x.a.test", &format!("ports = [8443]\n{condition}"))).is_ok());
    for key in [
        "websocket = true",
        "encoded_slash = \"allow\"",
        "[[rule.match]]\nmethods = [\"GET\"]",
        "[rule.dlp]",
        "[rule.request]",
    ] {
        assert!(report(&format!("{tunnel}{key}\n")).contains("in a rule with action = \"tunnel\""), "{key}");
    }
    assert!(report(&format!("{tunnel}scheme = \"tcp\"\n")).contains("without ports"));
    assert!(report(&format!("{tunnel}scheme = \"http\"\n")).contains("can be read and is judged"));
    refused(
        "hosts = [\"a.test\"]\naction = \"allow\"\nscheme = \"tcp\"\nports = [22]",
        &["only for tunnels"],
    );
}

#[test]
fn grants_stay_inside_private_ranges() {
    let grant = |text: &str| format!("{ALLOW}\nprivate = [\"{text}\"]");
    for good in
        ["10.99.0.0/24:443", "fd00:1::/64:443", "[fd00:1::]:443", "100.64.0.0/10:443", "192.168.1.1:443"]
    {
        assert!(try_load(&rule(&grant(good))).is_ok(), "{good}: {}", report(&rule(&grant(good))));
    }
    for bad in [
        "127.0.0.0/8:443",
        "169.254.169.254/32:443",
        "0.0.0.0/0:443",
        "fe80::/10:443",
        "::1/128:443",
        "10.0.0.0/7:443",
        "8.8.8.8/32:443",
    ] {
        refused(&grant(bad), &["policy.toml:5:12: error"]);
    }
    refused(&grant("10.0.0.0/8"), &["a range and a port"]);
    refused(&grant("10.0.0.0/8:444"), &["not among the rule's ports"]);
}

#[test]
fn what_this_version_cannot_do_is_refused_not_ignored() {
    refused(&format!("{ALLOW}\n[rule.dlp]\non_match = \"ask\""), &["needs approvals"]);
    refused(&format!("{ALLOW}\n[rule.dlp]\noutbound = [\"everything\"]"), &["known-secrets"]);
    assert!(try_load(&rule(&format!("{ALLOW}\nwebsocket = true"))).is_ok());
    refused(&format!("{ALLOW}\nencoded_slash = \"maybe\""), &["\"allow\" or \"deny\""]);
    refused(&format!("{ALLOW}\n[rule.script]\nfile = \"absent.rhai\""), &["absent.rhai"]);
    refused(&format!("{ALLOW}\n[rule.tls]\nroots = \"absent.pem\""), &["absent.pem"]);
}

#[test]
fn tl_21_a_client_certificate_that_could_not_be_used_is_refused_at_its_place() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (own, other) = (made("agent.test"), made("other.test"));
    write("own.pem", &own.cert.pem(), 0o644);
    write("own.key", &own.signing_key.serialize_pem(), 0o600);
    write("other.key", &other.signing_key.serialize_pem(), 0o600);
    write("open.key", &own.signing_key.serialize_pem(), 0o640);
    write("empty.key", "", 0o600);
    let load = |lines: &str, without_secrets: bool| {
        let text = rule(lines);
        std::fs::write(dir.path().join("10.toml"), format!("{CLIENT}{text}")).unwrap();
        Snapshot::load(dir.path(), &LoadOptions { without_secrets, ..LoadOptions::default() })
    };
    let tls = |certificate: &str, key: &str| {
        format!(
            "{ALLOW}\n[rule.tls]\nclient_certificate = {{ certificate = \"{certificate}\", key = \"{key}\" }}"
        )
    };
    let loaded = load(&tls("own.pem", "own.key"), false).unwrap_or_else(|e| panic!("{e}"));
    assert!(loaded.rules()[0].tls().client_certificate.is_some());
    assert!(load(&tls("own.pem", "absent.key"), true).is_ok(), "a machine without secrets has no key either");
    for (certificate, key, column, words) in [
        ("own.pem", "other.key", 55, "is not the key of"),
        ("own.pem", "open.key", 55, "others may read or change it (mode 640)"),
        ("own.pem", "absent.key", 55, "it cannot be read"),
        ("own.pem", "empty.key", 55, "no PEM private key"),
        ("own.key", "own.key", 38, "no PEM certificate"),
    ] {
        let report = load(&tls(certificate, key), false).unwrap_err().to_string();
        let place = format!("10.toml:9:{column}: error");
        assert!(report.contains(&place) && report.contains(words), "{certificate} {key}: {report}");
    }
    refused(&format!("{}\nscheme = \"http\"\n[rule.tls]\nroots = \"a.pem\"", ALLOW), &["scheme = \"http\""]);
    let observe = tls("own.pem", "own.key").replace("\"allow\"", "\"observe\"");
    refused(&observe, &["never gets a credential"]);
    assert!(load(&tls("own.pem", "own.key"), false).is_ok());
    assert_eq!(outgate::policy::secret_files(dir.path()).unwrap(), [dir.path().join("own.key")]);
}

#[test]
fn conditions_that_could_not_mean_what_they_say_are_refused() {
    let path = |text: &str| format!("{ALLOW}\n[[rule.match]]\npath = {{ {text} }}");
    refused(&path("prefix = \"repos\""), &["starts with a slash"]);
    refused(&path("prefix = \"/a/../b\""), &["dot segments"]);
    refused(&path("exact = \"/a?b=c\""), &["query have a key"]);
    refused(&path("glob = \"/a/b**\""), &["whole segments"]);
    refused(&path("glob = \"/[ab]\""), &["use regex"]);
    refused(&path("regex = \"a)|(b\""), &["not a regular expression"]);
    refused(&path("regex = \"(a{1000}){1000}\""), &["too large"]);
    refused(&path("exact = \"/a\", prefix = \"/b\""), &["exactly one of"]);
    refused(&format!("{ALLOW}\n[[rule.match]]"), &["without a condition"]);
    refused(&format!("{ALLOW}\n[[rule.match]]\nmethods = [\"get\"]"), &["written in capitals"]);
    refused(
        &format!("{ALLOW}\n[[rule.match]]\ngit = \"push\""),
        &["policy.toml:6:7: error", "\"read\" or \"write\""],
    );
    refused(&format!("{ALLOW}\n[[rule.match]]\ngit = \"read\"\nmethods = [\"GET\"]"), &["has no place"]);
    refused(&format!("{ALLOW}\n[[rule.match]]\nmethods = [\"TRACE\"]"), &["never forwarded"]);
    refused(
        &format!("{ALLOW}\n[[rule.match]]\nheaders = [{{ name = \"host\", value = \"a\" }}]"),
        &["use hosts"],
    );
    refused(
        "hosts = [\"a.test\"]\naction = \"deny\"\n[rule.request]\nstrip = [\"cookie\"]",
        &["lets nothing through"],
    );
}

#[test]
fn names_are_used_once_and_no_two_clients_claim_one_place() {
    assert!(report(&format!("{}{}", rule(ALLOW), rule(ALLOW))).contains("a second rule with the name \"r\""));
    let client = |name: &str| format!("[[client]]\nname = \"{name}\"\nsource = [\"10.0.0.0/8\"]\n");
    assert!(report(&format!("{}{}", client("a"), client("b"))).contains("claim the same source"));
    assert!(report("[[client]]\nname = \"a\"\n").contains("without source and interface"));
    assert!(
        report("[[client]]\nname = \"a\"\nsource = [\"10.0.0.1/8\"]\n").contains("help: write 10.0.0.0/8")
    );
}

#[test]
fn a_report_is_bounded_whatever_is_wrong() {
    let text = format!("nonsense = 1\n{}", "[[rule]]\n".repeat(5_000));
    let problems = try_load(&text).unwrap_err();
    assert!(problems.iter().count() <= 1_000);
}

#[test]
fn case_files_say_which_case_failed_and_why() {
    let snapshot = policy::load(P1);
    let cases = r#"
        [[case]]
        name = "good"
        request = "GET https://api.good.test/"
        expect = "allow"
        rule = "good"
        [[case]]
        name = "bad bytes"
        request = "GET https://api.good.test/%00"
        expect = "deny"
        reason = "bad_request"
        [[case]]
        name = "dns"
        dns = "evil.test"
        expect = "deny"
        reason = "dns_denied"
        [[case]]
        name = "port"
        connect = "api.good.test:8443"
        expect = "deny"
        reason = "port_denied"
        [[case]]
        name = "wrong verdict"
        request = "GET https://evil.test/"
        expect = "allow"
        [[case]]
        name = "wrong rule"
        request = "GET https://api.good.test/"
        expect = "allow"
        rule = "other"
    "#;
    let report = snapshot.run_case_files(&[file("a.cases.toml", cases)]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.passed, 4);
    let failures: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
    assert_eq!(failures.len(), 2);
    assert_eq!(
        failures[0],
        "a.cases.toml:22:9: \"wrong verdict\": expected allow, but it is deny (no_rule)".replace(":9:", ":")
    );
    assert!(failures[1].contains("expected rule \"other\", but it is allow by rule \"good\""));
    let wrong =
        snapshot.run_case_files(&[file("b.cases.toml", "[[case]]\nname = \"x\"\nexpect = \"yes\"\n")]);
    let problems = wrong.unwrap_err().to_string();
    assert!(problems.contains("b.cases.toml:3:10") && problems.contains("exactly one of"), "{problems}");
}

#[test]
fn pl_10_explain_says_which_rule_speaks_and_why_the_others_do_not() {
    let snapshot = policy::load(&format!("{}{P1}", policy::P3.replace("\"public\"", "\"public part\"")));
    let client = policy::agent(&snapshot);
    let explained = |line: &str| snapshot.explain(client, &policy::request(line, &[]));
    let text = explained("POST https://api.good.test/public/x").to_string();
    assert!(text.contains("allow by rule \"good\""), "{text}");
    assert!(
        text.contains("- \"public part\" (allow, policy.toml:2): the method is not among its methods"),
        "{text}"
    );
    assert!(text.contains("+ \"good\""), "{text}");
    let denied = explained("GET https://api.good.test/public/secret/x");
    assert_eq!(denied.finding.reason, Some("rule_denied"));
    assert!(denied.to_string().contains("matches, but a deny wins"));
    let json = serde_json::to_value(&denied).unwrap();
    assert_eq!(json["verdict"], "deny");
    assert_eq!(json["rules"][1]["failed"], "path");
    assert!(explained("GET https://evil.test/").to_string().contains("no rule names this host"));
}

#[test]
fn cr_24_a_rotated_secret_stays_guarded_after_the_reload() {
    let text = format!("{CLIENT}[[secret]]\nname = \"k\"\nfrom = {{ env = \"K\" }}\n");
    let load = |value: &str, previous: Option<&Snapshot>| {
        let value = outgate::base::SecretBytes::new(value.as_bytes().to_vec());
        let environment = outgate::secrets::Environment::new([("K".to_owned(), value)], None);
        let options = LoadOptions { environment: Some(&environment), previous, ..LoadOptions::default() };
        Arc::new(Snapshot::parse(&[file("policy.toml", &text)], &options).unwrap())
    };
    let first = load("first-value", None);
    let second = load("second-value", Some(&first));
    assert_eq!(second.secrets().values().count(), 2);
    assert!(
        !format!("{second:?}").contains("first-value") && !format!("{second:?}").contains("second-value")
    );
}
