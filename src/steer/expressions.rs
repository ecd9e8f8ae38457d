//! Each clause of a rule as the expressions that the kernel runs, the same that nft makes of it.
//!
//! Called by `batch` alone; the golden tests compare both.

use std::net::Ipv6Addr;

use nftnl::Rule as NftRule;
use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Conntrack, Counter, IcmpCode, Icmpv6HeaderField, Immediate, Ipv4HeaderField,
    Ipv6HeaderField, Meta, NetworkHeaderField, Payload, Register, RejectionType, Socket, SocketKey,
    TcpHeaderField, TransportHeaderField, UdpHeaderField, Verdict,
};
use nftnl::nftnl_sys::{self as sys, libc};

use super::batch::c_string;
use super::raw::{Fields, Value};
use super::rules::{self, AddressType, Clause, Family, Icmp, Interface, Proto};

pub(super) fn add_clause(rule: &mut NftRule<'_>, clause: Clause) {
    match clause {
        Clause::FromAgents => in_set(rule, &Meta::IifName, rules::AGENT_IF, false),
        Clause::NotFromAgents => in_set(rule, &Meta::IifName, rules::AGENT_IF, true),
        Clause::ToAgents => in_set(rule, &Meta::OifName, rules::AGENT_IF, false),
        Clause::NotFromLoopback => {
            rule.add_expr(&Meta::IifName);
            rule.add_expr(&Cmp::new(CmpOp::Neq, Interface::new("lo").0.as_slice()));
        }
        Clause::From(pattern) => {
            rule.add_expr(&Meta::IifName);
            rule.add_expr(&Cmp::new(CmpOp::Eq, pattern.bytes()));
        }
        Clause::To(pattern) => {
            rule.add_expr(&Meta::OifName);
            rule.add_expr(&Cmp::new(CmpOp::Eq, pattern.bytes()));
        }
        Clause::ToLoopback4 => {
            family(rule, libc::NFPROTO_IPV4);
            // Of 127.0.0.0/8 the first byte is all.
            payload(rule, libc::NFT_PAYLOAD_NETWORK_HEADER, 16);
            rule.add_expr(&Cmp::new(CmpOp::Eq, 127u8));
        }
        Clause::ToNetwork4 => to_set(rule, Family::V4, rules::AGENT_NET4),
        Clause::ToNetwork6 => to_set(rule, Family::V6, rules::AGENT_NET6),
        Clause::ToSet4(set) => to_set(rule, Family::V4, set),
        Clause::ToSet6(set) => to_set(rule, Family::V6, set),
        Clause::FromUplink => in_set(rule, &Meta::IifName, rules::UPLINK, false),
        Clause::NotToUplink => in_set(rule, &Meta::OifName, rules::UPLINK, true),
        Clause::FromBridge => of_kind(rule, META_IIFKIND),
        Clause::ToBridge => of_kind(rule, META_OIFKIND),
        Clause::RoutedElsewhere(uplink) => {
            fib(rule, FIB_RESULT_OIFNAME, FIB_DADDR);
            rule.add_expr(&Cmp::new(CmpOp::Neq, uplink.0.as_slice()));
        }
        Clause::ToHere => {
            fib(rule, FIB_RESULT_TYPE, FIB_DADDR);
            rule.add_expr(&Cmp::new(CmpOp::Eq, route_type(AddressType::Local)));
        }
        Clause::FromUser(uid) => {
            rule.add_expr(&Meta::SkUid);
            rule.add_expr(&Cmp::new(CmpOp::Eq, uid));
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
        Clause::TcpSourcePortIn(set) => {
            carries(rule, libc::IPPROTO_TCP);
            in_set(rule, &TCP_SOURCE_PORT, set, false);
        }
        Clause::Syn => syn(rule),
        Clause::Faster { than, family, set } => {
            source(rule, family);
            count(rule, set, libc::NFT_DYNSET_OP_UPDATE, over_rate(than));
        }
        Clause::More { than, family, set } => {
            source(rule, family);
            count(rule, set, libc::NFT_DYNSET_OP_ADD, over_connections(than));
        }
        Clause::Uncounted { family, set } => {
            source(rule, family);
            look_up(rule, set, true);
        }
        Clause::New => conntrack(rule, &Conntrack::State, 0x8, CmpOp::Neq),
        Clause::Untracked => rule.add_expr(&Fields { name: c"notrack", values: Vec::new() }),
        Clause::OfTransparentConnection => {
            socket(rule, SocketKey::Transparent, 1);
            socket(rule, SocketKey::Wildcard, 0);
        }
        Clause::OfTransparentSocket => socket(rule, SocketKey::Transparent, 1),
        Clause::Marked => {
            rule.add_expr(&Meta::Mark { set: false });
            rule.add_expr(&Cmp::new(CmpOp::Eq, rules::MARK));
        }
        Clause::Mark => {
            rule.add_expr(&Immediate::new(rules::MARK, Register::Reg1));
            rule.add_expr(&Meta::Mark { set: true });
        }
        Clause::TproxyTo(port) => tproxy(rule, port),
        Clause::IcmpType(icmp) => icmp_type(rule, icmp),
        // linux/netfilter/nf_conntrack_common.h: IPS_DST_NAT, and the state bits of NFT_CT_STATE.
        Clause::Redirected => conntrack(rule, &Conntrack::Status, 0x20, CmpOp::Neq),
        Clause::NotRedirected => conntrack(rule, &Conntrack::Status, 0x20, CmpOp::Eq),
        Clause::Established => conntrack(rule, &Conntrack::State, 0x2, CmpOp::Neq),
        Clause::Related => conntrack(rule, &Conntrack::State, 0x4, CmpOp::Neq),
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

const REG1: Value = Value::U32(Register::Reg1 as u32);

fn in_set(rule: &mut NftRule<'_>, what: &impl nftnl::expr::Expression, set: &'static str, inverted: bool) {
    rule.add_expr(what);
    look_up(rule, set, inverted);
}

fn look_up(rule: &mut NftRule<'_>, set: &'static str, inverted: bool) {
    let flags = if inverted { libc::NFT_LOOKUP_F_INV as u32 } else { 0 };
    let values = vec![
        (sys::NFTNL_EXPR_LOOKUP_SREG, REG1),
        (sys::NFTNL_EXPR_LOOKUP_SET, Value::Text(c_string(set))),
        (sys::NFTNL_EXPR_LOOKUP_FLAGS, Value::U32(flags)),
    ];
    rule.add_expr(&Fields { name: c"lookup", values });
}

// linux/netfilter/nf_tables.h: NFT_META_IIFKIND and NFT_META_OIFKIND (Linux 5.1).
const META_IIFKIND: u32 = 26;
const META_OIFKIND: u32 = 27;

/// A device without a kind matches nothing.
fn of_kind(rule: &mut NftRule<'_>, key: u32) {
    let values = vec![(sys::NFTNL_EXPR_META_DREG, REG1), (sys::NFTNL_EXPR_META_KEY, Value::U32(key))];
    rule.add_expr(&Fields { name: c"meta", values });
    rule.add_expr(&Cmp::new(CmpOp::Eq, Interface::new("bridge").0.as_slice()));
}

fn to_set(rule: &mut NftRule<'_>, of: Family, set: &'static str) {
    let (nfproto, field) = match of {
        Family::V4 => (libc::NFPROTO_IPV4, NetworkHeaderField::Ipv4(Ipv4HeaderField::Daddr)),
        Family::V6 => (libc::NFPROTO_IPV6, NetworkHeaderField::Ipv6(Ipv6HeaderField::Daddr)),
    };
    family(rule, nfproto);
    in_set(rule, &Payload::Network(field), set, false);
}

/// What a source is counted as: its address, or its IPv6 /64.
fn source(rule: &mut NftRule<'_>, of: Family) {
    match of {
        Family::V4 => {
            family(rule, libc::NFPROTO_IPV4);
            rule.add_expr(&Payload::Network(NetworkHeaderField::Ipv4(Ipv4HeaderField::Saddr)));
        }
        Family::V6 => {
            family(rule, libc::NFPROTO_IPV6);
            rule.add_expr(&Payload::Network(NetworkHeaderField::Ipv6(Ipv6HeaderField::Saddr)));
            let half = Ipv6Addr::from(u128::MAX << 64).octets();
            rule.add_expr(&Bitwise::new(half.as_slice(), [0u8; 16].as_slice()));
        }
    }
}

/// Puts what is in the register into a set with something that counts; goes on where that says "over".
fn count(rule: &mut NftRule<'_>, set: &'static str, operation: libc::c_int, counter: Fields) {
    let values = vec![
        (sys::NFTNL_EXPR_DYNSET_SREG_KEY, REG1),
        (sys::NFTNL_EXPR_DYNSET_OP, Value::U32(operation as u32)),
        (sys::NFTNL_EXPR_DYNSET_SET_NAME, Value::Text(c_string(set))),
        (sys::NFTNL_EXPR_DYNSET_EXPR, Value::Expression(Box::new(counter))),
    ];
    rule.add_expr(&Fields { name: c"dynset", values });
}

/// `NFT_LIMIT_F_INV`, and `NFT_CONNLIMIT_F_INV`: over, not under.
const OVER: Value = Value::U32(1);

fn over_rate(than: u32) -> Fields {
    let values = vec![
        (sys::NFTNL_EXPR_LIMIT_RATE, Value::U64(than.into())),
        (sys::NFTNL_EXPR_LIMIT_UNIT, Value::U64(1)),
        (sys::NFTNL_EXPR_LIMIT_BURST, Value::U32(than.saturating_mul(2))),
        (sys::NFTNL_EXPR_LIMIT_FLAGS, OVER),
    ];
    Fields { name: c"limit", values }
}

fn over_connections(than: u32) -> Fields {
    let values =
        vec![(sys::NFTNL_EXPR_CONNLIMIT_COUNT, Value::U32(than)), (sys::NFTNL_EXPR_CONNLIMIT_FLAGS, OVER)];
    Fields { name: c"connlimit", values }
}

/// One byte of a header.
fn payload(rule: &mut NftRule<'_>, base: libc::c_int, offset: u32) {
    let values = vec![
        (sys::NFTNL_EXPR_PAYLOAD_DREG, REG1),
        (sys::NFTNL_EXPR_PAYLOAD_BASE, Value::U32(base as u32)),
        (sys::NFTNL_EXPR_PAYLOAD_OFFSET, Value::U32(offset)),
        (sys::NFTNL_EXPR_PAYLOAD_LEN, Value::U32(1)),
    ];
    rule.add_expr(&Fields { name: c"payload", values });
}

fn syn(rule: &mut NftRule<'_>) {
    carries(rule, libc::IPPROTO_TCP);
    payload(rule, libc::NFT_PAYLOAD_TRANSPORT_HEADER, 13);
    // FIN, SYN, RST, ACK (RFC 9293): of these SYN alone.
    rule.add_expr(&Bitwise::new(0x17u8, 0u8));
    rule.add_expr(&Cmp::new(CmpOp::Eq, 0x02u8));
}

fn socket(rule: &mut NftRule<'_>, key: SocketKey, value: u8) {
    rule.add_expr(&Socket::new(key, 0));
    rule.add_expr(&Cmp::new(CmpOp::Eq, value));
}

/// Of either family, to the port alone: the kernel looks for a listener on the address of the interface, or on any.
fn tproxy(rule: &mut NftRule<'_>, port: u16) {
    rule.add_expr(&Immediate::new(port.to_be(), Register::Reg1));
    let family = Value::U32(libc::NFPROTO_UNSPEC as u32);
    let values = vec![(sys::NFTNL_EXPR_TPROXY_FAMILY, family), (sys::NFTNL_EXPR_TPROXY_REG_PORT, REG1)];
    rule.add_expr(&Fields { name: c"tproxy", values });
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
const TCP_SOURCE_PORT: Payload = Payload::Transport(TransportHeaderField::Tcp(TcpHeaderField::Sport));
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

/// A bit of what connection tracking knows, compared with none.
fn conntrack(rule: &mut NftRule<'_>, what: &Conntrack, bit: u32, with_none: CmpOp) {
    rule.add_expr(what);
    rule.add_expr(&Bitwise::new(bit, 0u32));
    rule.add_expr(&Cmp::new(with_none, 0u32));
}

fn reply(rule: &mut NftRule<'_>) {
    let key = Value::U32(libc::NFT_CT_DIRECTION as u32);
    let values = vec![(sys::NFTNL_EXPR_CT_DREG, REG1), (sys::NFTNL_EXPR_CT_KEY, key)];
    rule.add_expr(&Fields { name: c"ct", values });
    // IP_CT_DIR_REPLY (linux/netfilter/nf_conntrack_tuple_common.h)
    rule.add_expr(&Cmp::new(CmpOp::Eq, 1u8));
}

// linux/netfilter/nf_tables.h: enum nft_fib_result, enum nft_fib_flags.
const FIB_RESULT_OIF: u32 = 1;
const FIB_RESULT_OIFNAME: u32 = 2;
const FIB_RESULT_TYPE: u32 = 3;
const FIB_SADDR: u32 = 1 << 0;
const FIB_DADDR: u32 = 1 << 1;
const FIB_IIF: u32 = 1 << 3;
const FIB_PRESENT: u32 = 1 << 5;

fn fib(rule: &mut NftRule<'_>, result: u32, flags: u32) {
    let values = vec![
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
    let values = vec![
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
        vec![(sys::NFTNL_EXPR_REDIR_REG_PROTO_MIN, REG1), (sys::NFTNL_EXPR_REDIR_FLAGS, Value::U32(0x2))];
    rule.add_expr(&Fields { name: c"redir", values });
}
