//! User-defined patterns: all of them in one automaton that reads raw bytes in one pass and carries its state over chunks.
//! It cannot say where a match began, only where it ends; what is held is what the longest match could reach back to,
//! cut short wherever the automaton is at rest. Compiled by `detectors`, stepped by it and by `stream`.

use super::CompileError;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::{primitives::StateID, start, syntax};
use regex_automata::{Anchored, MatchKind};
use std::sync::Arc;

/// The longest match a user-defined pattern may have; it bounds what is held.
pub(super) const MAX_LEN: usize = 1024;
const MAX_AUTOMATON: usize = 4 << 20;

pub(super) struct Customs {
    dfa: dense::DFA<Vec<u32>>,
    names: Vec<Arc<str>>,
    longest: u64,
    begin: StateID,
    /// States in which nothing has begun.
    rest: Vec<StateID>,
}

/// Where reading stands.
#[derive(Clone, Copy)]
pub(super) struct State {
    id: StateID,
    at: u64,
    rested: u64,
}

/// A pattern matched; the end of the match is `at`.
pub(super) struct Match {
    pub name: Arc<str>,
    pub at: u64,
}

impl Customs {
    pub fn compile(customs: &[super::Custom]) -> Result<Option<Self>, CompileError> {
        let mut longest = 0;
        for custom in customs {
            longest = longest.max(measure(custom)?);
            // Alone first, so that the one that is too large is named.
            automaton(std::slice::from_ref(custom))?;
        }
        let Some(first) = customs.first() else { return Ok(None) };
        let dfa = automaton(customs)?;
        let broken = |reason: String| CompileError::Regex { name: first.name.clone(), reason };
        let begin = dfa
            .start_state(&start::Config::new().anchored(Anchored::No))
            .map_err(|e| broken(e.to_string()))?;
        let mut rest = vec![begin];
        for byte in 0..=u8::MAX {
            let config = start::Config::new().anchored(Anchored::No).look_behind(Some(byte));
            rest.push(dfa.start_state(&config).map_err(|e| broken(e.to_string()))?);
        }
        rest.sort_unstable();
        rest.dedup();
        let names = customs.iter().map(|custom| custom.name.clone()).collect();
        Ok(Some(Self { dfa, names, longest: longest as u64, begin, rest }))
    }

    pub fn begin(&self) -> State {
        State { id: self.begin, at: 0, rested: 0 }
    }

    /// Reads on; stops behind the byte that decided a match.
    pub fn read(&self, state: &mut State, bytes: &[u8]) -> Option<Match> {
        for &byte in bytes {
            state.id = self.dfa.next_state(state.id, byte);
            state.at += 1;
            if self.dfa.is_special_state(state.id) && self.dfa.is_match_state(state.id) {
                // Matches are reported one byte late.
                return Some(self.found(state.id, state.at - 1));
            }
            if self.rest.contains(&state.id) {
                state.rested = state.at;
            }
        }
        None
    }

    pub fn finish(&self, state: State) -> Option<Match> {
        let id = self.dfa.next_eoi_state(state.id);
        self.dfa.is_match_state(id).then(|| self.found(id, state.at))
    }

    /// No match that is still possible begins before this offset.
    pub fn open(&self, state: State) -> u64 {
        // A match that ends at `at` is reported one byte later, so the longest may begin one byte earlier.
        state.rested.max(state.at.saturating_sub(self.longest + 1))
    }

    fn found(&self, id: StateID, at: u64) -> Match {
        let name = self.names.get(self.dfa.match_pattern(id, 0).as_usize()).cloned().unwrap_or_default();
        Match { name, at }
    }
}

impl State {
    pub fn at(&self) -> u64 {
        self.at
    }
}

fn measure(custom: &super::Custom) -> Result<usize, CompileError> {
    let name = || custom.name.clone();
    let hir = syntax::parse_with(&custom.regex, &grammar())
        .map_err(|e| CompileError::Regex { name: name(), reason: e.to_string() })?;
    if hir.properties().minimum_len() == Some(0) {
        return Err(CompileError::Empty { name: name() });
    }
    match hir.properties().maximum_len() {
        None => Err(CompileError::Unbounded { name: name() }),
        Some(len) if len > MAX_LEN => Err(CompileError::TooLong { name: name(), len, max: MAX_LEN }),
        Some(len) => Ok(len),
    }
}

fn automaton(customs: &[super::Custom]) -> Result<dense::DFA<Vec<u32>>, CompileError> {
    let name = || customs.last().map(|custom| custom.name.clone()).unwrap_or_default();
    let patterns: Vec<&str> = customs.iter().map(|custom| custom.regex.as_str()).collect();
    dense::Builder::new()
        .syntax(grammar())
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_AUTOMATON)))
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Unanchored)
                .dfa_size_limit(Some(MAX_AUTOMATON))
                .determinize_size_limit(Some(MAX_AUTOMATON)),
        )
        .build_many(&patterns)
        .map_err(|e| {
            if e.is_size_limit_exceeded() {
                CompileError::TooLarge { name: name() }
            } else {
                CompileError::Regex { name: name(), reason: e.to_string() }
            }
        })
}

fn grammar() -> syntax::Config {
    // Bytes, so that "any character" is one byte and lengths are in bytes; word boundaries stay ASCII.
    syntax::Config::new().unicode(false).utf8(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlp::Custom;

    fn compile(regex: &str) -> Result<Option<Customs>, CompileError> {
        Customs::compile(&[Custom { name: "mine".into(), regex: regex.into() }])
    }

    #[test]
    fn dl_44_a_pattern_without_a_bound_or_too_large_is_refused() {
        assert!(matches!(compile("(?:a+)+b"), Err(CompileError::Unbounded { .. })));
        assert!(matches!(compile("x.*y"), Err(CompileError::Unbounded { .. })));
        assert!(matches!(compile("[a-z]{2000}"), Err(CompileError::TooLong { .. })));
        assert!(matches!(
            compile("(?:[a-z]{0,30}[0-9a-z]{0,30}){0,16}x"),
            Err(CompileError::TooLarge { .. } | CompileError::TooLong { .. })
        ));
        assert!(matches!(compile("a?"), Err(CompileError::Empty { .. })));
        assert!(matches!(compile("(a"), Err(CompileError::Regex { .. })));
    }

    #[test]
    fn ordinary_text_leaves_the_automaton_at_rest() {
        for regex in ["PROJ-[0-9]{6}", r"\bPROJ-[0-9]{6}\b", "(?i)internal only"] {
            let customs = compile(regex).unwrap().unwrap();
            let mut state = customs.begin();
            let text = b"The quick brown fox jumps over the lazy dog. ";
            assert!(customs.read(&mut state, text).is_none());
            assert!(customs.open(state) >= text.len() as u64 - 1, "{regex}: {}", customs.open(state));
        }
    }
}
