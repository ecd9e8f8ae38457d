//! A host of containers without Docker: what a neighbour reaches through it, without and with the guard.
//!
//! ```text
//! neighbour 198.51.100.9 -- lan0 198.51.100.1 [host] docker0 172.31.0.1 -- container 172.31.0.2
//! ```
//! The neighbour routes the containers' networks through the host, which forwards, as hosts of containers do.

use std::io::{Read, Write};
use std::thread;

use outgate::steer::{Settings, Tables};

use crate::world::{Attempt, Namespace, Servers, eventually, join};
use crate::{outgate, start_helper};

struct Host {
    neighbour: Namespace,
    host: Namespace,
    container: Namespace,
    _servers: Servers,
}

/// What Docker does for ports that are published on all addresses (8081), and on 127.0.0.1 only (8080).
const PUBLISHED: &str = "
table inet published {
    chain p { type nat hook prerouting priority dstnat; policy accept;
        ip daddr != 127.0.0.0/8 fib daddr type local tcp dport 8081 dnat ip to 172.31.0.2:80
        ip6 daddr != ::1 fib daddr type local tcp dport 8081 dnat ip6 to [fd31::2]:80
    }
    chain o { type nat hook output priority -100; policy accept;
        fib daddr type local tcp dport { 8080, 8081 } meta nfproto ipv4 dnat ip to 172.31.0.2:80
    }
    chain m { type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.31.0.0/16 oifname != docker0 masquerade
        ip saddr 172.31.0.2 ip daddr 172.31.0.2 masquerade
        ip6 saddr fd31::2 ip6 daddr fd31::2 masquerade
        ip saddr 127.0.0.0/8 oifname docker0 masquerade
    }
}";

impl Host {
    fn new() -> Self {
        let [neighbour, host, container] = ["neighbour", "host", "container"].map(Namespace::new);
        join(
            &host,
            "lan0",
            &neighbour,
            &["198.51.100.1/24", "2001:db8::1/64"],
            &["198.51.100.9/24", "2001:db8::9/64"],
        );
        host.ip("link add docker0 type bridge");
        host.ip(&format!("link add veth0 type veth peer name eth0 netns {}", container.name()));
        host.ip("link set veth0 master docker0");
        // As Docker does, for a container that dials its own published port.
        host.ip("link set veth0 type bridge_slave hairpin on");
        for address in ["172.31.0.1/16", "fd31::1/64 nodad"] {
            host.ip(&format!("addr add {address} dev docker0"));
        }
        host.ip("link set veth0 up");
        host.ip("link set docker0 up");
        for address in ["172.31.0.2/16", "fd31::2/64 nodad"] {
            container.ip(&format!("addr add {address} dev eth0"));
        }
        container.ip("link set eth0 up");
        container.ip("route add default via 172.31.0.1");
        container.ip("-6 route add default via fd31::1");
        neighbour.ip("route add 172.31.0.0/16 via 198.51.100.1");
        neighbour.ip("-6 route add fd31::/64 via 2001:db8::1");
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/docker0/route_localnet"] {
            host.sysctl(&format!("net/{key}"), "1");
        }
        host.nft(PUBLISHED);
        let servers = Servers::default();
        for at in ["0.0.0.0:80", "[::]:80"] {
            servers.serve_tcp(&container, at, "container");
        }
        for at in ["172.31.0.1:53", "[fd31::1]:53", "0.0.0.0:22"] {
            servers.serve_tcp(&host, at, "host");
        }
        servers.serve_tcp(&neighbour, "0.0.0.0:7", "neighbour");
        servers.serve_tcp(&neighbour, "[::]:7", "neighbour");
        Self { neighbour, host, container, _servers: servers }
    }

    /// What must work, guarded or not.
    fn published_ports_work(&self) {
        for (from, to, said) in [
            (&self.neighbour, "198.51.100.1:8081", "container"),
            (&self.neighbour, "[2001:db8::1]:8081", "container"),
            (&self.neighbour, "198.51.100.1:22", "host"),
            (&self.host, "172.31.0.2:80", "container"),
            (&self.host, "[fd31::2]:80", "container"),
            (&self.host, "127.0.0.1:8080", "container"),
            (&self.host, "198.51.100.1:8081", "container"),
            // A container, by the host's name for it: in and out of the same bridge.
            (&self.container, "198.51.100.1:8081", "container"),
            (&self.container, "[2001:db8::1]:8081", "container"),
            (&self.container, "172.31.0.1:53", "host"),
            // Out, translated (IPv4) and not (IPv6).
            (&self.container, "198.51.100.9:7", "neighbour"),
            (&self.container, "[2001:db8::9]:7", "neighbour"),
        ] {
            assert_eq!(from.hear(to), said, "{to}");
        }
    }
}

/// What was not published: the container itself, and the host's own addresses on its bridge.
const UNPUBLISHED: [&str; 4] = ["172.31.0.2:80", "[fd31::2]:80", "172.31.0.1:53", "[fd31::1]:53"];

fn nothing_else_is_reached(host: &Host) {
    for (attempt, to) in host.neighbour.try_each(&UNPUBLISHED).into_iter().zip(UNPUBLISHED) {
        assert_eq!(attempt, Attempt::TimedOut, "{to}");
    }
}

#[test]
fn a_neighbour_of_a_guarded_host_reaches_published_ports_only() {
    let host = Host::new();
    for to in UNPUBLISHED {
        host.neighbour.hear(to);
    }
    host.published_ports_work();
    for wrong in [&["fence", "guard"][..], &["fence", "guard", "*"], &["fence", "guard", "lo"]] {
        assert_eq!(outgate(&host.host, wrong).0, Some(2), "{wrong:?}");
    }
    let live = || outgate(&host.host, &["fence", "guard", "--live", "docker0", "br-*"]);
    assert_eq!(live().0, Some(1));
    let (code, said) = outgate(&host.host, &["fence", "guard", "docker0", "br-*"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(live(), (Some(0), "table outgate_guard: as configured\n".to_owned()));
    thread::scope(|scope| {
        scope.spawn(|| nothing_else_is_reached(&host));
        scope.spawn(|| host.published_ports_work());
    });
    assert_eq!(outgate(&host.host, &["fence", "guard", "--down"]).0, Some(0));
    assert_eq!(host.neighbour.hear("172.31.0.2:80"), "container");
}

#[test]
fn a_connection_that_was_open_before_the_guard_does_not_go_on() {
    let host = Host::new();
    let listener = host.container.inside(|| std::net::TcpListener::bind("0.0.0.0:81").unwrap());
    let mut open = host.neighbour.inside(|| std::net::TcpStream::connect("172.31.0.2:81").unwrap());
    let (there, _) = listener.accept().unwrap();
    there.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    host.host.inside(|| Tables::open().unwrap().apply_guard(&["docker0".into()]).unwrap());
    open.write_all(b"more").unwrap();
    assert!((&there).read(&mut [0; 4]).is_err(), "it went on");
}

#[test]
fn the_daemons_helper_guards_bridges_that_come_later() {
    let host = Host::new();
    let settings = Settings {
        interfaces: vec!["agent0".into()],
        networks: vec!["10.77.1.0/24".parse().unwrap()],
        guard: vec!["docker0".into(), "br-*".into()],
        ..Settings::default()
    };
    let mut helper = start_helper(&host.host);
    helper.apply(&settings).unwrap();
    nothing_else_is_reached(&host);
    host.published_ports_work();
    // A new network of containers, with an address of the host of its own.
    host.host.ip("link add br-0123456789ab type bridge");
    host.host.ip("addr add 172.32.0.1/16 dev br-0123456789ab");
    host.host.ip("link set br-0123456789ab up");
    let servers = Servers::default();
    servers.serve_tcp(&host.host, "172.32.0.1:53", "host");
    host.neighbour.ip("route add 172.32.0.0/16 via 198.51.100.1");
    let listed = || host.host.exec(&["nft", "list", "set", "inet", "outgate_guard", "host4"]).1;
    eventually("the guard knows the new address", || listed().contains("172.32.0.1"));
    assert_eq!(host.neighbour.try_tcp("172.32.0.1:53"), Attempt::TimedOut);
    assert!(helper.verify().unwrap().intact);
}
