//! What the two tables say, as data: sets, chains, and rules made of clauses.
//!
//! `text` prints this for people and `batch` for the kernel, so that both always say the same. The order of the rules
//! is the security of the gate; each one's reason stands beside it.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::pattern::Pattern;
use super::settings::Settings;

pub(super) const FENCE: &str = "outgate_fence";
pub(super) const REDIRECT: &str = "outgate_redirect";

/// What TPROXY gives the packets it takes, so that the routing rule of `marked` keeps them here. The word "ogat": the
/// whole mark is ours, since a workload's packet that is taken has no other use for it.
pub(super) const MARK: u32 = 0x6f67_6174;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub name: &'static str,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub name: &'static str,
    pub elements: Elements,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Elements {
    Interfaces(Vec<String>),
    V4(Vec<Ipv4Net>),
    V6(Vec<Ipv6Net>),
    Ports(Vec<u16>),
    /// Filled by the rules themselves, a source at a time.
    Sources {
        family: Family,
        /// After so many seconds without a packet a source is forgotten; without this, when nothing of it is counted.
        forget: Option<u64>,
    },
}

impl Elements {
    /// Does the kernel hold in it what was put there, and nothing else?
    pub fn are_fixed(&self) -> bool {
        !matches!(self, Self::Sources { .. })
    }
}

/// Sources that one such set remembers: all of an IPv4 /16. Another one is refused while it is full.
pub(super) const SOURCES: u32 = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    /// Counted by /64: who has one address of it has them all.
    V6,
}

#[derive(Clone, PartialEq, Eq)]
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
    /// filter, output, raw (-300)
    RawOutput,
    /// filter, prerouting, mangle (-150): behind connection tracking, before any redirect.
    ManglePrerouting,
    /// filter, forward, filter (0)
    Forward,
    /// filter, input, filter (0)
    Input,
    /// filter, output, filter (0)
    Output,
    /// nat, prerouting, dstnat - 10 (-110): before the tables of others (Docker's is at -100), since the first one that
    /// changes a destination is the only one.
    NatPrerouting,
    /// nat, output, -110: before the tables of others too, and before the filter, which so sees where a packet really
    /// goes
    NatOutput,
}

/// Of our chain that redirects. A foreign one at this or before it would take connections away from it.
pub(super) const NAT_PRIORITY: i32 = -110;

#[derive(Default, Clone, PartialEq, Eq)]
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
    From(Pattern),
    To(Pattern),
    ToAgents,
    ToLoopback4,
    ToSet4(&'static str),
    ToSet6(&'static str),
    ToNetwork4,
    ToNetwork6,
    FromUplink,
    NotToUplink,
    /// In by, out by a bridge device, whatever its name.
    FromBridge,
    ToBridge,
    /// The route to the destination does not lead through this interface; local addresses have no route at all.
    RoutedElsewhere(Interface),
    /// The destination is an address of this very namespace.
    ToHere,
    /// Sent by a process of this user.
    FromUser(u32),
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
    TcpSourcePortIn(&'static str),
    /// The first packet of a TCP connection, by its flags.
    Syn,
    /// Counts the packet for its source; true when that is more than so many a second.
    Faster {
        than: u32,
        family: Family,
        set: &'static str,
    },
    /// Counts the connection for its source; true when that has more than so many.
    More {
        than: u32,
        family: Family,
        set: &'static str,
    },
    /// The source is not in a set that counts: there was no room for it.
    Uncounted {
        family: Family,
        set: &'static str,
    },
    New,
    Untracked,
    /// There is a connection of a transparent socket that this packet belongs to; a mere listener does not count.
    OfTransparentConnection,
    OfTransparentSocket,
    Marked,
    Mark,
    TproxyTo(u16),
    /// Connection tracking says that a NAT rule changed the destination.
    Redirected,
    NotRedirected,
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

/// An interface's name as the kernel compares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interface(pub [u8; 16]);

impl Interface {
    /// Validated names fit with their closing zero.
    pub(super) fn new(name: &str) -> Self {
        let mut padded = [0; 16];
        padded.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
        Self(padded)
    }
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
const FLOWS: [(Family, &str); 2] = [(Family::V4, "flows4"), (Family::V6, "flows6")];
const SYNS: [(Family, &str); 2] = [(Family::V4, "syns4"), (Family::V6, "syns6")];
const EXPLICIT: &str = "explicit_ports";
pub(super) const TAKEN: &str = "redirect_ports";
pub(super) const UPLINK: &str = "uplink";

/// Echo requests a second that the gate answers; more would make it a tool for floods.
const ECHO_PER_SECOND: u64 = 20;

/// A source that opens nothing for so long starts anew, with its whole burst.
const SYNS_FORGOTTEN_AFTER: u64 = 10;

/// What can never leave.
pub(super) fn fence(settings: &Settings) -> Table {
    let mut sets = agent_sets(settings);
    let sources = |(family, name), forget| Set { name, elements: Elements::Sources { family, forget } };
    sets.extend(SYNS.map(|set| sources(set, Some(SYNS_FORGOTTEN_AFTER))));
    sets.extend(FLOWS.map(|set| sources(set, None)));
    if !settings.explicit_ports.is_empty() {
        sets.push(Set { name: EXPLICIT, elements: Elements::Ports(sorted(&settings.explicit_ports)) });
    }
    let chains = vec![
        Chain { name: "raw_pre", base: Base::RawPrerouting, rules: before_routing(settings) },
        Chain { name: "cap", base: Base::ManglePrerouting, rules: capped(settings) },
        Chain { name: "forw", base: Base::Forward, rules: forwarded() },
        Chain { name: "inp", base: Base::Input, rules: input(settings) },
    ];
    Table { name: FENCE, sets, chains }
}

fn before_routing(settings: &Settings) -> Vec<Rule> {
    let neighbour = Some("LAN neighbour to agents or host-only addresses");
    let mut rules = vec![
        // The kernel's fib matcher lets DHCP discovery and duplicate address detection pass by itself.
        commented(&[FromAgents, SourceElsewhere, Counter, Drop], Some("source not behind this interface")),
        // Linux answers for any of its addresses on any interface, so binding to the host-only address is no fence.
        commented(&[NotFromAgents, NotFromLoopback, ToNetwork4, Counter, Drop], neighbour),
        commented(&[NotFromAgents, NotFromLoopback, ToNetwork6, Counter, Drop], neighbour),
    ];
    // Here, so that a flood costs no entry of connection tracking.
    for (family, set) in SYNS {
        let faster = Faster { than: settings.syns_per_second, family, set };
        rules.push(commented(&[FromAgents, Syn, faster, Counter, Drop], Some("opens connections too fast")));
        rules.push(commented(&[FromAgents, Syn, Uncounted { family, set }, Counter, Drop], FULL));
    }
    rules
}

const FULL: Option<&str> = Some("no room to count another source");

/// The connections of a source, a last bound behind that of the daemon, which can say why.
fn capped(settings: &Settings) -> Vec<Rule> {
    let mut rules = vec![rule(&[NotFromAgents, Return])];
    for (family, set) in FLOWS {
        let more = More { than: settings.flows_per_source, family, set };
        let new = [Carries(Proto::Tcp), New];
        rules.push(commented(&[&new[..], &[more, Counter, Reset]].concat(), Some("too many connections")));
        rules.push(commented(&[&new[..], &[Uncounted { family, set }, Counter, Drop]].concat(), FULL));
    }
    rules
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
    if settings.tproxy_port().is_some() {
        // Their destination is a foreign address: what the next rule drops else.
        rules.push(commented(&[Marked, OfTransparentSocket, Accept], Some("only what TPROXY took")));
    }
    let not = |address| ToType { is: false, address };
    rules.push(commented(
        &[not(AddressType::Local), not(AddressType::Broadcast), not(AddressType::Multicast), Counter, Drop],
        Some("an address of the gate on another interface"),
    ));
    if let Some(port) = settings.redirect_port() {
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
    if settings.transparent_port.is_some() {
        sets.push(Set { name: TAKEN, elements: Elements::Ports(sorted(&settings.redirect_tcp_ports)) });
    }
    if let Some(port) = settings.redirect_port() {
        rules.push(rule(&[TcpPortIn(TAKEN), RedirectTo(port)]));
    }
    if let Some(port) = settings.quic_port {
        rules.push(rule(&[UdpPort(443), RedirectTo(port)]));
    }
    let mut chains = vec![Chain { name: "pre", base: Base::NatPrerouting, rules }];
    chains.extend(settings.tproxy_port().into_iter().flat_map(tproxy));
    Table { name: REDIRECT, sets, chains }
}

/// Gives packets to the door as they are. Without a listener the last rule breaks off before its mark, and the packet
/// would go its way: it is the fence, made in the same batch, that then refuses it.
fn tproxy(port: u16) -> [Chain; 3] {
    let taken = vec![
        rule(&[NotFromAgents, Return]),
        rule(&[ToNetwork4, Return]),
        rule(&[ToNetwork6, Return]),
        // Of a connection that is served, its ICMP errors too, whatever has become of its port.
        rule(&[OfTransparentConnection, Mark, Accept]),
        rule(&[TcpPortIn(TAKEN), TproxyTo(port), Mark, Accept]),
    ];
    // Nothing is translated, so nothing need be tracked, in either direction.
    let untracked_in = vec![
        rule(&[FromAgents, ToNetwork4, Return]),
        rule(&[FromAgents, ToNetwork6, Return]),
        rule(&[FromAgents, TcpPortIn(TAKEN), Untracked]),
    ];
    let untracked_out = vec![rule(&[ToAgents, TcpSourcePortIn(TAKEN), Untracked])];
    [
        Chain { name: "untracked_in", base: Base::RawPrerouting, rules: untracked_in },
        Chain { name: "untracked_out", base: Base::RawOutput, rules: untracked_out },
        Chain { name: "taken", base: Base::ManglePrerouting, rules: taken },
    ]
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

pub(super) fn sorted(ports: &[u16]) -> Vec<u16> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports
}

pub(super) fn rule(clauses: &[Clause]) -> Rule {
    commented(clauses, None)
}

pub(super) fn commented(clauses: &[Clause], comment: Option<&'static str>) -> Rule {
    Rule { clauses: clauses.to_vec(), comment }
}
