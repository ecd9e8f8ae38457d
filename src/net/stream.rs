//! Small things that every connection needs said to its socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWrite;
use tokio::net::{TcpSocket, TcpStream};

/// Closes with a reset instead of a farewell, so that the client knows at once that nobody is there and tries its next
/// address. Unsent bytes are thrown away.
pub fn reset(stream: TcpStream) {
    // Where this fails the socket is already dead.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// Writes one piece with send(2), which costs less than writev(2) with one: TLS gives each record so.
pub fn poll_write_pieces<IO: AsyncWrite + Unpin>(
    io: &mut IO,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match pieces {
        [one] => Pin::new(io).poll_write(cx, one),
        _ => Pin::new(io).poll_write_vectored(cx, pieces),
    }
}

/// A socket of the right family to dial with. It never waits for an acknowledgement before sending a small piece, which
/// would cost 40 ms with a peer that delays them.
pub fn outbound(to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
