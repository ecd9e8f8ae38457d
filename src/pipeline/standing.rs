//! Whether what was permitted once would still be, after a reload: asked of everything that goes on for long.

use super::{Flow, Shared};
use crate::policy::{Permit, Snapshot};
use std::net::IpAddr;
use std::sync::Arc;

/// A permit that is judged again when the policy has changed.
pub struct Standing {
    shared: Arc<Shared>,
    permit: Permit,
    client_name: Arc<str>,
    interface: Option<Arc<str>>,
    source: IpAddr,
    /// The snapshot that said yes last.
    judged: Arc<Snapshot>,
    holds: bool,
}

impl Standing {
    pub(super) fn new(flow: &Flow, permit: Permit) -> Self {
        Self {
            shared: flow.shared.clone(),
            judged: permit.snapshot().clone(),
            permit,
            client_name: flow.client_name.clone(),
            interface: flow.interface.clone(),
            source: flow.source.ip(),
            holds: true,
        }
    }

    /// Costs a comparison while the policy has not changed.
    pub fn holds(&mut self) -> bool {
        let current = self.shared.snapshot.load();
        if self.holds && !Arc::ptr_eq(&current, &self.judged) {
            self.judged = current.clone();
            drop(current);
            self.holds = self.judged_again();
        }
        self.holds
    }

    fn judged_again(&self) -> bool {
        let client = self.judged.client(self.interface.as_deref(), self.source);
        let Some(client) = client.filter(|client| *self.judged.client_name(*client) == *self.client_name)
        else {
            return false;
        };
        self.judged.judge_request(client, self.permit.request().clone()).is_ok()
    }
}
