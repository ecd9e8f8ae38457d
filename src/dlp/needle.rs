//! What the beginnings of patterns look like in every encoding. Called by `filter` once, when it is built.

use super::filter::SHORTEST;
use super::pattern::Pattern;
use super::trie::DEPTH;
use super::view::{View, nibble, simple};
use std::iter;

/// The needles of a pattern. A literal under four bytes is widened by what may follow it where it does not fill a needle.
pub(super) fn needles(pattern: &Pattern) -> Vec<(View, usize, Vec<u8>)> {
    let literal: Vec<u8> = pattern.literal.expose().iter().take(DEPTH).copied().collect();
    let mut wide = vec![literal.clone()];
    for atom in pattern.atoms.iter().flat_map(|atom| iter::repeat_n(atom, usize::from(atom.min))) {
        if wide.first().is_none_or(|bytes| bytes.len() >= SHORTEST) {
            break;
        }
        wide = wide
            .iter()
            .flat_map(|bytes| atom.set.bytes().map(|byte| [bytes.as_slice(), &[byte]].concat()))
            .collect();
    }
    let plain = encoded(&literal);
    let mut all = Vec::new();
    for bytes in wide {
        for ((view, lead, mut needle), (.., alone)) in encoded(&bytes).into_iter().zip(&plain) {
            needle.truncate(alone.len().max(SHORTEST));
            all.push((view, lead, needle));
        }
    }
    all
}

/// A beginning in every encoding: the view, how many characters of the start stand before the needle, and the needle.
fn encoded(bytes: &[u8]) -> Vec<(View, usize, Vec<u8>)> {
    const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let hex = |digits: &[u8; 16]| -> Vec<u8> {
        let digit = |value: u8| digits.get(usize::from(value)).copied().unwrap_or(b'0');
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    };
    let mut all = vec![
        (View::Plain, 0, bytes.to_vec()),
        (View::Hex, 0, hex(b"0123456789abcdef")),
        (View::Hex, 0, hex(b"0123456789ABCDEF")),
        (View::Utf16Le, 0, bytes.iter().flat_map(|&byte| [byte, 0]).collect()),
        (View::Utf16Be, 0, bytes.iter().flat_map(|&byte| [0, byte]).collect()),
    ];
    for shift in 0..3u8 {
        for alphabet in [STANDARD, URL_SAFE] {
            all.push((View::Base64(shift), usize::from(shift > 0), base64_inside(bytes, shift, alphabet)));
        }
    }
    all
}

/// The base64 characters that the bytes fill whole when they begin at bit `2 * shift` of a character.
fn base64_inside(bytes: &[u8], shift: u8, alphabet: &[u8; 64]) -> Vec<u8> {
    let bits = bytes.iter().fold(0u128, |bits, &byte| bits << 8 | u128::from(byte));
    let (lead, len) = (2 * usize::from(shift), 8 * bytes.len());
    let first = if shift > 0 { 6 - lead } else { 0 };
    (0..)
        .map(|i| first + 6 * i)
        .take_while(|start| start + 6 <= len)
        .map(|start| alphabet.get((bits >> (len - start - 6)) as usize & 63).copied().unwrap_or(b'A'))
        .collect()
}

/// The escapes of a byte, the first three bytes of each.
pub(super) fn escapes(byte: u8) -> Vec<Vec<u8>> {
    let digits = |value: u8| (0..=u8::MAX).filter(move |&digit| nibble(digit) == Some(value));
    let letters = (0..=u8::MAX).filter(|&letter| simple(letter) == Some(byte));
    let mut all: Vec<Vec<u8>> = letters.map(|letter| vec![b'\\', letter]).collect();
    all.push(b"\\u0".to_vec());
    for high in digits(byte >> 4) {
        all.push(vec![b'\\', b'x', high]);
        all.extend(digits(byte & 15).map(|low| vec![b'%', high, low]));
    }
    all
}
