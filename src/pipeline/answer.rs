//! The way back: hop-by-hop and steering fields off, what was put in masked, the rule's script and inbound DLP, and the
//! bytes counted into the end record.

use super::ending::{Ending, REDACTED, counted_down};
use super::{Flow, Reply, Standing, Stop, Switched, credentials, hooks, messages, scan};
use crate::codec::{Body, BodyError};
use crate::policy::{Permit, Reason, Rule};
use crate::secrets::{Redaction, Redactor};
use crate::upstream::Answer;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// Fields that belong to one connection (RFC 9110 section 7.6.1), and those that would lead the client around the
/// gate.
fn is_removed(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "transfer-encoding"
            | "upgrade"
            | "trailer"
            | "te"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "alt-svc"
    )
}

pub(super) fn relay(
    flow: &Flow,
    standing: Box<Standing>,
    answer: Answer,
    ending: &Arc<Ending>,
) -> Result<Reply, Stop> {
    let permit = &standing.permit;
    let Answer { response, stated_length, switched, .. } = answer;
    let (mut parts, body) = response.into_parts();
    let rule = permit.rule();
    if parts.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(Stop::new(Reason::UpstreamProtocol, "the origin answered as a proxy (407)"));
    }
    if switched.is_some() {
        accepted(permit, &parts.headers)?;
    } else if parts.status.is_informational() {
        return Err(Stop::new(
            Reason::UpstreamProtocol,
            "the origin switched protocols in the middle of a request",
        ));
    }
    clean(rule, &mut parts.headers);
    // Before the script: it may tell what it sees.
    let body = redacted(flow, permit, &mut parts.headers, body, ending)?;
    hooks::on_response(flow, permit, parts.status, &mut parts.headers)?;
    let body = scan::inbound(flow, permit, &parts.headers, body, ending)?;
    ending.status(parts.status);
    if let Some((ahead, wire)) = switched {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let (up, down) = messages::inspectors(flow, permit, ending);
        let switched = Box::new(Switched { ahead, wire, ending: ending.clone(), standing, up, down });
        let response = Response::from_parts(parts, Body::Empty);
        return Ok(Reply { response, stated_length: None, close: true, switched: Some(switched) });
    }
    let response = Response::from_parts(parts, counted_down(body, ending.clone(), Some(standing)));
    Ok(Reply { response, stated_length, close: false, switched: None })
}

/// An interim answer as the client may have it: treated as the head of an answer is, and with no word of a body. `None`
/// where the rule's script or inbound DLP would have to judge it: they judge the answer, and nothing goes past them.
pub(super) fn interim(permit: &Permit, mut interim: Response<()>, ending: &Ending) -> Option<Response<()>> {
    let rule = permit.rule();
    if rule.script().is_some_and(|script| script.has_response()) || !rule.dlp().inbound.is_empty() {
        return None;
    }
    let headers = interim.headers_mut();
    clean(rule, headers);
    headers.remove(header::CONTENT_LENGTH);
    if let Some(redactor) = redactor(permit) {
        mask(redactor, headers, ending);
    }
    Some(interim)
}

/// Takes off what belongs to the connection, what would lead the client around the gate, and what the rule says.
fn clean(rule: &Rule, headers: &mut HeaderMap) {
    let named = || headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    // Most say nothing else.
    let names_others = named()
        .any(|token| !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close"));
    let is_named = |name: &HeaderName| {
        names_others && named().any(|token| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    let gone = headers.keys().filter(|name| is_removed(name.as_str()) || is_named(name));
    for name in gone.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    for name in &rule.response().strip {
        headers.remove(name);
    }
}

/// What of an answer's trailers goes on: a client that takes them for fields gets nothing that was taken off those.
pub(super) fn clean_trailers(rule: &Rule, trailers: &mut HeaderMap) {
    clean(rule, trailers);
    for name in [header::CONTENT_LENGTH, header::SET_COOKIE] {
        trailers.remove(name);
    }
}

/// The handshake's answer proves that the origin understood it, and agrees to nothing that was not offered (RFC 6455
/// section 4.1). Extensions never are.
fn accepted(permit: &Permit, headers: &HeaderMap) -> Result<(), Stop> {
    use base64::Engine;
    let wrong = || Stop::new(Reason::UpstreamProtocol, "the origin's WebSocket handshake is not valid");
    let key = permit.request().headers().get(header::SEC_WEBSOCKET_KEY).ok_or_else(wrong)?;
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let expected = base64::engine::general_purpose::STANDARD.encode(hash.finish());
    let accept = only(headers, &header::SEC_WEBSOCKET_ACCEPT).ok_or_else(wrong)?;
    let upgrade = only(headers, &header::UPGRADE).ok_or_else(wrong)?;
    let connection = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    let valid = accept.as_bytes() == expected.as_bytes()
        && upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
        && connection.into_iter().any(|token| token.eq_ignore_ascii_case(b"upgrade"))
        && !headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
    if !valid {
        return Err(wrong());
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(());
    }
    let chosen = only(headers, &header::SEC_WEBSOCKET_PROTOCOL).ok_or_else(wrong)?;
    let mut offered =
        permit.request().headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().flat_map(tokens);
    if offered.any(|offer| offer == chosen.as_bytes()) { Ok(()) } else { Err(wrong()) }
}

/// The value of a field that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// What masks the credentials that were put into this request; `None` where none were.
fn redactor(permit: &Permit) -> Option<&Redactor> {
    credentials::carries_credentials(permit).then(|| permit.snapshot().redactor())
}

fn mask(redactor: &Redactor, headers: &mut HeaderMap, ending: &Ending) {
    for value in headers.values_mut() {
        if let Some(masked) = redactor.header(value) {
            *value = masked;
            ending.found(REDACTED, "response header", "");
        }
    }
}

fn redacted(
    flow: &Flow,
    permit: &Permit,
    headers: &mut HeaderMap,
    body: Body,
    ending: &Arc<Ending>,
) -> Result<Body, Stop> {
    let Some(redactor) = redactor(permit) else { return Ok(body) };
    mask(redactor, headers, ending);
    if body.is_end_stream() {
        return Ok(body);
    }
    let coded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded {
        let detail =
            "the origin coded an answer that must be searched for credentials, although asked not to";
        return Err(Stop::new(Reason::UpstreamProtocol, detail));
    }
    Ok(Body::stream(Redacted {
        body,
        redaction: Some(redactor.start()),
        redactor: redactor.clone(),
        ending: ending.clone(),
        waiting: None,
        quiet_after: flow.shared.settings.quiet,
        quiet: None,
    }))
}

/// A body in which credentials are masked with their own length, so that framing holds.
struct Redacted {
    body: Body,
    /// Taken at the end of the message.
    redaction: Option<Redaction>,
    redactor: Redactor,
    ending: Arc<Ending>,
    /// Trailers that wait behind the last data.
    waiting: Option<Frame<Bytes>>,
    quiet_after: Duration,
    quiet: Option<Pin<Box<Sleep>>>,
}

impl Redacted {
    /// Nothing comes: the few bytes that may yet be a secret's beginning go on, so that interactive streams never hang.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Frame<Bytes>> {
        let Some(redaction) = self.redaction.as_mut().filter(|redaction| redaction.may_release()) else {
            return Poll::Pending;
        };
        let after = self.quiet_after;
        let quiet = self.quiet.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        ready!(quiet.as_mut().poll(cx));
        Poll::Ready(Frame::data(redaction.release_quiet()))
    }

    fn end(&mut self) -> Option<Frame<Bytes>> {
        let mut redaction = self.redaction.take()?;
        let rest = redaction.finish();
        if redaction.count() > 0 {
            self.ending.found(REDACTED, "response body", "");
        }
        (!rest.is_empty()).then(|| Frame::data(rest))
    }
}

impl HttpBody for Redacted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Some(redaction) = this.redaction.as_mut() else {
                return Poll::Ready(this.waiting.take().map(Ok));
            };
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                return this.poll_quiet(cx).map(|frame| Some(Ok(frame)));
            };
            this.quiet = None;
            match frame {
                None => return Poll::Ready(this.end().map(Ok)),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let ready = redaction.push(data);
                        if !ready.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(ready))));
                        }
                    }
                    Err(frame) => {
                        this.waiting = frame.into_trailers().ok().map(|t| masked(&this.redactor, t));
                        if let Some(rest) = this.end() {
                            return Poll::Ready(Some(Ok(rest)));
                        }
                    }
                },
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn masked(redactor: &Redactor, mut trailers: HeaderMap) -> Frame<Bytes> {
    for value in trailers.values_mut() {
        if let Some(masked) = redactor.header(value) {
            *value = masked;
        }
    }
    Frame::trailers(trailers)
}
