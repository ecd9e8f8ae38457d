//! Whether what was let through would be let through still. A reload may take it back while bytes flow, so a request
//! that is on its way, an answer that streams and a WebSocket are judged again, once under each new policy.

use super::judge::Prepared;
use super::{Flow, Shared, Stop, client_in};
use crate::policy::{Reason, Snapshot};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long something may go on after its policy has gone.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A request that was let through, whose it is, and the policy under which that was last found right.
pub struct Standing {
    pub(super) prepared: Prepared,
    shared: Arc<Shared>,
    interface: Option<Arc<str>>,
    source: IpAddr,
    client_name: Arc<str>,
    judged: Arc<Snapshot>,
}

impl Standing {
    pub(super) fn new(flow: &Flow, prepared: Prepared) -> Self {
        Self {
            shared: flow.shared.clone(),
            interface: flow.interface.clone(),
            source: flow.source.ip(),
            client_name: flow.client_name.clone(),
            judged: prepared.permit.snapshot().clone(),
            prepared,
        }
    }

    /// Ends when a reload has taken the permission back.
    pub(super) async fn lost(&mut self) -> Stop {
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.holds() {
                return Stop::new(Reason::Reload, "a reload no longer allows what was under way");
            }
        }
    }

    pub fn holds(&mut self) -> bool {
        if Arc::ptr_eq(&self.shared.snapshot.load(), &self.judged) {
            return true;
        }
        let now = self.shared.snapshot.load_full();
        let request = self.prepared.permit.request();
        let holds = client_in(&now, self.interface.as_deref(), self.source, &self.client_name)
            .is_ok_and(|client| now.judge_request(client, request.clone()).is_ok());
        if holds {
            self.judged = now;
        }
        holds
    }
}
