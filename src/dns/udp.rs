//! The UDP socket of the door. On a wildcard address, as in a workload's own namespace, an answer must come from the
//! address that the question went to (ip(7), `IP_PKTINFO`), or the redirect does not know it again.

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UdpSocket;

pub(super) struct Udp {
    socket: UdpSocket,
    wildcard: bool,
}

/// Who asked, and at which of our addresses where that is not the socket's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) source: SocketAddr,
    local: Option<IpAddr>,
}

impl Udp {
    pub(super) fn new(socket: UdpSocket) -> Self {
        let told = match socket.local_addr() {
            Ok(SocketAddr::V4(at)) if at.ip().is_unspecified() => {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
            }
            Ok(SocketAddr::V6(at)) if at.ip().is_unspecified() => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
            }
            _ => Err(Errno::EINVAL),
        };
        Self { socket, wildcard: told.is_ok() }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Peer)> {
        if self.wildcard {
            return self.socket.async_io(Interest::READABLE, || self.receive_told(buffer)).await;
        }
        let (length, source) = self.socket.recv_from(buffer).await?;
        Ok((length, Peer { source, local: None }))
    }

    /// An answer that the kernel has no room for is lost, as datagrams are.
    pub(super) fn send(&self, answer: &[u8], to: Peer) {
        // The outcome is not looked at: there is nobody to tell.
        let _ = match to.local {
            None => self.socket.try_send_to(answer, to.source),
            Some(local) => {
                self.socket.try_io(Interest::WRITABLE, || self.send_from(local, answer, to.source))
            }
        };
    }

    fn receive_told(&self, buffer: &mut [u8]) -> io::Result<(usize, Peer)> {
        let mut room = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let received =
            recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
        let v4 = received.address.and_then(|a| a.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into())));
        let v6 = received.address.and_then(|a| a.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())));
        let source = v4.or(v6).ok_or(io::ErrorKind::InvalidData)?;
        let local = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into())
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
            _ => None,
        });
        Ok((received.bytes, Peer { source, local }))
    }

    fn send_from(&self, local: IpAddr, answer: &[u8], to: SocketAddr) -> io::Result<usize> {
        let parts = [IoSlice::new(answer)];
        let (fd, flags, to) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT, SockaddrStorage::from(to));
        let sent = match local {
            IpAddr::V4(local) => {
                let address = libc::in_addr { s_addr: u32::from(local).to_be() };
                let none = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: none };
                sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&to))
            }
            IpAddr::V6(local) => {
                let address = libc::in6_addr { s6_addr: local.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&to))
            }
        };
        sent.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_comes_from_the_address_that_was_asked() {
        for (wildcard, asked) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "::1"), ("127.0.0.1:0", "127.0.0.1")]
        {
            let door = Udp::new(UdpSocket::bind(wildcard).await.unwrap());
            let asked = SocketAddr::new(asked.parse().unwrap(), door.local_addr().unwrap().port());
            let own = if asked.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
            let client = UdpSocket::bind(own).await.unwrap();
            client.connect(asked).await.unwrap();
            client.send(b"?").await.unwrap();
            let (length, peer) = door.receive(&mut [0; 9]).await.unwrap();
            assert_eq!((length, peer.source), (1, client.local_addr().unwrap()));
            door.send(b"!", peer);
            // The socket is connected: it hears that address alone.
            assert_eq!(client.recv(&mut [0; 9]).await.unwrap(), 1, "{wildcard}");
        }
    }
}
