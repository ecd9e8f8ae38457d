//! The running daemon: whether it is there and ready, and whether it has descriptors to spare.

use super::Check;
use crate::admin::client::{self, Error};
use crate::config::Config;
use nix::sys::socket::{getsockopt, sockopt};
use serde_json::Value;
use std::os::unix::net::UnixStream;

/// Flow and upstream each have a descriptor.
const DESCRIPTORS_PER_FLOW: u64 = 2;

/// What a daemon that answers says of itself.
pub(super) struct Running {
    /// The tables are as it made them.
    pub intact: bool,
    /// The version of the policy that it judges by.
    pub policy: String,
}

/// What there is to say, and the daemon; `None` where none answers.
pub(super) fn daemon(config: &Config) -> (Vec<Check>, Option<Running>) {
    let socket = &config.admin.socket;
    let state = match client::call(socket, "GET", "/state") {
        Ok((200, text)) => serde_json::from_str::<Value>(&text).unwrap_or_default(),
        Ok((status, _)) => {
            let fact = format!("it answered {status} on {}", socket.display());
            return (vec![Check::bad("daemon", fact, "see its log")], None);
        }
        Err(error @ Error::Refused(_)) => {
            return (vec![Check::warn("daemon", error.to_string(), "run doctor as root")], None);
        }
        Err(error) => {
            let remedy =
                "outgate run with this configuration; until then everything is refused, if the fence stands";
            return (vec![Check::bad("daemon", error.to_string(), remedy)], None);
        }
    };
    let word = |name: &str| state.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let unready: Vec<&str> = state
        .get("unready")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let ready = state.get("ready").and_then(Value::as_bool).unwrap_or(false);
    let mut checks = vec![if ready {
        Check::good("daemon", format!("ready, version {}, policy {}", word("version"), word("policy")))
    } else {
        Check::bad("daemon", format!("not ready: {}", unready.join("; ")), "see its log for why")
    }];
    let intact = !unready.iter().any(|missing| missing.contains("nftables"));
    checks.extend(descriptors(config));
    (checks, Some(Running { intact, policy: word("policy") }))
}

/// The process behind the socket has room for as many flows as the configuration allows?
fn descriptors(config: &Config) -> Option<Check> {
    let stream = UnixStream::connect(&config.admin.socket).ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", peer.pid())).ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    // Kernel threads of another PID namespace have no number here: nothing to tell then.
    let soft: u64 = soft?.parse().ok()?;
    let wanted = config.limits.flow.flows_total as u64 * DESCRIPTORS_PER_FLOW;
    let open = std::fs::read_dir(format!("/proc/{}/fd", peer.pid())).map(Iterator::count).ok();
    let used = open.map_or_else(String::new, |open| format!("{open} of "));
    if open.is_some_and(|open| open as u64 * 10 > soft * 9) {
        let fact = format!("{used}{soft} open files are in use: new connections will be refused");
        Some(Check::bad("descriptors", fact, "LimitNOFILE= in its unit, or ulimit -n where it is started"))
    } else if soft < wanted {
        let fact = format!("it may open {soft} files, and flows_total allows for {wanted}");
        Some(Check::warn("descriptors", fact, "LimitNOFILE= in its unit, or a lower flows_total"))
    } else {
        Some(Check::good("descriptors", format!("{used}{soft} open files")))
    }
}
