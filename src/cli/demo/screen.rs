//! What the demo prints: one line a step, in colour only where a person looks at a terminal.

use super::tour::Summary;
use super::world::{AGENT, GATE, WEB};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

/// Room for what a step is about, so that the proofs stand below each other.
const TITLE_WIDTH: usize = 31;

#[derive(Debug)]
pub(super) struct Screen {
    coloured: bool,
    start: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Colour {
    Green,
    Red,
    Dim,
}

impl Screen {
    pub(super) fn new() -> Self {
        // https://no-color.org: any value but the empty one.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: std::io::stdout().is_terminal() && !refused, start: Instant::now() }
    }

    pub(super) fn title(&self) {
        say(&format!(
            "outgate demo: three throw-away namespaces, the real daemon, real clients\n\
             \x20 agent {AGENT}  ->  gate {GATE} | 93.184.216.1  ->  internet {WEB}\n\n"
        ));
    }

    /// One step with its proof, or with what was seen in its place.
    pub(super) fn step(&self, number: Option<usize>, title: &str, proof: &anyhow::Result<String>) {
        let (mark, colour, text) = match proof {
            Ok(text) => ("ok    ", Colour::Green, text.clone()),
            Err(error) => ("FAILED", Colour::Red, format!("{error:#}")),
        };
        let text = self.paint(if proof.is_ok() { Colour::Dim } else { Colour::Red }, &text);
        let number = number.map(|number| number.to_string()).unwrap_or_default();
        say(&format!("{} {number:>2} {title:<TITLE_WIDTH$}{text}\n", self.paint(colour, mark)));
    }

    pub(super) fn end(&self, summary: &Summary, records: &Path) {
        say(&format!(
            "\n{} in {:.1} s. {} records of {} decisions, kept for you:\n  {}\n",
            self.paint(Colour::Green, "All as expected"),
            self.start.elapsed().as_secs_f64(),
            summary.lines,
            summary.decisions,
            records.display()
        ));
    }

    pub(super) fn failed(&self, failures: usize, kept: &Path) {
        let steps = if failures == 1 { "step" } else { "steps" };
        let words = format!("{failures} {steps} not as expected.");
        say(&format!(
            "\n{} Configuration, daemon.log and records are kept in\n  {}\n",
            self.paint(Colour::Red, &words),
            kept.display()
        ));
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => 32,
            Colour::Red => 31,
            Colour::Dim => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A reader that has gone away misses the rest; the tour still takes down what it built.
fn say(text: &str) {
    let _ = crate::cli::out(text);
}
