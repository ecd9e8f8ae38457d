//! The test bed of GAUNTLET section 1: agents, gate, internet and a neighbour, joined by veth pairs, with no uplink.
//!
//! ```text
//! agent  10.77.1.2 --- agent0 10.77.1.1 +------+                     +-- net: every upstream host
//!                                       | gate | wan0 93.184.216.1 --+
//! agent2 10.77.2.2 --- agent1 10.77.2.1 +------+                     +-- lan: 93.184.216.77
//! ```
//! It starts no daemon: `Gate` does. The addresses look public because special ranges would be refused anyway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::ca::Authorities;
use super::capture::Capture;
use super::dns::NameServer;
use super::ns::Namespace;
use super::origin::Origin;

pub const GATE: IpAddr = v4(10, 77, 1, 1);
pub const GATE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 1));
pub const AGENT: IpAddr = v4(10, 77, 1, 2);
pub const AGENT2: IpAddr = v4(10, 77, 2, 2);
pub const GATE_WAN: IpAddr = v4(93, 184, 216, 1);
/// `api.good.test`, `plain.good.test`
pub const PUB1: IpAddr = v4(93, 184, 216, 10);
pub const PUB1_V6: IpAddr = wan6(0x10);
/// `files.good.test`
pub const PUB2: IpAddr = v4(93, 184, 216, 20);
pub const PUB2_V6: IpAddr = wan6(0x20);
/// shared by `cdn.good.test` and `tenant.evil.test`
pub const CDN: IpAddr = v4(93, 184, 216, 30);
pub const EVIL: IpAddr = v4(93, 184, 216, 66);
pub const EVIL_V6: IpAddr = wan6(0x66);
pub const DNS: IpAddr = v4(93, 184, 216, 53);
pub const PRIVATE: IpAddr = v4(10, 99, 0, 5);
pub const METADATA: IpAddr = v4(169, 254, 169, 254);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn wan6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x2800, 0x220, 1, 0, 0, 0, last))
}

pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

pub struct World {
    pub dns: NameServer,
    pub origin: Arc<Origin>,
    pub capture: Capture,
    pub agent: Namespace,
    pub agent2: Namespace,
    pub lan: Namespace,
    pub gate: Namespace,
    pub net: Namespace,
    pub authorities: Arc<Authorities>,
    pub dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let dir = super::orphans::scratch();
        let [agent, agent2, gate, net, lan] = ["agent", "agent2", "gate", "net", "lan"].map(Namespace::new);
        join(&agent, &agent2, &gate, &net, &lan);
        resolve_at(&agent, dir.path(), "10.77.1.1");
        resolve_at(&agent2, dir.path(), "10.77.2.1");
        let authorities = Arc::new(Authorities::new());
        authorities.write(dir.path());
        let dns = NameServer::start(&net, at(DNS, 53));
        zone(&dns);
        let origin = Origin::start(&net, authorities.clone());
        let capture = Capture::start(&gate, "wan0", &net);
        Self { dns, origin, capture, agent, agent2, lan, gate, net, authorities, dir }
    }

    /// With this the gate's kernel would carry packets itself, so that only the fence stands between agent and net.
    pub fn forward_packets(&self) {
        self.gate
            .sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    }
}

fn join(agent: &Namespace, agent2: &Namespace, gate: &Namespace, net: &Namespace, lan: &Namespace) {
    gate.ip(&format!(
        "link set lo up\n\
         link add agent0 type veth peer name eth0 netns {agent}\n\
         link add agent1 type veth peer name eth0 netns {agent2}\n\
         link add wan0 type veth peer name wire0 netns {net}\n\
         addr add 10.77.1.1/24 dev agent0\naddr add fd77:1::1/64 dev agent0 nodad\n\
         addr add 10.77.2.1/24 dev agent1\naddr add fd77:2::1/64 dev agent1 nodad\n\
         addr add 93.184.216.1/24 dev wan0\naddr add 2606:2800:220:1::1/64 dev wan0 nodad\n\
         link set agent0 up\nlink set agent1 up\nlink set wan0 up\n\
         route add default via 93.184.216.254\nroute add default via 2606:2800:220:1::fe",
        agent = agent.path(),
        agent2 = agent2.path(),
        net = net.path(),
    ));
    for (who, subnet) in [(agent, 1), (agent2, 2)] {
        who.ip(&format!(
            "link set lo up\n\
             addr add 10.77.{subnet}.2/24 dev eth0\naddr add fd77:{subnet}::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.77.{subnet}.1\nroute add default via fd77:{subnet}::1"
        ));
    }
    let mut hosts = String::new();
    for last in ["10", "20", "30", "53", "66", "254"] {
        hosts += &format!("addr add 93.184.216.{last}/24 dev br0\n");
    }
    for last in ["10", "20", "30", "53", "66", "fe"] {
        hosts += &format!("addr add 2606:2800:220:1::{last}/64 dev br0 nodad\n");
    }
    net.ip(&format!(
        "link set lo up\n\
         link add br0 type bridge\nlink set wire0 master br0\n\
         link add wire1 type veth peer name eth0 netns {lan}\nlink set wire1 master br0\n\
         {hosts}addr add 10.99.0.5/32 dev br0\naddr add 169.254.169.254/32 dev br0\n\
         link set wire0 up\nlink set wire1 up\nlink set br0 up\n\
         route add 10.77.0.0/16 via 93.184.216.1\nroute add fd77::/16 via 2606:2800:220:1::1",
        lan = lan.path(),
    ));
    lan.ip(
        "link set lo up\naddr add 93.184.216.77/24 dev eth0\naddr add 2606:2800:220:1::77/64 dev eth0 nodad\n\
         link set eth0 up\nroute add default via 93.184.216.254\n\
         route add 10.77.0.0/16 via 93.184.216.1\nroute add fd77::/16 via 2606:2800:220:1::1",
    );
}

/// Makes `server` the resolver of every program in a namespace.
pub fn resolve_at(agent: &Namespace, dir: &Path, server: &str) {
    let file = dir.join(format!("resolv-{server}"));
    std::fs::write(&file, format!("nameserver {server}\noptions timeout:2 attempts:1\n")).unwrap();
    agent.sh(format!(
        "mount --make-rprivate /; mount --bind {} \"$(readlink -f /etc/resolv.conf)\"",
        file.display()
    ));
}

fn zone(dns: &NameServer) {
    for name in ["api", "plain", "pinned", "expired", "selfsigned", "wronghost", "unknownroot", "h2only"] {
        dns.set(&format!("{name}.good.test"), &[PUB1, PUB1_V6]);
    }
    dns.set("files.good.test", &[PUB2, PUB2_V6]);
    dns.set("cdn.good.test", &[CDN]);
    dns.set("tenant.evil.test", &[CDN]);
    for name in ["a.wild.test", "a.b.wild.test", "wild.test", "my_bucket.wild.test"] {
        dns.set(name, &[PUB1]);
    }
    dns.set("evil.test", &[EVIL, EVIL_V6]);
    dns.set("attacker.test", &[EVIL]);
    dns.set("intern.good.test", &[PRIVATE]);
}
