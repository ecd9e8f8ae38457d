//! Scratch folders that say who made them, so that what a killed test run left behind is found by the next one.
//!
//! A daemon is started with a path below its scratch folder on its command line. A folder whose maker is dead, and a
//! process that still works in such a folder, are left-overs. Nothing else is touched.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "outgate-test-";

/// A fresh folder that everybody may enter: the daemon gives up root and still has to read its policies.
pub fn scratch() -> tempfile::TempDir {
    static ONCE: Once = Once::new();
    ONCE.call_once(sweep);
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let me = std::process::id();
    let prefix = format!("{PREFIX}{me}-{}-{}-", started(me).unwrap(), COUNT.fetch_add(1, Ordering::Relaxed));
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    dir
}

fn sweep() {
    let stale: Vec<PathBuf> = std::fs::read_dir(std::env::temp_dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_stale(path))
        .collect();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if stale.iter().any(|path| line.contains(&*path.to_string_lossy())) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
        }
    }
    for path in stale {
        std::fs::remove_dir_all(path).ok();
    }
}

fn is_stale(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let mut parts = rest.split('-');
    let owner = parts.next().and_then(|pid| pid.parse::<u32>().ok());
    let since = parts.next().and_then(|ticks| ticks.parse::<u64>().ok());
    match (owner, since) {
        (Some(owner), Some(since)) => started(owner) != Some(since),
        _ => false,
    }
}

/// When a process began, in clock ticks since boot (proc(5), field 22), or nothing when there is none.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19)?.parse().ok()
}
