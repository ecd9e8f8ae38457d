//! Process 1 of a container: it starts the daemon, passes signals on to it, buries the orphans that the kernel gives it,
//! and ends as the daemon does. A process of its own, because who buries everybody also takes the exit codes of the
//! daemon's children.
//!
//! When the daemon runs, it executes itself once more, so that nothing of its first environment is in
//! `/proc/1/environ`, and gives up all rights.

use super::executable;
use crate::steer::{RunAs, privilege};
use anyhow::Context;
use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, ExitCode};

/// What the daemon understands, or ends by.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
/// A daemon that has not become its user yet cannot be reached by that user; it will be in a moment.
const RETRY_MS: u16 = 50;
/// The exit code of who was ended by a signal, as shells tell it.
const BY_SIGNAL: i32 = 128;

/// What the first image leaves for the second.
#[derive(Args)]
pub(super) struct Left {
    #[arg(long)]
    daemon: i32,
    /// Whom the daemon becomes
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
}

/// Starts the same command as another process; does not return when that went well.
pub(super) fn start(run_as: Option<RunAs>) -> anyhow::Result<ExitCode> {
    // Blocked signals wait, over the exec as well: none is lost before somebody passes it on.
    waited_for().thread_block()?;
    let program = executable()?;
    let mut daemon = Command::new(&program);
    daemon.args(std::env::args_os().skip(1));
    if std::env::var_os("LISTEN_PID").is_some_and(|pid| pid == "1") {
        // Sockets that a manager of containers hands over are meant for whom we start, whose number it cannot know.
        daemon.env_remove("LISTEN_PID");
    }
    let daemon = daemon.spawn().context("the daemon could not be started")?;
    let mut arguments =
        vec!["outgate".to_owned(), "first-process".to_owned(), format!("--daemon={}", daemon.id())];
    if let Some(RunAs { uid, gid }) = run_as {
        arguments.extend([format!("--uid={uid}"), format!("--gid={gid}")]);
    }
    let arguments = arguments.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let program = CString::new(program.into_os_string().into_vec())?;
    let nothing: [CString; 0] = [];
    match nix::unistd::execve(&program, &arguments, &nothing) {
        Ok(never) => match never {},
        Err(error) => Err(error).context("process 1 could not be executed again"),
    }
}

/// A process inherits what its parent waits for in its own way; the daemon wants to be told.
pub(super) fn hear_signals() -> anyhow::Result<()> {
    Ok(waited_for().thread_unblock()?)
}

fn waited_for() -> SigSet {
    PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// Until the daemon ends.
pub(super) fn serve(left: &Left) -> anyhow::Result<ExitCode> {
    let daemon = Pid::from_raw(left.daemon);
    let signals = SignalFd::with_flags(&waited_for(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let run_as = left.uid.zip(left.gid).map(|(uid, gid)| RunAs { uid, gid });
    privilege::drop_all(run_as).context("process 1 could not give up its rights")?;
    let mut undelivered = Vec::new();
    loop {
        if let Some(code) = bury(daemon)? {
            return Ok(code);
        }
        while let Some(signal) = next(&signals)? {
            undelivered.push(signal);
        }
        undelivered.retain(|signal| kill(daemon, *signal) == Err(Errno::EPERM));
        undelivered.dedup();
        let patience = if undelivered.is_empty() { PollTimeout::NONE } else { PollTimeout::from(RETRY_MS) };
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes everybody who has ended; gives the daemon's exit code when it is among them.
fn bury(daemon: Pid) -> anyhow::Result<Option<ExitCode>> {
    loop {
        let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, BY_SIGNAL + signal as i32),
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if ended.0 == daemon {
            return Ok(Some(ExitCode::from(u8::try_from(ended.1).unwrap_or(u8::MAX))));
        }
    }
}

fn next(signals: &SignalFd) -> anyhow::Result<Option<Signal>> {
    let Some(info) = signals.read_signal()? else { return Ok(None) };
    let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
    // SIGCHLD only wakes us.
    Ok(signal.filter(|signal| *signal != Signal::SIGCHLD))
}
