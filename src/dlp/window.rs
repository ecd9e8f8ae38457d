//! Looks at one contiguous piece of a message: what is found, and from where on a finding may still begin.
//! Called by `detectors` with whole short values and by `stream` with what it retained plus what came.

use super::engine::{Engine, Look, Outcome};
use super::filter::{ESCAPE, Filter, NEEDLE};
use super::view::View;

/// Starts before `from` are settled; hits decided within `known` bytes were reported.
pub(super) fn examine(engine: &Engine, filter: &Filter, look: Look<'_>, from: usize, known: usize) -> Outcome {
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

/// Near the end the filter cannot see a needle whole, so every start is walked in every view until one stays open.
fn tail(engine: &Engine, look: Look<'_>, from: usize, outcome: &mut Outcome) {
    let len = look.buf.len();
    // With escapes about, every character of a needle may be an escape and carry a line break.
    let wide = look.buf.get(len.saturating_sub(NEEDLE * (ESCAPE + 2))..).unwrap_or_default();
    let reach = if memchr::memchr3(b'%', b'\\', b'\n', wide).is_some() { wide.len() } else { NEEDLE };
    for start in len.saturating_sub(reach).max(from)..len.min(outcome.open) {
        for view in View::ALL {
            engine.walk(look, view, start, outcome);
        }
        if outcome.open <= start {
            return;
        }
    }
}
