//! Frames to messages (RFC 6455 sections 5 and 7): masks off, fragments joined, texts checked, in pieces as they come.

use super::frame::{self, Mask, Opcode};
use super::utf8::Utf8;
use super::{CONTROL_MOST, Kind, Sender, code};
use bytes::{Bytes, BytesMut};

/// One direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    sender: Sender,
    frame: Option<Open>,
    message: Option<Message>,
    closed: bool,
}

/// A frame whose payload is on its way.
#[derive(Debug)]
struct Open {
    opcode: Opcode,
    is_last: bool,
    mask: Option<Mask>,
    left: u64,
}

#[derive(Debug)]
struct Message {
    kind: Kind,
    utf8: Utf8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message begins.
    Begin(Kind),
    /// The next bytes of it, never none; those of a text are UTF-8 so far, though they may end inside a character.
    Data(Bytes),
    /// Its sender ended a fragment here: what came so far was meant to be sent.
    Fragment,
    /// The message is complete.
    End,
    Ping(Bytes),
    Pong(Bytes),
    /// Nothing follows.
    Close(Close),
}

/// What a close frame says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Close {
    /// `None`: it has no payload.
    pub code: Option<u16>,
    pub reason: String,
}

impl Close {
    pub fn with(code: u16) -> Self {
        Self { code: Some(code), reason: String::new() }
    }
}

/// What a peer must not send. The connection ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{0}")]
    Protocol(&'static str),
    #[error("a text is not UTF-8")]
    NotText,
}

impl Violation {
    /// The code that its sender is told.
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => code::PROTOCOL,
            Self::NotText => code::NOT_TEXT,
        }
    }
}

impl Decoder {
    pub fn new(sender: Sender) -> Self {
        Self { sender, frame: None, message: None, closed: false }
    }

    /// Takes the next event off the front of what was read; `None` when that needs more. After a close nothing comes.
    pub fn next(&mut self, data: &mut BytesMut) -> Result<Option<Event>, Violation> {
        if self.closed {
            return Ok(None);
        }
        let Some(open) = &mut self.frame else {
            let Some(head) = frame::parse(data, self.sender)? else { return Ok(None) };
            let frame::Head { opcode, is_last, mask, length } = head;
            self.frame = Some(Open { opcode, is_last, mask, left: length });
            return match self.begin(opcode)? {
                Some(kind) => Ok(Some(Event::Begin(kind))),
                None => self.next(data),
            };
        };
        if open.opcode.is_control() {
            return self.control(data);
        }
        if open.left == 0 {
            let is_last = open.is_last;
            self.frame = None;
            return Ok(Some(if is_last { self.end()? } else { Event::Fragment }));
        }
        let here = usize::try_from(open.left).unwrap_or(usize::MAX).min(data.len());
        if here == 0 {
            return Ok(None);
        }
        let mut piece = data.split_to(here);
        open.left -= here as u64;
        if let Some(mask) = &mut open.mask {
            *mask = frame::apply(*mask, &mut piece);
        }
        if let Some(Message { kind: Kind::Text, utf8 }) = &mut self.message
            && !utf8.push(&piece)
        {
            return Err(Violation::NotText);
        }
        Ok(Some(Event::Data(piece.freeze())))
    }

    /// Whether a frame, or the head of one, has begun and is not all there; `data` is what was read and not yet taken.
    pub fn is_inside_a_frame(&self, data: &BytesMut) -> bool {
        self.frame.is_some() || !data.is_empty()
    }

    fn begin(&mut self, opcode: Opcode) -> Result<Option<Kind>, Violation> {
        let kind = match (opcode, self.message.is_some()) {
            (Opcode::Text, false) => Kind::Text,
            (Opcode::Binary, false) => Kind::Binary,
            (Opcode::Text | Opcode::Binary, true) => {
                return Err(Violation::Protocol("a message begins inside another"));
            }
            (Opcode::Continuation, false) => {
                return Err(Violation::Protocol("a message goes on that has not begun"));
            }
            (Opcode::Continuation, true) | (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {
                return Ok(None);
            }
        };
        self.message = Some(Message { kind, utf8: Utf8::default() });
        Ok(Some(kind))
    }

    fn end(&mut self) -> Result<Event, Violation> {
        match self.message.take() {
            Some(Message { kind: Kind::Text, utf8 }) if !utf8.is_whole() => Err(Violation::NotText),
            _ => Ok(Event::End),
        }
    }

    fn control(&mut self, data: &mut BytesMut) -> Result<Option<Event>, Violation> {
        let Some(open) = &self.frame else { return Ok(None) };
        let length = usize::try_from(open.left).unwrap_or(CONTROL_MOST);
        if data.len() < length {
            return Ok(None);
        }
        let (opcode, mask) = (open.opcode, open.mask);
        let mut payload = data.split_to(length);
        if let Some(mask) = mask {
            frame::apply(mask, &mut payload);
        }
        self.frame = None;
        match opcode {
            Opcode::Ping => Ok(Some(Event::Ping(payload.freeze()))),
            Opcode::Pong => Ok(Some(Event::Pong(payload.freeze()))),
            _ => {
                self.closed = true;
                Ok(Some(Event::Close(close(&payload)?)))
            }
        }
    }
}

/// Section 5.5.1; the codes are those that may stand on the wire (section 7.4.2, and the registry that it founded).
fn close(payload: &[u8]) -> Result<Close, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload.is_empty() {
            true => Ok(Close::default()),
            false => Err(Violation::Protocol("a close frame has half a code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("a close frame has a code that may not be sent"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::NotText)?;
    Ok(Close { code: Some(code), reason: reason.to_owned() })
}
