//! The operator's doors into a running daemon: a Unix socket for what changes or tells something, and a loopback port
//! for what only says how it goes.
//!
//! `daemon` binds it, fills in a `Source`, and has `rt` run it; the command line uses `client`. It decides nothing and
//! holds no state of its own. Nothing secret is served: `Source` has none to give.

mod attach;
pub mod client;
mod files;
mod server;
mod socket;

pub use attach::{Attachment, Change, Detach, Namespace, Place};
pub use server::{BindError, Bound};
pub use socket::SocketError;

use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a named task; `rt` gives it.
pub type Spawn = Arc<dyn Fn(&'static str, BoxFuture<()>) + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Made with mode 0600; its folder, where that is missing, with 0700.
    pub socket: PathBuf,
    /// Health, readiness and metrics. Loopback only.
    pub http: Option<SocketAddr>,
}

/// Where the answers come from.
pub struct Source {
    pub state: Box<dyn Fn() -> State + Send + Sync>,
    /// Loads the policy anew; words for the operator either way.
    pub reload: Box<dyn Fn() -> BoxFuture<Result<String, String>> + Send + Sync>,
    pub flows: Box<dyn Fn() -> Vec<Flow> + Send + Sync>,
    pub attachments: Box<dyn Fn() -> Vec<Attachment> + Send + Sync>,
    /// Attaches or detaches a workload; words for the operator either way.
    pub change: Box<dyn Fn(Change) -> BoxFuture<Result<String, String>> + Send + Sync>,
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// What is missing for being ready; empty: ready.
    pub unready: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Somebody else's process came to the socket and was turned away: user id, process id. To be recorded.
    pub stranger: Box<dyn Fn(u32, Option<i32>) + Send + Sync>,
}

/// `GET /state`.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    pub version: String,
    pub mode: String,
    pub listeners: Vec<Listener>,
    pub policy: String,
    pub ready: bool,
    pub unready: Vec<String>,
    pub uptime_seconds: u64,
    pub flows: usize,
    /// The last record: its number and hash.
    pub audit_seq: u64,
    pub audit_hash: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Listener {
    pub door: &'static str,
    pub address: String,
}

/// One of `GET /flows`.
#[derive(Debug, Clone, Serialize)]
pub struct Flow {
    pub id: String,
    pub client: Option<String>,
    pub source: String,
    pub door: &'static str,
    pub host: Option<String>,
    pub age_seconds: u64,
}
