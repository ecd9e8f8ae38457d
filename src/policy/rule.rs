//! One compiled `[[rule]]`: whom and what it speaks for, and what it does to what it lets through.

use super::client::ClientId;
use super::fields;
use super::matching::{Judged, Match, Side, Stage};
use super::pattern::HostPattern;
use super::problem::Place;
use super::verdict::PrivateGrant;
use crate::base::{Host, Scheme};
use crate::dlp;
use crate::script::Script;
use crate::secrets::Template;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    Deny,
    Tunnel,
    Observe,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Tunnel => "tunnel",
            Self::Observe => "observe",
        }
    }
}

#[derive(Debug)]
pub struct Rule {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) action: Action,
    /// `None`: every client. Sorted.
    pub(super) clients: Option<Vec<ClientId>>,
    pub(super) hosts: Vec<HostPattern>,
    pub(super) addresses: Vec<IpNet>,
    /// `None`: every scheme (a deny only).
    pub(super) scheme: Option<Scheme>,
    /// `None`: every port (a deny only).
    pub(super) ports: Option<Vec<u16>>,
    /// Any of these; empty: every request.
    pub(super) matches: Vec<Match>,
    pub(super) encoded_slash: bool,
    pub(super) websocket: bool,
    pub(super) doh: bool,
    pub(super) private: Vec<PrivateGrant>,
    pub(super) request: RequestEdits,
    pub(super) response: ResponseEdits,
    pub(super) tls: Tls,
    pub(super) dlp: Dlp,
    pub(super) script: Option<Arc<Script>>,
}

/// `[rule.request]`
#[derive(Debug, Default)]
pub struct RequestEdits {
    pub strip: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub inject: Vec<Inject>,
    /// Secrets whose placeholder becomes their value, in header values.
    pub swap: Vec<Arc<str>>,
}

#[derive(Debug)]
pub struct Inject {
    pub header: HeaderName,
    pub value: Template,
}

/// `[rule.response]`
#[derive(Debug, Default)]
pub struct ResponseEdits {
    pub strip: Vec<HeaderName>,
}

/// `[rule.tls]`: trust and identity beside the daemon's own.
#[derive(Debug, Default)]
pub struct Tls {
    pub roots: Vec<CertificateDer<'static>>,
    pub client_certificate: Option<ClientCertificate>,
}

#[derive(Debug)]
pub struct ClientCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// `[rule.dlp]`
#[derive(Debug)]
pub struct Dlp {
    pub outbound: dlp::Selection,
    pub inbound: dlp::Selection,
    pub on_match: OnMatch,
    /// Bytes of a request body that are inspected; a longer one is refused. `None`: bodies of any length stream.
    pub max_body: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMatch {
    #[default]
    Block,
    Log,
}

impl Rule {
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// `file:line` of the rule.
    pub fn place(&self) -> String {
        self.place.to_string()
    }

    pub fn action(&self) -> Action {
        self.action
    }

    pub fn request(&self) -> &RequestEdits {
        &self.request
    }

    pub fn response(&self) -> &ResponseEdits {
        &self.response
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    pub fn dlp(&self) -> &Dlp {
        &self.dlp
    }

    pub fn script(&self) -> Option<&Arc<Script>> {
        self.script.as_ref()
    }

    pub fn private(&self) -> &[PrivateGrant] {
        &self.private
    }

    pub fn websocket(&self) -> bool {
        self.websocket
    }

    /// Whether which method a request has decides anything here.
    pub fn names_methods(&self) -> bool {
        self.matches.iter().any(|condition| !condition.methods.is_empty())
    }

    pub(super) fn speaks_for(&self, client: ClientId) -> bool {
        self.clients.as_ref().is_none_or(|own| own.binary_search(&client).is_ok())
    }

    pub(super) fn covers_host(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.hosts.iter().any(|pattern| pattern.covers(name)),
            Host::Ip(ip) => self.covers_address(*ip),
        }
    }

    pub(super) fn covers_address(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(&ip))
    }

    /// A deny of everything on its hosts, whatever is asked there.
    pub(super) fn is_unconditional(&self) -> bool {
        self.matches.is_empty()
    }

    pub(super) fn side(&self) -> Side {
        if self.action == Action::Deny { Side::Deny } else { Side::Allow }
    }

    /// The place of a connection; host and client are the index's to check.
    pub(super) fn opens(&self, scheme: Scheme, port: u16) -> Result<(), Stage> {
        if self.scheme.is_some_and(|own| own != scheme) {
            return Err(Stage::Scheme);
        }
        if self.ports.as_ref().is_some_and(|own| !own.contains(&port)) {
            return Err(Stage::Port);
        }
        Ok(())
    }

    /// The whole question for one request on a host of this rule.
    pub(super) fn test(&self, judged: &Judged<'_>) -> Result<(), Stage> {
        self.opens(judged.request.scheme(), judged.request.port())?;
        self.conditions(judged)?;
        if self.side() == Side::Allow && judged.request.websocket() && !self.websocket {
            return Err(Stage::WebSocket);
        }
        if self.side() == Side::Allow && !self.doh && judged.request.is_doh() {
            return Err(Stage::Doh);
        }
        Ok(())
    }

    fn conditions(&self, judged: &Judged<'_>) -> Result<(), Stage> {
        let side = self.side();
        if self.matches.is_empty() {
            return Match::default().test(judged, side, self.encoded_slash);
        }
        let mut furthest = Stage::Path;
        for condition in &self.matches {
            match condition.test(judged, side, self.encoded_slash) {
                Ok(()) => return Ok(()),
                Err(stage) => furthest = furthest.max(stage),
            }
        }
        Err(furthest)
    }

    /// Uses a credential, so that the value must not come back readable.
    pub fn has_credentials(&self) -> bool {
        !self.request.inject.is_empty() || !self.request.swap.is_empty()
    }

    /// Strips and sets as the rule says. What the client sent in a field that will be injected goes, under every
    /// name that folds into it; a rule with credentials asks for whole answers in identity coding, so that they can
    /// be redacted.
    pub(super) fn edit(&self, headers: &mut HeaderMap) {
        for name in &self.request.strip {
            fields::remove_with_aliases(headers, name);
        }
        for inject in &self.request.inject {
            fields::remove_with_aliases(headers, &inject.header);
        }
        for (name, value) in &self.request.set {
            fields::remove_with_aliases(headers, name);
            headers.insert(name, value.clone());
        }
        if self.has_credentials() {
            headers.remove(header::RANGE);
            headers.remove(header::IF_RANGE);
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
    }
}
