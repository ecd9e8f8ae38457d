//! Does each runtime that is installed here trust the gate? One handshake by each, with its own idea of whom to trust.
//!
//! Without a page to ask for, it is for a name that no rule allows: the gate shows its own certificate with the refusal.

use super::Check;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A Java that compiles its probe first takes a second or two; a busy machine gets time.
const WAIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

/// Exit codes of our own probes.
const UNTRUSTED: i32 = 3;
const UNREACHED: i32 = 4;
const ABSENT: i32 = 5;

const PYTHON: &str = r#"
import socket, ssl, sys
host, port, address = sys.argv[1:4]
try:
    raw = socket.create_connection((address, int(port)), 8)
    ssl.create_default_context().wrap_socket(raw, server_hostname=host).close()
except ssl.SSLCertVerificationError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(4)
"#;

const REQUESTS: &str = r#"
import socket, sys
try:
    import requests
except ImportError:
    sys.exit(5)
host, port, address, url = sys.argv[1:5]
real = socket.getaddrinfo
socket.getaddrinfo = lambda name, *rest, **more: real(address if name == host else name, *rest, **more)
try:
    requests.get(url, timeout=8, stream=True, allow_redirects=False).close()
except Exception as error:
    print(error, file=sys.stderr)
    text = str(error)
    sys.exit(3 if "CERTIFICATE_VERIFY" in text or "CA certificate bundle" in text else 4)
"#;

const NODE: &str = r#"
const [host, port, address] = process.argv.slice(1);
const socket = require('tls').connect({host: address, port, servername: host}, () => process.exit(0));
socket.setTimeout(8000, () => process.exit(4));
socket.on('error', error => {
  console.error(error.message);
  process.exit(/CERT|SIGNED|SIGNATURE|ISSUER/.test(error.code || '') ? 3 : 4);
});
"#;

const JAVA: &str = r#"
import java.net.*;
import javax.net.ssl.*;
public class Probe {
  public static void main(String[] words) throws Exception {
    int port = Integer.parseInt(words[1]), code = 0;
    try {
      Socket raw = new Socket();
      raw.connect(new InetSocketAddress(words[2], port), 8000);
      SSLSocketFactory factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
      SSLSocket socket = (SSLSocket) factory.createSocket(raw, words[0], port, true);
      SSLParameters parameters = socket.getSSLParameters();
      parameters.setEndpointIdentificationAlgorithm("HTTPS");
      socket.setSSLParameters(parameters);
      socket.startHandshake();
    } catch (SSLHandshakeException error) {
      System.err.println(error.getMessage());
      code = String.valueOf(error.getMessage()).contains("alert") ? 4 : 3;
    } catch (java.io.IOException error) {
      System.err.println(error.getMessage());
      code = 4;
    }
    System.exit(code);
  }
}
"#;

/// Where the handshake goes.
struct Destination {
    host: String,
    port: u16,
    /// Where that host is: its own name, for a page that the policy allows.
    address: String,
    url: String,
}

pub(super) fn checks(url: Option<&str>, target: IpAddr, denied: &str) -> Vec<Check> {
    let destination = match url {
        None => Some(Destination {
            host: denied.to_owned(),
            port: 443,
            address: target.to_string(),
            url: format!("https://{denied}/"),
        }),
        Some(url) => {
            url.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("https")).and_then(|uri| {
                let host = uri.host()?.to_owned();
                Some(Destination {
                    address: host.clone(),
                    host,
                    port: uri.port_u16().unwrap_or(443),
                    url: url.to_owned(),
                })
            })
        }
    };
    let Some(destination) = destination else {
        return vec![Check::bad("trust", "the --url is no https URL", "name a page that the policy allows")];
    };
    let pinned = url.is_none();
    std::thread::scope(|scope| {
        let to = &destination;
        let running: Vec<_> = [curl, python, requests, node, git, java]
            .into_iter()
            .map(|probe: fn(&Destination, bool) -> Option<Check>| scope.spawn(move || probe(to, pinned)))
            .collect();
        running.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    })
}

fn curl(to: &Destination, pinned: bool) -> Option<Check> {
    let mut curl = found("curl")?;
    curl.args(["-sS", "-o", "/dev/null", "-m", "8"]);
    if pinned {
        curl.arg("--resolve").arg(to.pin());
    }
    let (code, words) = run(curl.arg(&to.url));
    // "The peer certificate cannot be verified", and "cannot read the CA file".
    let code = if [Some(60), Some(77)].contains(&code) { Some(UNTRUSTED) } else { code };
    told("trust: curl", code, &words)
}

fn python(to: &Destination, _: bool) -> Option<Check> {
    let mut python = found("python3")?;
    let (code, words) = run(to.tell(python.args(["-c", PYTHON])));
    told("trust: python3", code, &words)
}

fn requests(to: &Destination, _: bool) -> Option<Check> {
    let mut python = found("python3")?;
    let (code, words) = run(to.tell(python.args(["-c", REQUESTS])).arg(&to.url));
    told("trust: requests", code, &words)
}

fn node(to: &Destination, _: bool) -> Option<Check> {
    let mut node = found("node")?;
    let (code, words) = run(to.tell(node.args(["-e", NODE])));
    told("trust: node", code, &words)
}

fn git(to: &Destination, pinned: bool) -> Option<Check> {
    let mut git = found("git")?;
    if pinned {
        git.arg("-c").arg(format!("http.curloptResolve={}", to.pin()));
    }
    let (code, words) = run(git.args(["ls-remote", &to.url]).env("GIT_TERMINAL_PROMPT", "0"));
    // What is not about certificates came through the handshake: no repository is there.
    let has = |any: &[&str]| any.iter().any(|word| words.contains(word));
    let code = match code {
        Some(128) if has(&["certificate", "CAfile"]) => Some(UNTRUSTED),
        Some(128) if has(&["resolve", "connect to", "timed out"]) => Some(UNREACHED),
        Some(128) => Some(0),
        code => code,
    };
    told("trust: git", code, &words)
}

fn java(to: &Destination, _: bool) -> Option<Check> {
    let mut java = found("java")?;
    let folder = std::env::temp_dir().join(format!("outgate-doctor-{}", std::process::id()));
    let source = folder.join("Probe.java");
    // One of this name that is there already is not ours.
    let made =
        std::fs::DirBuilder::new().mode(0o700).create(&folder).and_then(|()| std::fs::write(&source, JAVA));
    if made.is_err() {
        return Some(Check::warn(
            "trust: java",
            "there is no place for its probe",
            "give the workload a writable /tmp",
        ));
    }
    let (code, words) = run(to.tell(java.arg(&source)));
    let _ = std::fs::remove_dir_all(&folder);
    told("trust: java", code, &words)
}

impl Destination {
    /// As curl and git take it.
    fn pin(&self) -> String {
        let address =
            if self.address.contains(':') { format!("[{}]", self.address) } else { self.address.clone() };
        format!("{}:{}:{address}", self.host, self.port)
    }

    fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.args([&self.host, &self.port.to_string(), &self.address])
    }
}

/// The program, where PATH has it.
fn found(name: &str) -> Option<Command> {
    let path = std::env::var_os("PATH")?;
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let program = std::env::split_paths(&path).map(|folder| folder.join(name)).find(executable)?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir(Path::new("/"));
    Some(command)
}

/// Its exit code, none when it did not end in time, and what it complained of.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (None, error.to_string()),
    };
    let end = Instant::now() + WAIT;
    let code = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.code(),
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return (None, "it did not end".to_owned());
            }
        }
    };
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_end(&mut words);
    }
    (code, String::from_utf8_lossy(&words).into_owned())
}

fn told(check: &'static str, code: Option<i32>, words: &str) -> Option<Check> {
    let last = words.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no words");
    let last: String = last.chars().take(160).collect();
    match code {
        Some(0) => Some(Check::good(check, "its handshake with the gate is fine")),
        Some(UNTRUSTED) => {
            let remedy = "outgate init --ca sets its variables; certs/README.md has what no variable reaches";
            Some(Check::bad(check, format!("it does not trust the gate: {last}"), remedy))
        }
        Some(ABSENT) => None,
        _ => Some(Check::warn(
            check,
            format!("not to be told: {last}"),
            "name a page that the policy allows with --url",
        )),
    }
}
