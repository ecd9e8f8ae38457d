//! Which rule speaks for a request, and why each other rule that names the host does not. Asks the same judge as the
//! doors do, so that what it says is what happens.

use super::client::ClientId;
use super::matching::{Judged, Stage};
use super::rule::{Action, Rule};
use super::{CanonicalRequest, ConnectVerdict, Reason, Refusal, Snapshot};
use crate::base::Scheme;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// What happens to a request on its whole way: the connection first, then the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
    Tunnel,
    Observe,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Tunnel => "tunnel",
            Self::Observe => "observe",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Allow, Self::Deny, Self::Tunnel, Self::Observe].into_iter().find(|v| v.as_str() == text)
    }
}

/// The short answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub verdict: Verdict,
    pub rule: Option<String>,
    /// Of a deny, as it stands in records.
    pub reason: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    pub request: String,
    pub client: String,
    #[serde(flatten)]
    pub finding: Finding,
    pub policy: String,
    /// Every rule of this host, in file order.
    pub rules: Vec<RuleView>,
    /// Rules of this client that do not name the host.
    pub other_rules: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct RuleView {
    pub rule: String,
    pub place: String,
    pub action: &'static str,
    /// `None`: it matches.
    pub failed: Option<Stage>,
    pub why: String,
}

impl Finding {
    pub(super) fn refused(refusal: &Refusal) -> Self {
        Self {
            verdict: Verdict::Deny,
            rule: refusal.rule.as_deref().map(str::to_owned),
            reason: Some(refusal.reason.as_str()),
        }
    }

    pub(super) fn passed(verdict: Verdict, rule: &Arc<Rule>) -> Self {
        Self { verdict, rule: Some(rule.name.to_string()), reason: None }
    }
}

impl Snapshot {
    /// The verdict on a request that comes in through any door.
    pub fn find(self: &Arc<Self>, client: ClientId, request: &CanonicalRequest) -> Finding {
        if request.scheme() == Scheme::Https {
            match self.judge_connect(client, request.host(), request.port()) {
                ConnectVerdict::Tunnel(permit) => return Finding::passed(Verdict::Tunnel, permit.rule()),
                ConnectVerdict::Refuse(refusal) => return Finding::refused(&refusal),
                ConnectVerdict::Intercept(_) => {}
            }
        }
        match self.judge_request(client, request.clone()) {
            Ok(permit) if permit.observed() => Finding::passed(Verdict::Observe, permit.rule()),
            Ok(permit) => Finding::passed(Verdict::Allow, permit.rule()),
            Err(refused) => Finding::refused(&refused.refusal),
        }
    }

    pub fn explain(self: &Arc<Self>, client: ClientId, request: &CanonicalRequest) -> Explanation {
        let finding = self.find(client, request);
        let judged = Judged::new(request);
        let mut rules = Vec::new();
        let mut other_rules = 0;
        for rule in &self.rules {
            if !rule.covers_host(request.host()) {
                other_rules += usize::from(rule.speaks_for(client));
                continue;
            }
            let failed =
                if rule.speaks_for(client) { self.failed(rule, &judged) } else { Some(Stage::Client) };
            rules.push(RuleView {
                rule: rule.name.to_string(),
                place: rule.place(),
                action: rule.action.as_str(),
                failed,
                why: why(rule, failed, &finding),
            });
        }
        let target = request.path_and_query();
        let request =
            format!("{} {}://{}{target}", request.method(), request.scheme().as_str(), request.authority());
        Explanation {
            request,
            client: self.client_name(client).to_string(),
            finding,
            policy: self.version().to_owned(),
            rules,
            other_rules,
        }
    }

    fn failed(&self, rule: &Rule, judged: &Judged<'_>) -> Option<Stage> {
        let request = judged.request;
        match rule.action {
            Action::Tunnel => rule.opens(request.scheme(), request.port()).err(),
            _ => rule.test(judged).err(),
        }
    }
}

fn why(rule: &Rule, failed: Option<Stage>, finding: &Finding) -> String {
    let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    match failed {
        None if finding.rule.as_deref() == Some(&*rule.name) => "this rule decides".into(),
        None if finding.reason == Some(Reason::RuleDenied.as_str()) => "matches, but a deny wins".into(),
        None if finding.verdict == Verdict::Deny => {
            "matches, but the request is refused for another reason".into()
        }
        None => "matches, but an earlier or stronger rule decides".into(),
        Some(Stage::Client) => "speaks for other clients".into(),
        Some(Stage::Scheme) => format!("opens {} only", rule.scheme.map_or("nothing", Scheme::as_str)),
        Some(Stage::Port) => format!("opens port {} only", list(rule.ports.as_deref().unwrap_or_default())),
        Some(Stage::Path) => "the path does not match in every reading".into(),
        Some(Stage::Method) => "the method is not among its methods".into(),
        Some(Stage::Query) => "the query does not match in every reading".into(),
        Some(Stage::Header) => "a header field does not match".into(),
        Some(Stage::Git) => "it lets git read this repository, and this would write to it".into(),
        Some(Stage::WebSocket) => "it has no websocket = true".into(),
        Some(Stage::Doh) => "it has no doh = true, and this is a DNS question".into(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.request)?;
        write!(f, "for client {:?}: {}", self.client, self.finding.verdict.as_str())?;
        if let Some(rule) = &self.finding.rule {
            write!(f, " by rule {rule:?}")?;
        }
        if let Some(reason) = self.finding.reason {
            write!(f, " ({reason})")?;
        }
        writeln!(f, ", policy {}", self.policy)?;
        for view in &self.rules {
            let mark = if view.failed.is_none() { '+' } else { '-' };
            writeln!(f, "  {mark} {:?} ({}, {}): {}", view.rule, view.action, view.place, view.why)?;
        }
        if self.rules.is_empty() {
            writeln!(f, "  no rule names this host")?;
        }
        write!(f, "  {} other rules are for other hosts", self.other_rules)
    }
}
