//! A client's socket under its TLS session, which ends when the client begins a second handshake in it.
//!
//! rustls refuses a renegotiation (TLS 1.2) with a warning and goes on, which leaves clients waiting for what will
//! never come. Only record headers are read here, which stay in the clear: type, version, length (RFC 5246 section
//! 6.2.1). What a TLS 1.3 client says of handshakes later is ciphered application data to that eye.

use crate::net;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HANDSHAKE: u8 = 22;
const HEADER_BYTES: usize = 5;

#[derive(Debug)]
pub struct Records<IO> {
    io: IO,
    watch: Watch,
}

/// Where in the client's records we are.
#[derive(Debug, Default)]
struct Watch {
    /// Bytes of the current header, as far as they came.
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the current record that are still to come.
    left: usize,
    established: bool,
}

impl<IO> Records<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self { io, watch: Watch::default() }
    }

    /// The handshake is over; the client's records from here on hold no other.
    pub(super) fn established(&mut self) {
        self.watch.established = true;
    }
}

impl Watch {
    /// `false` where these bytes begin a second handshake.
    fn passes(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let body = self.left.min(bytes.len());
            self.left -= body;
            bytes = bytes.get(body..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else { break };
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            bytes = rest;
            if self.have == HEADER_BYTES {
                self.have = 0;
                let [kind, _, _, high, low] = self.header;
                self.left = usize::from(u16::from_be_bytes([high, low]));
                if self.established && kind == HANDSHAKE {
                    return false;
                }
            }
        }
        true
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Records<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if this.watch.passes(buf.filled().get(before..).unwrap_or_default()) {
            return Poll::Ready(Ok(()));
        }
        buf.set_filled(before);
        Poll::Ready(Err(io::Error::other("the client began a second handshake in its session")))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Records<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        net::poll_write_pieces(&mut self.io, cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(kinds: &[(u8, usize)]) -> Vec<u8> {
        let record = |&(kind, length): &(u8, usize)| {
            let mut bytes = vec![kind, 3, 3];
            bytes.extend((length as u16).to_be_bytes());
            // A body that looks like headers of handshakes.
            bytes.extend(std::iter::repeat_n(HANDSHAKE, length));
            bytes
        };
        kinds.iter().flat_map(record).collect()
    }

    #[test]
    fn tl_11_a_second_handshake_is_seen_however_it_is_cut_and_nothing_else_is() {
        let handshake = records(&[(HANDSHAKE, 70), (20, 1), (HANDSHAKE, 40)]);
        let data = records(&[(23, 900), (21, 2), (23, 0), (23, 53)]);
        let again = [&data[..], &records(&[(HANDSHAKE, 50)])].concat();
        for size in [1, 2, 3, 5, 7, 64, 4096] {
            let mut watch = Watch::default();
            let mut passes = |bytes: &[u8]| bytes.chunks(size).all(|piece| watch.passes(piece));
            assert!(passes(&handshake), "by {size}");
            watch.established = true;
            let mut passes = |bytes: &[u8]| bytes.chunks(size).all(|piece| watch.passes(piece));
            assert!(passes(&data) && !passes(&again), "by {size}");
        }
    }
}
