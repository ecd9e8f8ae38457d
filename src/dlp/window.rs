//! Looks at one contiguous piece of a message: what is found, and from where on a finding may still begin.
//! Called by `detectors` with whole short values and by `stream` with what it retained plus what came.

use super::engine::{Engine, Look, Outcome};
use super::filter::{ESCAPE, Filter, NEEDLE};
use super::view::{Decoder, Step, View};

/// Starts before `from` are settled; hits decided within `known` bytes were reported.
pub(super) fn examine(
    engine: &Engine,
    filter: &Filter,
    look: Look<'_>,
    from: usize,
    known: usize,
) -> Outcome {
    let mut outcome = Outcome::new(look.buf.len(), known);
    filter.candidates(look.buf, |view, start| {
        if start >= from {
            engine.walk(look, view, start, &mut outcome);
        }
    });
    if !look.end {
        tail(engine, look, from, &mut outcome);
    }
    outcome
}

/// Near the end the filter cannot see a needle whole, so every start is walked in every view that its first character can
/// begin, until one stays open.
fn tail(engine: &Engine, look: Look<'_>, from: usize, outcome: &mut Outcome) {
    for start in reach(look.buf).max(from)..look.buf.len().min(outcome.open) {
        let views = look.buf.get(start).map_or(0, |byte| engine.trie.views(*byte));
        for (_, view) in (0..).zip(View::ALL).filter(|(i, _)| views >> i & 1 == 1) {
            engine.walk(look, view, start, outcome);
        }
        if outcome.open <= start {
            return;
        }
    }
}

/// Where the last [`NEEDLE`] characters begin: further back where they are escapes or have line breaks between them.
fn reach(buf: &[u8]) -> usize {
    let near = buf.len().saturating_sub(NEEDLE);
    let wide = buf.len().saturating_sub(NEEDLE * (ESCAPE + 2));
    if buf.get(wide..).is_none_or(|bytes| memchr::memchr3(b'%', b'\\', b'\n', bytes).is_none()) {
        return near;
    }
    let mut starts = [near; NEEDLE];
    let mut decoder = Decoder::new(View::Escaped, buf, wide, true);
    let mut count = 0;
    loop {
        let start = decoder.at();
        match decoder.step() {
            Step::Byte(b'\r' | b'\n') => {}
            Step::Byte(_) => {
                if let Some(slot) = starts.get_mut(count % NEEDLE) {
                    *slot = start;
                }
                count += 1;
            }
            Step::Over | Step::More => break,
        }
    }
    starts.into_iter().min().unwrap_or(near).min(near)
}
