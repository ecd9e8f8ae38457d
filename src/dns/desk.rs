//! The path of one question: bounds, reading, judging, recording, and the answer, from the cache at once or after one
//! look-up. Knows no sockets. A question that was not judged, not recorded or not allowed asks nothing upstream.

use super::door::DoorSettings;
use super::limit::{Counters, NameBudget, Rate, Slot, Slots};
use super::message::{self, Incoming};
use super::reply::Reply;
use super::resolver::{Answer, Family, ResolveError};
use super::seam::{Answered, Asked, Decision, Judged, Outcome, Transport};
use super::{Parts, usable};
use crate::base::{ClientAddr, HostName};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::server::Request;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Where questions are answered.
pub(super) struct Desk {
    parts: Parts,
    negative_ttl: u32,
    rate: Rate,
    budget: NameBudget,
    waiting: Arc<Slots<u16>>,
}

/// What to do with a message.
pub(super) enum Step {
    Silence,
    Reply(Vec<u8>),
    /// Upstream must be asked; the answer comes from [`Waiting::answer`].
    Wait(Box<Waiting>),
}

/// An allowed question whose addresses are not in the cache.
pub(super) struct Waiting {
    desk: Arc<Desk>,
    allowed: Allowed,
    _slot: Slot<u16>,
}

/// A question with the verdict that opens it.
struct Allowed {
    request: Request,
    asked: Asked,
    name: HostName,
    family: Family,
    client: u16,
    private: Vec<IpNet>,
    record: u64,
    since: Instant,
}

/// What a question is answered with when it is not resolved.
struct No {
    code: ResponseCode,
    negative: bool,
    blocked: bool,
    outcome: Outcome,
}

impl Desk {
    pub(super) fn new(settings: &DoorSettings, parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            negative_ttl: settings.negative_ttl.as_secs().try_into().unwrap_or(u32::MAX),
            rate: Rate::new(settings.rate, settings.burst, settings.sources),
            budget: NameBudget::new(
                settings.wildcard_names,
                settings.wildcard_window,
                settings.remembered_names,
            ),
            waiting: Slots::new(settings.waiting, settings.waiting_per_client),
        })
    }

    /// Takes one message as far as it goes without waiting.
    pub(super) fn take(self: &Arc<Self>, bytes: &[u8], source: SocketAddr, transport: Transport) -> Step {
        Counters::add(&self.parts.counters.messages);
        let source = ClientAddr(SocketAddr::new(source.ip().to_canonical(), source.port()));
        if !self.rate.allow(source.0.ip(), Instant::now()) {
            Counters::add(&self.parts.counters.rate_dropped);
            return Step::Silence;
        }
        match message::read(bytes, source.0, transport) {
            Incoming::Silence => Step::Silence,
            Incoming::Reject { reply, why } => {
                let asked = Asked { source, transport, name: "".into(), qtype: 0 };
                self.decide(&asked, None, Outcome::Malformed, None, "bad_request", &why.to_string());
                Step::Reply(reply.to_vec())
            }
            Incoming::Question(request) => self.question(request, source, transport),
        }
    }

    fn question(self: &Arc<Self>, request: Request, source: ClientAddr, transport: Transport) -> Step {
        let since = Instant::now();
        let Some(query) = request.queries.queries().first() else { return Step::Silence };
        let (class, qtype) = (query.query_class(), query.query_type());
        let name = message::host_name(query.original().name());
        let text = match &name {
            Some(name) => name.as_str().into(),
            None => message::name_text(query.original().name()).into(),
        };
        let asked = Asked { source, transport, name: text, qtype: qtype.into() };
        let judged = self.parts.judge.judge(source, name.as_ref(), asked.qtype);
        let client = judged.client();
        if client.is_some()
            && let Some((no, reason)) = not_served(&request, class, qtype)
        {
            self.decide(&asked, client, no.outcome, None, "bad_request", reason);
            return self.no(&request, transport, &no);
        }
        match (judged, name) {
            (Judged::Resolve { client, rule, private, wildcard }, Some(name)) => {
                let Some(family) = family(qtype) else {
                    return self.refuse(
                        &request,
                        &asked,
                        Some(client),
                        No::empty(Outcome::TypeClosed),
                        Some(&rule),
                    );
                };
                if wildcard && !self.budget.allow(client, name.as_str(), Instant::now()) {
                    return self.refuse(
                        &request,
                        &asked,
                        Some(client),
                        No::denied(Outcome::Budget),
                        Some(&rule),
                    );
                }
                let allowed = Allowed { request, asked, name, family, client, private, record: 0, since };
                self.allow(allowed, &rule)
            }
            (Judged::NoData { client }, Some(_)) => {
                self.refuse(&request, &asked, Some(client), No::empty(Outcome::TypeClosed), None)
            }
            (Judged::Deny { client, rule, reason, detail }, _) => {
                self.decide(&asked, Some(client), Outcome::Denied, rule.as_ref(), reason, &detail);
                self.no(&request, transport, &No::denied(Outcome::Denied))
            }
            (Judged::UnknownClient, _) => {
                self.refuse(&request, &asked, None, No::refused(Outcome::UnknownClient), None)
            }
            (_, None) => {
                let no = No::denied(Outcome::Denied);
                self.decide(&asked, client, no.outcome, None, "dns_denied", "the name is no host name");
                self.no(&request, transport, &no)
            }
        }
    }

    /// Records the decision, then answers from the cache or asks for a place to wait.
    fn allow(self: &Arc<Self>, mut allowed: Allowed, rule: &Arc<str>) -> Step {
        let cached = match self.parts.leases.lends() {
            Some(ttl) => match self.lent(&allowed, ttl) {
                Some(lent) => Some(lent),
                None => {
                    let (client, no) = (Some(allowed.client), No::failed(Outcome::Limit));
                    return self.refuse(&allowed.request, &allowed.asked, client, no, Some(rule));
                }
            },
            None => self.parts.resolver.cached(&allowed.name, allowed.family),
        };
        let slot = match cached {
            Some(_) => None,
            None => match self.waiting.take(allowed.client) {
                Some(slot) => Some(slot),
                None => {
                    let no = No::failed(Outcome::Limit);
                    return self.refuse(
                        &allowed.request,
                        &allowed.asked,
                        Some(allowed.client),
                        no,
                        Some(rule),
                    );
                }
            },
        };
        let client = Some(allowed.client);
        let Some(record) = self.decide(&allowed.asked, client, Outcome::Allowed, Some(rule), "allowed", "")
        else {
            return self.no(&allowed.request, allowed.asked.transport, &No::failed(Outcome::Limit));
        };
        allowed.record = record;
        match (cached, slot) {
            (Some(result), _) => Step::Reply(self.answer(&allowed, result)),
            (None, Some(slot)) => Step::Wait(Box::new(Waiting { desk: self.clone(), allowed, _slot: slot })),
            (None, None) => Step::Silence,
        }
    }

    /// The answer that stands for the name, without anybody being asked. `None`: the client has too many names.
    fn lent(&self, allowed: &Allowed, ttl: Duration) -> Option<Result<Arc<Answer>, ResolveError>> {
        let addresses = self.parts.leases.lend(allowed.client, &allowed.name, allowed.family)?;
        if addresses.is_empty() {
            return Some(Err(ResolveError::NoData));
        }
        Some(Ok(Arc::new(Answer { addresses, chain: Vec::new(), valid_until: allowed.since + ttl })))
    }

    /// Filters, remembers, records and writes the answer.
    fn answer(&self, allowed: &Allowed, result: Result<Arc<Answer>, ResolveError>) -> Vec<u8> {
        let Allowed { request, asked, name, client, private, record, since, .. } = allowed;
        let lends = self.parts.leases.lends().is_some();
        let mut end = Answered {
            asked,
            client: *client,
            outcome: Outcome::Answered,
            given: &[],
            blocked: &[],
            chain: &[],
            ttl: self.negative_ttl,
            duration: since.elapsed(),
        };
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => {
                end.outcome = match error {
                    ResolveError::NxDomain => Outcome::NoSuchName,
                    ResolveError::NoData => Outcome::Empty,
                    _ => Outcome::Failed(error),
                };
                self.parts.recorder.answered(*record, &end);
                let code = match error {
                    ResolveError::NxDomain => ResponseCode::NXDomain,
                    ResolveError::NoData => ResponseCode::NoError,
                    _ => ResponseCode::ServFail,
                };
                let reply =
                    Reply { code, negative: error.is_negative(), ttl: self.negative_ttl, ..Reply::default() };
                return reply.encode(request, asked.transport);
            }
        };
        let granted = |ip: IpAddr| private.iter().any(|range| range.contains(&ip));
        let (given, blocked): (Vec<IpAddr>, Vec<IpAddr>) =
            answer.addresses.iter().partition(|ip| lends || usable(**ip, &self.parts.own, granted));
        end.chain = &answer.chain;
        end.blocked = &blocked;
        end.given = &given;
        if given.is_empty() {
            end.outcome = Outcome::AddrBlocked;
        } else {
            let left = answer.valid_until.saturating_duration_since(Instant::now()).as_secs();
            end.ttl = u32::try_from(left).unwrap_or(u32::MAX).max(1);
            if !lends {
                self.parts.leases.remember(*client, name, &given, answer.valid_until);
            }
        }
        self.parts.recorder.answered(*record, &end);
        let reply = Reply { addresses: &given, ttl: end.ttl, negative: given.is_empty(), ..Reply::default() };
        reply.encode(request, asked.transport)
    }

    /// Records a "no" whose reason is this door's own, and says it.
    fn refuse(
        &self,
        request: &Request,
        asked: &Asked,
        client: Option<u16>,
        no: No,
        rule: Option<&Arc<str>>,
    ) -> Step {
        let reason = match no.outcome {
            Outcome::TypeClosed => "dns_type",
            Outcome::Budget => "dns_budget",
            Outcome::UnknownClient => "unknown_client",
            Outcome::Limit => "limit",
            _ => "dns",
        };
        self.decide(asked, client, no.outcome, rule, reason, "");
        self.no(request, asked.transport, &no)
    }

    fn no(&self, request: &Request, transport: Transport, no: &No) -> Step {
        let No { code, negative, blocked, .. } = *no;
        let reply = Reply { code, negative, blocked, ttl: self.negative_ttl, addresses: &[] };
        Step::Reply(reply.encode(request, transport))
    }

    fn decide(
        &self,
        asked: &Asked,
        client: Option<u16>,
        outcome: Outcome,
        rule: Option<&Arc<str>>,
        reason: &str,
        detail: &str,
    ) -> Option<u64> {
        self.parts.recorder.decided(&Decision { asked, client, outcome, rule, reason, detail })
    }
}

impl Waiting {
    /// Asks upstream; ends within the resolver's deadline.
    pub(super) async fn answer(self) -> Vec<u8> {
        let result = self.desk.parts.resolver.lookup(&self.allowed.name, self.allowed.family).await;
        self.desk.answer(&self.allowed, result)
    }
}

impl Judged {
    fn client(&self) -> Option<u16> {
        match self {
            Self::UnknownClient => None,
            Self::Deny { client, .. } | Self::NoData { client } | Self::Resolve { client, .. } => {
                Some(*client)
            }
        }
    }
}

impl No {
    fn denied(outcome: Outcome) -> Self {
        Self { code: ResponseCode::NXDomain, negative: true, blocked: true, outcome }
    }

    fn empty(outcome: Outcome) -> Self {
        Self { code: ResponseCode::NoError, negative: true, blocked: false, outcome }
    }

    fn refused(outcome: Outcome) -> Self {
        Self { code: ResponseCode::Refused, negative: false, blocked: false, outcome }
    }

    fn failed(outcome: Outcome) -> Self {
        Self { code: ResponseCode::ServFail, negative: false, blocked: false, outcome }
    }
}

/// Questions that no verdict opens: newer EDNS versions, other classes than IN (so no version string), zone transfers.
fn not_served(request: &Request, class: DNSClass, qtype: RecordType) -> Option<(No, &'static str)> {
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        let no =
            No { code: ResponseCode::BADVERS, negative: false, blocked: false, outcome: Outcome::NotServed };
        return Some((no, "EDNS version"));
    }
    if class != DNSClass::IN {
        return Some((No::refused(Outcome::NotServed), "class"));
    }
    matches!(qtype, RecordType::AXFR | RecordType::IXFR)
        .then(|| (No::refused(Outcome::NotServed), "zone transfer"))
}

fn family(qtype: RecordType) -> Option<Family> {
    match qtype {
        RecordType::A => Some(Family::V4),
        RecordType::AAAA => Some(Family::V6),
        _ => None,
    }
}
