//! Property: the seam below HTTP/2 only refuses. Where it finds no fault, the `h2` crate hands over the same requests with
//! it and without it; where it cannot read a header block, the crate alone has handed over no more. What it says of a
//! request does not depend on how the bytes came.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outgate::codec::h2::{Fault, Watch, watched};
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A peer that said all this and went; `step` bytes come with each read.
struct Said {
    bytes: Bytes,
    step: usize,
}

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.step.min(self.bytes.len()).min(buf.remaining());
        buf.put_slice(&self.bytes.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A stream that was handed over, as one text, and whether the seam found a fragment; the crate shows some requests that
/// it has refused, of which the seam has no more to say.
type Handed = (u32, String, Option<bool>);

fn serve(io: impl AsyncRead + AsyncWrite + Unpin, watch: Option<&Watch>) -> Vec<Handed> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut shaking = std::pin::pin!(h2::server::handshake(io));
    let Poll::Ready(Ok(mut connection)) = shaking.as_mut().poll(&mut cx) else { return Vec::new() };
    let mut handed = Vec::new();
    // Pending: nothing comes any more, since the seam has found a fault.
    while let Poll::Ready(Some(Ok((request, respond)))) = connection.poll_accept(&mut cx) {
        let stream = respond.stream_id().as_u32();
        let fragment = watch.and_then(|watch| watch.take(stream)).map(|taken| taken.fragment);
        let (head, _) = request.into_parts();
        handed.push((stream, format!("{} {} {:?}", head.method, head.uri, head.headers), fragment));
    }
    handed
}

fn with_seam(bytes: &Bytes, step: usize) -> (Vec<Handed>, Option<Fault>) {
    let (io, watch) = watched(Said { bytes: bytes.clone(), step });
    let handed = serve(io, Some(&watch));
    (handed, watch.told().fault.map(|(fault, _)| fault))
}

fuzz_target!(|bytes: &[u8]| {
    // Fewer than any budget has tokens for, so that time plays no part.
    if bytes.len() > 2048 {
        return;
    }
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let _entered =
        RUNTIME.get_or_init(|| Builder::new_current_thread().enable_time().build().unwrap()).enter();
    let bytes = Bytes::from([PREFACE, bytes].concat());
    let bare = serve(Said { bytes: bytes.clone(), step: bytes.len() }, None);
    let (whole, fault) = with_seam(&bytes, bytes.len());
    let text = |handed: &[Handed]| -> Vec<(u32, String)> {
        handed.iter().map(|(stream, text, _)| (*stream, text.clone())).collect()
    };
    match fault {
        None => assert_eq!(text(&bare), text(&whole)),
        Some(Fault::Unreadable | Fault::First | Fault::Size(_) | Fault::Window) => {
            assert!(text(&whole).starts_with(&text(&bare)), "{whole:?}, not {bare:?}");
        }
        Some(Fault::Flood(_) | Fault::Resets | Fault::Block | Fault::Trailers) => {}
    }
    let (pieces, in_pieces) = with_seam(&bytes, 1);
    // In pieces the crate may have ended the connection before the seam saw the rest.
    assert!(fault.is_some() || in_pieces.is_none(), "{in_pieces:?} only in pieces");
    for one in &whole {
        let other = pieces.iter().find(|other| other.0 == one.0);
        let is_same = |other: &Handed| {
            other.1 == one.1 && (other.2.is_none() || one.2.is_none() || other.2 == one.2)
        };
        assert!(other.is_none_or(is_same), "{one:?} is {other:?} in pieces");
    }
});
