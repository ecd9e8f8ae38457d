//! Who a flow belongs to: `[[client]]` entries, found by interface and source address, never by what a flow says.
//!
//! Where several entries cover a source, one that names the interface wins (a source address can be forged, an
//! interface cannot); among those the longest prefix. Two entries that would tie are refused at load.

use crate::base::Ingress;
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
    /// Known by its attachment alone: no source and no interface is its.
    pub(super) attached: bool,
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

/// Who every flow is where the door itself says it: nobody but one workload can reach the gate's listeners, so there is
/// nothing to be found out by interface or source. `None`: the policy's only client, or one that is made up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SoleClient(pub Option<String>);

/// The name in records where a policy names no client.
const MADE_UP: &str = "command";

/// Two clients that claim the same place.
pub(super) type Tie = (Arc<str>, Arc<str>);

impl Clients {
    pub(super) fn new(list: Vec<Client>) -> (Self, Vec<Tie>) {
        let mut claims = Vec::new();
        for (number, client) in list.iter().enumerate() {
            let id = ClientId(u16::try_from(number).unwrap_or(u16::MAX));
            let claim = |source| Claim { interface: client.interface.clone(), source, client: id };
            if client.attached {
                continue;
            }
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

    /// Gives every flow to one client.
    ///
    /// # Errors
    /// Which one is not clear; in words.
    pub(super) fn leave_to(&mut self, sole: &SoleClient) -> Result<(), String> {
        if self.list.is_empty() && sole.0.is_none() {
            self.list.push(Client {
                name: MADE_UP.into(),
                interface: None,
                sources: Vec::new(),
                attached: false,
            });
        }
        let names = || self.list.iter().take(20).map(|c| &*c.name).collect::<Vec<_>>().join(", ");
        let client = match &sole.0 {
            Some(name) => self
                .by_name(name)
                .ok_or_else(|| format!("the policy has no client {name:?}; it has: {}", names()))?,
            None if self.list.len() == 1 => ClientId(0),
            None => {
                return Err(format!("the policy has several clients, and one must be named: {}", names()));
            }
        };
        self.claims = vec![Claim { interface: None, source: None, client }];
        Ok(())
    }

    pub(super) fn find(&self, interface: Option<&str>, source: IpAddr) -> Option<ClientId> {
        let source = source.to_canonical();
        self.claims.iter().find(|claim| claim.covers(interface, source)).map(|claim| claim.client)
    }

    /// The client that what comes in here belongs to. One that is attached is never found by a source, and what comes
    /// in through an attachment is never another's.
    pub(super) fn of(&self, ingress: &Ingress, source: IpAddr) -> Option<ClientId> {
        match ingress {
            Ingress::Interface(interface) => self.find(interface.as_deref(), source),
            Ingress::Attached { client, .. } => self.by_name(client).filter(|id| self.is_attached(*id)),
            Ingress::Detached => None,
        }
    }

    pub(super) fn is_attached(&self, id: ClientId) -> bool {
        self.list.get(id.index()).is_some_and(|client| client.attached)
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
        Client { name: name.into(), interface: interface.map(Into::into), sources, attached: false }
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
    fn by_18_an_attached_client_is_found_by_its_attachment_alone() {
        let attached = Client { attached: true, ..client("pod", None, &[]) };
        let (clients, ties) = Clients::new(vec![attached, client("net", None, &["10.0.0.0/8"])]);
        assert!(ties.is_empty());
        let name = |ingress, source: &str| {
            clients
                .of(&ingress, source.parse().unwrap())
                .and_then(|id| clients.name(id))
                .map(|n| n.to_string())
        };
        let through = |client: &str| Ingress::Attached { name: "a".into(), client: client.into() };
        assert_eq!(name(through("pod"), "10.0.0.1").as_deref(), Some("pod"));
        // No other client, whatever the source says.
        assert_eq!(name(through("net"), "10.0.0.1"), None);
        assert_eq!(name(through("gone"), "10.0.0.1"), None);
        assert_eq!(name(Ingress::Detached, "10.0.0.1"), None);
        assert_eq!(name(Ingress::Interface(None), "10.0.0.1").as_deref(), Some("net"));
        assert_eq!(name(Ingress::Interface(Some("pod".into())), "192.0.2.1"), None);
    }

    #[test]
    fn a_sole_client_is_everybody_and_must_be_clear() {
        let sole = |list: Vec<Client>, name: Option<&str>| {
            let (mut clients, _) = Clients::new(list);
            let left = clients.leave_to(&SoleClient(name.map(str::to_owned)));
            left.map(|()| found(&clients, None, "192.0.2.1").unwrap().to_owned())
        };
        let one = || client("agent", Some("eth1"), &["10.0.0.0/8"]);
        assert_eq!(sole(vec![], None).unwrap(), "command");
        assert_eq!(sole(vec![one()], None).unwrap(), "agent");
        assert_eq!(sole(vec![one(), client("other", None, &[])], Some("other")).unwrap(), "other");
        assert!(sole(vec![one(), client("other", None, &[])], None).unwrap_err().contains("agent, other"));
        assert!(sole(vec![one()], Some("nobody")).unwrap_err().contains("agent"));
    }

    #[test]
    fn two_clients_with_the_same_claim_are_a_tie() {
        let list = vec![client("a", None, &["10.0.0.1/8"]), client("b", None, &["10.0.0.2/8"])];
        assert_eq!(Clients::new(list).1.len(), 1);
    }
}
