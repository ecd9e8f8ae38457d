//! Bodies between the `h2` crate's streams and [`Body`], with flow control that ties both sides: a byte's window is
//! given back when it has been read here, and nothing is read that cannot be sent.

use super::check_fields;
use crate::codec::{Body, BodyError};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The length that a head states: one field, a decimal number (RFC 9110 section 8.6).
pub fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut fields = headers.get_all(CONTENT_LENGTH).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err("more than one content-length");
    }
    let digits = field.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|text| text.parse().ok()).filter(|length: &u64| *length <= i64::MAX as u64);
    length.map(Some).ok_or("a content-length that is no number")
}

/// A body that a peer sends: whole with its END_STREAM and with nothing else (RFC 9113 section 8.1), whatever else ends
/// its stream. `held` lives as long as it does.
pub struct Received<T> {
    stream: RecvStream,
    /// What is still to come of the length that the head stated; the crate compares both.
    left: Option<u64>,
    /// The end of a stated length, kept until the stream has ended: handed on, it would make a message of HTTP/1 whole.
    last: Option<Bytes>,
    _held: T,
}

impl<T> Received<T> {
    pub fn new(stream: RecvStream, length: Option<u64>, held: T) -> Self {
        Self { stream, left: length, last: None, _held: held }
    }

    fn took(&mut self, data: Bytes) -> Option<Bytes> {
        // An error means that the stream has ended, which the next call tells.
        let _ = self.stream.flow_control().release_capacity(data.len());
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        // The crate lets none but empty pieces follow.
        if self.last.is_some() {
            return None;
        }
        if self.left != Some(0) || self.stream.is_end_stream() {
            return Some(data);
        }
        self.last = Some(data);
        None
    }
}

impl<T: Unpin> HttpBody for Received<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        while let Some(data) = ready!(this.stream.poll_data(cx)) {
            if let Some(data) = this.took(data?) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        let Some(trailers) = ready!(this.stream.poll_trailers(cx))? else { return Poll::Ready(None) };
        let checked = check_fields(&trailers).map_err(BodyError::Framing);
        Poll::Ready(Some(checked.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream() && self.last.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let last = self.last.as_ref().map_or(0, Bytes::len) as u64;
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + last))
    }
}

/// Why a body was not sent to its end. The stream is then still to be reset.
#[derive(Debug)]
pub enum Unsent {
    Body(BodyError),
    /// The peer took nothing for too long.
    Stalled,
    /// The peer has reset the stream, or the connection has ended.
    Ended(h2::Error),
    Closed,
}

/// Sends a body as fast as its peer takes it, and ends the stream. `stall` bounds the wait for the peer's window. A
/// peer that resets the stream without an error wants no more of it, which is no failure.
pub async fn pour(
    mut body: Body,
    stream: &mut SendStream<Bytes>,
    stall: Option<Duration>,
) -> Result<(), Unsent> {
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                return Poll::Ready(Ok(frame));
            }
            stream.poll_reset(cx).map(Err)
        });
        let frame = match frame.await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Unsent::Body(error)),
            Ok(None) => return stream.send_data(Bytes::new(), true).map_err(Unsent::Ended),
            Err(Ok(Reason::NO_ERROR)) => return Ok(()),
            Err(Ok(reason)) => return Err(Unsent::Ended(reason.into())),
            Err(Err(error)) => return Err(Unsent::Ended(error)),
        };
        match frame.into_data() {
            Ok(data) => {
                let last = body.is_end_stream();
                send(stream, data, last, stall).await?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return stream.send_trailers(trailers).map_err(Unsent::Ended);
            }
        }
    }
}

/// Sends one piece within the peer's windows.
async fn send(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    stall: Option<Duration>,
) -> Result<(), Unsent> {
    if data.is_empty() && last {
        return stream.send_data(data, true).map_err(Unsent::Ended);
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = match stream.capacity() {
            0 => capacity(stream, stall).await?,
            granted => granted,
        };
        let piece = data.split_to(granted.min(data.len()));
        if !piece.is_empty() {
            let end = last && data.is_empty();
            stream.send_data(piece, end).map_err(Unsent::Ended)?;
        }
    }
    Ok(())
}

async fn capacity(stream: &mut SendStream<Bytes>, stall: Option<Duration>) -> Result<usize, Unsent> {
    let capacity = poll_fn(|cx| stream.poll_capacity(cx));
    let granted = match stall {
        Some(stall) => tokio::time::timeout(stall, capacity).await.map_err(|_| Unsent::Stalled)?,
        None => capacity.await,
    };
    granted.ok_or(Unsent::Closed)?.map_err(Unsent::Ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn sm_13_a_stated_length_is_one_decimal_number() {
        let of = |fields: &[&'static str]| {
            let fields = fields.iter().map(|field| (CONTENT_LENGTH, HeaderValue::from_static(field)));
            stated_length(&fields.collect())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["5"]), Ok(Some(5)));
        assert_eq!(of(&["005"]), Ok(Some(5)), "its canonical form is what goes on");
        for bad in [&["5", "5"][..], &["5, 5"], &["+5"], &["0x5"], &[""], &["18446744073709551615"]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
