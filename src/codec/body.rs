//! The one body type that flows through the gate, whichever protocol it came from and goes to.

use crate::base::IoWords;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A message body in frames. Never buffered whole.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    /// One known piece: an own page, or a short message.
    Full(Bytes),
    /// Anything else that yields frames: what a codec reads, or another body with a step wrapped around it.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the message's framing is broken: {0}")]
    Framing(&'static str),
    #[error("the peer closed before the end of the message")]
    Truncated,
    #[error("the body made no progress within its time limit")]
    Stalled,
    /// A step of the pipeline stopped the message on purpose; its record says why.
    #[error("stopped by policy")]
    Refused,
    #[error("{}", IoWords(.0))]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http2(::h2::Error),
}

impl From<::h2::Error> for BodyError {
    fn from(error: ::h2::Error) -> Self {
        if !error.is_io() {
            return Self::Http2(error);
        }
        error.into_io().map_or(Self::Truncated, Self::Io)
    }
}

impl Body {
    pub fn stream(body: impl HttpBody<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self::Stream(Box::pin(body))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Body::Empty",
            Self::Full(_) => "Body::Full",
            Self::Stream(_) => "Body::Stream",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}
