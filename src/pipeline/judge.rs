//! From a claimed request to one that may be sent: canonical form, verdict, the rule's edits, its script, DLP on the
//! head, and the place of placeholders. Whatever changes the request has it judged again.

use super::{Asked, Facts, Flow, Stop, hooks, overrides, record, scan};
use crate::base::{Host, Proto};
use crate::policy::{CanonicalRequest, Malformed, Permit, Reason, Refusal, Snapshot};
use crate::upstream::{Lane, UpstreamError};
use std::sync::Arc;

/// A request that passed every step before its record, and the lane that it may go by: made of one permit, and taken apart
/// only to be sent.
pub(super) struct Prepared {
    permit: Box<Permit>,
    lane: Lane,
}

impl Prepared {
    pub(super) fn permit(&self) -> &Permit {
        &self.permit
    }

    pub(super) fn apart(self) -> (Box<Permit>, Lane) {
        (self.permit, self.lane)
    }
}

pub(super) async fn prepare(
    flow: &Flow,
    snapshot: &Arc<Snapshot>,
    asked: Box<Asked>,
    length: Option<u64>,
    facts: &mut Facts,
) -> Result<Prepared, Stop> {
    let Asked { scheme, host, port, method, target, headers, proto, .. } = *asked;
    let request =
        CanonicalRequest::new(scheme, host, port, method, &target, headers).map_err(|m| malformed(&m))?;
    not_ourselves(flow, request.host())?;
    let client = flow.client_in(snapshot)?;
    let permit = snapshot.judge_request(client, request)?.edited();
    let permit = hooks::on_request(flow, permit)?;
    if permit.request().websocket() && (proto != Proto::H1 || length != Some(0)) {
        return Err(Stop::new(Reason::BadRequest, "a WebSocket handshake over HTTP/2 or with a body"));
    }
    scan::head(&permit, facts)?;
    scan::length(&permit, length)?;
    misplaced(snapshot, &permit)?;
    let prepared = Prepared { lane: flow.shared.upstream.lane(permit.dial()), permit: Box::new(permit) };
    blocked(flow, snapshot, &prepared, facts).await?;
    overrides::in_query(&prepared.permit, facts);
    Ok(prepared)
}

/// Refuses a literal address of the gate, whatever the rules say.
pub(crate) fn not_ourselves(flow: &Flow, host: &Host) -> Result<(), Refusal> {
    match host.ip() {
        Some(ip) if flow.shared.upstream.is_own(ip) => {
            Err(Refusal::new(Reason::AddrBlocked, "this is an address of the gate itself"))
        }
        _ => Ok(()),
    }
}

/// The refusal for a request without a canonical form.
pub(super) fn malformed(malformed: &Malformed) -> Stop {
    let mut stop = Stop::new(Reason::BadRequest, malformed.to_string());
    if matches!(malformed, Malformed::Connect) {
        stop.status = http::StatusCode::METHOD_NOT_ALLOWED;
    }
    stop
}

/// A placeholder may stand only where its rule will swap it.
fn misplaced(snapshot: &Snapshot, permit: &Permit) -> Result<(), Stop> {
    let placeholders = snapshot.placeholders();
    if placeholders.is_empty() {
        return Ok(());
    }
    let request = permit.request();
    let swapped = &permit.rule().request().swap;
    let wrong = |name: &Arc<str>| {
        Stop::new(
            Reason::SecretWrongHost,
            format!("the placeholder of {name} stands where this rule does not swap it"),
        )
    };
    if let Some(name) = placeholders.in_target(request.path_and_query().as_str()) {
        return Err(wrong(name));
    }
    for value in request.headers().values() {
        if let Some(name) = placeholders.in_header(value)
            && !swapped.contains(name)
        {
            return Err(wrong(name));
        }
    }
    Ok(())
}

/// Refuses where the name leads only to addresses that the guard never passes, while a refusal is still a decision.
/// The guard is asked again at the moment of dialling.
async fn blocked(
    flow: &Flow,
    snapshot: &Arc<Snapshot>,
    Prepared { permit, lane }: &Prepared,
    facts: &Facts,
) -> Result<(), Stop> {
    if flow.shared.upstream.holds(lane) {
        return Ok(());
    }
    let undecided = Undecided { flow, snapshot, facts, decided: false };
    let guarded = flow.shared.upstream.guard(lane).await;
    undecided.over();
    match guarded {
        Err(error @ UpstreamError::Blocked(_)) => {
            let mut stop = Stop::new(Reason::AddrBlocked, error.to_string());
            stop.refusal.rule = Some(permit.rule().name().clone());
            Err(stop)
        }
        // Any other failure shows again, and is answered, when the request is sent.
        _ => Ok(()),
    }
}

/// A request whose client may go away while its name is looked up: that is on record too.
struct Undecided<'a> {
    flow: &'a Flow,
    snapshot: &'a Arc<Snapshot>,
    facts: &'a Facts,
    decided: bool,
}

impl Undecided<'_> {
    fn over(mut self) {
        self.decided = true;
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        if !self.decided {
            let refusal = match self.facts.conduct.breach() {
                Some(breach) => Refusal::new(Reason::BadFraming, breach),
                None => Refusal::new(Reason::ClientGone, "the client went away before the decision"),
            };
            record::refuse_nowait(self.flow, self.snapshot, self.facts, &refusal);
        }
    }
}
