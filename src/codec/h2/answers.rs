//! The bytes of an upstream host's connection, with an eye on the frames in them: what `seam` is on the client's side.
//! What no host may send ends the connection as if it had broken, before the crate has seen it.

use super::assembly::{Assembly, TooLarge};
use super::blocks::{Blocks, Head, Unreadable};
use super::budget::{self, Budget};
use super::connection::{PREFACE, name};
use super::frames::{self, FrameHead, Frames, Piece, Settings};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Streams whose answer has begun and not ended; the crate opens fewer.
const ANSWERED: usize = 1024;

/// Why no more of a connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error("the connection begins with something else than SETTINGS")]
    First,
    #[error("SETTINGS that let a server be pushed to")]
    Push,
    #[error("more {0} frames than the work of the connection calls for")]
    Flood(&'static str),
    #[error("a header block larger than any that is read")]
    Block,
    #[error("a header block that breaks HPACK's rules")]
    Unreadable,
    #[error("a pseudo-header field that no answer has")]
    Pseudo,
    #[error("malformed trailers")]
    Trailers,
}

/// Where a connection's breach will stand.
pub type Told = Arc<OnceLock<Breach>>;

/// A connection whose frames are watched. Give it to the `h2` crate's client.
#[derive(Debug)]
pub struct Answers<IO> {
    io: IO,
    state: State,
    told: Told,
}

/// Wraps a connection to an upstream host, of which nothing has been read.
pub fn answers<IO>(io: IO) -> (Answers<IO>, Told) {
    let told = Told::default();
    (Answers { io, state: State::new(), told: told.clone() }, told)
}

#[derive(Debug)]
struct State {
    incoming: Frames,
    /// Bytes of our preface that are still to go out.
    preface: usize,
    outgoing: Frames,
    /// The frame that is coming, or was last.
    frame: Option<FrameHead>,
    settings: Settings,
    idle: Budget,
    blocks: Blocks,
    block: Assembly,
    answered: VecDeque<u32>,
}

impl State {
    fn new() -> Self {
        Self {
            incoming: Frames::default(),
            preface: PREFACE,
            outgoing: Frames::default(),
            frame: None,
            settings: Settings::default(),
            idle: Budget::new(budget::IDLE_FRAMES),
            blocks: Blocks::default(),
            block: Assembly::default(),
            answered: VecDeque::new(),
        }
    }

    /// Looks at bytes that have come. With a breach, how many of them may still go on.
    fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Breach)> {
        let mut rest = bytes;
        loop {
            let here = bytes.len() - rest.len();
            let Some(piece) = self.incoming.next(&mut rest) else { return Ok(()) };
            let passed = match piece {
                Piece::Head(head) => self.head(head),
                Piece::Payload { bytes, last } => self.payload(bytes, last),
            };
            passed.map_err(|breach| (here, breach))?;
        }
    }

    fn head(&mut self, head: FrameHead) -> Result<(), Breach> {
        // The server's preface is its SETTINGS (RFC 9113 section 3.4).
        if self.frame.is_none() && !head.is_settings() {
            return Err(Breach::First);
        }
        self.frame = Some(head);
        self.settings = Settings::default();
        match head.kind {
            frames::DATA if head.length > 0 => self.idle.earn_for(head.length),
            frames::DATA if head.ends_stream() => {}
            // The head of an answer is the work that a request of ours asked for.
            frames::HEADERS => {
                if self.answered.contains(&head.stream) {
                    self.spend(&head)?;
                }
                self.block.begin(head);
            }
            frames::CONTINUATION => {
                self.spend(&head)?;
                self.block.go_on(head);
            }
            _ => self.spend(&head)?,
        }
        if head.kind == frames::RST_STREAM || (head.kind == frames::DATA && head.ends_stream()) {
            self.ended(head.stream);
        }
        if head.length == 0 { self.payload(&[], true) } else { Ok(()) }
    }

    fn spend(&mut self, head: &FrameHead) -> Result<(), Breach> {
        let tokens = if head.kind == frames::CONTINUATION { 1 } else { 1 + head.length / 256 };
        let granted = self.idle.spend(u32::try_from(tokens).unwrap_or(u32::MAX));
        if granted { Ok(()) } else { Err(Breach::Flood(name(head.kind))) }
    }

    fn payload(&mut self, bytes: &[u8], last: bool) -> Result<(), Breach> {
        if self.frame.is_some_and(|frame| frame.is_settings()) && self.settings.lets_push(bytes) {
            return Err(Breach::Push);
        }
        let Some(first) = self.block.first() else { return Ok(()) };
        if let Some(block) = self.block.add(bytes, last).map_err(|TooLarge| Breach::Block)? {
            self.block.close();
            self.judge(&first, &block)?;
        }
        Ok(())
    }

    /// Judges a whole header block by what has come of its stream before.
    fn judge(&mut self, first: &FrameHead, block: &[u8]) -> Result<(), Breach> {
        if self.answered.contains(&first.stream) {
            let bad = self.blocks.trailers(block)?;
            self.ended(first.stream);
            return if bad.is_some() { Err(Breach::Trailers) } else { Ok(()) };
        }
        match self.blocks.head(block)? {
            Head::OfRequest => return Err(Breach::Pseudo),
            Head::Final if !first.ends_stream() => {
                if self.answered.len() == ANSWERED {
                    self.answered.pop_front();
                }
                self.answered.push_back(first.stream);
            }
            // One without a status is for the crate to refuse.
            Head::Final | Head::Interim | Head::Nameless => {}
        }
        Ok(())
    }

    fn ended(&mut self, stream: u32) {
        self.answered.retain(|answered| *answered != stream);
    }

    /// Looks at bytes that went out.
    fn wrote(&mut self, bytes: &[u8]) {
        let (preface, mut rest) = bytes.split_at(self.preface.min(bytes.len()));
        self.preface -= preface.len();
        while let Some(piece) = self.outgoing.next(&mut rest) {
            let Piece::Head(head) = piece else { continue };
            match head.kind {
                frames::DATA => self.idle.earn_for(head.length),
                frames::HEADERS => self.idle.earn(budget::FOR_STREAM),
                frames::RST_STREAM => self.ended(head.stream),
                _ => {}
            }
        }
    }
}

impl From<Unreadable> for Breach {
    fn from(Unreadable: Unreadable) -> Self {
        Self::Unreadable
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Answers<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let broken = |breach: &Breach| Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, *breach)));
        if let Some(breach) = this.told.get() {
            return broken(breach);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let Err((passed, breach)) = this.state.read(new) else { return Poll::Ready(Ok(())) };
        buf.set_filled(before + passed);
        let breach = this.told.get_or_init(|| breach);
        // Nothing at all would look like the end.
        if passed == 0 { broken(breach) } else { Poll::Ready(Ok(())) }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Answers<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.state.wrote(buf.get(..wrote).unwrap_or_default());
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = wrote;
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            self.state.wrote(part);
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
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
