//! A header block out of its frames: HEADERS, and the CONTINUATION frames behind it (RFC 9113 section 4.3).

use super::frames::FrameHead;
use std::borrow::Cow;

/// A block in its frames. The crate takes some 112 KiB in as many frames as it takes.
const LARGEST: usize = 128 * 1024;

/// The block that is being read. Other frames may not stand in it: they end the connection when the crate reads them, and
/// what they bring does not matter.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// The frame that began it, and its last one.
    frames: Option<(FrameHead, FrameHead)>,
    /// Of the last frame, and of the frames before it; empty where all came in one piece.
    payload: Vec<u8>,
    parts: Vec<u8>,
}

/// The block is larger than any that is read.
#[derive(Debug)]
pub(super) struct TooLarge;

impl Assembly {
    pub(super) fn begin(&mut self, head: FrameHead) {
        *self = Self { frames: Some((head, head)), ..Self::default() };
    }

    /// A CONTINUATION. One of another block, or of none, is for the crate to find.
    pub(super) fn go_on(&mut self, head: FrameHead) {
        if let Some((first, last)) = &mut self.frames
            && first.stream == head.stream
        {
            *last = head;
        }
    }

    /// The frame that began the block that is open.
    pub(super) fn first(&self) -> Option<FrameHead> {
        self.frames.map(|(first, _)| first)
    }

    /// Takes a piece of a frame's payload, `last` with the end of it. Gives the block where this completes it; it stays
    /// open until it is closed.
    pub(super) fn add<'a>(&mut self, bytes: &'a [u8], last: bool) -> Result<Option<Cow<'a, [u8]>>, TooLarge> {
        let Some((_, frame)) = self.frames else { return Ok(None) };
        if self.payload.len() + self.parts.len() + bytes.len() > LARGEST {
            return Err(TooLarge);
        }
        let whole = last && self.payload.is_empty();
        if !whole {
            self.payload.extend_from_slice(bytes);
        }
        if !last {
            return Ok(None);
        }
        // Padding that cannot be is for the crate to answer, which checks it before the block.
        let payload = std::mem::take(&mut self.payload);
        if whole && self.parts.is_empty() && frame.ends_block() {
            return Ok(Some(Cow::Borrowed(frame.block_of(bytes).unwrap_or_default())));
        }
        let part = frame.block_of(if whole { bytes } else { &payload }).unwrap_or_default();
        self.parts.extend_from_slice(part);
        Ok(frame.ends_block().then(|| Cow::Owned(std::mem::take(&mut self.parts))))
    }

    pub(super) fn close(&mut self) {
        *self = Self::default();
    }
}
