//! The one pass over every byte: where could the beginning of a pattern stand, in any encoding?
//!
//! Every beginning (a needle, 4 bytes and more once encoded) gives four bytes, its quad; the quad has two three-byte grams,
//! so looking at every second position meets one of them. Two bytes choose a word of the table and the third a bit of it.
//! What passes goes through a sieve of quads and is then looked up exactly, which names the view and start to walk. The
//! table also lets pass what may be an escape or a line break inside a needle: around these the quads are formed from the
//! undone characters. It never misses a needle that the buffer holds whole; what it names is only a candidate.

use super::needle::{escapes, needles};
use super::pattern::Pattern;
use super::trie::DEPTH;
use super::view::{Decoder, Step, View, sextet};
use std::collections::BTreeMap;

/// A needle this long has a gram on an even position wherever it stands.
pub(super) const SHORTEST: usize = 4;
/// Characters of the longest needle: eight bytes as hex or UTF-16, and the partial base64 character before one.
pub(super) const NEEDLE: usize = 2 * DEPTH + 1;
/// Base64 characters before a line break for which it is taken to be inside of base64.
const RUN: usize = 8;
/// Bits of the sieve: few enough for the fastest cache.
const SIEVE: usize = 1 << 16;
/// Bytes that are looked at in one go.
const STRETCH: usize = 512;
/// Bytes of the longest escape.
pub(super) const ESCAPE: usize = 6;

pub(super) struct Filter {
    /// By the first two bytes of a gram: the third bytes, folded to 32, that make it a gram of ours.
    table: Box<[u32; 1 << 16]>,
    /// A bit for every quad, by its hash.
    sieve: Box<[u64; SIEVE / 64]>,
    /// Exact, with open addressing; a power of two.
    slots: Vec<Slot>,
    entries: Vec<Entry>,
    /// Bytes that occur in needles: an escape of another byte cannot be part of one.
    bytes: [bool; 256],
}

#[derive(Clone, Copy, Default)]
struct Slot {
    quad: u32,
    first: u32,
    /// None: the slot is free.
    count: u32,
}

/// A quad at position `p` speaks for a start at `p - back` read as `view`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    view: View,
    back: u8,
}

impl Filter {
    pub fn build(patterns: &[Pattern]) -> Self {
        let mut all: Vec<(View, usize, Vec<u8>)> = patterns.iter().flat_map(needles).collect();
        // Those with the least choice first, so that others can share their quads.
        all.sort_by(|a, b| (a.2.len(), a).cmp(&(b.2.len(), b)));
        all.dedup();
        let mut bytes = [false; 256];
        let mut quads: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        for (view, lead, needle) in &all {
            for &byte in needle {
                if let Some(known) = bytes.get_mut(usize::from(byte)) {
                    *known = true;
                }
            }
            let at = best(needle, &quads);
            let Some(quad) = needle.get(at..).and_then(quad) else { continue };
            let list = quads.entry(quad).or_default();
            let entry = Entry { view: *view, back: (lead + at) as u8 };
            if !list.contains(&entry) {
                list.push(entry);
            }
        }
        let mut filter = Self {
            table: Box::new([0; 1 << 16]),
            sieve: Box::new([0; SIEVE / 64]),
            slots: vec![Slot::default(); (quads.len() * 4).next_power_of_two().max(16)],
            entries: Vec::new(),
            bytes,
        };
        for (quad, list) in quads {
            filter.insert(quad, &list);
        }
        filter.mark_breaks();
        filter
    }

    /// Calls `found(view, start)` for every candidate in the buffer.
    pub fn candidates(&self, buf: &[u8], mut found: impl FnMut(View, usize)) {
        let mut done = 0;
        let mut at = 0;
        while let Some(stretch) = buf.get(at..).and_then(|rest| rest.first_chunk::<{ STRETCH + 2 }>()) {
            let (blocks, count) = self.blocks(stretch);
            for block in blocks.into_iter().take(count) {
                let mut places = places(self.eight(stretch, usize::from(block)));
                while places != 0 {
                    let place = at + 16 * usize::from(block) + 2 * places.trailing_zeros() as usize;
                    if self.likely(buf, place) {
                        done = self.exact(buf, place, done, &mut found);
                    }
                    places &= places - 1;
                }
            }
            at += STRETCH;
        }
        for place in (at..buf.len()).step_by(2) {
            if self.passes(buf, place) && self.likely(buf, place) {
                done = self.exact(buf, place, done, &mut found);
            }
        }
    }

    /// The blocks of 16 bytes of which one of the eight grams at even positions may be ours, and how many there are.
    /// This is the loop that decides the speed; it has no branch, for nothing could predict it.
    #[inline(never)]
    #[expect(
        clippy::indexing_slicing,
        reason = "the index is masked to the array's length; no check is left"
    )]
    fn blocks(&self, stretch: &[u8; STRETCH + 2]) -> ([u8; STRETCH / 16], usize) {
        let mut blocks = [0; STRETCH / 16];
        let mut count = 0;
        for block in 0..STRETCH / 16 {
            blocks[count % (STRETCH / 16)] = block as u8;
            count += usize::from(self.eight(stretch, block).into_iter().fold(0, |all, bits| all | bits) != 0);
        }
        (blocks, count)
    }

    /// What the table says of a block's eight grams: not zero where one may be ours.
    #[inline(always)]
    fn eight(&self, stretch: &[u8; STRETCH + 2], block: usize) -> [u32; 8] {
        let word = |at: usize| {
            let bytes = stretch.get(16 * block + at..).and_then(|rest| rest.first_chunk());
            u64::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        // Few wide loads: the places of the table are what the load units should be busy with.
        let (low, middle, high) = (word(0), word(6), word(10));
        [
            self.bit(low),
            self.bit(low >> 16),
            self.bit(low >> 32),
            self.bit(middle),
            self.bit(middle >> 16),
            self.bit(middle >> 32),
            self.bit(high >> 16),
            self.bit(high >> 32),
        ]
    }

    /// Of the gram in the low three bytes.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the tables have a place for every value of the index")]
    fn bit(&self, gram: u64) -> u32 {
        self.table[usize::from(gram as u16)] & THIRD[usize::from((gram >> 16) as u8)]
    }

    /// The same for one position; near the end, where a break may be cut off, always.
    fn passes(&self, buf: &[u8], place: usize) -> bool {
        match buf.get(place..).and_then(|rest| rest.first_chunk()) {
            Some([a, b, c]) => self.bit(u64::from_le_bytes([*a, *b, *c, 0, 0, 0, 0, 0])) != 0,
            None => true,
        }
    }

    /// What [`Filter::exact`] looks for, less exactly and without branches: most of what the table lets pass ends here.
    #[inline(always)]
    fn likely(&self, buf: &[u8], place: usize) -> bool {
        let near =
            place.checked_sub(1).and_then(|before| buf.get(before..)).and_then(|rest| rest.first_chunk());
        let Some([before, a, b, c, d]) = near.copied() else { return true };
        let breaks = |byte: u8| (byte == b'%') | (byte == b'\\') | (byte == b'\n');
        self.known(u32::from_le_bytes([a, b, c, d]))
            | self.known(u32::from_le_bytes([before, a, b, c]))
            | breaks(a)
            | breaks(b)
    }

    /// Looks one position up exactly: the quads that begin at it or right before it, and what may be broken. Escapes
    /// before `done` have been looked at; returns the new value.
    #[inline(never)]
    fn exact(&self, buf: &[u8], place: usize, done: usize, found: &mut impl FnMut(View, usize)) -> usize {
        for at in place.saturating_sub(1)..=place {
            let Some(quad) = buf.get(at..).and_then(quad) else { continue };
            if self.known(quad) {
                for entry in self.entries(quad) {
                    if let Some(start) = at.checked_sub(usize::from(entry.back)) {
                        found(entry.view, start);
                    }
                }
            }
        }
        self.broken(buf, place, done, found)
    }

    /// Whether the quad may be one of ours: answers most without a look into the slots.
    #[inline(always)]
    fn known(&self, quad: u32) -> bool {
        let bit = sieve(quad);
        self.sieve.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn entries(&self, quad: u32) -> &[Entry] {
        let mask = self.slots.len() - 1;
        let mut at = spread(quad) as usize & mask;
        while let Some(slot) = self.slots.get(at).filter(|slot| slot.count > 0) {
            if slot.quad == quad {
                let range = slot.first as usize..(slot.first + slot.count) as usize;
                return self.entries.get(range).unwrap_or_default();
            }
            at = (at + 1) & mask;
        }
        &[]
    }

    fn mark(&mut self, a: u8, b: u8, c: u8) {
        let word = self.table.get_mut(usize::from(u16::from_le_bytes([a, b])));
        if let (Some(word), Some(bit)) = (word, THIRD.get(usize::from(c))) {
            *word |= bit;
        }
    }

    fn insert(&mut self, quad: u32, list: &[Entry]) {
        let [a, b, c, d] = quad.to_le_bytes();
        self.mark(a, b, c);
        self.mark(b, c, d);
        let bit = sieve(quad);
        if let Some(word) = self.sieve.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
        let mask = self.slots.len() - 1;
        let mut at = spread(quad) as usize & mask;
        while self.slots.get(at).is_some_and(|slot| slot.count > 0) {
            at = (at + 1) & mask;
        }
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Slot { quad, first: self.entries.len() as u32, count: list.len() as u32 };
        }
        self.entries.extend_from_slice(list);
    }
}

/// Needles that escapes or line breaks stand in.
impl Filter {
    /// Puts into the table what may be an escape of a byte of ours, or a line break inside base64, at a position or behind
    /// it. So the one pass sees these too.
    fn mark_breaks(&mut self) {
        let ours = (0..=u8::MAX).zip(self.bytes).filter(|(byte, known)| *known || *byte == b'\n');
        for escape in ours.flat_map(|(byte, _)| escapes(byte)) {
            let [a, b, ..] = escape[..] else { continue };
            (0..=u8::MAX).for_each(|before| self.mark(before, a, b));
            match escape.get(2) {
                Some(&c) => self.mark(a, b, c),
                None => (0..=u8::MAX).for_each(|c| self.mark(a, b, c)),
            }
        }
        for next in (0..=u8::MAX).filter(|&byte| sextet(byte).is_some()) {
            for other in 0..=u8::MAX {
                self.mark(b'\n', next, other);
                if other == b'\r' || sextet(other).is_some() {
                    self.mark(other, b'\n', next);
                }
            }
        }
    }

    /// Looks for a needle across an escape or line break at `place` or right behind it. Before `done` that has been done;
    /// returns the new value.
    fn broken(
        &self,
        buf: &[u8],
        place: usize,
        mut done: usize,
        found: &mut impl FnMut(View, usize),
    ) -> usize {
        for at in [place, place + 1] {
            match buf.get(at) {
                _ if at < done => {}
                Some(b'\n') if wrapped(buf, at, at + 1) => self.across(buf, at, found),
                Some(b'%' | b'\\') if self.breaks(buf, at) => done = self.around(buf, at, found),
                _ => {}
            }
        }
        done
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

    /// Forms quads across a line break at `at`, of plain characters only; escapes near it have their own turn.
    fn across(&self, buf: &[u8], at: usize, found: &mut impl FnMut(View, usize)) {
        let end = line_end(buf, at);
        let mut joined = [0; 2 * NEEDLE];
        let near = end.saturating_sub(NEEDLE);
        let text = buf.iter().take(end).skip(near).chain(buf.iter().skip(at + 1));
        joined.iter_mut().zip(text).for_each(|(place, byte)| *place = *byte);
        for (i, quad) in joined.windows(SHORTEST).filter_map(quad).enumerate() {
            if self.known(quad) {
                for entry in self.entries(quad) {
                    let first = i.checked_sub(usize::from(entry.back));
                    if let Some(start) = first.map(|first| near + first).filter(|start| *start < end) {
                        found(entry.view, start);
                    }
                }
            }
        }
    }

    /// Forms quads of undone characters around `at`, as far as escapes follow one another. Returns where it stopped.
    fn around(&self, buf: &[u8], at: usize, found: &mut impl FnMut(View, usize)) -> usize {
        let mut starts = [0u32; 32];
        let mut quad = 0u32;
        let mut left = NEEDLE;
        let mut decoder = Decoder::new(View::Escaped, buf, at.saturating_sub(NEEDLE), true);
        let mut count = 0usize;
        loop {
            let start = decoder.at();
            let Step::Byte(byte) = decoder.step() else { return start };
            let width = decoder.at() - start;
            if matches!(byte, b'\r' | b'\n') {
                // A needle may begin before this break: it gets no turn of its own once this has gone past it.
                left = NEEDLE;
                continue;
            }
            if width > 1 && self.bytes.get(usize::from(byte)) == Some(&true) {
                left = NEEDLE;
            }
            if let Some(slot) = starts.get_mut(count % 32) {
                *slot = start as u32;
            }
            count += 1;
            quad = quad >> 8 | u32::from(byte) << 24;
            if count >= SHORTEST && self.known(quad) {
                for entry in self.entries(quad) {
                    let first = (count - SHORTEST).checked_sub(usize::from(entry.back));
                    if let Some(&start) = first.and_then(|first| starts.get(first % 32)) {
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

/// Which of eight are not zero.
#[inline(always)]
fn places(eight: [u32; 8]) -> u32 {
    (0..).zip(eight).fold(0, |places, (i, bits)| places | u32::from(bits != 0) << i)
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

fn quad(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|quad| u32::from_le_bytes(*quad))
}

fn spread(quad: u32) -> u32 {
    quad.wrapping_mul(0x9e37_79b1) >> 16
}

/// A quad's bit of the sieve.
fn sieve(quad: u32) -> usize {
    (quad.wrapping_mul(0x85eb_ca6b) >> 16) as usize % SIEVE
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

/// Where a quad of a needle begins that others use too, or that is rare in ordinary traffic.
fn best(needle: &[u8], quads: &BTreeMap<u32, Vec<Entry>>) -> usize {
    let cost = |at: usize| {
        let rest = needle.get(at..).unwrap_or_default();
        let common: u32 = rest.iter().take(SHORTEST).map(|&byte| commonness(byte)).sum();
        let new = quad(rest).is_none_or(|quad| !quads.contains_key(&quad));
        common + 6 * u32::from(new)
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
