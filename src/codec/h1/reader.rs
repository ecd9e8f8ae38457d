//! A buffered reader of HTTP/1 messages. Holds no memory while it waits for the next head.

use super::{HeadError, HeadLimits, RequestHead, ResponseHead, parse_request, parse_response};
use crate::base::IoWords;
use bytes::{Bytes, BytesMut};
use http::Method;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What an idle connection reads into: on the stack, so that idle connections cost no buffer.
const IDLE_READ: usize = 4 * 1024;
/// Body reads start with this and double up to the second figure while the peer fills them.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 64 * 1024;

#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    pub(super) buf: BytesMut,
    next_read: usize,
    /// An error that came behind bytes, told at the next read.
    failed: Option<io::Error>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The peer closed inside a head.
    #[error("the peer closed in the middle of a message")]
    Truncated,
    #[error("{}", IoWords(.0))]
    Io(#[from] io::Error),
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Self {
        Self { io, buf: BytesMut::new(), next_read: FIRST_READ, failed: None }
    }

    /// Waits until at least one byte is there. `false`: the peer closed.
    pub async fn wait_for_data(&mut self) -> io::Result<bool> {
        if !self.buf.is_empty() {
            return Ok(true);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.buf = BytesMut::new();
        self.next_read = FIRST_READ;
        poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); IDLE_READ];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.buf = BytesMut::from(read.filled());
            Poll::Ready(Ok(!self.buf.is_empty()))
        })
        .await
    }

    /// Reads one request head. `Ok(None)`: the peer closed where a head could have begun.
    pub async fn request(&mut self, limits: &HeadLimits) -> Result<Option<RequestHead>, ReadError> {
        if !self.wait_for_data().await? {
            return Ok(None);
        }
        let mut seen = 0;
        loop {
            if let Some(head) = parse_request(&mut self.buf, seen, limits)? {
                return Ok(Some(head));
            }
            seen = self.buf.len();
            if self.fill().await? == 0 {
                return Err(ReadError::Truncated);
            }
        }
    }

    /// Reads one response head; `method` is the request's.
    pub async fn response(
        &mut self,
        method: &Method,
        limits: &HeadLimits,
    ) -> Result<ResponseHead, ReadError> {
        if !self.wait_for_data().await? {
            return Err(ReadError::Truncated);
        }
        let mut seen = 0;
        loop {
            if let Some(head) = parse_response(&mut self.buf, seen, method, limits)? {
                return Ok(head);
            }
            seen = self.buf.len();
            if self.fill().await? == 0 {
                return Err(ReadError::Truncated);
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Reads more behind what is buffered. Zero means that the peer closed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.buf.capacity() - self.buf.len() < self.next_read / 2 {
            self.buf.reserve(self.next_read);
        }
        let mut n = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buf))?;
        // TLS gives a record at a time. What is there already is taken along: one large piece costs the steps behind
        // us less than four small ones. An end shows itself again at the next read; an error need not: after a reset
        // the kernel tells an end, which would make a cut answer a whole one.
        while n > 0 && n < self.next_read && self.buf.capacity() > self.buf.len() {
            match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.buf) {
                Poll::Ready(Ok(more @ 1..)) => n += more,
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                Poll::Ready(Ok(0)) | Poll::Pending => break,
            }
        }
        if n >= self.next_read {
            self.next_read = (self.next_read * 2).min(LARGEST_READ);
        }
        Poll::Ready(Ok(n))
    }

    /// The next `length` bytes, where all of them were read ahead.
    pub fn take_read(&mut self, length: u64) -> Option<Bytes> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.buf.len())?;
        Some(self.buf.split_to(length).freeze())
    }

    /// Reads a piece and throws it away, with what was buffered. Zero: the peer closed.
    pub async fn discard(&mut self) -> io::Result<usize> {
        self.buf.clear();
        self.fill().await
    }

    /// True while nothing was read ahead and the peer has neither sent nor closed: the state in which an idle
    /// connection may be used again.
    pub fn is_quiet(&mut self) -> bool {
        if !self.buf.is_empty() || self.failed.is_some() {
            return false;
        }
        let mut space = [MaybeUninit::uninit(); 1];
        let mut read = ReadBuf::uninit(&mut space);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut cx, &mut read).is_pending()
    }

    /// The bytes read ahead, and the I/O object: for a connection that stops speaking HTTP.
    pub fn into_parts(self) -> (Bytes, R) {
        (self.buf.freeze(), self.io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, then a reset, then, as the kernel has it, an end.
    struct Cut(u8);

    impl AsyncRead for Cut {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0 += 1;
            match self.0 {
                1 => buf.put_slice(b"bytes"),
                2 => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                _ => {}
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn ft_01_an_error_behind_bytes_is_told_although_the_next_read_says_end() {
        let mut reader = Reader::new(Cut(0));
        assert_eq!(reader.fill().await.unwrap(), 5);
        assert_eq!(reader.fill().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
