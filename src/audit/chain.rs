//! The sequence and the hash chain: what turns a body into a line, and what a line proves.
//!
//! `hash` is the SHA-256 of the line before it (its `hash`, 64 hex digits as text) and of this line up to the comma
//! before its own `hash`. The chain crosses restarts and rotations: the first line of every stretch, an `open` event,
//! repeats in `prev` what it continues.

use super::body::push_digits;
use aws_lc_rs::digest::{SHA256, digest};

/// The version of the schema, in every line.
pub const SCHEMA_VERSION: u64 = 1;

/// 64 lower-case hex digits.
pub(super) type Hex = [u8; 64];

/// What the first line ever continues.
pub(super) const GENESIS: Hex = [b'0'; 64];

pub(super) const HASH_KEY: &[u8] = b",\"hash\":\"";
pub(super) const LINE_END: &[u8] = b"\"}\n";

/// Where the chain stands: the last line's number and hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub seq: u64,
    pub hash: Hex,
}

impl Link {
    pub const START: Self = Self { seq: 0, hash: GENESIS };

    /// Appends the line of `body` and moves on to it. `scratch` is only there to be reused.
    pub fn seal(&mut self, out: &mut Vec<u8>, run: &str, body: &[u8], scratch: &mut Vec<u8>) {
        self.seq += 1;
        let start = out.len();
        out.extend_from_slice(b"{\"v\":");
        push_digits(out, SCHEMA_VERSION);
        out.extend_from_slice(b",\"run\":\"");
        out.extend_from_slice(run.as_bytes());
        out.extend_from_slice(b"\",\"seq\":");
        push_digits(out, self.seq);
        out.push(b',');
        out.extend_from_slice(body);
        scratch.clear();
        scratch.extend_from_slice(&self.hash);
        scratch.extend_from_slice(out.get(start..).unwrap_or_default());
        self.hash = sha256_hex(scratch);
        out.extend_from_slice(HASH_KEY);
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(LINE_END);
    }

    pub fn hash_text(&self) -> &str {
        std::str::from_utf8(&self.hash).unwrap_or_default()
    }
}

/// Splits a line (with its newline) into what is hashed and the hash it states.
pub(super) fn split_line(line: &[u8]) -> Option<(&[u8], Hex)> {
    let rest = line.strip_suffix(LINE_END)?;
    let (rest, hash) = rest.split_last_chunk::<64>()?;
    let hashed = rest.strip_suffix(HASH_KEY)?;
    hash.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some((hashed, *hash))
}

/// The hash that a line must state after `prev`.
pub(super) fn expected_hash(prev: &Hex, hashed: &[u8], scratch: &mut Vec<u8>) -> Hex {
    scratch.clear();
    scratch.extend_from_slice(prev);
    scratch.extend_from_slice(hashed);
    sha256_hex(scratch)
}

fn sha256_hex(data: &[u8]) -> Hex {
    let mut hex = GENESIS;
    let hash = digest(&SHA256, data);
    for (pair, byte) in hex.chunks_exact_mut(2).zip(hash.as_ref()) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_line_splits_into_what_was_hashed_and_its_hash() {
        let mut link = Link::START;
        let mut out = Vec::new();
        link.seal(&mut out, "r", b"\"a\":1", &mut Vec::new());
        let (hashed, hash) = split_line(&out).unwrap();
        assert_eq!(hashed, b"{\"v\":1,\"run\":\"r\",\"seq\":1,\"a\":1");
        assert_eq!(hash, link.hash);
        assert_eq!(expected_hash(&GENESIS, hashed, &mut Vec::new()), hash);
        assert!(split_line(b"{\"v\":1}\n").is_none());
    }

    #[test]
    fn the_digest_is_sha_256() {
        assert_eq!(&sha256_hex(b"abc"), b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
