//! The hidden verb `exec-init`: PID 1 of the command's namespace. It gives up every right before the command starts,
//! reaps what the command leaves, and passes on the signals that the gate tells it of.
//!
//! When it ends, the kernel ends every process inside. It does so with the command, and when the gate dies.

use super::masks;
use super::message::{self, Said, Told};
use super::seal::seal;
use super::{CANNOT_RUN, FAILED, NOT_FOUND};
use crate::steer::privilege;
use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The code of a command that a signal ended, as shells count.
const BY_SIGNAL: i32 = 128;

/// What of `/proc` changes the machine.
const OF_THE_KERNEL: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

pub(in crate::cli) fn run(inner: &super::Inner) -> ExitCode {
    let control = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => UnixStream::from(control),
        Err(_) => return ExitCode::from(FAILED),
    };
    let ended = start(&control, inner).and_then(|init| {
        let code = init.wait(&control).map_err(|error| (FAILED, error.into()))?;
        Ok((code, Said::Ended { code }))
    });
    let (code, said) = ended.unwrap_or_else(|(code, error): (u8, anyhow::Error)| {
        (code, Said::Failed { code, why: crate::cli::told(&error) })
    });
    // Nobody listens when the gate has gone.
    let _ = message::send(&control, &said, &[]);
    ExitCode::from(code)
}

struct Init {
    command: Pid,
    signals: SignalFd,
}

fn start(control: &UnixStream, inner: &super::Inner) -> Result<Init, (u8, anyhow::Error)> {
    let prepared = prepare(control, inner.folder.as_deref()).map_err(|error| (FAILED, error))?;
    let (input, signals) = prepared;
    let Some((program, arguments)) = inner.command.split_first() else {
        return Err((FAILED, anyhow::anyhow!("no command")));
    };
    let child = Command::new(program).args(arguments).stdin(Stdio::from(input)).spawn();
    let child = child.map_err(|error| {
        let code = if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
        let name = program.to_string_lossy().into_owned();
        (code, anyhow::Error::from(error).context(format!("{name} cannot be run")))
    })?;
    let command = i32::try_from(child.id()).map_err(|error| (FAILED, error.into()))?;
    message::send(control, &Said::Started, &[]).map_err(|error| (FAILED, error.into()))?;
    Ok(Init { command: Pid::from_raw(command), signals })
}

/// Everything before the command, up to the point where nothing is left to be taken.
fn prepare(control: &UnixStream, folder: Option<&Path>) -> anyhow::Result<(OwnedFd, SignalFd)> {
    let Some((Told::Go, files)) = message::receive(control)? else { anyhow::bail!("the gate has gone") };
    let input = files.into_iter().next().context("the standard input did not come along")?;
    // The parent is in another PID namespace, and still has to read about itself in its own /proc.
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace for the command")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context(
        "a fresh /proc cannot be mounted, since part of the present one is covered: in a container give it \
         --security-opt systempaths=unconfined",
    )?;
    if nix::unistd::geteuid().is_root() {
        // Their files are the host's root's, and an owner needs no capability. With these on it, no other /proc can be
        // mounted over it (mount_namespaces(7)).
        for name in OF_THE_KERNEL {
            let path = Path::new("/proc").join(name);
            if path.exists() {
                masks::bind(&path, &path)?;
                masks::protect(&path)?;
            }
        }
    }
    if let Some(folder) = folder {
        // By its name, so that a cover above it counts.
        std::env::set_current_dir(folder)
            .with_context(|| format!("{} is covered inside; start from another folder", folder.display()))?;
    }
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    privilege::drop_all(None)?;
    seal()?;
    Ok((input, signals))
}

impl Init {
    /// Until the command has ended: its exit code. Signals of the terminal do not reach PID 1, which has no handlers.
    fn wait(&self, control: &UnixStream) -> io::Result<u8> {
        loop {
            let mut polled = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(control.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [_, spoken] = polled;
            while let Ok(Some(_)) = self.signals.read_signal() {}
            if let Some(code) = self.reap() {
                return Ok(code);
            }
            if spoken.revents().is_some_and(|events| !events.is_empty()) {
                match message::receive(control)? {
                    Some((Told::Signal(number), _)) => {
                        // It may have ended just now.
                        let _ = Signal::try_from(number).map(|signal| kill(self.command, signal));
                    }
                    Some(_) => {}
                    // The gate is dead: nobody would judge any more.
                    None => return Ok(FAILED),
                }
            }
        }
    }

    /// Takes all that have ended, those of others too; the code when the command is among them.
    fn reap(&self) -> Option<u8> {
        let mut code = None;
        loop {
            let (pid, value) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, value)) => (pid, value),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, BY_SIGNAL + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return code,
                Ok(_) => continue,
            };
            if pid == self.command {
                code = u8::try_from(value).ok().or(Some(FAILED));
            }
        }
    }
}
