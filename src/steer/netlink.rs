//! A netfilter netlink socket: sends a batch as one datagram, asks for dumps, reads the answers.
//!
//! Knows nothing of our tables. The kernel's bytes are read with bounds everywhere.

use std::ffi::CStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nftnl::nftnl_sys::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::batch::{Step, Transaction};

/// The kernel answers at once; a lost answer must not hang the gate.
pub(super) const ANSWER_TIMEOUT_SECONDS: i64 = 5;
/// `NLMSG_GOODSIZE` is at most 8 KiB, dumps use up to 32 KiB (linux/netlink.h).
pub(super) const RECEIVE_BYTES: usize = 64 * 1024;
/// A dump beyond this is not ours.
const MAX_DUMP_MESSAGES: usize = 65_536;

/// Multicast group of nftables changes (`NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;

pub(crate) const HEADER: usize = 16;
const NFGENMSG: usize = 4;

/// What the kernel refused, and which message it was; no step means the batch as a whole.
#[derive(Debug)]
pub(super) struct Refused {
    pub step: Option<Step>,
    pub source: io::Error,
}

impl From<io::Error> for Refused {
    fn from(source: io::Error) -> Self {
        Self { step: None, source }
    }
}

pub(super) struct Netlink {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

/// One message of the kernel: `NFT_MSG_*` (without the subsystem byte), the family, and its attributes.
pub(super) struct Message {
    pub kind: u16,
    pub family: u8,
    pub attributes: Vec<u8>,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        Self::over(open(SockProtocol::NetlinkNetFilter, 0)?)
    }

    /// A socket that [`open`] made, perhaps in another namespace and by another process.
    pub fn over(fd: OwnedFd) -> io::Result<Self> {
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS))?;
        // Room for every acknowledgement of the largest batch; without the privilege the default must do.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &(4 << 20));
        let _ = setsockopt(&fd, sockopt::SndBufForce, &(4 << 20));
        Ok(Self { fd, seq: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends the batch and reads until all of it is acknowledged or one message is refused.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), Refused> {
        self.drain();
        // One datagram: the kernel commits at the end of each, and half a batch is no batch.
        let pages: Vec<IoSlice<'_>> = transaction.batch.iter().map(IoSlice::new).collect();
        sendmsg::<NetlinkAddr>(
            self.fd.as_raw_fd(),
            &pages,
            &[],
            MsgFlags::empty(),
            Some(&NetlinkAddr::new(0, 0)),
        )
        .map_err(io::Error::from)?;
        let expected = transaction.batch.sequence_numbers();
        // From Linux 6.10 on the batch's own begin and end are acknowledged too.
        let framing = expected.len().saturating_sub(transaction.steps.len()) / 2;
        let first = expected.start as usize + framing;
        let mut open = expected.len();
        while open > 0 {
            let answer = self.receive()?;
            for message in messages(&answer) {
                let Some((seq, errno)) = acknowledgement(message) else { continue };
                if errno != 0 {
                    let step =
                        (seq as usize).checked_sub(first).and_then(|i| transaction.steps.get(i)).cloned();
                    return Err(Refused { step, source: io::Error::from_raw_os_error(errno) });
                }
                open = open.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// One request and its answers, a dump where `dump` says so. `Ok(None)`: there is no such thing.
    pub fn ask(
        &mut self,
        kind: libc::c_int,
        dump: bool,
        names: &[(u16, &CStr)],
    ) -> io::Result<Option<Vec<Message>>> {
        self.ask_of(libc::NFPROTO_INET as u8, kind, dump, names)
    }

    /// [`Self::ask`] in another family; 0 is every one.
    pub fn ask_of(
        &mut self,
        family: u8,
        kind: libc::c_int,
        dump: bool,
        names: &[(u16, &CStr)],
    ) -> io::Result<Option<Vec<Message>>> {
        self.drain();
        self.seq = self.seq.wrapping_add(1).max(1);
        let request = request(family, kind, dump, self.seq, names);
        let to = NetlinkAddr::new(0, 0);
        sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(&request)], &[], MsgFlags::empty(), Some(&to))?;
        let mut answers = Vec::new();
        loop {
            let bytes = self.receive()?;
            for message in messages(&bytes) {
                if u32_at(message, 8) != Some(self.seq) {
                    continue;
                }
                let interrupted = u16_at(message, 6).is_some_and(|f| f & libc::NLM_F_DUMP_INTR as u16 != 0);
                if interrupted {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                match i32::from(u16_at(message, 4).unwrap_or_default()) {
                    libc::NLMSG_DONE => return Ok(Some(answers)),
                    libc::NLMSG_ERROR => {
                        return match acknowledgement(message) {
                            Some((_, 0)) => Ok(Some(answers)),
                            Some((_, libc::ENOENT)) => Ok(None),
                            Some((_, errno)) => Err(io::Error::from_raw_os_error(errno)),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    kind => answers.push(Message {
                        kind: kind as u16 & 0xff,
                        family: message.get(HEADER).copied().unwrap_or_default(),
                        attributes: message.get(HEADER + NFGENMSG..).unwrap_or_default().to_vec(),
                    }),
                }
            }
            if answers.len() > MAX_DUMP_MESSAGES {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let n = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()).map_err(timed_out)?;
        Ok(self.buffer.get(..n).unwrap_or_default().to_vec())
    }

    /// Leftovers of an exchange that was refused half-way.
    fn drain(&mut self) {
        while recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

pub(super) fn timed_out(errno: nix::errno::Errno) -> io::Error {
    match errno {
        nix::errno::Errno::EAGAIN => io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"),
        other => other.into(),
    }
}

/// Becomes readable whenever anyone changes nftables in this namespace.
pub(super) struct Monitor(OwnedFd);

impl Monitor {
    pub fn open() -> io::Result<Self> {
        open(SockProtocol::NetlinkNetFilter, MONITOR).map(Self)
    }

    pub fn over(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Forgets what happened so far, and tells whether anything did; an overrun is forgotten too, since the reader
    /// looks for itself.
    pub fn drain(&self) -> bool {
        let (mut scratch, mut news) = ([0; 4096], false);
        loop {
            match recv(self.0.as_raw_fd(), &mut scratch, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EINTR) => news = true,
                Err(_) => return news,
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A socket for changes and one that tells of them, for a process that has no right to enter this namespace.
pub(super) fn open_both() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok((open(SockProtocol::NetlinkNetFilter, 0)?, open(SockProtocol::NetlinkNetFilter, MONITOR)?))
}

const MONITOR: u32 = 1 << (NFTABLES_GROUP - 1);

pub(super) fn open(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// struct nlmsghdr, struct nfgenmsg and zero-terminated string attributes.
fn request(family: u8, kind: libc::c_int, dump: bool, seq: u32, names: &[(u16, &CStr)]) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    for (attribute, name) in names {
        let text = name.to_bytes_with_nul();
        body.extend_from_slice(&(text.len() as u16 + 4).to_ne_bytes());
        body.extend_from_slice(&attribute.to_ne_bytes());
        body.extend_from_slice(text);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let flags = libc::NLM_F_REQUEST | if dump { libc::NLM_F_DUMP } else { libc::NLM_F_ACK };
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8) as u16 | kind as u16;
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&(flags as u16).to_ne_bytes());
    out.extend_from_slice(&seq.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    out.extend_from_slice(&body);
    out
}

/// Splits a datagram into its messages; what is cut off or lies about its length ends it.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|m| m.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Sequence number and errno (0 = done) of an `NLMSG_ERROR`.
pub(crate) fn acknowledgement(message: &[u8]) -> Option<(u32, i32)> {
    if u16_at(message, 4)? != libc::NLMSG_ERROR as u16 {
        return None;
    }
    let errno = u32_at(message, HEADER)?.cast_signed();
    Some((u32_at(message, 8)?, errno.saturating_neg()))
}

/// Walks attributes (struct nlattr): type without its flag bits, and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !(0xc000);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_off_or_lying_messages_end_the_walk() {
        let whole = request(1, libc::NFT_MSG_GETTABLE, false, 7, &[(1, c"outgate_fence")]);
        assert_eq!(messages(&whole).count(), 1);
        for cut in 0..whole.len() {
            assert_eq!(messages(&whole[..cut]).count(), 0);
        }
        assert_eq!(messages(&[0; 64]).count(), 0);
        let body = &whole[HEADER + NFGENMSG..];
        assert_eq!(attributes(body).collect::<Vec<_>>(), [(1, &b"outgate_fence\0"[..])]);
        assert_eq!(attributes(&[0xff; 64]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
