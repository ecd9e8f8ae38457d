//! `POST /attach` and `POST /detach`: what the command line and the daemon say to each other about workloads that come
//! and go. Open files come with the request, over the socket.

use super::Source;
use super::server::Answer;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Some hundred networks.
const MOST_BYTES: usize = 64 * 1024;

/// A workload and whose it is; as a request, in the daemon's state file, and in `GET /attachments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// What `outgate detach` calls it.
    pub name: String,
    /// A client of the policy that says `attached = true`.
    pub client: String,
    pub place: Place,
    /// It was detached, and is fenced still.
    #[serde(default)]
    pub detached: bool,
}

/// Where the workload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Place {
    /// Behind an interface or a bridge of the daemon's own namespace.
    Interface {
        interface: String,
        networks: Vec<IpNet>,
    },
    Namespace(Namespace),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface { interface, .. } => write!(f, "interface {interface}"),
            Self::Namespace(Namespace { pid: Some(pid), .. }) => {
                write!(f, "network namespace of process {pid}")
            }
            Self::Namespace(Namespace { path, .. }) => write!(f, "network namespace {}", path.display()),
        }
    }
}

/// A network namespace, and what was made in it. The files of the request are, in this order: two sockets for its
/// tables; with `pid` a descriptor of that process; for each family a TCP listener, and the UDP and TCP sockets of DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    pub path: PathBuf,
    /// The process whose namespace it is; it is over when this ends.
    pub pid: Option<i32>,
    /// `st_dev` and `st_ino`, which tell namespaces apart.
    pub identity: (u64, u64),
    pub uplinks: Vec<String>,
    pub transparent_port: u16,
    pub dns_port: u16,
    /// IPv4, or IPv4 and IPv6.
    pub families: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    pub name: String,
    /// Takes the fence away as well.
    pub free: bool,
}

/// What a request asks to be changed.
pub enum Change {
    Attach(Attachment, Vec<OwnedFd>),
    Detach(Detach),
}

pub(super) async fn answer(source: &Source, path: &str, body: Incoming, files: Vec<OwnedFd>) -> Answer {
    let body = match Limited::new(body, MOST_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Answer::text(StatusCode::BAD_REQUEST, format!("no request: {error}")),
    };
    let change = match path {
        "/attach" => serde_json::from_slice(&body).map(|what| Change::Attach(what, files)),
        _ => serde_json::from_slice(&body).map(Change::Detach),
    };
    match change {
        Err(error) => Answer::text(StatusCode::BAD_REQUEST, format!("no such request: {error}")),
        Ok(change) => match (source.change)(change).await {
            Ok(said) => Answer::text(StatusCode::OK, said),
            Err(said) => Answer::text(StatusCode::UNPROCESSABLE_ENTITY, said),
        },
    }
}
