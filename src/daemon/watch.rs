//! Sees that the policy folder has changed: whole files only, written and closed or moved in, or taken away.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An editor or a deployment writes several files at once; one reload sees them all.
const SETTLE: Duration = Duration::from_millis(200);

pub(super) struct Watch {
    inotify: AsyncFd<Raw>,
}

/// nix gives the borrowed descriptor, tokio asks for its number.
struct Raw(Inotify);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    pub(super) fn new(folder: &Path) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let whole = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        inotify.add_watch(folder, whole | gone)?;
        Ok(Self { inotify: AsyncFd::with_interest(Raw(inotify), Interest::READABLE)? })
    }

    /// Waits for a change and for the quiet after it.
    pub(super) async fn changed(&mut self) -> std::io::Result<()> {
        self.next().await?;
        while tokio::time::timeout(SETTLE, self.next()).await.is_ok() {}
        Ok(())
    }

    async fn next(&mut self) -> std::io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) if events.iter().any(|event| event.name.as_ref().is_some_and(is_ours)) => {
                    return Ok(());
                }
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Editors leave other files behind.
fn is_ours(name: &std::ffi::OsString) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with('.') && (name.ends_with(".toml") || name.ends_with(".rhai"))
}
