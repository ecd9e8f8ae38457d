//! The bounds of the DNS door: questions a second for each source, waiting questions and connections for each owner,
//! and new names under wildcards for each client. Tables with a lock held for one step; the time is the caller's.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What the door counts for the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Questions dropped by the rate limit: neither answered nor recorded.
    pub rate_dropped: AtomicU64,
    /// Connections closed at once because too many are open.
    pub connections_refused: AtomicU64,
    /// Messages that were read and answered or dropped.
    pub messages: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A token bucket for each source address, or whatever else is counted by.
#[derive(Debug)]
pub struct Rate<K = IpAddr> {
    per_second: f64,
    burst: f64,
    most: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

/// A token in a day; slower is none.
const SLOWEST: f64 = 1.0 / 86_400.0;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Hash + Eq + Copy> Rate<K> {
    /// `most` is the number of sources remembered.
    pub fn new(per_second: impl Into<f64>, burst: u32, most: usize) -> Self {
        Self {
            per_second: per_second.into().max(SLOWEST),
            burst: burst.into(),
            most,
            buckets: Mutex::default(),
        }
    }

    pub fn allow(&self, source: K, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.most && !buckets.contains_key(&source) {
            // A bucket that is full again says nothing; when none is, a crowd of sources is at work and a new one waits.
            let refill = Duration::from_secs_f64(self.burst / self.per_second);
            buckets.retain(|_, bucket| now.duration_since(bucket.at) < refill);
            if buckets.len() >= self.most {
                return false;
            }
        }
        let bucket = buckets.entry(source).or_insert(Bucket { tokens: self.burst, at: now });
        let gained = now.duration_since(bucket.at).as_secs_f64() * self.per_second;
        *bucket = Bucket { tokens: (bucket.tokens + gained).min(self.burst), at: now };
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

/// Places that are taken and given back, bounded in all and for each owner.
#[derive(Debug)]
pub struct Slots<K: Hash + Eq + Copy> {
    most: usize,
    most_each: usize,
    taken: Mutex<(usize, HashMap<K, usize>)>,
}

/// A taken place; dropping it gives it back.
#[derive(Debug)]
pub struct Slot<K: Hash + Eq + Copy> {
    owner: K,
    slots: Arc<Slots<K>>,
}

impl<K: Hash + Eq + Copy> Slots<K> {
    pub fn new(most: usize, most_each: usize) -> Arc<Self> {
        Arc::new(Self { most, most_each, taken: Mutex::default() })
    }

    pub fn take(self: &Arc<Self>, owner: K) -> Option<Slot<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, each) = &mut *taken;
        let mine = each.get(&owner).copied().unwrap_or(0);
        if *all >= self.most || mine >= self.most_each {
            return None;
        }
        *all += 1;
        each.insert(owner, mine + 1);
        Some(Slot { owner, slots: self.clone() })
    }
}

impl<K: Hash + Eq + Copy> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, each) = &mut *taken;
        *all = all.saturating_sub(1);
        match each.get_mut(&self.owner) {
            Some(mine) if *mine > 1 => *mine -= 1,
            _ => {
                each.remove(&self.owner);
            }
        }
    }
}

/// How many names that a client never asked for before it may ask for under wildcards in a window. Names carry data
/// to whoever serves the zone, so that a wildcard is a slow way out (GAUNTLET DN-08).
#[derive(Debug)]
pub(super) struct NameBudget {
    names: usize,
    window: Duration,
    remembered: usize,
    hasher: RandomState,
    clients: Mutex<HashMap<u16, Names>>,
}

#[derive(Debug)]
struct Names {
    window_start: Instant,
    new: usize,
    /// Hashes of the names that were let through, and their order, so that the oldest is forgotten first.
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl NameBudget {
    pub(super) fn new(names: usize, window: Duration, remembered: usize) -> Self {
        Self { names, window, remembered, hasher: RandomState::new(), clients: Mutex::default() }
    }

    /// True for a name that this client has asked for before, or that the budget still covers.
    pub(super) fn allow(&self, client: u16, name: &str, now: Instant) -> bool {
        let hash = self.hasher.hash_one(name);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let names = clients.entry(client).or_insert_with(|| Names {
            window_start: now,
            new: 0,
            known: HashSet::new(),
            order: VecDeque::new(),
        });
        if names.known.contains(&hash) {
            return true;
        }
        if now.duration_since(names.window_start) >= self.window {
            (names.window_start, names.new) = (now, 0);
        }
        if names.new >= self.names {
            return false;
        }
        names.new += 1;
        if names.order.len() >= self.remembered
            && let Some(oldest) = names.order.pop_front()
        {
            names.known.remove(&oldest);
        }
        names.known.insert(hash);
        names.order.push_back(hash);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(n).into()
    }

    #[test]
    fn dn_40_a_source_gets_its_burst_and_then_its_rate() {
        let rate = Rate::new(10, 20, 4);
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| rate.allow(ip(1), start)).count(), 20);
        assert!(rate.allow(ip(2), start), "another source has its own bucket");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| rate.allow(ip(1), later)).count(), 10);
    }

    #[test]
    fn a_crowd_of_sources_does_not_grow_the_table() {
        let rate = Rate::new(10, 20, 4);
        let start = Instant::now();
        assert_eq!((0..100).filter(|n| rate.allow(ip(*n), start)).count(), 4);
        assert!(rate.allow(ip(99), start + Duration::from_secs(3)), "idle buckets make room");
    }

    #[test]
    fn places_come_back_when_dropped() {
        let slots = Slots::new(3, 2);
        let (a, b) = (slots.take(1).unwrap(), slots.take(1).unwrap());
        assert!(slots.take(1).is_none());
        let c = slots.take(2).unwrap();
        assert!(slots.take(3).is_none());
        drop((a, b, c));
        assert!(slots.take(1).is_some());
        assert!(slots.taken.lock().unwrap().1.is_empty());
    }

    #[test]
    fn dn_08_new_names_run_out_and_known_names_do_not() {
        let budget = NameBudget::new(200, Duration::from_secs(60), 4096);
        let start = Instant::now();
        let through = (0..500).filter(|n| budget.allow(1, &format!("{n}.w.test"), start)).count();
        assert_eq!(through, 200);
        assert!(budget.allow(1, "7.w.test", start));
        assert!(budget.allow(2, "499.w.test", start), "another client has its own budget");
        assert!(budget.allow(1, "499.w.test", start + Duration::from_secs(60)));
    }

    #[test]
    fn remembered_names_are_bounded() {
        let budget = NameBudget::new(1000, Duration::from_secs(60), 10);
        let start = Instant::now();
        for n in 0..1000 {
            budget.allow(1, &format!("{n}.w.test"), start);
        }
        let clients = budget.clients.lock().unwrap();
        assert_eq!((clients[&1].known.len(), clients[&1].order.len()), (10, 10));
    }
}
