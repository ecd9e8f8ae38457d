//! DLP on what passes: the head of a request at once, bodies as they stream, with what may still become a finding
//! held back.

use super::ending::Ending;
use super::{Facts, Flow, Stop, overrides};
use crate::codec::{Body, BodyError};
use crate::dlp::{self, Coding, Finding, Limits, Selection};
use crate::policy::{OnMatch, Permit, Reason, Snapshot};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Scans the whole head of a request at once: target, host, and every field with its name, so that a pattern that
/// needs the name to know the value sees both.
pub(super) fn head(permit: &Permit, facts: &mut Facts) -> Result<(), Stop> {
    let dlp = permit.rule().dlp();
    if dlp.outbound.is_empty() {
        return Ok(());
    }
    let request = permit.request();
    let mut text = Vec::with_capacity(512);
    text.extend_from_slice(request.path_and_query().as_str().as_bytes());
    let target_end = text.len();
    if let Some(name) = request.host().name() {
        text.push(BETWEEN);
        text.extend_from_slice(name.as_str().as_bytes());
    }
    for (name, value) in request.headers() {
        put_field(&mut text, name, value);
    }
    let Some(finding) = permit.snapshot().detectors().scan(dlp.outbound, &text) else { return Ok(()) };
    let in_target = usize::try_from(finding.offset).is_ok_and(|at| at < target_end);
    let place = if in_target { "target" } else { "header" };
    facts.findings.push((finding.rule.to_string(), place, finding.encoding.as_str().to_owned()));
    match dlp.on_match {
        OnMatch::Block => Err(blocked(&finding, place)),
        OnMatch::Log => Ok(()),
    }
}

/// Searches the target of a request that is refused before its head was, so that what must not leave does not stand in
/// its record either. Whether something was found.
pub(super) fn target(snapshot: &Snapshot, facts: &mut Facts) -> bool {
    if !facts.findings.is_empty() {
        return false;
    }
    let found = snapshot.detectors().scan(Selection::all(), facts.target.as_bytes());
    if let Some(finding) = &found {
        facts.findings.push((finding.rule.to_string(), "target", finding.encoding.as_str().to_owned()));
    }
    found.is_some()
}

fn put_field(text: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    text.push(BETWEEN);
    text.extend_from_slice(name.as_str().as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value.as_bytes());
}

/// Stands between the pieces of a head; no header, target or pattern holds it.
const BETWEEN: u8 = 0;

/// Refuses a body that says it is longer than what its rule inspects, before anything is sent of it.
pub(super) fn length(permit: &Permit, length: Option<u64>) -> Result<(), Stop> {
    match (permit.rule().dlp().max_body, length) {
        (Some(most), Some(length)) if length > most => Err(too_long(most)),
        _ => Ok(()),
    }
}

fn too_long(most: u64) -> Stop {
    Stop::new(Reason::DlpLimit, format!("the body is longer than the {most} bytes that this rule inspects"))
}

fn blocked(finding: &Finding, place: &str) -> Stop {
    let encoding = finding.encoding.as_str().to_owned();
    let wrapped = if encoding.is_empty() { String::new() } else { format!(" in {encoding}") };
    Stop::new(Reason::Dlp, format!("{} found in the {place}{wrapped}", finding.rule))
}

/// A request body that is scanned, and where its scanner says why it stopped.
pub(super) struct Upload {
    pub(super) body: Body,
    /// Where there is a body.
    pub(super) findings: Option<Findings>,
}

/// Why a body was stopped; told to whoever answers the client.
#[derive(Clone, Default)]
pub(super) struct Findings(Arc<Mutex<Option<(Reason, String)>>>);

impl Findings {
    pub(super) fn stop(&self) -> Option<Stop> {
        let stopped = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stopped.map(|(reason, detail)| Stop::new(reason, detail))
    }

    fn set(&self, reason: Reason, detail: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((reason, detail));
    }
}

pub(super) fn outbound(
    flow: &Flow,
    permit: &Permit,
    body: Body,
    ending: &Arc<Ending>,
) -> Result<Upload, Stop> {
    if body.is_end_stream() {
        return Ok(Upload { body: Body::Empty, findings: None });
    }
    let body = overrides::in_body(permit, body, ending);
    let findings = Findings::default();
    let dlp = permit.rule().dlp();
    let way = Way {
        selection: dlp.outbound,
        name: "body",
        up: true,
        most: dlp.max_body,
        findings: findings.clone(),
        ending: ending.clone(),
    };
    let body = wrap(flow, permit, permit.request().headers(), body, way)?;
    Ok(Upload { body, findings: Some(findings) })
}

pub(super) fn inbound(
    flow: &Flow,
    permit: &Permit,
    headers: &HeaderMap,
    body: Body,
    ending: &Arc<Ending>,
) -> Result<Body, Stop> {
    let dlp = permit.rule().dlp();
    if dlp.inbound.is_empty() || body.is_end_stream() {
        return Ok(body);
    }
    let way = Way {
        selection: dlp.inbound,
        name: "response body",
        up: false,
        most: None,
        findings: Findings::default(),
        ending: ending.clone(),
    };
    wrap(flow, permit, headers, body, way).map_err(|stop| {
        Stop::new(Reason::UpstreamProtocol, stop.refusal.detail.replace("the body", "the answer"))
    })
}

/// One direction of an exchange: what is looked for in it, and where what happens is told.
struct Way {
    selection: Selection,
    name: &'static str,
    up: bool,
    /// The longest body that is inspected, where the rule sets one.
    most: Option<u64>,
    findings: Findings,
    ending: Arc<Ending>,
}

fn wrap(flow: &Flow, permit: &Permit, headers: &HeaderMap, body: Body, way: Way) -> Result<Body, Stop> {
    let settings = &flow.shared.settings;
    let stream = match way.selection.is_empty() {
        true => None,
        false => {
            let limits = Limits { decoded: settings.decoded_bytes, ..Limits::default() };
            let (detectors, coding) = (permit.snapshot().detectors(), coding(headers)?);
            let stream = dlp::Stream::new(detectors, way.selection, coding, limits);
            Some(if permit.rule().dlp().on_match == OnMatch::Log { stream.recording() } else { stream })
        }
    };
    Ok(Body::stream(Scanned {
        body,
        stream,
        detectors: permit.snapshot().detectors().clone(),
        on_match: permit.rule().dlp().on_match,
        room: way.most,
        way,
        quiet_after: settings.quiet,
        quiet: None,
        last: None,
        ended: false,
    }))
}

/// What is understood of the message's content coding; anything else cannot be inspected and is refused.
fn coding(headers: &HeaderMap) -> Result<Coding, Stop> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let first = codings.next().map(|v| v.as_bytes().trim_ascii());
    match (first, codings.next()) {
        (None, _) => Ok(Coding::Identity),
        (Some(one), None) if one.is_empty() || one.eq_ignore_ascii_case(b"identity") => Ok(Coding::Identity),
        (Some(one), None) if one.eq_ignore_ascii_case(b"gzip") || one.eq_ignore_ascii_case(b"x-gzip") => {
            Ok(Coding::Gzip)
        }
        _ => Err(Stop::new(Reason::DlpCoding, "the body has a content coding that cannot be inspected")),
    }
}

struct Scanned {
    body: Body,
    stream: Option<dlp::Stream>,
    detectors: Arc<dlp::Detectors>,
    on_match: OnMatch,
    way: Way,
    /// How much more the rule inspects; a body that goes on is stopped, never passed uninspected.
    room: Option<u64>,
    quiet_after: Duration,
    quiet: Option<Pin<Box<Sleep>>>,
    /// Trailers that wait until the body before them was released.
    last: Option<Frame<Bytes>>,
    ended: bool,
}

impl Scanned {
    /// Counts what goes on; a download is counted where it leaves.
    fn pass(&self, data: Bytes) -> Option<Result<Frame<Bytes>, BodyError>> {
        if self.way.up {
            self.way.ending.count_up(data.len() as u64);
        }
        Some(Ok(Frame::data(data)))
    }

    fn stopped(&mut self, stop: &dlp::Stop) -> Result<(), BodyError> {
        let (reason, detail) = match stop {
            dlp::Stop::Finding(finding) => {
                let encoding = finding.encoding.as_str().to_owned();
                self.way.ending.found(&finding.rule, self.way.name, &encoding);
                if self.on_match == OnMatch::Log {
                    return Ok(());
                }
                (Reason::Dlp, format!("{} found in the {}", finding.rule, self.way.name))
            }
            dlp::Stop::Bomb => (Reason::DlpBomb, "the body decompresses beyond its budget".to_owned()),
            dlp::Stop::BadCoding => {
                (Reason::DlpCoding, "the body is not what its content coding says".to_owned())
            }
        };
        self.way.ending.finish(super::Outcome::Blocked, Some(reason), Some(detail.clone()));
        self.way.findings.set(reason, detail);
        self.ended = true;
        Err(BodyError::Refused)
    }

    fn within_room(&mut self, length: u64) -> Result<(), BodyError> {
        let Some(room) = self.room else { return Ok(()) };
        self.room = room.checked_sub(length);
        if self.room.is_some() {
            return Ok(());
        }
        let refusal = too_long(self.way.most.unwrap_or_default()).refusal;
        self.way.ending.finish(super::Outcome::Blocked, Some(refusal.reason), Some(refusal.detail.clone()));
        self.way.findings.set(refusal.reason, refusal.detail);
        self.ended = true;
        Err(BodyError::Refused)
    }

    /// Trailers are scanned like fields of the head, with their names; what must not come behind a body is dropped.
    fn trailers(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, BodyError> {
        let Ok(mut fields) = frame.into_trailers() else { return Ok(None) };
        if !self.way.selection.is_empty() {
            let mut text = Vec::new();
            for (name, value) in &fields {
                put_field(&mut text, name, value);
            }
            if let Some(finding) = self.detectors.scan(self.way.selection, &text) {
                self.stopped(&dlp::Stop::Finding(finding))?;
            }
        }
        if self.way.up {
            for name in misplaced(&fields) {
                fields.remove(name);
            }
        }
        Ok((!fields.is_empty()).then(|| Frame::trailers(fields)))
    }

    /// A frame came: what it lets go on, or an error. `None`: nothing yet.
    fn take(&mut self, frame: Frame<Bytes>) -> Option<Result<Frame<Bytes>, BodyError>> {
        match frame.into_data() {
            Ok(data) => {
                if let Err(error) = self.within_room(data.len() as u64) {
                    return Some(Err(error));
                }
                let Some(stream) = self.stream.as_mut() else { return self.pass(data) };
                let pushed = stream.push(data);
                self.note();
                if let Err(stop) = pushed
                    && let Err(error) = self.stopped(&stop)
                {
                    return Some(Err(error));
                }
                None
            }
            Err(frame) => {
                match self.trailers(frame) {
                    Ok(trailers) => self.last = trailers,
                    Err(error) => return Some(Err(error)),
                }
                self.end().err().map(Err)
            }
        }
    }

    fn end(&mut self) -> Result<(), BodyError> {
        self.ended = true;
        let Some(stream) = self.stream.as_mut() else { return Ok(()) };
        let finished = stream.finish();
        self.note();
        finished.or_else(|stop| self.stopped(&stop))
    }

    /// What a rule that only logs has found by now.
    fn note(&mut self) {
        if self.on_match == OnMatch::Log {
            for finding in self.stream.iter_mut().flat_map(dlp::Stream::findings) {
                self.way.ending.found(&finding.rule, self.way.name, finding.encoding.as_str());
            }
        }
    }
}

/// All but the fields that are about the body before them. Anything else behind a body could override what was judged
/// in its head, where an origin merges the two (RFC 9110 section 6.5.1).
fn misplaced(fields: &HeaderMap) -> Vec<HeaderName> {
    const ABOUT_THE_BODY: [&str; 6] =
        ["digest", "content-digest", "repr-digest", "x-checksum", "x-amz-checksum-", "grpc-"];
    let allowed = |name: &HeaderName| ABOUT_THE_BODY.iter().any(|prefix| name.as_str().starts_with(prefix));
    fields.keys().filter(|name| !allowed(name)).cloned().collect()
}

impl HttpBody for Scanned {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(ready) = this.stream.as_mut().and_then(dlp::Stream::pop) {
                return Poll::Ready(this.pass(ready));
            }
            if this.ended {
                return Poll::Ready(this.last.take().map(Ok));
            }
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.quiet = None;
                    if let Some(out) = this.take(frame) {
                        return Poll::Ready(Some(out));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    if let Err(error) = this.end() {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Poll::Pending => {
                    let Some(stream) = this.stream.as_mut().filter(|stream| stream.held() > 0) else {
                        return Poll::Pending;
                    };
                    let after = this.quiet_after;
                    let quiet = this.quiet.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
                    if quiet.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    stream.release_quiet();
                    match stream.pop() {
                        Some(ready) => return Poll::Ready(this.pass(ready)),
                        None => return Poll::Pending,
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.last.is_none() && self.stream.as_ref().is_none_or(dlp::Stream::is_drained)
    }

    fn size_hint(&self) -> SizeHint {
        // What is held or released in other pieces is still as long as it was.
        self.body.size_hint()
    }
}
