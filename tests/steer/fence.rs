//! What does not get through, seen from the other side.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::Ordering;

use crate::door::Door;
use crate::fenced;
use crate::world::{Attempt, PATIENCE, World, eventually};

#[test]
fn by_02_other_ports_are_reset_and_nothing_reaches_the_internet() {
    let world = World::new();
    let served = world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
    // Were there no fence, it would arrive: the world is one that can leak.
    assert_eq!(world.agent.hear("93.184.216.34:9999"), "leak");
    let before = world.leaked();
    assert!(before > 0);
    let _helper = fenced(&world);
    for port in [22, 25, 853, 3128, 4444, 8080, 8443, 9999] {
        assert_eq!(world.agent.try_tcp(&format!("93.184.216.34:{port}")), Attempt::Refused, "{port}");
        assert_eq!(world.agent.try_tcp(&format!("[2606:2800:220:1::34]:{port}")), Attempt::Refused, "{port}");
    }
    assert_eq!(world.leaked(), before);
    assert_eq!(served.load(Ordering::Relaxed), 1);
}

#[test]
fn a_flow_that_was_open_before_the_fence_does_not_go_on() {
    let world = World::new();
    world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
    let mut flow = world.agent.inside(|| TcpStream::connect("93.184.216.34:9999").unwrap());
    flow.set_read_timeout(Some(PATIENCE)).unwrap();
    let _helper = fenced(&world);
    let before = world.leaked();
    let _ = flow.write_all(b"more");
    let mut rest = Vec::new();
    let _ = flow.read_to_end(&mut rest);
    eventually("the reset", || flow.write_all(b"still more").is_err());
    assert_eq!(world.leaked(), before);
}

#[test]
fn by_04_and_by_06_icmp_and_other_udp_are_refused_but_the_gate_answers_echo() {
    let world = World::new();
    let far = ["93.184.216.34", "93.184.216.2", "10.77.2.2", "2606:2800:220:1::34", "fd77:2::2"];
    let near = ["10.77.1.1", "fd77:1::1"];
    let echo = |to: &str| world.agent.echo(if to.contains(':') { "fd77:1::2" } else { "10.77.1.2" }, to);
    assert!(far.iter().chain(&near).all(|to| echo(to)), "without the fence all answer");
    let before = world.leaked();
    let _helper = fenced(&world);
    for (to, answered) in far.map(|to| (to, false)).into_iter().chain(near.map(|to| (to, true))) {
        assert_eq!(echo(to), answered, "{to}");
    }
    for (from, to) in [("0.0.0.0:0", "93.184.216.34:123"), ("[::]:0", "[2606:2800:220:1::34]:123")] {
        let error = world.agent.try_udp(from, to).unwrap_err();
        assert!(error.raw_os_error().is_some_and(|e| e != nix::libc::EAGAIN), "{to}: {error}");
    }
    assert_eq!(world.leaked(), before);
}

#[test]
fn by_10_a_source_of_another_interface_is_dropped() {
    let world = World::new();
    let _helper = fenced(&world);
    let door = Door::open(&world.gate, 15001, None);
    world.serve_udp(&world.gate, "10.77.1.1:53", "dns");
    for stolen in ["10.77.2.9", "93.184.216.77", "203.0.113.5"] {
        world.agent.ip(&format!("addr add {stolen}/32 dev lo"));
        let error = world.agent.try_udp(&format!("{stolen}:0"), "10.77.1.1:53").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{stolen}: {error}");
    }
    world.agent.ip("addr add fd77:2::9/128 dev lo nodad");
    assert!(!world.agent.echo("fd77:2::9", "fd77:1::1"));
    assert!(dropped_for_its_source(&world) >= 4);
    // The agent's own source still works.
    assert_eq!(world.agent.try_udp("10.77.1.2:0", "10.77.1.1:53").unwrap(), "dns");
    assert!(door.refused().is_empty());
    assert_eq!(world.leaked(), 0);
}

#[test]
fn by_13_only_the_doors_of_the_gate_are_open_to_an_agent() {
    let world = World::new();
    let _helper = fenced(&world);
    for port in [22, 53, 3128, 9090] {
        world.serve_tcp(&world.gate, &format!("0.0.0.0:{port}"), "gate");
    }
    assert_eq!(world.agent.hear("10.77.1.1:53"), "gate");
    assert_eq!(world.agent.hear("10.77.1.1:3128"), "gate");
    for port in [22, 9090] {
        assert_eq!(world.agent.try_tcp(&format!("10.77.1.1:{port}")), Attempt::Refused, "{port}");
    }
    let elsewhere = world.agent.try_each(&["93.184.216.2:3128", "10.77.2.1:3128"]);
    assert_eq!(elsewhere, [Attempt::TimedOut, Attempt::TimedOut]);
    // Others of the gate's neighbours are not our business.
    assert_eq!(world.internet.hear("93.184.216.2:22"), "gate");
}

#[test]
fn by_18_agents_do_not_reach_each_other() {
    let world = World::new();
    world.serve_tcp(&world.other, "0.0.0.0:8080", "other");
    assert_eq!(world.agent.hear("10.77.2.2:8080"), "other");
    let _helper = fenced(&world);
    assert_eq!(world.agent.try_tcp("10.77.2.2:8080"), Attempt::Refused);
    assert_eq!(world.agent.try_tcp("[fd77:2::2]:8080"), Attempt::Refused);
}

#[test]
fn by_20_and_by_21_a_neighbour_on_the_uplink_reaches_neither_agents_nor_doors() {
    let world = World::new();
    let _door = Door::open(&world.gate, 15001, None);
    world.serve_tcp(&world.agent, "0.0.0.0:8080", "agent");
    world.serve_tcp(&world.gate, "10.77.1.1:53", "dns");
    world.serve_tcp(&world.gate, "10.77.1.1:3128", "proxy");
    world.serve_udp(&world.gate, "10.77.1.1:53", "dns");
    // Binding to the host-only address is no fence: Linux answers on any interface.
    assert_eq!(world.internet.hear("10.77.1.1:53"), "dns");
    assert_eq!(world.internet.hear("10.77.1.2:8080"), "agent");
    let _helper = fenced(&world);
    let targets =
        ["10.77.1.1:53", "10.77.1.1:15001", "10.77.1.1:3128", "10.77.1.2:8080", "[fd77:1::1]:15001"];
    for (attempt, target) in world.internet.try_each(&targets).into_iter().zip(targets) {
        assert_eq!(attempt, Attempt::TimedOut, "{target}");
    }
    assert!(world.internet.try_udp("0.0.0.0:0", "10.77.1.1:53").is_err());
    assert_eq!(world.internet.try_tcp("93.184.216.2:15001"), Attempt::Refused);
}

fn dropped_for_its_source(world: &World) -> u64 {
    let (_, text) = world.gate.exec(&["nft", "list", "chain", "inet", "outgate_fence", "raw_pre"]);
    let line = text.lines().find(|line| line.contains("oif missing")).unwrap();
    line.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse().unwrap()
}

#[test]
fn guests_without_an_address_yet_are_not_taken_for_spoofers() {
    let world = World::new();
    let _helper = fenced(&world);
    let heard = world.gate.inside(|| UdpSocket::bind("0.0.0.0:67").unwrap());
    // Duplicate address detection asks from `::`.
    world.agent.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
    world.agent.ip("addr add fd77:1::77/64 dev eth0");
    eventually("the address is no longer tentative", || {
        !world.agent.exec(&["ip", "addr", "show", "dev", "eth0"]).1.contains("tentative")
    });
    // DHCP discovers from 0.0.0.0. That its answer is not for agents to have is the input chain's business.
    world.agent.ip("-4 addr flush dev eth0");
    world.agent.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
        socket.set_broadcast(true).unwrap();
        socket2::SockRef::from(&socket).bind_device(Some(b"eth0")).unwrap();
        socket.send_to(b"discover", "255.255.255.255:67").unwrap();
    });
    heard.set_nonblocking(true).unwrap();
    assert!(heard.recv(&mut [0; 16]).is_err());
    assert_eq!(dropped_for_its_source(&world), 0);
}
