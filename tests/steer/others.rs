//! Other programs that change nftables beside the gate: what they do to our tables is undone, what they do beside them
//! opens nothing, and what takes our connections is told.

use std::time::{Duration, Instant};

use outgate::steer::Helper;

use crate::door::Door;
use crate::world::{Attempt, World, eventually};
use crate::{fenced, this_binary};

#[test]
fn on_a_kernel_without_owners_changes_are_undone_within_five_seconds() {
    let world = World::new();
    world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
    let mut helper = world.gate.inside(|| Helper::spawn(this_binary("as-plain-helper")).unwrap());
    helper.apply(&World::settings()).unwrap();
    let _door = Door::open(&world.gate, 15001, None);
    for change in [
        "flush ruleset",
        "delete table inet outgate_fence",
        "insert rule inet outgate_fence forw accept\nadd rule inet outgate_fence inp accept",
        "flush chain inet outgate_redirect pre",
        "add element inet outgate_redirect agent_net4 { 93.184.216.0/24 }",
        "flush set inet outgate_fence agent_if",
        "add table inet outgate_fence { flags dormant; }",
    ] {
        let before = helper.verify().unwrap();
        assert!(before.intact, "{before:?}");
        let begun = Instant::now();
        world.gate.nft(change);
        eventually("it was noticed", || helper.verify().unwrap().reasserted > before.reasserted);
        assert!(begun.elapsed() < Duration::from_secs(5), "{change}: {:?}", begun.elapsed());
        assert!(helper.verify().unwrap().intact, "{change}");
        let leaked = world.leaked();
        assert_eq!(world.agent.try_tcp("93.184.216.34:9999"), Attempt::Refused, "{change}");
        assert!(world.agent.hear("93.184.216.34:80").starts_with("93.184.216.34:80 "), "{change}");
        assert_eq!(world.leaked(), leaked, "{change}");
    }
}

/// A service that must not be reached on the internet, one on the gate, and the door.
fn with_a_service() -> (World, Helper, Door) {
    let world = World::new();
    world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
    world.serve_tcp(&world.gate, "0.0.0.0:9999", "a service of the gate");
    let helper = fenced(&world);
    let door = Door::open(&world.gate, 15001, None);
    (world, helper, door)
}

#[test]
fn what_others_accept_or_redirect_does_not_open_the_fence() {
    let (world, mut helper, _door) = with_a_service();
    // An accept is the last word in its own chain only; a drop is final.
    world.gate.nft(
        "table inet friendly {
            chain raw { type filter hook prerouting priority -400; policy accept; accept; }
            chain f { type filter hook forward priority -400; policy accept; accept; }
            chain g { type filter hook forward priority 400; policy accept; accept; }
            chain i { type filter hook input priority -400; policy accept; accept; }
        }
        table ip nat {
            chain p { type nat hook prerouting priority dstnat; policy accept;
                tcp dport { 443, 9999 } redirect to :9999
                tcp dport 8443 dnat to 93.184.216.34:9999
            }
            chain m { type nat hook postrouting priority srcnat; policy accept; masquerade; }
        }",
    );
    for to in ["93.184.216.34:9999", "93.184.216.34:8443", "93.184.216.34:22"] {
        assert_eq!(world.agent.try_tcp(to), Attempt::Refused, "{to}");
    }
    // The redirect is before the usual place of others, as Docker's.
    assert!(world.agent.hear("93.184.216.34:443").starts_with("93.184.216.34:443 "));
    let report = helper.verify().unwrap();
    assert!(report.intact && report.rivals.is_empty(), "{report:?}");
    assert_eq!(world.leaked(), 0);
}

#[test]
fn a_chain_that_takes_connections_before_the_redirect_is_told_and_leads_nowhere() {
    let (world, mut helper, _door) = with_a_service();
    world.gate.nft(
        "table ip thief {
            chain p { type nat hook prerouting priority -150; policy accept;
                tcp dport 80 dnat to 93.184.216.34:9999
                tcp dport 443 redirect to :9999
            }
        }
        table ip6 idle {
            chain p { type nat hook prerouting priority -150; policy accept; }
        }",
    );
    assert_eq!(helper.verify().unwrap().rivals, ["ip thief p"]);
    for port in [80, 443] {
        assert_eq!(world.agent.try_tcp(&format!("93.184.216.34:{port}")), Attempt::Refused, "{port}");
    }
    world.gate.nft("delete table ip thief");
    assert!(helper.verify().unwrap().rivals.is_empty());
    assert!(world.agent.hear("93.184.216.34:443").starts_with("93.184.216.34:443 "));
    assert_eq!(world.leaked(), 0);
}
