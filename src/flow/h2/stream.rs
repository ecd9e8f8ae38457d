//! One stream: its request answered, the answer sent as fast as the client takes it.

use super::super::h1::Service;
use super::leftover::Leftover;
use crate::codec::h2::{Unsent, pour};
use crate::codec::{Body, BodyError, Conduct};
use crate::pipeline::{Asked, Interims, Rejected, Reply};
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, Entry};
use http::{Method, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What the streams of a connection are doing.
pub(super) struct Streams {
    /// Since when `moved` counts.
    begun: Instant,
    /// Microseconds until a stream last began, ended, or went from one wait to another; zero: none ever has.
    moved: AtomicU64,
    open: AtomicU64,
    /// Of the open ones, those that wait for us or for the upstream side.
    waiting: AtomicU64,
    /// Told when the connection was refused and its page has been given, or was ended for a fault.
    pub(super) over: Notify,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            open: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            over: Notify::new(),
        }
    }

    pub(super) fn moved(&self) {
        let passed = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved.store(passed.max(1), Ordering::Relaxed);
    }

    /// When something last happened, and what is waited for.
    pub(super) fn now(&self) -> Now {
        let moved = match self.moved.load(Ordering::Relaxed) {
            0 => return Now::NothingAsked { since: self.begun },
            passed => self.begun + Duration::from_micros(passed),
        };
        if self.open.load(Ordering::Relaxed) == 0 {
            Now::Idle { since: moved }
        } else if self.waiting.load(Ordering::Relaxed) == 0 {
            Now::Sending { since: moved }
        } else {
            Now::Working
        }
    }
}

/// Whom a connection waits for.
pub(super) enum Now {
    /// Its client, which has not asked for anything yet.
    NothingAsked { since: Instant },
    /// Its client, which may ask for more.
    Idle { since: Instant },
    /// Its client, which has answers to take.
    Sending { since: Instant },
    /// Us, or the upstream side.
    Working,
}

/// Counts a stream as open from its head to the last of its answer.
pub(super) struct Busy {
    streams: Arc<Streams>,
    waits: bool,
}

impl Busy {
    pub(super) fn begin(streams: &Arc<Streams>) -> Self {
        streams.open.fetch_add(1, Ordering::Relaxed);
        streams.waiting.fetch_add(1, Ordering::Relaxed);
        streams.moved();
        Self { streams: streams.clone(), waits: true }
    }

    pub(super) fn waits(&mut self, waits: bool) {
        if waits != self.waits {
            // Before anybody can see that nothing waits.
            self.streams.moved();
            let waiting = &self.streams.waiting;
            if waits {
                waiting.fetch_add(1, Ordering::Relaxed)
            } else {
                waiting.fetch_sub(1, Ordering::Relaxed)
            };
            self.waits = waits;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.waits(false);
        self.streams.moved();
        self.streams.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream's request.
pub(super) struct Offered {
    pub(super) claimed: Result<Box<Asked>, Box<Rejected>>,
    pub(super) body: Body,
    pub(super) leftover: Leftover,
    /// Told when the body is wanted, of a client that waits for that.
    pub(super) wanted: Option<Arc<Notify>>,
    pub(super) conduct: Conduct,
}

pub(super) async fn answer(
    service: Arc<Service>,
    offered: Offered,
    mut respond: SendResponse<Bytes>,
    mut busy: Busy,
) {
    let Offered { claimed, body, mut leftover, wanted, conduct } = offered;
    let head_only = claimed.as_ref().is_ok_and(|asked| asked.method == Method::HEAD);
    let interims = Interims::new(true);
    let reply = tokio::select! {
        biased;
        reply = service.answer(claimed, body, &interims) => reply,
        // Nobody works on for a client that has reset the stream, or gone.
        () = say_and_watch(&interims, wanted, &conduct, &mut respond) => return,
    };
    if service.page.is_some() {
        busy.streams.over.notify_one();
    }
    if conduct.breach().is_some() {
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    }
    say_ahead(&interims, &mut respond);
    busy.waits(false);
    let Reply { response, stated_length, .. } = reply;
    let (mut parts, body) = response.into_parts();
    let ended = body.is_end_stream();
    let length = if ended { stated_length.filter(|_| head_only) } else { body.size_hint().exact() };
    if let (Some(length), Entry::Vacant(field)) = (length, parts.headers.entry(CONTENT_LENGTH)) {
        field.insert(length.into());
    }
    if ended {
        leftover.discard().await;
    }
    let mut stream = match respond.send_response(Response::from_parts(parts, ()), ended) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "an answer could not be sent");
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
    };
    if ended {
        return;
    }
    let body = Body::stream(Running { body, leftover, busy });
    match pour(body, &mut stream, None).await {
        Ok(()) | Err(Unsent::Ended(_)) => {}
        // Visibly cut.
        Err(Unsent::Body(_) | Unsent::Stalled | Unsent::Closed) => stream.send_reset(Reason::INTERNAL_ERROR),
    }
}

/// Says what goes ahead of the answer; ends when nobody is left to be answered.
async fn say_and_watch(
    interims: &Interims,
    wanted: Option<Arc<Notify>>,
    conduct: &Conduct,
    respond: &mut SendResponse<Bytes>,
) {
    let mut waits = wanted.is_some();
    let mut wanted = pin!(async {
        match wanted {
            Some(wanted) => wanted.notified().await,
            None => pending().await,
        }
    });
    let ended = poll_fn(|cx| {
        if waits && wanted.as_mut().poll(cx).is_ready() {
            waits = false;
            let mut go_on = Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            say(go_on, respond);
        }
        say_ahead(interims, respond);
        respond.poll_reset(cx)
    });
    // The crate resets a stream whose frames break the protocol; a body that does not have the stated length is one.
    if let Ok(reason) = ended.await
        && is_breach(reason)
        && !conduct.has_left()
    {
        conduct.broke("a stream that breaks the protocol, or the length that it stated");
    }
}

/// Errors of a stream that its client has made.
fn is_breach(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PROTOCOL_ERROR
            | Reason::FLOW_CONTROL_ERROR
            | Reason::STREAM_CLOSED
            | Reason::FRAME_SIZE_ERROR
    )
}

fn say_ahead(interims: &Interims, respond: &mut SendResponse<Bytes>) {
    while let Some(interim) = interims.next() {
        say(interim, respond);
    }
}

/// Interim answers go at once, each a HEADERS of its own (RFC 9113 section 8.1).
fn say(interim: Response<()>, respond: &mut SendResponse<Bytes>) {
    if let Err(error) = respond.send_informational(interim) {
        tracing::debug!(%error, "an interim answer could not be sent");
    }
}

/// An answer's body that counts its stream as open until it is dropped, with its last byte or the client's reset.
struct Running {
    body: Body,
    leftover: Leftover,
    busy: Busy,
}

impl HttpBody for Running {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            frame = self.leftover.poll_discard(cx).map(|()| None);
        }
        self.busy.waits(frame.is_pending());
        if frame.is_ready() {
            self.busy.streams.moved();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.leftover.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
