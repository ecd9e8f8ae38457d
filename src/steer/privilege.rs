//! Gives privileges up for good and proves it by reading them back.
//!
//! Capabilities, `no_new_privs` and the bounding set belong to a thread, not to a process: threads that run already
//! would keep theirs. So all of this happens before the runtime starts, and a process with a second thread is refused.
//! (The ids alone would reach every thread, because the C library tells them.) `daemon` and the helper call it.

use std::fs;
use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

/// Who to be afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("{threads} threads are running: privileges must be dropped before any is started")]
    Threads { threads: u64 },
    #[error("cannot {what}: {source}")]
    Step { what: &'static str, source: io::Error },
    #[error("cannot become uid {0}: it is root")]
    Root(u32),
    #[error("after dropping privileges {field} is {value}, but must be {wanted}")]
    Kept { field: &'static str, value: String, wanted: String },
}

/// Raises the limit of open files to what is allowed, forbids core dumps and other processes' looks into our memory.
/// Gives the number of files that may be open.
///
/// Start the helper first: with `no_new_privs` it would not get what the file capabilities of our binary give.
pub fn harden() -> Result<u64, PrivilegeError> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(step("read the limit of open files"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(step("raise the limit of open files"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(step("forbid core dumps"))?;
    prctl::set_dumpable(false).map_err(step("make the process undumpable"))?;
    prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    Ok(hard)
}

/// Drops everything: all capability sets empty, the ids those of `run_as` where it is given.
pub fn drop_all(run_as: Option<RunAs>) -> Result<(), PrivilegeError> {
    keep_only(&CapsHashSet::new(), run_as)
}

/// Drops everything but CAP_NET_ADMIN; for the helper alone.
pub fn keep_net_admin(run_as: Option<RunAs>) -> Result<(), PrivilegeError> {
    keep_only(&CapsHashSet::from([Capability::CAP_NET_ADMIN]), run_as)
}

/// May this thread change the packet rules of its namespace?
pub fn has_net_admin() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(false)
}

fn keep_only(keep: &CapsHashSet, run_as: Option<RunAs>) -> Result<(), PrivilegeError> {
    let status = Status::read()?;
    let threads = status.number("Threads", 10);
    if threads != 1 {
        return Err(PrivilegeError::Threads { threads });
    }
    // Without CAP_SETPCAP the bounding set cannot be emptied. It then gives nothing either: it only bounds what an
    // exec may add, and no_new_privs lets an exec add nothing.
    let may_bound = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false);
    if may_bound {
        caps::clear(None, CapSet::Bounding).map_err(caps_step("empty the bounding set"))?;
    }
    caps::clear(None, CapSet::Ambient).map_err(caps_step("empty the ambient set"))?;
    if let Some(run_as) = run_as {
        become_user(run_as, !keep.is_empty())?;
    }
    caps::set(None, CapSet::Effective, keep).map_err(caps_step("keep CAP_NET_ADMIN alone"))?;
    caps::set(None, CapSet::Permitted, keep).map_err(caps_step("drop the permitted capabilities"))?;
    caps::clear(None, CapSet::Inheritable).map_err(caps_step("drop the inheritable capabilities"))?;
    prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    // A change of ids sets this anew.
    prctl::set_dumpable(false).map_err(step("make the process undumpable"))?;
    verify(keep, run_as, may_bound)
}

fn become_user(run_as: RunAs, keep_caps: bool) -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::from_raw(run_as.uid), Gid::from_raw(run_as.gid));
    if uid.is_root() {
        return Err(PrivilegeError::Root(run_as.uid));
    }
    if keep_caps {
        prctl::set_keepcaps(true).map_err(step("keep capabilities over the change of user"))?;
    }
    setgroups(&[]).map_err(step("leave the supplementary groups"))?;
    setresgid(gid, gid, gid).map_err(step("change the group"))?;
    setresuid(uid, uid, uid).map_err(step("change the user"))?;
    if keep_caps {
        prctl::set_keepcaps(false).map_err(step("forget capabilities at the next change of user"))?;
    }
    Ok(())
}

/// Asks the kernel what is left rather than believing the calls.
fn verify(keep: &CapsHashSet, run_as: Option<RunAs>, bounded: bool) -> Result<(), PrivilegeError> {
    let status = Status::read()?;
    let kept = keep.iter().fold(0, |bits, cap| bits | cap.bitmask());
    let mut wanted = vec![
        ("CapInh", 16, 0),
        ("CapPrm", 16, kept),
        ("CapEff", 16, kept),
        ("CapAmb", 16, 0),
        ("NoNewPrivs", 10, 1),
    ];
    if bounded {
        wanted.push(("CapBnd", 16, 0));
    }
    for (field, radix, wanted) in wanted {
        let value = status.number(field, radix);
        if value != wanted {
            let (value, wanted) = (format!("{value:x}"), format!("{wanted:x}"));
            return Err(PrivilegeError::Kept { field, value, wanted });
        }
    }
    if let Some(RunAs { uid, gid }) = run_as {
        // Real, effective, saved and file-system id.
        for (field, id) in [("Uid", uid), ("Gid", gid)] {
            let value = status.field(field);
            if !value.split_whitespace().all(|n| n.parse() == Ok(id)) || value.is_empty() {
                return Err(PrivilegeError::Kept { field, value: value.to_owned(), wanted: id.to_string() });
            }
        }
        if !status.field("Groups").is_empty() {
            let value = status.field("Groups").to_owned();
            return Err(PrivilegeError::Kept { field: "Groups", value, wanted: "empty".into() });
        }
    }
    Ok(())
}

/// proc(5), `/proc/[pid]/status`, of this thread.
struct Status(String);

impl Status {
    fn read() -> Result<Self, PrivilegeError> {
        fs::read_to_string("/proc/thread-self/status")
            .map(Self)
            .map_err(|source| PrivilegeError::Step { what: "read /proc/thread-self/status", source })
    }

    fn field(&self, name: &str) -> &str {
        let value =
            |line: &'_ str| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).map(str::len);
        self.0
            .lines()
            .find_map(|line| value(line).map(|n| line.split_at(line.len() - n).1.trim()))
            .unwrap_or_default()
    }

    /// A field that is missing or no number is all ones: nothing that is wanted equals it.
    fn number(&self, name: &str, radix: u32) -> u64 {
        u64::from_str_radix(self.field(name), radix).unwrap_or(u64::MAX)
    }
}

fn step(what: &'static str) -> impl Fn(nix::errno::Errno) -> PrivilegeError {
    move |errno| PrivilegeError::Step { what, source: errno.into() }
}

fn caps_step(what: &'static str) -> impl Fn(caps::errors::CapsError) -> PrivilegeError {
    move |error| PrivilegeError::Step { what, source: io::Error::other(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness itself runs several.
        let refused = std::thread::spawn(|| drop_all(None)).join().unwrap();
        assert!(matches!(refused, Err(PrivilegeError::Threads { .. })), "{refused:?}");
    }

    #[test]
    fn a_missing_field_equals_nothing_that_is_wanted() {
        let status = Status("CapEff:\t0000000000001000\nUid:\t1\t1\t1\t1\n".into());
        assert_eq!(status.number("CapEff", 16), 0x1000);
        assert_eq!(status.field("Uid"), "1\t1\t1\t1");
        assert_eq!(status.number("CapBnd", 16), u64::MAX);
    }
}
