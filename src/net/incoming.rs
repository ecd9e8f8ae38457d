//! The interface that a connection came in on, where its local address does not tell: TPROXY leaves a foreign one there.
//!
//! The kernel notes it with the first packet and tells it to who asks. The one file of this module with `unsafe`.
#![expect(unsafe_code, reason = "no safe crate reads the packet options of a stream")]

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

/// linux/in6.h; libc has the newer form only, which streams do not answer.
const IPV6_2292PKTOPTIONS: c_int = 6;
/// linux/in.h
const IP_PKTOPTIONS: c_int = 9;

/// The name of the interface that the connection's first packet came in on, if the kernel tells.
pub(super) fn interface(stream: &(impl AsFd + AsRawFd), v6: bool) -> Option<Arc<str>> {
    ask(stream, v6, true).ok()?;
    let index = noted(stream, v6);
    // Else the kernel would keep a copy of each packet to come.
    ask(stream, v6, false).ok()?;
    nix::net::if_::if_indextoname(index?).ok()?.to_str().ok().map(Arc::from)
}

fn ask(stream: &impl AsFd, v6: bool, wanted: bool) -> nix::Result<()> {
    if v6 {
        setsockopt(stream, sockopt::Ipv6RecvPacketInfo, &wanted)
    } else {
        setsockopt(stream, sockopt::Ipv4PacketInfo, &wanted)
    }
}

/// What the kernel noted when the first packet came.
fn noted(stream: &impl AsRawFd, v6: bool) -> Option<u32> {
    let (level, option) =
        if v6 { (libc::SOL_IPV6, IPV6_2292PKTOPTIONS) } else { (libc::SOL_IP, IP_PKTOPTIONS) };
    let mut control = [0u8; 512];
    let mut length = control.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the buffer of that length, and the number it wrote.
    let done = unsafe {
        libc::getsockopt(stream.as_raw_fd(), level, option, control.as_mut_ptr().cast(), &raw mut length)
    };
    if done != 0 {
        return None;
    }
    index(control.get(..length as usize)?, level)
}

/// The interface's number in a list of control messages (struct cmsghdr): length, level, type, data.
fn index(mut control: &[u8], wanted: c_int) -> Option<u32> {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = WORD + 8;
    loop {
        let length = usize::from_ne_bytes(control.get(..WORD)?.try_into().ok()?);
        let level = c_int::from_ne_bytes(control.get(WORD..WORD + 4)?.try_into().ok()?);
        let kind = c_int::from_ne_bytes(control.get(WORD + 4..HEADER)?.try_into().ok()?);
        let data = control.get(HEADER..length)?;
        let number = match (level, kind) {
            // struct in_pktinfo begins with it, struct in6_pktinfo has it behind the address.
            (libc::SOL_IP, libc::IP_PKTINFO) => data.get(..4),
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) => data.get(16..20),
            _ => None,
        };
        if let Some(number) = number.filter(|_| level == wanted) {
            return Some(u32::from_ne_bytes(number.try_into().ok()?)).filter(|index| *index != 0);
        }
        control = control.get(length.next_multiple_of(WORD)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_off_or_lying_messages_tell_nothing() {
        let mut whole = (size_of::<usize>() + 20).to_ne_bytes().to_vec();
        whole.extend(libc::SOL_IP.to_ne_bytes());
        whole.extend(libc::IP_PKTINFO.to_ne_bytes());
        whole.extend([7, 0, 0, 0, 10, 77, 1, 2, 10, 77, 1, 2]);
        assert_eq!(index(&whole, libc::SOL_IP), Some(u32::from_ne_bytes([7, 0, 0, 0])));
        for cut in 0..whole.len() {
            assert_eq!(index(&whole[..cut], libc::SOL_IP), None);
        }
        assert_eq!(index(&[0; 64], libc::SOL_IP), None);
        assert_eq!(index(&[0xff; 64], libc::SOL_IPV6), None);
    }
}
