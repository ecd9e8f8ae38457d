//! What the kernel says of this namespace: interfaces, addresses, routes, settings. Facts only.

use ipnet::{IpNet, Ipv4Net};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::net::{IpAddr, Ipv4Addr};

/// An address of an interface that is up, with the network it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub interface: String,
    pub net: IpNet,
    pub loopback: bool,
}

pub(super) fn addresses() -> Vec<Address> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter(|entry| entry.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|entry| {
            let (address, mask) = (entry.address?, entry.netmask?);
            let net = match (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                (Some(address), Some(mask)) => IpNet::with_netmask(address.ip().into(), mask.ip().into()),
                _ => {
                    let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
                    IpNet::with_netmask(address.ip().into(), mask.ip().into())
                }
            };
            let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            Some(Address { interface: entry.interface_name, net: net.ok()?, loopback })
        })
        .collect()
}

/// Interfaces that are up, without the loopback, with or without an address.
pub(super) fn interfaces() -> Vec<String> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let up = all.filter(|entry| {
        entry.flags.contains(InterfaceFlags::IFF_UP) && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    });
    let mut names: Vec<String> = up.map(|entry| entry.interface_name).collect();
    names.sort();
    names.dedup();
    names
}

/// A file below `/proc/sys/net`, trimmed.
pub(super) fn setting(path: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/net/{path}")).ok().map(|text| text.trim().to_owned())
}

pub(super) fn number(path: &str) -> Option<u64> {
    setting(path)?.parse().ok()
}

/// A route of the main table with a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Via {
    pub interface: String,
    pub to: Ipv4Net,
    pub gateway: Ipv4Addr,
}

/// IPv4 routes that lead through a gateway (`/proc/net/route`: interface, destination, gateway, flags, ..., mask).
pub(super) fn gateways() -> Vec<Via> {
    std::fs::read_to_string("/proc/net/route").unwrap_or_default().lines().filter_map(via).collect()
}

fn via(line: &str) -> Option<Via> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = |place: usize| {
        let number = u32::from_str_radix(words.get(place)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let gateway = address(2).filter(|gateway| !gateway.is_unspecified())?;
    let to = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
    Some(Via { interface: (*words.first()?).to_owned(), to, gateway })
}

/// The gateway of the default route, where there is one.
pub(super) fn gateway() -> Option<IpAddr> {
    gateways().into_iter().find(|via| via.to.prefix_len() == 0).map(|via| via.gateway.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_route_table_is_read_with_its_gateway() {
        let line = "eth0\t00000000\t01014D0A\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        let found = via(line).unwrap();
        assert_eq!((found.gateway, found.to.prefix_len()), (Ipv4Addr::new(10, 77, 1, 1), 0));
        assert_eq!(via("eth0\t00014D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"), None, "on link");
        assert_eq!(via("Iface\tDestination\tGateway"), None);
    }

    #[test]
    fn the_loopback_has_an_address_and_is_no_way_out() {
        let all = addresses();
        assert!(
            all.iter().filter(|address| address.net.addr().is_loopback()).all(|address| address.loopback)
        );
        assert!(!interfaces().contains(&"lo".to_owned()));
    }
}
