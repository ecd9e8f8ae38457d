//! Policies from text, and requests to them, for the tests of the policy room.

use outgate::base::{Host, HostName};
use outgate::policy::{
    CanonicalRequest, ClientId, ConnectVerdict, DnsVerdict, LoadOptions, Permit, Problems, Reason, Refusal,
    Snapshot, SourceFile, read_request_line,
};
use outgate::secrets::Environment;
use std::sync::Arc;

pub const CLIENT: &str = "[[client]]\nname = \"agent\"\nsource = [\"192.168.128.0/24\"]\n";

/// What most rows of the gauntlet run under.
pub const P1: &str = r#"
[[rule]]
name = "good"
hosts = ["api.good.test", "files.good.test"]
action = "allow"
[[rule]]
name = "plain"
hosts = ["plain.good.test"]
scheme = "http"
action = "allow"
"#;

pub const P3: &str = r#"
[[rule]]
name = "public"
hosts = ["api.good.test"]
action = "allow"
  [[rule.match]]
  methods = ["GET", "HEAD"]
  path = { glob = "/public/**" }
[[rule]]
name = "messages"
hosts = ["api.good.test"]
action = "allow"
  [[rule.match]]
  methods = ["POST"]
  path = { exact = "/v1/messages" }
[[rule]]
name = "not secret"
hosts = ["api.good.test"]
action = "deny"
  [[rule.match]]
  path = { glob = "/public/secret/**" }
"#;

pub const P10: &str = r#"
danger_any_host = true
[[rule]]
name = "anything"
hosts = ["*"]
action = "allow"
[[rule]]
name = "anything in clear"
hosts = ["*"]
scheme = "http"
action = "allow"
[[rule]]
name = "not this"
hosts = ["deny.test"]
action = "deny"
"#;

pub fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { path: name.into(), text: text.into() }
}

pub fn try_load(text: &str) -> Result<Snapshot, Problems> {
    let text = if text.contains("[[client]]") { text.to_owned() } else { format!("{text}\n{CLIENT}") };
    let secret = outgate::base::SecretBytes::new(b"k5-value-made-for-this-test".to_vec());
    let environment = Environment::new([("K5".to_owned(), secret)], None);
    Snapshot::parse(
        &[file("policy.toml", &text)],
        &LoadOptions { environment: Some(&environment), ..LoadOptions::default() },
    )
}

pub fn load(text: &str) -> Arc<Snapshot> {
    match try_load(text) {
        Ok(snapshot) => Arc::new(snapshot),
        Err(problems) => panic!("{problems}"),
    }
}

pub fn agent(snapshot: &Snapshot) -> ClientId {
    snapshot.client(None, "192.168.128.7".parse().unwrap()).unwrap()
}

pub fn request(line: &str, headers: &[(&str, &str)]) -> CanonicalRequest {
    let mut map = http::HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    read_request_line(line, map).unwrap_or_else(|error| panic!("{line}: {error}"))
}

pub fn judge_with(snapshot: &Arc<Snapshot>, line: &str, headers: &[(&str, &str)]) -> Result<Permit, Refusal> {
    snapshot.judge_request(agent(snapshot), request(line, headers)).map_err(|refused| refused.refusal)
}

pub fn judge(snapshot: &Arc<Snapshot>, line: &str) -> Result<Permit, Refusal> {
    judge_with(snapshot, line, &[])
}

#[track_caller]
pub fn allows(snapshot: &Arc<Snapshot>, line: &str) {
    if let Err(refusal) = judge(snapshot, line) {
        panic!("{line}: {refusal:?}");
    }
}

#[track_caller]
pub fn denies(snapshot: &Arc<Snapshot>, line: &str, reason: Reason) {
    match judge(snapshot, line) {
        Ok(permit) => panic!("{line}: allowed by {}", permit.rule().name()),
        Err(refusal) => assert_eq!(refusal.reason, reason, "{line}: {}", refusal.detail),
    }
}

/// How a TLS connection goes on: "intercept", "tunnel", or the reason of its refusal.
pub fn connect(snapshot: &Arc<Snapshot>, host: &str, port: u16) -> &'static str {
    match snapshot.judge_connect(agent(snapshot), &Host::parse(host).unwrap(), port) {
        ConnectVerdict::Intercept(_) => "intercept",
        ConnectVerdict::Tunnel(_) => "tunnel",
        ConnectVerdict::Refuse(refusal) => refusal.reason.as_str(),
    }
}

/// "resolve", "nodata", or the reason of the denial.
pub fn dns(snapshot: &Arc<Snapshot>, name: &str, qtype: u16) -> &'static str {
    match snapshot.judge_dns(agent(snapshot), &HostName::parse(name).unwrap(), qtype) {
        DnsVerdict::Resolve { .. } => "resolve",
        DnsVerdict::NoData => "nodata",
        DnsVerdict::Deny(refusal) => refusal.reason.as_str(),
    }
}
