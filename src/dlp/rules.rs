//! The shipped patterns: reads `tokens.toml` once a process. Called by `detectors`.

use super::check::Check;
use super::pattern::{self, Atom, Edges, Pattern};
use super::{CompileError, Kind};
use crate::base::SecretBytes;
use serde::Deserialize;
use std::sync::{Arc, LazyLock};

const SOURCE: &str = include_str!("tokens.toml");
const SHORTEST_PREFIX: usize = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    token: Vec<Entry>,
    private_key: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    prefixes: Vec<String>,
    rest: String,
    #[serde(default)]
    edges: Edges,
    check: Option<Check>,
    #[serde(default)]
    entropy: f32,
}

#[derive(Clone)]
struct Rule {
    kind: Kind,
    name: Arc<str>,
    prefix: SecretBytes,
    masked: String,
    atoms: Vec<Atom>,
    edges: Edges,
    check: Option<Check>,
    entropy: f32,
}

/// One pattern for each prefix of each shipped entry.
pub(super) fn shipped() -> Result<Vec<Pattern>, CompileError> {
    static RULES: LazyLock<Result<Vec<Rule>, String>> = LazyLock::new(|| read(SOURCE));
    match &*RULES {
        Ok(rules) => Ok(rules.iter().cloned().map(Rule::pattern).collect()),
        Err(reason) => Err(CompileError::Shipped(reason.clone())),
    }
}

impl Rule {
    fn pattern(self) -> Pattern {
        Pattern {
            kind: self.kind,
            rule: self.name,
            literal: self.prefix,
            atoms: self.atoms,
            edges: self.edges,
            check: self.check,
            entropy: self.entropy,
            masked: self.masked,
        }
    }
}

fn read(source: &str) -> Result<Vec<Rule>, String> {
    let file: File = toml::from_str(source).map_err(|e| e.to_string())?;
    let tokens = file.token.iter().map(|entry| (Kind::Tokens, entry));
    let keys = file.private_key.iter().map(|entry| (Kind::PrivateKeys, entry));
    let mut rules = Vec::new();
    for (kind, entry) in tokens.chain(keys) {
        let atoms = pattern::atoms(&entry.rest).map_err(|reason| format!("{}: {reason}", entry.name))?;
        if entry.check.is_some() && atoms.iter().any(|atom| atom.min < atom.max) {
            return Err(format!("{}: a checksum needs a fixed length", entry.name));
        }
        let least: usize = atoms.iter().map(|atom| usize::from(atom.min)).sum();
        for prefix in &entry.prefixes {
            if prefix.len() < SHORTEST_PREFIX || prefix.len() + least < 4 {
                return Err(format!("{}: prefix {prefix:?} is too short", entry.name));
            }
            rules.push(Rule {
                kind,
                name: entry.name.as_str().into(),
                prefix: SecretBytes::new(prefix.clone().into_bytes()),
                masked: format!("{prefix}***"),
                atoms: atoms.clone(),
                edges: entry.edges,
                check: entry.check,
                entropy: entry.entropy,
            });
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_sound_and_broad() {
        let file: File = toml::from_str(SOURCE).unwrap();
        assert!(file.token.len() >= 80, "{}", file.token.len());
        let mut names: Vec<_> = file.token.iter().chain(&file.private_key).map(|entry| &entry.name).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "a name is used twice");
        assert!(shipped().is_ok());
    }
}
