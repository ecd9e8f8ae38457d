//! What is in a header block that the crates do not show: a fragment in `:path`, what no trailers may hold, and what no
//! head of an answer may. Follows HPACK (RFC 7541) as far as that needs, over all blocks of a connection:
//! representations, the dynamic table's sizes, and which of its entries are pseudo-header fields.

use super::fields::is_token;
use super::huffman;
use std::collections::VecDeque;

/// The table's size, which our SETTINGS leave as it is (RFC 7541 section 4.2).
const TABLE: usize = 4096;
/// What an entry counts beside its text (section 4.1).
const ENTRY: usize = 32;
/// The static table begins with pseudo-header fields, of which these are `:path` (appendix A).
const STATIC_PSEUDO: usize = 14;
const STATIC_PATHS: [usize; 2] = [4, 5];
const STATIC_STATUS: usize = 8;
const PATH: &[u8] = b":path";
const STATUS: &[u8] = b":status";
const OTHER_PSEUDO: [&[u8]; 4] = [b":authority", b":method", b":protocol", b":scheme"];
/// How long the names of the static table are.
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3,
    16,
];

/// A block that breaks HPACK's rules; the connection cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

impl From<huffman::Undecodable> for Unreadable {
    fn from(_: huffman::Undecodable) -> Self {
        Self
    }
}

/// What trailers hold that they must not (RFC 9113 section 8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadTrailers {
    /// What the crate drops or lets pass: pseudo-header fields, white space around a value (section 8.2.1), a name that is
    /// no token.
    Malformed,
    /// A field for which the crate ends the connection.
    NoField,
}

/// What the head of an answer is, by its pseudo-header fields (RFC 9113 section 8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Final,
    Interim,
    /// It has no status.
    Nameless,
    /// It has fields that only a request has, which the crate drops.
    OfRequest,
}

#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Newest first.
    table: VecDeque<Entry>,
    size: usize,
    /// What the client has lowered the table to, where it has.
    lowered: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    size: u16,
    name: u16,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Field,
    Pseudo,
    Path,
    PathWithFragment,
    Status,
    /// A status of 1xx.
    Interim,
}

impl Kind {
    fn of_static(index: usize) -> Self {
        match index {
            _ if STATIC_PATHS.contains(&index) => Self::Path,
            ..STATIC_STATUS => Self::Pseudo,
            STATIC_STATUS..=STATIC_PSEUDO => Self::Status,
            _ => Self::Field,
        }
    }

    fn of_name(name: &Text<'_>) -> Result<Self, Unreadable> {
        Ok(match name.begins_with_a_colon() {
            false => Self::Field,
            true if name.is(PATH)? => Self::Path,
            true if name.is(STATUS)? => Self::Status,
            true => Self::Pseudo,
        })
    }

    /// The kind of a field of this name, now that its value is known.
    fn with(self, value: &Text<'_>) -> Result<Self, Unreadable> {
        Ok(match self {
            Self::Path | Self::PathWithFragment if value.has(b'#')? => Self::PathWithFragment,
            Self::Path | Self::PathWithFragment => Self::Path,
            Self::Status | Self::Interim if value.begins_with_a_one()? => Self::Interim,
            Self::Status | Self::Interim => Self::Status,
            Self::Field | Self::Pseudo => self,
        })
    }
}

/// What one block has so far.
#[derive(Default)]
struct Found {
    fragment: bool,
    status: Option<Kind>,
    of_request: bool,
    /// What is looked for only in trailers: of a head the crate shows enough.
    trailers: Option<Trailers>,
}

#[derive(Default)]
struct Trailers {
    malformed: bool,
    no_field: bool,
}

impl Blocks {
    /// Reads a whole head; whether a path in it has a fragment.
    pub(super) fn has_fragment(&mut self, block: &[u8]) -> Result<bool, Unreadable> {
        self.read(block, Found::default()).map(|found| found.fragment)
    }

    /// Reads the whole head of an answer.
    pub(super) fn head(&mut self, block: &[u8]) -> Result<Head, Unreadable> {
        let found = self.read(block, Found::default())?;
        Ok(match found.status {
            _ if found.of_request => Head::OfRequest,
            Some(Kind::Interim) => Head::Interim,
            Some(_) => Head::Final,
            None => Head::Nameless,
        })
    }

    /// Reads the whole block of trailers.
    pub(super) fn trailers(&mut self, block: &[u8]) -> Result<Option<BadTrailers>, Unreadable> {
        let found = self.read(block, Found { trailers: Some(Trailers::default()), ..Found::default() })?;
        Ok(match found.trailers {
            Some(Trailers { no_field: true, .. }) => Some(BadTrailers::NoField),
            Some(Trailers { malformed: true, .. }) => Some(BadTrailers::Malformed),
            _ => None,
        })
    }

    fn read(&mut self, block: &[u8], mut found: Found) -> Result<Found, Unreadable> {
        let mut input = Input(block);
        let mut begun = false;
        while let Some(first) = input.0.first().copied() {
            // A change of the table's size stands only before the fields (section 4.2).
            if first & 0xe0 == 0x20 {
                let most = input.number(0x1f)?;
                if begun {
                    return Err(Unreadable);
                }
                self.resize(most)?;
                continue;
            }
            begun = true;
            let kind = if first & 0x80 != 0 {
                let index = input.number(0x7f)?;
                self.indexed(index)?
            } else if first & 0x40 != 0 {
                let index = input.number(0x3f)?;
                self.literal(&mut input, index, true, &mut found)?
            } else {
                let index = input.number(0x0f)?;
                self.literal(&mut input, index, false, &mut found)?
            };
            match kind {
                Kind::Field => {}
                Kind::Status | Kind::Interim => found.status = Some(kind),
                Kind::PathWithFragment => (found.fragment, found.of_request) = (true, true),
                Kind::Path | Kind::Pseudo => found.of_request = true,
            }
            if let Some(trailers) = &mut found.trailers {
                trailers.malformed |= kind != Kind::Field;
            }
        }
        Ok(found)
    }

    fn indexed(&self, index: usize) -> Result<Kind, Unreadable> {
        match index {
            0 => Err(Unreadable),
            1..=61 => Ok(Kind::of_static(index)),
            _ => Ok(self.entry(index)?.kind),
        }
    }

    fn entry(&self, index: usize) -> Result<&Entry, Unreadable> {
        self.table.get(index - STATIC_NAMES.len() - 1).ok_or(Unreadable)
    }

    fn literal(
        &mut self,
        input: &mut Input<'_>,
        index: usize,
        kept: bool,
        found: &mut Found,
    ) -> Result<Kind, Unreadable> {
        let (name, named) = match index {
            0 => {
                let text = input.string()?;
                let kind = Kind::of_name(&text)?;
                if let Some(trailers) = &mut found.trailers {
                    trailers.name(&text, kind)?;
                }
                (if kept { text.length()? } else { 0 }, kind)
            }
            1..=61 => {
                let length = STATIC_NAMES.get(index - 1).copied().ok_or(Unreadable)?;
                (usize::from(length), Kind::of_static(index))
            }
            _ => {
                let entry = self.entry(index)?;
                (usize::from(entry.name), entry.kind)
            }
        };
        let value = input.string()?;
        if let Some(trailers) = &mut found.trailers {
            trailers.value(&value, named)?;
        }
        let kind = named.with(&value)?;
        if kept {
            self.insert(name, value.length()?, kind);
        }
        Ok(kind)
    }

    fn insert(&mut self, name: usize, value: usize, kind: Kind) {
        let size = name + value + ENTRY;
        let most = self.lowered.unwrap_or(TABLE);
        self.evict(most.saturating_sub(size));
        // One that is larger than the table only empties it (section 4.4).
        if size <= most
            && let (Ok(size), Ok(name)) = (u16::try_from(size), u16::try_from(name))
        {
            self.table.push_front(Entry { size, name, kind });
            self.size += usize::from(size);
        }
    }

    fn resize(&mut self, most: usize) -> Result<(), Unreadable> {
        if most > TABLE {
            return Err(Unreadable);
        }
        self.lowered = Some(most);
        self.evict(most);
        Ok(())
    }

    /// Drops the oldest entries until no more than this is left.
    fn evict(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= usize::from(oldest.size);
        }
    }
}

impl Trailers {
    /// The crate takes every token in lower case, and the one character more that the `http` crate does.
    fn name(&mut self, name: &Text<'_>, kind: Kind) -> Result<(), Unreadable> {
        let (mut empty, mut good, mut known) = (true, true, matches!(kind, Kind::Path | Kind::Status));
        name.each(|byte| {
            empty = false;
            good &= byte == b'"' || (is_token(byte) && !byte.is_ascii_uppercase());
            self.malformed |= byte == b'"';
        })?;
        for pseudo in OTHER_PSEUDO {
            known |= kind == Kind::Pseudo && name.is(pseudo)?;
        }
        self.no_field |= if kind == Kind::Field { empty || !good } else { !known };
        Ok(())
    }

    fn value(&mut self, value: &Text<'_>, kind: Kind) -> Result<(), Unreadable> {
        let (mut first, mut last) = (None, None);
        value.each(|byte| {
            first = first.or(Some(byte));
            last = Some(byte);
            self.no_field |= match kind {
                Kind::Field => byte != b'\t' && byte.is_ascii_control(),
                _ => !byte.is_ascii_graphic(),
            };
        })?;
        self.malformed |= [first, last].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'));
        Ok(())
    }
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Unreadable> {
        let (byte, rest) = self.0.split_first().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*byte)
    }

    /// An integer whose prefix is what `mask` leaves of the first byte (section 5.1). No block is longer than four
    /// bytes of continuation could say.
    fn number(&mut self, mask: u8) -> Result<usize, Unreadable> {
        let prefix = self.byte()? & mask;
        let mut number = usize::from(prefix);
        if prefix < mask {
            return Ok(number);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Unreadable)
    }

    fn string(&mut self) -> Result<Text<'a>, Unreadable> {
        let huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.number(0x7f)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(Text { bytes, huffman })
    }
}

/// A string as it stands in a block.
struct Text<'a> {
    bytes: &'a [u8],
    huffman: bool,
}

impl Text<'_> {
    fn length(&self) -> Result<usize, Unreadable> {
        let mut length = self.bytes.len();
        if self.huffman {
            length = 0;
            huffman::decode(self.bytes, |_| length += 1)?;
        }
        Ok(length)
    }

    fn has(&self, wanted: u8) -> Result<bool, Unreadable> {
        let mut found = false;
        if self.huffman {
            huffman::decode(self.bytes, |byte| found |= byte == wanted)?;
        } else {
            found = memchr::memchr(wanted, self.bytes).is_some();
        }
        Ok(found)
    }

    fn begins_with_a_colon(&self) -> bool {
        // Its code has seven bits.
        let Some(first) = self.bytes.first() else { return false };
        if self.huffman { first >> 1 == 0x5c } else { *first == b':' }
    }

    fn begins_with_a_one(&self) -> Result<bool, Unreadable> {
        let mut first = None;
        self.each(|byte| first = first.or(Some(byte)))?;
        Ok(first == Some(b'1'))
    }

    fn each(&self, mut each: impl FnMut(u8)) -> Result<(), Unreadable> {
        if self.huffman {
            huffman::decode(self.bytes, each)?;
        } else {
            self.bytes.iter().for_each(|byte| each(*byte));
        }
        Ok(())
    }

    fn is(&self, wanted: &[u8]) -> Result<bool, Unreadable> {
        if !self.huffman {
            return Ok(self.bytes == wanted);
        }
        let (mut left, mut same) = (wanted.iter(), true);
        huffman::decode(self.bytes, |byte| same &= left.next() == Some(&byte))?;
        Ok(same && left.next().is_none())
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
