//! The two seams of the DNS door: who judges a question, and who records it. The daemon fills both, so that this
//! module knows neither the policy nor the audit log.

use super::ResolveError;
use crate::base::{ClientAddr, HostName};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How a question came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What a client asked, as far as it could be read.
#[derive(Debug, Clone)]
pub struct Asked {
    pub source: ClientAddr,
    pub transport: Transport,
    /// The canonical name; for what is no host name, its bytes escaped as in RFC 1035 master files.
    pub name: Arc<str>,
    pub qtype: u16,
}

/// Asked once a question, under one snapshot of the policy. `name` is `None` where what was asked is no host name;
/// such a question is denied whatever the judge says, which only finds the client.
pub trait Judge: Send + Sync + 'static {
    fn judge(&self, source: ClientAddr, name: Option<&HostName>, qtype: u16) -> Judged;
}

/// What the judge says.
#[derive(Debug, Clone)]
pub enum Judged {
    /// No client has this source.
    UnknownClient,
    /// `reason` is the policy's word for records, `detail` is for the operator.
    Deny { client: u16, rule: Option<Arc<str>>, reason: &'static str, detail: String },
    /// The name is allowed, the type is not opened.
    NoData { client: u16 },
    /// Addresses may be asked for. `private` are the ranges that rules for this name grant; `wildcard` says that only
    /// a wildcard matched, so that new names count against the client's budget.
    Resolve { client: u16, rule: Arc<str>, private: Vec<IpNet>, wildcard: bool },
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The decision to ask; an [`Answered`] follows.
    Allowed,
    /// Addresses were given.
    Answered,
    /// The name has no record of this type.
    Empty,
    /// NXDOMAIN, from upstream.
    NoSuchName,
    /// Every address of the name was refused by the guard.
    AddrBlocked,
    /// The name is allowed, the type is not.
    TypeClosed,
    Denied,
    /// Too many new names under a wildcard.
    Budget,
    UnknownClient,
    /// A class, operation or transfer that this door does not serve.
    NotServed,
    Malformed,
    /// Too many questions of this client wait for upstream.
    Limit,
    Failed(ResolveError),
}

/// One decision. Handed over before anything is asked upstream.
#[derive(Debug)]
pub struct Decision<'a> {
    pub asked: &'a Asked,
    pub client: Option<u16>,
    pub outcome: Outcome,
    pub rule: Option<&'a Arc<str>>,
    /// The policy's word, or this door's.
    pub reason: &'a str,
    pub detail: &'a str,
}

/// What an allowed question led to.
#[derive(Debug)]
pub struct Answered<'a> {
    pub asked: &'a Asked,
    pub client: u16,
    pub outcome: Outcome,
    /// The addresses given, and those that the guard took away.
    pub given: &'a [IpAddr],
    pub blocked: &'a [IpAddr],
    /// The alias chain below the name that was asked.
    pub chain: &'a [Arc<str>],
    /// Seconds, as sent.
    pub ttl: u32,
    /// From the question's arrival to its answer.
    pub duration: Duration,
}

/// Writes down decisions and ends. Called from the answering path: it must not block.
pub trait Recorder: Send + Sync + 'static {
    /// The id that joins the end to it; `None` when it could not be recorded, and then nothing is asked or given.
    fn decided(&self, decision: &Decision<'_>) -> Option<u64>;
    fn answered(&self, id: u64, answered: &Answered<'_>);
}
