//! Whether a header block has a fragment in its `:path`. Follows HPACK (RFC 7541) as far as that needs, over all blocks
//! of a connection: representations, the dynamic table's sizes, and which of its entries are paths.

use super::huffman;
use std::collections::VecDeque;

/// The table's size, which our SETTINGS leave as it is (RFC 7541 section 4.2).
const TABLE: usize = 4096;
/// What an entry counts beside its text (section 4.1).
const ENTRY: usize = 32;
/// `:path` in the static table stands here (appendix A).
const STATIC_PATHS: [usize; 2] = [4, 5];
const PATH: &[u8] = b":path";
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

#[derive(Debug, Default)]
pub(super) struct Paths {
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
    path: Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    No,
    Whole,
    WithFragment,
}

impl Paths {
    /// Reads a whole header block; whether a path in it has a fragment.
    pub(super) fn has_fragment(&mut self, block: &[u8]) -> Result<bool, Unreadable> {
        let mut input = Input(block);
        let mut found = false;
        while let Some(first) = input.0.first().copied() {
            let path = if first & 0x80 != 0 {
                let index = input.number(0x7f)?;
                self.indexed(index)?
            } else if first & 0x40 != 0 {
                let index = input.number(0x3f)?;
                self.literal(&mut input, index, true)?
            } else if first & 0x20 != 0 {
                let most = input.number(0x1f)?;
                self.resize(most)?;
                Path::No
            } else {
                let index = input.number(0x0f)?;
                self.literal(&mut input, index, false)?
            };
            found |= path == Path::WithFragment;
        }
        Ok(found)
    }

    fn indexed(&self, index: usize) -> Result<Path, Unreadable> {
        match index {
            0 => Err(Unreadable),
            1..=61 => Ok(if STATIC_PATHS.contains(&index) { Path::Whole } else { Path::No }),
            _ => Ok(self.entry(index)?.path),
        }
    }

    fn entry(&self, index: usize) -> Result<&Entry, Unreadable> {
        self.table.get(index - STATIC_NAMES.len() - 1).ok_or(Unreadable)
    }

    fn literal(&mut self, input: &mut Input<'_>, index: usize, kept: bool) -> Result<Path, Unreadable> {
        let (name, is_path) = match index {
            0 => {
                let text = input.string()?;
                (text.length()?, text.is(PATH)?)
            }
            1..=61 => {
                let length = STATIC_NAMES.get(index - 1).copied().ok_or(Unreadable)?;
                (usize::from(length), STATIC_PATHS.contains(&index))
            }
            _ => {
                let entry = self.entry(index)?;
                (usize::from(entry.name), entry.path != Path::No)
            }
        };
        let value = input.string()?;
        let path = match is_path {
            false => Path::No,
            true if value.has(b'#')? => Path::WithFragment,
            true => Path::Whole,
        };
        if kept {
            self.insert(name, value.length()?, path);
        }
        Ok(path)
    }

    fn insert(&mut self, name: usize, value: usize, path: Path) {
        let size = name + value + ENTRY;
        let most = self.lowered.unwrap_or(TABLE);
        self.evict(most.saturating_sub(size));
        // One that is larger than the table only empties it (section 4.4).
        if size <= most
            && let (Ok(size), Ok(name)) = (u16::try_from(size), u16::try_from(name))
        {
            self.table.push_front(Entry { size, name, path });
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
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        [&[length][..], text.as_bytes()].concat()
    }

    /// `:path` by its static name; `kept` in the dynamic table.
    fn path(value: &str, kept: bool) -> Vec<u8> {
        [vec![if kept { 0x44 } else { 0x04 }], string(value)].concat()
    }

    #[test]
    fn pm_14_a_fragment_is_found_in_every_form_of_a_path() {
        for kept in [false, true] {
            let found = |block: Vec<u8>| Paths::default().has_fragment(&block).unwrap();
            assert!(found(path("/public/a#/../../admin", kept)));
            assert!(!found(path("/public/a", kept)), "its positive twin");
            let prefix = if kept { 0x40 } else { 0x10 };
            assert!(found([vec![prefix], string(":path"), string("/#")].concat()));
            assert!(!found([vec![prefix], string("x-path"), string("/#")].concat()), "another field");
            // "/a#b" and ":path", in Huffman's code.
            let coded = [0x60, 0x7f, 0xf5, 0x1f];
            assert_eq!(Text { bytes: &coded[..], huffman: true }.has(b'#'), Ok(true), "the example is right");
            assert!(found([vec![prefix | 4, 0x84], coded.to_vec()].concat()));
            let name = [0xb9, 0x58, 0xd3, 0x3f];
            assert_eq!(Text { bytes: &name[..], huffman: true }.is(PATH), Ok(true), "the example is right");
            assert!(found([vec![prefix, 0x84], name.to_vec(), string("/a#")].concat()));
        }
    }

    #[test]
    fn pm_14_a_fragment_in_the_table_is_found_again_and_no_other_entry_is_taken_for_it() {
        let mut paths = Paths::default();
        assert!(!paths.has_fragment(&path("/good", true)).unwrap());
        assert!(paths.has_fragment(&path("/bad#", true)).unwrap());
        assert!(paths.has_fragment(&[0x80 | 62]).unwrap(), "the newest");
        assert!(!paths.has_fragment(&[0x80 | 63]).unwrap(), "the one before");
        let by_name = [vec![0x40 | 62], string("/x#y")].concat();
        assert!(paths.has_fragment(&by_name).unwrap(), "its name by its place in the table");
        assert!(!paths.has_fragment(&[0x84]).unwrap(), "the static one");
        assert_eq!(paths.has_fragment(&[0x80 | 65]), Err(Unreadable), "there are three");
    }

    #[test]
    fn entries_leave_the_table_as_their_sizes_say() {
        let mut paths = Paths::default();
        // Each is 5 + 59 + 32 = 96 bytes: 42 of them fit.
        for n in 0..50 {
            let value = format!("/{n:02}{}", "x".repeat(56));
            paths.has_fragment(&path(&value, true)).unwrap();
        }
        assert_eq!((paths.table.len(), paths.size), (42, 42 * 96));
        // A size update to 200, in two bytes.
        assert_eq!(paths.has_fragment(&[0x3f, 200 - 0x1f, 1]), Ok(false));
        assert_eq!(paths.size, 2 * 96);
        let mut paths = Paths::default();
        paths.has_fragment(&path("/bad#", true)).unwrap();
        assert!(!paths.has_fragment(&[0x20]).unwrap(), "a table of nothing");
        assert_eq!(paths.has_fragment(&[0x80 | 62]), Err(Unreadable));
        assert!(paths.has_fragment(&path("/bad#", true)).unwrap());
        assert_eq!(paths.has_fragment(&[0x80 | 62]), Err(Unreadable), "nothing is kept in it");
        assert_eq!(paths.has_fragment(&[0x3f, 0xe2, 0x1f]), Err(Unreadable), "4097 is more than was offered");
    }

    #[test]
    fn what_ends_too_soon_is_unreadable() {
        let whole = [path("/a", true), path("/b#", false)].concat();
        for length in 1..whole.len() {
            let read = Paths::default().has_fragment(&whole[..length]);
            assert_eq!(read.is_err(), length != 4, "{length}");
        }
        for bad in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x44, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            assert_eq!(Paths::default().has_fragment(bad), Err(Unreadable), "{bad:x?}");
        }
    }
}
