//! What a client is told when the answer is no: short, in its own protocol, with the way to ask for it. Never a
//! secret, an internal address or a detail of the resolver.

use super::{Facts, Reply};
use crate::codec::Body;
use crate::policy::{Reason, Refusal};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use std::fmt::Write;

/// A page of our own.
pub struct Page {
    status: StatusCode,
    text: String,
    head_only: bool,
}

impl Page {
    pub fn of(refusal: &Refusal, status: StatusCode, facts: &Facts) -> Self {
        let mut text = format!("outgate: {}\n", sentence(refusal.reason));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "request: {} {}", shown(&facts.method, 16), shown(&facts.authority, 255));
        let _ = writeln!(text, "reason: {}", refusal.reason.as_str());
        if let Some(rule) = &refusal.rule {
            let _ = writeln!(text, "rule: {rule}");
        }
        if status == StatusCode::FORBIDDEN {
            text.push_str("To have this opened, give these lines to the operator of this gate.\n");
        }
        Self { status, text, head_only: facts.method == Method::HEAD.as_str() }
    }

    /// The page as an answer. A request body that was not read to its end costs the connection.
    pub fn reply(self, unread: bool) -> Reply {
        let length = self.text.len() as u64;
        let body = if self.head_only { Body::Empty } else { Body::Full(Bytes::from(self.text)) };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let close = unread || closes(self.status);
        Reply { response, stated_length: self.head_only.then_some(length), close, switched: None }
    }
}

/// Answers after which nothing more is believed of what the client sends on this connection.
fn closes(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::MISDIRECTED_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::EXPECTATION_FAILED
    )
}

/// Client text on our page: printable ASCII, cut.
fn shown(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// The status that a reason is told with.
pub fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::BadRequest | Reason::BadFraming => StatusCode::BAD_REQUEST,
        Reason::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::AuthorityMismatch | Reason::SniMismatch => StatusCode::MISDIRECTED_REQUEST,
        Reason::DlpLimit => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::DlpCoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Reason::Timeout | Reason::ClientGone => StatusCode::REQUEST_TIMEOUT,
        Reason::Limit | Reason::Audit | Reason::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
        Reason::Dns
        | Reason::UpstreamCert
        | Reason::UpstreamConnect
        | Reason::UpstreamProtocol
        | Reason::UpstreamProxy => StatusCode::BAD_GATEWAY,
        Reason::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        Reason::NoRule
        | Reason::RuleDenied
        | Reason::MethodDenied
        | Reason::PathDenied
        | Reason::PortDenied
        | Reason::SchemeDenied
        | Reason::HeaderDenied
        | Reason::QueryDenied
        | Reason::NoAuthority
        | Reason::AddrBlocked
        | Reason::Protocol
        | Reason::TlsVersion
        | Reason::Alpn
        | Reason::UnknownClient
        | Reason::Loop
        | Reason::NoDestination
        | Reason::Connect
        | Reason::WebSocketDenied
        | Reason::GitDenied
        | Reason::DohDenied
        | Reason::ScriptDenied
        | Reason::ScriptError
        | Reason::ScriptTimeout
        | Reason::Dlp
        | Reason::DlpBomb
        | Reason::SecretWrongHost
        | Reason::SecretUnavailable
        | Reason::SecretPlaintext
        | Reason::DnsDenied
        | Reason::DnsType
        | Reason::DnsBudget
        | Reason::WouldDeny
        | Reason::Reload => StatusCode::FORBIDDEN,
    }
}

/// One plain sentence for each reason.
fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRule => "no rule allows this destination",
        Reason::RuleDenied => "a rule denies this",
        Reason::MethodDenied => "this method is not allowed there",
        Reason::PathDenied => "this path is not allowed there",
        Reason::PortDenied => "this port is not allowed there",
        Reason::SchemeDenied => "this scheme is not allowed there; https may be",
        Reason::HeaderDenied => "these request headers are not allowed there",
        Reason::QueryDenied => "this query is not allowed there",
        Reason::BadRequest | Reason::BadFraming => "the request is malformed",
        Reason::TooLarge => "the request's head is too large",
        Reason::AuthorityMismatch => "the request names another host than its connection",
        Reason::SniMismatch => "the TLS handshake names another host than the request before it",
        Reason::NoAuthority => "the request names no host",
        Reason::AddrBlocked => "this address is never reachable through the gate",
        Reason::Protocol | Reason::TlsVersion | Reason::Alpn => "this protocol is not allowed",
        Reason::UnknownClient => "this client is not known",
        Reason::Loop | Reason::NoDestination => "the connection has no destination outside",
        Reason::Limit => "too many connections; try again later",
        Reason::Timeout => "the request took too long to arrive",
        Reason::ClientGone => "the client went away",
        Reason::Connect => "CONNECT is not allowed here",
        Reason::WebSocketDenied => "WebSocket is not allowed there",
        Reason::GitDenied => "git may read this repository, but not push to it",
        Reason::DohDenied => "DNS questions go to the gate, not through it",
        Reason::ScriptDenied => "a policy script denies this",
        Reason::ScriptError | Reason::ScriptTimeout => "a policy script failed, so this is denied",
        Reason::Dlp => "the request carries something that must not leave",
        Reason::DlpLimit => "the request is larger than what is inspected",
        Reason::DlpBomb => "the request decompresses beyond measure",
        Reason::DlpCoding => "this content coding cannot be inspected; send the body as it is, or with gzip",
        Reason::SecretWrongHost => "a placeholder was used where it does not belong",
        Reason::SecretUnavailable => "a credential for this destination is not available",
        Reason::SecretPlaintext => "a credential is never sent in clear text",
        Reason::Dns => "the name could not be resolved",
        Reason::DnsDenied | Reason::DnsType | Reason::DnsBudget => "this name is not answered",
        Reason::UpstreamCert => "the destination's certificate was not accepted",
        Reason::UpstreamConnect => "the destination could not be reached",
        Reason::UpstreamTimeout => "the destination did not answer in time",
        Reason::UpstreamProtocol => "the destination's answer was not valid",
        Reason::UpstreamProxy => "the way to the destination is not open",
        Reason::WouldDeny => "no rule allows this destination",
        Reason::Reload => "the policy has changed",
        Reason::Audit => "records cannot be written, so nothing is let through",
        Reason::Shutdown => "the gate is shutting down",
    }
}
