//! What is sent upstream and what comes back. The request is a type that scripts, DLP and records cannot read: it is
//! made last, when credentials have been put in.

use super::Wire;
use crate::base::UpstreamAddr;
use crate::codec::Body;
use crate::policy::DialRight;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, Version};

/// One request with its credentials. Prints nothing of itself.
pub struct UpstreamRequest {
    pub(super) right: DialRight,
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) websocket: bool,
}

impl UpstreamRequest {
    /// `target` is the path and query in origin form; `headers` hold neither Host nor framing nor hop-by-hop fields.
    pub fn new(
        right: DialRight,
        method: Method,
        target: PathAndQuery,
        headers: HeaderMap,
        body: Body,
        websocket: bool,
    ) -> Self {
        Self { right, method, target, headers, body, websocket }
    }

    /// A copy to send once more: only for methods that are safe to repeat, and only without a body.
    pub(super) fn repeatable(&self) -> Option<Self> {
        (matches!(self.body, Body::Empty) && self.method.is_idempotent()).then(|| Self {
            right: self.right.clone(),
            method: self.method.clone(),
            target: self.target.clone(),
            headers: self.headers.clone(),
            body: Body::Empty,
            websocket: self.websocket,
        })
    }

    /// The Host that is sent: the canonical name, and the port where it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let (host, port) = (self.right.host(), self.right.port());
        if self.right.scheme().default_port() == Some(port) {
            host.to_string()
        } else {
            format!("{host}:{port}")
        }
    }
}

impl std::fmt::Debug for UpstreamRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamRequest").field("right", &self.right).finish_non_exhaustive()
    }
}

/// An answer's head and body, and where it came from.
pub struct Answer {
    pub response: Response<Body>,
    pub from: UpstreamAddr,
    pub version: Version,
    /// The length an answer without body speaks of (HEAD, 304).
    pub stated_length: Option<u64>,
    /// Present after `101 Switching Protocols`: bytes already read, and the connection.
    pub switched: Option<(Bytes, Wire)>,
}
