//! A network namespace held by one thread that left the host's network for good.
//!
//! It has no name in the file system and lives as long as its thread, the sockets and the children made in it, so
//! nothing is left behind however the demo ends.

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub(super) struct Namespace {
    name: &'static str,
    path: PathBuf,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub(super) fn new(name: &'static str) -> Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (born, birth) = channel();
        let life = move || {
            let entered = enter();
            let alive = entered.is_ok();
            if born.send(entered).is_err() || !alive {
                return;
            }
            while let Ok(job) = inbox.recv() {
                job();
            }
        };
        let thread = Builder::new().name(format!("demo-{name}")).spawn(life)?;
        let path = birth.recv()?.with_context(|| format!("cannot make the network namespace {name}"))?;
        Ok(Self { name, path, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does `work` inside. Sockets and children made there belong to the namespace wherever they are used later.
    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (answer, result) = channel();
        let job = Box::new(move || drop(answer.send(work())));
        let gone = || anyhow!("the thread of the namespace {} is gone", self.name);
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// Where `ip` finds this namespace.
    pub(super) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Lines of `ip -batch`.
    pub(super) fn ip(&self, lines: String) -> Result<()> {
        let done = self.run(move || {
            let mut ip = Command::new("ip");
            ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = ip.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(lines.as_bytes())?;
            }
            child.wait_with_output()
        })??;
        if !done.status.success() {
            bail!(
                "`ip` failed in the namespace {}: {}",
                self.name,
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(())
    }

    /// A bound socket for the demo's runtime; a stream socket listens.
    pub(super) fn bind(&self, at: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket> {
        let bound = self.run(move || {
            let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
            socket.set_nonblocking(true)?;
            socket.bind(&at.into())?;
            if kind == Type::STREAM {
                socket.listen(64)?;
            }
            std::io::Result::Ok(socket)
        })?;
        bound.with_context(|| format!("cannot bind {at} in the namespace {}", self.name))
    }
}

/// Leaves the network and the mounts that this thread was born with. Gives the place of the new network.
fn enter() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    // The thread as the mounted /proc names it, which is right in a pid namespace too.
    let thread = std::fs::read_link("/proc/thread-self")?;
    Ok(PathBuf::from("/proc").join(thread).join("ns/net"))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It only panics when a job did, and whoever asked for that job has been told.
            let _ = thread.join();
        }
    }
}
