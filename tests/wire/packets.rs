//! Gauntlet BY, with packets that no honest program sends. The kernel of the gate forwards, so only the fence stands
//! between them and the internet, and the capture on the WAN is the judge.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::bypass::{checksum, echo_request, open};
use crate::support::capture::{Packet, TCP, UDP, parse};
use crate::support::dns::{A, question};
use crate::support::gate::{tproxy_everywhere, wait_until};
use crate::support::*;

/// A QUIC packet with a long header (RFC 9000, section 17.2), as large as the first of a connection must be.
fn quic(first: u8, version: u32) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend(version.to_be_bytes());
    packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    packet.resize(1200, 0x5a);
    packet
}

#[test]
fn by_01_quic_of_every_kind_stays_inside_and_tcp_works_at_once() {
    let bed = open(P1);
    let mark = bed.mark();
    for ip in [PUB1, PUB1_V6, EVIL, EVIL_V6] {
        let any = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        // Initial, 0-RTT, Handshake, Retry, version 2, a reserved version, version negotiation, a short header.
        for packet in [
            quic(0xc3, 1),
            quic(0xd3, 1),
            quic(0xe3, 1),
            quic(0xf3, 1),
            quic(0xd3, 0x6b33_43cf),
            quic(0xc3, 0x1a2a_3a4a),
            quic(0xc3, 0),
            quic(0x43, 1),
        ] {
            bed.world.agent.udp(any.parse().unwrap()).send_to(&packet, at(ip, 443)).ok();
        }
    }
    bed.since(mark, 1).nothing_upstream().quiet_wan().decided("deny", &["protocol"]);
    let begun = Instant::now();
    bed.control();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn by_06_echo_requests_with_a_payload_do_not_leave() {
    let bed = open(P10);
    let mark = bed.mark();
    for ip in [EVIL, EVIL_V6, PUB1, PUB1_V6, AGENT2] {
        for _ in 0..10 {
            echo_request(&bed, ip);
        }
    }
    bed.since(mark, 0).quiet_wan();
    bed.control();
}

/// An IPv4 packet with a UDP datagram in it (RFC 791, RFC 768), from whomever.
fn datagram_from(from: Ipv4Addr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V4(ip) = to.ip() else { panic!("{to}") };
    let length = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(ip.octets());
    packet[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    packet.extend(40_000u16.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

#[test]
fn by_10_a_source_that_is_not_behind_its_interface_is_nobody() {
    let bed = open(P10);
    let raw = bed.world.agent.socket(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
    raw.set_header_included_v4(true).unwrap();
    let ask = |from: Ipv4Addr, to: SocketAddr, name: &str| {
        raw.send_to(&datagram_from(from, to, &question(name, A)), &to.into()).unwrap();
    };
    let mark = bed.mark();
    for (n, stolen) in
        ["10.77.2.2", "10.77.2.1", "127.0.0.1", "93.184.216.66", "93.184.216.1", "8.8.8.8"].iter().enumerate()
    {
        for to in [at(GATE, 53), at(DNS, 53), at(EVIL, 443), at(EVIL, 9999)] {
            ask(stolen.parse().unwrap(), to, &format!("stolen{n}.good.test"));
        }
    }
    bed.world.agent.ip("addr add fd77:2::9/128 dev lo\naddr add 2606:2800:220:1::66/128 dev lo");
    for stolen in ["[fd77:2::9]:0", "[2606:2800:220:1::66]:0"] {
        let socket = bed.world.agent.udp(stolen.parse().unwrap());
        for to in [at(GATE6, 53), at(EVIL_V6, 443)] {
            socket.send_to(&question("stolen6.good.test", A), to).ok();
        }
    }
    // The same packet from the agent itself is heard, and by then the others would have been.
    let Ok(own) = AGENT.to_string().parse() else { panic!("{AGENT}") };
    ask(own, at(GATE, 53), "api.good.test");
    bed.gate.wait_for_record("the agent's own question", |record| record.mentions("api.good.test"));
    let taps = bed.since(mark, 0);
    taps.nothing_upstream();
    let is_loud = |packet: &&Packet| matches!(packet.protocol, TCP | UDP) || packet.is_echo_request();
    let mut outgoing = taps.packets.iter().filter(|packet| packet.outgoing && packet.to != at(DNS, 53));
    let to_others = outgoing.find(is_loud);
    assert!(to_others.is_none(), "{to_others:?}");
    assert!(taps.queries.iter().all(|query| query.name == "api.good.test"), "{:?}", taps.queries);
    let records = bed.gate.records();
    assert!(records.iter().all(|record| record.text("client") != "agent2" && !record.mentions("stolen")));
}

#[test]
fn by_11_other_protocols_do_not_leave() {
    let bed = open(P10);
    let before = bed.world.capture.packets().len();
    // IGMP, IP in IP, DCCP, IPv6 in IP, GRE, ESP, AH, EIGRP, OSPF, PIM, L2TP, SCTP, UDP-Lite, MPLS, for experiments.
    let protocols = [2, 4, 33, 41, 47, 50, 51, 88, 89, 103, 115, 132, 136, 137, 253];
    for ip in [EVIL, EVIL_V6, PUB1, AGENT2] {
        let domain = if ip.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        for protocol in protocols {
            let raw = bed.world.agent.socket(domain, Type::RAW, Some(Protocol::from(protocol)));
            for _ in 0..3 {
                raw.send_to(&[0x45; 64], &at(ip, 0).into()).ok();
            }
        }
    }
    let packets = bed.world.capture.packets().split_off(before);
    let strange = packets.iter().find(|packet| protocols.contains(&i32::from(packet.protocol)));
    assert!(strange.is_none(), "{strange:?}");
    bed.control();
}

/// A SYN to one port, with its checksum (RFC 9293); the kernel makes the IP header.
fn syn(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20);
    segment.extend(50_000u16.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let mut summed = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("{from} {to}"),
    };
    summed.extend([0, 6, 0, 20]);
    summed.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
    segment
}

/// The TCP ports of an address that answer the agent, out of all there are.
fn open_ports(bed: &Bed, from: IpAddr, to: IpAddr) -> BTreeSet<u16> {
    let domain = if to.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = bed.world.agent.socket(domain, Type::RAW, Some(Protocol::TCP));
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20)).unwrap();
    socket.bind(&at(from, 0).into()).unwrap();
    socket.connect(&at(to, 0).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let answers: Socket = socket.try_clone().unwrap();
    let listening = std::thread::spawn(move || {
        let (mut open, mut answered) = (BTreeSet::new(), 0);
        let mut packet = [0; 128];
        while let Ok(length) = (&answers).read(&mut packet) {
            let header = if to.is_ipv4() { usize::from(packet[0] & 15) * 4 } else { 0 };
            let segment = &packet[header..length];
            answered += 1;
            // SYN and ACK
            if segment[13] & 0x12 == 0x12 {
                open.insert(u16::from_be_bytes([segment[0], segment[1]]));
            }
        }
        (open, answered)
    });
    for port in 1..=u16::MAX {
        while socket.send(&syn(from, to, port)).is_err() {
            std::thread::yield_now();
        }
    }
    let (open, answered) = listening.join().unwrap();
    // A refusal for each closed port, or silence for all of them; anything between is a flood that was cut off.
    assert!(answered == open.len() || answered >= 65_000, "{to} answered {answered} of 65535");
    open
}

#[test]
fn by_13_of_all_ports_of_the_gate_only_the_doors_are_open() {
    let limits = "syns_per_second = 10000000\nflows_per_client = 200000";
    let bed = Bed::with(&Setup { policy: P10.into(), forwarding: true, limits, ..Setup::default() });
    // More services of the gate than anybody should run.
    let _services: Vec<_> = ["0.0.0.0:22", "[::]:22", "0.0.0.0:9100", "10.77.1.1:8080", "[fd77:1::1]:8080"]
        .map(|at| bed.world.gate.listen(at.parse().unwrap()))
        .into();
    let ports = |ports: &[u16]| ports.iter().copied().collect::<BTreeSet<_>>();
    // Where the host has another name, the web ports are redirected, found to be a loop, and reset.
    for (to, expected) in [
        (GATE, ports(&[53, 3128])),
        (GATE_WAN, ports(&[53, 80, 443])),
        ("10.77.2.1".parse().unwrap(), ports(&[])),
    ] {
        assert_eq!(open_ports(&bed, AGENT, to), expected, "{to}");
    }
    let agent6 = "fd77:1::2".parse().unwrap();
    assert_eq!(open_ports(&bed, agent6, GATE6), ports(&[53, 3128]));
    for to in [GATE, GATE_WAN] {
        let socket = bed.world.agent.udp("0.0.0.0:0".parse().unwrap());
        for port in 1..=u16::MAX {
            socket.send_to(&question("api.good.test", A), at(to, port)).ok();
        }
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut answered = BTreeSet::new();
        while let Ok((_, from)) = socket.recv_from(&mut [0; 512]) {
            answered.insert(from);
        }
        assert_eq!(answered, BTreeSet::from([at(to, 53)]), "UDP");
    }
}

#[test]
fn by_20_a_client_sees_no_packet_of_a_neighbour_on_the_wan() {
    let bed = open(P10);
    let _server = bed.world.agent.listen(at(AGENT, 8080));
    let tap: OwnedFd = bed.world.agent.run(|| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap()
    });
    let agent6: IpAddr = "fd77:1::2".parse().unwrap();
    let quick = Duration::from_millis(150);
    for ip in [AGENT, agent6] {
        for port in [8080, 80, 22] {
            assert!(bed.world.lan.connect(at(ip, port), quick).is_err(), "{ip} port {port}");
        }
        let any = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        bed.world.lan.udp(any.parse().unwrap()).send_to(b"a datagram", at(ip, 8080)).unwrap();
    }
    // The tap sees what does come.
    bed.control();
    let (mut ours, mut theirs) = (0, Vec::new());
    let mut frame = [0; 2048];
    while let Ok(length) = recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()) {
        let Some(packet) = parse(&frame[..length], false) else { continue };
        if packet.from.ip() == PUB1 {
            ours += 1;
        }
        if packet.from.ip().to_string().ends_with(if packet.from.is_ipv4() { ".77" } else { "::77" }) {
            theirs.push(packet);
        }
    }
    assert!(ours > 0 && theirs.is_empty(), "{ours} {theirs:?}");
}

/// Makes the kernel of the gate forget every connection (linux/netfilter/nfnetlink_conntrack.h).
fn forget_connections(bed: &Bed) {
    bed.world.gate.run(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter).unwrap();
        let mut message = 20u32.to_ne_bytes().to_vec();
        // IPCTNL_MSG_CT_DELETE; a request that is to be acknowledged; no family, so that it is all.
        message.extend((1u16 << 8 | 2).to_ne_bytes());
        message.extend(5u16.to_ne_bytes());
        message.extend([0; 12]);
        sendto(fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).unwrap();
        let mut answer = [0; 64];
        recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        assert_eq!(answer[16..20], [0; 4], "the kernel's answer");
    });
}

#[test]
fn by_27_a_connection_that_the_kernel_has_forgotten_is_closed() {
    let bed = open(P10);
    bed.control();
    let mark = bed.mark();
    bed.gate.stop();
    let mut clear = bed.tcp(PUB1, 80);
    let mut secure = bed.tcp(PUB1_V6, 443);
    // A last packet of the handshake that came later would be remembered again.
    let arrived = || {
        let lines = bed.world.gate.sh("cat /proc/thread-self/net/tcp /proc/thread-self/net/tcp6");
        // Local port 15001, established (proc(5)).
        (lines.lines().filter(|line| line.contains(":3A99 ") && line.contains(" 01 ")).count() >= 2)
            .then_some(())
    };
    if !tproxy_everywhere() {
        assert!(wait_until(Duration::from_secs(5), arrived).is_some(), "both wait to be accepted");
    }
    forget_connections(&bed);
    bed.gate.signal(Signal::SIGCONT);
    if tproxy_everywhere() {
        // Nothing was remembered that could be forgotten.
        assert_eq!(clear.ask(get("plain.good.test", "/")).map(|answer| answer.status), Some(200));
        return;
    }
    let taps = bed.since(mark, 2);
    assert!(
        taps.decisions.iter().all(|record| record.text("reason") == "no_destination"),
        "{:?}",
        taps.decisions
    );
    taps.nothing_upstream().quiet_wan();
    for wire in [&mut clear, &mut secure] {
        wire.send(get("plain.good.test", "/"));
        let (answer, end) = wire.rest();
        assert!(answer.is_empty() && matches!(end, End::Closed | End::Reset), "{answer:?} {end:?}");
    }
    bed.control();
}

#[test]
fn by_32_the_gate_is_not_ready_while_another_table_takes_its_connections() {
    let bed = open(P1);
    let ready = || {
        let admin = "127.0.0.1:9180".parse().unwrap();
        let mut wire = Wire::plain(bed.world.gate.connect(admin, Duration::from_secs(3)).unwrap());
        wire.ask(get("localhost", "/readyz")).map(|answer| answer.status)
    };
    assert_eq!(ready(), Some(200));
    bed.world.gate.sh("nft -f - <<'EOF'
        table ip thief {
            chain p { type nat hook prerouting priority -150; tcp dport 443 redirect to :22; }
        }
EOF");
    bed.gate.wait_for_words("the chain ip thief p takes connections before the redirect does");
    assert_eq!(ready(), Some(503));
    if !tproxy_everywhere() {
        // What is not tracked cannot be taken away either.
        let mark = bed.mark();
        assert!(bed.try_tcp(PUB1, 443).is_err());
        bed.since(mark, 0).nothing_upstream().quiet_wan();
    }
    bed.world.gate.sh("nft delete table ip thief");
    assert!(wait_until(Duration::from_secs(5), || (ready() == Some(200)).then_some(())).is_some());
    bed.control();
}
