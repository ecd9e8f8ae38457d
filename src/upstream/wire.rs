//! A connection to an upstream host, in clear or in TLS; behind an https proxy in TLS within TLS.

use super::UpstreamError;
use crate::net;
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

/// A TLS session. What breaks it is kept here: HTTP/2 gives the error on as text only, and a TLS 1.3 server that wants a
/// certificate says so behind the handshake, in an alert that its reset may overtake.
#[derive(Debug)]
pub struct Session {
    stream: TlsStream<Wire>,
    fault: Fault,
    /// The server asked for a certificate and has said nothing since.
    in_doubt: bool,
}

/// Why a session broke, once it has.
pub(super) type Fault = Arc<OnceLock<UpstreamFault>>;

impl Wire {
    /// `asked`: whether the server asked for a certificate.
    pub(super) fn secured(stream: TlsStream<Self>, asked: bool) -> Self {
        Self::Tls(Box::new(Session { stream, fault: Fault::default(), in_doubt: asked }))
    }

    /// Where a session's fault will stand.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Tcp(_) => Fault::default(),
            Self::Tls(session) => session.fault.clone(),
        }
    }
}

/// What an exchange failed of: of the want of a certificate, where that broke its session.
pub(super) fn refused(fault: &Fault, error: UpstreamError) -> UpstreamError {
    match fault.get() {
        Some(fault @ UpstreamFault::WantsClientCertificate) => UpstreamError::Handshake(*fault),
        _ => error,
    }
}

impl Session {
    fn noting<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            match tls::tls_error(error) {
                // The first fault is the cause of all later ones.
                Some(found) => drop(self.fault.set(UpstreamFault::of(found))),
                None => self.closed(),
            }
        }
        polled
    }

    fn closed(&self) {
        if self.in_doubt {
            let _ = self.fault.set(UpstreamFault::WantsClientCertificate);
        }
    }
}

macro_rules! on_either {
    ($self:ident, $method:ident, $($argument:expr),*) => {
        match $self.get_mut() {
            Self::Tcp(io) => Pin::new(io).$method($($argument),*),
            Self::Tls(session) => {
                let polled = Pin::new(&mut session.stream).$method($($argument),*);
                session.noting(polled)
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(session) => {
                let read = Pin::new(&mut session.stream).poll_read(cx, buf);
                match &read {
                    Poll::Ready(Ok(())) if buf.filled().len() > before => session.in_doubt = false,
                    Poll::Ready(Ok(())) => session.closed(),
                    Poll::Ready(Err(_)) | Poll::Pending => {}
                }
                session.noting(read)
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
        match self.get_mut() {
            Self::Tcp(io) => net::poll_write_pieces(io, cx, bufs),
            Self::Tls(session) => {
                let written = Pin::new(&mut session.stream).poll_write_vectored(cx, bufs);
                session.noting(written)
            }
        }
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
