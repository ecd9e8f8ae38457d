//! The one place that spawns. Every task has a name, is counted, holds the drain signal and is waited for at the end.
//! Called by `daemon` and everything that starts work of its own.

mod boxed;
mod lazily;
pub mod memory;
mod runtime;
mod tasks;

pub use boxed::boxed;
pub use lazily::Lazily;
pub use runtime::runtime;
pub use tasks::{Drain, LAST_CALL, Tasks};
