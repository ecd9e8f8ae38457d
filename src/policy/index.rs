//! Which rules could speak for a host, in time that does not grow with their number: hash maps on exact names, on the
//! names that wildcards stand under, and on networks. Rules for named clients live in those clients' own tables.

use super::client::ClientId;
use super::pattern::HostPattern;
use super::rule::Rule;
use crate::base::{Host, HostName};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// The place of a rule in file order.
pub(super) type RuleNumber = u32;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// Rules for every client.
    shared: Table,
    /// By client.
    own: Vec<Table>,
}

#[derive(Debug, Default)]
struct Table {
    exact: HashMap<HostName, Vec<RuleNumber>>,
    under: HashMap<HostName, Vec<RuleNumber>>,
    any: Vec<RuleNumber>,
    networks: HashMap<IpNet, Vec<RuleNumber>>,
    /// The prefix lengths that occur, so that a lookup asks for no others.
    lengths: BTreeSet<(bool, u8)>,
}

impl Index {
    pub(super) fn new(rules: &[Arc<Rule>], clients: usize) -> Self {
        let mut index = Self { shared: Table::default(), own: Vec::new() };
        index.own.resize_with(clients, Table::default);
        for (number, rule) in rules.iter().enumerate() {
            let Ok(number) = RuleNumber::try_from(number) else { break };
            match &rule.clients {
                None => index.shared.add(number, rule),
                Some(ids) => {
                    for id in ids {
                        if let Some(table) = index.own.get_mut(id.index()) {
                            table.add(number, rule);
                        }
                    }
                }
            }
        }
        index
    }

    /// Calls `visit` with every rule of the client that names the host; some perhaps twice, in no order.
    pub(super) fn visit(&self, client: ClientId, host: &Host, mut visit: impl FnMut(RuleNumber)) {
        for table in std::iter::once(&self.shared).chain(self.own.get(client.index())) {
            match host {
                Host::Name(name) => table.visit_name(name, &mut visit),
                Host::Ip(ip) => table.visit_address(*ip, &mut visit),
            }
        }
    }
}

impl Table {
    fn add(&mut self, number: RuleNumber, rule: &Rule) {
        for pattern in &rule.hosts {
            match pattern {
                HostPattern::Any => self.any.push(number),
                HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default().push(number),
                HostPattern::Under(name) => self.under.entry(name.clone()).or_default().push(number),
            }
        }
        for net in &rule.addresses {
            self.lengths.insert((net.addr().is_ipv6(), net.prefix_len()));
            self.networks.entry(net.trunc()).or_default().push(number);
        }
    }

    fn visit_name(&self, name: &HostName, visit: &mut impl FnMut(RuleNumber)) {
        let mut all =
            |list: Option<&Vec<RuleNumber>>| list.into_iter().flatten().copied().for_each(&mut *visit);
        all(self.exact.get(name));
        if !self.under.is_empty() {
            for parent in name.parents() {
                all(self.under.get(parent));
            }
        }
        all(Some(&self.any));
    }

    fn visit_address(&self, ip: IpAddr, visit: &mut impl FnMut(RuleNumber)) {
        for (_, length) in self.lengths.iter().filter(|(v6, _)| *v6 == ip.is_ipv6()) {
            if let Ok(net) = IpNet::new(ip, *length) {
                self.networks.get(&net.trunc()).into_iter().flatten().copied().for_each(&mut *visit);
            }
        }
    }
}
