//! The verdicts. Deny wins over every allow; among allows the first in file order decides; `observe` is asked where
//! no allow matched; nothing is a deny. Called through the snapshot by doors, DNS, `test`, `explain`, benches, fuzzers.

use super::client::ClientId;
use super::fields::Upgrade;
use super::index::RuleNumber;
use super::matching::{Judged, Stage};
use super::pattern::HostPattern;
use super::rule::{Action, Rule};
use super::snapshot::Snapshot;
use super::verdict::{
    ConnectVerdict, DialRight, DnsVerdict, InterceptPermit, MintRight, Permit, Refusal, Refused, TunnelPermit,
};
use super::{CanonicalRequest, Reason};
use crate::base::{AddressClass, Host, HostName, Scheme};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::sync::Arc;

/// DNS types that have addresses (RFC 1035, RFC 3596).
const A: u16 = 1;
const AAAA: u16 = 28;

/// What the rules of a host say together.
#[derive(Debug, Default)]
struct Tally {
    deny: Option<RuleNumber>,
    allow: Option<RuleNumber>,
    observe: Option<RuleNumber>,
    /// How far the best rule that would have let it through got; the first such rule.
    furthest: Option<(Stage, Reverse<RuleNumber>)>,
}

impl Tally {
    /// Whether a rule of this action and number could still change the outcome.
    fn is_open(&self, action: Action, number: RuleNumber) -> bool {
        let best = match action {
            Action::Deny => self.deny,
            Action::Allow | Action::Tunnel => self.allow,
            Action::Observe => self.observe,
        };
        best.is_none_or(|best| number < best)
    }

    fn count(&mut self, action: Action, number: RuleNumber, outcome: Result<(), Stage>) {
        match (action, outcome) {
            (Action::Deny, Ok(())) => self.deny = Some(number),
            (Action::Allow | Action::Tunnel, Ok(())) => self.allow = Some(number),
            (Action::Observe, Ok(())) => self.observe = Some(number),
            (Action::Deny, Err(_)) => {}
            (_, Err(stage)) => self.furthest = self.furthest.max(Some((stage, Reverse(number)))),
        }
    }

    fn reason(&self) -> Reason {
        match self.furthest.map(|(stage, _)| stage) {
            None | Some(Stage::Client) => Reason::NoRule,
            Some(Stage::Scheme) => Reason::SchemeDenied,
            Some(Stage::Port) => Reason::PortDenied,
            Some(Stage::Path) => Reason::PathDenied,
            Some(Stage::Method) => Reason::MethodDenied,
            Some(Stage::Query) => Reason::QueryDenied,
            Some(Stage::Header) => Reason::HeaderDenied,
            Some(Stage::Git) => Reason::GitDenied,
            Some(Stage::WebSocket) => Reason::WebSocketDenied,
            Some(Stage::Doh) => Reason::DohDenied,
        }
    }
}

impl Snapshot {
    /// One request, on a connection of any door.
    pub fn judge_request(
        self: &Arc<Self>,
        client: ClientId,
        request: CanonicalRequest,
    ) -> Result<Permit, Box<Refused>> {
        match self.outcome(client, &request) {
            Ok((rule, observed)) => Ok(Permit { client, request, rule, snapshot: self.clone(), observed }),
            Err(refusal) => Err(Box::new(Refused { refusal, request })),
        }
    }

    fn outcome(&self, client: ClientId, request: &CanonicalRequest) -> Result<(Arc<Rule>, bool), Refusal> {
        if request.upgrade() == Upgrade::Foreign {
            let detail = format!("{} asks for another protocol inside the connection", request.host());
            return Err(Refusal::new(Reason::Protocol, detail).minting(request.host()));
        }
        let judged = Judged::new(request);
        let tally = self.tally(client, request.host(), |rule| match rule.action {
            Action::Tunnel => Err(Stage::Scheme),
            _ => rule.test(&judged),
        });
        let (scheme, port) = (request.scheme(), request.port());
        let what = || {
            format!("{} {}://{}:{port}{}", request.method(), scheme.as_str(), request.host(), request.path())
        };
        let (rule, observed) = self.settle(&tally, request.host(), port, what)?;
        if request.upgrade() == Upgrade::BrokenWebSocket {
            let refusal =
                Refusal::new(Reason::BadRequest, "not a WebSocket handshake as RFC 6455 section 4.1 has it");
            return Err(refusal.minting(request.host()));
        }
        Ok((rule, observed))
    }

    /// A TLS connection, by the name that its ClientHello leads to: nothing of it was answered yet.
    pub fn judge_connect(self: &Arc<Self>, client: ClientId, host: &Host, port: u16) -> ConnectVerdict {
        let tally = self.tally(client, host, |rule| could_open(rule, Scheme::Https, port));
        match self.settle(&tally, host, port, || format!("TLS to {host}:{port}")) {
            Ok((rule, _)) if rule.action == Action::Tunnel => {
                ConnectVerdict::Tunnel(self.tunnel(client, host, port, Scheme::Https, rule))
            }
            Ok(_) => {
                ConnectVerdict::Intercept(InterceptPermit { host: host.clone(), snapshot: self.clone() })
            }
            Err(refusal) => ConnectVerdict::Refuse(refusal),
        }
    }

    /// Whether anything at all could be opened there, whatever is spoken: asked before a CONNECT is answered.
    pub fn judge_place(&self, client: ClientId, host: &Host, port: u16) -> Result<(), Refusal> {
        let schemes = [Scheme::Https, Scheme::Http, Scheme::Tcp];
        let mut closest: Option<Refusal> = None;
        for scheme in schemes {
            let tally = self.tally(client, host, |rule| could_open(rule, scheme, port));
            match self.settle(&tally, host, port, || format!("a connection to {host}:{port}")) {
                Ok(_) => return Ok(()),
                Err(refusal) if refusal.reason == Reason::SchemeDenied => {}
                // What a rule says of this very place is nearer than that another has other ports.
                Err(refusal) if closest.as_ref().is_none_or(|closest| closest.rule.is_none()) => {
                    closest = if refusal.rule.is_some() { Some(refusal) } else { closest.or(Some(refusal)) };
                }
                Err(_) => {}
            }
        }
        let none = || Refusal::new(Reason::NoRule, format!("a connection to {host}:{port}")).minting(host);
        Err(closest.unwrap_or_else(none))
    }

    /// Bytes of no known protocol, which only a rule with scheme "tcp" opens.
    pub fn judge_tcp(
        self: &Arc<Self>,
        client: ClientId,
        host: &Host,
        port: u16,
    ) -> Result<TunnelPermit, Refusal> {
        let tally = self.tally(client, host, |rule| could_open(rule, Scheme::Tcp, port));
        let (rule, _) = self.settle(&tally, host, port, || format!("raw TCP to {host}:{port}"))?;
        Ok(self.tunnel(client, host, port, Scheme::Tcp, rule))
    }

    /// Whether some rule opens this port as raw TCP for the client, so that nothing must be sniffed there.
    pub fn opens_tcp(&self, client: ClientId, port: u16) -> bool {
        self.tcp_rules(port).any(|rule| rule.speaks_for(client))
    }

    /// A question of the DNS door. A name is answered when some request to it could be allowed.
    pub fn judge_dns(&self, client: ClientId, name: &HostName, qtype: u16) -> DnsVerdict {
        let host = Host::Name(name.clone());
        let mut denies: Vec<&Rule> = Vec::new();
        let mut openers: Vec<RuleNumber> = Vec::new();
        self.index.visit(client, &host, |number| match self.rule(number) {
            Some(rule) if rule.action != Action::Deny => openers.push(number),
            Some(rule) if rule.is_unconditional() => denies.push(rule),
            _ => {}
        });
        let closed = |rule: &Rule, port: u16| {
            rule.scheme.is_some_and(|scheme| denies.iter().any(|deny| deny.opens(scheme, port).is_ok()))
        };
        let open = |rule: &Rule| rule.ports.iter().flatten().any(|&port| !closed(rule, port));
        openers.retain(|&number| self.rule(number).is_some_and(open));
        openers.sort_unstable();
        openers.dedup();
        let Some(first) = openers.first().and_then(|&number| self.rule(number)) else {
            let mut refusal = Refusal::new(Reason::DnsDenied, format!("no rule could allow {name}"));
            refusal.rule = denies.iter().map(|rule| rule.name.clone()).next();
            return DnsVerdict::Deny(refusal);
        };
        if !matches!(qtype, A | AAAA) {
            return DnsVerdict::NoData;
        }
        let granted =
            openers.iter().filter_map(|&number| self.rule(number)).flat_map(|rule| rule.private.iter());
        let mut private: Vec<IpNet> = granted.map(|grant| grant.range).collect();
        private.sort_unstable();
        private.dedup();
        let exact = |rule: &Rule| {
            rule.hosts.iter().any(|host| matches!(host, HostPattern::Exact(own) if own == name))
        };
        let wildcard = !openers.iter().filter_map(|&number| self.rule(number)).any(exact);
        DnsVerdict::Resolve { rule: first.name.clone(), private, wildcard }
    }

    fn tunnel(
        self: &Arc<Self>,
        client: ClientId,
        host: &Host,
        port: u16,
        scheme: Scheme,
        rule: Arc<Rule>,
    ) -> TunnelPermit {
        let dial = DialRight { client, host: host.clone(), port, scheme, rule };
        TunnelPermit { dial, snapshot: self.clone() }
    }

    fn tally(&self, client: ClientId, host: &Host, test: impl Fn(&Rule) -> Result<(), Stage>) -> Tally {
        let mut tally = Tally::default();
        self.index.visit(client, host, |number| {
            if let Some(rule) = self.rule(number)
                && tally.is_open(rule.action, number)
            {
                tally.count(rule.action, number, test(rule));
            }
        });
        tally
    }

    /// From what the rules said to the rule that lets it through, or the refusal. A literal address must also be one
    /// that may be dialled under that rule.
    fn settle(
        &self,
        tally: &Tally,
        host: &Host,
        port: u16,
        what: impl Fn() -> String,
    ) -> Result<(Arc<Rule>, bool), Refusal> {
        let class = host.ip().map_or(AddressClass::Public, AddressClass::of);
        let refuse = |reason| Refusal::new(reason, what()).minting(host);
        if class == AddressClass::Never {
            return Err(refuse(Reason::AddrBlocked));
        }
        let arc = |number: Option<RuleNumber>| {
            number.and_then(|n| usize::try_from(n).ok()).and_then(|n| self.rules.get(n))
        };
        if let Some(deny) = arc(tally.deny) {
            return Err(Refusal { rule: Some(deny.name.clone()), ..refuse(Reason::RuleDenied) });
        }
        let Some(rule) = arc(tally.allow.or(tally.observe)) else {
            let blocked = class == AddressClass::Grantable && tally.furthest.is_none();
            let reason = if blocked { Reason::AddrBlocked } else { tally.reason() };
            let closest =
                arc(tally.furthest.map(|(_, Reverse(number))| number)).map(|rule| rule.name.clone());
            return Err(Refusal { closest, ..refuse(reason) });
        };
        let granted = |ip| rule.private.iter().any(|grant| grant.covers(ip, port));
        if class == AddressClass::Grantable && !host.ip().is_some_and(granted) {
            return Err(Refusal { rule: Some(rule.name.clone()), ..refuse(Reason::AddrBlocked) });
        }
        Ok((rule.clone(), tally.allow.is_none()))
    }

    pub(super) fn rule(&self, number: RuleNumber) -> Option<&Rule> {
        self.rules.get(usize::try_from(number).ok()?).map(AsRef::as_ref)
    }
}

/// What can be said before a request was read: a deny with conditions says nothing yet.
fn could_open(rule: &Rule, scheme: Scheme, port: u16) -> Result<(), Stage> {
    if rule.action == Action::Deny && !rule.is_unconditional() {
        return Err(Stage::Path);
    }
    rule.opens(scheme, port)
}

impl Refusal {
    /// A name that is valid may have its refusal said inside TLS.
    pub(super) fn minting(mut self, host: &Host) -> Self {
        self.mint = Some(MintRight { host: host.clone() });
        self
    }
}
