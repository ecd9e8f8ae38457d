//! The decision record of an exchange: what was asked, what was decided. Written before anything goes upstream.

use super::overrides::METHOD_OVERRIDE;
use super::{Asked, Ending, Flow, Form, Rejected, Stop};
use crate::audit::{Decision, Finding, FlowId, Text};
use crate::base::Scheme;
use crate::codec::Conduct;
use crate::policy::{Permit, Reason, Refusal, Snapshot};
use http::Method;
use std::sync::Arc;

/// What a request said of itself, kept for its record and its page. Taken before anything is rewritten.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    pub scheme: Option<Scheme>,
    pub authority: Arc<str>,
    /// Of a request; a connection and what is no HTTP have none.
    pub method: Option<Method>,
    pub target: String,
    pub proto: Option<&'static str>,
    pub dst_mismatch: bool,
    /// How its client wants to be told no.
    pub form: Form,
    pub findings: Vec<(String, &'static str, String)>,
    pub conduct: Conduct,
}

impl Facts {
    pub(crate) fn of(asked: &Asked) -> Self {
        Self {
            scheme: Some(asked.scheme),
            authority: asked.host.authority(asked.scheme, asked.port),
            method: Some(asked.method.clone()),
            target: asked.target.clone(),
            proto: Some(asked.proto.as_str()),
            dst_mismatch: asked.dst_mismatch,
            form: Form::of(&asked.headers),
            findings: Vec::new(),
            conduct: asked.conduct.clone(),
        }
    }

    pub(crate) fn rejected(rejected: &Rejected) -> Self {
        Self {
            scheme: Some(rejected.scheme),
            authority: rejected.authority.as_str().into(),
            method: rejected.method.clone(),
            target: rejected.target.clone(),
            proto: Some(rejected.proto.as_str()),
            dst_mismatch: false,
            form: Form::Text,
            findings: Vec::new(),
            conduct: Conduct::default(),
        }
    }

    /// A target in which something was found is not told.
    fn shown<'a>(&self, target: &'a str) -> &'a str {
        let found = self.findings.iter().any(|(_, place, _)| *place == "target");
        if found { "*" } else { target }
    }

    /// A connection that is decided before it has requests.
    pub fn connection(authority: impl Into<Arc<str>>, proto: &'static str) -> Self {
        Self { authority: authority.into(), proto: Some(proto), ..Self::default() }
    }
}

/// Records that a prepared request is let through. When it cannot be recorded, it is not let through.
pub(super) async fn allow(
    flow: &Flow,
    snapshot: &Arc<Snapshot>,
    facts: &Facts,
    permit: &Permit,
) -> Result<Arc<Ending>, Stop> {
    let id = flow.next_id();
    let is_dlp = facts.findings.iter().any(|(detector, ..)| detector != METHOD_OVERRIDE);
    let (verdict, reason) = match (permit.observed(), is_dlp) {
        (true, _) => ("observe", Some(Reason::WouldDeny)),
        (false, true) => ("allow", Some(Reason::Dlp)),
        (false, false) => ("allow", None),
    };
    let rule = Some(&**permit.rule().name());
    // What was judged is what is recorded: the canonical request, not what came in.
    let path = facts.shown(permit.request().path_and_query().as_str());
    let written = write(flow, snapshot, id, Entry { verdict, reason, rule, detail: None, path, facts });
    // The record is on its way: from here on there is an end to tell, also when nobody waits any more.
    let ending = Ending::new(flow.shared.clone(), id, facts.conduct.clone());
    written.await.inspect_err(|_| ending.never_began())?;
    Ok(ending)
}

/// Records that a connection is let through as it is.
pub async fn decide(
    flow: &Flow,
    snapshot: &Arc<Snapshot>,
    facts: &Facts,
    verdict: &'static str,
    rule: &str,
) -> Result<Arc<Ending>, Refusal> {
    let id = flow.next_id();
    let entry = Entry {
        verdict,
        reason: None,
        rule: Some(rule),
        detail: None,
        path: facts.shown(&facts.target),
        facts,
    };
    let written = write(flow, snapshot, id, entry);
    let ending = Ending::new(flow.shared.clone(), id, facts.conduct.clone());
    written.await.inspect_err(|_| ending.never_began()).map_err(|stop| stop.refusal)?;
    Ok(ending)
}

/// Records a refusal. A record that cannot be written changes nothing: the answer is no either way, and the log
/// itself counts what it lost.
pub async fn refuse(flow: &Flow, snapshot: &Arc<Snapshot>, facts: &Facts, refusal: &Refusal) {
    let _ = refusing(flow, snapshot, facts, refusal).await;
}

/// As [`refuse`], where nobody can wait.
pub(super) fn refuse_nowait(flow: &Flow, snapshot: &Arc<Snapshot>, facts: &Facts, refusal: &Refusal) {
    drop(refusing(flow, snapshot, facts, refusal));
}

fn refusing(
    flow: &Flow,
    snapshot: &Arc<Snapshot>,
    facts: &Facts,
    refusal: &Refusal,
) -> impl Future<Output = Result<(), Stop>> + Send + use<> {
    let id = flow.next_id();
    let entry = Entry {
        verdict: "deny",
        reason: Some(refusal.reason),
        rule: refusal.rule.as_deref(),
        detail: Some(&refusal.detail),
        path: facts.shown(&facts.target),
        facts,
    };
    write(flow, snapshot, id, entry)
}

struct Entry<'a> {
    verdict: &'static str,
    reason: Option<Reason>,
    rule: Option<&'a str>,
    detail: Option<&'a str>,
    path: &'a str,
    facts: &'a Facts,
}

/// Puts a record on its way; what it gives is waited on until the kernel has it.
fn write(
    flow: &Flow,
    snapshot: &Arc<Snapshot>,
    id: FlowId,
    entry: Entry<'_>,
) -> impl Future<Output = Result<(), Stop>> + Send + use<> {
    let facts = entry.facts;
    let findings: Vec<Finding<'_>> = facts
        .findings
        .iter()
        .map(|(detector, place, encoding)| Finding { detector, place, encoding })
        .collect();
    let decision = Decision {
        id,
        verdict: entry.verdict,
        reason: entry.reason.map(Reason::as_str),
        rule: entry.rule,
        detail: entry.detail.map(Text::from),
        policy: snapshot.version(),
        asker: flow.asker(),
        proto: facts.proto,
        dst_mismatch: facts.dst_mismatch,
        scheme: facts.scheme,
        authority: some(&facts.authority),
        method: facts.method.as_ref().map(|method| Text::from(method.as_str())),
        path: some(entry.path),
        findings: &findings,
        dns: None,
    };
    flow.shared.metrics.decision(flow.door, entry.verdict, entry.reason.map(Reason::as_str));
    let written = flow.shared.log.decide(&decision);
    async move { written.await.map_err(|error| Stop::new(Reason::Audit, error.to_string())) }
}

fn some(text: &str) -> Option<Text<'_>> {
    (!text.is_empty()).then(|| Text::from(text))
}
