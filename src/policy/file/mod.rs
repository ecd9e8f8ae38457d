//! Policy files: TOML in, drafts of rules, clients, secrets and detectors out, every problem with its place. Reads
//! text only; `resolve` joins the drafts of all files, `snapshot` reads what they point to.

mod case;
mod conditions;
mod edits;
mod parts;
mod rules;
mod section;

pub(super) use case::CaseReader;
pub(super) use rules::RuleDraft;
pub(super) use section::At;

use super::client::Client;
use super::problem::{Lines, Place, Problem, Problems, SourceFile};
use crate::dlp;
use crate::secrets;
use section::{Reader, Section};
use std::path::Path;
use std::sync::Arc;
use toml::de::DeTable;

/// A policy of 100,000 host rules has about 10 MB; ten times that is a mistake.
pub(super) const MAX_FILE_BYTES: usize = 128 * 1024 * 1024;
/// Far above any policy a person or a program keeps.
pub(super) const MAX_RULES: usize = 250_000;
/// Each client has an index of its own.
pub(super) const MAX_CLIENTS: usize = 4_096;
/// What a rule lists (hosts, ports, addresses, conditions).
pub(super) const MAX_LIST: usize = 10_000;

/// What the files say, before anything was looked up by name.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) clients: Vec<(Client, Place)>,
    pub(super) secrets: Vec<(secrets::Spec, Place)>,
    pub(super) detectors: Vec<(dlp::Custom, Place)>,
    pub(super) rules: Vec<RuleDraft>,
}

/// Reads one policy file into `draft`, its problems into `problems`.
pub(super) fn read(source: &SourceFile, draft: &mut Draft, problems: &mut Problems) {
    let folder = source.path.parent().unwrap_or(Path::new(""));
    with_root(source, "the policy file", problems, |mut root| {
        let any_host = root.bool("danger_any_host").is_some_and(|flag| flag.value);
        for section in root.tables("client", "[[client]]") {
            draft.clients.extend(parts::client(section));
        }
        for section in root.tables("secret", "[[secret]]") {
            draft.secrets.extend(parts::secret(section, folder));
        }
        for section in root.tables("detector", "[[detector]]") {
            draft.detectors.extend(parts::detector(section));
        }
        for section in root.tables("rule", "[[rule]]") {
            draft.rules.extend(rules::rule(section, any_host, folder));
        }
        root.finish();
    });
}

/// Parses a file and gives its top table to `read`. A file that is empty or no TOML is a problem instead.
fn with_root(
    source: &SourceFile,
    title: &'static str,
    problems: &mut Problems,
    read: impl for<'r, 'a> FnOnce(Section<'r, 'a>),
) {
    if source.text.len() > MAX_FILE_BYTES {
        problems.push(Problem::with_file(
            &source.path,
            format!("the file is larger than {MAX_FILE_BYTES} bytes"),
        ));
        return;
    }
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let lines = Lines::new(source);
    for error in &errors {
        let place = lines.place(&error.span().unwrap_or_default());
        problems.push(place.problem(one_line(error.message())));
    }
    if !errors.is_empty() {
        return;
    }
    if table.get_ref().is_empty() {
        let problem = Problem::with_file(&source.path, "the file is empty");
        problems.push(problem.help("write its entries, or remove the file"));
        return;
    }
    let reader = Reader::new(lines);
    read(Section::new(&reader, table.get_ref(), &(0..0), title));
    for problem in reader.into_problems().0 {
        problems.push(problem);
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Names of rules, clients, secrets and detectors: they stand in records and case files.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control) && text.trim() == text
}

fn name(section: &mut Section<'_, '_>, example: &str) -> Option<Arc<str>> {
    let name = section.required("name", example)?;
    if is_name(&name.value) {
        return Some(name.value.into());
    }
    let message = "a name has 1 to 128 characters, no control characters and no blanks around it";
    section.reader.push(name.place.problem(message));
    None
}
