//! Reads a file of records and says whether it is whole: every line a record, hashes chained, numbers contiguous.
//!
//! For the command line and tests. What it cannot see is in `docs/records.md`: records taken off the very end, and a
//! chain made anew by somebody who may write the file.

use super::chain::{GENESIS, Hex, expected_hash, split_line};
use super::outlet::LINE_LIMIT;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// How many problems a report lists; it counts them all.
const PROBLEM_LIMIT: usize = 100;

/// What a file of records turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub records: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// To be compared with the `prev` of the file that continues this one.
    pub last_hash: String,
    /// What the first line continues: zeros, or the last hash of the file before.
    pub prev: Option<String>,
    /// The first problems, by line.
    pub problems: Vec<Problem>,
    pub problem_count: u64,
    /// The file ends in a line that was not completed: the daemon died while it wrote, or is writing.
    pub torn: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub line: u64,
    pub what: &'static str,
}

impl Report {
    /// A torn end is no fault: nobody was told that this record had been written.
    pub fn is_whole(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, line: u64, what: &'static str) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEM_LIMIT {
            self.problems.push(Problem { line, what });
        }
    }
}

/// Verifies one file.
pub fn verify(path: &Path) -> io::Result<Report> {
    verify_lines(BufReader::new(File::open(path)?))
}

fn verify_lines(mut input: impl BufRead) -> io::Result<Report> {
    let mut report = Report::default();
    let mut last: Option<(u64, Hex)> = None;
    let (mut line, mut scratch) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        input.by_ref().take(LINE_LIMIT as u64).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break;
        }
        if line.last() != Some(&b'\n') && line.len() < LINE_LIMIT {
            report.torn = true;
            break;
        }
        check_line(&mut report, &mut last, number, &line, &mut scratch);
    }
    if let Some((seq, hash)) = last {
        report.last_seq = seq;
        report.last_hash = String::from_utf8_lossy(&hash).into_owned();
    }
    Ok(report)
}

fn check_line(
    report: &mut Report,
    last: &mut Option<(u64, Hex)>,
    number: u64,
    line: &[u8],
    scratch: &mut Vec<u8>,
) {
    let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
    let seq = value.as_ref().and_then(|v| v.get("seq")?.as_u64());
    let (Some(value), Some(seq), Some((hashed, hash))) = (value, seq, split_line(line)) else {
        return report.problem(number, "not a record");
    };
    let stated = value.get("prev").and_then(|v| v.as_str()).and_then(|v| Hex::try_from(v.as_bytes()).ok());
    report.records += 1;
    match *last {
        Some((last_seq, last_hash)) => {
            if seq != last_seq + 1 {
                report.problem(number, "the sequence number does not follow: records were removed or moved");
            }
            if expected_hash(&last_hash, hashed, scratch) != hash {
                report
                    .problem(number, "the hash does not follow: this record or its predecessor was changed");
            }
        }
        None => {
            report.first_seq = seq;
            report.prev = stated.map(|prev| String::from_utf8_lossy(&prev).into_owned());
            match stated {
                None => {
                    report.problem(number, "the file does not begin with an open event: records were removed")
                }
                Some(prev) if (seq == 1) != (prev == GENESIS) => {
                    report.problem(number, "the first record contradicts its own number");
                }
                Some(prev) if expected_hash(&prev, hashed, scratch) != hash => {
                    report.problem(number, "the hash is not that of the record");
                }
                Some(_) => {}
            }
        }
    }
    *last = Some((seq, hash));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::Link;

    fn lines() -> Vec<Vec<u8>> {
        let mut link = Link::START;
        let zeros = "0".repeat(64);
        (0..5)
            .map(|n| {
                let mut line = Vec::new();
                let body = if n == 0 { format!("\"prev\":\"{zeros}\"") } else { format!("\"n\":{n}") };
                link.seal(&mut line, "r", body.as_bytes(), &mut Vec::new());
                line
            })
            .collect()
    }

    fn report(lines: &[Vec<u8>]) -> Report {
        verify_lines(lines.concat().as_slice()).unwrap()
    }

    #[test]
    fn an_untouched_file_is_whole() {
        let report = report(&lines());
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.records, report.first_seq, report.last_seq), (5, 1, 5));
    }

    #[test]
    fn au_08_every_edit_removal_or_move_is_found() {
        for at in 0..5 {
            let mut edited = lines();
            let text = String::from_utf8(edited[at].clone()).unwrap();
            edited[at] = text.replacen("\"run\":\"r\"", "\"run\":\"x\"", 1).into_bytes();
            assert_eq!(report(&edited).problems[0].line, at as u64 + 1);
        }
        for at in 0..4 {
            let mut removed = lines();
            removed.remove(at);
            assert!(!report(&removed).is_whole());
            let mut moved = lines();
            moved.swap(at, at + 1);
            assert!(!report(&moved).is_whole());
        }
    }

    #[test]
    fn ft_13_a_torn_end_is_told_apart_from_damage() {
        let mut torn = lines();
        torn[4].truncate(20);
        let report = report(&torn);
        assert!(report.torn && report.is_whole());
        assert_eq!(report.records, 4);
    }

    #[test]
    fn garbage_of_any_length_is_a_problem_and_nothing_worse() {
        let garbage = vec![vec![0; 3 * LINE_LIMIT], b"\n".to_vec()];
        assert!(!report(&garbage).is_whole());
        assert!(!report(&[b"null\n{}\n\xff\n".to_vec()]).is_whole());
    }
}
