//! One way of a WebSocket: read, decoded, judged, framed anew, written.

use super::pings::Pings;
use crate::codec::ws::{Close, Decoder, Encoder, Event, Kind, Sender, Violation};
use crate::flow::tunnel;
use crate::pipeline::{Inspector, Stopped};
use bytes::{Bytes, BytesMut};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

/// What an idle way reads into: on the stack, so that it costs no buffer.
const IDLE_READ: usize = 4 * 1024;
/// What a busy way reads at a time.
const READ: usize = 32 * 1024;
/// The longest fragment that is written; a frame that came is held until it is whole or as long as this.
const FRAGMENT: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Silence inside a frame.
    pub(super) frame: Duration,
    /// How long a side may take nothing.
    pub(super) stall: Duration,
    /// Silence after which what DLP holds is released.
    pub(super) quiet: Duration,
}

/// Why a way ends: by what came from its source, or a sink that takes nothing.
pub(super) enum End {
    Close(Close),
    /// Its source is gone without a close.
    Gone,
    Lost(io::Error),
    Violation(Violation),
    Stopped(Stopped),
    /// A frame was begun and does not go on.
    Stalled,
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Stopped> for End {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

/// One way: from a source through its inspector to a sink. Its futures may be dropped at any await and run again.
pub(super) struct Way<'a, R, W> {
    pub(super) sender: Sender,
    pub(super) source: R,
    /// What was read and not yet decoded.
    buffer: BytesMut,
    /// The last read filled what it was given.
    busy: bool,
    decoder: Decoder,
    pub(super) inspector: Inspector,
    kind: Kind,
    /// What of the message may go on and is not yet framed.
    pending: BytesMut,
    encoder: Encoder,
    /// Frames that are not yet written: all of them judged, so they are written to their end before a close.
    out: BytesMut,
    sink: W,
    said_close: bool,
    times: Times,
    moved: &'a AtomicU64,
    /// Pings that came this way, and those that went the other way and are answered here.
    pings: (&'a Pings, &'a Pings),
}

impl<'a, R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Way<'a, R, W> {
    pub(super) fn new(
        sender: Sender,
        (source, ahead): (R, Bytes),
        sink: W,
        inspector: Inspector,
        times: Times,
        moved: &'a AtomicU64,
        pings: (&'a Pings, &'a Pings),
    ) -> Self {
        Self {
            sender,
            source,
            buffer: BytesMut::from(ahead),
            busy: false,
            decoder: Decoder::new(sender),
            inspector,
            kind: Kind::Binary,
            pending: BytesMut::new(),
            encoder: Encoder::new(sender),
            out: BytesMut::new(),
            sink,
            said_close: false,
            times,
            moved,
            pings,
        }
    }

    pub(super) async fn run(&mut self) -> End {
        match self.pass().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn pass(&mut self) -> Result<Infallible, End> {
        loop {
            while let Some(event) = self.decoder.next(&mut self.buffer)? {
                self.take(event)?;
                if self.out.len() >= FRAGMENT {
                    self.write().await.map_err(End::Lost)?;
                }
            }
            self.inspector.pause()?;
            self.collect()?;
            self.write().await.map_err(End::Lost)?;
            self.wait().await?;
        }
    }

    fn take(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Begin(kind) => {
                self.kind = kind;
                self.inspector.begin(kind);
            }
            Event::Data(data) => {
                self.inspector.push(data)?;
                self.collect()?;
            }
            Event::Fragment => {
                self.inspector.pause()?;
                self.collect()?;
                self.fragment(false)?;
            }
            Event::End => {
                self.inspector.end()?;
                self.collect()?;
                self.fragment(true)?;
            }
            Event::Ping(payload) => {
                let number = self.pings.0.ask(&payload);
                self.framed(|encoder, out| encoder.ping(out, &number))?;
            }
            Event::Pong(number) => {
                // Nobody waits for a pong that answers no ping; it only says that its sender is there.
                let payload = self.pings.1.answered(&number).unwrap_or_default();
                self.framed(|encoder, out| encoder.pong(out, &payload))?;
            }
            Event::Close(close) => return Err(End::Close(close)),
        }
        Ok(())
    }

    /// Takes what the inspector gives free.
    fn collect(&mut self) -> Result<(), End> {
        while let Some(ready) = self.inspector.pop() {
            // Copied: pieces of a byte each would otherwise cost far more than they hold.
            self.pending.extend_from_slice(&ready);
            if self.pending.len() >= FRAGMENT {
                self.fragment(false)?;
            }
        }
        Ok(())
    }

    fn fragment(&mut self, is_last: bool) -> Result<(), End> {
        if self.pending.is_empty() && !is_last {
            return Ok(());
        }
        let (pending, kind) = (std::mem::take(&mut self.pending), self.kind);
        self.framed(|encoder, out| encoder.data(out, kind, &pending, is_last))
    }

    fn framed<E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        write: impl FnOnce(&mut Encoder, &mut BytesMut) -> Result<(), E>,
    ) -> Result<(), End> {
        write(&mut self.encoder, &mut self.out).map_err(|error| End::Lost(io::Error::other(error)))
    }

    /// Waits for more to decode; meanwhile releases what may be released.
    async fn wait(&mut self) -> Result<(), End> {
        let (times, inside) = (self.times, self.decoder.is_inside_a_frame(&self.buffer));
        let read = if inside {
            timeout(times.frame, self.read()).await.map_err(|_| End::Stalled)?
        } else if self.inspector.is_holding() {
            match timeout(times.quiet, self.read()).await {
                Ok(read) => read,
                Err(_) => {
                    self.inspector.release_quiet()?;
                    self.collect()?;
                    self.fragment(false)?;
                    self.write().await.map_err(End::Lost)?;
                    self.read().await
                }
            }
        } else {
            self.read().await
        };
        match read {
            Ok(0) => Err(End::Gone),
            Ok(n) => {
                self.moved.fetch_add(n as u64, Ordering::Relaxed);
                Ok(())
            }
            // A source that breaks is as gone as one that ends.
            Err(_) => Err(End::Gone),
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.busy || !self.buffer.is_empty() {
            self.buffer.reserve(READ);
            let room = self.buffer.capacity() - self.buffer.len();
            let read = poll_read_buf(Pin::new(&mut self.source), cx, &mut self.buffer);
            if let Poll::Ready(read) = read {
                self.busy = read.as_ref().is_ok_and(|n| *n >= room.min(READ) / 2);
                return Poll::Ready(read);
            }
            if !self.buffer.is_empty() {
                return Poll::Pending;
            }
        }
        // Nothing is here: what is idle holds no memory.
        self.busy = false;
        self.buffer = BytesMut::new();
        self.out = BytesMut::new();
        let mut space = [MaybeUninit::uninit(); IDLE_READ];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.source).poll_read(cx, &mut read))?;
        self.buffer.extend_from_slice(read.filled());
        self.busy = read.remaining() == 0;
        Poll::Ready(Ok(read.filled().len()))
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let stalled = || io::Error::from(io::ErrorKind::TimedOut);
        while !self.out.is_empty() {
            let written = timeout(self.times.stall, self.sink.write_buf(&mut self.out)).await;
            if written.map_err(|_| stalled())?? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        timeout(self.times.stall, self.sink.flush()).await.map_err(|_| stalled())?
    }

    /// Closes towards the sink, once. What is framed is written before, so that the close stands between frames.
    pub(super) async fn say(&mut self, close: Close) {
        if std::mem::replace(&mut self.said_close, true) || self.encoder.close(&mut self.out, &close).is_err()
        {
            return;
        }
        // A side that does not take its goodbye has gone.
        let _ = timeout(tunnel::LAST_BYTES, self.write()).await;
    }

    pub(super) fn into_source(self) -> R {
        self.source
    }

    pub(super) async fn shut(&mut self) {
        let _ = timeout(tunnel::LAST_BYTES, self.sink.shutdown()).await;
    }
}
