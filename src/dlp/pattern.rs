//! One shape that a secret can have: a literal beginning, then counted byte classes, then what must not stand around it.
//! Every pattern has a longest match and is matched in one forward walk without going back, over any view.
//! Compiled by `rules` and `detectors`; run by `engine` once the literal beginning was seen.

use super::check::{Check, entropy};
use super::view::{Decoder, Step, sextet};
use super::{Kind, trie};
use crate::base::SecretBytes;
use regex_syntax::hir::{Class, Hir, HirKind};
use std::sync::Arc;

/// The variable part of a pattern is at most this long; it bounds what is held and what a candidate costs.
pub(super) const MAX_VARIABLE: usize = 256;

pub(super) struct Pattern {
    pub kind: Kind,
    pub rule: Arc<str>,
    /// How it begins; the whole of it for a known secret.
    pub literal: SecretBytes,
    pub atoms: Vec<Atom>,
    pub edges: Edges,
    pub check: Option<Check>,
    /// Least entropy of the variable part, in bits a byte.
    pub entropy: f32,
    /// What a finding may show.
    pub masked: String,
}

/// What must not stand beside a match: keeps short prefixes from being found inside longer runs of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Edges {
    /// Nothing is asked; found as soon as the shortest form is there.
    #[default]
    Free,
    /// No letter, digit or further byte of the last class may follow.
    End,
    /// And no letter, digit, `-` or `_` may stand before it.
    Word,
    /// And no `+` or `/` on either side: for what may stand in base64 by chance.
    Apart,
    /// A digit must stand before it, and `End`.
    Number,
}

/// `min` to `max` bytes of a set.
#[derive(Clone, Debug)]
pub(super) struct Atom {
    pub set: ByteSet,
    pub min: u16,
    pub max: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    No,
    /// The bytes end while it may still become a match.
    Open,
    /// Decided when this many bytes of the buffer were known.
    Match(usize),
}

impl Pattern {
    /// Runs behind the part of the literal that the trie has walked. `before` is the decoded byte in front of the match.
    /// What `spared` begins with is no match.
    pub fn run(&self, decoder: &mut Decoder<'_>, before: Option<u8>, spared: &[Vec<u8>]) -> Verdict {
        let front = match self.edges {
            Edges::Free | Edges::End => true,
            Edges::Word => {
                !before.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            }
            Edges::Apart => before.is_none_or(|byte| sextet(byte).is_none()),
            Edges::Number => before.is_some_and(|byte| byte.is_ascii_digit()),
        };
        if !front && self.check.is_none() {
            return Verdict::No;
        }
        for &wanted in self.literal.expose().iter().skip(trie::DEPTH) {
            match decoder.step() {
                Step::Byte(byte) if byte == wanted => {}
                Step::Byte(_) | Step::Over => return Verdict::No,
                Step::More => return Verdict::Open,
            }
        }
        let mut variable = Variable::default();
        let mut ahead = None;
        for (i, atom) in self.atoms.iter().enumerate() {
            let enough =
                if self.edges == Edges::Free && i + 1 == self.atoms.len() { atom.min } else { atom.max };
            let mut count = 0;
            while count < enough {
                match ahead.take().unwrap_or_else(|| decoder.step()) {
                    Step::Byte(byte) if atom.set.has(byte) => {
                        variable.push(byte);
                        count += 1;
                    }
                    Step::More => return Verdict::Open,
                    _ if count < atom.min => return Verdict::No,
                    other => {
                        ahead = Some(other);
                        break;
                    }
                }
            }
        }
        if self.kind == Kind::Tokens && spared.iter().any(|value| self.begins(value, variable.bytes())) {
            return Verdict::No;
        }
        self.judge(decoder, ahead, front, variable.bytes())
    }

    /// Whether a byte behind the match says that it is part of something longer.
    fn goes_on(&self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric()
            || self.atoms.last().is_some_and(|last| last.set.has(byte))
            || (self.edges == Edges::Apart && matches!(byte, b'+' | b'/'))
    }

    fn begins(&self, value: &[u8], variable: &[u8]) -> bool {
        value.strip_prefix(self.literal.expose()).is_some_and(|rest| rest.starts_with(variable))
    }

    /// The shape is there: is it one of its kind, and does it stand alone?
    fn judge(&self, decoder: &mut Decoder<'_>, ahead: Option<Step>, front: bool, variable: &[u8]) -> Verdict {
        // A right checksum is believed anywhere; without one the token must stand alone and look random.
        if self.check.is_some_and(|check| check.holds(variable)) {
            return Verdict::Match(decoder.decided());
        }
        if !front || (self.entropy > 0.0 && entropy(variable) < self.entropy) {
            return Verdict::No;
        }
        if self.edges == Edges::Free {
            return Verdict::Match(decoder.decided());
        }
        match ahead.unwrap_or_else(|| decoder.step()) {
            Step::More => Verdict::Open,
            Step::Byte(byte) if self.goes_on(byte) => Verdict::No,
            Step::Byte(_) | Step::Over => Verdict::Match(decoder.decided()),
        }
    }
}

struct Variable {
    bytes: [u8; MAX_VARIABLE],
    len: usize,
}

impl Default for Variable {
    fn default() -> Self {
        Self { bytes: [0; MAX_VARIABLE], len: 0 }
    }
}

impl Variable {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    pub fn insert(&mut self, byte: u8) {
        if let Some(word) = self.0.get_mut(usize::from(byte >> 6)) {
            *word |= 1 << (byte & 63);
        }
    }

    pub fn has(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
    }

    pub fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|&byte| self.has(byte))
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }
}

/// Reads the part of a shipped pattern behind its prefix: a sequence of classes and literals with bounded counts.
pub(super) fn atoms(regex: &str) -> Result<Vec<Atom>, String> {
    let hir = regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .parse(regex)
        .map_err(|e| e.to_string())?;
    let mut atoms = Vec::new();
    flatten(&hir, 1, 1, &mut atoms)?;
    for (i, atom) in atoms.iter().enumerate().filter(|(_, atom)| atom.min < atom.max) {
        for next in atoms.iter().skip(i + 1) {
            if atom.set.meets(&next.set) {
                return Err("a counted class overlaps with what follows it".into());
            }
            if next.min > 0 {
                break;
            }
        }
    }
    let longest: usize = atoms.iter().map(|atom| usize::from(atom.max)).sum();
    if longest > MAX_VARIABLE {
        return Err(format!("may match {longest} bytes, more than {MAX_VARIABLE}"));
    }
    Ok(atoms)
}

fn flatten(hir: &Hir, min: u32, max: u32, atoms: &mut Vec<Atom>) -> Result<(), String> {
    let once = min == 1 && max == 1;
    match hir.kind() {
        HirKind::Empty => Ok(()),
        HirKind::Literal(literal) if once || literal.0.len() == 1 => {
            for &byte in literal.0.iter() {
                let mut set = ByteSet::default();
                set.insert(byte);
                atoms.push(atom(set, min, max)?);
            }
            Ok(())
        }
        HirKind::Class(Class::Bytes(class)) => {
            let mut set = ByteSet::default();
            class.iter().flat_map(|range| range.start()..=range.end()).for_each(|byte| set.insert(byte));
            atoms.push(atom(set, min, max)?);
            Ok(())
        }
        HirKind::Repetition(repeat) if once => {
            let max = repeat.max.ok_or("a repetition has no upper bound")?;
            flatten(&repeat.sub, repeat.min, max, atoms)
        }
        HirKind::Capture(group) => flatten(&group.sub, min, max, atoms),
        HirKind::Concat(parts) if once => parts.iter().try_for_each(|part| flatten(part, 1, 1, atoms)),
        _ => Err("only classes, literals and counted repetitions of one of them are understood".into()),
    }
}

fn atom(set: ByteSet, min: u32, max: u32) -> Result<Atom, String> {
    let narrow = |n: u32| u16::try_from(n).map_err(|_| "a count is too large".to_string());
    Ok(Atom { set, min: narrow(min)?, max: narrow(max)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_cannot_be_walked_forward_is_refused() {
        for bad in [
            "[a-z]+",
            "[a-z]{2,}",
            "[a-z]{1,3}b",
            "(?:ab|cd)",
            "[a-z]{300}",
            "(?:[a-z]{2}x){3}",
            "[a-z]{0,2}[0-9]{0,2}a",
        ] {
            assert!(atoms(bad).is_err(), "{bad}");
        }
        for good in ["[a-z]{36}", "[0-9]{2,4}-[a-z]{3}", "x[a-f0-9]{2}T3", "[a-z]{1,3}[0-9]"] {
            assert!(atoms(good).is_ok(), "{good}");
        }
    }
}
