//! The resolver of the program: `/etc/resolv.conf`, written in place, since in a container it is a mount of its own.

use super::ShimError;
use std::fmt::Write as _;
use std::net::IpAddr;

const FILE: &str = "/etc/resolv.conf";

/// Names these servers and nothing else. None: the file stays as it is.
pub(super) fn write(servers: &[IpAddr]) -> Result<(), ShimError> {
    if servers.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for server in servers {
        // Writing into a string does not fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    // The same is left alone: the file may be a mount that nobody can write to.
    if std::fs::read_to_string(FILE).is_ok_and(|now| now == text) {
        return Ok(());
    }
    std::fs::write(FILE, text).map_err(|source| ShimError::File {
        doing: "write the resolver (--keep-resolver leaves it as it is)",
        path: FILE.into(),
        source,
    })
}
