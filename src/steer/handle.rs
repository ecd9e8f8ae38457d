//! The daemon's end of the helper: starts it, asks it, waits a bounded time for its answer.
//!
//! [`Helper`] blocks and is for start-up and the command line; [`AsyncHelper`] is the same inside the runtime.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::message::{self, Reply, Report, Request};
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
        Ok(Self { stream: ours, child })
    }

    /// Process id, for the record and for tests.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn apply(&mut self, settings: &Settings) -> Result<(), HelperError> {
        done(self.ask(&Request::Apply(settings.clone()))?)
    }

    pub fn remove_redirect(&mut self) -> Result<(), HelperError> {
        done(self.ask(&Request::RemoveRedirect)?)
    }

    pub fn verify(&mut self) -> Result<Report, HelperError> {
        report(self.ask(&Request::Verify)?)
    }

    /// Ends the helper and waits for it.
    pub fn finish(self) -> io::Result<()> {
        let Self { stream, mut child } = self;
        drop(stream);
        child.wait().map(drop)
    }

    /// The same helper inside a tokio runtime.
    pub fn into_async(self) -> io::Result<AsyncHelper> {
        self.stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(self.stream)?;
        Ok(AsyncHelper { stream, child: self.child, in_flight: false })
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, HelperError> {
        message::send(&mut self.stream, request).map_err(gone)?;
        message::receive(&mut self.stream).map_err(gone)?.ok_or(HelperError::Gone)
    }
}

/// [`Helper`] for async code. A request that is dropped half-way leaves the handle broken, for answers would then be
/// taken for those of later requests; so keep it in one task.
pub struct AsyncHelper {
    stream: tokio::net::UnixStream,
    child: Child,
    in_flight: bool,
}

impl AsyncHelper {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub async fn apply(&mut self, settings: &Settings) -> Result<(), HelperError> {
        done(self.ask(&Request::Apply(settings.clone())).await?)
    }

    pub async fn remove_redirect(&mut self) -> Result<(), HelperError> {
        done(self.ask(&Request::RemoveRedirect).await?)
    }

    pub async fn verify(&mut self) -> Result<Report, HelperError> {
        report(self.ask(&Request::Verify).await?)
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply, HelperError> {
        if std::mem::replace(&mut self.in_flight, true) {
            return Err(HelperError::Broken);
        }
        let exchange = async {
            self.stream.write_all(&message::encode(request)?).await?;
            let mut header = [0; 4];
            self.stream.read_exact(&mut header).await?;
            let mut body = vec![0; message::body_length(header)?];
            self.stream.read_exact(&mut body).await?;
            message::decode(&body)
        };
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "time-out");
        let reply = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(timed_out)?.map_err(gone)?;
        self.in_flight = false;
        Ok(reply)
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
