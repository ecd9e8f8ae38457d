//! What the demo prints: one line a step, in colour only where a person looks at a terminal.

use super::tour::Summary;
use super::world::{AGENT, GATE, WEB};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

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
        println!("outgate demo: three throw-away namespaces, the real daemon, real clients");
        println!("  agent {AGENT}  ->  gate {GATE} | 93.184.216.1  ->  internet {WEB}");
        println!();
    }

    /// One step with its proof, or with what was seen in its place.
    pub(super) fn step(&self, number: Option<usize>, title: &str, proof: &anyhow::Result<String>) {
        let (mark, colour, text) = match proof {
            Ok(text) => ("ok    ", Colour::Green, text.clone()),
            Err(error) => ("FAILED", Colour::Red, format!("{error:#}")),
        };
        let text = self.paint(if proof.is_ok() { Colour::Dim } else { Colour::Red }, &text);
        let number = number.map(|number| number.to_string()).unwrap_or_default();
        println!("{} {number:>2} {title:<TITLE_WIDTH$}{text}", self.paint(colour, mark));
    }

    pub(super) fn end(&self, summary: &Summary, records: &Path) {
        println!();
        println!("{} All of it, in {}.", self.paint(Colour::Green, "ok"), seconds(self.start.elapsed()));
        println!("{} records of {} decisions: {}", summary.lines, summary.decisions, records.display());
    }

    pub(super) fn failed(&self, failures: usize, kept: &Path) {
        println!();
        let steps = if failures == 1 { "step" } else { "steps" };
        let words = format!("{failures} {steps} not as expected.");
        println!(
            "{} Configuration, daemon.log and records: {}",
            self.paint(Colour::Red, &words),
            kept.display()
        );
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

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
