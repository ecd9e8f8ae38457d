//! Why an exchange with the upstream side failed, and which reason a record gives for it.

use super::chain::ProxyError;
use crate::base::IoWords;
use crate::codec::BodyError;
use crate::codec::h1::{ReadError, WriteError};
use crate::policy::Reason;
use crate::tls::UpstreamFault;
use std::io;
use std::net::IpAddr;

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("the name could not be resolved: {0}")]
    Dns(String),
    #[error("too many connections to this place are being opened already")]
    Busy,
    /// The guard refused every address.
    #[error("the address guard refuses {0}")]
    Blocked(IpAddr),
    #[error("no address could be connected to: {0}")]
    Connect(#[source] io::Error),
    #[error("the upstream proxy is no way out: {0}")]
    Proxy(#[from] ProxyError),
    #[error("the connection or its TLS handshake took too long")]
    ConnectTimeout,
    /// The peers did not agree; a server may also say so in the first answer (TLS 1.3 asks for certificates late).
    #[error("no TLS session: {0}")]
    Handshake(UpstreamFault),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("the origin speaks none of the protocols offered")]
    NoCommonProtocol,
    #[error("the answer did not begin in time")]
    HeadTimeout,
    #[error("the answer is not valid HTTP: {0}")]
    Protocol(String),
    #[error("the origin closed before it answered")]
    Closed,
    /// A pooled connection was dead; never leaves this module's parent for a request that can be repeated.
    #[error("the pooled connection was closed")]
    Stale,
    /// The client's side of the request failed or was stopped while it was sent.
    #[error("the request body ended early: {0}")]
    RequestBody(#[source] BodyError),
    #[error("{}", IoWords(.0))]
    Io(#[from] io::Error),
}

impl UpstreamError {
    /// The reason class for the record.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Dns(_) => Reason::Dns,
            Self::Busy => Reason::Limit,
            Self::Blocked(_) => Reason::AddrBlocked,
            Self::Connect(_) | Self::Closed | Self::Stale | Self::Io(_) => Reason::UpstreamConnect,
            Self::Proxy(_) => Reason::UpstreamProxy,
            Self::ConnectTimeout | Self::HeadTimeout => Reason::UpstreamTimeout,
            Self::Handshake(fault) if fault.is_certificate() => Reason::UpstreamCert,
            Self::Handshake(_) | Self::Tls(_) | Self::NoCommonProtocol | Self::Protocol(_) => {
                Reason::UpstreamProtocol
            }
            Self::RequestBody(_) => Reason::BadFraming,
        }
    }
}

impl UpstreamError {
    /// What the client may be told of it beyond the reason: nothing of our side of the network.
    pub fn told(&self) -> Option<String> {
        match self {
            Self::Handshake(fault) => Some(fault.to_string()),
            _ => None,
        }
    }
}

impl From<WriteError> for UpstreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Io(io) => io.into(),
            WriteError::Body(body) => Self::RequestBody(body),
            WriteError::Length => Self::RequestBody(BodyError::Truncated),
        }
    }
}

impl From<ReadError> for UpstreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Head(head) => Self::Protocol(head.to_string()),
            ReadError::Truncated => Self::Closed,
            ReadError::Io(io) => io.into(),
        }
    }
}
