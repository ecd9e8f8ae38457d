//! The one place that spawns. Every task has a name, is counted, holds the drain signal and is waited for at the end.
//! Called by `daemon` and everything that starts work of its own.

mod lazily;
pub mod memory;
mod tasks;

pub use lazily::Lazily;
pub use tasks::{Drain, LAST_CALL, Tasks};
