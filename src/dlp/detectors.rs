//! The compiled detectors of one policy snapshot: immutable, shared by every message judged under it.
//! Compiled by `policy`; asked directly about short values, and through [`super::Stream`] about bodies.

use super::custom::Customs;
use super::engine::{Engine, Look};
use super::filter::Filter;
use super::pattern::{Edges, Pattern};
use super::trie::Trie;
use super::{
    CompileError, Custom, Encoding, Finding, Kind, KnownSecret, MIN_SECRET, Selection, custom, rules, window,
};
use std::fmt;

pub struct Detectors {
    pub(super) engine: Engine,
    pub(super) filter: Filter,
    pub(super) customs: Option<Customs>,
}

impl Detectors {
    /// The shipped patterns, every configured secret, and what the operator wrote.
    pub fn compile(known: &[KnownSecret], custom: &[Custom]) -> Result<Self, CompileError> {
        let mut patterns = rules::shipped()?;
        for secret in known {
            if secret.value.expose().len() < MIN_SECRET {
                return Err(CompileError::ShortSecret { name: secret.name.clone() });
            }
            patterns.push(Pattern {
                kind: Kind::KnownSecrets,
                rule: secret.name.clone(),
                literal: secret.value.clone(),
                atoms: Vec::new(),
                edges: Edges::Free,
                check: None,
                entropy: 0.0,
                masked: "***".into(),
            });
        }
        let filter = Filter::build(&patterns);
        let engine = Engine { trie: Trie::build(&patterns), patterns, spared: Vec::new() };
        Ok(Self { engine, filter, customs: Customs::compile(custom)? })
    }

    /// Placeholders are worthless, but clients may demand that they look like tokens: these are no findings of `tokens`.
    pub fn sparing(mut self, placeholders: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.engine.spared.extend(placeholders);
        self
    }

    /// Looks at one whole short value: a request target, a header value, a trailer, a message. Allocates only for a finding.
    pub fn scan(&self, select: Selection, bytes: &[u8]) -> Option<Finding> {
        if select.is_empty() {
            return None;
        }
        let look = Look { buf: bytes, end: true, select };
        let hit = window::examine(&self.engine, &self.filter, look, 0, 0).hits.into_iter().min();
        hit.and_then(|hit| self.engine.finding(hit, 0)).or_else(|| self.scan_custom(select, bytes))
    }

    /// Looks at several values, each on its own; says which one it was.
    pub fn scan_each<'a>(
        &self,
        select: Selection,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<(usize, Finding)> {
        values
            .into_iter()
            .enumerate()
            .find_map(|(i, value)| self.scan(select, value).map(|finding| (i, finding)))
    }

    fn scan_custom(&self, select: Selection, bytes: &[u8]) -> Option<Finding> {
        let customs = self.customs.as_ref().filter(|_| select.has(Kind::Custom))?;
        let mut state = customs.begin();
        customs.read(&mut state, bytes).or_else(|| customs.finish(state)).map(custom_finding)
    }
}

pub(super) fn custom_finding(found: custom::Match) -> Finding {
    Finding {
        kind: Kind::Custom,
        rule: found.name,
        encoding: Encoding::Plain,
        offset: found.at,
        masked: "***".into(),
    }
}

impl fmt::Debug for Detectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detectors").field("patterns", &self.engine.patterns.len()).finish_non_exhaustive()
    }
}
