//! Where a rule's script is asked. A script can only narrow; an error, a limit or anything that is no decision is a
//! deny; what it changes is judged again.

use super::judge::malformed;
use super::{Flow, Stop};
use crate::base::{Host, Scheme};
use crate::policy::{Change, Permit, Reason, Refusal, Rule, TunnelPermit};
use crate::script::{
    Decision, Failure, FailureKind, FlowView, MessageView, RequestView, ResponseView, Script, Way,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;

/// Asks `connect` and then `request` of the rule that spoke.
pub(super) fn on_request(flow: &Flow, permit: Permit) -> Result<Permit, Stop> {
    let Some(script) = permit.rule().script().cloned() else { return Ok(permit) };
    let rule = permit.rule().clone();
    if script.has_connect() {
        let request = permit.request();
        let asked = flow_view(flow, request.scheme(), request.host(), request.port());
        if decided(script.connect(asked), &rule, false)? == Next::EndOfChain {
            return Ok(permit);
        }
    }
    if !script.has_request() {
        return Ok(permit);
    }
    let ruling = script.request(request_view(flow, &permit));
    decided(ruling.decision, &rule, false)?;
    if !ruling.changes.any() {
        return Ok(permit);
    }
    let client = permit.client();
    let snapshot = permit.snapshot().clone();
    let RequestView { method, scheme, host, port, path, query, headers, .. } = ruling.view;
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let change = Change {
        method: Some(method),
        scheme: Some(scheme),
        host: Some(host),
        port: Some(port),
        target: Some(target),
        headers: ruling.changes.headers.then_some(headers),
    };
    let changed = permit.into_request().changed(change).map_err(|m| malformed(&m))?;
    Ok(snapshot.judge_request(client, changed)?)
}

/// Asks `connect` of a rule that relays bytes unread.
pub fn on_tunnel(flow: &Flow, permit: &TunnelPermit) -> Result<(), Refusal> {
    let Some(script) = permit.rule().script().filter(|script| script.has_connect()) else { return Ok(()) };
    let right = permit.dial();
    let asked = flow_view(flow, right.scheme(), right.host(), right.port());
    decided(script.connect(asked), permit.rule(), true).map(|_| ()).map_err(|stop| stop.refusal)
}

/// Asks `response`; it may change fields of the head.
pub(super) fn on_response(
    flow: &Flow,
    permit: &Permit,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<(), Stop> {
    let Some(script) = permit.rule().script().filter(|script| script.has_response()) else { return Ok(()) };
    let view = ResponseView { status, headers: headers.clone() };
    let ruling = script.response(request_view(flow, permit), view);
    decided(ruling.decision, permit.rule(), false)?;
    if ruling.changes.headers {
        *headers = ruling.view.headers;
    }
    Ok(())
}

/// The script that is asked about messages, where the rule has one, and its view but for the message.
pub(super) fn message_view(flow: &Flow, permit: &Permit, way: Way) -> Option<(Arc<Script>, MessageView)> {
    let script = permit.rule().script().filter(|script| script.has_message())?;
    let request = permit.request();
    let view = MessageView {
        client: flow.client_name.clone(),
        host: request.host().clone(),
        port: request.port(),
        path: request.path().into(),
        way,
        is_text: false,
        payload: Bytes::new(),
    };
    Some((script.clone(), view))
}

/// Asks `message` of each message of a WebSocket.
pub(super) fn on_message(script: &Script, view: MessageView, rule: &Rule) -> Result<(), Stop> {
    decided(script.message(view), rule, false).map(|_| ())
}

#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    EndOfChain,
}

fn decided(decision: Result<Decision, Failure>, rule: &Rule, may_tunnel: bool) -> Result<Next, Stop> {
    let (reason, detail) = match decision {
        Ok(Decision::Pass) => return Ok(Next::GoOn),
        Ok(Decision::Allow) => return Ok(Next::EndOfChain),
        Ok(Decision::Tunnel) if may_tunnel => return Ok(Next::EndOfChain),
        Ok(Decision::Tunnel) => {
            (Reason::ScriptError, "tunnel() is for rules with action = \"tunnel\"".to_owned())
        }
        Ok(Decision::Deny(words)) => (Reason::ScriptDenied, words),
        Err(failure) => {
            let reason = match failure.kind {
                FailureKind::Timeout | FailureKind::Operations => Reason::ScriptTimeout,
                FailureKind::Limit | FailureKind::Error | FailureKind::NotADecision => Reason::ScriptError,
            };
            (reason, failure.message)
        }
    };
    let mut stop = Stop::new(reason, detail);
    stop.refusal.rule = Some(rule.name().clone());
    Err(stop)
}

fn flow_view(flow: &Flow, scheme: Scheme, host: &Host, port: u16) -> FlowView {
    FlowView {
        client: flow.client_name.clone(),
        door: flow.door,
        source: flow.source.ip(),
        scheme,
        host: host.clone(),
        port,
    }
}

fn request_view(flow: &Flow, permit: &Permit) -> RequestView {
    let request = permit.request();
    RequestView {
        client: flow.client_name.clone(),
        door: flow.door,
        method: request.method().clone(),
        scheme: request.scheme(),
        host: request.host().clone(),
        port: request.port(),
        path: request.path().to_owned(),
        query: request.query().map(str::to_owned),
        headers: request.headers().clone(),
    }
}
