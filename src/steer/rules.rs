//! What the two tables say, as data: sets, chains, and rules made of clauses.
//!
//! `text` prints this for people and `batch` for the kernel, so that both always say the same. The order of the rules
//! is the security of the gate; each one's reason stands beside it.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::settings::Settings;

pub(super) const FENCE: &str = "outgate_fence";
pub(super) const REDIRECT: &str = "outgate_redirect";

pub(super) struct Table {
    pub name: &'static str,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

pub(super) struct Set {
    pub name: &'static str,
    pub elements: Elements,
}

pub(super) enum Elements {
    Interfaces(Vec<String>),
    V4(Vec<Ipv4Net>),
    V6(Vec<Ipv6Net>),
    Ports(Vec<u16>),
}

pub(super) struct Chain {
    pub name: &'static str,
    pub base: Base,
    pub rules: Vec<Rule>,
}

/// Where a chain hangs: its type, hook and priority (linux/netfilter_ipv4.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// filter, prerouting, raw (-300): before connection tracking and before any redirect.
    RawPrerouting,
    /// filter, forward, filter (0)
    Forward,
    /// filter, input, filter (0)
    Input,
    /// nat, prerouting, dstnat (-100)
    NatPrerouting,
}

#[derive(Default)]
pub(super) struct Rule {
    pub clauses: Vec<Clause>,
    pub comment: Option<&'static str>,
}

/// One matcher or statement of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clause {
    FromAgents,
    NotFromAgents,
    NotFromLoopback,
    ToAgents,
    ToNetwork4,
    ToNetwork6,
    /// No route to the source through the interface it came in on: strict reverse path.
    SourceElsewhere,
    /// The destination is (not) of this type on the very interface the packet came in on.
    ToType {
        is: bool,
        address: AddressType,
    },
    Carries(Proto),
    TcpPort(u16),
    UdpPort(u16),
    TcpPortIn(&'static str),
    /// Connection tracking says that a NAT rule changed the destination.
    Redirected,
    Reply,
    Established,
    Related,
    IcmpType(Icmp),
    PerSecond(u64),
    Counter,
    Accept,
    Drop,
    Return,
    Reset,
    Prohibit,
    RedirectTo(u16),
}

/// Address types of the routing table (linux/rtnetlink.h, `RTN_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressType {
    Local,
    Broadcast,
    Multicast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proto {
    Tcp,
    Icmp,
    Icmpv6,
}

/// ICMP messages that the gate itself answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Icmp {
    Echo4,
    Echo6,
    RouterSolicit,
    NeighborSolicit,
    NeighborAdvert,
}

use Clause::*;

pub(super) const AGENT_IF: &str = "agent_if";
pub(super) const AGENT_NET4: &str = "agent_net4";
pub(super) const AGENT_NET6: &str = "agent_net6";
const EXPLICIT: &str = "explicit_ports";
const TAKEN: &str = "redirect_ports";

/// Echo requests a second that the gate answers; more would make it a tool for floods.
const ECHO_PER_SECOND: u64 = 20;

/// What can never leave.
pub(super) fn fence(settings: &Settings) -> Table {
    let mut sets = agent_sets(settings);
    if !settings.explicit_ports.is_empty() {
        sets.push(Set { name: EXPLICIT, elements: Elements::Ports(sorted(&settings.explicit_ports)) });
    }
    let chains = vec![
        Chain { name: "raw_pre", base: Base::RawPrerouting, rules: before_routing() },
        Chain { name: "forw", base: Base::Forward, rules: forwarded() },
        Chain { name: "inp", base: Base::Input, rules: input(settings) },
    ];
    Table { name: FENCE, sets, chains }
}

fn before_routing() -> Vec<Rule> {
    let neighbour = Some("LAN neighbour to agents or host-only addresses");
    vec![
        // The kernel's fib matcher lets DHCP discovery and duplicate address detection pass by itself.
        commented(&[FromAgents, SourceElsewhere, Counter, Drop], Some("source not behind this interface")),
        // Linux answers for any of its addresses on any interface, so binding to the host-only address is no fence.
        commented(&[NotFromAgents, NotFromLoopback, ToNetwork4, Counter, Drop], neighbour),
        commented(&[NotFromAgents, NotFromLoopback, ToNetwork6, Counter, Drop], neighbour),
    ]
}

/// On purpose without an `established accept`: a flow that was open before the fence must not go on.
fn forwarded() -> Vec<Rule> {
    vec![
        rule(&[FromAgents, Carries(Proto::Tcp), Counter, Reset]),
        rule(&[FromAgents, Counter, Prohibit]),
        rule(&[ToAgents, Counter, Drop]),
    ]
}

fn input(settings: &Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    // A door on a wildcard address must not open on the uplink.
    if let Some(port) = settings.transparent_port {
        rules.push(rule(&[NotFromAgents, NotFromLoopback, TcpPort(port), Counter, Reset]));
    }
    if let Some(port) = settings.quic_port {
        rules.push(rule(&[NotFromAgents, NotFromLoopback, UdpPort(port), Counter, Drop]));
    }
    rules.push(rule(&[NotFromAgents, Accept]));
    let not = |address| ToType { is: false, address };
    rules.push(commented(
        &[not(AddressType::Local), not(AddressType::Broadcast), not(AddressType::Multicast), Counter, Drop],
        Some("an address of the gate on another interface"),
    ));
    if let Some(port) = settings.transparent_port {
        rules.push(commented(&[Redirected, TcpPort(port), Accept], Some("only what the redirect sent")));
    }
    if let Some(port) = settings.quic_port {
        rules.push(rule(&[Redirected, UdpPort(port), Accept]));
    }
    if let Some(port) = settings.dns_port {
        rules.push(rule(&[UdpPort(port), Accept]));
        rules.push(rule(&[TcpPort(port), Accept]));
    }
    if !settings.explicit_ports.is_empty() {
        rules.push(rule(&[TcpPortIn(EXPLICIT), Accept]));
    }
    for echo in [Icmp::Echo4, Icmp::Echo6] {
        rules.push(rule(&[IcmpType(echo), PerSecond(ECHO_PER_SECOND), Accept]));
        // Else the second echo of a ping would be an established flow and know no limit.
        rules.push(rule(&[IcmpType(echo), Counter, Drop]));
    }
    for neighbour in [Icmp::NeighborSolicit, Icmp::NeighborAdvert, Icmp::RouterSolicit] {
        rules.push(rule(&[IcmpType(neighbour), Accept]));
    }
    // Answers to flows of the gate itself, and errors (path MTU) about flows it has. Input only, never forwarded.
    rules.push(rule(&[Reply, Established, Accept]));
    rules.push(rule(&[Carries(Proto::Icmp), Related, Accept]));
    rules.push(rule(&[Carries(Proto::Icmpv6), Related, Accept]));
    rules.push(rule(&[Carries(Proto::Tcp), Counter, Reset]));
    rules.push(rule(&[Counter, Prohibit]));
    rules
}

/// What is handed to the daemon. A dead listener behind it answers with a reset.
pub(super) fn redirect(settings: &Settings) -> Table {
    let mut sets = agent_sets(settings);
    let mut rules = vec![rule(&[NotFromAgents, Return])];
    let local = ToType { is: true, address: AddressType::Local };
    if let Some(port) = settings.dns_port {
        // To the gate's own address, whatever port the door really has.
        rules.push(rule(&[local, UdpPort(53), RedirectTo(port)]));
        rules.push(rule(&[local, TcpPort(53), RedirectTo(port)]));
    }
    // Siblings on one bridge come past here where br_netfilter is on; they are not ours to take.
    rules.push(rule(&[ToNetwork4, Return]));
    rules.push(rule(&[ToNetwork6, Return]));
    if let Some(port) = settings.dns_port {
        rules.push(rule(&[UdpPort(53), RedirectTo(port)]));
        rules.push(rule(&[TcpPort(53), RedirectTo(port)]));
    }
    if let Some(port) = settings.transparent_port {
        sets.push(Set { name: TAKEN, elements: Elements::Ports(sorted(&settings.redirect_tcp_ports)) });
        rules.push(rule(&[TcpPortIn(TAKEN), RedirectTo(port)]));
    }
    if let Some(port) = settings.quic_port {
        rules.push(rule(&[UdpPort(443), RedirectTo(port)]));
    }
    Table { name: REDIRECT, sets, chains: vec![Chain { name: "pre", base: Base::NatPrerouting, rules }] }
}

fn agent_sets(settings: &Settings) -> Vec<Set> {
    let mut interfaces = settings.interfaces.clone();
    interfaces.sort();
    interfaces.dedup();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in &settings.networks {
        match net.trunc() {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    // An interval set refuses overlaps.
    let (v4, v6) = (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6));
    vec![
        Set { name: AGENT_IF, elements: Elements::Interfaces(interfaces) },
        Set { name: AGENT_NET4, elements: Elements::V4(v4) },
        Set { name: AGENT_NET6, elements: Elements::V6(v6) },
    ]
}

fn sorted(ports: &[u16]) -> Vec<u16> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn rule(clauses: &[Clause]) -> Rule {
    commented(clauses, None)
}

fn commented(clauses: &[Clause], comment: Option<&'static str>) -> Rule {
    Rule { clauses: clauses.to_vec(), comment }
}
