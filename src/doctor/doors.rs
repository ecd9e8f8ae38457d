//! Where the doors stand: on the workloads' side only, and open when a daemon runs.

use super::Check;
use super::ground::addresses;
use super::tables::Fence;
use crate::config::Config;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) fn checks(config: &Config, fence: Fence, runs: bool, checks: &mut Vec<Check>) {
    let doors = [("transparent", &config.transparent), ("explicit", &config.explicit), ("dns", &config.dns)];
    let all: Vec<(&str, SocketAddr)> =
        doors.into_iter().flat_map(|(door, at)| at.iter().map(move |address| (door, *address))).collect();
    checks.push(sides(config, &all, fence));
    if runs {
        checks.push(open(&all));
    }
    checks.push(admin(config));
}

/// A door on a wildcard is open on the uplink unless the fence closes it there; others stand on an agent's interface.
fn sides(config: &Config, doors: &[(&str, SocketAddr)], fence: Fence) -> Check {
    let addresses = addresses();
    let ours: &[String] = config.steer.as_ref().map(|steer| steer.interfaces.as_slice()).unwrap_or_default();
    let (mut bad, mut odd) = (Vec::new(), Vec::new());
    for (door, at) in doors {
        let interface = addresses.iter().find(|address| address.net.addr() == at.ip());
        match interface {
            _ if at.ip().is_unspecified() && fence == Fence::Stands => {}
            _ if at.ip().is_unspecified() && fence == Fence::Unknown => {
                odd.push(format!("{door} {at} is open on every interface, unless rules of others close it"));
            }
            _ if at.ip().is_unspecified() => {
                bad.push(format!("{door} {at} is open on every interface, and no fence stands before it"));
            }
            None if at.ip().is_loopback() => {}
            None => odd.push(format!("{door} {at} is no address of this machine now")),
            Some(found) if found.loopback => {}
            Some(found) if ours.contains(&found.interface) => {
                // Linux takes what is sent to this address on any interface (weak host model).
                if fence == Fence::Down {
                    bad.push(format!(
                        "{door} {at} is reached from the uplink too, as no fence stands before it"
                    ));
                }
            }
            Some(found) if config.steer.is_some() => {
                bad.push(format!(
                    "{door} {at} stands on {}, which is no interface of workloads",
                    found.interface
                ));
            }
            Some(found) => {
                odd.push(format!("{door} {at} stands on {}: who reaches it there?", found.interface))
            }
        }
    }
    let remedy =
        "bind doors to the address of the workloads' own interface, and load the fence: outgate fence up";
    match (bad.is_empty(), odd.is_empty()) {
        (false, _) => Check::bad("doors", [bad, odd].concat().join("; "), remedy),
        (true, false) => Check::warn("doors", odd.join("; "), remedy),
        (true, true) => Check::good("doors", format!("{} doors, none open on the uplink", doors.len())),
    }
}

/// The daemon says that it runs; does somebody listen where its configuration says?
fn open(doors: &[(&str, SocketAddr)]) -> Check {
    let listening = listening();
    let closed: Vec<String> = doors
        .iter()
        .filter(|(_, at)| !listening.contains(at))
        .map(|(door, at)| format!("{door} {at}"))
        .collect();
    if closed.is_empty() {
        Check::good("listeners", "every door of the configuration is open")
    } else {
        let fact = format!("nobody listens on {}", closed.join(", "));
        Check::bad(
            "listeners",
            fact,
            "restart the daemon: it runs with another configuration, or in another namespace",
        )
    }
}

/// TCP listeners of this namespace (proc(5), `/proc/net/tcp`).
fn listening() -> HashSet<SocketAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    [read("/proc/net/tcp"), read("/proc/net/tcp6")]
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(listener)
        .collect()
}

fn listener(line: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // 0A: TCP_LISTEN
    if *words.get(3)? != "0A" {
        return None;
    }
    let (address, port) = words.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = [0u8; 16];
    let groups = address.len() / 8;
    for (place, to) in octets.chunks_mut(4).take(groups).enumerate() {
        // Each group of four bytes is a number in the machine's own order.
        let group = u32::from_str_radix(address.get(place * 8..place * 8 + 8)?, 16).ok()?;
        to.copy_from_slice(&group.to_ne_bytes());
    }
    let [a, b, c, d, ..] = octets;
    let ip = match groups {
        1 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        4 => IpAddr::V6(Ipv6Addr::from(octets)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn admin(config: &Config) -> Check {
    match config.admin.http {
        Some(at) if !at.ip().is_loopback() => {
            Check::bad("admin", format!("health and metrics on {at}"), "use 127.0.0.1:PORT or [::1]:PORT")
        }
        _ => admin_socket(config),
    }
}

fn admin_socket(config: &Config) -> Check {
    use std::os::unix::fs::MetadataExt;
    let path = &config.admin.socket;
    let at = config.admin.http.map_or_else(|| "no port".to_owned(), |at| at.to_string());
    match std::fs::metadata(path) {
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            let fact = format!("{} has mode {:04o}", path.display(), meta.mode() & 0o7777);
            Check::bad("admin", fact, format!("chmod 600 {}", path.display()))
        }
        _ => Check::good("admin", format!("health and metrics on {at}, the socket for its user alone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_read_in_both_families() {
        let v4 =
            "   0: 01014D0A:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(listener(v4), Some("10.77.1.1:15001".parse().unwrap()));
        let v6 = "   1: 000077FD00000100000000000100000 :0035";
        assert_eq!(listener(v6), None);
        let v6 = "   1: 010077FD000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(listener(v6), Some("[fd77:1::1]:53".parse().unwrap()));
        let established = "   0: 01014D0A:3A99 0200000A:0035 01 00000000:00000000";
        assert_eq!(listener(established), None);
    }
}
