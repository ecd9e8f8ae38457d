//! What the demo needs of the machine: two programs and the right to make namespaces. Says what is missing, and how to
//! get it, before anything is made.

use super::namespace::Namespace;
use anyhow::{Result, bail};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells the second start of the demo, inside a user namespace, that there is no third.
const INSIDE: &str = "OUTGATE_DEMO_INSIDE";

const WAYS: &str = "run it as root (`sudo` keeps the path: sudo \"$(command -v outgate)\" demo), or allow unprivileged \
     user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, on Ubuntu also \
     kernel.apparmor_restrict_unprivileged_userns=0); a container needs CAP_SYS_ADMIN and CAP_NET_ADMIN";

pub(super) fn programs() -> Result<()> {
    let needed =
        [("ip", "-V", "iproute2"), ("curl", "--version", "curl"), ("getent", "--version", "libc-bin")];
    let missing: Vec<_> = needed.iter().filter(|(program, flag, _)| !answers(program, flag)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(program, ..)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(.., package)| *package).collect();
    bail!(
        "the demo uses programs that are not here: {}. On Debian: apt-get install {}",
        programs.join(", "),
        packages.join(" ")
    )
}

fn answers(program: &str, flag: &str) -> bool {
    Command::new(program).arg(flag).stdin(Stdio::null()).output().is_ok_and(|done| done.status.success())
}

/// Comes back when namespaces can be made. Where they cannot, starts the demo again as the owner of a user namespace,
/// which has every right over its own networks and none over the host's.
pub(super) fn permission(exe: &Path) -> Result<()> {
    let Err(refused) = Namespace::new("probe") else { return Ok(()) };
    if std::env::var_os(INSIDE).is_some() {
        bail!("namespaces cannot be made here ({refused:#}): {WAYS}");
    }
    // The user's own id is mapped, not root's: the daemon would want to become another user than root.
    let flags = ["--user", "--map-current-user", "--keep-caps", "--"].map(OsStr::new);
    let possible = Command::new("unshare").args(flags).arg("true").stdin(Stdio::null()).output();
    match possible {
        Ok(done) if done.status.success() => {
            let error = Command::new("unshare").args(flags).arg(exe).arg("demo").env(INSIDE, "1").exec();
            bail!("cannot start `unshare`: {error}")
        }
        Ok(done) => bail!(
            "namespaces cannot be made here ({refused:#}), nor in a user namespace ({}): {WAYS}",
            String::from_utf8_lossy(&done.stderr).trim()
        ),
        Err(error) => bail!(
            "namespaces cannot be made here ({refused:#}), and `unshare` of util-linux: {error}; {WAYS}"
        ),
    }
}
