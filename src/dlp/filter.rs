//! The one pass over every byte: where could the beginning of a pattern stand, in any encoding?
//!
//! Every beginning (a needle, 4 bytes and more once encoded) gives two neighbouring three-byte grams, so looking at every
//! second position meets one of them. A gram is hashed into a bitmap that stays in the first-level cache; what passes is
//! looked up exactly and names the view and start to walk. Where escapes or line breaks stand inside a needle the grams
//! are formed from the undone characters, only around such places. It never misses a needle that the buffer holds whole;
//! what it names is only a candidate.

use super::pattern::Pattern;
use super::trie::DEPTH;
use super::view::{Decoder, Step, View, sextet};
use std::collections::BTreeMap;

/// 16 KiB: half of the smallest first-level data cache about.
const BITMAP_BITS: u32 = 17;
const WORDS: usize = 1 << (BITMAP_BITS - 6);
const SPREAD: u32 = 0x9e37_79b1;
/// Characters of the longest needle: eight bytes as hex or UTF-16, and the partial base64 character before one.
pub(super) const NEEDLE: usize = 2 * DEPTH + 1;
/// Bytes of the longest escape.
pub(super) const ESCAPE: usize = 6;

pub(super) struct Filter {
    bitmap: Box<[u64; WORDS]>,
    /// Open addressing by the same hash; a power of two.
    slots: Vec<Slot>,
    entries: Vec<Entry>,
    /// Bytes that occur in needles: an escape of another byte cannot be part of one.
    bytes: [bool; 256],
}

#[derive(Clone, Copy, Default)]
struct Slot {
    gram: u32,
    first: u32,
    /// None: the slot is free.
    count: u32,
}

/// A gram at position `p` speaks for a start at `p - back` read as `view`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub view: View,
    back: u8,
}

impl Filter {
    pub fn build(patterns: &[Pattern]) -> Self {
        let mut grams: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        let mut bytes = [false; 256];
        for pattern in patterns {
            for beginning in beginnings(pattern) {
                for (view, lead, needle) in needles(&beginning) {
                    for &byte in &needle {
                        if let Some(known) = bytes.get_mut(usize::from(byte)) {
                            *known = true;
                        }
                    }
                    let offset = rarest(&needle);
                    for (at, window) in needle.windows(3).enumerate().skip(offset).take(2) {
                        let Some(gram) = gram(window) else { continue };
                        let entry = Entry { view, back: (lead + at) as u8 };
                        let list = grams.entry(gram).or_default();
                        if !list.contains(&entry) {
                            list.push(entry);
                        }
                    }
                }
            }
        }
        let mut filter = Self {
            bitmap: Box::new([0; WORDS]),
            slots: vec![Slot::default(); (grams.len() * 4).next_power_of_two().max(16)],
            entries: Vec::new(),
            bytes,
        };
        for (gram, list) in grams {
            filter.insert(gram, &list);
        }
        filter
    }

    /// Calls `found(view, start)` for every candidate in the buffer.
    pub fn candidates(&self, buf: &[u8], mut found: impl FnMut(View, usize)) {
        let mut at = 0;
        while let Some((place, entries)) = self.next(buf, at) {
            for entry in entries {
                if let Some(start) = place.checked_sub(usize::from(entry.back)) {
                    found(entry.view, start);
                }
            }
            at = place + 2;
        }
        self.broken(buf, found);
    }

    /// The next even position from `at` (even) on where a gram stands.
    fn next(&self, buf: &[u8], mut at: usize) -> Option<(usize, &[Entry])> {
        loop {
            while let Some(block) = buf.get(at..).and_then(|rest| rest.first_chunk::<18>()) {
                if self.any(block) {
                    break;
                }
                at += 16;
            }
            let end = (at + 16).min(buf.len());
            while at < end {
                let Some(window) = buf.get(at..at + 3) else { return None };
                if let Some(entries) = gram(window).and_then(|gram| self.entries(gram)) {
                    return Some((at, entries));
                }
                at += 2;
            }
        }
    }

    /// Whether one of the eight grams at even positions of the block is in the bitmap. This is the loop that decides the speed.
    #[inline(always)]
    fn any(&self, block: &[u8; 18]) -> bool {
        let mut seen = 0;
        let low = u64::from_le_bytes([block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7]]);
        let mid = u64::from_le_bytes([block[6], block[7], block[8], block[9], block[10], block[11], block[12], block[13]]);
        let high = u64::from_le_bytes([block[10], block[11], block[12], block[13], block[14], block[15], block[16], block[17]]);
        seen |= self.bit(low as u32) | self.bit((low >> 16) as u32) | self.bit((low >> 32) as u32);
        seen |= self.bit(mid as u32) | self.bit((mid >> 16) as u32) | self.bit((mid >> 32) as u32);
        seen |= self.bit((high >> 16) as u32) | self.bit((high >> 32) as u32);
        seen & 1 != 0
    }

    #[inline(always)]
    fn bit(&self, gram: u32) -> u64 {
        let hash = spread(gram);
        self.bitmap[(hash >> 6) as usize & (WORDS - 1)] >> (hash & 63)
    }

    fn entries(&self, gram: u32) -> Option<&[Entry]> {
        if self.bit(gram) & 1 == 0 {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = spread(gram) as usize & mask;
        loop {
            let slot = self.slots.get(at)?;
            if slot.count == 0 {
                return None;
            }
            if slot.gram == gram {
                return self.entries.get(slot.first as usize..(slot.first + slot.count) as usize);
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, gram: u32, list: &[Entry]) {
        let hash = spread(gram);
        if let Some(word) = self.bitmap.get_mut((hash >> 6) as usize) {
            *word |= 1 << (hash & 63);
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots.get(at).is_some_and(|slot| slot.count > 0) {
            at = (at + 1) & mask;
        }
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Slot { gram, first: self.entries.len() as u32, count: list.len() as u32 };
        }
        self.entries.extend_from_slice(list);
    }
}

/// Needles that escapes or line breaks stand in.
impl Filter {
    fn broken(&self, buf: &[u8], mut found: impl FnMut(View, usize)) {
        let mut done = 0;
        for at in memchr::memchr3_iter(b'%', b'\\', b'\n', buf) {
            if at >= done && self.breaks(buf, at) {
                done = self.around(buf, at, &mut found);
            }
        }
    }

    /// Whether a needle could go on across what stands here.
    fn breaks(&self, buf: &[u8], at: usize) -> bool {
        let mut decoder = Decoder::new(View::Escaped, buf, at, true);
        let Step::Byte(byte) = decoder.step() else { return false };
        if byte == b'\n' {
            return wrapped(buf, at, decoder.at());
        }
        decoder.at() > at + 1 && self.bytes.get(usize::from(byte)).is_some_and(|known| *known)
    }

    /// Forms grams of undone characters around `at`, as far as escapes follow one another. Returns where it stopped.
    fn around(&self, buf: &[u8], at: usize, found: &mut impl FnMut(View, usize)) -> usize {
        let mut starts = [0u32; 32];
        let mut gram = 0u32;
        let mut left = NEEDLE;
        let mut decoder = Decoder::new(View::Escaped, buf, at.saturating_sub(NEEDLE), true);
        let mut count = 0usize;
        loop {
            let start = decoder.at();
            let Step::Byte(byte) = decoder.step() else { return start };
            if decoder.at() > start + 1 || byte == b'\n' {
                left = NEEDLE;
            }
            if byte == b'\n' || (byte == b'\r' && buf.get(decoder.at()) == Some(&b'\n')) {
                continue;
            }
            if let Some(slot) = starts.get_mut(count % 32) {
                *slot = start as u32;
            }
            count += 1;
            gram = gram >> 8 | u32::from(byte) << 16;
            if count >= 3 {
                for entry in self.entries(gram).unwrap_or_default() {
                    let Some(first) = (count - 3).checked_sub(usize::from(entry.back)) else { continue };
                    if let Some(&start) = starts.get(first % 32) {
                        found(entry.view, start as usize);
                    }
                }
            }
            if start > at {
                left -= 1;
                if left == 0 {
                    return decoder.at();
                }
            }
        }
    }
}

/// Whether a line break stands inside a run of base64.
fn wrapped(buf: &[u8], at: usize, after: usize) -> bool {
    let at = if at > 0 && buf.get(at - 1) == Some(&b'\r') { at - 1 } else { at };
    let alphabet = |byte: &u8| sextet(*byte).is_some();
    at >= NEEDLE
        && buf.get(at - NEEDLE..at).is_some_and(|line| line.iter().rev().all(alphabet))
        && buf.get(after).is_some_and(alphabet)
}

/// The bytes that matches of a pattern begin with: at least four, so that a gram falls on an even position.
fn beginnings(pattern: &Pattern) -> Vec<Vec<u8>> {
    let mut all = vec![pattern.literal.expose().iter().take(DEPTH).copied().collect::<Vec<u8>>()];
    for atom in &pattern.atoms {
        for _ in 0..atom.min {
            if all.first().is_none_or(|beginning| beginning.len() >= 4) {
                return all;
            }
            all = all
                .iter()
                .flat_map(|beginning| atom.set.bytes().map(|byte| [beginning.as_slice(), &[byte]].concat()))
                .collect();
        }
    }
    all
}

/// A beginning in every encoding: the view, how many characters of the start stand before the needle, and the needle.
fn needles(bytes: &[u8]) -> Vec<(View, usize, Vec<u8>)> {
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

fn gram(window: &[u8]) -> Option<u32> {
    let [a, b, c] = window.first_chunk::<3>()?;
    Some(u32::from_le_bytes([*a, *b, *c, 0]))
}

/// Only the low three bytes count.
#[inline(always)]
fn spread(gram: u32) -> u32 {
    (gram << 8).wrapping_mul(SPREAD) >> (32 - BITMAP_BITS)
}

/// Where the two neighbouring grams of a needle begin that are least likely in ordinary traffic.
fn rarest(needle: &[u8]) -> usize {
    (0..needle.len().saturating_sub(3))
        .min_by_key(|&at| needle.iter().skip(at).take(4).map(|&byte| commonness(byte)).sum::<u32>())
        .unwrap_or(0)
}

fn commonness(byte: u8) -> u32 {
    match byte {
        0 | b' ' | b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' => 6,
        b'-' | b'"' | b'/' | b'.' | b'l' | b'c' | b'd' | b'p' | b'm' | b'u' | b'h' => 5,
        b'0'..=b'9' | b'a'..=b'z' | b'_' | b':' | b'=' => 4,
        b'A'..=b'Z' => 2,
        _ => 3,
    }
}
