//! The head of a frame (RFC 6455 section 5.2): a pure parser with three answers, its writer, and the mask.

use super::decoder::Violation;
use super::{CONTROL_MOST, Sender};
use bytes::{BufMut, BytesMut};

pub(super) type Mask = [u8; 4];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    pub(super) is_last: bool,
    pub(super) mask: Option<Mask>,
    /// Bytes of payload.
    pub(super) length: u64,
}

/// Bytes of the longest head.
pub(super) const HEAD_MOST: usize = 14;

const LAST: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Takes a head off the front of `data`; `None` when it is not all there. What is wrong is told at the first byte that
/// shows it.
pub(super) fn parse(data: &mut BytesMut, sender: Sender) -> Result<Option<Head>, Violation> {
    let Some(first) = data.first().copied() else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(Violation::Protocol("a reserved bit is set, and no extension was agreed on"));
    }
    let opcode =
        Opcode::of(first & 15).ok_or(Violation::Protocol("a frame has an opcode that is reserved"))?;
    let is_last = first & LAST != 0;
    if opcode.is_control() && !is_last {
        return Err(Violation::Protocol("a control frame is in fragments"));
    }
    let Some(second) = data.get(1).copied() else { return Ok(None) };
    let is_masked = second & MASKED != 0;
    match (sender, is_masked) {
        (Sender::Client, true) | (Sender::Server, false) => {}
        (Sender::Client, false) => return Err(Violation::Protocol("a client's frame is not masked")),
        (Sender::Server, true) => return Err(Violation::Protocol("a server's frame is masked")),
    }
    let short = second & !MASKED;
    if opcode.is_control() && usize::from(short) > CONTROL_MOST {
        return Err(Violation::Protocol("a control frame is longer than 125 bytes"));
    }
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut at = 2 + extended;
    let length = match (data.get(2..at), extended) {
        (None, _) => return Ok(None),
        (Some(_), 0) => u64::from(short),
        (Some(bytes), _) => long(bytes, extended)?,
    };
    let mut mask = None;
    if is_masked {
        let Some(bytes) = data.get(at..at + 4) else { return Ok(None) };
        mask = Mask::try_from(bytes).ok();
        at += 4;
    }
    let _ = data.split_to(at);
    Ok(Some(Head { opcode, is_last, mask, length }))
}

/// A length of two or eight bytes, which has to be the shortest form that can hold it.
fn long(bytes: &[u8], extended: usize) -> Result<u64, Violation> {
    let length = bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    if length >> 63 != 0 {
        return Err(Violation::Protocol("the length of a frame has its highest bit set"));
    }
    let shortest = if extended == 2 { CONTROL_MOST as u64 + 1 } else { 1 << 16 };
    match length < shortest {
        true => Err(Violation::Protocol("the length of a frame is not in its shortest form")),
        false => Ok(length),
    }
}

pub(super) fn put_head(out: &mut BytesMut, head: Head) {
    out.put_u8(head.opcode.bits() | if head.is_last { LAST } else { 0 });
    let masked = if head.mask.is_some() { MASKED } else { 0 };
    match (u8::try_from(head.length), u16::try_from(head.length)) {
        (Ok(short), _) if usize::from(short) <= CONTROL_MOST => out.put_u8(masked | short),
        (_, Ok(middle)) => {
            out.put_u8(masked | 126);
            out.put_u16(middle);
        }
        _ => {
            out.put_u8(masked | 127);
            out.put_u64(head.length);
        }
    }
    if let Some(mask) = head.mask {
        out.put_slice(&mask);
    }
}

/// Masks or unmasks in place (section 5.3) and gives the mask for the bytes behind these.
pub(super) fn apply(mask: Mask, data: &mut [u8]) -> Mask {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut eights = data.chunks_exact_mut(8);
    for eight in &mut eights {
        if let Ok(bytes) = <[u8; 8]>::try_from(&*eight) {
            eight.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
        }
    }
    let rest = eights.into_remainder();
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
    let mut next = mask;
    next.rotate_left(rest.len() % 4);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &[u8], sender: Sender) -> Result<Option<Head>, Violation> {
        parse(&mut BytesMut::from(bytes), sender)
    }

    #[test]
    fn every_prefix_of_a_head_needs_more_and_what_is_written_is_read() {
        for length in [0, 1, 125, 126, 65_535, 65_536, u64::from(u32::MAX), (1 << 63) - 1] {
            for (mask, sender) in [(None, Sender::Server), (Some([1, 2, 3, 4]), Sender::Client)] {
                let wanted = Head { opcode: Opcode::Binary, is_last: false, mask, length };
                let mut written = BytesMut::new();
                put_head(&mut written, wanted);
                for cut in 0..written.len() {
                    assert_eq!(head(&written[..cut], sender), Ok(None), "{length} cut at {cut}");
                }
                written.put_slice(b"payload");
                assert_eq!(parse(&mut written, sender), Ok(Some(wanted)));
                assert_eq!(&written[..], b"payload");
            }
        }
    }

    #[test]
    fn fr_12_heads_that_the_standard_forbids_are_refused_at_their_first_wrong_byte() {
        for (bytes, part) in [
            (&[0xC1_u8][..], "reserved bit"),
            (&[0xA1], "reserved bit"),
            (&[0x91], "reserved bit"),
            (&[0x83], "opcode"),
            (&[0x8B], "opcode"),
            (&[0x08], "fragments"),
            (&[0x09], "fragments"),
            (&[0x81, 0x80], "masked"),
            (&[0x89, 126], "longer than 125"),
            (&[0x82, 126, 0, 125], "shortest"),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], "shortest"),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "highest bit"),
        ] {
            let Err(Violation::Protocol(what)) = head(bytes, Sender::Server) else { panic!("{bytes:?}") };
            assert!(what.contains(part), "{bytes:?}: {what}");
        }
        assert!(head(&[0x81, 0x05], Sender::Client).is_err(), "a client has to mask");
    }

    #[test]
    fn the_mask_goes_on_where_the_last_piece_ended() {
        let mask = [7, 11, 13, 17];
        let text: Vec<u8> = (0..100).collect();
        let whole: Vec<u8> = text.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        for cut in 0..text.len() {
            let mut pieces = text.clone();
            let (first, second) = pieces.split_at_mut(cut);
            let next = apply(mask, first);
            apply(next, second);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }
}
