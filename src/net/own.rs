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
use nix::ifaddrs::getifaddrs;

/// Reading them takes some 50 µs; an address that is newer than this may be taken for a foreign one.
const MAX_AGE: Duration = Duration::from_secs(2);

/// Shared by all doors; cheap to ask.
pub struct OwnAddresses {
    known: ArcSwap<HashMap<IpAddr, Interface>>,
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
        Ok(Self { known, start: Instant::now(), looked: AtomicU64::new(0) })
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
}
