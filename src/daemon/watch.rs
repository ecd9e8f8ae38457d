//! Sees that the policy folder or the configuration's file has changed: whole files only, written and closed or moved
//! in, or taken away.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// An editor or a deployment writes several files at once; one reload sees them all.
const SETTLE: Duration = Duration::from_millis(200);

pub(super) struct Watch {
    changes: Receiver<()>,
}

impl Watch {
    /// The kernel is asked by a thread of its own, which sleeps between changes and ends with the process.
    pub(super) fn new(folder: &Path, file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let whole = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        let policies = inotify.add_watch(folder, whole | gone)?;
        // The folder, since an editor puts another file in the place of the old one.
        let beside = match file.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if let Err(error) = inotify.add_watch(beside, whole | gone) {
            let path = beside.display();
            tracing::warn!(%path, %error, "the configuration's folder cannot be watched; reload with SIGHUP");
        }
        let file = file.file_name().map(OsStr::to_owned);
        let concerns = move |event: &InotifyEvent| {
            let name = event.name.as_deref();
            name.is_some_and(|name| event.wd == policies && is_ours(name))
                || (name.is_some() && name == file.as_deref())
        };
        let (tell, changes) = channel(1);
        std::thread::Builder::new()
            .name("policy-watch".into())
            .spawn(move || read(&inotify, &tell, concerns))?;
        Ok(Self { changes })
    }

    /// Waits for a change and for the quiet after it. `None`: the folder can no longer be watched.
    pub(super) async fn changed(&mut self) -> Option<()> {
        self.changes.recv().await?;
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.changes.recv()).await {}
        Some(())
    }
}

fn read(inotify: &Inotify, tell: &Sender<()>, concerns: impl Fn(&InotifyEvent) -> bool) {
    while let Ok(events) = inotify.read_events() {
        let ours = events.iter().any(&concerns);
        // A full channel says the same already.
        if ours && let Err(tokio::sync::mpsc::error::TrySendError::Closed(())) = tell.try_send(()) {
            return;
        }
    }
}

/// Editors leave other files behind.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let ends = [".toml", ".rhai", ".pem", ".crt", ".key"];
    !name.starts_with('.') && ends.iter().any(|end| name.ends_with(end))
}
