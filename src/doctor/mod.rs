//! `outgate doctor`: looks at a set-up and says, check by check, what is so, how good that is, and what to do.
//!
//! From the gateway it compares the configuration with the kernel, the files and the daemon; from inside (`inside`) it
//! tries what a workload would try. It changes nothing. One file a family of checks; `cli` calls it.

mod authority;
mod ask;
mod doors;
mod gate;
mod ground;
mod inside;
mod kernel;
mod names;
mod neighbours;
mod process;
mod reach;
mod rights;
mod sockets;
mod tables;
mod trust;

use serde::Serialize;
use std::fmt;

pub use gate::gate;
pub use inside::{Inside, inside};

/// How good a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Good,
    /// Not as it could be, or not to be told from here.
    Warn,
    /// A way out, or a gate that does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub check: &'static str,
    pub verdict: Grade,
    pub fact: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn good(check: &'static str, fact: impl Into<String>) -> Self {
        Self { check, verdict: Grade::Good, fact: fact.into(), remedy: None }
    }

    fn warn(check: &'static str, fact: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Grade::Warn, fact: fact.into(), remedy: Some(remedy.into()) }
    }

    fn bad(check: &'static str, fact: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Grade::Bad, fact: fact.into(), remedy: Some(remedy.into()) }
    }
}

/// All that was looked at, in the order in which it was.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    /// Nothing is bad.
    pub fn holds(&self) -> bool {
        self.count(Grade::Bad) == 0
    }

    fn count(&self, grade: Grade) -> usize {
        self.checks.iter().filter(|check| check.verdict == grade).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
        for Check { check, verdict, fact, remedy } in &self.checks {
            let word = match verdict {
                Grade::Good => "good",
                Grade::Warn => "warn",
                Grade::Bad => "BAD",
            };
            writeln!(f, "{word:<4}  {check:<width$}  {fact}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:4}  {:width$}  -> {remedy}", "", "")?;
            }
        }
        let [good, warn, bad] = [Grade::Good, Grade::Warn, Grade::Bad].map(|grade| self.count(grade));
        writeln!(f, "{good} good, {warn} to look at, {bad} bad")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_unless_something_is_bad() {
        let mut report = Report { checks: vec![Check::good("a", "so"), Check::warn("b", "hm", "look")] };
        assert!(report.holds());
        report.checks.push(Check::bad("long", "open", "close it"));
        assert!(!report.holds());
        let text = report.to_string();
        assert!(text.contains("BAD   long  open\n            -> close it\n"), "{text}");
        assert!(text.ends_with("1 good, 1 to look at, 1 bad\n"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["checks"][2]["verdict"], "bad");
        assert!(json["checks"][0].get("remedy").is_none());
    }
}
