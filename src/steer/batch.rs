//! The tables as one netlink batch: the kernel takes all of it or nothing.
//!
//! The bytecode is the same that nft makes from `text`; a golden test compares them. Nothing is sent here.

use std::ffi::CString;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use nftnl::set::{Set as NftSet, SetKey};
use nftnl::{
    Batch, Chain as NftChain, ChainType, FinalizedBatch, Hook, MsgType, Policy, ProtoFamily, Rule as NftRule,
};

use super::expressions::add_clause;
use super::raw::{Emptied, FlaggedTable, add_bound, make_dynamic, make_interval, tell_host_order};
use super::rules::{Base, Chain, Elements, Family, Interface, NAT_PRIORITY, Rule, SOURCES, Set, Table};

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
            let added = put_elements(&mut batch, &nft, set, id, Put::Declaring);
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

/// Turns `old`, which stands as it is told, into `new` in one step, and leaves alone what is the same in both: the
/// chains in their places, and what dynamic sets count. `None`: they are built differently.
pub(super) fn change(old: &[Table], new: &[Table]) -> Option<Transaction> {
    let same_frame = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| is_same_frame(old, new));
    if !same_frame {
        return None;
    }
    let mut batch = Batch::new();
    let mut steps = Vec::new();
    for (old, new) in old.iter().zip(new) {
        let nft = nftnl::Table::new(c_string(new.name), ProtoFamily::Inet);
        let sets = old.sets.iter().zip(&new.sets).zip(1..);
        for ((_, set), id) in sets.filter(|((old, new), _)| old != new) {
            let changed = put_elements(&mut batch, &nft, set, id, Put::Replacing);
            steps.extend((0..changed).map(|_| Step::Set { table: new.name, set: set.name }));
        }
        let chains = old.chains.iter().zip(&new.chains);
        for (_, chain) in chains.filter(|(old, new)| old.rules != new.rules) {
            let nft = named_chain(&nft, chain);
            // A rule without a handle stands for all of its chain.
            batch.add(&NftRule::new(&nft), MsgType::Del);
            steps.push(Step::Chain { table: new.name, chain: chain.name });
            add_rules(&mut batch, &nft, chain);
            let rules = 1..=chain.rules.len();
            steps.extend(rules.map(|number| Step::Rule { table: new.name, chain: chain.name, number }));
        }
    }
    Some(Transaction { batch: batch.finalize(), steps })
}

fn is_same_frame(old: &Table, new: &Table) -> bool {
    let same_set = |(old, new): (&Set, &Set)| {
        old.name == new.name && (old.elements.are_fixed() || old.elements == new.elements)
    };
    let same_chain = |(old, new): (&Chain, &Chain)| old.name == new.name && old.base == new.base;
    old.name == new.name
        && old.sets.len() == new.sets.len()
        && old.chains.len() == new.chains.len()
        && old.sets.iter().zip(&new.sets).all(same_set)
        && old.chains.iter().zip(&new.chains).all(same_chain)
}

/// Names are our own words or validated interface names: no zero byte is ever cut off here.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

fn named_chain<'a>(table: &'a nftnl::Table, chain: &Chain) -> NftChain<'a> {
    NftChain::new(c_string(chain.name), table)
}

fn add_chain(batch: &mut Batch, table: &nftnl::Table, chain: &Chain) {
    let mut nft = named_chain(table, chain);
    let (kind, hook, priority) = match chain.base {
        Base::RawPrerouting => (ChainType::Filter, Hook::PreRouting, -300),
        Base::RawOutput => (ChainType::Filter, Hook::Out, -300),
        Base::ManglePrerouting => (ChainType::Filter, Hook::PreRouting, -150),
        Base::Forward => (ChainType::Filter, Hook::Forward, 0),
        Base::Input => (ChainType::Filter, Hook::In, 0),
        Base::Output => (ChainType::Filter, Hook::Out, 0),
        Base::NatPrerouting => (ChainType::Nat, Hook::PreRouting, NAT_PRIORITY),
        Base::NatOutput => (ChainType::Nat, Hook::Out, NAT_PRIORITY),
    };
    nft.set_type(kind);
    nft.set_hook(hook, priority);
    nft.set_policy(Policy::Accept);
    batch.add(&nft, MsgType::Add);
    add_rules(batch, &nft, chain);
}

fn add_rules(batch: &mut Batch, nft: &NftChain<'_>, chain: &Chain) {
    for rule in &chain.rules {
        batch.add(&nft_rule(nft, rule), MsgType::Add);
    }
}

// Sets. The numbers of the key types are nft's own (`nft describe`); the kernel keeps them for listing.

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

/// Is the set a new one, or is it there and gets other elements?
#[derive(Clone, Copy)]
enum Put {
    Declaring,
    Replacing,
}

/// The set with its elements; gives the number of messages that took.
fn put_elements(batch: &mut Batch, table: &nftnl::Table, set: &Set, id: u32, put: Put) -> usize {
    match &set.elements {
        Elements::Interfaces(names) => {
            let keys: Vec<_> = names.iter().map(|name| Interface::new(name)).collect();
            let nft = new_set(table, set, id);
            tell_host_order(&nft);
            put_plain(batch, nft, &keys, put)
        }
        Elements::Ports(ports) => {
            let keys: Vec<_> = ports.iter().map(|&port| Port(port)).collect();
            put_plain(batch, new_set(table, set, id), &keys, put)
        }
        Elements::V4(nets) => {
            let ranges: Vec<_> = nets.iter().map(range4).collect();
            put_intervals(batch, new_set(table, set, id), Ipv4Addr::UNSPECIFIED, &ranges, put)
        }
        Elements::V6(nets) => {
            let ranges: Vec<_> = nets.iter().map(range6).collect();
            put_intervals(batch, new_set(table, set, id), Ipv6Addr::UNSPECIFIED, &ranges, put)
        }
        Elements::Sources { family: Family::V4, forget } => {
            put_sources(batch, &new_set::<Ipv4Addr>(table, set, id), *forget)
        }
        Elements::Sources { family: Family::V6, forget } => {
            put_sources(batch, &new_set::<Ipv6Addr>(table, set, id), *forget)
        }
    }
}

fn put_sources<K: SetKey>(batch: &mut Batch, set: &NftSet<'_, K>, forget: Option<u64>) -> usize {
    make_dynamic(set, SOURCES, forget);
    batch.add(set, MsgType::Add);
    1
}

fn new_set<'a, K: SetKey>(table: &'a nftnl::Table, set: &Set, id: u32) -> NftSet<'a, K> {
    NftSet::new_named(&c_string(set.name), id, table, ProtoFamily::Inet)
}

fn put_plain<K: SetKey>(batch: &mut Batch, mut set: NftSet<'_, K>, keys: &[K], put: Put) -> usize {
    let messages = put_set(batch, &set, put);
    keys.iter().for_each(|key| set.add(key));
    messages + add_elements(batch, &set)
}

fn put_set<K>(batch: &mut Batch, set: &NftSet<'_, K>, put: Put) -> usize {
    match put {
        Put::Declaring => batch.add(set, MsgType::Add),
        Put::Replacing => batch.add(&Emptied(set), MsgType::Del),
    }
    1
}

/// First address, and the first one behind the network where there is one.
fn range4(net: &Ipv4Net) -> (Ipv4Addr, Option<Ipv4Addr>) {
    (net.network(), u32::from(net.broadcast()).checked_add(1).map(Ipv4Addr::from))
}

fn range6(net: &Ipv6Net) -> (Ipv6Addr, Option<Ipv6Addr>) {
    (net.network(), u128::from(net.broadcast()).checked_add(1).map(Ipv6Addr::from))
}

fn put_intervals<K: SetKey + PartialEq>(
    batch: &mut Batch,
    mut set: NftSet<'_, K>,
    zero: K,
    ranges: &[(K, Option<K>)],
    put: Put,
) -> usize {
    make_interval(&mut set);
    let messages = put_set(batch, &set, put);
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
    messages + add_elements(batch, &set)
}

fn add_elements<K>(batch: &mut Batch, set: &NftSet<'_, K>) -> usize {
    let mut messages = 0;
    // An empty list would still make a message, which the kernel refuses.
    for part in set.elems_iter() {
        batch.add(&part, MsgType::Add);
        messages += 1;
    }
    messages
}

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
