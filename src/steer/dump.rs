//! Reads our tables back from the kernel as a fingerprint: two that are equal mean that the tables say the same.
//!
//! What moves by itself (counters, what dynamic sets hold) and what the kernel gives out (handles, owners) is left out,
//! so that tables of two namespaces can be compared. What the fingerprint holds is compared and never interpreted.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;

use nftnl::nftnl_sys::libc;

use super::netlink::{Message, Netlink, attributes};
use super::rules::{NAT_PRIORITY, REDIRECT, Table};

/// A change in the middle of a dump makes the kernel ask for another try.
const ATTEMPTS: usize = 5;

/// The tables as the kernel shows them; tables that are not there leave their names out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<Vec<u8>>);

pub(super) fn fingerprint(netlink: &mut Netlink, tables: &[Table]) -> io::Result<Fingerprint> {
    retried(|| read(netlink, tables))
}

/// Is there a table of this name?
pub(super) fn exists(netlink: &mut Netlink, table: &'static str) -> io::Result<bool> {
    let name = c_string(table);
    retried(|| Ok(netlink.ask(libc::NFT_MSG_GETTABLE, false, &[(NAME, &name)])?.is_some()))
}

/// The packets that all counting rules of a table have seen together.
pub(super) fn counted(netlink: &mut Netlink, table: &'static str) -> io::Result<u64> {
    let name = c_string(table);
    let rules =
        retried(|| Ok(netlink.ask(libc::NFT_MSG_GETRULE, true, &[(NAME, &name)])?.unwrap_or_default()))?;
    let lists = rules.iter().flat_map(|rule| attributes(&rule.attributes));
    let expressions =
        lists.filter(|(kind, _)| *kind == RULE_EXPRESSIONS).flat_map(|(_, list)| attributes(list));
    let counters = expressions.filter(|(_, expression)| is_counter(expression));
    let data = counters.flat_map(|(_, counter)| attributes(counter).filter(|(kind, _)| *kind == EXPR_DATA));
    let packets = data.flat_map(|(_, data)| attributes(data).filter(|(kind, _)| *kind == COUNTER_PACKETS));
    Ok(packets.filter_map(|(_, value)| value.try_into().ok().map(u64::from_be_bytes)).sum())
}

fn retried<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut last = io::ErrorKind::Interrupted.into();
    for _ in 0..ATTEMPTS {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => last = e,
            result => return result,
        }
    }
    Err(last)
}

// linux/netfilter/nf_tables.h. The table's name is the first attribute of tables, chains, rules and set elements.
const NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_LEFT_OUT: &[u16] = &[4, 7]; // handle, owner
const CHAIN_LEFT_OUT: &[u16] = &[2]; // handle
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const RULE_LEFT_OUT: &[u16] = &[3, 6]; // handle, handle of the rule before
const ELEM_SET: u16 = 2;
const ELEM_LIST: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`: of the flags the one that changes what a table does.
const DORMANT: u8 = 0x1;

fn read(netlink: &mut Netlink, tables: &[Table]) -> io::Result<Fingerprint> {
    let mut lines = Vec::new();
    let chains = netlink.ask(libc::NFT_MSG_GETCHAIN, true, &[])?.unwrap_or_default();
    for table in tables {
        let name = c_string(table.name);
        let found = netlink.ask(libc::NFT_MSG_GETTABLE, false, &[(NAME, &name)])?.unwrap_or_default();
        lines.extend(found.iter().map(table_line));
        let of_table = chains.iter().filter(|chain| attribute(chain, NAME) == Some(name.to_bytes_with_nul()));
        lines.extend(of_table.map(|chain| line(chain, CHAIN_LEFT_OUT)));
        let rules = netlink.ask(libc::NFT_MSG_GETRULE, true, &[(NAME, &name)])?.unwrap_or_default();
        lines.extend(numbered(&rules));
        for set in table.sets.iter().filter(|set| set.elements.are_fixed()) {
            let of_set = [(NAME, name.as_c_str()), (ELEM_SET, &c_string(set.name))];
            let elements = netlink.ask(libc::NFT_MSG_GETSETELEM, true, &of_set)?.unwrap_or_default();
            let place = [table.name, set.name].join(" ");
            lines.extend(elements.iter().flat_map(|list| each_element(list, &place)));
        }
    }
    // A hash set that grows lists its elements in another order and in other messages next time, some of them twice.
    lines.sort();
    lines.dedup();
    Ok(Fingerprint(lines))
}

fn attribute(message: &Message, wanted: u16) -> Option<&[u8]> {
    attributes(&message.attributes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn table_line(message: &Message) -> Vec<u8> {
    let mut out = message.kind.to_ne_bytes().to_vec();
    for (kind, value) in attributes(&message.attributes).filter(|(kind, _)| !TABLE_LEFT_OUT.contains(kind)) {
        out.extend_from_slice(&kind.to_ne_bytes());
        match (kind, value.last()) {
            (TABLE_FLAGS, Some(flags)) => out.push(flags & DORMANT),
            _ => out.extend_from_slice(value),
        }
    }
    out
}

fn line(message: &Message, left_out: &[u16]) -> Vec<u8> {
    let mut out = message.kind.to_ne_bytes().to_vec();
    for (kind, value) in attributes(&message.attributes).filter(|(kind, _)| !left_out.contains(kind)) {
        out.extend_from_slice(&kind.to_ne_bytes());
        let is_rule = i32::from(message.kind) == libc::NFT_MSG_NEWRULE;
        if is_rule && kind == RULE_EXPRESSIONS {
            attributes(value).filter(|(_, e)| !is_counter(e)).for_each(|(_, e)| out.extend_from_slice(e));
        } else {
            out.extend_from_slice(value);
        }
    }
    out
}

/// Rules come in their order, which is theirs by number here.
fn numbered(rules: &[Message]) -> Vec<Vec<u8>> {
    let mut counts: HashMap<&[u8], u32> = HashMap::new();
    let mut lines = Vec::new();
    for rule in rules {
        let number = counts.entry(attribute(rule, RULE_CHAIN).unwrap_or_default()).or_default();
        *number += 1;
        let mut out = line(rule, RULE_LEFT_OUT);
        out.extend_from_slice(&number.to_be_bytes());
        lines.push(out);
    }
    lines
}

fn each_element(message: &Message, place: &str) -> Vec<Vec<u8>> {
    let lists = attributes(&message.attributes).filter(|(kind, _)| *kind == ELEM_LIST);
    let elements = lists.flat_map(|(_, list)| attributes(list));
    elements.map(|(_, element)| [place.as_bytes(), element].concat()).collect()
}

fn is_counter(expression: &[u8]) -> bool {
    attributes(expression).any(|(kind, value)| kind == EXPR_NAME && value == b"counter\0")
}

fn c_string(text: &'static str) -> CString {
    CString::new(text).unwrap_or_default()
}

// linux/netfilter/nf_tables.h and linux/netfilter.h: what a chain says of its place.
const CHAIN_HOOK: u16 = 4;
const CHAIN_USE: u16 = 6;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const PREROUTING: u32 = 0;

/// Chains of others that may change where a connection goes before ours does. The first that does is the only one, so
/// such a chain takes connections from the doors. (What it sends elsewhere still does not get past the fence.)
pub(super) fn rivals(netlink: &mut Netlink) -> io::Result<Vec<String>> {
    let chains = retried(|| netlink.ask_of(0, libc::NFT_MSG_GETCHAIN, true, &[]))?.unwrap_or_default();
    Ok(chains.iter().filter_map(rival).collect())
}

fn rival(chain: &Message) -> Option<String> {
    let family = match i32::from(chain.family) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let hook = attribute(chain, CHAIN_HOOK)?;
    let of_hook = |wanted| attributes(hook).find_map(|(kind, v)| (kind == wanted).then(|| number(v))?);
    let is_nat = attribute(chain, CHAIN_TYPE)? == b"nat\0";
    let has_rules = attribute(chain, CHAIN_USE).and_then(number)? > 0;
    let first = of_hook(HOOK_NUMBER)? == PREROUTING && of_hook(HOOK_PRIORITY)?.cast_signed() <= NAT_PRIORITY;
    let word =
        |kind| Some(String::from_utf8_lossy(attribute(chain, kind)?.strip_suffix(b"\0")?).into_owned());
    let (table, name) = (word(NAME)?, word(CHAIN_NAME)?);
    (is_nat && has_rules && first && table != REDIRECT).then(|| format!("{family} {table} {name}"))
}
