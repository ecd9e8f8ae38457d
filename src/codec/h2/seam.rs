//! The bytes of a client's connection, with an eye on the frames in them.

use super::budget::{self, Budget};
use super::frames::{self, FrameHead, Frames, Piece};
use super::paths::{Paths, Unreadable};
use h2::Reason;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" (RFC 9113 section 3.4), which the crate compares.
const PREFACE: usize = 24;
/// A header block in its frames. The crate takes some 112 KiB in as many frames as it takes.
const BLOCK: usize = 128 * 1024;
/// Streams that were begun and not yet taken or refused; the crate holds fewer.
const BEGUN: usize = 1024;
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
}

impl Fault {
    /// What the client is told.
    pub fn code(self) -> Reason {
        match self {
            Self::Flood(_) | Self::Resets | Self::Block => Reason::ENHANCE_YOUR_CALM,
            Self::Unreadable => Reason::COMPRESSION_ERROR,
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

/// What was seen of a stream's head that its request does not show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub fragment: bool,
}

/// What a connection's driver is told between two turns.
#[derive(Debug, Default)]
pub struct Told {
    pub refused: Vec<RefusedStream>,
    pub fault: Option<Fault>,
    /// Since when a head is under way whose end has not come.
    pub head_since: Option<Instant>,
}

/// The driver's view of a connection.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Mutex<State>>);

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
    let watch = Watch(Arc::new(Mutex::new(State::new())));
    (Watched { io, watch: watch.clone(), lingering: None }, watch)
}

impl Watch {
    /// The stream's request was handed over; what else is known of it.
    pub fn taken(&self, stream: u32) -> Taken {
        let mut state = self.lock();
        let fragment = state.unlist(stream).is_some_and(|begun| begun.fragment);
        Taken { fragment }
    }

    /// When the last of an answer's body went out.
    pub fn delivered(&self) -> Instant {
        self.lock().delivered
    }

    pub fn told(&self) -> Told {
        let mut state = self.lock();
        Told {
            refused: std::mem::take(&mut state.refused),
            fault: state.fault,
            head_since: state.block.since,
        }
    }

    /// Whether anything has come since this was last asked.
    pub fn heard(&self) -> bool {
        std::mem::take(&mut self.lock().heard)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    /// Bytes of the preface that are still to come.
    preface: usize,
    incoming: Frames,
    outgoing: Frames,
    idle: Budget,
    resets: Budget,
    paths: Paths,
    block: Block,
    /// The highest stream that the client has begun.
    last: u32,
    begun: VecDeque<Begun>,
    refused: Vec<RefusedStream>,
    fault: Option<Fault>,
    delivered: Instant,
    heard: bool,
    said: Said,
}

#[derive(Debug)]
struct Begun {
    stream: u32,
    fragment: bool,
}

/// The header block that is being read.
#[derive(Debug, Default)]
struct Block {
    /// The last frame of a block that is open. Other frames may not stand in it: they end the connection, and what they
    /// bring does not matter.
    frame: Option<FrameHead>,
    /// Begins a stream, and is not its trailers.
    begins: bool,
    /// Of that frame, and of the frames before it; empty where all came in one piece.
    payload: Vec<u8>,
    parts: Vec<u8>,
    since: Option<Instant>,
}

/// RST_STREAM and GOAWAY that we say.
#[derive(Debug, Default)]
struct Said {
    frame: FrameHead,
    /// The beginning of its payload, and how many bytes that are.
    payload: u64,
    have: usize,
    /// A GOAWAY named an error.
    gave_up: bool,
}

impl State {
    fn new() -> Self {
        Self {
            preface: PREFACE,
            incoming: Frames::default(),
            outgoing: Frames::default(),
            idle: Budget::new(budget::IDLE_FRAMES),
            resets: Budget::new(budget::RESETS),
            paths: Paths::default(),
            block: Block::default(),
            last: 0,
            begun: VecDeque::new(),
            refused: Vec::new(),
            fault: None,
            delivered: Instant::now(),
            heard: false,
            said: Said::default(),
        }
    }

    /// Looks at bytes that have come; how many of them may go on.
    fn read(&mut self, bytes: &[u8]) -> usize {
        self.heard = true;
        let (preface, mut rest) = bytes.split_at(self.preface.min(bytes.len()));
        self.preface -= preface.len();
        loop {
            let here = bytes.len() - rest.len();
            let Some(piece) = self.incoming.next(&mut rest) else { break };
            let passed = match piece {
                Piece::Head(head) => self.head(head),
                Piece::Payload { bytes, last } => self.payload(bytes, last),
            };
            if let Err(fault) = passed {
                self.fault = Some(fault);
                return here;
            }
        }
        self.block.since = match self.block.frame {
            Some(_) => Some(self.block.since.unwrap_or_else(Instant::now)),
            None => None,
        };
        bytes.len()
    }

    fn head(&mut self, head: FrameHead) -> Result<(), Fault> {
        match head.kind {
            frames::DATA if head.length > 0 => self.idle.earn_for(head.length),
            frames::DATA if head.ends_stream() => {}
            frames::HEADERS if head.stream > self.last => {
                self.last = head.stream;
                self.idle.earn(budget::FOR_STREAM);
                if self.begun.len() == BEGUN {
                    self.begun.pop_front();
                }
                self.begun.push_back(Begun { stream: head.stream, fragment: false });
                self.block = Block { frame: Some(head), begins: true, ..Block::default() };
            }
            frames::HEADERS => {
                self.spend(&head)?;
                self.block = Block { frame: Some(head), ..Block::default() };
            }
            frames::CONTINUATION => {
                self.spend(&head)?;
                // One of another block, or of none, ends the connection when the crate reads it.
                if self.block.frame.is_some_and(|frame| frame.stream == head.stream) {
                    self.block.frame = Some(head);
                }
            }
            frames::RST_STREAM if !self.resets.spend(1) => return Err(Fault::Resets),
            frames::RST_STREAM => {}
            _ => self.spend(&head)?,
        }
        if head.length == 0 { self.payload(&[], true) } else { Ok(()) }
    }

    fn spend(&mut self, head: &FrameHead) -> Result<(), Fault> {
        let tokens = if head.kind == frames::CONTINUATION { 1 } else { 1 + head.length / 256 };
        let granted = self.idle.spend(u32::try_from(tokens).unwrap_or(u32::MAX));
        if granted { Ok(()) } else { Err(Fault::Flood(name(head.kind))) }
    }

    fn payload(&mut self, bytes: &[u8], last: bool) -> Result<(), Fault> {
        let Some(frame) = self.block.frame else { return Ok(()) };
        let block = &mut self.block;
        if block.payload.len() + block.parts.len() + bytes.len() > BLOCK {
            return Err(Fault::Block);
        }
        let whole = last && block.payload.is_empty();
        if !whole {
            block.payload.extend_from_slice(bytes);
        }
        if !last {
            return Ok(());
        }
        let payload = std::mem::take(&mut block.payload);
        // Padding that cannot be is for the crate to answer, which checks it before the block.
        let part = frame.block_of(if whole { bytes } else { &payload }).unwrap_or_default();
        if !frame.ends_block() {
            block.parts.extend_from_slice(part);
            return Ok(());
        }
        let mut parts = std::mem::take(&mut block.parts);
        let found = if parts.is_empty() {
            self.paths.has_fragment(part)
        } else {
            parts.extend_from_slice(part);
            self.paths.has_fragment(&parts)
        };
        let begins = std::mem::take(&mut self.block).begins;
        let found = found.map_err(|Unreadable| Fault::Unreadable)?;
        if let Some(begun) = self.begun.back_mut().filter(|_| begins) {
            begun.fragment = found;
        }
        Ok(())
    }

    /// Looks at bytes that went out.
    fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.outgoing.next(&mut bytes) {
            match piece {
                Piece::Head(head) => {
                    self.said.frame = head;
                    (self.said.payload, self.said.have) = (0, 0);
                    if head.kind == frames::DATA {
                        self.idle.earn_for(head.length);
                        self.delivered = Instant::now();
                    }
                    if head.ends_stream() {
                        self.resets.earn(1);
                    }
                    if head.kind == frames::HEADERS && self.unlist(head.stream).is_some() {
                        self.refused.push(RefusedStream::Answered);
                    }
                }
                Piece::Payload { bytes, last } => {
                    if matches!(self.said.frame.kind, frames::RST_STREAM | frames::GOAWAY) {
                        self.say(bytes, last);
                    }
                }
            }
        }
    }

    fn say(&mut self, bytes: &[u8], last: bool) {
        let said = &mut self.said;
        for byte in bytes.iter().take(8 - said.have) {
            said.payload = said.payload << 8 | u64::from(*byte);
            said.have += 1;
        }
        if !last {
            return;
        }
        // The code ends the payload of the one, and the first eight bytes of the other.
        let code = Reason::from(said.payload as u32);
        if said.frame.kind == frames::GOAWAY {
            said.gave_up |= code != Reason::NO_ERROR;
        } else if self.unlist(self.said.frame.stream).is_some() {
            self.refused.push(RefusedStream::Reset(code));
        }
    }

    fn unlist(&mut self, stream: u32) -> Option<Begun> {
        let place = self.begun.iter().position(|begun| begun.stream == stream)?;
        self.begun.remove(place)
    }
}

/// A frame type's name, for records.
fn name(kind: u8) -> &'static str {
    match kind {
        frames::DATA => "empty DATA",
        frames::HEADERS => "HEADERS",
        frames::PRIORITY => "PRIORITY",
        frames::SETTINGS => "SETTINGS",
        frames::PING => "PING",
        frames::GOAWAY => "GOAWAY",
        frames::WINDOW_UPDATE => "WINDOW_UPDATE",
        frames::CONTINUATION => "CONTINUATION",
        _ => "unknown",
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut state = this.watch.lock();
        // The driver, which polls us, looks for a fault whenever there is nothing to read; nobody has to wake it.
        if state.fault.is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if new.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let passed = state.read(new);
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
        let (mut left, mut state) = (wrote, self.watch.lock());
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            state.wrote(part);
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
        if !this.watch.lock().said.gave_up {
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

#[cfg(test)]
#[path = "seam_tests.rs"]
mod tests;
