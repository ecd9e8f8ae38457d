//! What is said to a client over HTTP/1 ahead of its answer: that its body is wanted, and interim answers. It is said
//! at once, and never stands between an answer and its client: what the client has not taken when the answer comes goes
//! before it. `h1` uses it.

use crate::codec::h1::{Framing, encode_response};
use crate::pipeline::Interims;
use bytes::{Buf, BytesMut};
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

/// Says it as it comes; ends only when the client takes nothing any more. What is left in `unsent` when this is dropped
/// has to be written first, since it may begin in the middle of a head.
pub(super) async fn say<W: AsyncWrite + Unpin>(
    wanted: Option<Arc<Notify>>,
    interims: &Interims,
    unsent: &mut BytesMut,
    writer: &mut W,
) {
    let (mut told, mut flushed) = (wanted.is_none(), true);
    let mut wanted = pin!(async {
        match wanted {
            Some(wanted) => wanted.notified().await,
            None => pending().await,
        }
    });
    poll_fn(|cx| {
        if !told && wanted.as_mut().poll(cx).is_ready() {
            told = true;
            unsent.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        put(interims, unsent);
        while !unsent.is_empty() {
            flushed = false;
            match ready!(Pin::new(&mut *writer).poll_write(cx, unsent)) {
                Ok(n @ 1..) => unsent.advance(n),
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        if !flushed {
            if ready!(Pin::new(&mut *writer).poll_flush(cx)).is_err() {
                return Poll::Ready(());
            }
            flushed = true;
        }
        Poll::Pending
    })
    .await;
}

/// Puts the interim answers that wait behind what is unsent.
pub(super) fn put(interims: &Interims, unsent: &mut BytesMut) {
    while let Some(interim) = interims.next() {
        encode_response(unsent, interim.status(), None, interim.headers(), Framing::None, None, false);
    }
}
