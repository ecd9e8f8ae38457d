//! Reads our tables back from the kernel as a fingerprint: two that are equal mean that nobody changed a rule.
//!
//! Counters are left out, since they move. What the fingerprint holds is compared and never interpreted.

use std::ffi::{CStr, CString};
use std::io;

use nftnl::nftnl_sys::libc;

use super::netlink::{Message, Netlink, attributes};
use super::rules::Table;

/// A change in the middle of a dump makes the kernel ask for another try.
const ATTEMPTS: usize = 5;

/// The tables as the kernel shows them; tables that are not there leave their names out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<Vec<u8>>);

pub(super) fn fingerprint(netlink: &mut Netlink, tables: &[Table]) -> io::Result<Fingerprint> {
    retried(|| read(netlink, tables))
}

/// Is there a table of this name?
pub(super) fn exists(netlink: &mut Netlink, table: &CStr) -> io::Result<bool> {
    retried(|| Ok(netlink.ask(libc::NFT_MSG_GETTABLE, false, &[(NAME, table)])?.is_some()))
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
const ELEM_SET: u16 = 2;
const ELEM_LIST: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const EXPR_NAME: u16 = 1;

fn read(netlink: &mut Netlink, tables: &[Table]) -> io::Result<Fingerprint> {
    let mut lines = Vec::new();
    let chains = netlink.ask(libc::NFT_MSG_GETCHAIN, true, &[])?.unwrap_or_default();
    for table in tables {
        let name = c_string(table.name);
        let found = netlink.ask(libc::NFT_MSG_GETTABLE, false, &[(NAME, &name)])?.unwrap_or_default();
        let of_table = chains.iter().filter(|chain| names(chain, &name));
        lines.extend(found.iter().chain(of_table).map(line));
        let rules = netlink.ask(libc::NFT_MSG_GETRULE, true, &[(NAME, &name)])?.unwrap_or_default();
        lines.extend(rules.iter().map(line));
        for set in &table.sets {
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

fn names(message: &Message, table: &CStr) -> bool {
    attributes(&message.attributes).any(|(kind, value)| kind == NAME && value == table.to_bytes_with_nul())
}

fn line(message: &Message) -> Vec<u8> {
    let mut out = message.kind.to_ne_bytes().to_vec();
    for (kind, value) in attributes(&message.attributes) {
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
