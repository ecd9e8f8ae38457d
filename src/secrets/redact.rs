//! Masking secrets in what comes back, head and body, wherever the chunks end.
//!
//! A value is replaced by as many `*` as it had bytes, so content length and framing stay true. Only the usual
//! spellings are known (see `forms`): an upstream that encrypts or reverses the value is not stopped by this.
//! Content codings must be off on what is scanned. `pipeline` makes one [`Redaction`] for each body.

use super::SHORTEST;
use super::forms::{Form, forms};
use crate::base::SecretBytes;
use aho_corasick::{AhoCorasick, Input, MatchKind};
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The compiled needles of a snapshot; clones share them.
#[derive(Clone)]
pub struct Redactor(Option<Arc<Needles>>);

struct Needles {
    /// Finds the first eight bytes of every needle. Prefixes of one length keep the automaton small whatever the
    /// secrets, and let a needle that a chunk cuts off be told by its own bytes.
    prefixes: AhoCorasick,
    /// The prefixes in order, and the whole needles that begin with each.
    groups: Vec<(Vec<u8>, Vec<Form>)>,
}

/// The state of one body.
pub struct Redaction {
    needles: Option<Arc<Needles>>,
    /// The original bytes that may be the beginning of a needle; shorter than the longest needle.
    held: Zeroizing<Vec<u8>>,
    /// How many of the held bytes are part of a needle already found.
    held_masked: usize,
    /// How many of the held bytes went out already, because the stream was quiet.
    told: usize,
    /// Whether the last byte given out was masked, so that a stretch over two chunks counts once.
    ends_masked: bool,
    count: u64,
}

impl Redactor {
    /// Compiles every spelling of the values (`Secrets::values`). `None` when they are more than the automaton can
    /// hold, which the limits of a policy exclude.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a SecretBytes>) -> Option<Self> {
        let mut groups: BTreeMap<Vec<u8>, Vec<Form>> = BTreeMap::new();
        for form in values.into_iter().flat_map(|value| forms(value.expose())) {
            let group = groups.entry(form.get(..SHORTEST)?.to_vec()).or_default();
            if !group.contains(&form) {
                group.push(form);
            }
        }
        if groups.is_empty() {
            return Some(Self(None));
        }
        let prefixes =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(groups.keys()).ok()?;
        Some(Self(Some(Arc::new(Needles { prefixes, groups: groups.into_iter().collect() }))))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Begins a body.
    pub fn start(&self) -> Redaction {
        Redaction {
            needles: self.0.clone(),
            held: Zeroizing::default(),
            held_masked: 0,
            told: 0,
            ends_masked: false,
            count: 0,
        }
    }

    /// The masked value of a header, or `None` when it holds no secret.
    pub fn header(&self, value: &HeaderValue) -> Option<HeaderValue> {
        let found = self.0.as_ref()?.scan(value.as_bytes());
        if found.masks.is_empty() {
            return None;
        }
        let mut masked = value.as_bytes().to_vec();
        for range in found.masks {
            masked.get_mut(range).unwrap_or_default().fill(b'*');
        }
        let mut header = HeaderValue::from_bytes(&masked).ok()?;
        header.set_sensitive(value.is_sensitive());
        Some(header)
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Redactor({} spellings)",
            self.0.as_ref().map_or(0, |n| n.groups.iter().map(|(_, whole)| whole.len()).sum())
        )
    }
}

impl Redaction {
    /// Takes the next bytes of the body and gives those that may go on; the same buffer when it held nothing.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        let Some(needles) = self.needles.clone() else { return chunk };
        if self.held.is_empty() {
            let found = needles.scan(&chunk);
            let ready = chunk.slice(..found.hold);
            self.advance(&chunk, &found);
            if found.masks.is_empty() {
                self.ends_masked &= ready.is_empty();
                return ready;
            }
            return self.masked(&ready, &found.masks, 0);
        }
        let mut joined = Zeroizing::new(Vec::with_capacity(self.held.len() + chunk.len()));
        joined.extend_from_slice(&self.held);
        joined.extend_from_slice(&chunk);
        let found = needles.scan(&joined);
        let carried = self.held_masked;
        self.advance(&joined, &found);
        let ready = self.masked(joined.get(..found.hold).unwrap_or_default(), &found.masks, carried);
        self.untold(ready)
    }

    /// The end of the body: what was held and is no needle after all.
    pub fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        let carried = std::mem::take(&mut self.held_masked);
        let rest = self.masked(&held, &[], carried);
        self.untold(rest)
    }

    /// Whether bytes wait that a quiet stream may have: fewer than the shortest secret has.
    pub fn may_release(&self) -> bool {
        self.told < self.held.len() && self.held.len() < SHORTEST
    }

    /// Gives what is held of a stream that has been quiet. It stays in mind: the rest of a secret that began in it is
    /// masked still.
    pub fn release_quiet(&mut self) -> Bytes {
        let mut ready = BytesMut::from(self.held.get(self.told..).unwrap_or_default());
        let masked = self.held_masked.saturating_sub(self.told).min(ready.len());
        ready.get_mut(..masked).unwrap_or_default().fill(b'*');
        self.told = self.held.len();
        ready.freeze()
    }

    /// What of `ready` has not gone out before.
    fn untold(&mut self, mut ready: Bytes) -> Bytes {
        let told = self.told.min(ready.len());
        self.told -= told;
        ready.split_off(told)
    }

    /// How many stretches were masked so far; secrets without a byte between them are one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Holds what `found` leaves undecided of `data`.
    fn advance(&mut self, data: &[u8], found: &Found) {
        // Needles that begin in the held bytes are found again with the next chunk.
        let decided = found.masks.iter().filter(|mask| mask.start < found.hold);
        let end = decided.map(|mask| mask.end).max().unwrap_or(0).max(self.held_masked);
        self.held_masked = end.saturating_sub(found.hold);
        self.held = Zeroizing::new(data.get(found.hold..).unwrap_or_default().to_vec());
    }

    /// A copy with the ranges and the first `carried` bytes masked, counted.
    fn masked(&mut self, data: &[u8], masks: &[Range<usize>], carried: usize) -> Bytes {
        let mut out = BytesMut::from(data);
        let mut run_end = self.ends_masked.then_some(0);
        for range in std::iter::once(&(0..carried)).chain(masks) {
            let end = range.end.min(data.len());
            if let Some(part) = out.get_mut(range.start..end).filter(|part| !part.is_empty()) {
                part.fill(b'*');
                self.count += u64::from(run_end.is_none_or(|run_end| range.start > run_end));
                run_end = run_end.max(Some(end));
            }
        }
        if !data.is_empty() {
            self.ends_masked = run_end == Some(data.len());
        }
        out.freeze()
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redaction({} masked, {} bytes held)", self.count, self.held.len())
    }
}

/// What one look at some bytes gave.
struct Found {
    /// Needles that are there as a whole; in order of their starts, touching ones joined.
    masks: Vec<Range<usize>>,
    /// Where a needle may begin whose rest is yet to come; the length when none does.
    hold: usize,
}

impl Needles {
    fn scan(&self, data: &[u8]) -> Found {
        let mut found = Found { masks: Vec::new(), hold: data.len() };
        let mut at = 0;
        while let Some(prefix) = self.prefixes.find(Input::new(data).range(at..)) {
            if let Some((_, whole)) = self.groups.get(prefix.pattern().as_usize()) {
                found.check(data, prefix.start(), whole);
            }
            at = prefix.start() + 1;
        }
        // The last bytes are too few for a prefix, yet perhaps the beginning of one.
        for start in data.len().saturating_sub(SHORTEST - 1)..data.len() {
            let rest = data.get(start..).unwrap_or_default();
            let at = self.groups.partition_point(|(prefix, _)| prefix.as_slice() < rest);
            if self.groups.get(at).is_some_and(|(prefix, _)| prefix.starts_with(rest)) {
                found.hold = found.hold.min(start);
            }
        }
        found
    }
}

impl Found {
    /// `whole`: the needles whose prefix stands at `start`.
    fn check(&mut self, data: &[u8], start: usize, whole: &[Form]) {
        let rest = data.get(start..).unwrap_or_default();
        let mut end = start;
        for needle in whole {
            if rest.starts_with(needle) {
                end = end.max(start + needle.len());
            } else if needle.starts_with(rest) {
                self.hold = self.hold.min(start);
            }
        }
        match self.masks.last_mut() {
            _ if end == start => {}
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => self.masks.push(start..end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    const SECRET: &[u8] = b"ghp_0123456789abcdef/+?";

    fn redactor(values: &[&[u8]]) -> Redactor {
        let values: Vec<SecretBytes> = values.iter().map(|v| SecretBytes::new(v.to_vec())).collect();
        Redactor::new(&values).unwrap()
    }

    /// What comes out when `body` arrives in the given pieces, and how many were masked.
    fn run(redactor: &Redactor, pieces: &[&[u8]]) -> (Vec<u8>, u64) {
        let mut body = redactor.start();
        let mut out = Vec::new();
        let (mut taken, longest) = (0, 400);
        for piece in pieces {
            out.extend_from_slice(&body.push(Bytes::copy_from_slice(piece)));
            taken += piece.len();
            assert!(taken - out.len() < longest);
        }
        out.extend_from_slice(&body.finish());
        (out, body.count())
    }

    /// Asserts that the result does not depend on where the body is cut in three.
    fn in_every_split(redactor: &Redactor, body: &[u8]) -> (Vec<u8>, u64) {
        let whole = run(redactor, &[body]);
        assert_eq!(whole.0.len(), body.len());
        for first in 0..=body.len() {
            for second in first..=body.len().min(first + 30) {
                let pieces = [&body[..first], &body[first..second], &body[second..]];
                assert_eq!(run(redactor, &pieces), whole, "cut at {first} and {second}");
            }
        }
        whole
    }

    #[test]
    fn cr_04_an_echoed_secret_is_masked_wherever_the_chunks_end() {
        let body = [b"{\"authorization\": \"Bearer ", SECRET, b"\", \"ghp_0123\": 1}"].concat();
        let (out, count) = in_every_split(&redactor(&[SECRET]), &body);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            format!("{{\"authorization\": \"Bearer {}\", \"ghp_0123\": 1}}", "*".repeat(SECRET.len()))
        );
        assert_eq!(count, 1);
    }

    #[test]
    fn cr_04_encoded_echoes_are_masked_in_every_split() {
        let plain = String::from_utf8_lossy(SECRET).into_owned();
        let hex: String = SECRET.iter().map(|b| format!("{b:02x}")).collect();
        let base64 = base64::engine::general_purpose::STANDARD.encode(format!("user:{plain}"));
        for (form, exposed) in [
            (plain.replace('/', "\\/"), 0),
            (plain.replace('/', "%2F").replace('+', "%2B").replace('?', "%3F"), 0),
            (hex, 0),
            // `user:` is two groups of the encoding less one byte, which shares two characters with the secret.
            (base64.trim_end_matches('=').to_owned(), 8),
        ] {
            let (out, count) = in_every_split(&redactor(&[SECRET]), form.as_bytes());
            let kept = out.iter().filter(|b| **b != b'*').count();
            assert!(kept <= exposed + 1, "{form}: {}", String::from_utf8_lossy(&out));
            assert_eq!(count, 1, "{form}");
        }
    }

    #[test]
    fn overlapping_and_nested_secrets_are_all_masked() {
        let all = redactor(&[b"abcdefghij", b"ghijklmnopqr", b"abcdefghijkl-long", b"aaaaaaaa"]);
        assert_eq!(in_every_split(&all, b"<abcdefghijklmnopqr>").0, b"<******************>");
        assert_eq!(in_every_split(&all, b"<abcdefghijkl-lonx>").0, b"<**********kl-lonx>");
        assert_eq!(in_every_split(&all, b"<abcdefghijkl-long>").0, b"<*****************>");
        assert_eq!(in_every_split(&all, b"aaaaaaa baaaaaaaaaaab").0, b"aaaaaaa b***********b");
    }

    #[test]
    fn clean_bytes_pass_as_the_same_buffer_and_nothing_is_held_at_a_line_end() {
        let mut body = redactor(&[SECRET]).start();
        let event = Bytes::from_static(b"data: {\"token\": \"ghp_\"}\n\n");
        let out = body.push(event.clone());
        assert_eq!((out.as_ptr(), out.len()), (event.as_ptr(), event.len()));
        assert!(body.finish().is_empty());
        assert_eq!(body.count(), 0);
    }

    #[test]
    fn a_header_is_masked_with_the_same_length() {
        let all = redactor(&[SECRET]);
        let echo = HeaderValue::from_bytes(&[b"Bearer ", SECRET].concat()).unwrap();
        assert_eq!(all.header(&echo).unwrap(), format!("Bearer {}", "*".repeat(SECRET.len())));
        assert_eq!(all.header(&HeaderValue::from_static("Bearer ghp_01234567")), None);
    }

    #[test]
    fn without_secrets_everything_passes() {
        let none = redactor(&[]);
        assert!(none.is_empty());
        assert_eq!(run(&none, &[b"a", b"b"]), (b"ab".to_vec(), 0));
        assert_eq!(none.header(&HeaderValue::from_static("a")), None);
    }

    #[test]
    fn debug_prints_no_needle() {
        let text = format!("{:?} {:?}", redactor(&[SECRET]), redactor(&[SECRET]).start());
        assert!(!text.contains("ghp"), "{text}");
    }
}
