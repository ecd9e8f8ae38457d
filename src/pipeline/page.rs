//! What a client is told when the answer is no: short, in its own protocol, with the way to ask for it. Never a
//! secret, an internal address or a detail of the resolver.

use super::{Facts, Reply, Stop};
use crate::codec::Body;
use crate::codec::h1::Phrase;
use crate::policy::{Reason, Refusal};
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::borrow::Cow;

/// What a client shows of a refusal, told from what it says of itself in its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Plain text: browsers, curl and cargo print it, git behind `remote:` (text/plain is all that git shows).
    #[default]
    Text,
    /// Clients that take nothing else: npm shows `error`, many APIs' clients `message`.
    Json,
    /// An answer that is all trailers, with 200 and the status in `grpc-status` (gRPC over HTTP/2, "Responses").
    Grpc,
}

impl Form {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
            return Self::Grpc;
        }
        let mut json = false;
        for line in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
            for range in line.split(',') {
                let kind = range.split(';').next().unwrap_or_default().trim();
                if kind.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/")) {
                    return Self::Text;
                }
                let end = kind.len().saturating_sub(4);
                json |= kind.get(end..).is_some_and(|end| end.eq_ignore_ascii_case("json"));
            }
        }
        if json { Self::Json } else { Self::Text }
    }
}

/// A page of our own.
pub struct Page {
    status: StatusCode,
    /// What is wrong, in one sentence.
    sentence: Cow<'static, str>,
    request: String,
    reason: &'static str,
    /// Which rule said it, or how far the rules are from letting it through.
    rule: String,
    form: Form,
    head_only: bool,
}

/// The way out of a 403.
const ASK: &str = "To have this opened, give these lines to the operator of this gate.";

impl Page {
    pub(crate) fn of(stop: &Stop, facts: &Facts) -> Self {
        let refusal = &stop.refusal;
        let rule = match (&refusal.rule, &refusal.closest) {
            (Some(rule), _) => rule.to_string(),
            (None, Some(closest)) => format!("none lets it through, {closest} comes closest"),
            (None, None) if refusal.reason == Reason::NoRule => "none speaks for this destination".to_owned(),
            (None, None) => String::new(),
        };
        Self {
            status: stop.status,
            sentence: stop.told.clone().map_or(sentence(refusal.reason).into(), Cow::Owned),
            request: format!(
                "{} {}",
                shown(facts.method.as_ref().map_or("", Method::as_str), 16),
                shown(&facts.authority, 255)
            ),
            reason: refusal.reason.as_str(),
            rule,
            form: facts.form,
            head_only: facts.method == Some(Method::HEAD),
        }
    }

    /// A CONNECT or its like that no rule could open, whatever the reason.
    pub fn forbidden(refusal: Refusal, facts: &Facts) -> Self {
        Self::of(&Stop { status: StatusCode::FORBIDDEN, ..Stop::from(refusal) }, facts)
    }

    /// The page as an answer. A request body that was not read to its end costs the connection.
    pub fn reply(self, unread: bool) -> Reply {
        let close = unread || closes(self.status);
        let grpc = Some(self.form).filter(|form| *form == Form::Grpc).and_then(|_| grpc_status(self.status));
        let mut response = Response::new(Body::Empty);
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(code) = grpc {
            let message = utf8_percent_encode(&self.line(), GRPC_MESSAGE).to_string();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", code.into());
            headers.extend(HeaderValue::try_from(message).map(|said| (GRPC_MESSAGE_FIELD, said)));
            return Reply { response, stated_length: None, close, switched: None };
        }
        let (kind, text) = match self.form {
            Form::Json => ("application/json", self.json()),
            Form::Text | Form::Grpc => ("text/plain; charset=utf-8", self.text()),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Phrase::noting(self.status, self.reason));
        let length = text.len() as u64;
        if !self.head_only {
            *response.body_mut() = Body::Full(Bytes::from(text));
        }
        Reply { response, stated_length: self.head_only.then_some(length), close, switched: None }
    }

    fn text(&self) -> String {
        let mut text =
            format!("outgate: {}\nrequest: {}\nreason: {}\n", self.sentence, self.request, self.reason);
        if !self.rule.is_empty() {
            text.extend(["rule: ", &self.rule, "\n"]);
        }
        if self.status == StatusCode::FORBIDDEN {
            text.extend([ASK, "\n"]);
        }
        text
    }

    /// All of it for clients that show one line.
    fn line(&self) -> String {
        let mut line =
            format!("outgate: {} (request: {}, reason: {}", self.sentence, self.request, self.reason);
        if !self.rule.is_empty() {
            line.extend([", rule: ", &self.rule]);
        }
        line.push_str(").");
        if self.status == StatusCode::FORBIDDEN {
            line.extend([" ", ASK]);
        }
        line
    }

    fn json(&self) -> String {
        let line = self.line();
        let json = serde_json::json!({
            "error": line,
            "message": line,
            "request": self.request,
            "reason": self.reason,
            "rule": self.rule,
        });
        format!("{json}\n")
    }
}

const GRPC_MESSAGE_FIELD: HeaderName = HeaderName::from_static("grpc-message");
/// What `grpc-message` may hold as it is: printable ASCII but the percent sign.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// gRPC's code for what is said with a status. `None`: the message is no call that could be answered, HTTP says more.
fn grpc_status(status: StatusCode) -> Option<u16> {
    match status {
        StatusCode::FORBIDDEN => Some(7),
        StatusCode::PAYLOAD_TOO_LARGE => Some(8),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Some(9),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Some(14),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&'static str, &str)]) -> Form {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        Form::of(&fields.collect())
    }

    #[test]
    fn cl_15_json_is_for_those_who_take_nothing_else() {
        for accept in [
            "application/json",
            "application/vnd.github+json",
            "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*",
        ] {
            assert_eq!(form(&[("accept", accept)]), Form::Json, "{accept}");
        }
        for accept in ["*/*", "application/json, text/plain, */*", "text/html,application/json", "json", ""] {
            let wanted = if accept == "json" { Form::Json } else { Form::Text };
            assert_eq!(form(&[("accept", accept)]), wanted, "{accept}");
        }
        assert_eq!(form(&[("content-type", "application/grpc+proto"), ("accept", "text/plain")]), Form::Grpc);
    }

    #[test]
    fn cl_15_a_call_is_refused_in_its_own_words_and_on_one_line() {
        let mut refusal = Refusal::new(Reason::RuleDenied, "not told");
        refusal.rule = Some("caf\u{e9} 100%".into());
        let facts = Facts {
            form: Form::Grpc,
            method: Some(Method::POST),
            authority: "api.test".into(),
            ..Facts::default()
        };
        let reply = Page::of(&refusal.into(), &facts).reply(false);
        let headers = reply.response.headers();
        assert!(reply.response.status() == StatusCode::OK && headers["grpc-status"] == "7");
        let message = headers["grpc-message"].to_str().unwrap();
        assert!(message.contains("rule: caf%C3%A9 100%25") && message.contains("POST api.test"), "{message}");
        assert!(!message.contains("not told") && message.ends_with("operator of this gate."), "{message}");
        assert!(http_body::Body::is_end_stream(reply.response.body()));
    }
}
