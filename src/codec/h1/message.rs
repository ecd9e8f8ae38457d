//! The body of one HTTP/1 message, read as it is asked for. It owns the connection's reader while it lives and gives
//! it back through a slot, so that nobody can read the next head before this message has ended.

use super::chunked::{Chunked, Piece};
use super::{Framing, Reader};
use crate::codec::pace::Patience;
use crate::codec::{BodyError, Pace};
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::AsyncRead;
use tokio::sync::Notify;

/// Where a message leaves its reader.
#[derive(Debug)]
pub struct Slot<R>(Arc<Shared<R>>);

#[derive(Debug)]
struct Shared<R> {
    left: Mutex<Option<Left<R>>>,
    returned: Notify,
}

/// What a message left behind.
#[derive(Debug)]
pub struct Left<R> {
    pub reader: Reader<R>,
    /// The message was read to its end, so that another may follow.
    pub finished: bool,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
    Failed,
}

impl<R> Slot<R> {
    pub fn take(&self) -> Option<Left<R>> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for the message to be dropped.
    pub async fn returned(&self) -> Left<R> {
        loop {
            let notified = self.0.returned.notified();
            if let Some(left) = self.take() {
                return left;
            }
            notified.await;
        }
    }
}

pub struct MessageBody<R> {
    /// Present until the drop.
    reader: Option<Reader<R>>,
    state: State,
    slot: Arc<Shared<R>>,
    /// Told once, when somebody first asks for the body: the moment for `100 Continue`.
    wanted: Option<Arc<Notify>>,
    patience: Patience,
}

impl<R> MessageBody<R> {
    pub fn new(
        reader: Reader<R>,
        framing: Framing,
        pace: Pace,
        wanted: Option<Arc<Notify>>,
    ) -> (Self, Slot<R>) {
        let slot = Arc::new(Shared { left: Mutex::new(None), returned: Notify::new() });
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Chunked(Chunked::new()),
            Framing::UntilClose => State::UntilClose,
        };
        let body =
            Self { reader: Some(reader), state, slot: slot.clone(), wanted, patience: Patience::new(pace) };
        (body, Slot(slot))
    }
}

enum Step {
    Data(Bytes),
    End(Option<http::HeaderMap>),
    NeedMore,
}

impl State {
    fn step(&mut self, buf: &mut BytesMut) -> Result<Step, BodyError> {
        match self {
            Self::Length(left) => {
                if buf.is_empty() {
                    return Ok(Step::NeedMore);
                }
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= n as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Step::Data(buf.split_to(n).freeze()))
            }
            Self::Chunked(chunked) => match chunked.next(buf) {
                Ok(Piece::Data(data)) => Ok(Step::Data(data)),
                Ok(Piece::NeedMore) => Ok(Step::NeedMore),
                Ok(Piece::End(trailers)) => {
                    *self = Self::Done;
                    Ok(Step::End((!trailers.is_empty()).then_some(trailers)))
                }
                Err(_) => {
                    *self = Self::Failed;
                    Err(BodyError::Framing("the chunked coding is broken"))
                }
            },
            Self::UntilClose if buf.is_empty() => Ok(Step::NeedMore),
            Self::UntilClose => Ok(Step::Data(buf.split().freeze())),
            Self::Done => Ok(Step::End(None)),
            Self::Failed => Err(BodyError::Truncated),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Done => true,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::Length(_) | Self::UntilClose | Self::Failed => false,
        }
    }
}

impl<R: AsyncRead + Unpin> MessageBody<R> {
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(reader) = self.reader.as_mut() else { return Poll::Ready(Err(BodyError::Truncated)) };
        if let Some(wanted) = self.wanted.take() {
            wanted.notify_one();
        }
        let Poll::Ready(n) = reader.poll_fill(cx)? else {
            ready!(self.patience.poll_spent(cx));
            self.state = State::Failed;
            return Poll::Ready(Err(BodyError::Stalled));
        };
        self.patience.received(n);
        if n > 0 {
            return Poll::Ready(Ok(()));
        }
        if matches!(self.state, State::UntilClose) {
            self.state = State::Done;
            return Poll::Ready(Ok(()));
        }
        self.state = State::Failed;
        Poll::Ready(Err(BodyError::Truncated))
    }
}

impl<R: AsyncRead + Unpin> HttpBody for MessageBody<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let Some(reader) = this.reader.as_mut() else { return Poll::Ready(None) };
            match this.state.step(&mut reader.buf) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::End(trailers)) => return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t)))),
                Ok(Step::NeedMore) => {
                    if let Err(error) = ready!(this.poll_more(cx)) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Length(n) => SizeHint::with_exact(*n),
            State::Done => SizeHint::with_exact(0),
            State::Chunked(_) | State::UntilClose | State::Failed => SizeHint::default(),
        }
    }
}

impl<R> Drop for MessageBody<R> {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        let left = Left { reader, finished: self.state.is_done() };
        *self.slot.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
        self.slot.returned.notify_one();
    }
}
