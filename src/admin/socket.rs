//! The admin socket's file: made without a moment in which others could use it, never taken from a living daemon.

use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const BACKLOG: i32 = 16;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot make the admin socket {}: {source}; give [admin] a path in a folder of the daemon's own", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("{} is not a socket; remove it or give [admin] another path", path.display())]
    NotASocket { path: PathBuf },
    #[error("another daemon listens on {}; stop it first", path.display())]
    InUse { path: PathBuf },
}

/// A bound socket, whose file goes away with it.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only our own: a daemon that took over has a socket of its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds under another name, narrows the mode, and only then moves the socket to its place and listens.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let failed = |source| SocketError::Make { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    check_place(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let _ = fs::remove_file(&temporary);
    let made = bind_at(&temporary).and_then(|made| fs::rename(&temporary, path).map(|()| made));
    made.map(|(listener, inode)| (listener, SocketFile { path: path.to_owned(), inode })).map_err(|source| {
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}

/// Only a socket on which nobody listens may be replaced.
fn check_place(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Make { path: path.to_owned(), source }),
        Ok(meta) if !meta.file_type().is_socket() => Err(SocketError::NotASocket { path: path.to_owned() }),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
            Err(source) => Err(SocketError::Make { path: path.to_owned(), source }),
        },
    }
}

fn bind_at(path: &Path) -> io::Result<(UnixListener, u64)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before it listens nobody can connect, whatever the umask made of its mode.
    fchmodat(nix::fcntl::AT_FDCWD, path, Mode::S_IRUSR | Mode::S_IWUSR, FchmodatFlags::FollowSymlink)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from(socket), fs::symlink_metadata(path)?.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_and_its_folder_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join("admin.sock");
        let (_listener, file) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        drop(file);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_socket_is_replaced_a_living_one_and_a_file_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::InUse { .. })));
        drop((listener, file));
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_file_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let (listener, first) = bind(&path).unwrap();
        drop(listener);
        let _second = bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_an_error_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let error = bind(&dir.path().join("x".repeat(200))).err().unwrap();
        assert!(error.to_string().contains("give [admin]"), "{error}");
    }
}
