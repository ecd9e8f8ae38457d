//! Undoes gzip (RFC 1952, several members) as the bytes come, in bounded memory, and stops at a budget. Names, comments and
//! extra fields of a member's head are handed out like content, since they leave as well. Called by `stream`.

use super::stream::{Limits, Stop};
use flate2::{Crc, Decompress, FlushDecompress, Status};

const OUT: usize = 32 * 1024;

pub(super) struct Gzip {
    part: Part,
    flags: u8,
    inflate: Decompress,
    crc: Crc,
    out: Vec<u8>,
    limits: Limits,
    read: u64,
    written: u64,
}

/// What the next byte belongs to; the numbers count what was read or is left of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Fixed(u8),
    ExtraLen(u8, u16),
    Extra(u16),
    Name,
    Comment,
    HeadSum(u8),
    Body,
    Trailer(u8, u64),
}

const HEAD_SUM: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

impl Gzip {
    pub fn new(limits: Limits) -> Self {
        Self {
            part: Part::Fixed(0),
            flags: 0,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            out: vec![0; OUT],
            limits,
            read: 0,
            written: 0,
        }
    }

    /// Reads on. `sink` gets what becomes readable and says whether to go on.
    pub fn read(&mut self, mut input: &[u8], sink: &mut impl FnMut(&[u8]) -> bool) -> Result<(), Stop> {
        while !input.is_empty() {
            input = match self.part {
                Part::Body => self.body(input, sink)?,
                Part::Trailer(..) => self.trailer(input)?,
                _ => self.head(input, sink)?,
            };
        }
        Ok(())
    }

    /// The message ended: only between members, or when there was nothing at all, is that right.
    pub fn finish(&self) -> Result<(), Stop> {
        if self.part == Part::Fixed(0) { Ok(()) } else { Err(Stop::BadCoding) }
    }

    fn head<'a>(&mut self, input: &'a [u8], sink: &mut impl FnMut(&[u8]) -> bool) -> Result<&'a [u8], Stop> {
        let mut len = 0;
        let mut fault = Ok(());
        for &byte in input {
            let Some(next) = self.head_byte(byte) else {
                fault = Err(Stop::BadCoding);
                break;
            };
            len += 1;
            self.part = next;
            if next == Part::Body {
                self.inflate.reset(false);
                self.crc.reset();
                break;
            }
        }
        self.read += len as u64;
        // What stands before a fault is handed out first, as it would be byte by byte.
        let (head, rest) = input.split_at_checked(len).unwrap_or((input, &[]));
        if !sink(head) {
            return Ok(&[]);
        }
        fault.map(|()| rest)
    }

    fn head_byte(&mut self, byte: u8) -> Option<Part> {
        Some(match self.part {
            Part::Fixed(at) => {
                match at {
                    0 if byte != 0x1f => return None,
                    1 if byte != 0x8b => return None,
                    2 if byte != 8 => return None,
                    3 if byte & RESERVED != 0 => return None,
                    3 => self.flags = byte,
                    _ => {}
                }
                if at < 9 { Part::Fixed(at + 1) } else { self.after(0) }
            }
            Part::ExtraLen(0, _) => Part::ExtraLen(1, u16::from(byte)),
            Part::ExtraLen(_, low) => match low | u16::from(byte) << 8 {
                0 => self.after(EXTRA),
                len => Part::Extra(len),
            },
            Part::Extra(left) if left > 1 => Part::Extra(left - 1),
            Part::Extra(_) => self.after(EXTRA),
            Part::Name if byte != 0 => Part::Name,
            Part::Name => self.after(NAME),
            Part::Comment if byte != 0 => Part::Comment,
            Part::Comment => self.after(COMMENT),
            Part::HeadSum(0) => Part::HeadSum(1),
            Part::HeadSum(_) => Part::Body,
            Part::Body | Part::Trailer(..) => return None,
        })
    }

    /// The field of the head that follows `done`. They stand in the order of these flags, the sum last.
    fn after(&self, done: u8) -> Part {
        for (flag, part) in [(EXTRA, Part::ExtraLen(0, 0)), (NAME, Part::Name), (COMMENT, Part::Comment)] {
            if flag > done && self.flags & flag != 0 {
                return part;
            }
        }
        if self.flags & HEAD_SUM != 0 { Part::HeadSum(0) } else { Part::Body }
    }

    fn body<'a>(
        &mut self,
        mut input: &'a [u8],
        sink: &mut impl FnMut(&[u8]) -> bool,
    ) -> Result<&'a [u8], Stop> {
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, &mut self.out, FlushDecompress::None);
            let (read, made) =
                ((self.inflate.total_in() - read) as usize, (self.inflate.total_out() - written) as usize);
            input = input.get(read..).unwrap_or_default();
            self.read += read as u64;
            let out = self.out.get(..made).unwrap_or_default();
            self.crc.update(out);
            self.written += made as u64;
            if self.written > self.limits.free.max(self.limits.ratio.saturating_mul(self.read))
                || self.written > self.limits.decoded
            {
                return Err(Stop::Bomb);
            }
            if made > 0 && !sink(out) {
                return Ok(&[]);
            }
            // A fault counts behind what was decoded before it.
            if status.map_err(|_| Stop::BadCoding)? == Status::StreamEnd {
                self.part = Part::Trailer(0, 0);
                return Ok(input);
            }
            if made == 0 && read == 0 {
                return if input.is_empty() { Ok(input) } else { Err(Stop::BadCoding) };
            }
        }
    }

    fn trailer<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Stop> {
        let mut input = input;
        while let (Part::Trailer(count, value), Some((&byte, rest))) = (self.part, input.split_first()) {
            let value = value | u64::from(byte) << (8 * count);
            input = rest;
            self.read += 1;
            if count < 7 {
                self.part = Part::Trailer(count + 1, value);
                continue;
            }
            if value != u64::from(self.crc.sum()) | u64::from(self.crc.amount()) << 32 {
                return Err(Stop::BadCoding);
            }
            self.part = Part::Fixed(0);
        }
        Ok(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(builder: flate2::GzBuilder, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(input: &[u8], piece: usize) -> Result<Vec<u8>, Stop> {
        let mut gzip = Gzip::new(Limits::default());
        let mut all = Vec::new();
        for part in input.chunks(piece) {
            gzip.read(part, &mut |out| {
                all.extend_from_slice(out);
                true
            })?;
        }
        gzip.finish().map(|()| all)
    }

    #[test]
    fn members_follow_one_another_and_every_field_of_a_head_is_understood() {
        let full = flate2::GzBuilder::new().filename("a name").comment("words").extra(vec![1, 2, 3]);
        let input = [gzip(full, b"first "), gzip(flate2::GzBuilder::new(), b"second")].concat();
        for piece in [1, 7, 1000] {
            let text = String::from_utf8_lossy(&read(&input, piece).unwrap()).into_owned();
            assert!(
                text.contains("a name")
                    && text.contains("words")
                    && text.contains("first ")
                    && text.ends_with("second")
            );
        }
        assert_eq!(read(b"", 1), Ok(Vec::new()));
    }

    #[test]
    fn what_stands_before_a_fault_is_handed_out_whatever_the_pieces() {
        let full = flate2::GzBuilder::new().filename("a name").comment("words");
        let good = gzip(full, &b"some content ".repeat(100));
        let faults: Vec<usize> = (0..good.len()).step_by(7).collect();
        for at in faults {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            let outcome = |piece: usize| {
                let mut reader = Gzip::new(Limits::default());
                let mut all = Vec::new();
                let end = bad.chunks(piece).try_for_each(|part| {
                    reader.read(part, &mut |out| {
                        all.extend_from_slice(out);
                        true
                    })
                });
                (all, end)
            };
            let whole = outcome(usize::MAX);
            for piece in [1, 2, 13] {
                assert_eq!(outcome(piece), whole, "byte {at} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn corrupt_cut_and_trailing_bytes_are_refused() {
        let good = gzip(flate2::GzBuilder::new(), &b"some content ".repeat(100));
        for at in [0, 2, good.len() / 2, good.len() - 6, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            assert_eq!(read(&bad, 100), Err(Stop::BadCoding), "byte {at}");
        }
        for cut in [1, 5, good.len() / 2, good.len() - 1] {
            assert_eq!(read(&good[..cut], 3), Err(Stop::BadCoding), "cut {cut}");
        }
        assert_eq!(read(&[&good[..], b"garbage"].concat(), 100), Err(Stop::BadCoding));
        assert_eq!(read(&[&good[..], &[0]].concat(), 100), Err(Stop::BadCoding));
    }
}
