//! The tables as plain nft text, for an operator to read, review or load himself (`outgate fence show`).
//!
//! The daemon never loads this text; a golden test keeps it equal to what `batch` sends.

use std::fmt::{self, Display, Write};

use super::rules::{self, AddressType, Base, Clause, Elements, Icmp, Proto, Rule, Set, Table};
use super::settings::Settings;

/// Both tables, as a file that `nft -f` takes. Valid settings are the caller's duty.
pub fn render(settings: &Settings) -> String {
    format!("{}\n{}", rules::fence(settings), rules::redirect(settings))
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
                Base::Forward => ("filter", "forward", "filter"),
                Base::Input => ("filter", "input", "filter"),
                Base::NatPrerouting => ("nat", "prerouting", "dstnat"),
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
        let (kind, interval, elements) = match &self.elements {
            Elements::Interfaces(names) => ("ifname", false, list(names.iter().map(|n| format!("{n:?}")))),
            Elements::V4(nets) => ("ipv4_addr", true, list(nets)),
            Elements::V6(nets) => ("ipv6_addr", true, list(nets)),
            Elements::Ports(ports) => ("inet_service", false, list(ports)),
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
            Self::SourceElsewhere => f.write_str("fib saddr . iif oif missing"),
            Self::ToType { is, address } => {
                let not = if *is { "" } else { "!= " };
                write!(f, "fib daddr . iif type {not}{}", address_type(*address))
            }
            Self::Carries(proto) => write!(f, "meta l4proto {}", protocol(*proto)),
            Self::TcpPort(port) => write!(f, "tcp dport {port}"),
            Self::UdpPort(port) => write!(f, "udp dport {port}"),
            Self::TcpPortIn(set) => write!(f, "tcp dport @{set}"),
            Self::Redirected => f.write_str("ct status dnat"),
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
