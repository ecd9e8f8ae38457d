//! Settings of this network namespace below `/proc/sys/net`.
//!
//! A container often has them read-only; the callers then take another way, so "not written" is an answer here.

use super::ShimError;
use std::path::PathBuf;

/// Of the network and of the whole machine: what would undo the set-up, and what runs programs as root.
const SAMPLES: [&str; 3] = [
    "/proc/sys/net/ipv4/conf/all/accept_redirects",
    "/proc/sys/net/ipv6/conf/all/disable_ipv6",
    "/proc/sys/kernel/core_pattern",
];

/// Sets `net/FAMILY/conf/INTERFACE/NAME` for each interface. False where one is neither so already nor can be made so.
/// What the kernel does not have at all needs no setting.
pub(super) fn set(family: &str, interfaces: &[&str], name: &str, value: &str) -> bool {
    interfaces.iter().all(|interface| {
        let path: PathBuf = ["/proc/sys/net", family, "conf", interface, name].iter().collect();
        match std::fs::read_to_string(&path) {
            Ok(now) if now.trim() == value => true,
            Ok(_) => std::fs::write(&path, value).is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    })
}

/// Settings must be refused now. Root without any capability still owns their files; opening one changes nothing.
pub(super) fn require_read_only() -> Result<(), ShimError> {
    let writable = |path: &&str| std::fs::OpenOptions::new().write(true).open(path).is_ok();
    SAMPLES.into_iter().find(writable).map_or(Ok(()), |path| Err(ShimError::StillMaySet(path)))
}

/// Does this kernel speak IPv6 at all?
pub(super) fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6/conf/all").exists()
}
