//! A Unix socket that keeps the open files which come in with its bytes; a plain read would close them.

use crate::steer::pass;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// What came in so far on a connection.
#[derive(Clone, Default)]
pub(super) struct Files(Arc<Mutex<Vec<OwnedFd>>>);

impl Files {
    pub(super) fn take(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Receiving {
    stream: UnixStream,
    files: Files,
}

impl Receiving {
    pub(super) fn new(stream: UnixStream) -> (Self, Files) {
        let files = Files::default();
        (Self { stream, files: files.clone() }, files)
    }
}

impl AsyncRead for Receiving {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let mut files = Vec::new();
            let room = to.initialize_unfilled();
            let read = self
                .stream
                .try_io(Interest::READABLE, || pass::receive_bytes(&self.stream, room, &mut files));
            match read {
                Ok(length) => {
                    to.advance(length);
                    let mut kept = self.files.0.lock().unwrap_or_else(PoisonError::into_inner);
                    // One message's worth; more are closed here.
                    let free = pass::MOST_FILES.saturating_sub(kept.len());
                    kept.extend(files.into_iter().take(free));
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Receiving {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
