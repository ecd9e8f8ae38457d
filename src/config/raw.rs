//! The file as it stands: a mirror for serde, private to the parser, and the places in its text.

use super::Mode;
use crate::base::HostName;
use crate::policy::Problem;
use crate::steer::Intercept;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) mode: Option<Mode>,
    pub(super) policies: Option<PathBuf>,
    pub(super) user: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) listen: Listen,
    #[serde(default)]
    pub(super) ca: Ca,
    #[serde(default)]
    pub(super) resolver: Resolver,
    #[serde(default)]
    pub(super) upstream: Upstream,
    #[serde(default)]
    pub(super) audit: Audit,
    #[serde(default)]
    pub(super) admin: Admin,
    #[serde(default)]
    pub(super) steer: Steer,
    #[serde(default)]
    pub(super) limits: BTreeMap<String, Spanned<toml::Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listen {
    pub(super) transparent: Vec<Spanned<String>>,
    pub(super) explicit: Vec<Spanned<String>>,
    pub(super) dns: Vec<Spanned<String>>,
    pub(super) quic: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ca {
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    #[serde(deserialize_with = "names")]
    pub(super) name_constraints: Vec<HostName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Resolver {
    /// `"system"`, or servers.
    pub(super) upstreams: Option<Spanned<toml::Value>>,
    pub(super) answers: Option<Answers>,
    pub(super) virtual_networks: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) virtual_epochs: Option<PathBuf>,
    pub(super) zone: Vec<Zone>,
}

/// What clients are told of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answers {
    Real,
    Virtual,
}

/// `[[resolver.zone]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Zone {
    pub(super) suffix: Spanned<String>,
    pub(super) upstreams: Spanned<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Upstream {
    pub(super) roots: Option<String>,
    pub(super) proxy: Option<RawProxy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProxy {
    pub(super) url: Spanned<String>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password: Option<Spanned<SecretFrom>>,
    #[serde(default)]
    pub(super) no_proxy: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) danger_proxy_resolves: bool,
    pub(super) roots: Option<PathBuf>,
}

/// Where a secret comes from: exactly one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SecretFrom {
    pub(super) env: Option<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) credential: Option<String>,
    pub(super) command: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Audit {
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    pub(super) socket: Option<PathBuf>,
    pub(super) http: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Steer {
    pub(super) manage: Option<bool>,
    pub(super) interfaces: Vec<String>,
    pub(super) networks: Vec<Spanned<String>>,
    pub(super) intercept: Intercept,
    pub(super) guard: Vec<String>,
    /// `outgate attach` may be used.
    pub(super) attach: Option<Spanned<bool>>,
    pub(super) attachments: Option<PathBuf>,
}

impl Raw {
    /// Leaves out what describes a gateway: its doors (one stands for those that the command gets), tables and user.
    pub(super) fn keep_for_a_command(&mut self) {
        let door = Spanned::new(0..0, "0.0.0.0:15001".to_owned());
        self.listen = Listen { transparent: vec![door], ..Listen::default() };
        self.steer = Steer { manage: Some(false), ..Steer::default() };
        self.user = None;
        self.admin = Admin::default();
    }
}

fn names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<HostName>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| HostName::from_operator(text).map_err(serde::de::Error::custom)).collect()
}

/// The text of the file, for places.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    text: &'a str,
}

/// Takes out the innermost entry that stands at this place; `false` where none does.
fn take_out(table: &mut DeTable<'_>, at: usize) -> bool {
    let mut here = None;
    for (key, value) in table.iter_mut() {
        let inside = match value.get_mut() {
            DeValue::Table(table) => take_out(table, at),
            DeValue::Array(items) => items.iter_mut().any(|item| match item.get_mut() {
                DeValue::Table(table) => take_out(table, at),
                _ => false,
            }),
            _ => false,
        };
        if inside {
            return true;
        }
        if key.span().contains(&at) || value.span().contains(&at) {
            here = Some(key.clone());
        }
    }
    here.is_some_and(|key| table.remove(&key).is_some())
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text }
    }

    /// Everything that is wrong with the form of the file, and what it says where that can be told: serde stops at the
    /// first fault, so what is at fault is taken out, and the rest is read again.
    pub(super) fn parse(&self) -> (Option<Raw>, Vec<Problem>) {
        let problem =
            |error: &toml::de::Error| self.spanned(error.span().unwrap_or(0..0), error.message().to_owned());
        let (mut table, faults) = DeTable::parse_recoverable(self.text);
        let mut problems: Vec<Problem> = faults.iter().map(problem).collect();
        if !problems.is_empty() {
            return (None, problems);
        }
        let mut only_unknown = true;
        loop {
            match Raw::deserialize(toml::Deserializer::from(table.clone())) {
                // Without what was taken out the rest may mean something else.
                Ok(raw) => return (Some(raw).filter(|_| only_unknown), problems),
                Err(error) => {
                    only_unknown &= error.message().starts_with("unknown field");
                    problems.push(problem(&error));
                    let at = error.span().map(|span| span.start);
                    if !at.is_some_and(|at| take_out(table.get_mut(), at)) {
                        return (None, problems);
                    }
                }
            }
        }
    }

    /// A problem at a value.
    pub(super) fn at<T>(&self, value: &Spanned<T>, message: impl Into<String>) -> Problem {
        self.spanned(value.span(), message)
    }

    /// A problem at the first line that holds `key`; at the top of the file where none does.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let word = key.rsplit('.').next().unwrap_or(key);
        let start = self.text.find(word).unwrap_or(0);
        self.spanned(start..start, message)
    }

    fn spanned(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let mut problem = Problem::with_file(self.path, message);
        problem.line = before.matches('\n').count() + 1;
        problem.column = before.get(line_start..).map_or(0, |line| line.chars().count()) + 1;
        problem
    }

    pub(super) fn addresses(
        &self,
        texts: &[Spanned<String>],
        problems: &mut Vec<Problem>,
    ) -> Vec<SocketAddr> {
        texts.iter().filter_map(|text| self.address(text, problems)).collect()
    }

    pub(super) fn address(&self, text: &Spanned<String>, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
        match text.as_ref().parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let help = "write ADDRESS:PORT, an IPv6 address in brackets; names are not looked up here";
                problems.push(self.at(text, "not an address and a port").help(help));
                None
            }
        }
    }

    /// Resolvers' addresses, whose ports may be left out.
    pub(super) fn servers(
        &self,
        value: &Spanned<toml::Value>,
        problems: &mut Vec<Problem>,
    ) -> Vec<SocketAddr> {
        let texts = value.as_ref().as_array().map(Vec::as_slice).unwrap_or_default();
        let server = |text: &toml::Value| {
            let text = text.as_str()?;
            text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)))
        };
        let servers: Vec<_> = texts.iter().filter_map(server).collect();
        if servers.is_empty() || servers.len() < texts.len() {
            let help =
                "write \"system\", or a list of addresses as [\"192.0.2.53\", \"[2001:db8::53]:5353\"]";
            problems.push(self.at(value, "not a list of resolvers").help(help));
        }
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let (raw, problems) = Source::new(Path::new("f"), text).parse();
        assert_eq!(
            raw.is_none(),
            problems.iter().any(|problem| !problem.message.starts_with("unknown field"))
        );
        problems.iter().map(|p| format!("{}:{} {}", p.line, p.column, p.message)).collect()
    }

    #[test]
    fn every_fault_of_the_form_is_told_with_its_place() {
        let text = "modes = \"regular\"\n[listen]\nexplicit = [\"127.0.0.1:3128\"]\ndoor = 1\n[audit]\nfile = 5\n\
                    [[resolver.zone]]\nsuffix = \"a.test\"\nupstreams = \"system\"\nmore = 1\n";
        let all = told(text);
        let starts = [
            "1:1 unknown field `modes`",
            "4:1 unknown field `door`",
            "6:8 invalid type",
            "10:1 unknown field `more`",
        ];
        for start in starts {
            assert!(all.iter().any(|told| told.starts_with(start)), "{start}: {all:#?}");
        }
        assert_eq!(all.len(), starts.len(), "{all:#?}");
        assert_eq!(told("a = \nb = ]\n").len(), 2, "those of the syntax, too");
        assert!(told("mode = \"regular\"\n").is_empty());
    }
}
