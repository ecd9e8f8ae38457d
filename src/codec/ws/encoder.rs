//! Messages to frames of our own (RFC 6455 section 5): fragments where a message is sent before it is complete, and fresh
//! masks towards a server.

use super::decoder::Close;
use super::frame::{self, Head, Mask, Opcode};
use super::{CONTROL_MOST, Kind, Sender};
use aws_lc_rs::rand;
use bytes::{BufMut, BytesMut};

/// One direction of one connection.
#[derive(Debug)]
pub struct Encoder {
    masks: Option<Masks>,
    /// A part of the message is written already.
    is_open: bool,
}

/// No random numbers were to be had, so that nothing can be masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no random numbers for a mask")]
pub struct NoMask;

impl Encoder {
    pub fn new(sender: Sender) -> Self {
        Self { masks: (sender == Sender::Client).then(Masks::default), is_open: false }
    }

    /// Writes the next fragment of a message; with `is_last` its end.
    pub fn data(
        &mut self,
        out: &mut BytesMut,
        kind: Kind,
        payload: &[u8],
        is_last: bool,
    ) -> Result<(), NoMask> {
        let opcode = match kind {
            _ if self.is_open => Opcode::Continuation,
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        self.is_open = !is_last;
        self.frame(out, opcode, is_last, [payload])
    }

    pub fn ping(&mut self, out: &mut BytesMut, payload: &[u8]) -> Result<(), NoMask> {
        self.frame(out, Opcode::Ping, true, [payload])
    }

    pub fn pong(&mut self, out: &mut BytesMut, payload: &[u8]) -> Result<(), NoMask> {
        self.frame(out, Opcode::Pong, true, [payload])
    }

    /// Nothing may be written after it. A reason that is too long for a control frame is left out.
    pub fn close(&mut self, out: &mut BytesMut, close: &Close) -> Result<(), NoMask> {
        let code = close.code.map(u16::to_be_bytes);
        let code = code.as_ref().map_or(&[][..], |code| &code[..]);
        let fits = !code.is_empty() && close.reason.len() + code.len() <= CONTROL_MOST;
        let reason = if fits { close.reason.as_bytes() } else { &[] };
        self.frame(out, Opcode::Close, true, [code, reason])
    }

    fn frame<const N: usize>(
        &mut self,
        out: &mut BytesMut,
        opcode: Opcode,
        is_last: bool,
        pieces: [&[u8]; N],
    ) -> Result<(), NoMask> {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let mask = self.masks.as_mut().map(Masks::fresh).transpose()?;
        out.reserve(length + frame::HEAD_MOST);
        frame::put_head(out, Head { opcode, is_last, mask, length: length as u64 });
        let begin = out.len();
        for piece in pieces {
            out.put_slice(piece);
        }
        if let Some(mask) = mask {
            frame::apply(mask, out.get_mut(begin..).unwrap_or_default());
        }
        Ok(())
    }
}

/// Unpredictable masks (section 10.3), drawn many at a time.
#[derive(Debug)]
struct Masks {
    drawn: [u8; 256],
    used: usize,
}

impl Default for Masks {
    fn default() -> Self {
        Self { drawn: [0; 256], used: 256 }
    }
}

impl Masks {
    fn fresh(&mut self) -> Result<Mask, NoMask> {
        if self.used >= self.drawn.len() {
            rand::fill(&mut self.drawn).map_err(|_| NoMask)?;
            self.used = 0;
        }
        let mask = self.drawn.get(self.used..).and_then(|left| left.first_chunk::<4>()).ok_or(NoMask)?;
        self.used += mask.len();
        Ok(*mask)
    }
}
