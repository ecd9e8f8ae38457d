//! A connection to an upstream host, in clear or in TLS; behind an https proxy in TLS within TLS.

use crate::tls::{self, UpstreamFault};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
pub enum Wire {
    Tcp(TcpStream),
    Tls(Box<Session>),
}

/// A TLS session. What breaks it is kept here: HTTP/2 gives the error on as text only.
#[derive(Debug)]
pub struct Session {
    stream: TlsStream<Wire>,
    fault: Fault,
}

/// Why a session broke, once it has.
pub(super) type Fault = Arc<OnceLock<UpstreamFault>>;

impl Wire {
    pub(super) fn secured(stream: TlsStream<Self>) -> Self {
        Self::Tls(Box::new(Session { stream, fault: Fault::default() }))
    }

    /// Where a session's fault will stand.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Tcp(_) => Fault::default(),
            Self::Tls(session) => session.fault.clone(),
        }
    }
}

macro_rules! on_either {
    ($self:ident, $method:ident, $($argument:expr),*) => {
        match $self.get_mut() {
            Self::Tcp(io) => Pin::new(io).$method($($argument),*),
            Self::Tls(session) => Pin::new(&mut session.stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(session) => {
                let read = Pin::new(&mut session.stream).poll_read(cx, buf);
                if let Poll::Ready(Err(error)) = &read
                    && let Some(found) = tls::tls_error(error)
                {
                    // The first fault is the cause of all later ones.
                    let _ = session.fault.set(UpstreamFault::of(found));
                }
                read
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self, poll_write, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, poll_shutdown, cx)
    }
}
