//! The one pass over every byte: where could the beginning of a pattern stand, in any encoding?
//!
//! Every beginning (a needle, 4 bytes and more once encoded) gives two neighbouring three-byte grams, so looking at every
//! second position meets one of them. Two bytes choose a word and the third a bit of it; what passes is looked up exactly
//! and names the view and start to walk. Where escapes or line breaks stand inside a needle the grams
//! are formed from the undone characters, only around such places. It never misses a needle that the buffer holds whole;
//! what it names is only a candidate.

use super::pattern::Pattern;
use super::trie::DEPTH;
use super::view::{Decoder, Step, View, sextet};
use std::collections::BTreeMap;
use std::iter;

/// A needle this long has a gram on an even position wherever it stands.
const SHORTEST: usize = 4;
/// Characters of the longest needle: eight bytes as hex or UTF-16, and the partial base64 character before one.
pub(super) const NEEDLE: usize = 2 * DEPTH + 1;
/// Base64 characters before a line break for which it is taken to be inside of base64.
const RUN: usize = 8;
/// Bytes of the longest escape.
pub(super) const ESCAPE: usize = 6;

pub(super) struct Filter {
    /// By the first two bytes of a gram: the third bytes, folded to 32, that make it a gram of ours.
    table: Box<[u32; 1 << 16]>,
    /// Exact, with open addressing; a power of two.
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
struct Entry {
    view: View,
    back: u8,
    /// The needle's byte beside the gram, behind it or in front of it: spares most walks where the bytes are as they stand.
    beside: u8,
    behind: bool,
}

impl Filter {
    pub fn build(patterns: &[Pattern]) -> Self {
        let mut all: Vec<(View, usize, Vec<u8>)> = patterns.iter().flat_map(pattern_needles).collect();
        // Those with the least choice first, so that others can share their grams.
        all.sort_by(|a, b| (a.2.len(), a).cmp(&(b.2.len(), b)));
        all.dedup();
        let mut bytes = [false; 256];
        let mut grams: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        for (view, lead, needle) in &all {
            for &byte in needle {
                if let Some(known) = bytes.get_mut(usize::from(byte)) {
                    *known = true;
                }
            }
            let at = best(needle, &grams);
            let Some([a, b, c, d]) = needle.get(at..).and_then(|rest| rest.first_chunk()) else { continue };
            for (i, gram, beside) in [(0, [*a, *b, *c, 0], *d), (1, [*b, *c, *d, 0], *a)] {
                let list = grams.entry(u32::from_le_bytes(gram)).or_default();
                let entry = Entry { view: *view, back: (lead + at + i) as u8, beside, behind: i == 0 };
                if !list.contains(&entry) {
                    list.push(entry);
                }
            }
        }
        let mut filter = Self {
            table: Box::new([0; 1 << 16]),
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
        while let Some(block) = buf.get(at..).and_then(|rest| rest.first_chunk::<18>()) {
            if self.any(block) {
                let mut places = self.places(block);
                while places != 0 {
                    self.exact(buf, at + 2 * places.trailing_zeros() as usize, &mut found);
                    places &= places - 1;
                }
            }
            at += 16;
        }
        for place in (at..buf.len()).step_by(2) {
            self.exact(buf, place, &mut found);
        }
        self.broken(buf, found);
    }

    /// Whether one of the eight grams at even positions of the block may be ours. This is the loop that decides the speed.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "constant places of an array; no check is left")]
    fn any(&self, block: &[u8; 18]) -> bool {
        let mut seen = 0;
        for at in [0, 2, 4, 6, 8, 10, 12, 14] {
            seen |= self.bit(block[at], block[at + 1], block[at + 2]);
        }
        seen != 0
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the tables have a place for every value of the index")]
    fn bit(&self, a: u8, b: u8, c: u8) -> u32 {
        self.table[usize::from(u16::from_le_bytes([a, b]))] & THIRD[usize::from(c)]
    }

    /// Which of the eight they are. Without branches: they could not be predicted.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "constant places of an array; no check is left")]
    fn places(&self, block: &[u8; 18]) -> u32 {
        let mut places = 0;
        for i in 0..8 {
            places |= u32::from(self.bit(block[2 * i], block[2 * i + 1], block[2 * i + 2]) != 0) << i;
        }
        places
    }

    /// Looks one position up exactly.
    fn exact(&self, buf: &[u8], place: usize, found: &mut impl FnMut(View, usize)) {
        let Some([a, b, c]) = buf.get(place..).and_then(|rest| rest.first_chunk()) else { return };
        if self.bit(*a, *b, *c) == 0 {
            return;
        }
        for entry in self.entries(u32::from_le_bytes([*a, *b, *c, 0])).unwrap_or_default() {
            let beside = if entry.behind { place + 3 } else { place.wrapping_sub(1) };
            if let Some(start) = place.checked_sub(usize::from(entry.back))
                && buf.get(beside) == Some(&entry.beside)
            {
                found(entry.view, start);
            }
        }
    }

    fn known(&self, gram: u32) -> bool {
        let [a, b, c, _] = gram.to_le_bytes();
        self.bit(a, b, c) != 0
    }

    fn entries(&self, gram: u32) -> Option<&[Entry]> {
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
        let [a, b, c, _] = gram.to_le_bytes();
        if let (Some(word), Some(bit)) =
            (self.table.get_mut(usize::from(u16::from_le_bytes([a, b]))), THIRD.get(usize::from(c)))
        {
            *word |= bit;
        }
        let mask = self.slots.len() - 1;
        let mut at = spread(gram) as usize & mask;
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
            if at < done {
                continue;
            }
            if buf.get(at) == Some(&b'\n') {
                if wrapped(buf, at, at + 1) {
                    self.across(buf, at, &mut found);
                }
            } else if self.breaks(buf, at) {
                done = self.around(buf, at, &mut found);
            }
        }
    }

    /// Whether a needle could go on across the escape that may stand here.
    fn breaks(&self, buf: &[u8], at: usize) -> bool {
        let mut decoder = Decoder::new(View::Escaped, buf, at, true);
        let Step::Byte(byte) = decoder.step() else { return false };
        let width = decoder.at() - at;
        width > 1
            && (self.bytes.get(usize::from(byte)) == Some(&true)
                || (byte == b'\n' && wrapped(buf, at, at + width)))
    }

    /// Forms grams across a line break at `at`, of plain characters only; escapes near it have their own turn.
    fn across(&self, buf: &[u8], at: usize, found: &mut impl FnMut(View, usize)) {
        let end = line_end(buf, at);
        let mut joined = [0; 2 * NEEDLE];
        let near = end.saturating_sub(NEEDLE);
        let text = buf.iter().take(end).skip(near).chain(buf.iter().skip(at + 1));
        joined.iter_mut().zip(text).for_each(|(place, byte)| *place = *byte);
        for (i, window) in joined.windows(3).enumerate() {
            let Some([a, b, c]) = window.first_chunk() else { return };
            if self.bit(*a, *b, *c) == 0 {
                continue;
            }
            for entry in self.entries(u32::from_le_bytes([*a, *b, *c, 0])).unwrap_or_default() {
                if let Some(first) = i.checked_sub(usize::from(entry.back)).filter(|first| near + first < end)
                {
                    found(entry.view, near + first);
                }
            }
        }
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
            let width = decoder.at() - start;
            if matches!(byte, b'\r' | b'\n') {
                continue;
            }
            if width > 1 && self.bytes.get(usize::from(byte)) == Some(&true) {
                left = NEEDLE;
            }
            if let Some(slot) = starts.get_mut(count % 32) {
                *slot = start as u32;
            }
            count += 1;
            gram = gram >> 8 | u32::from(byte) << 16;
            if count >= 3 && self.known(gram) {
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
    let end = line_end(buf, at);
    let alphabet = |byte: &u8| sextet(*byte).is_some();
    end >= RUN
        && buf.get(end - RUN..end).is_some_and(|line| line.iter().rev().all(alphabet))
        && buf.get(after).is_some_and(alphabet)
}

/// Where the line ends whose line feed is at `at`.
fn line_end(buf: &[u8], at: usize) -> usize {
    if at > 0 && buf.get(at - 1) == Some(&b'\r') { at - 1 } else { at }
}

/// The needles of a pattern. A literal under four bytes is widened by what may follow it where it does not fill a needle.
fn pattern_needles(pattern: &Pattern) -> Vec<(View, usize, Vec<u8>)> {
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
    let plain = needles(&literal);
    let mut all = Vec::new();
    for bytes in wide {
        for ((view, lead, mut needle), (.., alone)) in needles(&bytes).into_iter().zip(&plain) {
            needle.truncate(alone.len().max(SHORTEST));
            all.push((view, lead, needle));
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

fn spread(gram: u32) -> u32 {
    gram.wrapping_mul(0x9e37_79b1) >> 16
}

/// The bit of a gram's third byte. Letters, which text is made of, all have their own.
#[expect(clippy::indexing_slicing, reason = "counted to the array length, at compile time")]
const THIRD: [u32; 256] = {
    let mut bits = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        bits[byte] = 1 << (byte & 31);
        byte += 1;
    }
    bits
};

/// Where two neighbouring grams of a needle begin that others use too, and that are rare in ordinary traffic.
fn best(needle: &[u8], grams: &BTreeMap<u32, Vec<Entry>>) -> usize {
    let cost = |at: usize| {
        let common: u32 = needle.iter().skip(at).take(SHORTEST).map(|&byte| commonness(byte)).sum();
        let new = needle
            .windows(3)
            .skip(at)
            .take(2)
            .filter_map(gram)
            .filter(|gram| !grams.contains_key(gram))
            .count();
        common + 3 * new as u32
    };
    (0..=needle.len().saturating_sub(SHORTEST)).min_by_key(|&at| cost(at)).unwrap_or(0)
}

fn commonness(byte: u8) -> u32 {
    match byte {
        b' ' => 8,
        b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' | b'h' | b'l' | b'd' | b'c' | b'u' | b'm' => 7,
        0 | b'"' => 6,
        b'p' | b'f' | b'g' | b'w' | b'y' | b'b' | b'v' => 5,
        b'.' | b'-' | b'/' | b':' | b'=' | b'k' | b'j' | b'x' | b'q' | b'z' => 4,
        b'0'..=b'9' | b'_' => 3,
        _ => 2,
    }
}
