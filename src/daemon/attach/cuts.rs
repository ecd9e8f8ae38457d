//! How the flows of an attachment end when it is detached.

use crate::base::Ingress;
use crate::rt::Drain;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Tells flows of attachments when to end.
#[derive(Default)]
pub(crate) struct Cuts(Mutex<HashMap<Arc<str>, Drain>>);

/// What holds for a flow that came in somewhere.
pub(in crate::daemon) enum Cut {
    /// Nothing: it belongs to no attachment.
    Never,
    When(Drain),
    /// What it came in by was detached meanwhile.
    Now,
}

impl Cuts {
    pub(in crate::daemon) fn of(&self, ingress: &Ingress) -> Cut {
        let Ingress::Attached { name, .. } = ingress else { return Cut::Never };
        self.lock().get(name).cloned().map_or(Cut::Now, Cut::When)
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Drain>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
