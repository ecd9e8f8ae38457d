//! The tables as plain nft text, for an operator to read, review or load himself (`outgate fence show`).
//!
//! The daemon never loads this text; a golden test keeps it equal to what `batch` sends.

use std::fmt::{self, Display, Write};

use super::marked;
use super::rules::{self, AddressType, Base, Clause, Elements, Family, Icmp, Proto, Rule, Set, Table};
use super::settings::Settings;

/// All tables of the gate, as a file that `nft -f` takes. Valid settings are the caller's duty.
pub fn render(settings: &Settings) -> String {
    let tables: Vec<String> = super::tables::wanted(settings).iter().map(ToString::to_string).collect();
    let routes = if settings.tproxy_port().is_some() { marked::WORDS } else { "" };
    tables.join("\n") + routes
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for set in &self.sets {
            writeln!(f, "{set}")?;
        }
        for (i, chain) in self.chains.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n" };
            let (kind, hook, priority) = match chain.base {
                Base::RawPrerouting => ("filter", "prerouting", "raw"),
                Base::RawOutput => ("filter", "output", "raw"),
                Base::ManglePrerouting => ("filter", "prerouting", "mangle"),
                Base::Forward => ("filter", "forward", "filter"),
                Base::Input => ("filter", "input", "filter"),
                Base::Output => ("filter", "output", "filter"),
                Base::NatPrerouting => ("nat", "prerouting", "dstnat - 10"),
                Base::NatOutput => ("nat", "output", "-110"),
            };
            writeln!(f, "{gap}\tchain {} {{", chain.name)?;
            writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Elements::Sources { family, forget } = &self.elements {
            let kind = if *family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
            writeln!(f, "\tset {} {{\n\t\ttype {kind}\n\t\tsize {}", self.name, rules::SOURCES)?;
            return match forget {
                Some(seconds) => writeln!(f, "\t\tflags dynamic,timeout\n\t\ttimeout {seconds}s\n\t}}"),
                None => writeln!(f, "\t\tflags dynamic\n\t}}"),
            };
        }
        let (kind, interval, elements) = match &self.elements {
            Elements::Interfaces(names) => ("ifname", false, list(names.iter().map(|n| format!("{n:?}")))),
            Elements::V4(nets) => ("ipv4_addr", true, list(nets)),
            Elements::V6(nets) => ("ipv6_addr", true, list(nets)),
            Elements::Ports(ports) => ("inet_service", false, list(ports)),
            Elements::Sources { .. } => return Ok(()),
        };
        writeln!(f, "\tset {} {{", self.name)?;
        writeln!(f, "\t\ttype {kind}")?;
        if interval {
            writeln!(f, "\t\tflags interval")?;
        }
        if !elements.is_empty() {
            writeln!(f, "\t\telements = {{ {elements} }}")?;
        }
        writeln!(f, "\t}}")
    }
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let mut out = String::new();
    for item in items {
        let gap = if out.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(out, "{gap}{item}");
    }
    out
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, clause) in self.clauses.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}{clause}")?;
        }
        match self.comment {
            Some(comment) => write!(f, " comment \"{comment}\""),
            None => Ok(()),
        }
    }
}

impl Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromAgents => write!(f, "iifname @{}", rules::AGENT_IF),
            Self::NotFromAgents => write!(f, "iifname != @{}", rules::AGENT_IF),
            Self::NotFromLoopback => f.write_str("iifname != \"lo\""),
            Self::ToAgents => write!(f, "oifname @{}", rules::AGENT_IF),
            Self::ToNetwork4 => write!(f, "ip daddr @{}", rules::AGENT_NET4),
            Self::ToNetwork6 => write!(f, "ip6 daddr @{}", rules::AGENT_NET6),
            Self::FromUplink => write!(f, "iifname @{}", rules::UPLINK),
            Self::FromBridge => f.write_str("meta iifkind \"bridge\""),
            Self::ToBridge => f.write_str("meta oifkind \"bridge\""),
            Self::NotToUplink => write!(f, "oifname != @{}", rules::UPLINK),
            Self::RoutedElsewhere(uplink) => {
                let name = String::from_utf8_lossy(&uplink.0);
                write!(f, "fib daddr oifname != \"{}\"", name.trim_end_matches('\0'))
            }
            Self::ToHere => f.write_str("fib daddr type local"),
            Self::FromUser(uid) => write!(f, "meta skuid {uid}"),
            Self::SourceElsewhere => f.write_str("fib saddr . iif oif missing"),
            Self::ToType { is, address } => {
                let not = if *is { "" } else { "!= " };
                write!(f, "fib daddr . iif type {not}{}", address_type(*address))
            }
            Self::Carries(proto) => write!(f, "meta l4proto {}", protocol(*proto)),
            Self::TcpPort(port) => write!(f, "tcp dport {port}"),
            Self::UdpPort(port) => write!(f, "udp dport {port}"),
            Self::TcpPortIn(set) => write!(f, "tcp dport @{set}"),
            Self::From(pattern) => write!(f, "iifname {pattern}"),
            Self::To(pattern) => write!(f, "oifname {pattern}"),
            Self::ToLoopback4 => f.write_str("ip daddr 127.0.0.0/8"),
            Self::ToSet4(set) => write!(f, "ip daddr @{set}"),
            Self::ToSet6(set) => write!(f, "ip6 daddr @{set}"),
            Self::TcpSourcePortIn(set) => write!(f, "tcp sport @{set}"),
            Self::Syn => f.write_str("tcp flags & (fin | syn | rst | ack) == syn"),
            Self::Faster { than, family, set } => {
                let (source, burst) = (source(*family), than.saturating_mul(2));
                write!(f, "update @{set} {{ {source} limit rate over {than}/second burst {burst} packets }}")
            }
            Self::More { than, family, set } => {
                write!(f, "add @{set} {{ {} ct count over {than} }}", source(*family))
            }
            Self::Uncounted { family, set } => write!(f, "{} != @{set}", source(*family)),
            Self::New => f.write_str("ct state new"),
            Self::Untracked => f.write_str("notrack"),
            Self::OfTransparentConnection => f.write_str("socket transparent 1 socket wildcard 0"),
            Self::OfTransparentSocket => f.write_str("socket transparent 1"),
            Self::Marked => write!(f, "meta mark {:#x}", rules::MARK),
            Self::Mark => write!(f, "meta mark set {:#x}", rules::MARK),
            Self::TproxyTo(port) => write!(f, "tproxy to :{port}"),
            Self::Redirected => f.write_str("ct status dnat"),
            Self::NotRedirected => f.write_str("ct status & dnat == 0"),
            Self::Reply => f.write_str("ct direction reply"),
            Self::Established => f.write_str("ct state established"),
            Self::Related => f.write_str("ct state related"),
            Self::IcmpType(icmp) => f.write_str(icmp_type(*icmp)),
            Self::PerSecond(rate) => write!(f, "limit rate {rate}/second"),
            Self::Counter => f.write_str("counter"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Reset => f.write_str("reject with tcp reset"),
            Self::Prohibit => f.write_str("reject with icmpx admin-prohibited"),
            Self::RedirectTo(port) => write!(f, "redirect to :{port}"),
        }
    }
}

fn source(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip saddr",
        Family::V6 => "ip6 saddr & ffff:ffff:ffff:ffff::",
    }
}

fn address_type(address: AddressType) -> &'static str {
    match address {
        AddressType::Local => "local",
        AddressType::Broadcast => "broadcast",
        AddressType::Multicast => "multicast",
    }
}

fn protocol(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Icmp => "icmp",
        Proto::Icmpv6 => "ipv6-icmp",
    }
}

fn icmp_type(icmp: Icmp) -> &'static str {
    match icmp {
        Icmp::Echo4 => "icmp type echo-request",
        Icmp::Echo6 => "icmpv6 type echo-request",
        Icmp::RouterSolicit => "icmpv6 type nd-router-solicit",
        Icmp::NeighborSolicit => "icmpv6 type nd-neighbor-solicit",
        Icmp::NeighborAdvert => "icmpv6 type nd-neighbor-advert",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::settings::tests::example;

    #[test]
    fn the_forward_chain_accepts_nothing_and_knows_no_established_flow() {
        let text = rules::fence(&example()).to_string();
        let forward = text.split("chain forw").nth(1).unwrap().split('}').next().unwrap();
        assert!(!forward.contains(" accept\n") && !forward.contains("established"), "{forward}");
    }

    #[test]
    fn doors_that_are_closed_are_not_in_the_text() {
        let closed = Settings {
            transparent_port: None,
            dns_port: None,
            explicit_ports: vec![],
            redirect_tcp_ports: vec![],
            quic_port: None,
            ..example()
        };
        let text = render(&closed);
        assert!(!text.contains("dport") && !text.contains("redirect to"), "{text}");
    }

    #[test]
    fn overlapping_networks_become_one() {
        let settings = Settings {
            networks: vec!["10.77.0.0/16".parse().unwrap(), "10.77.1.7/24".parse().unwrap()],
            ..example()
        };
        assert!(render(&settings).contains("elements = { 10.77.0.0/16 }"));
    }
}
