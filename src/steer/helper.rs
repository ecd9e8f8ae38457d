//! The main loop of the privileged helper: it alone may change the packet rules, and it does nothing else.
//!
//! The daemon starts its own binary again with a hidden verb and a socketpair as standard input, before it drops its
//! privileges. The helper keeps CAP_NET_ADMIN only, holds the netlink socket that owns the tables, looks after them
//! whenever anyone changes nftables, and ends when the daemon's end of the socket closes. The tables stay.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use super::message::{self, Reply, Report, Request};
use super::netlink::Monitor;
use super::privilege::{self, RunAs};
use super::tables::{SteerError, Tables};

/// A look at the tables at least this often, should a notice of a change be lost.
const LOOK_EVERY: u16 = 2_000;
/// A daemon that stops in the middle of a message must not keep us from looking after the tables.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves on standard input; what the hidden verb calls.
pub fn serve_stdin(run_as: Option<RunAs>) -> io::Result<()> {
    serve(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?), run_as)
}

/// Serves until the daemon closes its end.
///
/// A lack of permission is told in the answers, so that the daemon can say it in its own words and place.
pub fn serve(mut stream: UnixStream, run_as: Option<RunAs>) -> io::Result<()> {
    // The daemon decides when to stop; a Ctrl-C or a service manager's signal to the whole group is not for us.
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    SigSet::from_iter(signals).thread_block()?;
    stream.set_read_timeout(Some(MESSAGE_TIMEOUT))?;
    stream.set_write_timeout(Some(MESSAGE_TIMEOUT))?;
    let mut keeper = match Keeper::new(run_as) {
        Ok(keeper) => keeper,
        Err(why) => return decline(&mut stream, &why),
    };
    loop {
        let daemon_spoke = keeper.wait(&stream)?;
        keeper.look();
        if daemon_spoke {
            let Some(request) = message::receive(&mut stream)? else { return Ok(()) };
            message::send(&mut stream, &keeper.answer(request))?;
        }
    }
}

/// Answers every request with the reason why nothing can be done.
fn decline(stream: &mut UnixStream, why: &str) -> io::Result<()> {
    // Whatever it still has is not needed to say no.
    let _ = privilege::drop_all(None);
    stream.set_read_timeout(None)?;
    while message::receive::<Request>(stream)?.is_some() {
        message::send(stream, &Reply::Failed(why.to_owned()))?;
    }
    Ok(())
}

struct Keeper {
    tables: Tables,
    monitor: Monitor,
    reasserted: u64,
    problem: Option<String>,
}

impl Keeper {
    fn new(run_as: Option<RunAs>) -> Result<Self, String> {
        if !privilege::has_net_admin() {
            return Err(SteerError::NoPermission.to_string());
        }
        privilege::keep_net_admin(run_as).map_err(|e| e.to_string())?;
        let tables = Tables::open().map_err(|e| e.to_string())?;
        let monitor = Monitor::open().map_err(|e| format!("cannot watch nftables: {e}"))?;
        Ok(Self { tables, monitor, reasserted: 0, problem: None })
    }

    /// Waits for the daemon, for a change of nftables, or for the time to look.
    fn wait(&self, stream: &UnixStream) -> io::Result<bool> {
        let mut polled = [
            PollFd::new(stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::from(LOOK_EVERY)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [daemon, _] = polled;
        Ok(daemon.revents().is_some_and(|events| !events.is_empty()))
    }

    /// Makes the tables again where somebody changed them.
    fn look(&mut self) {
        self.monitor.drain();
        match self.tables.mend() {
            Ok(false) => self.problem = None,
            Ok(true) => {
                self.reasserted += 1;
                self.problem = None;
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    fn answer(&mut self, request: Request) -> Reply {
        let result = match request {
            Request::Apply(settings) => self.tables.apply(&settings).map(|()| Reply::Done),
            Request::RemoveRedirect => self.tables.remove_redirect().map(|()| Reply::Done),
            Request::Verify => self.report().map(Reply::Report),
        };
        result.unwrap_or_else(|error| Reply::Failed(error.to_string()))
    }

    fn report(&mut self) -> Result<Report, SteerError> {
        let present = self.tables.presence()?;
        Ok(Report {
            fence: present.fence,
            redirect: present.redirect,
            intact: self.tables.intact()?,
            reasserted: self.reasserted,
            problem: self.problem.clone(),
        })
    }
}
