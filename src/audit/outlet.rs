//! The file or pipe that records go to: opening it, writing without ever waiting, noticing that it was rotated.
//!
//! A regular file is appended to (`O_APPEND`) and watched for rename, removal and truncation. A pipe, FIFO, socket or
//! terminal is written only while `poll(2)` says that it takes a page, so a reader that stopped cannot stop us.

use super::chain::{Link, split_line};
use super::{OpenError, Sink};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `pipe(7)`: what a writable pipe takes at once without blocking.
const PIPE_WRITE: usize = 4096;

/// No line is longer: all texts and lists in it are cut well below.
pub(super) const LINE_LIMIT: usize = 128 * 1024;

pub(super) struct Outlet {
    file: Arc<File>,
    form: Form,
    /// One writer a file: two would tear the chain. Held, never read.
    _lock: Option<Flock<File>>,
}

enum Form {
    /// `size` is where our last write ended.
    Regular {
        path: PathBuf,
        device: u64,
        inode: u64,
        size: u64,
    },
    Stream,
}

/// What an opened file already holds.
pub(super) struct Found {
    pub link: Link,
    /// The end of a line that was being written when the daemon or the machine died; taken off the file.
    pub torn: Option<Vec<u8>>,
    /// The file ends in something that is not a record of ours; left as it is.
    pub foreign: bool,
}

/// Why not everything was written.
pub(super) enum Fault {
    /// Takes nothing at present: a reader that is slow or stopped.
    Blocked,
    Failed(io::Error),
}

/// What became of the path since the last look.
pub(super) enum Renewal {
    Same,
    Truncated,
    Reopened,
}

impl Outlet {
    pub fn open(sink: &Sink) -> Result<(Self, Found), OpenError> {
        match sink {
            Sink::File(path) => open_path(path),
            Sink::Stdout => {
                let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
                let found = Found { link: Link::START, torn: None, foreign: false };
                Ok((Self { file: Arc::new(File::from(stdout)), form: Form::Stream, _lock: None }, found))
            }
        }
    }

    /// Writes as much as goes without waiting; says how much that was.
    pub fn write(&mut self, bytes: &[u8]) -> (usize, Option<Fault>) {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest) {
                Ok(0) => return (written, Some(Fault::Failed(ErrorKind::WriteZero.into()))),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return (written, Some(Fault::Blocked));
                }
                Err(error) => return (written, Some(Fault::Failed(error))),
            }
        }
        (written, None)
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Regular { size, .. } => {
                let count = (&*self.file).write(bytes)?;
                *size += count as u64;
                Ok(count)
            }
            Form::Stream => {
                let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut ready, PollTimeout::ZERO)? == 0 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                (&*self.file).write(bytes.get(..PIPE_WRITE).unwrap_or(bytes))
            }
        }
    }

    /// Takes the last `count` bytes off a regular file again: the beginning of a line that did not fit. False when that
    /// cannot be done, and the line must be completed instead.
    pub fn retract(&mut self, count: usize) -> bool {
        let Form::Regular { size, .. } = &mut self.form else { return false };
        let whole = size.saturating_sub(count as u64);
        let ours = self.file.metadata().is_ok_and(|now| now.len() == *size);
        if ours && self.file.set_len(whole).is_ok() {
            *size = whole;
        }
        *size == whole
    }

    /// Notices rotation: reopens a path that leads elsewhere by now. While that fails, what is open stays in use, unless
    /// it has no name any more: then nobody could ever read the records, which is an error.
    pub fn renew(&mut self) -> io::Result<Renewal> {
        let Form::Regular { path, device, inode, size } = &mut self.form else { return Ok(Renewal::Same) };
        let open = self.file.metadata()?;
        let there = std::fs::metadata(path.as_path());
        if there.is_ok_and(|there| there.dev() == *device && there.ino() == *inode) {
            let truncated = open.len() < *size;
            *size = open.len();
            return Ok(if truncated { Renewal::Truncated } else { Renewal::Same });
        }
        match open_path(path) {
            Ok((outlet, _)) => {
                *self = outlet;
                Ok(Renewal::Reopened)
            }
            Err(error) if open.nlink() == 0 => Err(io::Error::other(error)),
            Err(_) => Ok(Renewal::Same),
        }
    }

    /// The handle to sync, for another thread.
    pub fn handle(&self) -> Arc<File> {
        self.file.clone()
    }
}

fn open_path(path: &Path) -> Result<(Outlet, Found), OpenError> {
    let failed = |source| OpenError::Open { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    // Reading too: the end of the file says where the chain goes on, and a FIFO opened so neither waits for a reader
    // nor breaks when one leaves.
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    // A start by root must not follow a link that the daemon's user put there; /dev/stdout is one, and no file.
    let unlinked = options.clone().create(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
    let (file, is_link) = match unlinked {
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => (options.open(path), true),
        opened => (opened, false),
    };
    let file = file.map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if is_link && meta.is_file() {
        return Err(failed(io::Error::other("it is a symbolic link: name the file itself")));
    }
    if !meta.is_file() {
        let stream = meta.file_type().is_fifo() || meta.file_type().is_char_device();
        let found = Found { link: Link::START, torn: None, foreign: false };
        return match stream {
            true => Ok((Outlet { file: Arc::new(file), form: Form::Stream, _lock: None }, found)),
            false => Err(OpenError::NotAFile { path: path.to_owned() }),
        };
    }
    if !begins_as_records(&file).map_err(failed)? {
        return Err(OpenError::NotRecords { path: path.to_owned() });
    }
    let lock = match Flock::lock(file.try_clone().map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Some(lock),
        Err((_, Errno::EWOULDBLOCK)) => return Err(OpenError::InUse { path: path.to_owned() }),
        // Some network file systems have no locks.
        Err(_) => None,
    };
    let (size, found) = read_end(&file, meta.len()).map_err(failed)?;
    let form = Form::Regular { path: path.to_owned(), device: meta.dev(), inode: meta.ino(), size };
    Ok((Outlet { file: Arc::new(file), form, _lock: lock }, found))
}

/// Whether a file is empty or starts like ours: a mistyped path must not be appended to.
fn begins_as_records(file: &File) -> io::Result<bool> {
    let mut start = [0; 5];
    let count = file.read_at(&mut start, 0)?;
    Ok(b"{\"v\":".starts_with(start.get(..count).unwrap_or_default()))
}

/// Finds the last record, and takes a torn line behind it off the file. Gives the size that is left.
fn read_end(mut file: &File, size: u64) -> io::Result<(u64, Found)> {
    let start = size.saturating_sub(2 * LINE_LIMIT as u64);
    let mut end = vec![0; usize::try_from(size - start).unwrap_or_default()];
    file.read_exact_at(&mut end, start)?;
    let whole = end.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let (lines, torn) = end.split_at_checked(whole).unwrap_or((&end, &[]));
    let mut lines = lines.split_inclusive(|&b| b == b'\n').rev();
    let last = lines.next();
    let link = last.and_then(link_of);
    // Not even a line, or one that is no record: the disk lost something, or somebody else wrote here.
    let foreign = link.is_none() && (last.is_some() || start > 0);
    let link = link.or_else(|| lines.find_map(link_of)).unwrap_or(Link::START);
    if torn.is_empty() {
        return Ok((size, Found { link, torn: None, foreign }));
    }
    if foreign {
        file.write_all(b"\n")?;
        return Ok((size + 1, Found { link, torn: None, foreign }));
    }
    let kept = size - torn.len() as u64;
    file.set_len(kept)?;
    Ok((kept, Found { link, torn: Some(torn.to_vec()), foreign }))
}

fn link_of(line: &[u8]) -> Option<Link> {
    let (_, hash) = split_line(line)?;
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    Some(Link { seq: value.get("seq")?.as_u64()?, hash })
}
