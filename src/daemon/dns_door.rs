//! The DNS door's two seams: the policy judges its questions, the log records them.

use crate::audit::{self, Asker, End, FlowId, Text};
use crate::base::{ClientAddr, Door, HostName, Ingress};
use crate::dns::{Answered, Decision, Judge, Judged, Outcome, Recorder};
use crate::flow::Gate;
use crate::policy::{DnsVerdict, Reason};
use std::sync::Arc;

/// Asks the policy of the moment, for questions that come in at one place.
pub(super) struct PolicyJudge {
    pub(super) gate: Arc<Gate>,
    pub(super) ingress: Ingress,
}

impl Judge for PolicyJudge {
    fn judge(&self, source: ClientAddr, name: Option<&HostName>, qtype: u16) -> Judged {
        let gate = &self.gate;
        let snapshot = gate.shared.snapshot.load_full();
        let Some(client) =
            snapshot.client_of(&gate.own.ingress_now(&self.ingress), source.0.ip().to_canonical())
        else {
            return Judged::UnknownClient;
        };
        let number = gate.registry.client_number(&snapshot.client_name(client));
        let Some(name) = name else {
            let detail = "what was asked is no host name".to_owned();
            return Judged::Deny { client: number, rule: None, reason: Reason::DnsDenied.as_str(), detail };
        };
        match snapshot.judge_dns(client, name, qtype) {
            DnsVerdict::Resolve { rule, private, wildcard } => {
                Judged::Resolve { client: number, rule, private, wildcard }
            }
            DnsVerdict::NoData => Judged::NoData { client: number },
            DnsVerdict::Deny(refusal) => Judged::Deny {
                client: number,
                rule: refusal.rule,
                reason: refusal.reason.as_str(),
                detail: refusal.detail,
            },
        }
    }
}

/// Writes questions down like every other decision.
pub(super) struct QuestionLog {
    pub(super) gate: Arc<Gate>,
    pub(super) ingress: Ingress,
}

impl Recorder for QuestionLog {
    fn decided(&self, decision: &Decision<'_>) -> Option<u64> {
        let gate = &self.gate;
        let number = gate.registry.next_number();
        let snapshot = gate.shared.snapshot.load();
        let ip = decision.asked.source.0.ip().to_canonical();
        let client = snapshot
            .client_of(&gate.own.ingress_now(&self.ingress), ip)
            .map(|client| snapshot.client_name(client));
        let allowed = decision.outcome == Outcome::Allowed;
        let record = audit::Decision {
            id: FlowId { flow: number, exchange: 0 },
            verdict: if allowed { "allow" } else { "deny" },
            reason: (!allowed).then(|| reason(decision.outcome, decision.reason)),
            rule: decision.rule.map(|rule| &**rule),
            detail: (!decision.detail.is_empty()).then(|| Text::from(decision.detail)),
            policy: snapshot.version(),
            asker: &Asker::new(client.as_deref(), decision.asked.source.0, Door::Dns),
            proto: Some(decision.asked.transport.as_str()),
            dns: Some(audit::Dns {
                qname: Text::from(&*decision.asked.name),
                qtype: decision.asked.qtype,
                ..audit::Dns::default()
            }),
            ..audit::Decision::default()
        };
        gate.shared.metrics.decision(Door::Dns, record.verdict, record.reason);
        gate.shared.log.decide_nowait(&record).ok().map(|()| number)
    }

    fn answered(&self, id: u64, answered: &Answered<'_>) {
        self.gate.shared.log.end(&End {
            id: FlowId { flow: id, exchange: 0 },
            outcome: outcome(answered.outcome),
            reason: ended(answered.outcome),
            duration: answered.duration,
            dns: Some(audit::Dns {
                qname: Text::from(&*answered.asked.name),
                qtype: answered.asked.qtype,
                rcode: Some(rcode(answered.outcome)),
                answers: answered.given,
                blocked: answered.blocked,
                chain: answered.chain,
                ttl: Some(answered.ttl),
            }),
            ..End::default()
        });
    }
}

/// The reason class of a question that was not let through.
fn reason(outcome: Outcome, policy: &str) -> &'static str {
    match outcome {
        Outcome::Denied => {
            if policy == Reason::RuleDenied.as_str() {
                Reason::RuleDenied
            } else {
                Reason::DnsDenied
            }
        }
        Outcome::TypeClosed => Reason::DnsType,
        Outcome::Budget => Reason::DnsBudget,
        Outcome::UnknownClient => Reason::UnknownClient,
        Outcome::NotServed | Outcome::Malformed => Reason::BadRequest,
        Outcome::Limit => Reason::Limit,
        Outcome::AddrBlocked => Reason::AddrBlocked,
        Outcome::Allowed | Outcome::Answered | Outcome::Empty | Outcome::NoSuchName | Outcome::Failed(_) => {
            Reason::Dns
        }
    }
    .as_str()
}

/// What the client was told.
fn rcode(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NoSuchName | Outcome::Denied | Outcome::Budget => "NXDOMAIN",
        Outcome::Failed(_) | Outcome::Limit => "SERVFAIL",
        Outcome::UnknownClient | Outcome::NotServed => "REFUSED",
        Outcome::Malformed => "FORMERR",
        Outcome::Allowed
        | Outcome::Answered
        | Outcome::Empty
        | Outcome::AddrBlocked
        | Outcome::TypeClosed => "NOERROR",
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered | Outcome::Empty | Outcome::NoSuchName | Outcome::TypeClosed | Outcome::Allowed => {
            "done"
        }
        Outcome::AddrBlocked
        | Outcome::Denied
        | Outcome::Budget
        | Outcome::UnknownClient
        | Outcome::NotServed
        | Outcome::Malformed
        | Outcome::Limit => "blocked",
        Outcome::Failed(_) => "failed",
    }
}

fn ended(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::AddrBlocked => Some(Reason::AddrBlocked.as_str()),
        Outcome::Failed(_) => Some(Reason::Dns.as_str()),
        Outcome::Budget => Some(Reason::DnsBudget.as_str()),
        Outcome::Limit => Some(Reason::Limit.as_str()),
        Outcome::Allowed
        | Outcome::Answered
        | Outcome::Empty
        | Outcome::NoSuchName
        | Outcome::TypeClosed
        | Outcome::Denied
        | Outcome::UnknownClient
        | Outcome::NotServed
        | Outcome::Malformed => None,
    }
}
