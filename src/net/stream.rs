//! Small things that every connection needs said to its socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// Closes with a reset instead of a farewell, so that the client knows at once that nobody is there and tries its next
/// address. Unsent bytes are thrown away.
pub fn reset(stream: TcpStream) {
    // Where this fails the socket is already dead.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// A socket of the right family to dial with. It never waits for an acknowledgement before sending a small piece, which
/// would cost 40 ms with a peer that delays them.
pub fn outbound(to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
