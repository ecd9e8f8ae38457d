//! Network namespaces made by the tests: each is one thread that left the host's network for good.
//!
//! A namespace lives as long as its thread and the sockets and children made in it: nothing has a name in the file
//! system, so nothing is left behind when a test panics. Sockets made by `run` belong to the namespace wherever
//! they are used later, and a child spawned by it inherits its network and its mounts.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Once;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

type Job = Box<dyn FnOnce() + Send>;

pub struct Namespace {
    name: &'static str,
    thread_id: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub fn new(name: &'static str) -> Self {
        become_root_of_something();
        let (jobs, inbox) = channel::<Job>();
        let (born, birth) = channel();
        let life = move || {
            let left = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS);
            // Without this each new link would be dumb for a second, looking for a twin of its address.
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").ok();
            born.send(left.map(|()| nix::unistd::gettid().as_raw())).unwrap();
            while let Ok(job) = inbox.recv() {
                job();
            }
        };
        let thread = Builder::new().name(format!("ns-{name}")).spawn(life).unwrap();
        let thread_id = birth.recv().unwrap().unwrap_or_else(|error| {
            panic!(
                "cannot make the network namespace {name}: {error}. These tests make their own namespaces: run them \
                 as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
                 user.max_net_namespaces > 0); in a container give it CAP_SYS_ADMIN and CAP_NET_ADMIN."
            )
        });
        Self { name, thread_id, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Does `work` inside and gives back what it made; a panic inside is a panic here.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = channel();
        let guarded = move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            answer.send(done).ok();
        };
        self.jobs.as_ref().unwrap().send(Box::new(guarded)).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The path by which `ip` can put a device into this namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.thread_id)
    }

    pub fn socket(&self, domain: Domain, kind: Type, protocol: Option<Protocol>) -> Socket {
        self.run(move || Socket::new(domain, kind, protocol)).unwrap()
    }

    /// A TCP connection from inside. The error is the kernel's word: refused, reset, timed out.
    pub fn connect(&self, to: SocketAddr, within: Duration) -> std::io::Result<TcpStream> {
        let socket = self.socket(Domain::for_address(to), Type::STREAM, None);
        socket.connect_timeout(&to.into(), within)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }

    pub fn listen(&self, at: SocketAddr) -> TcpListener {
        let socket = self.socket(Domain::for_address(at), Type::STREAM, None);
        socket.set_reuse_address(true).unwrap();
        if at.is_ipv6() {
            socket.set_only_v6(true).unwrap();
        }
        socket.bind(&at.into()).unwrap_or_else(|error| panic!("{}: bind {at}: {error}", self.name));
        socket.listen(256).unwrap();
        socket.into()
    }

    pub fn udp(&self, at: SocketAddr) -> UdpSocket {
        let socket = self.socket(Domain::for_address(at), Type::DGRAM, None);
        socket.bind(&at.into()).unwrap_or_else(|error| panic!("{}: bind {at}/udp: {error}", self.name));
        socket.into()
    }

    /// Runs shell lines inside; a line that fails fails the test with its words.
    pub fn sh(&self, script: impl Into<String>) -> String {
        let (script, name) = (script.into(), self.name);
        self.run(move || {
            let done = Command::new("sh").args(["-ec", &script]).output().expect("sh");
            let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
            assert!(done.status.success(), "in namespace {name}: {script}\n{out}{err}");
            out.into_owned()
        })
    }

    /// One `ip -batch` for many lines: a process each would be most of a world's cost.
    pub fn ip(&self, lines: &str) {
        let script = format!("ip -batch - <<'LINES'\n{lines}\nLINES");
        self.sh(script);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Namespaces need root. Who is not root starts the whole test binary again as root of a user namespace of its own.
fn become_root_of_something() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if nix::unistd::geteuid().is_root() {
            return;
        }
        // The daemon gives up root for another user id, so more than one must exist in there.
        let leave = ["--user", "--map-root-user", "--map-auto", "--net", "--mount", "--fork", "--kill-child", "--"];
        let trial = Command::new("unshare").args(leave).arg("true").output();
        let refusal = match &trial {
            Ok(done) if done.status.success() => None,
            Ok(done) => Some(String::from_utf8_lossy(&done.stderr).into_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(refusal) = refusal {
            panic!(
                "these tests make network namespaces: run them as root (tools/test does), or give this user a user \
                 namespace with a range of ids (package uidmap, a line each in /etc/subuid and /etc/subgid, \
                 sysctl kernel.unprivileged_userns_clone=1). unshare says: {refusal}"
            );
        }
        let this = std::env::current_exe().expect("the path of this test binary");
        let error = Command::new("unshare").args(leave).arg(this).args(std::env::args_os().skip(1)).exec();
        panic!("unshare: {error}");
    });
}
