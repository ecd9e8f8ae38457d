//! Sockets over a socket: bytes and open files go together from one process to another, which may be in another
//! namespace (unix(7), `SCM_RIGHTS`).
//!
//! One call is one message of at most [`MOST_BYTES`] behind its length; files arrive with its first byte. Blocking: set
//! time-outs on the stream. `exec` and `attach` use it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Room for the environment and the arguments of a command (`ARG_MAX` is 2 MiB on Linux).
pub const MOST_BYTES: usize = 8 << 20;
/// The kernel takes 253 at most (`SCM_MAX_FD`); a namespace needs a handful of listeners.
pub const MOST_FILES: usize = 16;

const ROOM: usize = rustix::cmsg_space!(ScmRights(MOST_FILES));

/// # Errors
/// The message is too large, or the other end is gone.
pub fn send(stream: &UnixStream, message: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= MOST_BYTES);
    send_bytes(stream, &length.ok_or_else(too_large)?.to_be_bytes(), files)?;
    let mut stream = stream;
    stream.write_all(message)
}

/// Bytes without a frame, and files with the first of them.
///
/// # Errors
/// There are too many files, or the other end is gone.
pub fn send_bytes(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if files.len() > MOST_FILES
        || (!files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)))
    {
        return Err(too_large());
    }
    // The files go with the first byte, of which at least one is taken at once.
    let flags = SendFlags::NOSIGNAL;
    let sent = rustix::io::retry_on_intr(|| sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags))?;
    let mut stream = stream;
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the message is too large to be passed")
}

/// Some bytes, and the files that came with them are added to `files`. 0: the other end has closed.
///
/// # Errors
/// Nothing is there yet on a stream that does not block, or its time-out has passed.
pub fn receive_bytes(stream: impl AsFd, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(part) = part {
            files.extend(part);
        }
    }
    Ok(received.bytes)
}

/// The next message; `None` when the other end has closed between two messages. Files arrive closed on exec.
///
/// # Errors
/// The message is cut off or too large, or the time-out of the stream has passed.
pub fn receive(stream: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let (mut length, mut files) = ([0; 4], Vec::new());
    let received = receive_bytes(stream, &mut length, &mut files)?;
    if received == 0 {
        return Ok(None);
    }
    let mut stream = stream;
    stream.read_exact(length.get_mut(received..).unwrap_or_default())?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a passed message is too large"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(Some((message, files)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn sockets_arrive_with_their_message_and_work() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        send(&here, b"one", &[listener.as_fd(), here.as_fd()]).unwrap();
        send(&here, b"", &[]).unwrap();
        drop(here);
        let (message, mut files) = receive(&there).unwrap().unwrap();
        assert_eq!((message.as_slice(), files.len()), (&b"one"[..], 2));
        let same = TcpListener::from(files.remove(0));
        assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
        let (message, none) = receive(&there).unwrap().unwrap();
        assert!(message.is_empty() && none.is_empty());
        files.clear();
        assert!(receive(&there).unwrap().is_none());
    }

    #[test]
    fn a_message_that_is_cut_off_or_lies_about_its_length_is_an_error() {
        for bytes in [&[0, 0, 0, 5, 1][..], &[0, 0][..], &[0xff; 4][..]] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).unwrap();
            drop(here);
            assert!(receive(&there).is_err(), "{bytes:?}");
        }
    }
}
