//! Gives privileges up for good and proves it by reading them back.
//!
//! Capabilities, `no_new_privs` and the bounding set belong to a thread, not to a process: threads that run already
//! would keep theirs. So all of this happens before the runtime starts, and a process with a second thread is refused.
//! (The ids alone would reach every thread, because the C library tells them.) `daemon`, the helper and `shim` call it.

use std::fs;
use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
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
    #[error(
        "cannot empty the bounding set: CAP_SETPCAP is missing, and a program with file capabilities could get them back"
    )]
    Bounding,
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

/// Drops everything but the capabilities of the mask `keep` for good, for a foreign program that is executed next: the
/// bounding set too, or it is an error. Of `keep` only what this thread holds stays. Another user than root cannot
/// take capabilities through an exec, so `keep` is of use to root alone. Gives the mask that is left.
pub fn drop_for_command(keep: u64, run_as: Option<RunAs>) -> Result<u64, PrivilegeError> {
    let status = Status::alone()?;
    let kept = keep & status.number("CapPrm", 16) & status.number("CapBnd", 16);
    drop_bounding(&status, kept)?;
    caps::clear(None, CapSet::Ambient).map_err(caps_step("empty the ambient set"))?;
    // A process that holds no further group has no need of the right to leave them.
    let gid = run_as.map_or_else(|| status.gid(), |run_as| run_as.gid.to_string());
    if status.require_no_group_but(&gid).is_err() {
        setgroups(&[]).map_err(step("leave the supplementary groups"))?;
    }
    if let Some(RunAs { uid, gid }) = run_as {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setresgid(gid, gid, gid).map_err(step("change the group"))?;
        setresuid(uid, uid, uid).map_err(step("change the user"))?;
    }
    let keep: CapsHashSet = caps::all().into_iter().filter(|cap| cap.bitmask() & kept != 0).collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &keep).map_err(caps_step("drop the capabilities"))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(caps_step("drop the inheritable capabilities"))?;
    prctl::set_no_new_privs().map_err(step("set no_new_privs"))?;
    let status = Status::read()?;
    status.require(kept, Some(kept), run_as)?;
    status.require_no_group_but(&gid)?;
    Ok(kept)
}

/// Takes out of the bounding set all that it holds beyond `keep`, also what this program knows no name of.
fn drop_bounding(status: &Status, keep: u64) -> Result<(), PrivilegeError> {
    let surplus = status.number("CapBnd", 16) & !keep;
    for bit in (0..u64::BITS).map(|n| 1 << n).filter(|bit| surplus & bit != 0) {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // Behind the last one of this kernel.
            Err(Errno::INVAL) => break,
            Err(Errno::PERM) => return Err(PrivilegeError::Bounding),
            Err(source) => {
                return Err(PrivilegeError::Step { what: "empty the bounding set", source: source.into() });
            }
        }
    }
    Ok(())
}

fn keep_only(keep: &CapsHashSet, run_as: Option<RunAs>) -> Result<(), PrivilegeError> {
    Status::alone()?;
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
    status.require(kept, bounded.then_some(0), run_as)?;
    if run_as.is_some() { status.require_no_group_but("") } else { Ok(()) }
}

/// proc(5), `/proc/[pid]/status`, of this thread.
pub struct Status(String);

impl Status {
    pub fn read() -> Result<Self, PrivilegeError> {
        fs::read_to_string("/proc/thread-self/status")
            .map(Self)
            .map_err(|source| PrivilegeError::Step { what: "read /proc/thread-self/status", source })
    }

    /// Of a process without a second thread.
    fn alone() -> Result<Self, PrivilegeError> {
        let status = Self::read()?;
        let threads = status.number("Threads", 10);
        if threads == 1 { Ok(status) } else { Err(PrivilegeError::Threads { threads }) }
    }

    /// Exactly these capabilities, this bounding set where one is named, these ids, and no way to more.
    fn require(&self, kept: u64, bounding: Option<u64>, run_as: Option<RunAs>) -> Result<(), PrivilegeError> {
        let mut wanted = vec![
            ("CapInh", 16, 0),
            ("CapPrm", 16, kept),
            ("CapEff", 16, kept),
            ("CapAmb", 16, 0),
            ("NoNewPrivs", 10, 1),
        ];
        wanted.extend(bounding.map(|bits| ("CapBnd", 16, bits)));
        for (field, radix, wanted) in wanted {
            let value = self.number(field, radix);
            if value != wanted {
                let (value, wanted) = (format!("{value:x}"), format!("{wanted:x}"));
                return Err(PrivilegeError::Kept { field, value, wanted });
            }
        }
        let Some(RunAs { uid, gid }) = run_as else { return Ok(()) };
        // Real, effective, saved and file-system id.
        for (field, id) in [("Uid", uid), ("Gid", gid)] {
            let value = self.field(field);
            if !value.split_whitespace().all(|n| n.parse() == Ok(id)) || value.is_empty() {
                return Err(PrivilegeError::Kept { field, value: value.to_owned(), wanted: id.to_string() });
            }
        }
        Ok(())
    }

    /// No supplementary group, but perhaps the process's own.
    fn require_no_group_but(&self, own: &str) -> Result<(), PrivilegeError> {
        let held = self.field("Groups");
        if held.split_whitespace().all(|group| group == own) {
            return Ok(());
        }
        let (value, wanted) = (held.to_owned(), "empty".to_owned());
        Err(PrivilegeError::Kept { field: "Groups", value, wanted })
    }

    /// The real group.
    fn gid(&self) -> String {
        self.field("Gid").split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// The text behind a field's name; nothing where there is none.
    pub fn field(&self, name: &str) -> &str {
        let value =
            |line: &'_ str| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).map(str::len);
        self.0
            .lines()
            .find_map(|line| value(line).map(|n| line.split_at(line.len() - n).1.trim()))
            .unwrap_or_default()
    }

    /// A field that is missing or no number is all ones: nothing that is wanted equals it.
    pub fn number(&self, name: &str, radix: u32) -> u64 {
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
