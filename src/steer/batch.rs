//! The tables as one netlink batch: the kernel takes all of it or nothing.
//!
//! The bytecode is the same that nft makes from `text`; a golden test compares them. Nothing is sent here.

use std::ffi::CString;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Conntrack, Counter, IcmpCode, Icmpv6HeaderField, Immediate, Ipv4HeaderField,
    Ipv6HeaderField, Meta, NetworkHeaderField, Payload, Register, RejectionType, TcpHeaderField,
    TransportHeaderField, UdpHeaderField, Verdict,
};
use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::set::{Set as NftSet, SetKey};
use nftnl::{
    Batch, Chain as NftChain, ChainType, FinalizedBatch, Hook, MsgType, Policy, ProtoFamily, Rule as NftRule,
};

use super::raw::{Fields, FlaggedTable, Value, add_bound, make_interval, tell_host_order};
use super::rules::{self, AddressType, Base, Chain, Clause, Elements, Icmp, Proto, Rule, Set, Table};

/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`: only our socket may change it, and it stays when we die (Linux 6.9).
pub(super) const OWNER_PERSIST: u32 = 0x2 | 0x4;

/// A batch and what each of its messages was, so that the kernel's answer can be told in words.
pub(super) struct Transaction {
    pub batch: FinalizedBatch,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    DeleteTable(&'static str),
    Table(&'static str),
    Set { table: &'static str, set: &'static str },
    Chain { table: &'static str, chain: &'static str },
    Rule { table: &'static str, chain: &'static str, number: usize },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteTable(table) => write!(f, "deleting table {table}"),
            Self::Table(table) => write!(f, "table {table}"),
            Self::Set { table, set } => write!(f, "set {set} of table {table}"),
            Self::Chain { table, chain } => write!(f, "chain {chain} of table {table}"),
            Self::Rule { table, chain, number } => {
                write!(f, "rule {number} of chain {chain} of table {table}")
            }
        }
    }
}

/// Deletes the tables named in `old` and makes those of `new`, in one step.
pub(super) fn replace(old: &[&'static str], new: &[Table], flags: u32) -> Transaction {
    let mut batch = Batch::new();
    let mut steps = Vec::new();
    for &name in old {
        batch.add(&FlaggedTable::new(&c_string(name), 0), MsgType::Del);
        steps.push(Step::DeleteTable(name));
    }
    for table in new {
        batch.add(&FlaggedTable::new(&c_string(table.name), flags), MsgType::Add);
        steps.push(Step::Table(table.name));
        let nft = nftnl::Table::new(c_string(table.name), ProtoFamily::Inet);
        for (set, id) in table.sets.iter().zip(1..) {
            let added = add_set(&mut batch, &nft, set, id);
            steps.extend((0..added).map(|_| Step::Set { table: table.name, set: set.name }));
        }
        for chain in &table.chains {
            add_chain(&mut batch, &nft, chain);
            steps.push(Step::Chain { table: table.name, chain: chain.name });
            let rules = 1..=chain.rules.len();
            steps.extend(rules.map(|number| Step::Rule { table: table.name, chain: chain.name, number }));
        }
    }
    Transaction { batch: batch.finalize(), steps }
}

/// Names are our own words or validated interface names: no zero byte is ever cut off here.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

fn add_chain(batch: &mut Batch, table: &nftnl::Table, chain: &Chain) {
    let mut nft = NftChain::new(c_string(chain.name), table);
    let (kind, hook, priority) = match chain.base {
        Base::RawPrerouting => (ChainType::Filter, Hook::PreRouting, -300),
        Base::Forward => (ChainType::Filter, Hook::Forward, 0),
        Base::Input => (ChainType::Filter, Hook::In, 0),
        Base::NatPrerouting => (ChainType::Nat, Hook::PreRouting, -100),
    };
    nft.set_type(kind);
    nft.set_hook(hook, priority);
    nft.set_policy(Policy::Accept);
    batch.add(&nft, MsgType::Add);
    for rule in &chain.rules {
        batch.add(&nft_rule(&nft, rule), MsgType::Add);
    }
}

// Sets. The numbers of the key types are nft's own (`nft describe`); the kernel keeps them for listing.

struct Interface([u8; 16]);

impl Interface {
    fn new(name: &str) -> Self {
        let mut padded = [0; 16];
        padded.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
        Self(padded)
    }
}

impl SetKey for Interface {
    const TYPE: u32 = 41;
    const LEN: u32 = 16;

    fn data(&self) -> Box<[u8]> {
        self.0.into()
    }
}

struct Port(u16);

impl SetKey for Port {
    const TYPE: u32 = 13;
    const LEN: u32 = 2;

    fn data(&self) -> Box<[u8]> {
        self.0.to_be_bytes().into()
    }
}

/// Adds the set and its elements; gives the number of messages that took.
fn add_set(batch: &mut Batch, table: &nftnl::Table, set: &Set, id: u32) -> usize {
    match &set.elements {
        Elements::Interfaces(names) => {
            let keys: Vec<_> = names.iter().map(|name| Interface::new(name)).collect();
            let nft = new_set(table, set, id);
            tell_host_order(&nft);
            add_plain(batch, nft, &keys)
        }
        Elements::Ports(ports) => {
            let keys: Vec<_> = ports.iter().map(|&port| Port(port)).collect();
            add_plain(batch, new_set(table, set, id), &keys)
        }
        Elements::V4(nets) => {
            let ranges: Vec<_> = nets.iter().map(range4).collect();
            add_intervals(batch, new_set(table, set, id), Ipv4Addr::UNSPECIFIED, &ranges)
        }
        Elements::V6(nets) => {
            let ranges: Vec<_> = nets.iter().map(range6).collect();
            add_intervals(batch, new_set(table, set, id), Ipv6Addr::UNSPECIFIED, &ranges)
        }
    }
}

fn new_set<'a, K: SetKey>(table: &'a nftnl::Table, set: &Set, id: u32) -> NftSet<'a, K> {
    NftSet::new_named(&c_string(set.name), id, table, ProtoFamily::Inet)
}

fn add_plain<K: SetKey>(batch: &mut Batch, mut set: NftSet<'_, K>, keys: &[K]) -> usize {
    keys.iter().for_each(|key| set.add(key));
    add_with_elements(batch, &set)
}

/// First address, and the first one behind the network where there is one.
fn range4(net: &Ipv4Net) -> (Ipv4Addr, Option<Ipv4Addr>) {
    (net.network(), u32::from(net.broadcast()).checked_add(1).map(Ipv4Addr::from))
}

fn range6(net: &Ipv6Net) -> (Ipv6Addr, Option<Ipv6Addr>) {
    (net.network(), u128::from(net.broadcast()).checked_add(1).map(Ipv6Addr::from))
}

fn add_intervals<K: SetKey + PartialEq>(
    batch: &mut Batch,
    mut set: NftSet<'_, K>,
    zero: K,
    ranges: &[(K, Option<K>)],
) -> usize {
    make_interval(&mut set);
    // As nft does: what lies below the first interval is told to be outside.
    if ranges.first().is_some_and(|(first, _)| *first != zero) {
        add_bound(&mut set, &zero, true);
    }
    for (first, behind) in ranges {
        add_bound(&mut set, first, false);
        if let Some(behind) = behind {
            add_bound(&mut set, behind, true);
        }
    }
    add_with_elements(batch, &set)
}

fn add_with_elements<K>(batch: &mut Batch, set: &NftSet<'_, K>) -> usize {
    batch.add(set, MsgType::Add);
    let mut messages = 1;
    // An empty list would still make a message, which the kernel refuses.
    for part in set.elems_iter() {
        batch.add(&part, MsgType::Add);
        messages += 1;
    }
    messages
}

// Rules.

fn nft_rule<'a>(chain: &'a NftChain<'a>, rule: &Rule) -> NftRule<'a> {
    let mut nft = NftRule::new(chain);
    for clause in &rule.clauses {
        add_clause(&mut nft, *clause);
    }
    if let Some(comment) = rule.comment {
        // Ours are short; a comment that does not fit would only be missing.
        let _ = nft.set_comment(c_string(comment));
    }
    nft
}

fn add_clause(rule: &mut NftRule<'_>, clause: Clause) {
    match clause {
        Clause::FromAgents => in_set(rule, &Meta::IifName, rules::AGENT_IF, false),
        Clause::NotFromAgents => in_set(rule, &Meta::IifName, rules::AGENT_IF, true),
        Clause::ToAgents => in_set(rule, &Meta::OifName, rules::AGENT_IF, false),
        Clause::NotFromLoopback => {
            rule.add_expr(&Meta::IifName);
            rule.add_expr(&Cmp::new(CmpOp::Neq, Interface::new("lo").0.as_slice()));
        }
        Clause::ToNetwork4 => {
            family(rule, libc::NFPROTO_IPV4);
            let daddr = Payload::Network(NetworkHeaderField::Ipv4(Ipv4HeaderField::Daddr));
            in_set(rule, &daddr, rules::AGENT_NET4, false);
        }
        Clause::ToNetwork6 => {
            family(rule, libc::NFPROTO_IPV6);
            let daddr = Payload::Network(NetworkHeaderField::Ipv6(Ipv6HeaderField::Daddr));
            in_set(rule, &daddr, rules::AGENT_NET6, false);
        }
        Clause::SourceElsewhere => {
            fib(rule, FIB_RESULT_OIF, FIB_SADDR | FIB_IIF | FIB_PRESENT);
            rule.add_expr(&Cmp::new(CmpOp::Eq, 0u32));
        }
        Clause::ToType { is, address } => {
            fib(rule, FIB_RESULT_TYPE, FIB_DADDR | FIB_IIF);
            rule.add_expr(&Cmp::new(if is { CmpOp::Eq } else { CmpOp::Neq }, route_type(address)));
        }
        Clause::Carries(proto) => carries(rule, protocol(proto)),
        Clause::TcpPort(number) => port(rule, libc::IPPROTO_TCP, &TCP_PORT, number),
        Clause::UdpPort(number) => port(rule, libc::IPPROTO_UDP, &UDP_PORT, number),
        Clause::TcpPortIn(set) => {
            carries(rule, libc::IPPROTO_TCP);
            in_set(rule, &TCP_PORT, set, false);
        }
        Clause::IcmpType(icmp) => icmp_type(rule, icmp),
        // linux/netfilter/nf_conntrack_common.h: IPS_DST_NAT, and the state bits of NFT_CT_STATE.
        Clause::Redirected => conntrack(rule, &Conntrack::Status, 0x20),
        Clause::Established => conntrack(rule, &Conntrack::State, 0x2),
        Clause::Related => conntrack(rule, &Conntrack::State, 0x4),
        Clause::Reply => reply(rule),
        Clause::PerSecond(rate) => per_second(rule, rate),
        Clause::Counter => rule.add_expr(&Counter),
        Clause::Accept => rule.add_expr(&Verdict::Accept),
        Clause::Drop => rule.add_expr(&Verdict::Drop),
        Clause::Return => rule.add_expr(&Verdict::Return),
        Clause::Reset => rule.add_expr(&Verdict::Reject(RejectionType::TcpRst)),
        Clause::Prohibit => rule.add_expr(&Verdict::Reject(RejectionType::Icmp(IcmpCode::AdminProhibited))),
        Clause::RedirectTo(port) => redirect(rule, port),
    }
}

const REG1: Value<'static> = Value::U32(Register::Reg1 as u32);

fn in_set(rule: &mut NftRule<'_>, what: &impl nftnl::expr::Expression, set: &'static str, inverted: bool) {
    rule.add_expr(what);
    let flags = if inverted { libc::NFT_LOOKUP_F_INV as u32 } else { 0 };
    let values = &[
        (sys::NFTNL_EXPR_LOOKUP_SREG, REG1),
        (sys::NFTNL_EXPR_LOOKUP_SET, Value::Text(&c_string(set))),
        (sys::NFTNL_EXPR_LOOKUP_FLAGS, Value::U32(flags)),
    ];
    rule.add_expr(&Fields { name: c"lookup", values });
}

fn family(rule: &mut NftRule<'_>, family: libc::c_int) {
    rule.add_expr(&Meta::NfProto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, family as u8));
}

fn carries(rule: &mut NftRule<'_>, protocol: libc::c_int) {
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, protocol as u8));
}

fn protocol(proto: Proto) -> libc::c_int {
    match proto {
        Proto::Tcp => libc::IPPROTO_TCP,
        Proto::Icmp => libc::IPPROTO_ICMP,
        Proto::Icmpv6 => libc::IPPROTO_ICMPV6,
    }
}

const TCP_PORT: Payload = Payload::Transport(TransportHeaderField::Tcp(TcpHeaderField::Dport));
const UDP_PORT: Payload = Payload::Transport(TransportHeaderField::Udp(UdpHeaderField::Dport));

fn port(rule: &mut NftRule<'_>, protocol: libc::c_int, field: &Payload, port: u16) {
    carries(rule, protocol);
    rule.add_expr(field);
    rule.add_expr(&Cmp::new(CmpOp::Eq, port.to_be_bytes().as_slice()));
}

fn icmp_type(rule: &mut NftRule<'_>, icmp: Icmp) {
    // RFC 792, RFC 4443, RFC 4861.
    let (v6, number) = match icmp {
        Icmp::Echo4 => (false, 8u8),
        Icmp::Echo6 => (true, 128),
        Icmp::RouterSolicit => (true, 133),
        Icmp::NeighborSolicit => (true, 135),
        Icmp::NeighborAdvert => (true, 136),
    };
    family(rule, if v6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 });
    carries(rule, if v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP });
    // The type is the first byte of either protocol.
    rule.add_expr(&Payload::Transport(TransportHeaderField::Icmpv6(Icmpv6HeaderField::Type)));
    rule.add_expr(&Cmp::new(CmpOp::Eq, number));
}

/// Any of the bits of what connection tracking knows.
fn conntrack(rule: &mut NftRule<'_>, what: &Conntrack, bit: u32) {
    rule.add_expr(what);
    rule.add_expr(&Bitwise::new(bit, 0u32));
    rule.add_expr(&Cmp::new(CmpOp::Neq, 0u32));
}

fn reply(rule: &mut NftRule<'_>) {
    let key = Value::U32(libc::NFT_CT_DIRECTION as u32);
    let values = &[(sys::NFTNL_EXPR_CT_DREG, REG1), (sys::NFTNL_EXPR_CT_KEY, key)];
    rule.add_expr(&Fields { name: c"ct", values });
    // IP_CT_DIR_REPLY (linux/netfilter/nf_conntrack_tuple_common.h)
    rule.add_expr(&Cmp::new(CmpOp::Eq, 1u8));
}

// linux/netfilter/nf_tables.h: enum nft_fib_result, enum nft_fib_flags.
const FIB_RESULT_OIF: u32 = 1;
const FIB_RESULT_TYPE: u32 = 3;
const FIB_SADDR: u32 = 1 << 0;
const FIB_DADDR: u32 = 1 << 1;
const FIB_IIF: u32 = 1 << 3;
const FIB_PRESENT: u32 = 1 << 5;

fn fib(rule: &mut NftRule<'_>, result: u32, flags: u32) {
    let values = &[
        (sys::NFTNL_EXPR_FIB_DREG, REG1),
        (sys::NFTNL_EXPR_FIB_RESULT, Value::U32(result)),
        (sys::NFTNL_EXPR_FIB_FLAGS, Value::U32(flags)),
    ];
    rule.add_expr(&Fields { name: c"fib", values });
}

/// linux/rtnetlink.h: `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_MULTICAST`.
fn route_type(address: AddressType) -> u32 {
    match address {
        AddressType::Local => 2,
        AddressType::Broadcast => 3,
        AddressType::Multicast => 5,
    }
}

fn per_second(rule: &mut NftRule<'_>, rate: u64) {
    let values = &[
        (sys::NFTNL_EXPR_LIMIT_RATE, Value::U64(rate)),
        (sys::NFTNL_EXPR_LIMIT_UNIT, Value::U64(1)),
        // What nft writes where the text names no burst.
        (sys::NFTNL_EXPR_LIMIT_BURST, Value::U32(5)),
    ];
    rule.add_expr(&Fields { name: c"limit", values });
}

fn redirect(rule: &mut NftRule<'_>, port: u16) {
    rule.add_expr(&Immediate::new(port.to_be(), Register::Reg1));
    // NF_NAT_RANGE_PROTO_SPECIFIED (linux/netfilter/nf_nat.h)
    let values =
        &[(sys::NFTNL_EXPR_REDIR_REG_PROTO_MIN, REG1), (sys::NFTNL_EXPR_REDIR_FLAGS, Value::U32(0x2))];
    rule.add_expr(&Fields { name: c"redir", values });
}
