//! Reading a place of a message as if it were encoded: one decoder that steps byte by byte over any view, bounded and
//! restartable anywhere. Knows nothing of patterns. Called by `engine` (walking), `filter` (escapes) and `pattern`.

use super::Encoding;

/// How the bytes from a start on are read. `Base64(n)`: the first decoded byte begins at bit `2 n` of the first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum View {
    Plain,
    Escaped,
    Base64(u8),
    Hex,
    Utf16Le,
    Utf16Be,
}

impl View {
    pub const ALL: [Self; 8] = [
        Self::Plain,
        Self::Escaped,
        Self::Base64(0),
        Self::Base64(1),
        Self::Base64(2),
        Self::Hex,
        Self::Utf16Le,
        Self::Utf16Be,
    ];

    pub const fn encoding(self) -> Encoding {
        match self {
            Self::Plain => Encoding::Plain,
            Self::Escaped => Encoding::Escaped,
            Self::Base64(_) => Encoding::Base64,
            Self::Hex => Encoding::Hex,
            Self::Utf16Le | Self::Utf16Be => Encoding::Utf16,
        }
    }

    /// The decoded byte just before `start`, where one can be told.
    pub fn before(self, buf: &[u8], start: usize) -> Option<u8> {
        match self {
            Self::Plain | Self::Escaped => behind(buf, start).map(|(byte, _)| byte),
            Self::Base64(shift) => {
                let (last, at) = behind(buf, start)?;
                let last = u32::from(sextet(last)?);
                let (high, low) = if shift == 0 {
                    (u32::from(sextet(behind(buf, at)?.0)?), last)
                } else {
                    match Decoder::new(Self::Escaped, buf, start, true).step() {
                        Step::Byte(byte) => (last, u32::from(sextet(byte)?)),
                        Step::Over | Step::More => return None,
                    }
                };
                let unread = if shift == 0 { 0 } else { 6 - 2 * u32::from(shift) };
                Some(((high << 6 | low) >> unread) as u8)
            }
            Self::Hex => {
                let (low, at) = behind(buf, start)?;
                Some(nibble(behind(buf, at)?.0)? << 4 | nibble(low)?)
            }
            Self::Utf16Le => buf.get(start.checked_sub(2)?).copied(),
            Self::Utf16Be => buf.get(start.checked_sub(1)?).copied(),
        }
    }
}

/// How many bytes before a start [`View::before`] may look at: two characters of six bytes.
pub(super) const CONTEXT: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Byte(u8),
    /// Nothing more in this view, whatever follows.
    Over,
    /// The buffer ran out and the message has not ended.
    More,
}

#[derive(Clone, Copy)]
pub(super) struct Decoder<'a> {
    buf: &'a [u8],
    at: usize,
    /// The message ends where the buffer ends.
    end: bool,
    view: View,
    bits: u32,
    count: u8,
    escapes: bool,
    /// One past the last byte that a step had to see to refuse an escape or a character.
    looked: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(view: View, buf: &'a [u8], start: usize, end: bool) -> Self {
        Self { buf, at: start, end, view, bits: 0, count: 0, escapes: false, looked: 0 }
    }

    /// Where reading stands; one past the end of the buffer when the end of the message has been seen.
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many bytes must have come for all steps so far to be what they were: more than were read where the last
    /// one ends before what is no escape after all, one past the buffer where the end of the message has been seen.
    pub fn decided(&self) -> usize {
        self.at.max(self.looked)
    }

    /// Whether a plain reading has passed what may be an escape.
    pub fn saw_escape(&self) -> bool {
        self.escapes
    }

    #[inline]
    pub fn step(&mut self) -> Step {
        match self.view {
            View::Plain => match self.buf.get(self.at) {
                Some(&byte) => {
                    self.escapes |= byte == b'%' || byte == b'\\';
                    self.at += 1;
                    Step::Byte(byte)
                }
                None => self.dry(),
            },
            View::Escaped => self.character(),
            View::Base64(shift) => self.base64(shift),
            View::Hex => self.hex(),
            View::Utf16Le => self.utf16(false),
            View::Utf16Be => self.utf16(true),
        }
    }

    fn dry(&mut self) -> Step {
        if self.end {
            self.at = self.buf.len() + 1;
            Step::Over
        } else {
            Step::More
        }
    }

    /// The next character with escapes undone; what is no valid escape stands for itself.
    #[inline]
    fn character(&mut self) -> Step {
        let Some(&byte) = self.buf.get(self.at) else { return self.dry() };
        let (value, width) = match byte {
            b'%' => match self.digits(1, 2) {
                Digits::Value(value) => (value, 3),
                Digits::More => return Step::More,
                Digits::Invalid(at) => self.refuse(at),
            },
            b'\\' => match self.buf.get(self.at + 1) {
                None if !self.end => return Step::More,
                Some(b'u') => match self.digits(2, 4) {
                    Digits::Value(value) => (value, 6),
                    Digits::More => return Step::More,
                    Digits::Invalid(at) => self.refuse(at),
                },
                Some(b'x') => match self.digits(2, 2) {
                    Digits::Value(value) => (value, 4),
                    Digits::More => return Step::More,
                    Digits::Invalid(at) => self.refuse(at),
                },
                Some(&letter) => match simple(letter) {
                    Some(value) => (value, 2),
                    None => self.refuse(self.at + 1),
                },
                None => self.refuse(self.at + 1),
            },
            _ => (byte, 1),
        };
        self.at += width;
        Step::Byte(value)
    }

    /// No escape after all, as the byte at `at` (or the end of the message there) shows: the character stands for itself.
    fn refuse(&mut self, at: usize) -> (u8, usize) {
        self.looked = self.looked.max(at + 1);
        (self.buf.get(self.at).copied().unwrap_or_default(), 1)
    }

    /// `len` hex digits from `skip` on; what does not fit a byte is 255, which no needle holds.
    fn digits(&self, skip: usize, len: usize) -> Digits {
        let mut value = 0u32;
        for i in 0..len {
            match self.buf.get(self.at + skip + i).map(|&byte| nibble(byte)) {
                Some(Some(digit)) => value = value << 4 | u32::from(digit),
                Some(None) => return Digits::Invalid(self.at + skip + i),
                None if self.end => return Digits::Invalid(self.at + skip + i),
                None => return Digits::More,
            }
        }
        Digits::Value(u8::try_from(value).unwrap_or(u8::MAX))
    }

    fn base64(&mut self, shift: u8) -> Step {
        let first = self.bits == 0 && self.count == 0;
        let mut lead = if first { 2 * shift } else { 0 };
        while self.count < 8 {
            let mut step = self.character();
            // One line break at most: a run of empty lines must not stretch a match without bound.
            if step == Step::Byte(b'\r') {
                step = self.character();
            }
            if step == Step::Byte(b'\n') {
                step = self.character();
            }
            let byte = match step {
                Step::Byte(byte) => byte,
                other => return other,
            };
            let Some(value) = sextet(byte) else { return Step::Over };
            self.bits = self.bits << (6 - lead) | u32::from(value & (63 >> lead));
            self.count += 6 - lead;
            lead = 0;
        }
        self.count -= 8;
        let byte = (self.bits >> self.count) as u8;
        // A marker above the unread bits tells an aligned reading apart from an unstarted one.
        self.bits = (self.bits & ((1 << self.count) - 1)) | 1 << 16;
        Step::Byte(byte)
    }

    fn hex(&mut self) -> Step {
        let mut value = 0;
        for _ in 0..2 {
            match self.character() {
                Step::Byte(byte) => match nibble(byte) {
                    Some(digit) => value = value << 4 | digit,
                    None => return Step::Over,
                },
                other => return other,
            }
        }
        Step::Byte(value)
    }

    fn utf16(&mut self, big: bool) -> Step {
        let (Some(&first), second) = (self.buf.get(self.at), self.buf.get(self.at + 1)) else {
            return self.dry();
        };
        if big && first != 0 {
            self.looked = self.looked.max(self.at + 1);
            return Step::Over;
        }
        let Some(&second) = second else { return self.dry() };
        self.at += 2;
        match (big, first, second) {
            (true, _, byte) => Step::Byte(byte),
            (false, byte, 0) => Step::Byte(byte),
            (false, ..) => Step::Over,
        }
    }
}

enum Digits {
    Value(u8),
    More,
    /// The byte there, or the end of the message there, is no digit.
    Invalid(usize),
}

/// The character that ends just before `at`, with an escape undone, and where it begins.
fn behind(buf: &[u8], at: usize) -> Option<(u8, usize)> {
    for width in [6, 4, 3, 2] {
        let Some(start) = at.checked_sub(width) else { continue };
        if matches!(buf.get(start), Some(b'%' | b'\\')) {
            let mut decoder = Decoder::new(View::Escaped, buf, start, true);
            if let Step::Byte(byte) = decoder.step()
                && decoder.at() == at
            {
                return Some((byte, start));
            }
        }
    }
    let start = at.checked_sub(1)?;
    Some((*buf.get(start)?, start))
}

/// What a backslash and one letter mean.
pub(super) fn simple(letter: u8) -> Option<u8> {
    Some(match letter {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'"' | b'\'' | b'/' | b'\\' => letter,
        _ => return None,
    })
}

pub(super) const fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The value of a base64 character of either alphabet.
pub(super) const fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn read(view: View, text: &[u8]) -> Vec<u8> {
        let mut decoder = Decoder::new(view, text, 0, true);
        std::iter::from_fn(|| match decoder.step() {
            Step::Byte(byte) => Some(byte),
            Step::Over | Step::More => None,
        })
        .collect()
    }

    #[test]
    fn base64_is_read_at_every_alignment() {
        let value = b"some value of odd length!";
        for lead in 0..3 {
            let text = base64::prelude::BASE64_STANDARD.encode([&b"xyz"[..lead], value].concat());
            // The value's first byte begins at bit 8 * lead: character 8 * lead / 6, bit 8 * lead % 6.
            let got = read(View::Base64((8 * lead % 6 / 2) as u8), &text.as_bytes()[8 * lead / 6..]);
            assert_eq!(got, value, "lead {lead}");
        }
    }

    #[test]
    fn a_zero_first_sextet_does_not_lose_the_alignment() {
        let text = base64::prelude::BASE64_STANDARD.encode(b"\x00\x00\x00\x00\x00\x00secret");
        assert_eq!(read(View::Base64(0), text.as_bytes()), b"\x00\x00\x00\x00\x00\x00secret");
        assert_eq!(read(View::Base64(1), b"AAAA")[..], [0, 0]);
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_stands_for_itself() {
        assert_eq!(read(View::Escaped, br"%41\u0042\x43\/%4G%"), br"ABC/%4G%");
        assert_eq!(read(View::Hex, b"4142%34%33zz"), b"ABC");
        assert_eq!(read(View::Utf16Le, b"A\0B\0"), b"AB");
        assert_eq!(read(View::Utf16Be, b"\0A\0B"), b"AB");
        assert_eq!(read(View::Base64(0), b"QU\r\nJD%2B%2f"), b"ABC\xfb");
    }

    #[test]
    fn a_cut_escape_asks_for_more_until_the_message_ends() {
        for cut in [&b"%"[..], b"%4", b"\\", b"\\u00"] {
            assert_eq!(Decoder::new(View::Escaped, cut, 0, false).step(), Step::More);
            assert_eq!(Decoder::new(View::Escaped, cut, 0, true).step(), Step::Byte(cut[0]));
        }
    }

    #[test]
    fn the_byte_before_a_start_is_read_in_the_same_view() {
        assert_eq!(View::Plain.before(b"%22A", 3), Some(b'"'));
        assert_eq!(View::Plain.before(b"A", 0), None);
        assert_eq!(View::Hex.before(b"4142", 2), Some(b'A'));
        for lead in 1..4 {
            let text = base64::prelude::BASE64_STANDARD.encode([&b"xyz"[..lead], b"value"].concat());
            let view = View::Base64((8 * lead % 6 / 2) as u8);
            assert_eq!(view.before(text.as_bytes(), 8 * lead / 6), Some(b"xyz"[lead - 1]), "lead {lead}");
        }
    }
}
