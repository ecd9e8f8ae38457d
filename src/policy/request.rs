//! The canonical request: the one form that is judged, recorded and sent (DESIGN section 2, rule 5). Doors make it
//! from what their codec read strictly; nothing else makes one. Framing and body stay with the codec.

use super::Malformed;
use super::doh;
use super::fields::{self, Upgrade};
use super::path::{self, Target};
use crate::base::{Host, Scheme};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct CanonicalRequest {
    scheme: Scheme,
    host: Host,
    port: u16,
    method: Method,
    target: Target,
    /// Shared with what is sent: most requests go as they were judged.
    headers: Arc<HeaderMap>,
    upgrade: Upgrade,
}

/// What a script changed. What is `None` stays.
#[derive(Debug, Default)]
pub struct Change {
    pub method: Option<Method>,
    pub scheme: Option<Scheme>,
    pub host: Option<Host>,
    pub port: Option<u16>,
    /// Path and query, in origin form.
    pub target: Option<String>,
    pub headers: Option<HeaderMap>,
}

impl CanonicalRequest {
    /// `target` is in origin form (`/path?query`); `*` has no path to judge and is refused. Host, framing and
    /// hop-by-hop fields are taken off: the `Host` that is sent is made from `host` and `port`.
    pub fn new(
        scheme: Scheme,
        host: Host,
        port: u16,
        method: Method,
        target: &str,
        mut headers: HeaderMap,
    ) -> Result<Self, Malformed> {
        match method {
            Method::CONNECT => return Err(Malformed::Connect),
            Method::TRACE => return Err(Malformed::Trace),
            _ => {}
        }
        let target = path::canonical(target)?;
        let upgrade = fields::clean(&method, &mut headers);
        Ok(Self { scheme, host, port, method, target, headers: Arc::new(headers), upgrade })
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    pub fn path(&self) -> &str {
        self.target.path_and_query.path()
    }

    pub fn query(&self) -> Option<&str> {
        self.target.path_and_query.query()
    }

    /// Exactly the target that is sent; a clone shares its bytes.
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.target.path_and_query
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The same fields, to be sent. Whoever changes them changes a copy.
    pub fn shared_headers(&self) -> Arc<HeaderMap> {
        self.headers.clone()
    }

    /// Asks for a WebSocket. A permit for such a request is only given for a whole handshake, whose `Connection` and
    /// `Upgrade` fields the codec makes anew.
    pub fn websocket(&self) -> bool {
        matches!(self.upgrade, Upgrade::WebSocket | Upgrade::BrokenWebSocket)
    }

    /// A DNS question inside HTTPS.
    pub(super) fn is_doh(&self) -> bool {
        doh::is_question(self)
    }

    /// As [`Host::authority`].
    pub fn authority(&self) -> Arc<str> {
        self.host.authority(self.scheme, self.port)
    }

    /// Applies a script's changes; the result is as canonical as a new one and must be judged again.
    pub fn changed(self, change: Change) -> Result<Self, Malformed> {
        let upgrade = self.upgrade;
        let target = change.target.as_deref().unwrap_or_else(|| self.target.path_and_query.as_str());
        let mut changed = Self::new(
            change.scheme.unwrap_or(self.scheme),
            change.host.unwrap_or(self.host),
            change.port.unwrap_or(self.port),
            change.method.unwrap_or(self.method),
            target,
            change.headers.unwrap_or_else(|| Arc::unwrap_or_clone(self.headers)),
        )?;
        if changed.upgrade == Upgrade::None {
            changed.upgrade = match upgrade {
                Upgrade::WebSocket if changed.method != Method::GET => Upgrade::BrokenWebSocket,
                kept => kept,
            };
        }
        Ok(changed)
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn upgrade(&self) -> Upgrade {
        self.upgrade
    }

    /// For the matched rule's own edits only; see `Permit::edited`.
    pub(super) fn headers_for_edits(&mut self) -> &mut HeaderMap {
        Arc::make_mut(&mut self.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, target: &str) -> Result<CanonicalRequest, Malformed> {
        let host = Host::parse("api.good.test").unwrap();
        CanonicalRequest::new(Scheme::Https, host, 443, method, target, HeaderMap::new())
    }

    #[test]
    fn pm_23_fr_09_connect_and_trace_have_no_canonical_form() {
        assert_eq!(request(Method::CONNECT, "/").unwrap_err(), Malformed::Connect);
        assert_eq!(request(Method::TRACE, "/").unwrap_err(), Malformed::Trace);
        assert_eq!(request(Method::OPTIONS, "*").unwrap_err(), Malformed::Form);
        assert!(request(Method::OPTIONS, "/").is_ok());
    }

    #[test]
    fn a_script_cannot_smuggle_in_a_change_that_is_not_canonical() {
        let asked = request(Method::GET, "/public/x").unwrap();
        let change = Change { target: Some("/public/../admin".into()), ..Change::default() };
        assert_eq!(asked.clone().changed(change).unwrap().path(), "/admin");
        let change = Change { target: Some("/a\r\nHost: evil.test".into()), ..Change::default() };
        assert!(asked.changed(change).is_err());
    }

    #[test]
    fn the_authority_names_the_port_only_where_it_is_not_the_schemes_own() {
        let host = Host::parse("A.test.").unwrap();
        let make = |port| {
            CanonicalRequest::new(Scheme::Https, host.clone(), port, Method::GET, "/", HeaderMap::new())
        };
        assert_eq!(&*make(443).unwrap().authority(), "a.test");
        assert_eq!(&*make(8443).unwrap().authority(), "a.test:8443");
    }
}
