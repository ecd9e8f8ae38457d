//! Which flows are open, numbered and counted for each client. Touched once when a flow begins and once when it ends.

use crate::base::Door;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug, Default)]
pub struct Registry {
    last: AtomicU64,
    open: Mutex<Open>,
    /// A number for each client name ever seen, the same over reloads: leases are kept under it.
    clients: Mutex<HashMap<Arc<str>, u16>>,
}

#[derive(Debug, Default)]
struct Open {
    flows: HashMap<u64, FlowInfo>,
    of_client: HashMap<Arc<str>, usize>,
    /// As many as there were at once since somebody last asked.
    most: usize,
}

/// What `outgate flows ls` shows of an open flow.
#[derive(Debug, Clone)]
pub struct FlowInfo {
    pub number: u64,
    pub client: Arc<str>,
    pub source: SocketAddr,
    pub door: Door,
    pub target: Option<SocketAddr>,
    /// The name, as soon as it is known.
    pub name: Option<String>,
    pub since: Instant,
}

/// An open flow; dropping it closes the entry.
#[derive(Debug)]
pub struct Ticket {
    registry: Arc<Registry>,
    number: u64,
}

impl Registry {
    pub fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number under which a client's leases are kept.
    pub fn client_number(&self, name: &Arc<str>) -> u16 {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // A policy has fewer clients than this, and a process few policies; the last number is shared by nobody's.
        let next = u16::try_from(clients.len()).unwrap_or(u16::MAX);
        *clients.entry(name.clone()).or_insert(next)
    }

    /// Enters a flow. `None`: the client, or the gate, has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, info: FlowInfo, per_client: usize, total: usize) -> Option<Ticket> {
        let mut open = self.lock();
        let number = info.number;
        if open.flows.len() >= total {
            return None;
        }
        let count = open.of_client.entry(info.client.clone()).or_default();
        if *count >= per_client {
            return None;
        }
        *count += 1;
        open.flows.insert(number, info);
        open.most = open.most.max(open.flows.len());
        Some(Ticket { registry: self.clone(), number })
    }

    pub fn list(&self) -> Vec<FlowInfo> {
        let mut flows: Vec<_> = self.lock().flows.values().cloned().collect();
        flows.sort_by_key(|flow| flow.number);
        flows
    }

    pub fn open(&self) -> usize {
        self.lock().flows.len()
    }

    /// How many were open at once since this was last asked.
    pub fn most_open(&self) -> usize {
        let mut open = self.lock();
        let now = open.flows.len();
        std::mem::replace(&mut open.most, now)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    pub(super) fn named(&self, name: String) {
        if let Some(flow) = self.registry.lock().flows.get_mut(&self.number) {
            flow.name = Some(name);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.registry.lock();
        let Some(flow) = open.flows.remove(&self.number) else { return };
        if let Some(count) = open.of_client.get_mut(&flow.client) {
            *count -= 1;
            if *count == 0 {
                open.of_client.remove(&flow.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(registry: &Registry, client: &str) -> FlowInfo {
        FlowInfo {
            number: registry.next_number(),
            client: client.into(),
            source: "10.0.0.1:1".parse().unwrap(),
            door: Door::Transparent,
            target: None,
            name: None,
            since: Instant::now(),
        }
    }

    #[test]
    fn rs_01_one_client_cannot_use_up_what_another_needs() {
        let registry = Arc::new(Registry::default());
        let held = registry.enter(info(&registry, "a"), 1, 10);
        assert!(held.is_some());
        assert!(registry.enter(info(&registry, "a"), 1, 10).is_none());
        assert!(registry.enter(info(&registry, "b"), 1, 10).is_some());
        drop(held);
        assert!(registry.enter(info(&registry, "a"), 1, 10).is_some());
        assert_eq!(registry.open(), 0);
    }

    #[test]
    fn a_crowd_that_came_and_went_between_two_looks_is_seen() {
        let registry = Arc::new(Registry::default());
        let crowd: Vec<_> = (0..3).map(|_| registry.enter(info(&registry, "a"), 9, 9)).collect();
        drop(crowd);
        let _one = registry.enter(info(&registry, "a"), 9, 9);
        assert_eq!((registry.most_open(), registry.most_open()), (3, 1));
    }
}
