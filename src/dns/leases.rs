//! Which client was told that which name has which address, until when. Bounded for each client; the oldest expiry
//! goes first. Written by the DNS door; read where a flow has an address and no name (raw TCP), and for records.

use crate::base::HostName;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Pairs of name and address for each client.
    pub per_client: usize,
    /// How long a lease outlives the TTL that was told: programs keep addresses longer than they should.
    pub grace: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { per_client: 8192, grace: Duration::from_secs(120) }
    }
}

/// Clients are spread over this many locks, so that two busy ones seldom meet.
const SHARDS: usize = 16;

/// The table. Cheap to read; each lock is held for one lookup or one answer.
#[derive(Debug)]
pub struct Leases {
    settings: LeaseSettings,
    shards: [Mutex<HashMap<u16, Told>>; SHARDS],
}

/// What one client was told. Few names share an address, so they stand in a list.
#[derive(Debug, Default)]
struct Told {
    by_address: HashMap<IpAddr, Vec<(HostName, Instant)>>,
    pairs: usize,
}

impl Leases {
    pub fn new(settings: LeaseSettings) -> Self {
        Self { settings, shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Notes that `client` was told these addresses for this name; `until` is when their TTL ends.
    pub fn remember(&self, client: u16, name: &HostName, addresses: &[IpAddr], until: Instant) {
        let until = until + self.settings.grace;
        self.with(client, |clients| {
            let told = clients.entry(client).or_default();
            for address in addresses {
                told.remember(*address, name, until, self.settings.per_client);
            }
        });
    }

    /// The names that this client was told for this address; more than one is ambiguous.
    pub fn names(&self, client: u16, address: IpAddr) -> Vec<HostName> {
        let now = Instant::now();
        self.with(client, |clients| {
            let told = clients.get(&client).into_iter().flat_map(|told| told.live(address, now));
            told.cloned().collect()
        })
    }

    /// Whether this client was told this address for this name.
    pub fn told(&self, client: u16, address: IpAddr, name: &HostName) -> bool {
        let now = Instant::now();
        self.with(client, |clients| {
            clients.get(&client).is_some_and(|told| told.live(address, now).any(|n| n == name))
        })
    }

    /// Forgets a client that is gone.
    pub fn forget(&self, client: u16) {
        self.with(client, |clients| clients.remove(&client));
    }

    fn with<R>(&self, client: u16, f: impl FnOnce(&mut HashMap<u16, Told>) -> R) -> R {
        let [first, ..] = &self.shards;
        let shard = self.shards.get(usize::from(client) % SHARDS).unwrap_or(first);
        f(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Told {
    fn live(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = &HostName> {
        let pairs = self.by_address.get(&address).into_iter().flatten();
        pairs.filter(move |(_, until)| *until > now).map(|(name, _)| name)
    }

    fn remember(&mut self, address: IpAddr, name: &HostName, until: Instant, most: usize) {
        let known =
            self.by_address.get_mut(&address).and_then(|names| names.iter_mut().find(|(n, _)| n == name));
        if let Some((_, end)) = known {
            *end = until.max(*end);
            return;
        }
        if self.pairs >= most {
            self.shrink(most - most / 8);
        }
        self.by_address.entry(address).or_default().push((name.clone(), until));
        self.pairs += 1;
    }

    /// Drops the pairs that end first, an eighth at a time, so that a full table costs little for each new pair.
    fn shrink(&mut self, keep: usize) {
        let mut ends: Vec<Instant> = self.by_address.values().flatten().map(|(_, until)| *until).collect();
        let drop = ends.len().saturating_sub(keep).max(1).min(ends.len());
        if drop == 0 {
            return;
        }
        let (_, cut, _) = ends.select_nth_unstable(drop - 1);
        let cut = *cut;
        let mut left = drop;
        self.by_address.retain(|_, names| {
            names.retain(|(_, until)| {
                let goes = *until <= cut && left > 0;
                left -= usize::from(goes);
                !goes
            });
            !names.is_empty()
        });
        self.pairs -= drop - left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x5d00_0000 + n).into()
    }

    fn leases(per_client: usize, grace: u64) -> Leases {
        Leases::new(LeaseSettings { per_client, grace: Duration::from_secs(grace) })
    }

    #[test]
    fn a_lease_belongs_to_the_client_that_was_told() {
        let leases = leases(10, 0);
        let until = Instant::now() + Duration::from_secs(60);
        leases.remember(1, &name("a.test"), &[ip(1), ip(2)], until);
        assert_eq!(leases.names(1, ip(2)), [name("a.test")]);
        assert!(leases.told(1, ip(1), &name("a.test")));
        assert!(!leases.told(1, ip(1), &name("b.test")));
        assert!(leases.names(17, ip(2)).is_empty(), "client 17 shares the shard of client 1");
        leases.forget(1);
        assert!(leases.names(1, ip(2)).is_empty());
    }

    #[test]
    fn two_names_at_one_address_are_ambiguous() {
        let leases = leases(10, 0);
        let until = Instant::now() + Duration::from_secs(60);
        leases.remember(1, &name("a.test"), &[ip(1)], until);
        leases.remember(1, &name("b.test"), &[ip(1)], until);
        leases.remember(1, &name("b.test"), &[ip(1)], until);
        assert_eq!(leases.names(1, ip(1)).len(), 2);
    }

    #[test]
    fn a_lease_ends_after_its_grace() {
        let now = Instant::now();
        let short = leases(10, 0);
        short.remember(1, &name("a.test"), &[ip(1)], now);
        assert!(short.names(1, ip(1)).is_empty());
        let long = leases(10, 60);
        long.remember(1, &name("a.test"), &[ip(1)], now);
        assert_eq!(long.names(1, ip(1)).len(), 1);
    }

    #[test]
    fn a_full_table_drops_what_ends_first() {
        let leases = leases(64, 0);
        let start = Instant::now() + Duration::from_secs(60);
        for n in 0..1000 {
            leases.remember(1, &name("a.test"), &[ip(n)], start + Duration::from_secs(u64::from(n)));
        }
        let left = (0..1000).filter(|n| !leases.names(1, ip(*n)).is_empty()).count();
        assert!((56..=64).contains(&left), "{left}");
        assert!(!leases.names(1, ip(999)).is_empty());
        assert!(leases.names(1, ip(0)).is_empty());
    }
}
