//! Who is reached without the gate between: hosts on this link, and what the gate's own address offers beside its doors.

use super::Check;
use super::ground::{self, Address};
use super::reach::{End, at_once, tcp};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Services that a machine has for itself: ssh, portmap, Docker, Kubernetes, metrics, and the transparent door without
/// a redirect.
const OWN: [u16; 9] = [22, 111, 2375, 6443, 9090, 9100, 9464, 10250, 15001];
/// What a neighbour is tried on.
const OTHERS: [u16; 4] = [22, 80, 443, 8080];
/// The discard port: a datagram there is nothing but a reason to ask who has the address.
const DISCARD: u16 = 9;
/// A neighbour on link answers within a millisecond.
const ARP_WAIT: Duration = Duration::from_millis(400);

pub(super) fn checks(gateway: Option<IpAddr>, named: &[IpAddr]) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(gateway) = gateway {
        checks.push(own_services(gateway));
    }
    checks.push(on_link(gateway));
    checks.extend(named.iter().map(|neighbour| tried(*neighbour)));
    checks
}

fn own_services(gateway: IpAddr) -> Check {
    let ends = at_once(&OWN, |port| tcp(SocketAddr::new(gateway, port)));
    let open: Vec<String> = ends
        .iter()
        .filter(|(_, end)| matches!(end, End::Reached(_)))
        .map(|(port, _)| port.to_string())
        .collect();
    if open.is_empty() {
        Check::good("the gate itself", format!("{gateway} offers nothing beside its doors"))
    } else {
        let remedy =
            "bind those services to another address, and load the fence, which closes them to workloads";
        Check::bad("the gate itself", format!("{gateway} answers on {}", open.join(", ")), remedy)
    }
}

/// Asks for a few likely neighbours, and looks who has answered ARP.
fn on_link(gateway: Option<IpAddr>) -> Check {
    let candidates: BTreeSet<Ipv4Addr> = ground::addresses().iter().flat_map(likely).collect();
    if candidates.is_empty() {
        return Check::good("neighbours", "no network is on link: everybody is reached through the gateway");
    }
    if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) {
        for candidate in candidates.iter().filter(|candidate| Some(IpAddr::V4(**candidate)) != gateway) {
            let _ = socket.send_to(&[], (*candidate, DISCARD));
        }
        std::thread::sleep(ARP_WAIT);
    }
    let found: Vec<String> =
        answered().into_iter().filter(|ip| Some(*ip) != gateway).map(|ip| ip.to_string()).collect();
    if found.is_empty() {
        Check::good("neighbours", "nobody but the gateway answers on this link")
    } else {
        let remedy = "give the workload a /32 and an on-link route (outgate init --on-link), and isolate the ports of its bridge";
        Check::bad("neighbours", format!("reached without the gate: {}", found.join(", ")), remedy)
    }
}

/// The first addresses of a network, the last one, and those beside our own.
fn likely(address: &Address) -> Vec<Ipv4Addr> {
    let IpNet::V4(net) = address.net else { return Vec::new() };
    if address.loopback || net.prefix_len() > 30 {
        return Vec::new();
    }
    let (first, last, own) = (u32::from(net.network()), u32::from(net.broadcast()), u32::from(net.addr()));
    let wanted =
        [first + 1, first + 2, first + 3, last.wrapping_sub(1), own.wrapping_sub(1), own.wrapping_add(1)];
    wanted.into_iter().filter(|ip| (first + 1..last).contains(ip) && *ip != own).map(Ipv4Addr::from).collect()
}

/// Complete entries of the neighbour table (proc(5), `/proc/net/arp`: address, type, flags, ...).
fn answered() -> Vec<IpAddr> {
    let table = std::fs::read_to_string("/proc/net/arp").unwrap_or_default();
    table.lines().filter_map(complete).collect()
}

fn complete(line: &str) -> Option<IpAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let flags = u32::from_str_radix(words.get(2)?.strip_prefix("0x")?, 16).ok()?;
    // ATF_COM (linux/if_arp.h)
    (flags & 2 != 0).then(|| words.first()?.parse().ok())?
}

fn tried(neighbour: IpAddr) -> Check {
    let ends = at_once(&OTHERS, |port| tcp(SocketAddr::new(neighbour, port)));
    let open: Vec<String> = ends
        .iter()
        .filter(|(_, end)| matches!(end, End::Reached(_)))
        .map(|(port, _)| port.to_string())
        .collect();
    // Ports 80 and 443 are the gate's wherever they are; what it does not own is closed at once.
    let remedy = "give the workload a /32 and an on-link route (outgate init --on-link), and isolate the ports of its bridge";
    if answered().contains(&neighbour) {
        return Check::bad(
            "neighbour",
            format!("{neighbour} is on this link, without the gate between"),
            remedy,
        );
    }
    let past: Vec<String> = open.into_iter().filter(|port| port != "80" && port != "443").collect();
    if past.is_empty() {
        Check::good("neighbour", format!("{neighbour} is not reached"))
    } else {
        Check::bad("neighbour", format!("{neighbour} answers on {}", past.join(", ")), remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_entries_have_answered() {
        let line = "10.77.1.1        0x1         0x2         0a:d6:48:c0:00:20     *        eth0";
        assert_eq!(complete(line), Some("10.77.1.1".parse().unwrap()));
        assert_eq!(complete(&line.replace("0x2 ", "0x0 ")), None);
        assert_eq!(complete("IP address       HW type     Flags       HW address"), None);
    }

    #[test]
    fn likely_neighbours_lie_in_the_network_and_are_not_ourselves() {
        let of = |net: &str| {
            likely(&Address { interface: "eth0".into(), net: net.parse().unwrap(), loopback: false })
        };
        let found = of("10.77.1.2/24");
        assert!(
            found.contains(&Ipv4Addr::new(10, 77, 1, 1)) && found.contains(&Ipv4Addr::new(10, 77, 1, 254))
        );
        assert!(!found.contains(&Ipv4Addr::new(10, 77, 1, 2)));
        assert!(of("10.77.1.2/32").is_empty());
        assert!(of("10.77.1.2/31").is_empty());
    }
}
