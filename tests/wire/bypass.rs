//! Gauntlet BY: ways round the gate. The kernel of the gate forwards packets here, so only the fence can stop them.

use std::net::IpAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Type};

use crate::support::dns::{A, ask};
use crate::support::gate::wait_until;
use crate::support::*;

pub fn open(policy: &str) -> Bed {
    Bed::with(&Setup { policy: policy.into(), forwarding: true, ..Setup::default() })
}

/// A datagram from the agent; what the kernel says of it does not matter, the capture is the judge.
fn datagram(bed: &Bed, ip: IpAddr, port: u16) {
    let any = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    bed.world.agent.udp(any.parse().unwrap()).send_to(b"a datagram", at(ip, port)).ok();
}

pub fn echo_request(bed: &Bed, ip: IpAddr) {
    let (domain, protocol, kind) = match ip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = bed.world.agent.socket(domain, Type::RAW, Some(protocol));
    let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    message.extend([b'x'; 1000]);
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    socket.send_to(&message, &at(ip, 0).into()).ok();
}

/// The Internet checksum (RFC 1071); the kernel does it itself for ICMPv6.
pub fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    !((sum & 0xffff) as u16).wrapping_add((sum >> 16) as u16)
}

#[test]
fn by_02_other_tcp_ports_are_refused_at_once_and_the_wan_is_quiet() {
    let bed = open(P1);
    let mark = bed.mark();
    for port in [22, 25, 853, 3128, 4444, 8080, 8443] {
        let begun = std::time::Instant::now();
        let end = bed.try_tcp(EVIL, port).err();
        assert!(matches!(end, Some(End::Refused | End::Reset)), "port {port}: {end:?}");
        assert!(begun.elapsed() < Duration::from_secs(1), "a reset, not a time-out");
    }
    // Port 53 of anyone is the gate's own DNS door.
    drop(bed.try_tcp(EVIL, 53));
    for port in [443, 53, 853, 123, 4433] {
        datagram(&bed, EVIL, port);
    }
    echo_request(&bed, EVIL);
    bed.since(mark, 0).quiet_wan();
    bed.control();
}

#[test]
fn by_04_ipv6_is_fenced_and_judged_like_ipv4() {
    let bed = open(P1);
    let mut plain = bed.tcp(PUB1_V6, 80);
    assert_eq!(plain.ask(get("plain.good.test", "/")).unwrap().status, 200);
    assert_eq!(
        bed.https(PUB1_V6, "api.good.test").unwrap().ask(get("api.good.test", "/")).unwrap().status,
        200
    );
    let mark = bed.mark();
    assert_eq!(bed.tcp(PUB1_V6, 80).ask(get("evil.test", "/")).unwrap().status, 403);
    assert_denied(bed.https(EVIL_V6, "evil.test"), get("evil.test", "/"));
    assert!(matches!(bed.try_tcp(PUB1_V6, 8443).err(), Some(End::Refused | End::Reset)));
    datagram(&bed, PUB1_V6, 443);
    datagram(&bed, PUB1_V6, 53);
    echo_request(&bed, PUB1_V6);
    let taps = bed.since(mark, 2);
    taps.nothing_upstream().quiet_wan();
}

#[test]
fn by_15_the_transparent_port_itself_leads_nowhere() {
    let bed = open(P10);
    bed.control();
    let before = bed.gate.open_files();
    for ip in [GATE, GATE6, GATE_WAN] {
        for _ in 0..10 {
            let Ok(socket) = bed.try_tcp(ip, 15_001) else { continue };
            let mut wire = Wire::plain(socket);
            wire.send(get("plain.good.test", "/"));
            let (answer, end) = wire.rest();
            assert!(!answer.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&answer));
            assert!(matches!(end, End::Closed | End::Reset), "{end:?}");
        }
    }
    let packets = bed.world.capture.packets();
    assert!(!packets.iter().any(|packet| packet.to.port() == 15_001));
    let after = wait_until(Duration::from_secs(5), || (bed.gate.open_files() <= before).then_some(()));
    assert!(after.is_some(), "open files: {} before, {} after", before, bed.gate.open_files());
    let records = bed.gate.records();
    assert!(
        !records
            .iter()
            .any(|record| record.text("verdict") == "allow" && record.text("orig_dst").ends_with(":15001"))
    );
}

#[test]
fn by_17_special_addresses_are_blocked_whatever_the_policy_allows() {
    const SPECIAL: &[&str] = &[
        "127.0.0.1",
        "127.8.8.8",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "0.1.2.3",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[ff02::1]",
        "[fd77:1::1]",
        "10.77.1.1",
        "93.184.216.1",
    ];
    let bed = open(P10);
    for host in SPECIAL {
        let absolute = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let tunnel = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
        for (mut wire, request) in
            [(bed.explicit(), absolute), (bed.explicit(), tunnel), (bed.tcp(PUB1, 80), get(host, "/"))]
        {
            let mark = bed.mark();
            let status = wire.ask(&request).map(|answer| answer.status);
            assert_eq!(status, Some(403), "{request:?}");
            bed.since(mark, 1).nothing_upstream().quiet_wan().decided("deny", &["addr_blocked"]);
        }
    }
    bed.world.dns.set("metadata.test", &[METADATA]);
    bed.world.dns.set("private.test", &[PRIVATE]);
    for name in ["metadata.test", "private.test"] {
        let status = bed.fetch_plain(get(name, "/")).map(|answer| answer.status);
        assert!(matches!(status, Some(403 | 502)), "{name}: {status:?}");
        bed.gate.wait_for_record("why", |record| record.mentions("addr_blocked"));
    }
    let packets = bed.world.capture.packets();
    assert!(!packets.iter().any(|packet| [METADATA, PRIVATE].contains(&packet.to.ip())), "no SYN to it");
    bed.control();
}

#[test]
fn by_18_one_tenant_does_not_reach_another() {
    let bed = open(P10);
    let server = bed.world.agent2.listen(at(AGENT2, 8080));
    server.set_nonblocking(true).unwrap();
    let end = bed.try_tcp(AGENT2, 8080).err();
    assert!(end.is_some(), "a direct connection");
    assert_eq!(bed.tunnel("10.77.2.2:443").err(), Some(End::Status(403)), "through the gate");
    assert!(server.accept().is_err(), "the other tenant saw a connection");
}

#[test]
fn by_21_a_neighbour_on_the_wan_reaches_no_listener_of_the_gate() {
    let bed = open(P10);
    let quick = Duration::from_millis(150);
    for ip in [GATE, GATE6, GATE_WAN] {
        for port in [53, 80, 443, 3128, 9180, 15_001] {
            assert!(bed.world.lan.connect(at(ip, port), quick).is_err(), "{ip} port {port}");
        }
    }
    for ip in [AGENT, GATE] {
        let socket = bed.world.lan.udp("0.0.0.0:0".parse().unwrap());
        socket.set_read_timeout(Some(quick)).unwrap();
        socket.send_to(&dns::question("api.good.test", A), at(ip, 53)).unwrap();
        assert!(socket.recv(&mut [0; 512]).is_err(), "DNS at {ip}");
    }
    assert!(bed.world.dns.queries().is_empty());
    assert!(bed.gate.records().iter().all(|record| record.text("verdict") != "allow"));
    bed.control();
}

#[test]
fn by_23_after_kill_9_everything_is_refused_and_the_wan_is_quiet() {
    let mut bed = open(P10);
    bed.control();
    assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1]);
    bed.gate.kill();
    let mark = bed.world.capture.packets().len();
    for ip in [PUB1, PUB1_V6, EVIL] {
        for port in [80, 443, 22, 8443] {
            let end = bed.try_tcp(ip, port).err();
            assert!(end.is_some(), "{ip} port {port} answered");
        }
        datagram(&bed, ip, 443);
        datagram(&bed, ip, 53);
        echo_request(&bed, ip);
    }
    assert!(bed.try_tcp(GATE, 3128).is_err() && bed.try_tcp(GATE, 15_001).is_err());
    assert!(ask(&bed.world.agent, at(GATE, 53), "api.good.test", A, false).is_err(), "DNS is silent");
    let packets = bed.world.capture.packets().split_off(mark);
    let left: Vec<_> =
        packets.iter().filter(|packet| packet.outgoing && packet.syn || packet.protocol == 17).collect();
    assert!(left.is_empty(), "{left:?}");
    let echoes = packets.iter().any(|packet| packet.is_echo_request());
    assert!(!echoes, "an echo request left");
}
