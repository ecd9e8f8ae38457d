//! First step: whose connection is it, and where did it want to go. A connection without a client or without a
//! destination outside is refused here, with a record.

use super::registry::{FlowInfo, Ticket};
use super::{Gate, refuse};
use crate::audit::{Asker, Decision, FlowId, Text};
use crate::base::{Door, OriginalDst};
use crate::net::{self, Accepted, OriginalDstError};
use crate::pipeline::Flow;
use crate::policy::{Reason, Refusal, Snapshot};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::net::TcpStream;

/// A connection of a known client.
pub(super) struct Identified {
    pub(super) stream: TcpStream,
    pub(super) flow: Flow,
    pub(super) ticket: Ticket,
}

/// A connection of a known client to a place outside.
pub(super) struct Targeted {
    pub(super) stream: TcpStream,
    pub(super) flow: Flow,
    pub(super) ticket: Ticket,
    pub(super) target: OriginalDst,
}

pub(super) async fn transparent(gate: &Arc<Gate>, accepted: Accepted, number: u64) -> Option<Targeted> {
    let target = match net::original_dst(&accepted.stream, accepted.delivery, &gate.own) {
        Ok(target) => target,
        Err(error) => {
            let reason = match error {
                OriginalDstError::NoDestination(_) => Reason::NoDestination,
                OriginalDstError::Loop(_) => Reason::Loop,
            };
            turn_away(
                gate,
                accepted,
                number,
                Door::Transparent,
                None,
                Refusal::new(reason, error.to_string()),
            )
            .await;
            return None;
        }
    };
    let Identified { stream, flow, ticket } = identify(gate, accepted, number, Some(target)).await?;
    Some(Targeted { stream, flow, ticket, target })
}

pub(super) async fn explicit(gate: &Arc<Gate>, accepted: Accepted, number: u64) -> Option<Identified> {
    identify(gate, accepted, number, None).await
}

async fn identify(
    gate: &Arc<Gate>,
    accepted: Accepted,
    number: u64,
    target: Option<OriginalDst>,
) -> Option<Identified> {
    let snapshot = gate.shared.snapshot.load_full();
    let source = canonical(accepted.client.0);
    let door = if target.is_some() { Door::Transparent } else { Door::Explicit };
    let Some(client) = snapshot.client_of(&accepted.ingress, source.ip()) else {
        let detail = format!("no client has this source on {}", accepted.ingress.shown());
        turn_away(gate, accepted, number, door, target, Refusal::new(Reason::UnknownClient, detail)).await;
        return None;
    };
    let client_name = snapshot.client_name(client).clone();
    let target = target.map(|t| t.0);
    let info = FlowInfo {
        number,
        client: client_name.clone(),
        source,
        door,
        target,
        name: None,
        since: Instant::now(),
    };
    let settings = &gate.settings;
    let Some(ticket) = gate.registry.enter(info, settings.flows_per_client, settings.flows_total) else {
        let refusal = Refusal::new(Reason::Limit, "the client has as many open connections as it may");
        turn_away(gate, accepted, number, door, target.map(OriginalDst), refusal).await;
        return None;
    };
    let flow = Flow {
        shared: gate.shared.clone(),
        number,
        exchanges: AtomicU32::new(0),
        snapshot,
        client,
        ingress: accepted.ingress,
        client_name,
        source,
        door,
        orig_dst: target,
        sni: None,
        asker: OnceLock::new(),
    };
    Some(Identified { stream: accepted.stream, flow, ticket })
}

/// Records and resets a connection that never becomes a flow of a client.
async fn turn_away(
    gate: &Arc<Gate>,
    accepted: Accepted,
    number: u64,
    door: Door,
    target: Option<OriginalDst>,
    refusal: Refusal,
) {
    let snapshot: Arc<Snapshot> = gate.shared.snapshot.load_full();
    let decision = Decision {
        id: FlowId { flow: number, exchange: 1 },
        verdict: "deny",
        reason: Some(refusal.reason.as_str()),
        detail: Some(Text::from(&refusal.detail)),
        policy: snapshot.version(),
        asker: &Asker::new(None, accepted.client.0, door).to(target.map(|t| t.0)),
        proto: Some("tcp"),
        ..Decision::default()
    };
    gate.shared.metrics.decision(door, "deny", Some(refusal.reason.as_str()));
    // The answer is a reset either way; the log counts what it could not write.
    let _ = gate.shared.log.decide(&decision).await;
    refuse::reset(accepted.stream);
}

/// A mapped address is its IPv4 address, as policies and records know it.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
