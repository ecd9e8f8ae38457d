//! The main loop of the privileged helper: it alone may change the packet rules, and it does nothing else.
//!
//! The daemon starts its own binary again with a hidden verb and a socketpair as standard input, before it drops its
//! privileges. The helper keeps CAP_NET_ADMIN only, holds the netlink socket that owns the tables, looks after them
//! whenever anyone changes nftables, and ends when the daemon's end of the socket closes. The tables stay.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use super::inside;
use super::message::{self, Reply, Report, Request};
use super::netlink::Monitor;
use super::pass;
use super::place::Place;
use super::privilege::{self, RunAs};
use super::tables::{SteerError, Tables};

/// A look at the tables at least this often, should a notice of a change be lost.
const LOOK_EVERY: u16 = 2_000;
/// A daemon that stops in the middle of a message must not keep us from looking after the tables.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Two sockets each; looking after more would take a noticeable part of a core.
const MAX_PLACES: usize = 128;

/// Serves on standard input; what the hidden verb calls.
pub fn serve_stdin(run_as: Option<RunAs>) -> io::Result<()> {
    serve(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?), run_as)
}

/// As [`serve_stdin`], with tables that nobody owns, as on kernels before 6.9: for tests of what is left then.
pub fn serve_stdin_plain(run_as: Option<RunAs>) -> io::Result<()> {
    serve_with(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?), run_as, Tables::plain)
}

/// Serves until the daemon closes its end.
///
/// A lack of permission is told in the answers, so that the daemon can say it in its own words and place.
pub fn serve(stream: UnixStream, run_as: Option<RunAs>) -> io::Result<()> {
    serve_with(stream, run_as, |tables| tables)
}

fn serve_with(mut stream: UnixStream, run_as: Option<RunAs>, kind: fn(Tables) -> Tables) -> io::Result<()> {
    // The daemon decides when to stop; a Ctrl-C or a service manager's signal to the whole group is not for us.
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    SigSet::from_iter(signals).thread_block()?;
    stream.set_read_timeout(Some(MESSAGE_TIMEOUT))?;
    stream.set_write_timeout(Some(MESSAGE_TIMEOUT))?;
    let mut keeper = match Keeper::new(run_as, kind) {
        Ok(keeper) => keeper,
        Err(why) => return decline(&mut stream, &why),
    };
    loop {
        let daemon_spoke = keeper.wait(&stream)?;
        keeper.look();
        if daemon_spoke {
            let Some((request, files)) = pass::receive(&stream)? else { return Ok(()) };
            let reply = keeper.answer(message::decode(&request)?, files);
            message::send(&mut stream, &reply)?;
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
    /// Workloads' own namespaces, by the daemon's numbers.
    places: BTreeMap<u32, Place>,
}

impl Keeper {
    fn new(run_as: Option<RunAs>, kind: fn(Tables) -> Tables) -> Result<Self, String> {
        if !privilege::has_net_admin() {
            return Err(SteerError::NoPermission.to_string());
        }
        privilege::keep_net_admin(run_as).map_err(|e| e.to_string())?;
        let tables = kind(Tables::open().map_err(|e| e.to_string())?);
        let monitor = Monitor::open().map_err(|e| format!("cannot watch nftables: {e}"))?;
        Ok(Self { tables, monitor, reasserted: 0, problem: None, places: BTreeMap::new() })
    }

    /// Waits for the daemon, for a change of nftables, or for the time to look.
    fn wait(&self, stream: &UnixStream) -> io::Result<bool> {
        let monitors = self.places.values().map(Place::as_fd);
        let all = [stream.as_fd(), self.monitor.as_fd()].into_iter().chain(monitors);
        let mut polled: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, PollTimeout::from(LOOK_EVERY)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let spoke = |daemon: &PollFd<'_>| daemon.revents().is_some_and(|events| !events.is_empty());
        Ok(polled.first().is_some_and(spoke))
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
        self.places.values_mut().for_each(Place::look);
    }

    fn answer(&mut self, request: Request, files: Vec<OwnedFd>) -> Reply {
        let result = match request {
            Request::Apply(settings) => self.tables.apply(&settings).map(|()| Reply::Done),
            Request::RemoveRedirect => self.tables.remove_redirect().map(|()| Reply::Done),
            Request::Verify => self.report().map(Reply::Report),
            Request::Inside { place, settings } => self.inside(place, &settings, files).map(|()| Reply::Done),
            Request::Leave { place, free } => self.leave(place, free).map(|()| Reply::Done),
        };
        result.unwrap_or_else(|error| Reply::Failed(error.to_string()))
    }

    /// What was refused leaves everything as it was.
    fn inside(
        &mut self,
        number: u32,
        settings: &inside::Settings,
        sockets: Vec<OwnedFd>,
    ) -> Result<(), SteerError> {
        if let Some(place) = self.places.get_mut(&number).filter(|_| sockets.is_empty()) {
            return place.apply(settings);
        }
        if self.places.len() >= MAX_PLACES {
            return Err(io::Error::other("no more namespaces can be looked after").into());
        }
        let mut place = Place::over(sockets)?;
        place.apply(settings)?;
        self.places.insert(number, place);
        Ok(())
    }

    /// A table that cannot be taken away is still looked after.
    fn leave(&mut self, number: u32, free: bool) -> Result<(), SteerError> {
        if free && let Some(place) = self.places.get_mut(&number) {
            place.free()?;
        }
        self.places.remove(&number);
        Ok(())
    }

    fn report(&mut self) -> Result<Report, SteerError> {
        let present = self.tables.presence()?;
        Ok(Report {
            fence: present.fence,
            redirect: present.redirect,
            intact: self.tables.intact()?,
            reasserted: self.reasserted + self.places.values().map(|place| place.reasserted).sum::<u64>(),
            rivals: self.tables.rivals()?,
            problem: self.problem.clone(),
            inside: self.places.values().find_map(|place| place.problem.clone()),
        })
    }
}
