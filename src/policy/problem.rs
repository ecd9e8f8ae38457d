//! What is wrong with a policy: every problem with its place and a way out, in the order of files and lines.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file as it was read.
#[derive(Debug, Clone)]
pub struct SourceFile {
    pub path: PathBuf,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 where the problem is with the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub message: String,
    /// The way out.
    pub help: Option<String>,
    /// Worth knowing, but the policy loads.
    pub warning: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

/// More than this in one report helps nobody.
const MAX_PROBLEMS: usize = 1_000;

impl Problem {
    pub fn with_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
            help: None,
            warning: false,
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Problems {
    pub fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(problem);
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|p| !p.warning)
    }

    /// Errors first make it fail; what is left are warnings.
    pub(super) fn into_result(mut self) -> Result<Vec<Problem>, Self> {
        self.0.sort();
        self.0.dedup();
        if self.has_errors() { Err(self) } else { Ok(self.0) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: {}", if self.warning { "warning" } else { "error" }, self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n    help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// A place in a file, kept with what was read there until all checks are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Arc<Path>,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { line: self.line, column: self.column, ..Problem::with_file(&self.file, message) }
    }

    pub(super) fn warning(&self, message: impl Into<String>) -> Problem {
        Problem { warning: true, ..self.problem(message) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Where lines begin in a text, so that a place costs a search and not a walk.
pub(super) struct Lines<'a> {
    file: Arc<Path>,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(source: &'a SourceFile) -> Self {
        let text = source.text.as_str();
        let starts =
            std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Self { file: source.path.as_path().into(), text, starts }
    }

    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let at = span.start.min(self.text.len());
        let line = self.starts.partition_point(|&start| start <= at);
        let start = line.checked_sub(1).and_then(|l| self.starts.get(l)).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count()) + 1;
        Place { file: self.file.clone(), line: line.max(1), column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = SourceFile { path: "a.toml".into(), text: "ab\n\u{fc}x\n".into() };
        let lines = Lines::new(&source);
        let place = lines.place(&(5..6));
        assert_eq!((place.line, place.column), (2, 2));
        assert_eq!(lines.place(&(0..1)).line, 1);
        assert_eq!(lines.place(&(900..901)).line, 3);
    }
}
