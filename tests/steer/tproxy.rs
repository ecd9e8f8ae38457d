//! The transparent door behind TPROXY: the same packets, nothing rewritten and nothing tracked.

use std::net::SocketAddr;
use std::sync::Arc;

use outgate::net::{OwnAddresses, adopt_tcp, original_dst};
use outgate::steer::{Helper, Intercept, Settings};
use socket2::{Domain, Socket, Type};

use crate::door::Door;
use crate::start_helper;
use crate::world::{Attempt, World, eventually};

fn settings() -> Settings {
    Settings { intercept: Intercept::Tproxy, ..World::settings() }
}

fn taken(world: &World) -> Helper {
    let mut helper = start_helper(&world.gate);
    helper.apply(&settings()).unwrap();
    helper
}

fn open(world: &World) -> Door {
    Door::of(Intercept::Tproxy, &world.gate, 15001, None)
}

fn tracked(world: &World) -> u64 {
    let (_, text) = world.gate.exec(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]);
    text.trim().parse().unwrap()
}

#[test]
fn connections_reach_the_door_as_they_are_and_are_not_tracked() {
    let world = World::new();
    world.gate.sysctl("net/ipv4/conf/agent0/rp_filter", "1");
    let _helper = taken(&world);
    let _door = open(&world);
    for (to, said) in [
        ("93.184.216.34:80", "93.184.216.34:80 from 10.77.1.2 on agent0"),
        ("8.8.8.8:443", "8.8.8.8:443 from 10.77.1.2 on agent0"),
        ("[2606:2800:220:1::34]:443", "[2606:2800:220:1::34]:443 from fd77:1::2 on agent0"),
        ("[2001:4860:4860::8888]:80", "[2001:4860:4860::8888]:80 from fd77:1::2 on agent0"),
    ] {
        assert_eq!(world.agent.hear(to), said);
    }
    assert_eq!(world.other.hear("93.184.216.34:443"), "93.184.216.34:443 from 10.77.2.2 on agent1");
    assert_eq!((tracked(&world), world.leaked()), (0, 0));
}

#[test]
fn by_27_without_a_listener_or_a_route_the_fence_refuses() {
    let world = World::new();
    for port in [80, 443] {
        world.serve_tcp(&world.internet, &format!("0.0.0.0:{port}"), "leak");
    }
    assert_eq!(world.agent.hear("93.184.216.34:80"), "leak");
    let mut helper = taken(&world);
    let before = world.leaked();
    let refused = || {
        for to in ["93.184.216.34:80", "93.184.216.34:443", "[2606:2800:220:1::34]:80", "93.184.216.34:22"] {
            assert_eq!(world.agent.try_tcp(to), Attempt::Refused, "{to}");
        }
    };
    // TPROXY lets a packet go on when nobody listens.
    refused();
    let door = open(&world);
    assert!(world.agent.hear("93.184.216.34:80").starts_with("93.184.216.34:80 "));
    drop(door);
    refused();
    // Somebody cleans up routing rules that he does not know; they are back soon, and nothing has left meanwhile.
    let _door = open(&world);
    for family in ["-4", "-6"] {
        world.gate.ip(&format!("{family} rule del pref 100"));
        world.gate.ip(&format!("{family} route flush table 28519"));
    }
    let missing = |family| !world.gate.exec(&["ip", family, "rule"]).1.contains("0x6f676174");
    if missing("-4") {
        let seen = world.agent.try_tcp("93.184.216.34:80");
        assert!(matches!(seen, Attempt::Refused | Attempt::Connected), "{seen:?}");
    }
    eventually("the rules are back", || !missing("-4") && !missing("-6"));
    assert!(world.agent.hear("[2606:2800:220:1::34]:80").starts_with("[2606:2800:220:1::34]:80 "));
    assert!(helper.verify().unwrap().intact);
    assert_eq!(world.leaked(), before);
}

#[test]
fn by_15_the_door_itself_and_the_gates_own_addresses_lead_nowhere() {
    let world = World::new();
    let _helper = taken(&world);
    let door = open(&world);
    for own in ["10.77.1.1:15001", "[fd77:1::1]:15001", "10.77.1.1:80", "[fd77:1::1]:443"] {
        assert_eq!(world.agent.try_tcp(own), Attempt::Refused, "{own}");
    }
    assert_eq!(world.agent.try_tcp("93.184.216.2:15001"), Attempt::TimedOut);
    assert!(door.refused().is_empty());
    let _ = world.agent.try_tcp("93.184.216.2:80");
    eventually("the refusal", || door.refused() == ["the original destination 93.184.216.2:80 is this host"]);
    assert_eq!(world.leaked(), 0);
    assert_eq!(world.internet.try_tcp("93.184.216.2:15001"), Attempt::Refused);
    assert_eq!(world.internet.try_tcp("10.77.1.1:15001"), Attempt::TimedOut);
}

#[test]
fn a_listener_that_somebody_else_made_transparent_means_the_same() {
    let world = World::new();
    let _helper = taken(&world);
    let listener = world.gate.inside(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(true).unwrap();
        socket.set_ip_transparent_v6(true).unwrap();
        socket.bind(&"[::]:15001".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(8).unwrap();
        socket
    });
    assert_eq!(world.agent.try_tcp("[2001:4860:4860::8888]:443"), Attempt::Connected);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let accepted = world.gate.inside(|| {
        runtime.block_on(async {
            let own = Arc::new(OwnAddresses::read().unwrap());
            let door = adopt_tcp(listener.into(), None).unwrap().listen(own.clone()).unwrap();
            let accepted = door.accept().await.unwrap();
            let target = original_dst(&accepted.stream, accepted.delivery, &own).unwrap();
            format!("{target} on {}", accepted.ingress.shown())
        })
    });
    assert_eq!(accepted, "[2001:4860:4860::8888]:443 on agent0");
}

#[test]
fn a_change_to_redirect_and_an_end_take_the_routing_rules_away() {
    let world = World::new();
    let mut helper = taken(&world);
    let rules =
        || ["-4", "-6"].map(|family| world.gate.exec(&["ip", family, "rule"]).1.contains("0x6f676174"));
    let routes =
        || ["-4", "-6"].map(|family| world.gate.exec(&["ip", family, "route", "show", "table", "28519"]).1);
    assert_eq!(rules(), [true; 2]);
    assert!(routes().iter().all(|text| text.contains("local default dev lo")), "{:?}", routes());
    helper.apply(&World::settings()).unwrap();
    assert_eq!(rules(), [false; 2]);
    assert_eq!(routes().map(|text| text.contains("local")), [false; 2]);
    let door = Door::open(&world.gate, 15001, None);
    assert_eq!(world.agent.hear("93.184.216.34:80"), "93.184.216.34:80 from 10.77.1.2 on agent0");
    drop(door);
    helper.apply(&settings()).unwrap();
    assert_eq!(rules(), [true; 2]);
    helper.remove_redirect().unwrap();
    assert_eq!(rules(), [false; 2]);
    assert_eq!(world.agent.try_tcp("93.184.216.34:80"), Attempt::Refused);
    assert_eq!(world.leaked(), 0);
}
