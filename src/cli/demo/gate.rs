//! The gate of the demo: its configuration, its policy, and this same binary as the daemon, in the gate's namespace.

use super::scratch::{Scratch, random_text};
use super::world::{API, GATE, NAMES, PAGES, World};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The file of records, in the scratch folder.
pub(super) const RECORDS: &str = "audit.jsonl";
/// Where the gate's certificate is once the daemon has started.
const CERTIFICATE: &str = "certs/ca.pem";
const LOG: &str = "daemon.log";
/// What the agent holds in the place of the token.
pub(super) const PLACEHOLDER: &str = "placeholder-that-is-worth-nothing";
/// The daemon's environment holds the token under this name, and the agent's the placeholder.
pub(super) const TOKEN_VARIABLE: &str = "DEMO_API_TOKEN";

const READY: &str = "outgate is ready";
/// A debug build on a busy machine; a release build needs a hundredth.
const START_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Gate<'a> {
    world: &'a World,
    exe: PathBuf,
    folder: PathBuf,
    token: String,
    child: Option<Child>,
}

impl<'a> Gate<'a> {
    /// Writes the files; nothing runs yet.
    pub(super) fn prepare(world: &'a World, scratch: &Scratch, exe: &Path) -> Result<Self> {
        scratch.write("outgate.toml", &configuration())?;
        scratch.write("policies/demo.toml", &policy())?;
        let token = format!("real-{}", random_text(24)?);
        Ok(Self { world, exe: exe.to_owned(), folder: scratch.path().to_owned(), token, child: None })
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub(super) fn start(&mut self, interrupted: &AtomicBool) -> Result<Duration> {
        let log = File::create(self.folder.join(LOG))?;
        let mut daemon = Command::new(&self.exe);
        daemon.arg("run").arg("-c").arg(self.folder.join("outgate.toml"));
        daemon.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        daemon.env(TOKEN_VARIABLE, &self.token);
        daemon.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A Ctrl-C at the terminal is for the demo alone, which then ends the daemon and its helper together.
        daemon.process_group(0);
        let start = Instant::now();
        let child = self.world.gate.run(move || daemon.spawn())?.context("cannot start the daemon")?;
        let child = self.child.insert(child);
        loop {
            let said = std::fs::read_to_string(self.folder.join(LOG))?;
            if said.contains(READY) {
                return Ok(start.elapsed());
            }
            let last = || said.lines().next_back().unwrap_or("nothing").to_owned();
            if let Some(status) = child.try_wait()? {
                bail!("the daemon ended ({status}); its last words: {}", last());
            }
            if start.elapsed() > START_PATIENCE {
                bail!("the daemon is not ready after {START_PATIENCE:?}; its last words: {}", last());
            }
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// SIGKILL to the daemon alone, and it is gone when this comes back. Its helper and its tables are left alone.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// A line of `/proc/PID/status`.
    pub(super) fn status(&self, field: &str) -> Result<String> {
        let id = self.child.as_ref().context("the daemon is not running")?.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {field} in /proc/{id}/status"))?.trim().to_owned())
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    pub(super) fn records(&self) -> PathBuf {
        self.folder.join(RECORDS)
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The daemon leads a group of its own that holds its helper; both are gone already when this fails.
            if let Ok(id) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            }
            let _ = child.wait();
        }
    }
}

fn configuration() -> String {
    format!(
        r#"policies = "policies"
mode = "transparent"

[listen]
transparent = ["0.0.0.0:15001"]
dns = ["{GATE}:53"]

[ca]
certificate = "{CERTIFICATE}"
key = "certs/ca.key"

[resolver]
upstreams = ["{NAMES}:53"]

[upstream]
roots = "origin-ca.pem"

[audit]
file = "{RECORDS}"

[admin]
socket = "admin.sock"
http = "127.0.0.1:9180"

[steer]
manage = true
interfaces = ["agent0"]
networks = ["10.77.1.0/24"]
"#
    )
}

fn policy() -> String {
    format!(
        r#"[[client]]
name = "agent"
interface = "agent0"
source = ["10.77.1.0/24"]

[[secret]]
name = "api"
from = {{ env = "{TOKEN_VARIABLE}" }}
placeholder = "{PLACEHOLDER}"

[[rule]]
name = "read the public pages"
hosts = ["{PAGES}"]
action = "allow"
  [[rule.match]]
  methods = ["GET", "HEAD"]
  path = {{ prefix = "/public" }}

[[rule]]
name = "read the public pages in the clear"
hosts = ["{PAGES}"]
action = "allow"
scheme = "http"
ports = [80]
  [[rule.match]]
  methods = ["GET", "HEAD"]
  path = {{ prefix = "/public" }}

[[rule]]
name = "use the api with the token that only the gate knows"
hosts = ["{API}"]
action = "allow"
  [rule.request]
  swap = ["api"]
"#
    )
}
