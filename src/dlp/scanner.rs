//! Reads one decoded message in pieces of any size: keeps just the bytes in which a finding may still begin, and a little
//! before them. What it finds does not depend on where the pieces end. Called by `stream`.

use super::detectors::{Detectors, custom_finding};
use super::engine::Look;
use super::view::CONTEXT;
use super::{Finding, Kind, Selection, custom, window};

/// Pieces are looked at in blocks of this size: the window then stays in the cache and small.
const BLOCK: usize = 16 * 1024;

pub(super) struct Scanner {
    select: Selection,
    /// What may still begin a finding, after up to [`CONTEXT`] bytes that came before it.
    window: Vec<u8>,
    /// Offset in the message of the window's first byte.
    base: u64,
    /// Starts before this place of the window are settled.
    from: usize,
    custom: Option<custom::State>,
}

/// A finding and how many bytes of the message had to be known for it; a byte more when its end had to be known.
pub(super) struct Timed {
    pub decided: u64,
    pub finding: Finding,
}

impl Scanner {
    pub fn new(detectors: &Detectors, select: Selection) -> Self {
        let customs = detectors.customs.as_ref().filter(|_| select.has(Kind::Custom));
        Self { select, window: Vec::new(), base: 0, from: 0, custom: customs.map(|customs| customs.begin()) }
    }

    /// Reads on, and at `end` settles everything. Stops after the first block with findings when `first` is asked for;
    /// returns them in the order in which they were decided.
    pub fn read(&mut self, detectors: &Detectors, bytes: &[u8], end: bool, first: bool) -> Vec<Timed> {
        let mut found = Vec::new();
        for block in bytes.chunks(BLOCK) {
            self.look(detectors, block, false, &mut found);
            if first && !found.is_empty() {
                return found;
            }
        }
        if end {
            self.look(detectors, &[], true, &mut found);
        }
        found
    }

    /// No finding can begin before this offset any more.
    pub fn open(&self, detectors: &Detectors) -> u64 {
        let open = self.base + self.from as u64;
        match (&detectors.customs, self.custom) {
            (Some(customs), Some(state)) => open.min(customs.open(state)),
            _ => open,
        }
    }

    fn look(&mut self, detectors: &Detectors, block: &[u8], end: bool, found: &mut Vec<Timed>) {
        let known = self.window.len();
        self.window.extend_from_slice(block);
        let look = Look { buf: &self.window, end, select: self.select };
        let mut outcome = window::examine(&detectors.engine, &detectors.filter, look, self.from, known);
        let begun = found.len();
        outcome.hits.sort_unstable();
        found.extend(outcome.hits.iter().filter_map(|hit| {
            let finding = detectors.engine.finding(*hit, self.base)?;
            Some(Timed { decided: self.base + hit.decided as u64, finding })
        }));
        self.look_custom(detectors, block, end, found);
        if let Some(new) = found.get_mut(begun..) {
            new.sort_by_key(|timed| timed.decided);
        }
        let settled = outcome.open.saturating_sub(CONTEXT);
        self.window.drain(..settled);
        self.base += settled as u64;
        self.from = outcome.open - settled;
    }

    fn look_custom(&mut self, detectors: &Detectors, block: &[u8], end: bool, found: &mut Vec<Timed>) {
        let (Some(customs), Some(state)) = (&detectors.customs, &mut self.custom) else { return };
        let begin = state.at();
        while let Some(rest) = block.get((state.at() - begin) as usize..)
            && let Some(found_one) = customs.read(state, rest)
        {
            if !found
                .iter()
                .any(|timed| timed.finding.kind == Kind::Custom && timed.finding.rule == found_one.name)
            {
                found.push(Timed { decided: state.at(), finding: custom_finding(found_one) });
            }
        }
        if end && let Some(found_one) = customs.finish(*state) {
            found.push(Timed { decided: state.at() + 1, finding: custom_finding(found_one) });
        }
    }
}
