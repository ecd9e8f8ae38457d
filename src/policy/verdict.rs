//! What judging gives: permits, which nothing else can make, and refusals.

use super::{CanonicalRequest, ClientId, Reason, Rule, Snapshot};
use crate::base::{AddressClass, Host, Scheme};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A request that may be sent: what was judged, by which rule, under which snapshot. Changing the request takes the
/// permit apart, so that it is judged again.
#[derive(Debug)]
pub struct Permit {
    pub(super) client: ClientId,
    pub(super) request: CanonicalRequest,
    pub(super) rule: Arc<Rule>,
    pub(super) snapshot: Arc<Snapshot>,
    /// The rule only observes: it would have been denied.
    pub(super) observed: bool,
}

impl Permit {
    pub fn client(&self) -> ClientId {
        self.client
    }

    pub fn request(&self) -> &CanonicalRequest {
        &self.request
    }

    pub fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// True when no allow matched and an `observe` rule let it pass for the record only.
    pub fn observed(&self) -> bool {
        self.observed
    }

    /// The right to connect to where this request goes.
    pub fn dial(&self) -> DialRight {
        DialRight {
            client: self.client,
            host: self.request.host().clone(),
            port: self.request.port(),
            scheme: self.request.scheme(),
            rule: self.rule.clone(),
        }
    }

    /// Strips and sets header fields as the rule itself says. That is part of the verdict, so the permit stays one.
    pub fn edited(mut self) -> Self {
        self.rule.edit(self.request.headers_for_edits());
        self
    }

    /// Gives the request back to be changed; what comes out must be judged again.
    pub fn into_request(self) -> CanonicalRequest {
        self.request
    }
}

/// The right to end TLS for a name that some rule of the client could allow.
#[derive(Debug)]
pub struct InterceptPermit {
    pub(super) host: Host,
    pub(super) snapshot: Arc<Snapshot>,
}

impl InterceptPermit {
    pub fn mint(&self) -> MintRight {
        MintRight { host: self.host.clone() }
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

/// The right to relay bytes unread.
#[derive(Debug)]
pub struct TunnelPermit {
    pub(super) dial: DialRight,
    pub(super) snapshot: Arc<Snapshot>,
}

impl TunnelPermit {
    pub fn dial(&self) -> &DialRight {
        &self.dial
    }

    pub fn rule(&self) -> &Arc<Rule> {
        &self.dial.rule
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

/// Where a permit lets us connect, and what the rule grants there. Only `upstream` uses it.
#[derive(Debug, Clone)]
pub struct DialRight {
    pub(super) client: ClientId,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) scheme: Scheme,
    pub(super) rule: Arc<Rule>,
}

impl DialRight {
    pub fn client(&self) -> ClientId {
        self.client
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// Whether the rule grants this private address on this right's port. Never loopback, link-local or metadata,
    /// which ranges that may be granted also hold.
    pub fn grants(&self, address: IpAddr) -> bool {
        AddressClass::of(address) == AddressClass::Grantable
            && self.rule.private().iter().any(|grant| grant.covers(address, self.port))
    }
}

/// The right to mint a leaf for exactly one host.
#[derive(Debug, Clone)]
pub struct MintRight {
    pub(super) host: Host,
}

impl MintRight {
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// `private = ["10.99.0.0/24:443"]`: a private range opened on one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateGrant {
    pub range: IpNet,
    pub port: u16,
}

impl PrivateGrant {
    pub fn covers(&self, address: IpAddr, port: u16) -> bool {
        self.port == port && self.range.contains(&address)
    }
}

/// A "no": the class for records, the rule that said it, words for the operator, and perhaps the right to say it
/// inside TLS.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: Reason,
    pub rule: Option<Arc<str>>,
    /// Where no rule let it through: the one that came closest.
    pub closest: Option<Arc<str>>,
    /// For the record; may name what was asked for. Never shown to the client.
    pub detail: String,
    pub(super) mint: Option<MintRight>,
}

impl Refusal {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, rule: None, closest: None, detail: detail.into(), mint: None }
    }

    /// The right to mint a leaf for this refusal's own page, where the refused name is a valid one.
    pub fn mint(&self) -> Option<&MintRight> {
        self.mint.as_ref()
    }
}

/// A refused request, given back for its record and its page.
#[derive(Debug)]
pub struct Refused {
    pub refusal: Refusal,
    pub request: CanonicalRequest,
}

/// What happens to a connection before any request was read.
#[derive(Debug)]
pub enum ConnectVerdict {
    Intercept(InterceptPermit),
    Tunnel(TunnelPermit),
    Refuse(Refusal),
}

/// What the DNS door may do with a question.
#[derive(Debug, Clone)]
pub enum DnsVerdict {
    /// Ask upstream for addresses and filter them with the guard; `private` are the ranges that rules for this name
    /// grant. `wildcard`: no rule has the name itself, so that new names count against the client's budget.
    Resolve { rule: Arc<str>, private: Vec<IpNet>, wildcard: bool },
    /// The name is allowed, the type is not opened: an empty answer, nothing asked upstream.
    NoData,
    /// NXDOMAIN, nothing asked upstream.
    Deny(Refusal),
}
