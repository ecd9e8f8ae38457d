//! What the frames of a client's connection say, both ways, as `seam` lets them pass. Pure but for the clock.

use super::assembly::{Assembly, TooLarge};
use super::blocks::{BadTrailers, Blocks, Unreadable};
use super::budget::{self, Budget};
use super::frames::{self, FrameHead, Frames, Piece, Settings};
use super::seam::{Fault, Noted, RefusedStream, Taken};
use crate::codec::Conduct;
use h2::Reason;
use std::collections::VecDeque;
use tokio::time::Instant;

/// "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" (RFC 9113 section 3.4), which the crate compares.
pub(super) const PREFACE: usize = 24;
/// Streams that were begun and not yet taken or refused; the crate holds fewer.
const BEGUN: usize = 1024;
/// What was seen of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Bytes of the preface that are still to come.
    preface: usize,
    incoming: Frames,
    outgoing: Frames,
    /// The frame that is coming, or was last.
    frame: Option<FrameHead>,
    settings: Settings,
    idle: Budget,
    resets: Budget,
    blocks: Blocks,
    block: Assembly,
    /// The block begins a stream, and is not its trailers.
    begins: bool,
    /// Since when the block is open.
    since: Option<Instant>,
    /// The highest stream that the client has begun.
    last: u32,
    begun: VecDeque<Begun>,
    taken: Streams,
    pub(super) refused: Vec<RefusedStream>,
    pub(super) fault: Option<(Fault, Noted)>,
    pub(super) delivered: Instant,
    pub(super) heard: bool,
    said: Said,
}

#[derive(Debug)]
struct Begun {
    stream: u32,
    taken: Taken,
}

/// The streams that were handed over, so long as somebody works on them.
#[derive(Debug, Default)]
struct Streams {
    list: Vec<(u32, Conduct)>,
    /// How many of them are left to be looked through.
    most: usize,
}

impl Streams {
    fn push(&mut self, stream: u32, conduct: Conduct) {
        if self.list.len() >= self.most {
            self.list.retain(|(_, conduct)| !conduct.is_over());
            self.most = 2 * self.list.len().max(16);
        }
        self.list.push((stream, conduct));
    }

    fn conduct(&self, stream: u32) -> Option<&Conduct> {
        let found = self.list.iter().rev().find(|(taken, _)| *taken == stream);
        found.map(|(_, conduct)| conduct).filter(|conduct| !conduct.is_over())
    }
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

impl Connection {
    /// Of which nothing has come.
    pub(super) fn new() -> Self {
        Self {
            preface: PREFACE,
            incoming: Frames::default(),
            outgoing: Frames::default(),
            frame: None,
            settings: Settings::default(),
            idle: Budget::new(budget::IDLE_FRAMES),
            resets: Budget::new(budget::RESETS),
            blocks: Blocks::default(),
            block: Assembly::default(),
            begins: false,
            since: None,
            last: 0,
            begun: VecDeque::new(),
            taken: Streams::default(),
            refused: Vec::new(),
            fault: None,
            delivered: Instant::now(),
            heard: false,
            said: Said::default(),
        }
    }

    /// Looks at bytes that have come; how many of them may go on.
    pub(super) fn read(&mut self, bytes: &[u8]) -> usize {
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
                let noted = match fault {
                    Fault::Unreadable | Fault::Block => self.note_block("trailers that cannot be read"),
                    Fault::Trailers => self.note_block("trailers with a field that is none"),
                    _ => Noted::Nowhere,
                };
                self.fault = Some((fault, noted));
                return here;
            }
        }
        self.since = self.block.first().map(|_| self.since.unwrap_or_else(Instant::now));
        bytes.len()
    }

    fn head(&mut self, head: FrameHead) -> Result<(), Fault> {
        // The client's preface ends with its SETTINGS (RFC 9113 section 3.4).
        if self.frame.is_none() && !head.is_settings() {
            return Err(Fault::First);
        }
        if !head.has_a_right_size() {
            return Err(Fault::Size(name(head.kind)));
        }
        self.frame = Some(head);
        self.settings = Settings::default();
        match head.kind {
            frames::DATA if head.length > 0 => self.idle.earn_for(head.length),
            frames::DATA if head.ends_stream() => {}
            frames::HEADERS if head.stream > self.last => {
                self.last = head.stream;
                self.idle.earn(budget::FOR_STREAM);
                if self.begun.len() == BEGUN {
                    self.begun.pop_front();
                }
                let taken = Taken { fragment: false, conduct: Conduct::watched() };
                self.begun.push_back(Begun { stream: head.stream, taken });
                self.open(head, true);
            }
            frames::HEADERS => {
                self.spend(&head)?;
                self.open(head, false);
            }
            frames::CONTINUATION => {
                self.spend(&head)?;
                self.block.go_on(head);
            }
            frames::RST_STREAM if !self.resets.spend(1) => return Err(Fault::Resets),
            frames::RST_STREAM => {
                if let Some(conduct) = self.conduct(head.stream) {
                    conduct.leave();
                }
            }
            _ => self.spend(&head)?,
        }
        if head.length == 0 { self.payload(&[], true) } else { Ok(()) }
    }

    fn open(&mut self, head: FrameHead, begins: bool) {
        self.block.begin(head);
        (self.begins, self.since) = (begins, None);
    }

    fn spend(&mut self, head: &FrameHead) -> Result<(), Fault> {
        let tokens = if head.kind == frames::CONTINUATION { 1 } else { 1 + head.length / 256 };
        let granted = self.idle.spend(u32::try_from(tokens).unwrap_or(u32::MAX));
        if granted { Ok(()) } else { Err(Fault::Flood(name(head.kind))) }
    }

    fn payload(&mut self, bytes: &[u8], last: bool) -> Result<(), Fault> {
        if self.frame.is_some_and(|frame| frame.is_settings()) && self.settings.has_too_large_a_window(bytes)
        {
            return Err(Fault::Window);
        }
        let Some(block) = self.block.add(bytes, last).map_err(|TooLarge| Fault::Block)? else {
            return Ok(());
        };
        if self.begins {
            let found = self.blocks.has_fragment(&block).map_err(|Unreadable| Fault::Unreadable)?;
            if let Some(begun) = self.begun.back_mut() {
                begun.taken.fragment = found;
            }
        } else {
            match self.blocks.trailers(&block).map_err(|Unreadable| Fault::Unreadable)? {
                Some(BadTrailers::NoField) => return Err(Fault::Trailers),
                Some(BadTrailers::Malformed) => {
                    self.note_block("malformed trailers");
                }
                None => {}
            }
        }
        self.block.close();
        Ok(())
    }

    /// Notes a breach with the stream whose trailers are being read.
    pub(super) fn note_block(&self, breach: &'static str) -> Noted {
        let trailers = self.block.first().filter(|_| !self.begins);
        match trailers.and_then(|frame| self.conduct(frame.stream)) {
            Some(conduct) => {
                conduct.broke(breach);
                Noted::WithStream
            }
            None => Noted::Nowhere,
        }
    }

    pub(super) fn take(&mut self, stream: u32) -> Option<Taken> {
        let Begun { taken, .. } = self.unlist(stream)?;
        self.taken.push(stream, taken.conduct.clone());
        Some(taken)
    }

    /// Of a stream that somebody records, or will.
    fn conduct(&self, stream: u32) -> Option<&Conduct> {
        let begun = self.begun.iter().find(|begun| begun.stream == stream);
        begun.map(|begun| &begun.taken.conduct).or_else(|| self.taken.conduct(stream))
    }

    /// Looks at bytes that went out.
    pub(super) fn wrote(&mut self, mut bytes: &[u8]) {
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

    /// Since when a head is under way whose end has not come.
    pub(super) fn head_since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether a GOAWAY of ours named an error.
    pub(super) fn gave_up(&self) -> bool {
        self.said.gave_up
    }

    fn unlist(&mut self, stream: u32) -> Option<Begun> {
        let place = self.begun.iter().position(|begun| begun.stream == stream)?;
        self.begun.remove(place)
    }
}

/// A frame type's name, for records.
pub(super) fn name(kind: u8) -> &'static str {
    match kind {
        frames::DATA => "empty DATA",
        frames::HEADERS => "HEADERS",
        frames::PRIORITY => "PRIORITY",
        frames::RST_STREAM => "RST_STREAM",
        frames::SETTINGS => "SETTINGS",
        frames::PING => "PING",
        frames::GOAWAY => "GOAWAY",
        frames::WINDOW_UPDATE => "WINDOW_UPDATE",
        frames::CONTINUATION => "CONTINUATION",
        _ => "unknown",
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
