//! A workload's namespace as the gate holds it from outside: sockets made there once by somebody who may enter it
//! (root, at `attach` or at the daemon's start), and used from then on by the helper, which may not.
//!
//! The kernel judges a netlink socket by who opened it and who uses it now; its namespace stays that of its making.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::inside;
use super::netlink::{self, Monitor};
use super::tables::{SteerError, Tables};

/// Should news of a change be lost.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Does `work` in another network namespace, on a thread of its own that ends with it.
///
/// # Errors
/// The thread may not enter: CAP_SYS_ADMIN is needed here and in the user namespace that owns it.
pub fn within<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let visit = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    };
    let panicked = |_| io::Error::other("the thread in the namespace panicked");
    std::thread::scope(|scope| scope.spawn(visit).join().map_err(panicked)?)
}

/// Sockets for the tables of the namespace that this is called in: for changes, and for news of changes.
pub fn open_sockets() -> io::Result<[OwnedFd; 2]> {
    netlink::open_both().map(|(changes, news)| [changes, news])
}

/// One such namespace in the helper.
pub(super) struct Place {
    tables: Tables,
    monitor: Monitor,
    looked: Instant,
    pub(super) reasserted: u64,
    pub(super) problem: Option<String>,
}

impl Place {
    pub(super) fn over(sockets: Vec<OwnedFd>) -> Result<Self, SteerError> {
        let Ok([changes, news]) = <[OwnedFd; 2]>::try_from(sockets) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "two sockets are needed").into());
        };
        let (tables, monitor) = (Tables::over(changes)?, Monitor::over(news));
        Ok(Self { tables, monitor, looked: Instant::now(), reasserted: 0, problem: None })
    }

    pub(super) fn apply(&mut self, settings: &inside::Settings) -> Result<(), SteerError> {
        self.tables.apply_inside(settings)
    }

    /// The workload is free.
    pub(super) fn free(&mut self) -> Result<(), SteerError> {
        self.tables.remove_inside()
    }

    /// Makes the table again where somebody changed it. Without news it is looked at now and then only, since many
    /// namespaces may be looked after.
    pub(super) fn look(&mut self) {
        if !self.monitor.drain() && self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        match self.tables.mend() {
            Ok(mended) => {
                self.reasserted += u64::from(mended);
                self.problem = None;
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}
