//! The runtime of the daemon.

use std::num::NonZero;
use std::thread::available_parallelism;
use tokio::runtime::{Builder, Runtime};

/// A worker for each CPU that the process may use. Where that is one, the thread that calls is the worker: tasks then
/// wake each other without the means that threads need.
pub fn runtime() -> std::io::Result<Runtime> {
    let mut builder = match available_parallelism().map(NonZero::get) {
        Ok(1) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.enable_all().thread_name("outgate").build()
}
