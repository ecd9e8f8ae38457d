//! How much each place in the code may log. A peer can cause some lines as often as it likes, those of libraries among
//! them, and the log may share its disk with the records. `logs` asks for each line.
//!
//! What the operator does is told in full: lines of `daemon` answer a start, a reload, an attachment. So is what only a
//! level below `info` shows, which somebody asked for to look closely.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in each [`WINDOW`]: enough to see what goes on, and by whom.
const LINES: u32 = 20;
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Whose lines have no bound.
const OPERATOR: &str = "outgate::daemon";
/// What is told of the places is one line each, however many they are.
const OWN: &str = module_path!();

/// The places that have written. There are no more than the program has.
#[derive(Default)]
pub(super) struct Sites(Mutex<HashMap<Identifier, Site>>);

struct Site {
    target: &'static str,
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Sites {
    /// Whether a line of this place may be written now.
    fn admits(&self, meta: &'static Metadata<'static>, now: Instant) -> bool {
        if *meta.level() > Level::INFO || meta.target().starts_with(OPERATOR) || meta.target() == OWN {
            return true;
        }
        let mut sites = self.lock();
        let new = Site { target: meta.target(), since: now, lines: 0, left_out: 0 };
        let site = sites.entry(meta.callsite()).or_insert(new);
        if now.duration_since(site.since) >= WINDOW {
            (site.since, site.lines) = (now, 0);
        }
        if site.lines == LINES {
            site.left_out += 1;
            return false;
        }
        site.lines += 1;
        true
    }

    /// Says how many lines were left out since this was last called.
    pub(super) fn tell(&self) {
        let left_out: Vec<(&str, u64)> = {
            let mut sites = self.lock();
            let of = |site: &mut Site| (site.target, std::mem::take(&mut site.left_out));
            sites.values_mut().map(of).filter(|(_, lines)| *lines > 0).collect()
        };
        for (from, lines) in left_out {
            tracing::warn!(
                from,
                lines,
                "lines were left out: one place writes no more than {LINES} a minute"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Site>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a subscriber that asks.
pub(super) struct Bounded(pub(super) std::sync::Arc<Sites>);

impl<S: Subscriber> Layer<S> for Bounded {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admits(event.metadata(), Instant::now())
    }
}
