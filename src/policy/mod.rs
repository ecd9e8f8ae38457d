//! What may leave: policy files in, verdicts out. Pure and synchronous; no socket, no clock, no task.
//!
//! `file` reads TOML, `resolve` joins files into rules, [`Snapshot`] holds them with secrets and detectors; `request`
//! (with `path`, `readings`, `query`, `fields`) makes the canonical request; `index`, `matching` (with `git`) and `judge` decide; `verdict` is
//! what a decision gives. `cases` and `explain` serve people. Reading files happens in `snapshot` and `cases` only.

mod cases;
mod client;
mod doh;
mod explain;
mod fields;
mod file;
mod git;
mod index;
mod judge;
mod malformed;
mod matching;
mod path;
mod pattern;
mod problem;
mod query;
mod readings;
mod reason;
mod request;
mod request_line;
mod resolve;
mod rule;
mod snapshot;
mod verdict;

pub use cases::{CaseReport, Failure};
pub use client::{ClientId, SoleClient};
pub use explain::{Explanation, Finding, Verdict};
pub use malformed::Malformed;
pub use matching::Stage;
pub use problem::{Problem, Problems, SourceFile};
pub use reason::Reason;
pub use request::{CanonicalRequest, Change};
pub use request_line::{RequestLineError, read_request_line};
pub use rule::{Action, ClientCertificate, Dlp, Inject, OnMatch, RequestEdits, ResponseEdits, Rule, Tls};
pub use snapshot::{LoadOptions, Snapshot, environment_names, secret_files};
pub use verdict::{
    ConnectVerdict, DialRight, DnsVerdict, InterceptPermit, MintRight, Permit, PrivateGrant, Refusal,
    Refused, TunnelPermit,
};
