//! How an exchange that was let through came to its end: counted while it runs, recorded once, by construction. Whoever
//! still works on the exchange holds it; the end record is written when the last one lets go.

use super::answer::clean_trailers;
use super::overrides::METHOD_OVERRIDE;
use super::standing::LOOK;
use super::{Shared, Standing};
use crate::audit::{End, Finding, FlowId, Text, WebSocket};
use crate::codec::{Body, BodyError, Conduct};
use crate::policy::Reason;
use crate::upstream::Reached;
use bytes::Bytes;
use http::{StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::time::Sleep;

/// The last word on an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Stopped by policy after it was let through: DLP in mid-body, a script on the answer.
    Blocked,
    /// The upstream side failed.
    Failed,
    /// The client went away, or the daemon ended it.
    Abandoned,
}

impl Outcome {
    /// Of something that might not go on ([`Standing::holds`]).
    pub(crate) fn of_lost(reason: Reason) -> Self {
        if reason == Reason::Shutdown { Self::Abandoned } else { Self::Blocked }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

pub struct Ending {
    shared: Arc<Shared>,
    id: FlowId,
    started: Instant,
    up: AtomicU64,
    down: AtomicU64,
    status: AtomicU16,
    messages_up: AtomicU64,
    messages_down: AtomicU64,
    /// Of a WebSocket that has ended; 0 for all else.
    close_code: AtomicU16,
    upstream: OnceLock<(Reached, &'static str)>,
    /// Says what becomes of an exchange that nobody else ended.
    conduct: Conduct,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    outcome: Option<Outcome>,
    reason: Option<Reason>,
    detail: Option<String>,
    findings: Vec<(String, &'static str, String)>,
    never_began: bool,
}

/// Findings that one record lists.
const MAX_FINDINGS: usize = 16;

impl Ending {
    pub(crate) fn new(shared: Arc<Shared>, id: FlowId, conduct: Conduct) -> Arc<Self> {
        Arc::new(Self {
            shared,
            id,
            started: Instant::now(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            status: AtomicU16::new(0),
            messages_up: AtomicU64::new(0),
            messages_down: AtomicU64::new(0),
            close_code: AtomicU16::new(0),
            upstream: OnceLock::new(),
            conduct,
            last: Mutex::default(),
        })
    }

    pub fn id(&self) -> FlowId {
        self.id
    }

    pub fn count_up(&self, bytes: u64) {
        self.up.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn count_down(&self, bytes: u64) {
        self.down.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One message of a WebSocket from the client went on.
    pub fn message_up(&self) {
        self.messages_up.fetch_add(1, Ordering::Relaxed);
    }

    pub fn message_down(&self) {
        self.messages_down.fetch_add(1, Ordering::Relaxed);
    }

    /// How a WebSocket was closed (RFC 6455 section 7.1.5).
    pub fn closed_with(&self, code: u16) {
        self.close_code.store(code, Ordering::Relaxed);
    }

    pub fn answered_by(&self, from: Reached, version: Version) {
        let proto = if version == Version::HTTP_2 { "h2" } else { "http/1.1" };
        let _ = self.upstream.set((from, proto));
    }

    /// Where a tunnel leads.
    pub fn tunnelled_to(&self, to: Reached) {
        let _ = self.upstream.set((to, "tcp"));
    }

    pub fn status(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// States the outcome; the first statement stands.
    pub fn finish(&self, outcome: Outcome, reason: Option<Reason>, detail: Option<String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.outcome.is_none() {
            last.outcome = Some(outcome);
            last.reason = reason;
            last.detail = detail;
        }
    }

    /// Its decision could not be recorded, so that nothing was let through.
    pub(crate) fn never_began(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).never_began = true;
    }

    fn websocket(&self) -> Option<WebSocket> {
        let close_code = self.close_code.load(Ordering::Relaxed);
        (close_code != 0).then(|| WebSocket {
            messages_up: self.messages_up.load(Ordering::Relaxed),
            messages_down: self.messages_down.load(Ordering::Relaxed),
            close_code,
        })
    }

    pub(crate) fn found(&self, detector: &str, place: &'static str, encoding: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.findings.len() < MAX_FINDINGS {
            last.findings.push((detector.to_owned(), place, encoding.to_owned()));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(breach) = self.conduct.breach() {
            self.finish(Outcome::Blocked, Some(Reason::BadFraming), Some(breach.to_owned()));
        }
        let last = std::mem::take(self.last.get_mut().unwrap_or_else(PoisonError::into_inner));
        if last.never_began {
            return;
        }
        let (up, down) = (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed));
        self.shared.metrics.bytes_up.inc_by(up);
        self.shared.metrics.bytes_down.inc_by(down);
        let findings: Vec<Finding<'_>> = last
            .findings
            .iter()
            .map(|(detector, place, encoding)| Finding { detector, place, encoding })
            .collect();
        let status = self.status.load(Ordering::Relaxed);
        let (reached, proto) = self.upstream.get().map(|(reached, proto)| (reached, *proto)).unzip();
        self.shared.log.end(&End {
            id: self.id,
            outcome: last.outcome.unwrap_or(Outcome::Abandoned).as_str(),
            reason: last
                .reason
                .map(Reason::as_str)
                .or_else(|| last.findings.iter().find_map(|(detector, ..)| reason_of(detector))),
            detail: last.detail.as_deref().map(Text::from),
            status: (status != 0).then_some(status),
            bytes_up: up,
            bytes_down: down,
            duration: self.started.elapsed(),
            websocket: self.websocket(),
            upstream: reached.and_then(|reached| reached.address).map(|address| address.0),
            proxy: reached.and_then(|reached| reached.proxy.as_deref()),
            upstream_proto: proto,
            findings: &findings,
            dns: None,
        });
    }
}

/// What was seen and let pass is the reason of a record that has no other.
fn reason_of(detector: &str) -> Option<&'static str> {
    match detector {
        REDACTED => Some(REDACTED),
        METHOD_OVERRIDE => None,
        _ => Some(Reason::Dlp.as_str()),
    }
}

/// The finding that says that a credential was masked in an answer.
pub(crate) const REDACTED: &str = "secret_redacted";

/// An answer's body that counts and, at its end, states the outcome. With `standing` it ends early when a reload no
/// longer allows it.
pub(crate) fn counted_down(body: Body, ending: Arc<Ending>, standing: Option<Box<Standing>>) -> Body {
    // What is here whole cannot end otherwise any more.
    if let Body::Empty | Body::Full(_) = &body {
        ending.count_down(body.size_hint().lower());
        ending.finish(Outcome::Done, None, None);
        return body;
    }
    if body.is_end_stream() {
        ending.finish(Outcome::Done, None, None);
        return body;
    }
    Body::stream(Down { body, ending, standing, look: None })
}

struct Down {
    body: Body,
    ending: Arc<Ending>,
    standing: Option<Box<Standing>>,
    /// Wakes a body that is silent, so that it is looked at too.
    look: Option<Pin<Box<Sleep>>>,
}

impl Down {
    fn is_lost(&mut self) -> bool {
        let Some(Err(reason)) = self.standing.as_mut().map(|standing| standing.holds()) else { return false };
        self.ending.finish(Outcome::of_lost(reason), Some(reason), None);
        true
    }

    fn cleaned(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match (frame.into_trailers(), &self.standing) {
            (Ok(mut trailers), Some(standing)) => {
                clean_trailers(standing.permit.rule(), &mut trailers);
                Frame::trailers(trailers)
            }
            (Ok(trailers), None) => Frame::trailers(trailers),
            (Err(frame), _) => frame,
        }
    }

    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
        ready!(look.as_mut().poll(cx));
        self.look = None;
        Poll::Ready(())
    }

    fn count(&self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.ending.count_down(data.len() as u64);
                }
                if self.body.is_end_stream() {
                    self.ending.finish(Outcome::Done, None, None);
                }
            }
            Some(Err(error)) => {
                self.ending.finish(Outcome::Failed, Some(Reason::UpstreamProtocol), Some(error.to_string()));
            }
            None => self.ending.finish(Outcome::Done, None, None),
        }
    }
}

impl HttpBody for Down {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if this.is_lost() {
                return Poll::Ready(Some(Err(BodyError::Refused)));
            }
            if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
                this.count(frame.as_ref());
                return Poll::Ready(frame.map(|frame| frame.map(|frame| this.cleaned(frame))));
            }
            if this.standing.is_none() || this.poll_look(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
