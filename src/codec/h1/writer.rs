//! Writes HTTP/1 messages: canonical heads, and bodies frame by frame with one system call where one will do.

use super::{Framing, spare};
use crate::base::IoWords;
use crate::codec::{Body, BodyError};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::TE;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as HttpBody, Frame};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Up to this size a piece of body is copied behind the bytes that are waiting, so that both leave together.
const COPY: usize = 8 * 1024;

/// `METHOD target HTTP/1.1`, the canonical Host, the fields, and the framing of the body that will follow.
pub fn encode_request(
    out: &mut BytesMut,
    method: &Method,
    target: &str,
    host: &str,
    headers: &HeaderMap,
    body: Framing,
) {
    out.reserve(64 + method.as_str().len() + target.len() + host.len() + headers.len() * 48);
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(host.as_bytes());
    out.put_slice(b"\r\n");
    fields(out, headers);
    // It is of this connection, which has to be said (RFC 9110 section 10.1.4).
    if headers.contains_key(TE) {
        out.put_slice(b"connection: te\r\n");
    }
    framing(out, body);
    // A method that usually has a body says so when it has none (RFC 9110 section 8.6).
    if body == Framing::None && matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        out.put_slice(b"content-length: 0\r\n");
    }
    out.put_slice(b"\r\n");
}

/// What stands behind the status in place of its usual words; an extension of the response. apt, pip and others show
/// nothing else of a refusal.
#[derive(Debug, Clone)]
pub struct Phrase(String);

impl Phrase {
    /// The usual words, and a reason of ours.
    pub fn noting(status: StatusCode, reason: &'static str) -> Self {
        Self(format!("{} (outgate: {reason})", status.canonical_reason().unwrap_or("Refused")))
    }
}

/// A status line, the fields, the framing, and whether the connection ends with this answer. `stated` is the length
/// that an answer without body (to HEAD, or 304) speaks of.
pub fn encode_response(
    out: &mut BytesMut,
    status: StatusCode,
    phrase: Option<&Phrase>,
    headers: &HeaderMap,
    body: Framing,
    stated: Option<u64>,
    close: bool,
) {
    out.reserve(64 + headers.len() * 48 + copied(body));
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(
        phrase.map_or(status.canonical_reason().unwrap_or(""), |phrase| phrase.0.as_str()).as_bytes(),
    );
    out.put_slice(b"\r\n");
    fields(out, headers);
    match (body, stated) {
        (Framing::None, Some(n)) => length(out, n),
        (Framing::None, None) if !status.is_informational() && status != StatusCode::NO_CONTENT => {
            // 304 without a stated length has none to state.
            if status != StatusCode::NOT_MODIFIED {
                length(out, 0);
            }
        }
        _ => framing(out, body),
    }
    if close {
        out.put_slice(b"connection: close\r\n");
    }
    out.put_slice(b"\r\n");
}

/// Room for a body that will be copied behind its head, so that the buffer need not grow.
fn copied(body: Framing) -> usize {
    match body {
        Framing::Length(length) => usize::try_from(length).ok().filter(|length| *length <= COPY).unwrap_or(0),
        Framing::None | Framing::Chunked | Framing::UntilClose => 0,
    }
}

fn fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        out.reserve(name.as_str().len() + value.len() + 4);
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
}

fn framing(out: &mut BytesMut, body: Framing) {
    match body {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(n) => length(out, n),
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
    }
}

fn length(out: &mut BytesMut, n: u64) {
    out.put_slice(b"content-length: ");
    out.put_slice(itoa::Buffer::new().format(n).as_bytes());
    out.put_slice(b"\r\n");
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The peer we write to.
    #[error("{}", IoWords(.0))]
    Io(#[from] io::Error),
    /// The side the body comes from.
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the body is not as long as its head says")]
    Length,
}

/// Writes the waiting head of a request and then its body; fails when the peer takes nothing for as long as `stall`.
/// After an error the connection must be closed: the message is visibly incomplete. Of a body that fails before
/// anything was written nothing is, its head neither.
pub async fn write_message<W: AsyncWrite + Unpin>(
    io: &mut W,
    mut waiting: BytesMut,
    body: &mut Body,
    framing: Framing,
    stall: Duration,
) -> Result<(), WriteError> {
    let io = &mut Patient { io, stall };
    io.write_body(&mut waiting, body, framing).await?;
    io.finish(waiting).await
}

/// The same for an answer. When its body fails, what came before that is written: the client sees what the record says
/// that it was given.
pub async fn write_answer<W: AsyncWrite + Unpin>(
    io: &mut W,
    mut waiting: BytesMut,
    body: &mut Body,
    framing: Framing,
    stall: Duration,
) -> Result<(), WriteError> {
    let io = &mut Patient { io, stall };
    let written = io.write_body(&mut waiting, body, framing).await;
    if !matches!(written, Err(WriteError::Io(_))) {
        io.finish(waiting).await?;
    }
    written
}

/// Writes a message that is only a head; as [`write_message`], with a smaller future.
pub async fn write_head<W: AsyncWrite + Unpin>(
    io: &mut W,
    head: BytesMut,
    stall: Duration,
) -> Result<(), WriteError> {
    Patient { io, stall }.finish(head).await
}

/// Who is written to, and how long a write may make no progress.
struct Patient<'a, W> {
    io: &'a mut W,
    stall: Duration,
}

impl<W: AsyncWrite + Unpin> Patient<'_, W> {
    /// What has not yet been written afterwards is in `waiting`, also after an error of the body.
    async fn write_body(
        &mut self,
        waiting: &mut BytesMut,
        body: &mut Body,
        framing: Framing,
    ) -> Result<(), WriteError> {
        let mut left = match framing {
            Framing::None => 0,
            Framing::Length(n) => n,
            Framing::Chunked | Framing::UntilClose => u64::MAX,
        };
        loop {
            // Whatever is waiting leaves before we wait for more of the body.
            let frame = match poll_once(body).await {
                Some(frame) => frame,
                None => {
                    self.write_out(waiting, &[]).await?;
                    self.flush().await?;
                    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
                }
            };
            let Some(frame) = frame else { break };
            match frame?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    left = left.checked_sub(data.len() as u64).ok_or(WriteError::Length)?;
                    self.write_data(waiting, data, framing).await?;
                }
                Err(frame) => {
                    if let (Framing::Chunked, Ok(trailers)) = (framing, frame.into_trailers()) {
                        waiting.put_slice(b"0\r\n");
                        fields(waiting, &trailers);
                        waiting.put_slice(b"\r\n");
                        return Ok(());
                    }
                    break;
                }
            }
        }
        match framing {
            Framing::Length(_) if left > 0 => return Err(WriteError::Length),
            Framing::Chunked => waiting.put_slice(b"0\r\n\r\n"),
            Framing::None | Framing::Length(_) | Framing::UntilClose => {}
        }
        Ok(())
    }

    async fn finish(&mut self, mut waiting: BytesMut) -> Result<(), WriteError> {
        self.write_out(&mut waiting, &[]).await?;
        self.flush().await?;
        spare::give_back(waiting);
        Ok(())
    }

    async fn write_data(
        &mut self,
        waiting: &mut BytesMut,
        data: Bytes,
        framing: Framing,
    ) -> Result<(), WriteError> {
        let end: &[u8] = if framing == Framing::Chunked {
            put_hex(waiting, data.len());
            b"\r\n"
        } else {
            b""
        };
        if data.len() <= COPY {
            waiting.put_slice(&data);
            waiting.put_slice(end);
            if waiting.len() > COPY {
                self.write_out(waiting, &[]).await?;
            }
        } else {
            self.write_out(waiting, &data).await?;
            waiting.put_slice(end);
        }
        Ok(())
    }

    /// Writes what waits and then `data`, together where the I/O object takes several pieces.
    async fn write_out(&mut self, waiting: &mut BytesMut, data: &[u8]) -> io::Result<()> {
        let (mut first, mut second): (&[u8], &[u8]) = (waiting, data);
        while !first.is_empty() || !second.is_empty() {
            let write = poll_fn(|cx| {
                let io = Pin::new(&mut *self.io);
                // One piece by send(2), which costs less than writev(2) with one.
                match (first, second) {
                    (one, []) | ([], one) => io.poll_write(cx, one),
                    _ => io.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)]),
                }
            });
            let n = in_time(self.stall, write).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_first = n.min(first.len());
            first = first.get(of_first..).unwrap_or_default();
            second = second.get(n - of_first..).unwrap_or_default();
        }
        waiting.clear();
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        in_time(self.stall, self.io.flush()).await
    }
}

fn put_hex(out: &mut BytesMut, n: usize) {
    use std::fmt::Write;
    // Writing into memory cannot fail.
    let _ = write!(out, "{n:x}\r\n");
}

/// No clock is read while the peer takes what it is given.
async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return done;
    }
    // Boxed: the clock is rare, and its state would be in every future that writes.
    Box::pin(tokio::time::timeout(limit, work)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The body's next frame if it is there already. `None`: it would have to be waited for.
async fn poll_once(body: &mut Body) -> Option<Option<Result<Frame<Bytes>, BodyError>>> {
    poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        })
    })
    .await
}

/// The framing that a body asks for: none, its exact length, or chunks.
pub fn framing_of(body: &Body) -> Framing {
    if body.is_end_stream() {
        return Framing::None;
    }
    match body.size_hint().exact() {
        Some(0) => Framing::None,
        Some(n) => Framing::Length(n),
        None => Framing::Chunked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sm_42_a_field_of_the_connection_is_named_as_one() {
        let encoded = |headers: &HeaderMap| {
            let mut out = BytesMut::new();
            encode_request(&mut out, &Method::GET, "/", "a", headers, Framing::None);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let mut headers = HeaderMap::new();
        assert_eq!(encoded(&headers), "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        headers.insert(TE, http::HeaderValue::from_static("trailers"));
        let with = "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n";
        assert_eq!(encoded(&headers), with);
    }

    #[tokio::test]
    async fn sm_33_no_byte_is_written_behind_a_head_that_has_no_body() {
        for framing in [Framing::None, Framing::Length(2)] {
            let mut out = Vec::new();
            let mut body = Body::Full(Bytes::from_static(b"HTTP/1.1 200 OK\r\n\r\n"));
            let head = BytesMut::from(&b"head"[..]);
            assert!(write_message(&mut out, head, &mut body, framing, Duration::MAX).await.is_err());
            assert!(!out.windows(4).any(|four| four == b"HTTP"));
        }
    }

    #[tokio::test]
    async fn ft_01_an_answer_that_breaks_off_at_once_is_written_up_to_there_and_a_request_not_at_all() {
        struct Breaks(Option<&'static str>);
        impl HttpBody for Breaks {
            type Data = Bytes;
            type Error = BodyError;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
                let good = self.0.take().map(|good| Ok(Frame::data(Bytes::from(good))));
                Poll::Ready(Some(good.unwrap_or(Err(BodyError::Truncated))))
            }
        }
        let body = || Body::stream(Breaks(Some("ok")));
        let head = || BytesMut::from(&b"head"[..]);
        for (framing, cut) in [(Framing::Chunked, "head2\r\nok\r\n"), (Framing::Length(9), "headok")] {
            let mut out = Vec::new();
            let written = write_answer(&mut out, head(), &mut body(), framing, Duration::MAX).await;
            assert!(matches!(written, Err(WriteError::Body(BodyError::Truncated))), "{framing:?}");
            assert_eq!(out, cut.as_bytes());
            let mut out = Vec::new();
            assert!(write_message(&mut out, head(), &mut body(), framing, Duration::MAX).await.is_err());
            assert_eq!(out, b"", "{framing:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ft_03_a_peer_that_takes_nothing_is_given_up() {
        let (mut near, _far) = tokio::io::duplex(8);
        let mut body = Body::Full(Bytes::from_static(&[0; 64]));
        let stall = Duration::from_secs(60);
        let begun = tokio::time::Instant::now();
        let written = write_message(&mut near, BytesMut::new(), &mut body, Framing::Length(64), stall).await;
        assert!(matches!(written, Err(WriteError::Io(error)) if error.kind() == io::ErrorKind::TimedOut));
        assert!(begun.elapsed() >= stall && begun.elapsed() < stall * 2);
    }
}
