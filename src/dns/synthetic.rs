//! `answers = "virtual"`: addresses that stand for names and for nothing else. Each client has its own; one names the
//! start of the daemon that gave it, so that after a restart an old address has no name rather than another one.
//!
//! ```text
//! IPv4   network | epoch, 5 bits   | place
//! IPv6   network | epoch, 32 bits  | place, 32 bits
//! ```

use super::epoch::{EPOCHS, Epoch};
use super::resolver::Family;
use crate::base::HostName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntheticSettings {
    /// Never an address of anything real. See [`V4_PREFIXES`].
    pub v4: Ipv4Net,
    /// See [`V6_PREFIXES`]. `None`: AAAA questions have no answer.
    pub v6: Option<Ipv6Net>,
    /// What clients are told.
    pub ttl: Duration,
    /// How long an address has its name after it was last told or used.
    pub hold: Duration,
    /// How long it then has none before it may get another.
    pub rest: Duration,
    /// Names of one client at one time; fewer where the IPv4 network has no room.
    pub per_client: usize,
}

impl Default for SyntheticSettings {
    fn default() -> Self {
        Self {
            // For benchmarks of network devices (RFC 2544): nothing on the internet has them.
            v4: Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
            // A unique local prefix (RFC 4193) of our own, which spells "outgate".
            v6: Some(Ipv6Net::new_assert(Ipv6Addr::new(0xfd6f, 0x7574, 0x6761, 0x7465, 0, 0, 0, 0), 64)),
            ttl: Duration::from_secs(30),
            hold: Duration::from_secs(1800),
            rest: Duration::from_secs(1800),
            per_client: 16_384,
        }
    }
}

impl SyntheticSettings {
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        [Some(IpNet::V4(self.v4)), self.v6.map(IpNet::V6)].into_iter().flatten()
    }
}

/// Prefix lengths that leave room for epochs and some hundred names.
pub const V4_PREFIXES: std::ops::RangeInclusive<u8> = 8..=19;
pub const V6_PREFIXES: std::ops::RangeInclusive<u8> = 8..=64;

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leased {
    /// A real address, of which this client was told nothing.
    Unknown,
    Name(HostName),
    /// A real address that was told for several names.
    Several,
    /// A synthetic address and its name.
    Virtual(HostName),
    /// A synthetic address that has no name here: expired, of an earlier run, or another client's.
    Expired,
}

/// The plan of the addresses.
#[derive(Debug)]
pub(super) struct Synthetic {
    settings: SyntheticSettings,
    epoch: u32,
    places: usize,
}

/// The names of one client, by place.
#[derive(Debug, Default)]
pub(super) struct Lent {
    names: Vec<(HostName, Instant)>,
    places: HashMap<HostName, usize>,
}

impl Synthetic {
    pub(super) fn new(settings: SyntheticSettings, epoch: Epoch) -> Self {
        let places = places_in(place_bits(settings.v4)).min(settings.per_client);
        Self { settings, epoch: epoch.0, places }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.settings.v4.contains(&v4),
            IpAddr::V6(v6) => self.settings.v6.is_some_and(|net| net.contains(&v6)),
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.settings.ttl
    }

    /// The address of this name, now and for the time it is held. `None`: every place is taken or rests.
    pub(super) fn lend(&self, lent: &mut Lent, name: &HostName, now: Instant) -> Option<usize> {
        let until = now + self.settings.hold;
        if let Some(&place) = lent.places.get(name)
            && let Some((_, end)) = lent.names.get_mut(place).filter(|(_, end)| *end > now)
        {
            *end = until;
            return Some(place);
        }
        let fresh = lent.names.len();
        let place = if fresh < self.places {
            lent.names.push((name.clone(), until));
            fresh
        } else {
            let rested = now.checked_sub(self.settings.rest)?;
            let (place, taken) = lent.names.iter_mut().enumerate().min_by_key(|(_, (_, end))| *end)?;
            if taken.1 > rested {
                return None;
            }
            let (old, _) = std::mem::replace(taken, (name.clone(), until));
            // A name that got another place meanwhile keeps that one.
            if lent.places.get(&old) == Some(&place) {
                lent.places.remove(&old);
            }
            place
        };
        lent.places.insert(name.clone(), place);
        Some(place)
    }

    pub(super) fn address(&self, place: usize, family: Family) -> Option<IpAddr> {
        let offset = u32::try_from(offset(place)).ok()?;
        match family {
            Family::V4 => {
                let epoch = (self.epoch % EPOCHS) << place_bits(self.settings.v4);
                let base = u32::from(self.settings.v4.network());
                Some(Ipv4Addr::from(base | epoch | offset).into())
            }
            Family::V6 => {
                let base = u128::from(self.settings.v6?.network());
                Some(Ipv6Addr::from(base | u128::from(self.epoch) << 32 | u128::from(offset)).into())
            }
        }
    }

    /// The name of an address, which is held from now on anew: what is used is not given away.
    pub(super) fn name(&self, lent: &mut Lent, address: IpAddr, now: Instant) -> Option<HostName> {
        let place = self.place(address)?;
        let (name, until) = lent.names.get_mut(place).filter(|(_, until)| *until > now)?;
        *until = now + self.settings.hold;
        Some(name.clone())
    }

    fn place(&self, address: IpAddr) -> Option<usize> {
        let (epoch, offset) = match address {
            IpAddr::V4(v4) => {
                let bits = place_bits(self.settings.v4);
                let host = u32::from(v4) & u32::from(self.settings.v4.hostmask());
                (host >> bits == self.epoch % EPOCHS, host & ((1 << bits) - 1))
            }
            IpAddr::V6(v6) => {
                let host = u128::from(v6) & u128::from(self.settings.v6?.hostmask());
                let offset = u32::try_from(host & u128::from(u32::MAX)).ok()?;
                (host >> 32 == u128::from(self.epoch), offset)
            }
        };
        let [.., last] = offset.to_be_bytes();
        if !epoch || last == 0 || last == 255 {
            return None;
        }
        usize::try_from(offset / 256 * 254 + offset % 256 - 1).ok()
    }
}

/// Some stacks take a last byte of 0 or 255 for a network or a broadcast, whatever the prefix.
fn offset(place: usize) -> usize {
    place / 254 * 256 + place % 254 + 1
}

fn place_bits(net: Ipv4Net) -> u32 {
    u32::from(32 - net.prefix_len()) - EPOCHS.ilog2()
}

/// Places in so many bits.
fn places_in(bits: u32) -> usize {
    (1_usize << bits) / 256 * 254
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn synthetic(epoch: u32, per_client: usize) -> Synthetic {
        Synthetic::new(SyntheticSettings { per_client, ..SyntheticSettings::default() }, Epoch(epoch))
    }

    #[test]
    fn a_name_keeps_its_address_and_the_address_its_name() {
        let (plan, now) = (synthetic(3, 10_000), Instant::now());
        let mut lent = Lent::default();
        let mut seen = std::collections::HashSet::new();
        for n in 0..plan.places {
            let asked = name(&format!("n{n}.test"));
            let place = plan.lend(&mut lent, &asked, now).unwrap();
            assert_eq!(plan.lend(&mut lent, &asked, now), Some(place));
            for family in [Family::V4, Family::V6] {
                let address = plan.address(place, family).unwrap();
                assert!(plan.contains(address) && seen.insert(address), "{address}");
                assert_eq!(plan.name(&mut lent, address, now), Some(asked.clone()), "{address}");
            }
        }
        assert_eq!(plan.places, 16 * 254);
        assert_eq!(plan.lend(&mut lent, &name("more.test"), now), None, "no place is free");
    }

    #[test]
    fn an_address_of_another_run_or_one_never_given_has_no_name() {
        let (old, new, now) = (synthetic(3, 100), synthetic(4, 100), Instant::now());
        let (mut before, mut after) = (Lent::default(), Lent::default());
        let place = old.lend(&mut before, &name("a.test"), now).unwrap();
        new.lend(&mut after, &name("b.test"), now).unwrap();
        for family in [Family::V4, Family::V6] {
            let stale = old.address(place, family).unwrap();
            assert_eq!(new.name(&mut after, stale, now), None, "{stale}");
        }
        for text in ["198.18.0.0", "198.19.255.255", "198.18.48.1", "fd6f:7574:6761:7465::1", "10.0.0.1"] {
            assert_eq!(old.name(&mut Lent::default(), text.parse().unwrap(), now), None, "{text}");
        }
    }

    #[test]
    fn a_place_is_given_again_only_after_its_hold_and_its_rest() {
        let (plan, start) = (synthetic(0, 1), Instant::now() + Duration::from_secs(1_000_000));
        let (hold, rest) = (plan.settings.hold, plan.settings.rest);
        let mut lent = Lent::default();
        let place = plan.lend(&mut lent, &name("a.test"), start).unwrap();
        let address = plan.address(place, Family::V4).unwrap();
        let later = start + hold / 2;
        assert!(plan.name(&mut lent, address, later).is_some(), "and use holds it anew");
        assert!(plan.name(&mut lent, address, later + hold).is_none());
        assert_eq!(plan.lend(&mut lent, &name("b.test"), later + hold), None, "it rests");
        assert_eq!(plan.lend(&mut lent, &name("a.test"), later + hold), None, "even for its own name");
        let rested = later + hold + rest;
        assert_eq!(plan.lend(&mut lent, &name("b.test"), rested), Some(place));
        assert_eq!(plan.name(&mut lent, address, rested), Some(name("b.test")));
        assert_eq!(lent.places.len(), 1);
    }
}
