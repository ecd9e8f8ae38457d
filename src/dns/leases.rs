//! Which client was told that which name has which address, until when. Bounded for each client; the oldest expiry
//! goes first. Written by the DNS door; read where a flow has an address and no name (raw TCP), and for records.
//!
//! With virtual answers the addresses are made here, and stand for one name each.

use super::epoch::Epoch;
use super::resolver::Family;
use super::synthetic::{Leased, Lent, Synthetic, SyntheticSettings};
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
    /// With `answers = "virtual"`.
    pub synthetic: Option<SyntheticSettings>,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self { per_client: 8192, grace: Duration::from_secs(120), synthetic: None }
    }
}

/// Clients are spread over this many locks, so that two busy ones seldom meet.
const SHARDS: usize = 16;

/// The table. Cheap to read; each lock is held for one lookup or one answer.
#[derive(Debug)]
pub struct Leases {
    settings: LeaseSettings,
    synthetic: Option<Synthetic>,
    shards: [Mutex<HashMap<u16, Told>>; SHARDS],
}

/// What one client was told. Few names share an address, so they stand in a list.
#[derive(Debug, Default)]
struct Told {
    by_address: HashMap<IpAddr, Vec<(HostName, Instant)>>,
    pairs: usize,
    lent: Lent,
}

impl Leases {
    pub fn new(settings: LeaseSettings) -> Self {
        Self { settings, synthetic: None, shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// The same with virtual answers, where the settings have them, under the number of this start.
    pub fn of_epoch(settings: LeaseSettings, epoch: Option<Epoch>) -> Self {
        let synthetic =
            settings.synthetic.clone().zip(epoch).map(|(plan, epoch)| Synthetic::new(plan, epoch));
        Self { synthetic, ..Self::new(settings) }
    }

    /// Whether the door answers with virtual addresses, and the TTL that it tells with them.
    pub(super) fn lends(&self) -> Option<Duration> {
        self.synthetic.as_ref().map(Synthetic::ttl)
    }

    /// The virtual addresses of this name for this client in one family. `None`: it has as many names as it may.
    pub(super) fn lend(&self, client: u16, name: &HostName, family: Family) -> Option<Vec<IpAddr>> {
        let synthetic = self.synthetic.as_ref()?;
        let lend = |clients: &mut HashMap<u16, Told>| {
            synthetic.lend(&mut clients.entry(client).or_default().lent, name, Instant::now())
        };
        Some(synthetic.address(self.with(client, lend)?, family).into_iter().collect())
    }

    /// What an address that this client dialled stands for.
    pub fn leased(&self, client: u16, address: IpAddr) -> Leased {
        if let Some(synthetic) = self.synthetic.as_ref().filter(|plan| plan.contains(address)) {
            return self.lent(client, synthetic, address).map_or(Leased::Expired, Leased::Virtual);
        }
        match self.names(client, address).as_slice() {
            [] => Leased::Unknown,
            [name] => Leased::Name(name.clone()),
            [..] => Leased::Several,
        }
    }

    fn lent(&self, client: u16, synthetic: &Synthetic, address: IpAddr) -> Option<HostName> {
        self.with(client, |clients| {
            synthetic.name(&mut clients.get_mut(&client)?.lent, address, Instant::now())
        })
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
        if let Some(synthetic) = self.synthetic.as_ref().filter(|plan| plan.contains(address)) {
            return self.lent(client, synthetic, address).as_ref() == Some(name);
        }
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
        Leases::new(LeaseSettings { per_client, grace: Duration::from_secs(grace), synthetic: None })
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
    fn a_virtual_address_is_the_clients_own() {
        let settings =
            LeaseSettings { synthetic: Some(SyntheticSettings::default()), ..LeaseSettings::default() };
        let leases = Leases::of_epoch(settings, Some(Epoch(7)));
        let given = leases.lend(1, &name("a.test"), Family::V4).unwrap()[0];
        assert_eq!(leases.leased(1, given), Leased::Virtual(name("a.test")));
        assert!(leases.told(1, given, &name("a.test")) && !leases.told(1, given, &name("b.test")));
        assert_eq!(leases.leased(17, given), Leased::Expired, "client 17 shares the shard of client 1");
        let other = leases.lend(17, &name("b.test"), Family::V4).unwrap()[0];
        assert_eq!(leases.leased(17, other), Leased::Virtual(name("b.test")));
        assert_eq!(leases.leased(1, "198.19.200.1".parse().unwrap()), Leased::Expired);
        assert_eq!(leases.leased(1, ip(1)), Leased::Unknown);
        assert_eq!(Leases::new(LeaseSettings::default()).leased(1, given), Leased::Unknown);
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
