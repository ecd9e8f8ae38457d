//! What is mounted where in this mount namespace (proc(5), `/proc/self/mountinfo`), and which other names a file has by it.

use anyhow::Context;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// In the order of the table: of two at the same place, the later one is seen.
pub(super) struct Mounts(Vec<Mount>);

pub(super) struct Mount {
    /// `major:minor` of its file system.
    device: Vec<u8>,
    /// What of the file system is seen here.
    root: PathBuf,
    pub(super) at: PathBuf,
    pub(super) kind: String,
}

impl Mounts {
    pub(super) fn read() -> anyhow::Result<Self> {
        let table = fs::read("/proc/self/mountinfo").context("the mounts cannot be listed")?;
        Ok(Self(table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// The other places where `path`, or a part of it, is seen through further mounts of its file system.
    pub(super) fn other_names(&self, path: &Path) -> Vec<PathBuf> {
        let of = |mount: &&Mount| path.starts_with(&mount.at);
        let Some(home) = self.iter().filter(of).max_by_key(|mount| mount.at.components().count()) else {
            return Vec::new();
        };
        let Ok(below) = path.strip_prefix(&home.at) else { return Vec::new() };
        let inside = join(&home.root, below);
        let names = self.iter().filter(|mount| mount.device == home.device).filter_map(|mount| {
            if mount.root.starts_with(&inside) {
                return Some(mount.at.clone());
            }
            let name = join(&mount.at, inside.strip_prefix(&mount.root).ok()?);
            // Under a mount that lies above it, the name leads elsewhere.
            same_file(&name, path).then_some(name)
        });
        names.filter(|name| name != path).collect()
    }
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ').skip(2);
        let (device, root, at) = (words.next()?, words.next()?, words.next()?);
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        let kind = String::from_utf8_lossy(kind).into_owned();
        Some(Self { device: device.to_vec(), root: unescaped(root)?, at: unescaped(at)?, kind })
    }
}

/// A blank is \040 in the table, and so on.
fn unescaped(mut rest: &[u8]) -> Option<PathBuf> {
    let mut path = Vec::new();
    while let [first, tail @ ..] = rest {
        let octal =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|three| std::str::from_utf8(three).ok());
        match octal.and_then(|three| u8::from_str_radix(three, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = tail.get(3..)?;
            }
            None => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    Some(OsString::from_vec(path).into())
}

/// Without the slash that joining an empty path leaves at the end.
fn join(folder: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { folder.to_owned() } else { folder.join(below) }
}

fn same_file(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) else { return false };
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read_with_its_blanks() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.device.as_slice(), mount.kind.as_str()), (&b"98:0"[..], "ext3"));
        assert_eq!((mount.root, mount.at), (PathBuf::from("/mnt1"), PathBuf::from("/mnt 2")));
        assert!(Mount::parse(b"36 35 98:0").is_none());
    }

    #[test]
    fn a_mount_of_a_part_shows_that_part() {
        let mount = |root: &str, at: &str| Mount {
            device: b"8:1".to_vec(),
            root: root.into(),
            at: at.into(),
            kind: "ext4".into(),
        };
        let mounts =
            Mounts(vec![mount("/", "/"), mount("/home/u/.ssh/keys", "/srv/keys"), mount("/srv", "/x")]);
        assert_eq!(mounts.other_names(Path::new("/home/u/.ssh")), [PathBuf::from("/srv/keys")]);
        assert!(mounts.other_names(Path::new("/home/u/.aws")).is_empty());
    }
}
