//! The QUIC responder's seam: the policy knows its clients, the log records who was turned away.

use crate::audit::{self, Asker, FlowId, Text};
use crate::base::{Door, Ingress};
use crate::flow::Gate;
use crate::policy::Reason;
use crate::quic::Judge;
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) struct QuicJudge {
    pub(super) gate: Arc<Gate>,
    pub(super) ingress: Ingress,
}

impl QuicJudge {
    fn name(&self, source: SocketAddr) -> Option<Arc<str>> {
        let snapshot = self.gate.shared.snapshot.load();
        let client =
            snapshot.client_of(&self.gate.own.ingress_now(&self.ingress), source.ip().to_canonical())?;
        Some(snapshot.client_name(client).clone())
    }
}

impl Judge for QuicJudge {
    fn client(&self, source: SocketAddr) -> Option<u16> {
        self.name(source).map(|name| self.gate.registry.client_number(&name))
    }

    fn record(&self, source: SocketAddr) {
        let gate = &self.gate;
        let name = self.name(source);
        let (reason, detail) = match &name {
            Some(_) => (Reason::Protocol, "QUIC is not spoken here; the client was told so and takes TCP"),
            None => (Reason::UnknownClient, "QUIC from a source that belongs to no client"),
        };
        let snapshot = gate.shared.snapshot.load();
        let record = audit::Decision {
            id: FlowId { flow: gate.registry.next_number(), exchange: 0 },
            verdict: "deny",
            reason: Some(reason.as_str()),
            detail: Some(Text::from(detail)),
            policy: snapshot.version(),
            asker: &Asker::new(name.as_deref(), source, Door::Quic),
            proto: Some("udp"),
            ..audit::Decision::default()
        };
        gate.shared.metrics.decision(Door::Quic, record.verdict, record.reason);
        // Nothing leaves for it, so a record that finds no room is only counted as lost.
        let _ = gate.shared.log.decide_nowait(&record);
    }
}
