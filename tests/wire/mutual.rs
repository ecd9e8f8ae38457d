//! Gauntlet TL-19 and TL-21: whom a rule trusts, and who the gate is to an origin that asks, rule by rule.

use rustls::version::{TLS12, TLS13};

use crate::support::gate::wait_until;
use crate::support::*;

/// Two rules for one host: one shows a certificate there.
const TWO: &str = r#"
[[rule]]
name = "with a certificate"
hosts = ["api.good.test"]
action = "allow"
  [[rule.match]]
  path = { prefix = "/mine" }
  [rule.tls]
  client_certificate = { certificate = "agent.pem", key = "agent.key" }

[[rule]]
name = "without one"
hosts = ["api.good.test"]
action = "allow"
"#;

/// A gate with a client certificate of this name, before an origin that asks for one.
fn bed(name: &str, required: bool) -> Bed {
    let world = World::new();
    world.origin.ask_for_certificates(PUB1, required, &[&TLS12, &TLS13]);
    let (certificate, key) = world.origin.authorities().client(name);
    let beside = vec![("agent.pem", certificate), ("agent.key", key)];
    Bed::over(world, &Setup { policy: TWO.to_owned(), beside, ..Setup::default() })
}

/// The clients that the origin sees on connections that `ask` causes.
fn clients(bed: &Bed, ask: impl FnOnce()) -> Vec<Option<String>> {
    let earlier = bed.world.origin.connections().len();
    ask();
    let new = bed.world.origin.connections().split_off(earlier);
    new.iter().map(|seen| seen.tls.clone().unwrap().client).collect()
}

#[test]
fn tl_21_a_rule_shows_its_certificate_and_shares_no_connection_with_another() {
    let bed = bed("agent of the gate", false);
    let ours = Some("agent of the gate".to_owned());
    for version in ["--http1.1", "--http2"] {
        let ask = |path: &str| {
            clients(&bed, || {
                let said = bed.succeed(&format!("curl -sS -m 20 {version} https://api.good.test{path}"));
                assert_eq!(said, "hello from api.good.test\n", "{version} {path}");
            })
        };
        assert_eq!(ask("/mine"), std::slice::from_ref(&ours), "{version}");
        assert_eq!(ask("/other"), [None], "{version}: the other rule has a connection of its own");
        assert_eq!(ask("/mine/again"), [], "{version}: each is used again by its own rule");
        assert_eq!(ask("/other/again"), [], "{version}");
    }
}

#[test]
fn tl_21_an_origin_that_wants_a_certificate_which_the_rule_has_not_is_a_502_that_says_so() {
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let bed = bed("agent of the gate", true);
        bed.world.origin.ask_for_certificates(PUB1, true, versions);
        for version in ["--http1.1", "--http2"] {
            // The client's own certificate is never asked for, so never relayed.
            let own = "--cert policies/agent.pem --key policies/agent.key";
            let ask = format!("curl -sS -m 20 {own} {version} -w '%{{http_code}}' https://api.good.test");
            let refused = bed.succeed(&format!("{ask}/other"));
            assert!(refused.ends_with("502"), "{version}: {refused}");
            assert!(refused.contains("wants a client certificate"), "{version}: {refused}");
            assert!(bed.succeed(&format!("{ask}/mine")).ends_with("200"), "{version}");
        }
        bed.gate.wait_for_record("the reason", |record| {
            record.text("reason") == "upstream_cert" && record.mentions("wants a client certificate")
        });
    }
}

#[test]
fn tl_21_a_certificate_is_read_again_on_reload() {
    let bed = bed("first", true);
    let ask = || {
        clients(&bed, || {
            let said = bed.succeed("curl -sS -m 20 https://api.good.test/mine -w '%{http_code}'");
            assert!(said.ends_with("200"), "{said}");
        })
    };
    assert_eq!(ask(), [Some("first".to_owned())]);
    let (certificate, key) = bed.world.origin.authorities().client("second");
    bed.gate.put_beside("agent.pem", &certificate);
    bed.gate.put_beside("agent.key", &key);
    let reloaded = || bed.gate.records().iter().any(|record| record.text("event") == "reload");
    assert!(wait_until(std::time::Duration::from_secs(10), || reloaded().then_some(())).is_some());
    assert_eq!(ask(), [Some("second".to_owned())], "a new connection, by the new certificate");
}

#[test]
fn tl_19_the_roots_of_a_rule_vouch_for_its_own_requests_alone() {
    let world = World::new();
    let beside = vec![("corp.pem", world.origin.authorities().stranger().to_owned())];
    let policy = r#"
[[rule]]
name = "with roots"
hosts = ["unknownroot.good.test", "selfsigned.good.test", "api.good.test"]
action = "allow"
  [[rule.match]]
  path = { prefix = "/mine" }
  [rule.tls]
  roots = "corp.pem"

[[rule]]
name = "without"
hosts = ["unknownroot.good.test"]
action = "allow"
"#;
    let bed = Bed::over(world, &Setup { policy: policy.to_owned(), beside, ..Setup::default() });
    for version in ["--http1.1", "--http2"] {
        let ask = |url: &str| {
            bed.succeed(&format!("curl -sS -m 20 {version} -o /dev/null -w '%{{http_code}}' https://{url}"))
        };
        assert_eq!(ask("unknownroot.good.test/mine"), "200", "{version}");
        assert_eq!(
            ask("unknownroot.good.test/other"),
            "502",
            "{version}: another rule, and a connection of its own"
        );
        assert_eq!(ask("selfsigned.good.test/mine"), "502", "{version}: verified nevertheless");
        assert_eq!(ask("api.good.test/mine"), "200", "{version}: beside the roots of all");
    }
}
