//! The one place that spawns. Every task has a name, is counted, holds the drain signal and is waited for at the end.
//! Also the clock helpers that need the runtime. Called by `daemon` and everything that starts work of its own.

mod tasks;

pub use tasks::{Drain, Tasks};
