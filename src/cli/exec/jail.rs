//! The outer end of the jail: starts it, gets the listeners out of it, tells it what to do, waits for its end.

use super::FAILED;
use super::environment::Changes;
use super::masks::Plan;
use super::message::{self, Said, Told};
use crate::daemon::Doors;
use crate::net::{BoundDns, adopt_tcp, adopt_udp};
use crate::steer::pass;
use anyhow::{Context, bail};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Making namespaces takes milliseconds; a busy machine gets time.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// What stands for an interface where the door itself says who comes.
const DOOR: &str = "exec";

/// What is passed on to the command.
const SIGNALS: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

pub(super) struct Jail {
    control: UnixStream,
    child: Child,
}

/// How it ended.
pub(super) struct Ending {
    pub(super) code: u8,
    /// The command ran.
    pub(super) started: bool,
    /// Why not, in words.
    pub(super) why: Option<String>,
    /// What the table refused without asking the gate.
    pub(super) refused_packets: u64,
}

impl Jail {
    pub(super) fn start(command: &[OsString], changes: &Changes) -> anyhow::Result<Self> {
        let (control, theirs) = UnixStream::pair().context("no socketpair")?;
        let mut inside = Command::new("/proc/self/exe");
        inside.arg0("outgate").arg("exec-inside").arg("--").args(command);
        changes.apply(&mut inside);
        inside.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = inside.spawn().context("this program cannot be started again (is /proc mounted?)")?;
        control.set_read_timeout(Some(READY_TIMEOUT))?;
        Ok(Self { control, child })
    }

    /// The listeners, which were made in there.
    pub(super) fn doors(&mut self) -> anyhow::Result<Doors> {
        let files = match message::receive(&self.control) {
            Ok(Some((Said::Ready, files))) => files,
            Ok(Some((Said::Failed { why, .. }, _))) => bail!(why),
            Ok(Some(_)) => bail!("the process inside said something unexpected"),
            Ok(None) => bail!("the process inside ended ({})", self.child.wait()?),
            Err(error) => return Err(error).context("the process inside does not answer"),
        };
        self.control.set_read_timeout(None)?;
        let mut doors = Doors::default();
        let mut files = files.into_iter();
        while let (Some(tcp), Some(udp), Some(dns)) = (files.next(), files.next(), files.next()) {
            doors.transparent.push(adopt_tcp(tcp, Some(DOOR))?);
            doors.dns.push(BoundDns { udp: adopt_udp(udp, Some(DOOR))?, tcp: adopt_tcp(dns, Some(DOOR))? });
        }
        Ok(doors)
    }

    /// Lets it build its walls and start the command.
    pub(super) fn enter(&self, plan: &Plan, certificate: &str, bundle: &str) -> anyhow::Result<()> {
        let told = || {
            message::send(&self.control, &Told::Enter(plan.clone()), &[])?;
            pass::send(&self.control, certificate.as_bytes(), &[])?;
            pass::send(&self.control, bundle.as_bytes(), &[])?;
            message::send(&self.control, &Told::Go, &[std::io::stdin().as_fd()])
        };
        told().context("the process inside does not listen")
    }

    /// Waits on a thread of its own, and passes signals on. Call it after [`hold_signals`].
    pub(super) fn watch(self) -> anyhow::Result<(oneshot::Receiver<()>, JoinHandle<Ending>)> {
        let (over, is_over) = oneshot::channel();
        let passing = self.control.try_clone()?;
        let signals = SignalFd::new(&SigSet::from_iter(SIGNALS)).context("signals cannot be read")?;
        std::thread::Builder::new().name("signals".into()).spawn(move || pass_on(&signals, &passing))?;
        let wait = move || {
            let ending = wait(self);
            // Nobody waits for it when the gate has failed.
            let _ = over.send(());
            ending
        };
        Ok((is_over, std::thread::Builder::new().name("command".into()).spawn(wait)?))
    }
}

/// From here on the signals wait to be passed on, in this thread and in those that it starts.
pub(super) fn hold_signals() -> anyhow::Result<()> {
    SigSet::from_iter(SIGNALS).thread_block().context("signals cannot be held")
}

fn pass_on(signals: &SignalFd, control: &UnixStream) {
    while let Ok(Some(signal)) = signals.read_signal() {
        // What the terminal sends (a Ctrl-C) goes to its whole foreground job, so the command has it already.
        if signal.ssi_code == libc::SI_KERNEL {
            continue;
        }
        let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
        if message::send(control, &Told::Signal(number), &[]).is_err() {
            return;
        }
    }
}

fn wait(mut jail: Jail) -> Ending {
    let mut ending = Ending { code: FAILED, started: false, why: None, refused_packets: 0 };
    let ended = loop {
        match message::receive(&jail.control) {
            Ok(Some((Said::Started, _))) => ending.started = true,
            Ok(Some((Said::Ended { code }, _))) => {
                ending.code = code;
                break true;
            }
            Ok(Some((Said::Failed { code, why }, _))) => {
                (ending.code, ending.why) = (code, Some(why));
                break true;
            }
            Ok(Some((Said::Ready | Said::Refused(_), _))) => {}
            Ok(None) | Err(_) => break false,
        }
    };
    let status = jail.child.wait();
    // All that could speak have ended, so this does not wait.
    if let Ok(Some((Said::Refused(packets), _))) = message::receive(&jail.control) {
        ending.refused_packets = packets;
    }
    if !ended {
        // PID 1 in there was killed (out of memory, for example) and could not say how the command ended.
        ending.why = Some(match status {
            Ok(status) => match status.signal().or_else(|| status.code().map(|code| code - 128)) {
                Some(signal) if signal > 0 => format!("the processes inside were ended by signal {signal}"),
                _ => format!("the processes inside ended: {status}"),
            },
            Err(error) => format!("the processes inside ended: {error}"),
        });
    }
    ending
}
