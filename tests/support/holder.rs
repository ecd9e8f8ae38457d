//! A stand-in for the service manager: it holds the sockets of the doors, starts the daemon on them, hears its notices.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};

use super::gate::Gate;
use super::ns::Namespace;

/// Sockets with the names that their socket units would give them.
pub struct Holder {
    sockets: Vec<(&'static str, OwnedFd)>,
}

impl Holder {
    /// TCP listeners and, for names that end in `/udp`, UDP sockets.
    pub fn new(namespace: &Namespace, doors: &[(&'static str, &str)]) -> Self {
        let open = |(name, at): &(&'static str, &str)| {
            let at: SocketAddr = at.parse().unwrap();
            match name.strip_suffix("/udp") {
                Some(name) => (name, OwnedFd::from(namespace.udp(at))),
                None => (*name, OwnedFd::from(namespace.listen(at))),
            }
        };
        Self { sockets: doors.iter().map(open).collect() }
    }

    pub fn of(name: &'static str, socket: impl Into<OwnedFd>) -> Self {
        Self { sockets: vec![(name, socket.into())] }
    }

    /// The daemon's command line as a service manager would run it.
    pub fn command(&self, config: &Path) -> Command {
        // The process number is known only inside.
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh", env!("CARGO_BIN_EXE_outgate"), "run", "-c"]);
        command.arg(config);
        self.hand_to(&mut command);
        command
    }

    /// Everything but the process number.
    pub fn hand_to(&self, command: &mut Command) {
        let names: Vec<_> = self.sockets.iter().map(|(name, _)| *name).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let sockets = self.sockets.iter().zip(3..);
        let mappings =
            sockets.map(|((_, fd), child_fd)| FdMapping { parent_fd: fd.try_clone().unwrap(), child_fd });
        command.fd_mappings(mappings.collect()).unwrap();
    }

    pub fn start(&self, namespace: &Namespace, dir: &Path) -> Gate {
        let gate = Gate::launch(namespace, dir, self.command(&dir.join("outgate.toml")));
        gate.wait_for_words("outgate is ready");
        gate
    }
}

/// The socket that the daemon's notices go to.
pub struct Ear {
    socket: UnixDatagram,
    pub path: PathBuf,
}

impl Ear {
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        // As systemd's own: the daemon is another user by then.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        Self { socket, path }
    }

    /// The next message that holds `words`, if it comes in time; others are passed over.
    pub fn hear(&self, words: &str, within: Duration) -> Option<String> {
        let deadline = Instant::now() + within;
        let mut message = [0_u8; 4096];
        loop {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.socket.set_read_timeout(Some(left)).unwrap();
            let length = self.socket.recv(&mut message).ok()?;
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(words)) {
                return Some(text);
            }
        }
    }

    /// Throws away what has come.
    pub fn forget(&self) {
        while self.hear("no line begins like this", Duration::from_millis(20)).is_some() {}
    }
}
