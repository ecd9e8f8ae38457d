//! Idle connections, kept for exactly the client, rule, destination and way that they were opened for.

use super::proxy::Proxy;
use super::{Settings, h1, h2};
use crate::base::Proto;
use crate::policy::DialRight;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where a request goes, for whom, by which rule and which way. Two exchanges may share a connection only when all of
/// this is equal. The rule stands for its TLS trust and its credentials; after a reload it is another rule. A proxy whose
/// setting changed is another proxy.
#[derive(Clone)]
pub struct Lane {
    /// Of client, host, port and rule; made once, since an exchange looks its lane up several times.
    hash: u64,
    right: DialRight,
    proxy: Option<Arc<Proxy>>,
}

impl Lane {
    pub fn right(&self) -> &DialRight {
        &self.right
    }

    /// The way that its connections take.
    pub(super) fn proxy(&self) -> Option<&Arc<Proxy>> {
        self.proxy.as_ref()
    }
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.right, &other.right);
        self.hash == other.hash
            && ours.client() == theirs.client()
            && ours.port() == theirs.port()
            && ours.scheme() == theirs.scheme()
            && Arc::ptr_eq(ours.rule(), theirs.rule())
            && self.proxy.as_ref().map(Arc::as_ptr) == other.proxy.as_ref().map(Arc::as_ptr)
            && ours.host() == theirs.host()
    }
}

impl Eq for Lane {}

impl Hash for Lane {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Passes on the hash that a lane holds.
#[derive(Default)]
struct Held(u64);

impl Hasher for Held {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    /// Lanes write nothing else.
    fn write(&mut self, _: &[u8]) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

type Lanes = HashMap<Lane, Entry, BuildHasherDefault<Held>>;

/// Locks are held for a map look-up each, and flows in different lanes rarely share one.
const SHARDS: usize = 16;

pub(super) struct Pool {
    shards: [Mutex<Lanes>; SHARDS],
    hasher: RandomState,
    idle: AtomicUsize,
    idle_for: Duration,
    per_key: usize,
    total: usize,
}

#[derive(Default)]
struct Entry {
    h1: Vec<(h1::Connection, Instant)>,
    h2: Option<Arc<H2Cell>>,
}

/// The HTTP/2 connections of a lane, and whose turn it is to open another.
#[derive(Default)]
pub(super) struct H2Cell {
    held: Mutex<Vec<(h2::Connection, Instant)>>,
    turn: tokio::sync::Mutex<()>,
    /// The one protocol that the origin chose or would have; found by asking for the other.
    only: Mutex<Option<Proto>>,
}

impl H2Cell {
    /// One that is open and has room for another stream.
    pub(super) fn current(&self) -> Option<h2::Connection> {
        let mut held = lock(&self.held);
        held.retain(|(connection, _)| connection.is_open());
        let (connection, used) = held.iter_mut().find(|(connection, _)| connection.has_room())?;
        *used = Instant::now();
        Some(connection.clone())
    }

    pub(super) fn add(&self, connection: h2::Connection) {
        lock(&self.held).push((connection, Instant::now()));
    }

    /// Takes out a connection that did not answer as it should.
    pub(super) fn forget(&self, connection: &h2::Connection) {
        lock(&self.held).retain(|(held, _)| !held.is(connection));
    }

    pub(super) fn found_only(&self, proto: Proto) {
        *lock(&self.only) = Some(proto);
    }

    pub(super) fn is_only(&self, proto: Proto) -> bool {
        *lock(&self.only) == Some(proto)
    }

    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Pool {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            idle: AtomicUsize::new(0),
            idle_for: settings.idle,
            per_key: settings.idle_per_key,
            total: settings.idle_total,
        }
    }

    pub(super) fn lane(&self, right: DialRight, proxy: Option<Arc<Proxy>>) -> Lane {
        let rule = Arc::as_ptr(right.rule()) as usize;
        let hash = self.hasher.hash_one((right.client(), right.host(), right.port(), rule));
        Lane { hash, right, proxy }
    }

    /// Whether a connection in this lane is open.
    pub(super) fn holds(&self, lane: &Lane) -> bool {
        let shard = self.shard(lane);
        shard.get(lane).is_some_and(|entry| {
            !entry.h1.is_empty() || entry.h2.as_ref().is_some_and(|cell| cell.current().is_some())
        })
    }

    /// The connection used last that is still quiet: neither closed nor with bytes that nobody asked for.
    pub(super) fn take_h1(&self, lane: &Lane) -> Option<h1::Connection> {
        loop {
            let (mut connection, since) = self.shard(lane).get_mut(lane)?.h1.pop()?;
            self.idle.fetch_sub(1, Ordering::Relaxed);
            if since.elapsed() < self.idle_for && connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    pub(super) fn put_h1(&self, lane: &Lane, connection: h1::Connection) {
        if self.idle.load(Ordering::Relaxed) >= self.total {
            return;
        }
        let mut shard = self.shard(lane);
        let entry = match shard.get_mut(lane) {
            Some(entry) => entry,
            None => shard.entry(lane.clone()).or_default(),
        };
        if entry.h1.len() < self.per_key {
            entry.h1.push((connection, Instant::now()));
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn h2_cell(&self, lane: &Lane) -> Arc<H2Cell> {
        let mut shard = self.shard(lane);
        if let Some(cell) = shard.get(lane).and_then(|entry| entry.h2.clone()) {
            return cell;
        }
        shard.entry(lane.clone()).or_default().h2.get_or_insert_default().clone()
    }

    /// Drops what has been idle too long, and entries that hold nothing.
    pub(super) fn expire(&self) {
        for shard in &self.shards {
            let mut gone = Vec::new();
            lock(shard).retain(|_, entry| {
                let (keep, old): (Vec<_>, Vec<_>) = std::mem::take(&mut entry.h1)
                    .into_iter()
                    .partition(|(_, since)| since.elapsed() < self.idle_for);
                entry.h1 = keep;
                gone.extend(old);
                if let Some(cell) = &entry.h2 {
                    let idle = {
                        let mut held = lock(&cell.held);
                        held.retain(|(connection, used)| {
                            connection.is_open() && !(connection.is_idle() && used.elapsed() >= self.idle_for)
                        });
                        held.is_empty()
                    };
                    if idle && Arc::strong_count(cell) == 1 {
                        entry.h2 = None;
                    }
                }
                !entry.h1.is_empty() || entry.h2.is_some()
            });
            self.idle.fetch_sub(gone.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    fn shard(&self, lane: &Lane) -> MutexGuard<'_, Lanes> {
        // The map takes its buckets from the low bits and its tags from the highest.
        let at = (lane.hash >> 32) as usize % SHARDS;
        let [first, ..] = &self.shards;
        lock(self.shards.get(at).unwrap_or(first))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
