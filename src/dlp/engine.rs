//! Walks one candidate exactly: decode from its start in its view, down the trie, then the patterns that begin so.
//! Called by `window` for what the filter names and for every start near the end of what is known.

use super::pattern::{Pattern, Verdict};
use super::trie::Trie;
use super::view::{Decoder, Step, View};
use super::{Finding, Selection};

/// The compiled literal-led patterns.
pub(super) struct Engine {
    pub patterns: Vec<Pattern>,
    pub trie: Trie,
    /// Placeholders: worthless values that may look like tokens.
    pub spared: Vec<Vec<u8>>,
}

/// A match. Ordered by when it was decided, which is the order in which a byte-by-byte reader would see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    pub decided: usize,
    pub start: usize,
    pub pattern: u16,
    pub view: View,
}

/// What is looked at: a buffer, whether the message ends with it, and what is looked for.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub buf: &'a [u8],
    pub end: bool,
    pub select: Selection,
}

/// What is known of one buffer.
pub(super) struct Outcome {
    /// The earliest start of what may still become a finding.
    pub open: usize,
    /// The first hit of each pattern.
    pub hits: Vec<Hit>,
    /// Hits decided within so many bytes were reported before.
    pub known: usize,
}

impl Outcome {
    pub fn new(len: usize, known: usize) -> Self {
        Self { open: len, hits: Vec::new(), known }
    }

    fn hit(&mut self, hit: Hit) {
        if hit.decided <= self.known {
            return;
        }
        match self.hits.iter_mut().find(|other| other.pattern == hit.pattern) {
            Some(other) => *other = hit.min(*other),
            None => self.hits.push(hit),
        }
    }
}

impl Engine {
    /// Follows one start in one view. A plain reading that met an escape is tried with escapes undone too.
    pub fn walk(&self, look: Look<'_>, view: View, start: usize, outcome: &mut Outcome) {
        let mut decoder = Decoder::new(view, look.buf, start, look.end);
        let mut place = Trie::ROOT;
        let mut escapes = false;
        loop {
            match decoder.step() {
                Step::More => outcome.open = outcome.open.min(start),
                Step::Over => {}
                Step::Byte(byte) => {
                    if let Some(next) = self.trie.child(place, byte) {
                        place = next;
                        for &index in self.trie.patterns(place) {
                            escapes |= self.run(look, index, decoder, view, start, outcome);
                        }
                        continue;
                    }
                }
            }
            break;
        }
        if escapes || decoder.saw_escape() {
            self.walk(look, View::Escaped, start, outcome);
        }
    }

    /// Runs one pattern behind its beginning; says whether it met what may be an escape.
    fn run(
        &self,
        look: Look<'_>,
        index: u16,
        mut rest: Decoder<'_>,
        view: View,
        start: usize,
        outcome: &mut Outcome,
    ) -> bool {
        let Some(pattern) =
            self.patterns.get(usize::from(index)).filter(|pattern| look.select.has(pattern.kind))
        else {
            return false;
        };
        match pattern.run(&mut rest, view.before(look.buf, start), &self.spared) {
            Verdict::No => {}
            Verdict::Open => outcome.open = outcome.open.min(start),
            Verdict::Match(decided) => outcome.hit(Hit { decided, start, pattern: index, view }),
        }
        rest.saw_escape()
    }

    pub fn finding(&self, hit: Hit, base: u64) -> Option<Finding> {
        let pattern = self.patterns.get(usize::from(hit.pattern))?;
        Some(Finding {
            kind: pattern.kind,
            rule: pattern.rule.clone(),
            encoding: hit.view.encoding(),
            offset: base + hit.start as u64,
            masked: pattern.masked.clone(),
        })
    }
}
