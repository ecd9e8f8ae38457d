//! Files of the authority: a private key is read only when nobody else could have read or planted it, and written
//! so that neither a crash nor a second process leaves half of it. Used by `ca` and `rotate`.

use super::ca::CaError;
use nix::fcntl::{Flock, FlockArg, OFlag};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Far above any certificate chain or key; keeps a wrong path (a device, a log) from being read whole.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads a private key. Refuses symbolic links, other owners, and modes that let anyone else read it.
pub(super) fn read_key(path: &Path) -> Result<Option<Zeroizing<String>>, CaError> {
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(CaError::KeySymlink { path: path.into() });
        }
        Err(source) => return Err(io("read", path, source)),
    };
    let meta = file.metadata().map_err(|e| io("read", path, e))?;
    if !meta.is_file() {
        return Err(CaError::KeyNotFile { path: path.into() });
    }
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(CaError::KeyOwner { path: path.into(), owner: meta.uid(), expected: me });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(CaError::KeyExposed { path: path.into(), mode: meta.mode() & 0o7777 });
    }
    bounded(path, &mut file).map(|text| Some(Zeroizing::new(text)))
}

/// Reads a certificate file; `None` when there is none.
pub(super) fn read_certificate(path: &Path) -> Result<Option<String>, CaError> {
    match File::open(path) {
        Ok(mut file) => bounded(path, &mut file).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io("read", path, source)),
    }
}

fn bounded(path: &Path, file: &mut File) -> Result<String, CaError> {
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(|e| io("read", path, e))?;
    Ok(text)
}

/// Writes a whole file in one step: a temporary file with its final mode from the start, synced, renamed, and the
/// folder synced. The caller holds [`lock`], so a temporary file that is already there is a crash's and is removed.
pub(super) fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), CaError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let temporary = path.with_file_name(name);
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(io("remove", &temporary, e)),
        _ => {}
    }
    let write_all = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_folder(path)
    };
    write_all().map_err(|source| {
        // Whatever failed, no key stays behind; the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
        io("write", path, source)
    })
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), CaError> {
    std::fs::rename(from, to).and_then(|()| sync_folder(to)).map_err(|e| io("rename", from, e))
}

/// Makes the folders of both files and locks the key's one, so that two processes never create or rotate at once.
pub(super) fn lock(certificate: &Path, key: &Path) -> Result<Flock<File>, CaError> {
    for path in [certificate, key] {
        let folder = folder(path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(|e| io("create", &folder, e))?;
    }
    let folder = folder(key);
    let file = File::open(&folder).map_err(|e| io("open", &folder, e))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| io("lock", &folder, e.into()))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}

pub(super) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> CaError {
    CaError::Io { doing, path: path.into(), source }
}
