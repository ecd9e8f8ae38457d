//! What nobody read of an upload over HTTP/2. A stream that is answered to its end while its client still sends makes
//! widespread clients forget the answer (curl 7 does, though RFC 9113 section 8.1 lets a server do so), so the rest is
//! read and thrown away first. `stream` uses it.

use crate::codec::h2::Received;
use crate::codec::{BodyError, Conduct};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// A client that is silent for so long waits for the answer (a call that streams both ways), and gets it.
const SILENCE: Duration = Duration::from_millis(250);

type Slot = Arc<Mutex<Option<Received<()>>>>;

/// A request's body. Whoever drops it unread gives it back.
pub(super) struct Lent {
    body: Option<Received<()>>,
    conduct: Conduct,
    /// Told once, when somebody first asks for the body: the moment for `100 (Continue)`.
    wanted: Option<Arc<Notify>>,
    slot: Slot,
}

/// Where it comes back to. By default: nowhere, of a request without a body.
#[derive(Default)]
pub(super) struct Leftover {
    slot: Option<Slot>,
    /// How long it is read at most.
    limit: Duration,
    reading: Option<Reading>,
}

struct Reading {
    body: Received<()>,
    quiet: Pin<Box<Sleep>>,
    end: Instant,
}

pub(super) fn lend(
    body: Received<()>,
    conduct: Conduct,
    wanted: Option<Arc<Notify>>,
    limit: Duration,
) -> (Lent, Leftover) {
    let slot = Slot::default();
    let lent = Lent { body: Some(body), conduct, wanted, slot: slot.clone() };
    (lent, Leftover { slot: Some(slot), limit, reading: None })
}

impl Drop for Lent {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| !body.is_end_stream());
        *lock(&self.slot) = unread;
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(wanted) = self.wanted.take() {
            wanted.notify_one();
        }
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        // Noted before the crate has read it, so that no message with it is ever whole.
        match self.conduct.breach() {
            Some(breach) => Poll::Ready(Some(Err(BodyError::Framing(breach)))),
            None => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Received<()>>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leftover {
    /// Nothing is left to read, so far as is known now.
    pub(super) fn is_empty(&self) -> bool {
        self.reading.is_none() && self.slot.as_ref().is_none_or(|slot| lock(slot).is_none())
    }

    /// Reads until the client has sent all, waits, or its time is over.
    pub(super) async fn discard(&mut self) {
        poll_fn(|cx| self.poll_discard(cx)).await;
    }

    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.reading.is_none() {
            let body = self.slot.as_ref().and_then(|slot| lock(slot).take());
            let Some(body) = body else { return Poll::Ready(()) };
            let quiet = Box::pin(tokio::time::sleep(SILENCE));
            self.reading = Some(Reading { body, quiet, end: Instant::now() + self.limit });
        }
        if let Some(reading) = &mut self.reading {
            ready!(reading.poll(cx));
        }
        self.reading = None;
        Poll::Ready(())
    }
}

impl Reading {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {
                    let now = Instant::now();
                    if now >= self.end {
                        return Poll::Ready(());
                    }
                    self.quiet.as_mut().reset(self.end.min(now + SILENCE));
                }
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
                Poll::Pending => return self.quiet.as_mut().poll(cx),
            }
        }
    }
}
