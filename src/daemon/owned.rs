//! Files that belong to the daemon's user and are opened by root at the start: what that user may have put in their
//! place is never followed, waited for or given away.

use crate::config::Config;
use anyhow::{Context, bail};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A regular file that has this name alone.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ELOOP) => io::Error::other("it is a symbolic link: name the file itself"),
        _ => error,
    })?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.nlink() > 1 {
        return Err(io::Error::other("it is no regular file, or has a second name: take it away"));
    }
    Ok(file)
}

/// Gives an open file to the user that the daemon becomes.
pub(super) fn give(config: &Config, file: &File, path: &Path) -> anyhow::Result<()> {
    let Some(run_as) = config.run_as else { return Ok(()) };
    let meta = file.metadata().with_context(|| format!("{} cannot be looked at", path.display()))?;
    if meta.nlink() > 1 {
        bail!("{} has a second name: take one of them away", path.display());
    }
    std::os::unix::fs::fchown(file, Some(run_as.uid), Some(run_as.gid))
        .with_context(|| format!("{} cannot be given to the daemon's user", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_the_place_of_a_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        let mut options = OpenOptions::new();
        options.read(true);
        assert!(open(&mut options, &at("file")).is_ok());
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "pipe"] {
            assert!(open(&mut options, &at(name)).is_err(), "{name}");
        }
        std::fs::hard_link(at("file"), at("second")).unwrap();
        assert!(open(&mut options, &at("file")).is_err());
    }
}
