//! What was allowed and denied while the command ran, read off the records: counts by host and rule, and how to allow
//! what was denied first.

use crate::audit::Sink;
use crate::base::HostName;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

/// Hosts with their rules that are told apart; what comes later is counted as one.
const MOST_GROUPS: usize = 1000;
/// What a person reads at the end of a build.
const MOST_LINES: usize = 12;
const MOST_WAYS: usize = 5;
/// A name in a record has at most 255 characters; some fields that stand in for one are longer.
const LONGEST_HOST: usize = 80;

/// Where the records of this run begin.
pub(super) struct Begun {
    path: PathBuf,
    from: u64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Account {
    records: PathBuf,
    allowed: u64,
    denied: u64,
    /// Packets to ports and of protocols that lead to no door: they have no record.
    refused_packets: u64,
    /// The most frequent first.
    hosts: Vec<Group>,
    /// In the order in which they came.
    first_denied: Vec<Denied>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Group {
    host: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// Why it was denied; of an allowed name, why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Denied {
    host: String,
    reason: String,
    way: Way,
}

/// Host, allowed, rule, reason.
type Key = (String, bool, Option<String>, Option<String>);

/// What would let it pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// No rule speaks for this host.
    AddHost(String),
    /// What rule is in the way tells `outgate explain`.
    Explain(String),
    /// What the gate said.
    Words(String),
}

/// The fields of a record that matter here (`docs/records.md`).
#[derive(Deserialize)]
struct Line {
    kind: String,
    verdict: Option<String>,
    reason: Option<String>,
    rule: Option<String>,
    detail: Option<String>,
    door: Option<String>,
    scheme: Option<String>,
    authority: Option<String>,
    method: Option<String>,
    path: Option<String>,
    sni: Option<String>,
    qname: Option<String>,
    rcode: Option<String>,
    orig_dst: Option<String>,
}

impl Account {
    pub(super) fn begin(sink: &Sink) -> Begun {
        let path = match sink {
            Sink::File(path) => path.clone(),
            Sink::Stdout => PathBuf::new(),
        };
        let from = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        Begun { path, from }
    }

    fn count(&mut self, groups: &mut BTreeMap<Key, u64>, line: Line) {
        // An allowed name that has no answer is all that is seen of what wanted to go there.
        if let Some(rcode) = line.rcode.clone().filter(|rcode| line.kind == "end" && rcode != "NOERROR") {
            return add(groups, (line.host(), true, None, Some(rcode)));
        }
        let Some(verdict) = line.verdict.as_deref().filter(|_| line.kind == "decision") else { return };
        let allowed = verdict != "deny";
        // An allowed question is followed by what it was asked for.
        if allowed && line.door.as_deref() == Some("dns") {
            return;
        }
        *(if allowed { &mut self.allowed } else { &mut self.denied }) += 1;
        let host = line.host();
        let reason = line.reason.clone().filter(|_| !allowed);
        let known = |denied: &Denied| denied.host == host && Some(&denied.reason) == reason.as_ref();
        if !allowed && self.first_denied.len() < MOST_GROUPS && !self.first_denied.iter().any(known) {
            let way = line.way(&host);
            let reason = reason.clone().unwrap_or_default();
            self.first_denied.push(Denied { host: host.clone(), reason, way });
        }
        add(groups, (host, allowed, line.rule.filter(|_| allowed), reason));
    }
}

fn add(groups: &mut BTreeMap<Key, u64>, mut key: Key) {
    if groups.len() >= MOST_GROUPS && !groups.contains_key(&key) {
        key = ("(others)".to_owned(), key.1, None, None);
    }
    *groups.entry(key).or_default() += 1;
}

impl Begun {
    pub(super) fn end(self, refused_packets: u64) -> anyhow::Result<Account> {
        let mut account = Account { records: self.path.clone(), refused_packets, ..Account::default() };
        let mut groups = BTreeMap::new();
        let unreadable = || format!("the records in {} cannot be read again", self.path.display());
        let mut file = File::open(&self.path).with_context(unreadable)?;
        file.seek(SeekFrom::Start(self.from)).with_context(unreadable)?;
        for line in BufReader::new(file).lines() {
            if let Ok(line) = serde_json::from_str(&line.with_context(unreadable)?) {
                account.count(&mut groups, line);
            }
        }
        let group = |((host, allowed, rule, reason), count)| Group { host, allowed, rule, reason, count };
        account.hosts = groups.into_iter().map(group).collect();
        account.hosts.sort_by(|a, b| (b.allowed, b.count, &a.host).cmp(&(a.allowed, a.count, &b.host)));
        Ok(account)
    }
}

impl Line {
    fn host(&self) -> String {
        let stated = [&self.qname, &self.authority, &self.sni, &self.orig_dst].into_iter().flatten().next();
        let stated = stated.map_or("(no name)", String::as_str);
        let bare = match stated.rsplit_once(':') {
            Some((host, port))
                if !host.contains(':') && port.parse::<u16>().is_ok_and(|n| n == 443 || n == 80) =>
            {
                host
            }
            _ => stated,
        };
        shown(&bare.trim_end_matches('.').chars().take(LONGEST_HOST).collect::<String>())
    }

    fn way(&self, host: &str) -> Way {
        let class = self.reason.as_deref().unwrap_or_default();
        let is_name = HostName::from_operator(host).is_ok() && host.contains('.');
        let no_rule = matches!(class, "no_rule" | "dns_denied") && is_name;
        if no_rule && self.scheme.as_deref() != Some("http") {
            return Way::AddHost(host.to_owned());
        }
        // It is meant to be typed into a shell, and a method may hold any sign of its language.
        let method = self.method.as_deref().filter(|method| method.bytes().all(|b| b.is_ascii_alphabetic()));
        match (method, &self.authority) {
            (Some(method), Some(_)) if method != "CONNECT" && is_name => {
                let scheme = self.scheme.as_deref().unwrap_or("https");
                let path: String = self.path.as_deref().unwrap_or("/").chars().take(LONGEST_HOST).collect();
                Way::Explain(format!(
                    "{method} '{}'",
                    shown(&format!("{scheme}://{host}{path}")).replace('\'', "%27")
                ))
            }
            _ => Way::Words(shown(self.detail.as_deref().unwrap_or(class))),
        }
    }
}

/// A peer wrote it, and it goes to a terminal.
fn shown(text: &str) -> String {
    let harmless = |c: char| {
        if c.is_ascii_graphic() || c == ' ' { c.to_string() } else { c.escape_unicode().to_string() }
    };
    text.chars().map(harmless).collect()
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "outgate: {} allowed, {} denied; records: {}",
            self.allowed,
            self.denied,
            self.records.display()
        )?;
        for group in self.hosts.iter().take(MOST_LINES) {
            let word = match (group.allowed, &group.reason) {
                (true, None) => "allowed",
                (true, Some(_)) => "failed",
                (false, _) => "denied",
            };
            write!(f, "  {word:7} {:5}  {:32}", group.count, group.host)?;
            match (&group.rule, &group.reason) {
                (Some(rule), _) => writeln!(f, "  rule {rule:?}")?,
                (None, Some(reason)) => writeln!(f, "  {reason}")?,
                (None, None) => writeln!(f)?,
            }
        }
        if self.hosts.len() > MOST_LINES {
            writeln!(
                f,
                "  and {} more lines like these (--json FILE has all)",
                self.hosts.len() - MOST_LINES
            )?;
        }
        if self.refused_packets > 0 {
            writeln!(
                f,
                "  refused {:5}  packets to ports or of protocols that no rule opens (DNS, http and https go on)",
                self.refused_packets
            )?;
        }
        self.ways(f)
    }
}

impl Account {
    fn ways(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hosts: Vec<&str> = Vec::new();
        let mut others = Vec::new();
        for denied in &self.first_denied {
            match &denied.way {
                Way::AddHost(host) if !hosts.contains(&host.as_str()) => hosts.push(host),
                Way::AddHost(_) => {}
                Way::Explain(request) => others.push(format!("outgate explain {request}")),
                Way::Words(words) => others.push(format!("{}: {words}", denied.host)),
            }
        }
        if !hosts.is_empty() {
            let listed: Vec<_> = hosts.iter().take(MOST_WAYS).map(|host| format!("{host:?}")).collect();
            writeln!(f, "to allow what no rule speaks for, in the policy folder:")?;
            writeln!(
                f,
                "  [[rule]]\n  name   = \"allowed after a look\"\n  hosts  = [{}]",
                listed.join(", ")
            )?;
            writeln!(f, "  action = \"allow\"")?;
        }
        if !others.is_empty() {
            writeln!(f, "why the first others were denied:")?;
        }
        for other in others.iter().take(MOST_WAYS) {
            writeln!(f, "  {other}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(lines: &[&str]) -> Account {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        std::fs::write(&path, "earlier\n").unwrap();
        let begun = Account::begin(&Sink::File(path.clone()));
        std::fs::write(&path, format!("earlier\n{}\n", lines.join("\n"))).unwrap();
        begun.end(0).unwrap()
    }

    #[test]
    fn hosts_are_counted_and_what_is_missing_is_written_out() {
        let allowed = r#"{"kind":"decision","verdict":"allow","rule":"good","door":"transparent","authority":"api.good.test"}"#;
        let account = account(&[
            r#"{"kind":"decision","verdict":"allow","rule":"good","door":"dns","qname":"api.good.test"}"#,
            allowed,
            allowed,
            r#"{"kind":"end","outcome":"done"}"#,
            r#"{"kind":"end","outcome":"done","qname":"api.good.test","rcode":"NOERROR"}"#,
            r#"{"kind":"end","outcome":"done","qname":"gone.good.test","rcode":"SERVFAIL"}"#,
            r#"{"kind":"decision","verdict":"deny","reason":"dns_denied","door":"dns","qname":"evil.test."}"#,
            r#"{"kind":"decision","verdict":"deny","reason":"path_denied","scheme":"https","authority":"api.good.test","method":"GET","path":"/x'y"}"#,
            r#"{"kind":"decision","verdict":"deny","reason":"no_rule","orig_dst":"8.8.8.8:443","detail":"no name"}"#,
            "torn",
        ]);
        assert_eq!((account.allowed, account.denied), (2, 3));
        let text = account.to_string();
        assert!(text.contains("allowed     2  api.good.test") && text.contains("rule \"good\""), "{text}");
        assert!(text.contains("failed      1  gone.good.test") && text.contains("  SERVFAIL"), "{text}");
        assert!(text.contains("hosts  = [\"evil.test\"]"), "{text}");
        assert!(text.contains("outgate explain GET 'https://api.good.test/x%27y'"), "{text}");
        assert!(text.contains("8.8.8.8: no name"), "{text}");
    }

    #[test]
    fn what_a_peer_wrote_cannot_move_the_cursor() {
        let line = r#"{"kind":"decision","verdict":"deny","reason":"no_rule","authority":"a\u001b[2J","detail":"\u001b[1A"}"#;
        assert!(!account(&[line]).to_string().contains('\u{1b}'));
        let line = r#"{"kind":"decision","verdict":"deny","reason":"method_denied","authority":"a.test","method":"$(x)|`x`","path":"/"}"#;
        assert!(!account(&[line]).to_string().contains("explain"));
    }
}
