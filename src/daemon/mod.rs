//! The composition root: from a configuration to a running gate, in the order that keeps privileges short. Everything
//! that can fail at start fails before the first byte is accepted.
//!
//! ```text
//! prepare  (one thread, privileged)   CA, policy, records, doors bound, tables in the kernel, privileges dropped
//! run      (the runtime, no rights)   doors served, policy watched, until a signal ends it
//! ```

mod control;
mod dns_door;
mod prepare;
mod reload;
mod serve;
mod steering;
mod watch;

pub use prepare::{Prepared, Start, prepare};
pub use serve::run;

use crate::dns::Resolver;
use crate::flow::Gate;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the gate may be called ready, and what is missing.
#[derive(Debug, Default)]
pub struct Readiness {
    doors: AtomicBool,
    tables: AtomicBool,
}

impl Readiness {
    pub fn doors_open(&self, open: bool) {
        self.doors.store(open, Ordering::Relaxed);
    }

    pub fn tables_stand(&self, stand: bool) {
        self.tables.store(stand, Ordering::Relaxed);
    }

    /// What is missing, in words; empty when ready.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.doors.load(Ordering::Relaxed) {
            missing.push("the doors are not open".to_owned());
        }
        if !self.tables.load(Ordering::Relaxed) {
            missing.push("the nftables fence or redirect is not as it should be".to_owned());
        }
        missing
    }
}

/// What the running parts share beside the flows' own [`Gate`].
pub(crate) struct Running {
    pub(crate) gate: Arc<Gate>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) readiness: Arc<Readiness>,
}
