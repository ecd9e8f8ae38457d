//! The Huffman code of HPACK (RFC 7541 appendix B), which is canonical: the lengths of its codes say all of it.

/// How many bits the code of each byte has; the last is the end of a string, which none may hold.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0x00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 0x10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 0x20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 0x30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 0x40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 0x50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 0x60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 0x70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 0x80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 0x90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 0xa0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 0xb0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 0xc0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 0xd0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 0xe0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 0xf0
    30,
];
const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Row {
    bits: u32,
    /// One above the last code of this length and all shorter ones, with its first bit at bit 31.
    limit: u64,
    /// The first code, as a number of `bits` bits.
    first: u32,
    /// Where its symbol stands in [`SYMBOLS`].
    place: u32,
}

const ROWS: [Row; LONGEST - SHORTEST + 1] = rows();
const SYMBOLS: [u16; 257] = symbols();

#[expect(clippy::indexing_slicing, reason = "computed when it is compiled")]
const fn rows() -> [Row; LONGEST - SHORTEST + 1] {
    let mut rows = [Row { bits: 0, limit: 0, first: 0, place: 0 }; LONGEST - SHORTEST + 1];
    let (mut code, mut place, mut bits) = (0_u32, 0_u32, SHORTEST);
    while bits <= LONGEST {
        let mut count = 0;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == bits {
                count += 1;
            }
            symbol += 1;
        }
        let limit = ((code + count) as u64) << (32 - bits);
        rows[bits - SHORTEST] = Row { bits: bits as u32, limit, first: code, place };
        place += count;
        code = (code + count) << 1;
        bits += 1;
    }
    rows
}

#[expect(clippy::indexing_slicing, reason = "computed when it is compiled")]
const fn symbols() -> [u16; 257] {
    let mut sorted = [0; 257];
    let (mut place, mut bits) = (0, SHORTEST);
    while bits <= LONGEST {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == bits {
                sorted[place] = symbol as u16;
                place += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    sorted
}

/// By the next eight bits: the symbol whose code they begin with, and how many of them that is; no bits where the code is
/// longer. Most of what fields hold has such short codes.
const SHORT: [(u8, u32); 256] = short();

#[expect(clippy::indexing_slicing, reason = "computed when it is compiled")]
const fn short() -> [(u8, u32); 256] {
    let mut short = [(0, 0); 256];
    let mut next = 0;
    while next < short.len() {
        let window = (next as u32) << 24;
        let mut at = 0;
        while ROWS[at].bits <= 8 {
            let row = ROWS[at];
            if (window as u64) < row.limit {
                let place = row.place + ((window >> (32 - row.bits)) - row.first);
                short[next] = (SYMBOLS[place as usize] as u8, row.bits);
                break;
            }
            at += 1;
        }
        next += 1;
    }
    short
}

/// The bytes do not decode: the end of a string inside it, or padding that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undecodable;

/// Gives each byte of an encoded string to `each`.
pub(super) fn decode(encoded: &[u8], mut each: impl FnMut(u8)) -> Result<(), Undecodable> {
    let mut input = encoded.iter();
    // The next bits stand at the top; those below are zero.
    let (mut window, mut have) = (0_u64, 0_u32);
    loop {
        while have <= 56 {
            let Some(byte) = input.next() else { break };
            window |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        if have == 0 {
            return Ok(());
        }
        let (symbol, bits) = SHORT.get((window >> 56) as usize).copied().unwrap_or_default();
        if bits > 0 && bits <= have {
            each(symbol);
            window <<= bits;
            have -= bits;
            continue;
        }
        let next = (window >> 32) as u32;
        let row = ROWS.iter().find(|row| u64::from(next) < row.limit);
        match row {
            Some(row) if row.bits <= have => {
                let place = row.place + ((next >> (32 - row.bits)) - row.first);
                let symbol = SYMBOLS.get(place as usize).copied().unwrap_or(u16::MAX);
                each(u8::try_from(symbol).map_err(|_| Undecodable)?);
                window <<= row.bits;
                have -= row.bits;
            }
            // What is left must be the beginning of the code that no string holds: ones, fewer than eight.
            _ => {
                let padding = have < 8 && window.leading_ones() >= have;
                return if padding { Ok(()) } else { Err(Undecodable) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(encoded: &[u8]) -> Result<String, Undecodable> {
        let mut text = Vec::new();
        decode(encoded, |byte| text.push(byte)).map(|()| String::from_utf8(text).unwrap())
    }

    /// As a client would, from the same lengths.
    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut out) = (Vec::new(), Vec::new());
        for byte in text {
            let place = SYMBOLS.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap() as u32;
            let row = ROWS.iter().rev().find(|row| row.place <= place && row.bits > 0).unwrap();
            let row = ROWS.iter().find(|r| r.bits == u32::from(LENGTHS[usize::from(*byte)])).unwrap_or(row);
            let code = row.first + place - row.place;
            bits.extend((0..row.bits).rev().map(|bit| code >> bit & 1 == 1));
        }
        for eight in bits.chunks(8) {
            let padded = eight.iter().copied().chain(std::iter::repeat(true)).take(8);
            out.push(padded.fold(0, |byte, bit| byte << 1 | u8::from(bit)));
        }
        out
    }

    #[test]
    fn the_examples_of_the_rfc_decode() {
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(text(&example).unwrap(), "www.example.com");
        assert_eq!(text(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), "no-cache");
        assert_eq!(text(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f]).unwrap(), "custom-key");
        assert_eq!(text(&[]).unwrap(), "");
    }

    #[test]
    fn every_byte_comes_back_alone_and_beside_others() {
        let all: Vec<u8> = (0..=255).collect();
        let mut back = Vec::new();
        decode(&encode(&all), |byte| back.push(byte)).unwrap();
        assert_eq!(back, all);
        for byte in all {
            let mut back = Vec::new();
            decode(&encode(&[byte, b'#', byte]), |byte| back.push(byte)).unwrap();
            assert_eq!(back, [byte, b'#', byte]);
        }
    }

    #[test]
    fn padding_is_ones_and_shorter_than_a_byte() {
        assert_eq!(text(&[0xff]), Err(Undecodable), "a whole byte of padding");
        assert_eq!(text(&[0b0001_1000]), Err(Undecodable), "zeros");
        assert_eq!(text(&[0b0001_1111]).unwrap(), "a");
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xff]), Err(Undecodable), "the end of a string inside it");
    }
}
