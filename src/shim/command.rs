//! The program that runs afterwards: as whom, with which capabilities, descriptors and variables.

use super::ShimError;
use crate::steer::RunAs;
use nix::unistd::{Group, User as Account, close};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;

/// A variable for the program.
pub(super) type Variable = (String, OsString);

/// Capabilities that would let a workload change or go round its own network, read what others hold, or get the rest
/// back (capability.h).
const NEVER: [(&str, u8); 9] = [
    ("CAP_SETPCAP", 8),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_MODULE", 16),
    ("CAP_SYS_RAWIO", 17),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// Who the program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    ids: RunAs,
    home: Option<OsString>,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("this system knows no user {0:?}; a number works as well: --user 1000:1000")]
    NoUser(String),
    #[error("this system knows no group {0:?}; a number works as well: --user 1000:1000")]
    NoGroup(String),
    #[error("{0:?} is no mask of capabilities: write it in hexadecimal, as 0xfb")]
    NoMask(String),
    #[error("{0} cannot be kept: with it the program could undo what was set up")]
    Forbidden(String),
}

impl User {
    pub fn ids(&self) -> RunAs {
        self.ids
    }

    /// `HOME`, where the system knows the user, and nobody has set another one than root's.
    pub(super) fn home(&self) -> Option<Variable> {
        let now = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let of_root = now.as_ref().is_none_or(|home| home == "/root" || home == "/");
        of_root.then(|| Some(("HOME".to_owned(), self.home.clone()?)))?
    }
}

impl FromStr for User {
    type Err = UserError;

    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`; without a group it is the user's own.
    fn from_str(text: &str) -> Result<Self, UserError> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let number = user.parse::<u32>().ok();
        let account = match number {
            Some(uid) => Account::from_uid(uid.into()),
            None => Account::from_name(user),
        };
        let account = account.ok().flatten();
        let no_user = || UserError::NoUser(user.to_owned());
        let uid = number.or(account.as_ref().map(|a| a.uid.as_raw())).ok_or_else(no_user)?;
        let gid = match group {
            None => account.as_ref().map_or(uid, |a| a.gid.as_raw()),
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    let known = Group::from_name(group).ok().flatten();
                    known.ok_or_else(|| UserError::NoGroup(group.to_owned()))?.gid.as_raw()
                }
            },
        };
        Ok(Self { ids: RunAs { uid, gid }, home: account.map(|a| a.dir.into_os_string()) })
    }
}

/// Capabilities that a program running as root keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep(u64);

impl Keep {
    pub(super) fn mask(self) -> u64 {
        self.0
    }
}

impl FromStr for Keep {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mask = u64::from_str_radix(digits, 16).map_err(|_| UserError::NoMask(text.to_owned()))?;
        let forbidden: Vec<&str> =
            NEVER.iter().filter(|(_, bit)| mask & (1 << bit) != 0).map(|(name, _)| *name).collect();
        if forbidden.is_empty() { Ok(Self(mask)) } else { Err(UserError::Forbidden(forbidden.join(", "))) }
    }
}

/// Closes all but the three standard streams, and looks whether that worked.
pub(super) fn close_descriptors() -> Result<(), ShimError> {
    for descriptor in open_descriptors()? {
        // One of them was the listing itself and is closed by now.
        let _ = close(descriptor);
    }
    // The listing has a descriptor too; it is the only one, and gone when this returns.
    match open_descriptors()?.get(1) {
        None => Ok(()),
        Some(left) => Err(ShimError::StillOpen(*left)),
    }
}

fn open_descriptors() -> Result<Vec<i32>, ShimError> {
    let path = "/proc/self/fd";
    let failed = |source| ShimError::File { doing: "list", path: path.into(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()).filter(|number| *number > 2));
    }
    Ok(found)
}

/// Becomes the program; returns only when that failed.
pub(super) fn execute(words: &[OsString], environment: &[Variable]) -> ShimError {
    let (program, arguments) = match words.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (OsString::new(), words),
    };
    let variables = environment.iter().map(|(name, value)| (name, value));
    let source = Command::new(&program).args(arguments).envs(variables).exec();
    ShimError::Exec { program, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_numbers() {
        let root: User = "root".parse().unwrap();
        assert_eq!(root.ids(), RunAs { uid: 0, gid: 0 });
        let nobody_known: User = "4242:4343".parse().unwrap();
        assert_eq!(nobody_known.ids(), RunAs { uid: 4242, gid: 4343 });
        assert_eq!(nobody_known.home, None);
        assert_eq!("4242".parse::<User>().unwrap().ids(), RunAs { uid: 4242, gid: 4242 });
        assert!("no such user".parse::<User>().is_err());
        assert!("0:no such group".parse::<User>().is_err());
    }

    #[test]
    fn a_capability_that_undoes_the_set_up_is_never_kept() {
        assert_eq!("0xfb".parse::<Keep>().unwrap().mask(), 0xfb);
        assert_eq!("0".parse::<Keep>().unwrap(), Keep::default());
        assert!("mine".parse::<Keep>().is_err());
        for (name, bit) in NEVER {
            let refused = format!("0x{:x}", 1u64 << bit | 1).parse::<Keep>().unwrap_err();
            assert!(refused.to_string().starts_with(name), "{refused}");
        }
    }
}
