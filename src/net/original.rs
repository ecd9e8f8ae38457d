//! Where a redirected connection really wanted to go.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::listen::Delivery;
use super::own::OwnAddresses;
use crate::base::OriginalDst;

/// Either way the caller refuses: nothing is put in the place of a destination that is not known.
#[derive(Debug, thiserror::Error)]
pub enum OriginalDstError {
    /// Connection tracking knows nothing of this connection (its table was flushed, is full, or nothing redirected it).
    #[error("the connection has no original destination: {0}")]
    NoDestination(#[source] io::Error),
    /// The client dialled us: to serve it would be to dial ourselves.
    #[error("the original destination {0} is this host")]
    Loop(SocketAddr),
}

/// By the one way in which the connection's listener gets its connections. What TPROXY delivers has its destination as
/// its own local address. What a redirect delivers tells it by `SO_ORIGINAL_DST` (linux/netfilter_ipv4.h) or `IP6T_SO_ORIGINAL_DST`, by the family of the peer: on a socket for
/// both families an IPv4 client is known to the IPv4 half of connection tracking only.
///
/// A connection that nothing redirected has its own local address as original destination; that is a loop too, as is
/// any other address of this host.
pub fn original_dst(
    stream: &TcpStream,
    delivery: Delivery,
    own: &OwnAddresses,
) -> Result<OriginalDst, OriginalDstError> {
    let local = stream.local_addr().map_err(OriginalDstError::NoDestination)?;
    let found = match delivery {
        Delivery::Redirected => redirected_from(stream, local)?,
        Delivery::AsItWas => canonical(local),
    };
    let dialled_us = delivery == Delivery::Redirected && found == canonical(local);
    if dialled_us || own.contains(found.ip()) {
        return Err(OriginalDstError::Loop(found));
    }
    Ok(OriginalDst(found))
}

fn redirected_from(stream: &TcpStream, local: SocketAddr) -> Result<SocketAddr, OriginalDstError> {
    let socket = SockRef::from(stream);
    let found = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let found = found.map_err(OriginalDstError::NoDestination)?;
    let not_inet = || OriginalDstError::NoDestination(io::ErrorKind::InvalidData.into());
    Ok(canonical(found.as_socket().ok_or_else(not_inet)?))
}

/// An IPv4 address in IPv6 clothes is that IPv4 address; scope and flow label say nothing of identity.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
