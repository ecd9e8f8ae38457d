//! The daemon's end of the helper: starts it, asks it, waits a bounded time for its answer.
//!
//! [`Helper`] blocks and is for start-up and the command line; [`AsyncHelper`] is the same inside the runtime.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::inside;
use super::message::{self, Reply, Report, Request};
use super::pass;
use super::settings::Settings;

/// A batch takes milliseconds; a busy machine gets time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("cannot start the helper: {0}")]
    Spawn(#[source] io::Error),
    #[error("the helper does not answer: {0}")]
    Io(#[from] io::Error),
    #[error("the helper has ended: the rules stay as they are, but nobody looks after them")]
    Gone,
    #[error("an earlier request to the helper was not finished")]
    Broken,
    #[error("{0}")]
    Refused(String),
}

/// A running helper. Dropping it ends the helper; the tables stay.
pub struct Helper {
    stream: UnixStream,
    child: Child,
    /// An exchange has ended half-way: later answers would be taken for those of other requests.
    broken: bool,
}

impl Helper {
    /// Starts `command` (our own binary with the hidden verb that calls [`super::helper::serve_stdin`]) with the
    /// socket as its standard input and an empty environment, so that no secret of ours is in `/proc/PID/environ`.
    pub fn spawn(mut command: Command) -> Result<Self, HelperError> {
        let (ours, theirs) = UnixStream::pair().map_err(HelperError::Spawn)?;
        ours.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(HelperError::Spawn)?;
        ours.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(HelperError::Spawn)?;
        let child = command
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(HelperError::Spawn)?;
        // `command` holds the helper's end of the socket: only without it does our end see the helper die.
        drop(command);
        Ok(Self { stream: ours, child, broken: false })
    }

    /// Process id, for the record and for tests.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn apply(&mut self, settings: &Settings) -> Result<(), HelperError> {
        done(self.ask(&Request::Apply(settings.clone()), &[])?)
    }

    pub fn remove_redirect(&mut self) -> Result<(), HelperError> {
        done(self.ask(&Request::RemoveRedirect, &[])?)
    }

    pub fn verify(&mut self) -> Result<Report, HelperError> {
        report(self.ask(&Request::Verify, &[])?)
    }

    /// Puts the table of a workload's own namespace into place and looks after it under a number. The sockets that
    /// [`super::place::open_sockets`] made there come along the first time, and none later.
    pub fn inside(
        &mut self,
        place: u32,
        settings: &inside::Settings,
        sockets: &[OwnedFd],
    ) -> Result<(), HelperError> {
        done(self.ask(&Request::Inside { place, settings: settings.clone() }, sockets)?)
    }

    /// No longer looks after that table; `free` takes it away, or else it refuses on.
    pub fn leave(&mut self, place: u32, free: bool) -> Result<(), HelperError> {
        done(self.ask(&Request::Leave { place, free }, &[])?)
    }

    /// Ends the helper and waits for it.
    pub fn finish(self) -> io::Result<()> {
        let Self { stream, mut child, .. } = self;
        drop(stream);
        child.wait().map(drop)
    }

    /// The same helper inside a tokio runtime.
    pub fn into_async(self) -> io::Result<AsyncHelper> {
        Ok(AsyncHelper { id: self.id(), helper: Arc::new(Mutex::new(self)) })
    }

    fn ask(&mut self, request: &Request, files: &[OwnedFd]) -> Result<Reply, HelperError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(HelperError::Broken);
        }
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let exchange = message::encode(request).and_then(|request| {
            pass::send_bytes(&self.stream, &request, &files)?;
            message::receive(&mut self.stream)
        });
        let result = exchange.map_err(gone).and_then(|reply| reply.ok_or(HelperError::Gone));
        // Who is gone stays gone, and is so called.
        self.broken = matches!(&result, Err(error) if !matches!(error, HelperError::Gone));
        result
    }
}

/// [`Helper`] for async code: each request blocks a thread that may, and runs to its end whoever waits for it.
pub struct AsyncHelper {
    helper: Arc<Mutex<Helper>>,
    id: u32,
}

impl AsyncHelper {
    pub fn id(&self) -> u32 {
        self.id
    }

    pub async fn apply(&mut self, settings: &Settings) -> Result<(), HelperError> {
        let settings = settings.clone();
        self.with(move |helper| helper.apply(&settings)).await
    }

    pub async fn remove_redirect(&mut self) -> Result<(), HelperError> {
        self.with(Helper::remove_redirect).await
    }

    pub async fn verify(&mut self) -> Result<Report, HelperError> {
        self.with(Helper::verify).await
    }

    pub async fn inside(
        &mut self,
        place: u32,
        settings: &inside::Settings,
        sockets: Vec<OwnedFd>,
    ) -> Result<(), HelperError> {
        let settings = settings.clone();
        self.with(move |helper| helper.inside(place, &settings, &sockets)).await
    }

    pub async fn leave(&mut self, place: u32, free: bool) -> Result<(), HelperError> {
        self.with(move |helper| helper.leave(place, free)).await
    }

    async fn with<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Helper) -> Result<T, HelperError> + Send + 'static,
    ) -> Result<T, HelperError> {
        let helper = self.helper.clone();
        let asking = move || ask(&mut helper.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(asking).await.map_err(io::Error::other)?
    }
}

fn gone(error: io::Error) -> HelperError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            HelperError::Gone
        }
        _ => HelperError::Io(error),
    }
}

fn done(reply: Reply) -> Result<(), HelperError> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Failed(why) => Err(HelperError::Refused(why)),
        Reply::Report(_) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
}

fn report(reply: Reply) -> Result<Report, HelperError> {
    match reply {
        Reply::Report(report) => Ok(report),
        Reply::Failed(why) => Err(HelperError::Refused(why)),
        Reply::Done => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
}
