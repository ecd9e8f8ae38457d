//! rtnetlink(7): one change and its acknowledgement, or one dump. Knows the form of messages, not what they are for.

use super::netlink::{HEADER, acknowledgement, messages, u16_at, u32_at};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel answers at once.
const ANSWER_SECONDS: i64 = 5;
/// Dumps use up to 32 KiB (linux/netlink.h).
const RECEIVE_BYTES: usize = 64 * 1024;
/// What is kept of a dump: a workload's namespace has a handful of routes.
const MOST_KEPT: usize = 4096;

/// A routing netlink socket of one network namespace. Changes take CAP_NET_ADMIN in its user namespace.
pub(crate) struct Rtnetlink {
    fd: OwnedFd,
    seq: u32,
}

impl Rtnetlink {
    pub(crate) fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        Ok(Self { fd, seq: 0 })
    }

    /// One change; `flags` are those beside request and acknowledgement.
    pub(crate) fn change(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.ask(kind, flags | libc::NLM_F_ACK, body, &mut |_| {})
    }

    /// The bodies of all messages of a dump.
    pub(crate) fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let (mut found, mut more) = (Vec::new(), false);
        self.each(kind, body, &mut |body| {
            more |= found.len() == MOST_KEPT;
            if !more {
                found.push(body.to_vec());
            }
        })?;
        if more { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(found) }
    }

    /// Looks at each message of a dump, of which nothing is kept: a router's table may be long.
    pub(crate) fn each(&mut self, kind: u16, body: &[u8], look: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.ask(kind, libc::NLM_F_DUMP, body, look)
    }

    fn ask(&mut self, kind: u16, flags: i32, body: &[u8], look: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.seq += 1;
        let mut request = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        request.extend_from_slice(&self.seq.to_ne_bytes());
        request.extend_from_slice(&0u32.to_ne_bytes());
        request.extend_from_slice(body);
        send(self.fd.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in messages(buffer.get(..length).unwrap_or_default()) {
                if u32_at(message, 8) != Some(self.seq) {
                    continue;
                }
                match i32::from(u16_at(message, 4).unwrap_or_default()) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        return match acknowledgement(message) {
                            Some((_, 0)) => Ok(()),
                            Some((_, errno)) => Err(io::Error::from_raw_os_error(errno)),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => look(message.get(HEADER..).unwrap_or_default()),
                }
            }
        }
    }
}

/// Appends an attribute (struct rtattr).
pub(crate) fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::attributes;
    use super::*;

    #[test]
    fn what_is_put_is_what_the_reader_of_attributes_sees() {
        let mut body = Vec::new();
        put(&mut body, 5, &octets("10.77.1.1".parse().unwrap()));
        put(&mut body, 7, b"odd");
        put(&mut body, 1, &octets("fd77::1".parse().unwrap()));
        let seen: Vec<_> = attributes(&body).map(|(kind, value)| (kind, value.len())).collect();
        assert_eq!(seen, [(5, 4), (7, 3), (1, 16)]);
        assert_eq!(body.len() % 4, 0);
    }

    #[test]
    fn a_dump_of_links_has_the_loopback() {
        // struct ifinfomsg of zeros asks for all.
        let links = Rtnetlink::open().unwrap().dump(libc::RTM_GETLINK, &[0; 16]).unwrap();
        assert!(links.iter().any(|link| u32_at(link, 4) == Some(1)), "{}", links.len());
    }
}
