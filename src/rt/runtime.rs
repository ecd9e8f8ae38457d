//! The runtime of the daemon.

use std::num::NonZero;
use std::thread::available_parallelism;
use tokio::runtime::{Builder, Runtime};

/// A worker for each CPU that the process may use. Where that is one, the thread that calls is the worker: tasks then
/// wake each other without the means that threads need. Threads for work that blocks have the workers' name, where there
/// are workers.
pub fn runtime() -> std::io::Result<Runtime> {
    let (mut builder, name) = match available_parallelism().map(NonZero::get) {
        Ok(1) => (Builder::new_current_thread(), "outgate-aside"),
        _ => (Builder::new_multi_thread(), "outgate"),
    };
    builder.enable_all().thread_name(name).build()
}
