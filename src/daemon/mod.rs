//! The composition root: from a configuration to a running gate, in the order that keeps privileges short. Everything
//! that can fail at start fails before the first byte is accepted.
//!
//! ```text
//! prepare  (one thread, privileged)   CA, policy, records, doors bound, tables in the kernel, privileges dropped
//! run      (the runtime, no rights)   doors served, policy watched, until a signal ends it
//! ```

pub mod attach;
mod control;
mod dns_door;
mod handed;
mod notice;
mod owned;
mod prepare;
mod quic_door;
mod reload;
mod serve;
mod steering;
mod watch;

pub use handed::handed;
pub use prepare::{Doors, Prepared, Start, prepare, steer_settings};
pub use serve::{run, run_until};

use crate::dns::{Counters, Resolver};
use crate::flow::Gate;
use crate::quic::Bounds;
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
    /// Of all DNS doors.
    pub(crate) counters: Arc<Counters>,
    /// Of all QUIC responders.
    pub(crate) quic: Arc<Bounds>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) cuts: attach::Cuts,
}
