//! HTTP/2 by hand (RFC 9113): frames as they are given, heads as literals that repair nothing, and what came back.

use super::bed::Bed;
use super::wire::{End, Tls, Wire};
use super::world::PUB1;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ALTSVC: u8 = 10;
pub const ORIGIN: u8 = 12;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code.to_be_bytes())
}

pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, more.to_be_bytes())
}

pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// An integer behind a prefix of `bits` whose other bits are `first` (RFC 7541, section 5.1).
pub fn integer(first: u8, bits: u32, number: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if number < most {
        return vec![first | number as u8];
    }
    let (mut out, mut left) = (vec![first | most as u8], number - most);
    while left >= 128 {
        out.push(left as u8 | 128);
        left /= 128;
    }
    out.push(left as u8);
    out
}

/// A literal field that no table keeps; `first` 0x40: one that the table keeps.
pub fn literal(first: u8, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let text = |text: &[u8]| [&integer(0, 7, text.len())[..], text].concat();
    [vec![first], text(name.as_ref()), text(value.as_ref())].concat()
}

pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(0, name, value)).collect()
}

/// A whole head of these fields.
pub fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, block(fields))
}

/// A request to `api.good.test` with no body, and more fields behind it.
pub fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let first = [(":method", method), (":scheme", "https"), (":authority", "api.good.test"), (":path", path)];
    first.into_iter().chain(more.iter().copied()).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// What a setting of ours was set to.
    pub fn setting(&self, id: u16) -> Option<u32> {
        let found = self.payload.chunks(6).find(|setting| setting[..2] == id.to_be_bytes());
        found.map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()))
    }
}

/// How a stream, or its connection, was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// A client of the gate that has said the preface and a SETTINGS of its own.
pub struct Raw {
    wire: Wire,
    pub settings: Frame,
}

impl Raw {
    /// Transparent HTTPS with ALPN h2 to `api.good.test`.
    pub fn connect(bed: &Bed) -> Self {
        Self::with(bed, &[])
    }

    /// The same, with these settings. The table is switched off, so that every status is a literal.
    pub fn with(bed: &Bed, settings: &[(u16, u32)]) -> Self {
        let mut wire = Self::wire(bed);
        let all: Vec<u8> =
            [&[(1, 0)], settings].concat().into_iter().flat_map(|(id, value)| setting(id, value)).collect();
        wire.send([PREFACE, &frame(SETTINGS, 0, 0, all)].concat());
        let settings = read(&mut wire).expect("the gate's SETTINGS");
        assert_eq!(settings.kind, SETTINGS);
        wire.send(frame(SETTINGS, 1, 0, []));
        Self { wire, settings }
    }

    /// The TLS connection alone.
    pub fn wire(bed: &Bed) -> Wire {
        let tls = Tls { alpn: vec!["h2"], ..bed.tls("api.good.test") };
        let wire = bed.tcp(PUB1, 443).secure(&tls).unwrap();
        assert_eq!(wire.alpn().as_deref(), Some("h2"));
        wire
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.wire.send(bytes);
        self
    }

    pub fn next(&mut self) -> Option<Frame> {
        read(&mut self.wire)
    }

    /// The first word on `stream`, or on the connection.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            match self.next() {
                None => return Outcome::Closed,
                Some(frame) if frame.kind == GOAWAY && frame.code() != 0 => {
                    return Outcome::GoAway(frame.code());
                }
                Some(frame) if frame.stream != stream || stream == 0 => {}
                Some(frame) if frame.kind == RST_STREAM => return Outcome::Reset(frame.code()),
                Some(frame) if frame.kind == HEADERS => return Outcome::Status(status(&frame.payload)),
                Some(_) => {}
            }
        }
    }

    /// The DATA of a stream up to its end; nothing when it was cut.
    pub fn body(&mut self, stream: u32) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let frame = self.next()?;
            match frame.kind {
                GOAWAY => return None,
                RST_STREAM if frame.stream == stream => return None,
                DATA if frame.stream == stream => body.extend(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0
            {
                return Some(body);
            }
        }
    }

    /// The code of a GOAWAY that names an error, or how the connection ended without one.
    pub fn goaway(&mut self) -> Result<u32, End> {
        match self.outcome(0) {
            Outcome::GoAway(code) => Ok(code),
            _ => Err(self.wire.rest().1),
        }
    }

    /// Whether the connection still answers.
    pub fn is_alive(&mut self) -> bool {
        self.send(frame(PING, 0, 0, b"alive?!!"));
        std::iter::from_fn(|| self.next()).any(|frame| frame.kind == PING && frame.payload == b"alive?!!")
    }
}

fn read(wire: &mut Wire) -> Option<Frame> {
    let head = wire.exactly(9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
    Some(Frame { kind: head[3], flags: head[4], stream, payload: wire.exactly(length)? })
}

/// `:status`, which is a response's first field: static, or a literal in digits of either coding.
fn status(block: &[u8]) -> u16 {
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
    match &block[start..] {
        [known @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(known - 0x88)],
        [0x08 | 0x48, 3, digits @ ..] => std::str::from_utf8(&digits[..3]).unwrap().parse().unwrap(),
        [0x08 | 0x48, coded @ 0x80..=0xff, digits @ ..] => {
            let bits: String =
                digits[..usize::from(coded & 0x7f)].iter().map(|byte| format!("{byte:08b}")).collect();
            let (mut at, mut number) = (0, 0);
            for _ in 0..3 {
                // 0 to 2 have five bits, the other digits six (RFC 7541, appendix B).
                let five = u16::from_str_radix(&bits[at..at + 5], 2).unwrap();
                let (digit, length) = match five {
                    0..=2 => (five, 5),
                    _ => (u16::from_str_radix(&bits[at..at + 6], 2).unwrap() - 0x19 + 3, 6),
                };
                (number, at) = (number * 10 + digit, at + length);
            }
            number
        }
        other => panic!("no status: {other:x?}"),
    }
}
