//! What is seen of a client's side of a request beside the bytes of its message: noted by whoever sees it, told by
//! whoever writes the request's one record. So a breach is never a second decision, and never lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// By default of a protocol that has no such side: nothing is ever noted.
#[derive(Debug, Clone, Default)]
pub struct Conduct(Option<Arc<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    breach: OnceLock<&'static str>,
    left: AtomicBool,
}

impl Conduct {
    /// Of a request that is watched.
    pub fn watched() -> Self {
        Self(Some(Arc::default()))
    }

    /// Notes that the client broke its protocol on this request; the first breach stands.
    pub fn broke(&self, how: &'static str) {
        if let Some(seen) = &self.0 {
            let _ = seen.breach.set(how);
        }
    }

    pub fn breach(&self) -> Option<&'static str> {
        self.0.as_ref()?.breach.get().copied()
    }

    /// Notes that the client gave the request up.
    pub(super) fn leave(&self) {
        if let Some(seen) = &self.0 {
            seen.left.store(true, Ordering::Relaxed);
        }
    }

    pub fn has_left(&self) -> bool {
        self.0.as_ref().is_some_and(|seen| seen.left.load(Ordering::Relaxed))
    }

    /// Nobody else holds it: what would be noted now would not be told.
    pub(super) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|seen| Arc::strong_count(seen) == 1)
    }
}
