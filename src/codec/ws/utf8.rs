//! Whether a text that comes in pieces is UTF-8 (RFC 3629), told at the first byte that cannot belong to it.

use std::str::from_utf8;

/// What a character that the last piece cut off has so far: at most three bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Utf8 {
    begun: [u8; 3],
    length: usize,
}

impl Utf8 {
    /// Whether the text may go on like this.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> bool {
        while self.length > 0 {
            let Some((byte, rest)) = piece.split_first() else { return true };
            let [a, b, c] = self.begun;
            let with = match self.length {
                1 => [a, *byte, 0, 0],
                2 => [a, b, *byte, 0],
                _ => [a, b, c, *byte],
            };
            piece = rest;
            match from_utf8(with.get(..=self.length).unwrap_or_default()) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => match self.begun.get_mut(self.length) {
                    Some(place) => {
                        *place = *byte;
                        self.length += 1;
                    }
                    None => return false,
                },
            }
        }
        let Err(error) = from_utf8(piece) else { return true };
        if error.error_len().is_some() {
            return false;
        }
        let rest = piece.get(error.valid_up_to()..).unwrap_or_default();
        match self.begun.get_mut(..rest.len()) {
            Some(begun) => begun.copy_from_slice(rest),
            None => return false,
        }
        self.length = rest.len();
        true
    }

    /// Whether the text may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(pieces: &[&[u8]]) -> bool {
        let mut text = Utf8::default();
        pieces.iter().all(|piece| text.push(piece)) && text.is_whole()
    }

    #[test]
    fn a_text_is_judged_the_same_wherever_it_is_cut() {
        for text in [
            "plain".as_bytes(),
            "κόσμε €uro \u{10FFFF} 🦀🦀".as_bytes(),
            b"over\xC0\xAFlong",
            b"surrogate \xED\xA0\x80 half",
            b"beyond \xF4\x90\x80\x80",
            b"cut \xF0\x9F\xA6",
            b"\xE2\x28\xA1",
            b"\x80",
        ] {
            let whole = from_utf8(text).is_ok();
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(valid(&pieces), whole, "{text:?} cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_told_at_once() {
        assert!(!Utf8::default().push(b"\xF4\x90"), "no character begins like this");
        assert!(Utf8::default().push(b"\xF4\x8F"));
    }
}
