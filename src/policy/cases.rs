//! Case files: tests of a policy that a person can read, run offline by `outgate test` and before a reload.
//!
//! ```toml
//! [[case]]
//! name    = "the repository can be read"
//! request = "GET https://api.github.com/repos/acme/site"   # or connect = "host:port", tcp = "host:port", dns = "host"
//! client  = "agent"                                          # needed where there is more than one
//! expect  = "allow"                                          # allow | deny | tunnel | observe
//! rule    = "read the repository"
//! reason  = "path_denied"
//! ```

use super::client::ClientId;
use super::explain::{Finding, Verdict};
use super::file::CaseReader;
use super::problem::{Problems, SourceFile};
use super::request_line::{RequestLineError, read_request_line};
use super::snapshot::read_folder;
use super::{CanonicalRequest, ConnectVerdict, DnsVerdict, OnMatch, Snapshot};
use crate::base::{Authority, Host, HostName};
use http::{HeaderMap, HeaderValue};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One `[[case]]`.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) client: Option<String>,
    pub(super) asked: Asked,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) expect: Verdict,
    pub(super) rule: Option<String>,
    pub(super) reason: Option<String>,
}

#[derive(Debug)]
pub(super) enum Asked {
    Request(String),
    /// A TLS connection, before any request in it.
    Connect(Authority),
    /// Raw TCP.
    Tcp(Authority),
    /// An address of a name.
    Dns(HostName),
}

/// What running the case files gave.
#[derive(Debug, Default)]
pub struct CaseReport {
    pub passed: usize,
    pub failures: Vec<Failure>,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub file: PathBuf,
    pub line: usize,
    pub name: String,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {:?}: {}", self.file.display(), self.line, self.name, self.message)
    }
}

impl Snapshot {
    /// Runs every `*.cases.toml` of the folder. An unreadable or wrong case file is an error, not a failure.
    pub fn run_cases(self: &Arc<Self>, dir: &Path) -> Result<CaseReport, Problems> {
        self.run_case_files(&read_folder(dir, |name| name.ends_with(".cases.toml"))?)
    }

    pub fn run_case_files(self: &Arc<Self>, sources: &[SourceFile]) -> Result<CaseReport, Problems> {
        let mut problems = Problems::default();
        let cases: Vec<Case> =
            sources.iter().flat_map(|source| CaseReader::read(source, &mut problems)).collect();
        problems.into_result()?;
        let mut report = CaseReport::default();
        for case in cases {
            match self.run_case(&case) {
                Ok(()) => report.passed += 1,
                Err(message) => {
                    report.failures.push(Failure {
                        file: case.file,
                        line: case.line,
                        name: case.name,
                        message,
                    });
                }
            }
        }
        Ok(report)
    }

    fn run_case(self: &Arc<Self>, case: &Case) -> Result<(), String> {
        let client = self.case_client(case.client.as_deref())?;
        let found = self.ask(client, case)?;
        let told = |finding: &Finding| {
            let rule = finding.rule.as_ref().map_or(String::new(), |rule| format!(" by rule {rule:?}"));
            let reason = finding.reason.map_or(String::new(), |reason| format!(" ({reason})"));
            format!("{}{rule}{reason}", finding.verdict.as_str())
        };
        if found.verdict != case.expect {
            return Err(format!("expected {}, but it is {}", case.expect.as_str(), told(&found)));
        }
        if case.rule.is_some() && case.rule.as_deref() != found.rule.as_deref() {
            return Err(format!(
                "expected rule {:?}, but it is {}",
                case.rule.as_deref().unwrap_or_default(),
                told(&found)
            ));
        }
        if case.reason.is_some() && case.reason.as_deref() != found.reason {
            return Err(format!(
                "expected reason {:?}, but it is {}",
                case.reason.as_deref().unwrap_or_default(),
                told(&found)
            ));
        }
        Ok(())
    }

    /// What DLP finds in the request as the client sends it, where its rule blocks. Known secrets are known only where
    /// their values were loaded.
    fn scanned(&self, found: Finding, request: &CanonicalRequest, body: &[u8]) -> Finding {
        let rule = self.rules.iter().find(|rule| found.rule.as_deref() == Some(&*rule.name));
        let passes = matches!(found.verdict, Verdict::Allow | Verdict::Observe);
        let Some(rule) = rule.filter(|rule| passes && rule.dlp().on_match == OnMatch::Block) else {
            return found;
        };
        let target = request.path_and_query().as_str().as_bytes();
        let values = request.headers().values().map(HeaderValue::as_bytes);
        let leak = self.detectors().scan_each(rule.dlp().outbound, values.chain([target, body]));
        match leak {
            Some(_) => Finding { verdict: Verdict::Deny, reason: Some(super::Reason::Dlp.as_str()), ..found },
            None => found,
        }
    }

    fn case_client(&self, name: Option<&str>) -> Result<ClientId, String> {
        match name {
            Some(name) => {
                self.client_by_name(name).ok_or_else(|| format!("the policy has no client {name:?}"))
            }
            None => {
                let mut clients = self.clients();
                match (clients.next(), clients.next()) {
                    (Some(only), None) => Ok(only),
                    _ => {
                        Err("the policy does not have exactly one client, so the case has to name one".into())
                    }
                }
            }
        }
    }

    fn ask(self: &Arc<Self>, client: ClientId, case: &Case) -> Result<Finding, String> {
        match &case.asked {
            Asked::Request(line) => match read_request_line(line, case.headers.clone()) {
                Ok(request) => Ok(self.scanned(self.find(client, &request), &request, case.body.as_bytes())),
                Err(RequestLineError::Malformed(why)) => {
                    Ok(Finding { verdict: Verdict::Deny, rule: None, reason: Some(why.reason().as_str()) })
                }
                Err(error) => Err(error.to_string()),
            },
            Asked::Connect(to) => Ok(match self.judge_connect(client, &to.host, to.port.unwrap_or(443)) {
                // No request was read yet, so no rule has decided.
                ConnectVerdict::Intercept(_) => Finding { verdict: Verdict::Allow, rule: None, reason: None },
                ConnectVerdict::Tunnel(permit) => Finding::passed(Verdict::Tunnel, permit.rule()),
                ConnectVerdict::Refuse(refusal) => Finding::refused(&refusal),
            }),
            Asked::Tcp(to) => {
                let port = to.port.ok_or("tcp needs a port: \"host:port\"")?;
                Ok(match self.judge_tcp(client, &to.host, port) {
                    Ok(permit) => Finding::passed(Verdict::Tunnel, permit.rule()),
                    Err(refusal) => Finding::refused(&refusal),
                })
            }
            Asked::Dns(name) => Ok(match self.judge_dns(client, name, 1) {
                DnsVerdict::Resolve { rule, .. } => {
                    Finding { verdict: Verdict::Allow, rule: Some(rule.to_string()), reason: None }
                }
                DnsVerdict::NoData => Finding { verdict: Verdict::Allow, rule: None, reason: None },
                DnsVerdict::Deny(refusal) => Finding::refused(&refusal),
            }),
        }
    }
}

impl Asked {
    pub(super) fn authority(text: &str) -> Result<Authority, String> {
        Authority::parse(text).map_err(|error| error.to_string())
    }

    pub(super) fn name(text: &str) -> Result<HostName, String> {
        match Host::parse(text) {
            Ok(Host::Name(name)) => Ok(name),
            Ok(Host::Ip(_)) => Err("dns asks for a name, not an address".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}
