//! The host's resolver configuration: which servers it names, and when it has changed, however that is done (a rename,
//! a new symlink, a write in place).

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

/// Why a resolver configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    #[error("it names no server")]
    Empty,
    #[error("it names only this gate itself, which would ask itself for ever")]
    OnlyOurselves,
}

/// The `nameserver` lines (resolv.conf(5)), without our `own` doors: a host that asks the gate must not make the gate
/// ask itself. All other lines are for names without a final dot, which the gate never asks.
pub(super) fn servers(path: &Path, own: &[SocketAddr]) -> Result<Vec<SocketAddr>, SystemError> {
    let text = std::fs::read(path).map_err(SystemError::Unreadable)?;
    let mut servers: Vec<SocketAddr> = String::from_utf8_lossy(&text).lines().filter_map(server).collect();
    if servers.is_empty() {
        return Err(SystemError::Empty);
    }
    servers.retain(|server| !own.contains(server));
    if servers.is_empty() { Err(SystemError::OnlyOurselves) } else { Ok(servers) }
}

fn server(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace();
    let address: IpAddr =
        words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
    Some(SocketAddr::new(address, 53))
}

/// Where nothing tells of a change (a file system without inotify, a folder that is not there yet) the file is looked
/// at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A file that is written in place is empty for a moment.
const SETTLE: Duration = Duration::from_millis(20);
/// Symlinks followed; the kernel follows 40.
const LINKS: usize = 8;

/// Waits for one change of some files. Made before they are read, so that no change falls between.
pub(super) struct Watch {
    events: Option<Receiver>,
}

impl Watch {
    /// Watches the folder of each file and of each symlink on the way to it, and the file itself: what is mounted over
    /// a file is not seen in its folder.
    pub(super) fn new(files: &[PathBuf]) -> Self {
        let watch = || {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
            for file in files {
                follow(&inotify, file);
            }
            let events = inotify.as_fd().try_clone_to_owned().ok()?;
            // To the runtime it is what a pipe is: a descriptor that becomes readable.
            Receiver::from_file_unchecked(events.into()).ok()
        };
        Self { events: watch() }
    }

    /// Returns when something happened in those folders, or may have.
    pub(super) async fn changed(self) {
        let Some(events) = self.events else { return sleep(LOOK_EVERY).await };
        if timeout(LOOK_EVERY, events.readable()).await.is_ok() {
            sleep(SETTLE).await;
        }
    }
}

/// What cannot be watched is looked at from time to time.
fn follow(inotify: &Inotify, file: &Path) {
    let folder = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CLOSE_WRITE;
    let mut at = file.to_owned();
    for _ in 0..LINKS {
        let parent = at.parent().unwrap_or(Path::new("/")).to_owned();
        let _ = inotify.add_watch(&parent, folder);
        match std::fs::read_link(&at) {
            Ok(target) => at = parent.join(target),
            Err(_) => break,
        }
    }
    let _ = inotify.add_watch(&at, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_whole_name_server_lines_count() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# nameserver 192.0.2.9\nsearch corp.test\n; x\nnameserver\nnameserver host\n\
                    nameserver fe80::1%eth0\n nameserver\t192.0.2.1 # one\nnameserver 2001:db8::1\noptions rotate\n";
        std::fs::write(file.path(), text).unwrap();
        let found = servers(file.path(), &[]).unwrap();
        assert_eq!(found, ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
    }

    /// Each way in which programs change the file is seen at once, not at the next look.
    #[tokio::test]
    async fn a_rename_a_truncation_and_a_symlink_swap_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("run")).unwrap();
        std::fs::create_dir(at("etc")).unwrap();
        std::fs::write(at("run/stub"), "nameserver 192.0.2.1\n").unwrap();
        std::fs::write(at("run/other"), "nameserver 192.0.2.2\n").unwrap();
        symlink("../run/stub", at("etc/resolv.conf")).unwrap();
        let files = [at("etc/resolv.conf")];
        type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
        let changes: [Change<'_>; 4] = [
            (
                "a rename behind the link",
                Box::new(|| {
                    std::fs::write(at("run/new"), "nameserver 192.0.2.3\n").unwrap();
                    std::fs::rename(at("run/new"), at("run/stub")).unwrap();
                }),
            ),
            (
                "a write in place",
                Box::new(|| std::fs::write(at("run/stub"), "nameserver 192.0.2.4\n").unwrap()),
            ),
            ("a truncation", Box::new(|| std::fs::write(at("run/stub"), "").unwrap())),
            (
                "another link",
                Box::new(|| {
                    symlink("../run/other", at("etc/fresh")).unwrap();
                    std::fs::rename(at("etc/fresh"), at("etc/resolv.conf")).unwrap();
                }),
            ),
        ];
        for (how, change) in changes {
            let watch = Watch::new(&files);
            change();
            let seen = timeout(Duration::from_secs(2), watch.changed()).await;
            assert!(seen.is_ok(), "{how}");
        }
        assert_eq!(servers(&files[0], &[]).unwrap(), ["192.0.2.2:53".parse().unwrap()]);
    }
}
