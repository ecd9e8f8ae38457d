//! The addresses of this host and the interfaces they belong to.
//!
//! A flow to one of them is a loop, and dialling one would reach our own services, so the transparent door and the
//! dial guard ask here. The answer is at most [`MAX_AGE`] old: the uplink may get another address at any time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

use crate::base::Ingress;

/// Reading them takes some 50 µs; an address that is newer than this may be taken for a foreign one.
const MAX_AGE: Duration = Duration::from_secs(2);

/// Shared by all doors; cheap to ask.
pub struct OwnAddresses {
    known: ArcSwap<HashMap<IpAddr, Interface>>,
    /// Interfaces that somebody attached, and whose they are.
    assigned: ArcSwap<HashMap<Arc<str>, Ingress>>,
    start: Instant,
    /// Milliseconds since `start` of the last look.
    looked: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Interface {
    One(Arc<str>),
    /// Several interfaces have this address, as per-VM taps often do: it says nothing of where a flow came in.
    Several,
}

impl OwnAddresses {
    /// # Errors
    /// The kernel does not tell the addresses.
    pub fn read() -> io::Result<Self> {
        let known = ArcSwap::from_pointee(look()?);
        Ok(Self { known, assigned: ArcSwap::default(), start: Instant::now(), looked: AtomicU64::new(0) })
    }

    /// Is this an address of this host, in whatever form? Loopback and the unspecified address always are.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if address.is_loopback() || address.is_unspecified() {
            return true;
        }
        self.refresh_if_old();
        self.known.load().contains_key(&address)
    }

    /// From now on what comes in on these interfaces is what is said here; replaces what was said before.
    pub fn assign(&self, assigned: HashMap<Arc<str>, Ingress>) {
        self.refresh();
        self.assigned.store(Arc::new(assigned));
    }

    /// The same beside what was said before.
    pub fn assign_more(&self, more: HashMap<Arc<str>, Ingress>) {
        let mut all = HashMap::clone(&self.assigned.load());
        all.extend(more);
        self.assign(all);
    }

    /// Where a connection came in, by the local address of its socket.
    pub fn ingress_of(&self, local: SocketAddr) -> Ingress {
        self.ingress_on(self.interface_of(local))
    }

    /// The same where the interface is known.
    pub fn ingress_on(&self, interface: Option<Arc<str>>) -> Ingress {
        let assigned = interface.as_ref().and_then(|name| self.assigned.load().get(name).cloned());
        assigned.unwrap_or(Ingress::Interface(interface))
    }

    /// The same of what was known of a door when it was opened: its interface may be attached or detached since.
    pub fn ingress_now(&self, door: &Ingress) -> Ingress {
        match door {
            Ingress::Interface(interface) => self.ingress_on(interface.clone()),
            Ingress::Attached { .. } | Ingress::Detached => door.clone(),
        }
    }

    /// The interface that a connection came in on, by the local address of its socket.
    ///
    /// The redirect gives a flow the address of the very interface it came in on, and the fence drops what is
    /// addressed to another interface's; so the local address tells the interface as long as one interface alone has
    /// it. Where several share it the answer is `None`: bind one listener to each interface then.
    pub fn interface_of(&self, local: SocketAddr) -> Option<Arc<str>> {
        if let SocketAddr::V6(v6) = local
            && v6.scope_id() != 0
        {
            return nix::net::if_::if_indextoname(v6.scope_id()).ok()?.to_str().ok().map(Arc::from);
        }
        self.refresh_if_old();
        match self.known.load().get(&local.ip().to_canonical()) {
            Some(Interface::One(name)) => Some(name.clone()),
            Some(Interface::Several) | None => None,
        }
    }

    /// Looks now; a failure keeps what is known.
    pub fn refresh(&self) {
        if let Ok(known) = look() {
            self.known.store(Arc::new(known));
        }
    }

    fn refresh_if_old(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        let old = now.saturating_sub(looked) > MAX_AGE.as_millis() as u64;
        // One of many threads looks; the others go on with what is known.
        if old && self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.refresh();
        }
    }
}

/// The addresses of an interface with their networks, link-local ones left out.
pub fn addresses_of(interface: &str) -> io::Result<Vec<IpNet>> {
    let mut found = Vec::new();
    for entry in getifaddrs()?.filter(|entry| entry.interface_name == interface) {
        let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| {
            let storage = storage?;
            let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        };
        let (Some(address), Some(mask)) = (ip(entry.address), ip(entry.netmask)) else { continue };
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let network = ipnet::ip_mask_to_prefix(mask).ok().and_then(|bits| IpNet::new(address, bits).ok());
        found.extend(network.filter(|_| !link_local));
    }
    Ok(found)
}

fn look() -> io::Result<HashMap<IpAddr, Interface>> {
    let mut known = HashMap::new();
    for entry in getifaddrs()? {
        let Some(storage) = entry.address else { continue };
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        let Some(address) = v4.or(v6) else { continue };
        let name: Arc<str> = entry.interface_name.into();
        known
            .entry(address)
            .and_modify(|seen| {
                if *seen != Interface::One(name.clone()) {
                    *seen = Interface::Several;
                }
            })
            .or_insert(Interface::One(name.clone()));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours_in_every_form() {
        let own = OwnAddresses::read().unwrap();
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(own.contains(text.parse().unwrap()), "{text}");
        }
        assert!(!own.contains("93.184.216.34".parse().unwrap()));
        assert_eq!(own.interface_of("127.0.0.1:1".parse().unwrap()).as_deref(), Some("lo"));
        assert_eq!(own.interface_of("93.184.216.34:1".parse().unwrap()), None);
    }

    #[test]
    fn an_interface_is_its_clients_from_the_moment_that_it_is_attached() {
        let own = OwnAddresses::read().unwrap();
        let door = Ingress::Interface(Some("lo".into()));
        assert_eq!(own.ingress_now(&door), door);
        let attached = Ingress::Attached { name: "one".into(), client: "ci".into() };
        own.assign(HashMap::from([("lo".into(), attached.clone())]));
        assert_eq!(own.ingress_now(&door), attached);
        own.assign(HashMap::from([("lo".into(), Ingress::Detached)]));
        assert_eq!(own.ingress_now(&door), Ingress::Detached);
    }
}
