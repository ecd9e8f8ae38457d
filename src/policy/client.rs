//! Who a flow belongs to: `[[client]]` entries, found by interface and source address, never by what a flow says.
//!
//! Where several entries cover a source, one that names the interface wins (a source address can be forged, an
//! interface cannot); among those the longest prefix. Two entries that would tie are refused at load.

use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A `[[client]]`, by its place in the policy. Only meaningful with the snapshot that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub(super) u16);

impl ClientId {
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: Arc<str>,
    pub(super) interface: Option<Arc<str>>,
    /// Empty: every source on the interface.
    pub(super) sources: Vec<IpNet>,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    list: Vec<Client>,
    /// One entry a source, the strongest claim first.
    claims: Vec<Claim>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    interface: Option<Arc<str>>,
    /// `None`: every address.
    source: Option<IpNet>,
    client: ClientId,
}

impl Claim {
    fn strength(&self) -> (bool, u8) {
        (self.interface.is_some(), self.source.map_or(0, |s| s.prefix_len() + 1))
    }

    fn covers(&self, interface: Option<&str>, source: IpAddr) -> bool {
        self.interface.as_deref().is_none_or(|own| Some(own) == interface)
            && self.source.is_none_or(|own| own.contains(&source))
    }
}

/// Two clients that claim the same place.
pub(super) type Tie = (Arc<str>, Arc<str>);

impl Clients {
    pub(super) fn new(list: Vec<Client>) -> (Self, Vec<Tie>) {
        let mut claims = Vec::new();
        for (number, client) in list.iter().enumerate() {
            let id = ClientId(u16::try_from(number).unwrap_or(u16::MAX));
            let claim = |source| Claim { interface: client.interface.clone(), source, client: id };
            if client.sources.is_empty() {
                claims.push(claim(None));
            }
            claims.extend(client.sources.iter().map(|net| claim(Some(net.trunc()))));
        }
        claims.sort_by(|a, b| {
            let key = |c: &Claim| (std::cmp::Reverse(c.strength()), c.interface.clone(), c.source);
            key(a).cmp(&key(b))
        });
        let mut ties = Vec::new();
        for pair in claims.windows(2) {
            if let [a, b] = pair
                && a.client != b.client
                && a.interface == b.interface
                && a.source == b.source
                && let (Some(first), Some(second)) = (list.get(a.client.index()), list.get(b.client.index()))
            {
                ties.push((first.name.clone(), second.name.clone()));
            }
        }
        (Self { list, claims }, ties)
    }

    pub(super) fn find(&self, interface: Option<&str>, source: IpAddr) -> Option<ClientId> {
        let source = source.to_canonical();
        self.claims.iter().find(|claim| claim.covers(interface, source)).map(|claim| claim.client)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<ClientId> {
        let number = self.list.iter().position(|client| &*client.name == name)?;
        u16::try_from(number).ok().map(ClientId)
    }

    pub(super) fn name(&self, id: ClientId) -> Option<&Arc<str>> {
        self.list.get(id.index()).map(|client| &client.name)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ClientId> + use<> {
        (0..u16::try_from(self.list.len()).unwrap_or(u16::MAX)).map(ClientId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, interface: Option<&str>, sources: &[&str]) -> Client {
        let sources = sources.iter().map(|s| s.parse().unwrap()).collect();
        Client { name: name.into(), interface: interface.map(Into::into), sources }
    }

    fn found<'a>(clients: &'a Clients, interface: Option<&str>, source: &str) -> Option<&'a str> {
        clients.find(interface, source.parse().unwrap()).and_then(|id| clients.name(id)).map(|n| &**n)
    }

    #[test]
    fn pl_09_the_interface_is_stronger_than_the_longer_prefix() {
        let list = vec![
            client("wide", None, &["10.0.0.0/8"]),
            client("narrow", None, &["10.1.0.0/16"]),
            client("eth1", Some("eth1"), &[]),
            client("both", Some("eth1"), &["10.1.2.0/24", "fd00::/8"]),
        ];
        let (clients, ties) = Clients::new(list);
        assert!(ties.is_empty());
        assert_eq!(found(&clients, Some("eth0"), "10.2.0.1"), Some("wide"));
        assert_eq!(found(&clients, None, "10.1.0.1"), Some("narrow"));
        assert_eq!(found(&clients, None, "::ffff:10.1.0.1"), Some("narrow"));
        assert_eq!(found(&clients, Some("eth1"), "10.1.0.1"), Some("eth1"));
        assert_eq!(found(&clients, Some("eth1"), "10.1.2.3"), Some("both"));
        assert_eq!(found(&clients, Some("eth1"), "fd00::1"), Some("both"));
        assert_eq!(found(&clients, Some("eth0"), "192.168.0.1"), None);
    }

    #[test]
    fn two_clients_with_the_same_claim_are_a_tie() {
        let list = vec![client("a", None, &["10.0.0.1/8"]), client("b", None, &["10.0.0.2/8"])];
        assert_eq!(Clients::new(list).1.len(), 1);
    }
}
