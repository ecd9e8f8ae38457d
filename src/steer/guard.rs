//! The guard of a container host: neighbours of the host reach what it publishes of its containers, and nothing else.
//!
//! A host that forwards for containers also forwards what a neighbour routes through it straight to them, past every
//! rule for incoming packets, ports published on 127.0.0.1 included. A table of its own, since it needs no gate:
//! `outgate fence guard` loads it on any host, and the daemon keeps it where `[steer] guard` names bridges.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::ifaddrs::getifaddrs;

use super::pattern::{self, Pattern};
use super::rules::{Base, Chain, Clause, Elements, Rule, Set, Table, commented, rule};
use super::settings::SettingsError;

pub(super) const GUARD: &str = "outgate_guard";

const HOST4: &str = "host4";
const HOST6: &str = "host6";

/// Which bridges are guarded, checked.
///
/// # Errors
/// None is named, or one that cannot be.
pub fn check(bridges: &[String]) -> Result<(), SettingsError> {
    let mut problems = Vec::new();
    pattern::check(bridges, &mut problems);
    if bridges.is_empty() {
        problems.push("name the bridges to guard, as docker0 and br-*".into());
    }
    if problems.is_empty() { Ok(()) } else { Err(SettingsError(problems)) }
}

/// As nft text. Valid names are the caller's duty.
pub fn render(bridges: &[String]) -> String {
    table(bridges, addresses(bridges)).to_string()
}

/// The table for these bridges and the addresses that the host has on them now.
pub(super) fn table(bridges: &[String], host: Vec<IpNet>) -> Table {
    use Clause::*;
    let patterns: Vec<Pattern> = bridges.iter().filter_map(|text| Pattern::parse(text)).collect();
    let from_inside = || patterns.iter().map(|&bridge| rule(&[From(bridge), Return]));
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in host {
        match net {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    let own = Some("the host on its own bridge");
    let mut before: Vec<Rule> = from_inside().collect();
    before.push(commented(&[NotFromLoopback, ToLoopback4, Counter, Drop], Some("route_localnet")));
    before.push(commented(&[NotFromLoopback, ToSet4(HOST4), Counter, Drop], own));
    before.push(commented(&[NotFromLoopback, ToSet6(HOST6), Counter, Drop], own));
    let mut forward: Vec<Rule> = from_inside().collect();
    forward.push(commented(&[Reply, Return], Some("answers to what a container asked")));
    forward.push(commented(&[Redirected, Return], Some("a published port")));
    forward.extend(patterns.iter().map(|&bridge| rule(&[To(bridge), Counter, Drop])));
    Table {
        name: GUARD,
        sets: vec![
            Set { name: HOST4, elements: Elements::V4(Ipv4Net::aggregate(&v4)) },
            Set { name: HOST6, elements: Elements::V6(Ipv6Net::aggregate(&v6)) },
        ],
        chains: vec![
            Chain { name: "raw_pre", base: Base::RawPrerouting, rules: before },
            Chain { name: "forw", base: Base::Forward, rules: forward },
        ],
    }
}

/// What the host itself is called on these bridges; link-local addresses, which nobody can route to, left out.
pub(super) fn addresses(bridges: &[String]) -> Vec<IpNet> {
    let patterns: Vec<Pattern> = bridges.iter().filter_map(|text| Pattern::parse(text)).collect();
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let ours = all.filter(|entry| patterns.iter().any(|bridge| bridge.fits(&entry.interface_name)));
    let mut found: Vec<IpNet> = ours
        .filter_map(|entry| {
            let storage = entry.address?;
            let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or(storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .map(IpNet::from)
        .collect();
    found.sort();
    found.dedup();
    found
}
