//! Bytes of a connection as frames (RFC 9113 section 4.1), whatever the pieces in which they come. Pure; holds no more
//! than a frame header.

/// Bytes of a frame header.
const HEADER: usize = 9;

/// Frame types that are told apart (RFC 9113 section 6).
pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) length: usize,
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    fn parse([l0, l1, l2, kind, flags, s0, s1, s2, s3]: [u8; HEADER]) -> Self {
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            // The highest bit means nothing (section 4.1).
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }

    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// A SETTINGS that sets something.
    pub(super) fn is_settings(&self) -> bool {
        self.kind == SETTINGS && self.flags & ACK == 0
    }

    /// Frame types of one size only (RFC 9113 sections 6.3 to 6.9).
    pub(super) fn has_a_right_size(&self) -> bool {
        match self.kind {
            PRIORITY => self.length == 5,
            RST_STREAM | WINDOW_UPDATE => self.length == 4,
            SETTINGS if self.is_settings() => self.length.is_multiple_of(SETTING),
            SETTINGS => self.length == 0,
            PING => self.length == 8,
            GOAWAY => self.length >= 8,
            _ => true,
        }
    }

    pub(super) fn ends_block(&self) -> bool {
        self.flags & END_HEADERS != 0
    }

    /// The part of this frame's payload that is header block (section 6.2); `None` where its padding cannot be.
    pub(super) fn block_of<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        if self.kind != HEADERS {
            return Some(payload);
        }
        let (padding, mut rest) = if self.flags & PADDED == 0 {
            (0, payload)
        } else {
            let (padding, rest) = payload.split_first()?;
            (usize::from(*padding), rest)
        };
        if self.flags & WITH_PRIORITY != 0 {
            rest = rest.get(5..)?;
        }
        rest.get(..rest.len().checked_sub(padding)?)
    }
}

/// Bytes of a setting: its name and its value (RFC 9113 section 6.5.1).
const SETTING: usize = 6;
const INITIAL_WINDOW_SIZE: u64 = 0x4;
const MOST_WINDOW: u64 = 0x7fff_ffff;

/// The payload of a SETTINGS, as it comes.
#[derive(Debug, Default)]
pub(super) struct Settings {
    setting: u64,
    have: usize,
}

impl Settings {
    /// Whether no window in it is larger than windows can be (section 6.5.2), which is an error of its own kind. All else
    /// in it is the crate's to check.
    pub(super) fn read(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| {
            self.setting = self.setting << 8 | u64::from(*byte);
            self.have += 1;
            if self.have < SETTING {
                return true;
            }
            let Self { setting, .. } = std::mem::take(self);
            setting >> 32 != INITIAL_WINDOW_SIZE || setting & 0xffff_ffff <= MOST_WINDOW
        })
    }
}

/// A frame, or a part of one, that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Head(FrameHead),
    /// Bytes of the payload of the last head; `last` with the end of it. An empty payload has no piece.
    Payload {
        bytes: &'a [u8],
        last: bool,
    },
}

/// Where in the stream of frames a connection is.
#[derive(Debug, Default)]
pub(super) struct Frames {
    partial: [u8; HEADER],
    /// Bytes of `partial` that have come.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
}

impl Frames {
    /// Takes the next piece off the front of `bytes`; `None` when they are used up.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        if self.left > 0 {
            if bytes.is_empty() {
                return None;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            *bytes = rest;
            self.left -= payload.len();
            return Some(Piece::Payload { bytes: payload, last: self.left == 0 });
        }
        let (more, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
        *bytes = rest;
        self.partial.iter_mut().skip(self.have).zip(more).for_each(|(to, from)| *to = *from);
        self.have += more.len();
        if self.have < HEADER {
            return None;
        }
        self.have = 0;
        let head = FrameHead::parse(self.partial);
        self.left = head.length;
        Some(Piece::Head(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads and payloads of bytes that come in pieces of this size.
    fn split(whole: &[u8], size: usize) -> (Vec<FrameHead>, Vec<u8>) {
        let (mut frames, mut heads, mut payload) = (Frames::default(), Vec::new(), Vec::new());
        for mut piece in whole.chunks(size) {
            while let Some(next) = frames.next(&mut piece) {
                match next {
                    Piece::Head(head) => heads.push(head),
                    Piece::Payload { bytes, .. } => payload.extend_from_slice(bytes),
                }
            }
        }
        (heads, payload)
    }

    #[test]
    fn frames_are_the_same_however_their_bytes_come() {
        let whole = [
            &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0][..],
            &[0, 0, 3, DATA, 1, 0x80, 0, 0, 5, b'a', b'b', b'c'],
            &[0, 0, 1, 0xee, 0, 0, 0, 0, 0, 9],
        ]
        .concat();
        let (heads, payload) = split(&whole, whole.len());
        assert_eq!(heads.iter().map(|head| head.kind).collect::<Vec<_>>(), [SETTINGS, DATA, 0xee]);
        assert_eq!((heads[1].length, heads[1].stream, heads[1].ends_stream()), (3, 5, true));
        assert_eq!(payload, b"abc\x09");
        for size in 1..whole.len() {
            assert_eq!(split(&whole, size), (heads.clone(), payload.clone()), "pieces of {size}");
        }
    }

    #[test]
    fn padding_and_priority_are_no_part_of_a_header_block() {
        let head = |flags| FrameHead { kind: HEADERS, flags, ..FrameHead::default() };
        assert_eq!(head(0).block_of(b"abc"), Some(&b"abc"[..]));
        assert_eq!(head(PADDED).block_of(b"\x02abcPP"), Some(&b"abc"[..]));
        assert_eq!(head(PADDED | WITH_PRIORITY).block_of(b"\x0112345abcP"), Some(&b"abc"[..]));
        assert_eq!(head(PADDED).block_of(b"\x03ab"), None);
        assert_eq!(head(WITH_PRIORITY).block_of(b"1234"), None);
        assert_eq!(head(PADDED).block_of(b""), None);
    }

    #[test]
    fn ht_09_a_frame_of_one_size_has_no_other() {
        let right = |kind, flags, length| FrameHead { kind, flags, length, stream: 0 }.has_a_right_size();
        let sizes: [(u8, u8, &[usize]); 7] = [
            (PRIORITY, 0, &[5]),
            (RST_STREAM, 0, &[4]),
            (SETTINGS, 0, &[0, 6, 12]),
            (SETTINGS, ACK, &[0]),
            (PING, ACK, &[8]),
            (GOAWAY, 0, &[8, 9, 10, 11, 12, 13]),
            (WINDOW_UPDATE, 0, &[4]),
        ];
        for (kind, flags, sizes) in sizes {
            for length in 0..14 {
                assert_eq!(right(kind, flags, length), sizes.contains(&length), "{kind} {flags} {length}");
            }
        }
        assert!(right(DATA, 0, 3) && right(0xee, 0, 7));
    }

    #[test]
    fn ht_09_a_window_too_large_is_found_in_any_piece() {
        let setting = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let good = [setting(4, 0x7fff_ffff), setting(3, u32::MAX), setting(0x104, u32::MAX)].concat();
        let bad = [good.clone(), setting(4, 1 << 31)].concat();
        for size in 1..=bad.len() {
            let read = |whole: &[u8]| {
                let mut settings = Settings::default();
                whole.chunks(size).all(|piece| settings.read(piece))
            };
            assert!(read(&good) && !read(&bad), "pieces of {size}");
        }
    }
}
