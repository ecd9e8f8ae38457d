//! The daemon under test: its files, its process, its records. The real binary, started in the gate's namespace.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::ns::Namespace;

/// How the gate is set up, where a test wants more than a policy.
#[derive(Default, Clone)]
pub struct Setup {
    /// `[[rule]]`s and `[[secret]]`s; empty: no rule file at all, only the clients.
    pub policy: String,
    /// The `[[client]]`s, where not those of both agents.
    pub clients: Option<&'static str>,
    /// Files beside the policy: scripts, case files.
    pub beside: Vec<(&'static str, String)>,
    /// Further lines of `[steer]`.
    pub steer: &'static str,
    /// What stands under `[resolver]`, where that is not the world's name server.
    pub resolver: Option<&'static str>,
    /// Lines of `[limits]`.
    pub limits: &'static str,
    /// Further sections of `outgate.toml`.
    pub sections: String,
    pub environment: Vec<(&'static str, String)>,
    /// A command that becomes the daemon, without the daemon's own words: `prlimit` or `taskset` with their arguments.
    pub through: &'static [&'static str],
    /// Connections come to the transparent door by TPROXY.
    pub tproxy: bool,
    /// The kernel of the gate carries packets, so that only the fence stands between the agent and the internet.
    pub forwarding: bool,
}

const CLIENTS: &str = r#"
[[client]]
name = "agent"
interface = "agent0"
source = ["10.77.1.0/24", "fd77:1::/64"]

[[client]]
name = "agent2"
interface = "agent1"
source = ["10.77.2.0/24", "fd77:2::/64"]
"#;

const DAEMON: &str = r#"
policies = "policies"
mode = "transparent"

[listen]
transparent = ["0.0.0.0:15001", "[::]:15001"]
explicit = ["10.77.1.1:3128", "[fd77:1::1]:3128", "10.77.2.1:3128"]
dns = ["10.77.1.1:53", "[fd77:1::1]:53", "10.77.2.1:53"]
quic = ["10.77.1.1:15443", "[fd77:1::1]:15443", "10.77.2.1:15443"]

[ca]
certificate = "certs/ca.pem"
key = "certs/ca.key"

[upstream]
roots = "origin-ca.pem"

[audit]
file = "audit.jsonl"

[admin]
socket = "admin.sock"
http = "127.0.0.1:9180"

[steer]
manage = true
interfaces = ["agent0", "agent1"]
networks = ["10.77.1.0/24", "fd77:1::/64", "10.77.2.0/24", "fd77:2::/64"]
"#;

/// How long the daemon may take for what it was told: start, reload, write a record.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Gate {
    pub dir: PathBuf,
    child: Child,
    said: Arc<(Mutex<String>, Condvar)>,
}

impl Gate {
    /// Writes the files and starts the daemon; returns when it says that it is ready.
    pub fn start(namespace: &Namespace, dir: &Path, setup: &Setup) -> Self {
        write_files(dir, setup);
        Self::execute(namespace, dir, &setup.environment, setup.through)
    }

    /// Starts the daemon on the files that are there.
    pub fn run(namespace: &Namespace, dir: &Path, environment: &[(&'static str, String)]) -> Self {
        Self::execute(namespace, dir, environment, &[])
    }

    fn execute(
        namespace: &Namespace,
        dir: &Path,
        environment: &[(&'static str, String)],
        through: &[&str],
    ) -> Self {
        let mut words = through.iter().copied().chain([env!("CARGO_BIN_EXE_outgate"), "run", "-c"]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(dir.join("outgate.toml")).envs(environment.iter().cloned());
        let gate = Self::launch(namespace, dir, command);
        gate.wait_for_words("outgate is ready");
        gate
    }

    /// Starts a command that is the daemon, or becomes it, and waits for nothing.
    pub fn launch(namespace: &Namespace, dir: &Path, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = namespace.run(move || command.spawn()).expect("start the daemon");
        let said = Arc::<(Mutex<String>, Condvar)>::default();
        let (stderr, ear) = (child.stderr.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                ear.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&line));
                ear.1.notify_all();
                line.clear();
            }
            ear.0.lock().unwrap_or_else(PoisonError::into_inner).push('\0');
            ear.1.notify_all();
        });
        Self { dir: dir.to_owned(), child, said }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Everything the daemon wrote to stderr up to now.
    pub fn stderr(&self) -> String {
        self.said.0.lock().unwrap_or_else(PoisonError::into_inner).trim_end_matches('\0').to_owned()
    }

    /// Waits for words on stderr; the daemon's death or ten seconds without them fail the test with what it did say.
    pub fn wait_for_words(&self, words: &str) {
        let (said, news) = &*self.said;
        let pending = |said: &mut String| !said.contains(words) && !said.ends_with('\0');
        let (said, _) = news
            .wait_timeout_while(said.lock().unwrap_or_else(PoisonError::into_inner), PATIENCE, pending)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(said.contains(words), "the daemon never said {words:?}. It said:\n{said}");
    }

    /// The records that are on disk now. A torn last line is not there yet; any other line must be JSON.
    pub fn records(&self) -> Vec<Record> {
        let text = std::fs::read(self.dir.join("audit.jsonl")).unwrap_or_default();
        let text = String::from_utf8(text).expect("records are UTF-8");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        whole.lines().map(|line| Record(parse(line))).collect()
    }

    pub fn wait_for_record(&self, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        let found = wait_until(PATIENCE, || self.records().into_iter().find(|record| wanted(record)));
        found.unwrap_or_else(|| panic!("no record: {what}. Records:\n{}", show(&self.records())))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Stops it until SIGCONT. The signal takes a moment to reach a thread that runs on another processor.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let status = format!("/proc/{}/status", self.pid());
        let stopped =
            || std::fs::read_to_string(&status).is_ok_and(|text| text.contains("State:\tT")).then_some(());
        assert!(wait_until(PATIENCE, stopped).is_some(), "the daemon does not stop");
    }

    /// `kill -9`, and waits until it is gone. Its helper and its rules are left alone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end and gives the exit code; a signal counts as none.
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        let gone = wait_until(PATIENCE, || self.child.try_wait().unwrap());
        gone.unwrap_or_else(|| panic!("the daemon does not end. It said:\n{}", self.stderr())).code()
    }

    pub fn write_policy(&self, text: &str) {
        put(&self.dir.join("policies/10-rules.toml"), text);
    }

    /// Another file beside the policy, in one step.
    pub fn put_beside(&self, name: &str, text: &str) {
        put(&self.dir.join("policies").join(name), text);
    }

    /// Other sections in `outgate.toml`; the limits, which are read at start only, go back to their defaults.
    pub fn write_sections(&self, sections: &str) {
        put(&self.dir.join("outgate.toml"), &daemon("redirect", "", "", WORLDS_RESOLVER, sections));
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        killpg(Pid::from_raw(self.pid()), Signal::SIGKILL).ok();
        self.child.wait().ok();
        let said = self.stderr();
        if std::thread::panicking() {
            eprintln!("--- the daemon said:\n{said}--- its records:\n{}", show(&self.records()));
        } else {
            assert!(!said.contains("panicked"), "the daemon panicked:\n{said}");
        }
    }
}

/// `OUTGATE_TEST_TPROXY=1 cargo test --test wire` runs every test there through TPROXY.
pub fn tproxy_everywhere() -> bool {
    std::env::var_os("OUTGATE_TEST_TPROXY").is_some()
}

pub fn write_files(dir: &Path, setup: &Setup) {
    std::fs::create_dir_all(dir.join("policies")).unwrap();
    std::fs::create_dir_all(dir.join("certs")).unwrap();
    let resolver = setup.resolver.unwrap_or(WORLDS_RESOLVER);
    let intercept = if setup.tproxy || tproxy_everywhere() { "tproxy" } else { "redirect" };
    put(&dir.join("outgate.toml"), &daemon(intercept, setup.steer, setup.limits, resolver, &setup.sections));
    put(&dir.join("policies/00-clients.toml"), setup.clients.unwrap_or(CLIENTS));
    if !setup.policy.is_empty() {
        put(&dir.join("policies/10-rules.toml"), &setup.policy);
    }
    for (name, text) in &setup.beside {
        put(&dir.join("policies").join(name), text);
    }
}

/// The world's own name server.
const WORLDS_RESOLVER: &str = "upstreams = [\"93.184.216.53:53\"]";

fn daemon(intercept: &str, steer: &str, limits: &str, resolver: &str, sections: &str) -> String {
    // Doors of interfaces that come later are opened without the right to a low port.
    let daemon = if steer.contains("attach = true") {
        DAEMON.replace(".1:53\"", ".1:15053\"").replace("::1]:53\"", "::1]:15053\"")
    } else {
        DAEMON.to_owned()
    };
    format!(
        "{daemon}intercept = \"{intercept}\"\n{steer}\n[limits]\n{limits}\n\n[resolver]\n{resolver}\n\n{sections}\n"
    )
}

/// Writes a file in one step: a watcher sees the old one or the whole new one.
fn put(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh~");
    std::fs::write(&fresh, text).unwrap();
    if path.extension().is_some_and(|kind| kind == "key") {
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).unwrap();
        // Root loads it at the start, the user that the daemon becomes at each reload.
        std::os::unix::fs::chown(&fresh, Some(65_534), Some(65_534)).unwrap();
    }
    std::fs::rename(&fresh, path).unwrap();
}

/// Asks again and again, for as long as that takes within reason; the pause only spares the processor.
pub fn wait_until<T>(within: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = ready() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// One line of the audit log.
#[derive(Debug, Clone)]
pub struct Record(pub Value);

impl Record {
    pub fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or("")
    }

    pub fn number(&self, field: &str) -> Option<u64> {
        self.0.get(field)?.as_u64()
    }

    /// Whether `word` stands in any field: where the contract leaves open which one says it.
    pub fn mentions(&self, word: &str) -> bool {
        self.0.to_string().contains(word)
    }

    pub fn is_decision(&self) -> bool {
        self.text("kind") == "decision"
    }

    pub fn is_end(&self) -> bool {
        self.text("kind") == "end"
    }
}

pub fn show(records: &[Record]) -> String {
    records.iter().map(|record| format!("{}\n", record.0)).collect()
}
