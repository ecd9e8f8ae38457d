//! Interim answers on their way to a client. They wait here for the few moments until the client's side writes them;
//! the upstream side lets only a few of them come, and they are gone with their exchange.

use http::Response;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Those of one exchange. Nobody is woken for them: they are put in by the future that answers, and whoever polls that
/// one looks here after it. Costs nothing while there are none.
pub struct Interims {
    passes: bool,
    waiting: Mutex<VecDeque<Response<()>>>,
}

impl Interims {
    /// `passes`: whether the client may have them. One of HTTP/1.0 may not (RFC 9110 section 15.2).
    pub fn new(passes: bool) -> Self {
        Self { passes, waiting: Mutex::default() }
    }

    /// The next one, for the client.
    pub fn next(&self) -> Option<Response<()>> {
        self.lock().pop_front()
    }

    pub(super) fn put(&self, interim: Response<()>) {
        if self.passes {
            self.lock().push_back(interim);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Response<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
