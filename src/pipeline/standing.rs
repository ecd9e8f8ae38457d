//! Whether what was let through may go on. A reload may take it back while bytes flow, so a request that is on its
//! way, an answer that streams and a WebSocket are judged again, once under each new policy; and a daemon that stops ends
//! them when its patience does.

use super::{Flow, Stop};
use crate::policy::{Permit, Reason, Snapshot};
use std::sync::Arc;
use std::time::Duration;

/// How long something may go on after its policy has gone.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A request that was let through, whose it is, and the policy under which that was last found right.
pub struct Standing {
    pub(super) permit: Box<Permit>,
    flow: Arc<Flow>,
    /// A later one than the permit's own.
    judged: Option<Arc<Snapshot>>,
}

impl Standing {
    pub(super) fn new(flow: &Arc<Flow>, permit: Box<Permit>) -> Self {
        Self { flow: flow.clone(), judged: None, permit }
    }

    /// Ends when it may not go on, and says why.
    pub(super) async fn lost(&self) -> Reason {
        let mut judged = None;
        loop {
            tokio::time::sleep(LOOK).await;
            match self.holds_since(judged.as_ref().unwrap_or(self.judged())) {
                Ok(now) => judged = now.or(judged),
                Err(reason) => return reason,
            }
        }
    }

    /// Why it may not go on: `Shutdown` or `Reload`.
    pub fn holds(&mut self) -> Result<(), Reason> {
        if let Some(now) = self.holds_since(self.judged())? {
            self.judged = Some(now);
        }
        Ok(())
    }

    fn judged(&self) -> &Arc<Snapshot> {
        self.judged.as_ref().unwrap_or(self.permit.snapshot())
    }

    /// The policy under which it was found right, where that is another one than the last.
    fn holds_since(&self, judged: &Arc<Snapshot>) -> Result<Option<Arc<Snapshot>>, Reason> {
        let shared = &self.flow.shared;
        if shared.drain.is_over() {
            return Err(Reason::Shutdown);
        }
        if Arc::ptr_eq(&shared.snapshot.load(), judged) {
            return Ok(None);
        }
        let now = shared.snapshot.load_full();
        let request = self.permit.request();
        let client = self.flow.client_in(&now);
        let holds = client.is_ok_and(|client| now.judge_request(client, request.clone()).is_ok());
        if holds { Ok(Some(now)) } else { Err(Reason::Reload) }
    }
}

/// The answer to a request that was ended before its own had begun.
pub(super) fn stop(reason: Reason) -> Stop {
    match reason {
        Reason::Shutdown => Stop::new(reason, "the gate stopped while this was under way"),
        _ => Stop::new(reason, "a reload no longer allows what was under way"),
    }
}
