//! The bytes of a client's connection, with an eye on the frames in them.

use super::connection::Connection;
use crate::codec::Conduct;
use h2::Reason;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// After a GOAWAY that names an error the client may send on for so long, and so much, that it sees the GOAWAY and not
/// the reset of its connection.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;

/// Why no more of a connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("more {0} frames than the work of the connection calls for")]
    Flood(&'static str),
    #[error("more streams reset by the client than a client has reason to")]
    Resets,
    #[error("a header block larger than any that is read")]
    Block,
    #[error("a header block that breaks HPACK's rules")]
    Unreadable,
    #[error("trailers with a field that is none")]
    Trailers,
    #[error("a first frame other than SETTINGS")]
    First,
    #[error("{0} of a size that it never has")]
    Size(&'static str),
    #[error("a flow-control window larger than any")]
    Window,
}

impl Fault {
    /// What the client is told.
    pub fn code(self) -> Reason {
        match self {
            Self::Flood(_) | Self::Resets | Self::Block => Reason::ENHANCE_YOUR_CALM,
            Self::Unreadable => Reason::COMPRESSION_ERROR,
            Self::Trailers | Self::First => Reason::PROTOCOL_ERROR,
            Self::Size(_) => Reason::FRAME_SIZE_ERROR,
            Self::Window => Reason::FLOW_CONTROL_ERROR,
        }
    }
}

/// How the crate refused a stream before anybody saw its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedStream {
    Reset(Reason),
    /// With 431, the one answer that it gives: the head is larger than the limit.
    Answered,
}

/// A stream whose request was handed over, with the right and the duty to record it: no one else does from then on.
#[derive(Debug)]
pub struct Taken {
    /// What its head held that its request does not show.
    pub fragment: bool,
    /// What is seen of it later.
    pub conduct: Conduct,
}

/// What a connection's driver is told between two turns.
#[derive(Debug, Default)]
pub struct Told {
    pub refused: Vec<RefusedStream>,
    /// Why no more is read, unless it was noted with the one stream that it concerns.
    pub fault: Option<(Fault, Noted)>,
    /// Since when a head is under way whose end has not come.
    pub head_since: Option<Instant>,
}

/// Whether a fault of the connection was noted with a stream, whose record tells it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    Nowhere,
    WithStream,
}

/// The driver's view of a connection.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Mutex<Connection>>);

/// A connection whose frames are watched. Give it to the `h2` crate's server.
#[derive(Debug)]
pub struct Watched<IO> {
    io: IO,
    watch: Watch,
    lingering: Option<Linger>,
}

#[derive(Debug)]
struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

/// Wraps a client's connection, of which nothing has been read.
pub fn watched<IO>(io: IO) -> (Watched<IO>, Watch) {
    let watch = Watch(Arc::new(Mutex::new(Connection::new())));
    (Watched { io, watch: watch.clone(), lingering: None }, watch)
}

impl Watch {
    /// Hands a stream over whose request has come. `None`: it was refused meanwhile, which has its record; the crate
    /// shows a request also after that.
    pub fn take(&self, stream: u32) -> Option<Taken> {
        self.lock().take(stream)
    }

    /// The head that is under way has taken too long. Where it is a stream's trailers, that stream's record tells it.
    pub fn is_late(&self) -> Noted {
        self.lock().note_block("trailers that did not come in time")
    }

    /// When the last of an answer's body went out.
    pub fn delivered(&self) -> Instant {
        self.lock().delivered
    }

    pub fn told(&self) -> Told {
        let mut seen = self.lock();
        Told { refused: std::mem::take(&mut seen.refused), fault: seen.fault, head_since: seen.head_since() }
    }

    /// Whether anything has come since this was last asked.
    pub fn heard(&self) -> bool {
        std::mem::take(&mut self.lock().heard)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut seen = this.watch.lock();
        // The driver, which polls us, looks for a fault whenever there is nothing to read; nobody has to wake it.
        if seen.fault.is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if new.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let passed = seen.read(new);
        buf.set_filled(before + passed);
        // Nothing at all would look like the end.
        if passed == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.watch.lock().wrote(buf.get(..wrote).unwrap_or_default());
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let (mut left, mut seen) = (wrote, self.watch.lock());
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            seen.wrote(part);
            left -= part.len();
        }
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        if !this.watch.lock().gave_up() {
            return Poll::Ready(Ok(()));
        }
        let lingering = this.lingering.get_or_insert_with(|| Linger {
            until: Box::pin(tokio::time::sleep(LINGER)),
            left: LINGER_BYTES,
        });
        let mut thrown_away = [0; 8 * 1024];
        while lingering.left > 0 && lingering.until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut thrown_away);
            // A client that has gone, in whatever way, has seen what it wanted to.
            if ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
                break;
            }
            lingering.left = lingering.left.saturating_sub(buf.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}
