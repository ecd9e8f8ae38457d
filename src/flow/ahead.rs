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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn cl_10_what_a_client_has_not_taken_goes_before_its_answer() {
        let (mut near, mut far) = tokio::io::duplex(8);
        let wanted = Arc::new(Notify::new());
        wanted.notify_one();
        let (interims, mut unsent) = (Interims::new(true), BytesMut::new());
        let ended = tokio::select! {
            biased;
            () = say(Some(wanted), &interims, &mut unsent, &mut near) => true,
            () = std::future::ready(()) => false,
        };
        assert!(!ended);
        let mut taken = [0; 8];
        far.read_exact(&mut taken).await.unwrap();
        assert_eq!((&taken, &unsent[..]), (b"HTTP/1.1", &b" 100 Continue\r\n\r\n"[..]));
    }

    #[tokio::test]
    async fn cl_10_a_client_that_is_gone_is_noticed_when_it_is_told() {
        let (mut near, far) = tokio::io::duplex(8);
        drop(far);
        let wanted = Arc::new(Notify::new());
        wanted.notify_one();
        say(Some(wanted), &Interims::new(true), &mut BytesMut::new(), &mut near).await;
    }
}
