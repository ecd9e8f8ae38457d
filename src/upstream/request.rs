//! What is sent upstream and what comes back. The request is a type that scripts, DLP and records cannot read: it is
//! made last, when credentials have been put in.

use super::dial::Reached;
use super::{Lane, Wire};
use crate::codec::Body;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, Version};
use std::sync::Arc;

/// One request with its credentials. Prints nothing of itself.
pub struct UpstreamRequest {
    pub(super) lane: Lane,
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) headers: Arc<HeaderMap>,
    pub(super) body: Body,
    pub(super) websocket: bool,
}

impl UpstreamRequest {
    /// `target` is the path and query in origin form; `headers` hold neither Host nor framing nor hop-by-hop fields.
    pub fn new(
        lane: Lane,
        method: Method,
        target: PathAndQuery,
        headers: Arc<HeaderMap>,
        body: Body,
        websocket: bool,
    ) -> Self {
        Self { lane, method, target, headers, body, websocket }
    }

    /// May be sent once more: a method that is safe to repeat, and no body.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self.body, Body::Empty) && self.method.is_idempotent()
    }

    /// The Host that is sent; as [`crate::base::Host::authority`].
    pub(super) fn authority(&self) -> Arc<str> {
        let right = self.lane.right();
        right.host().authority(right.scheme(), right.port())
    }
}

impl std::fmt::Debug for UpstreamRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamRequest").field("right", self.lane.right()).finish_non_exhaustive()
    }
}

/// An answer's head and body, and where it came from.
pub struct Answer {
    pub response: Response<Body>,
    pub from: Reached,
    pub version: Version,
    /// The length an answer without body speaks of (HEAD, 304).
    pub stated_length: Option<u64>,
    /// Present after `101 Switching Protocols`: bytes already read, and the connection.
    pub switched: Option<(Bytes, Wire)>,
}
