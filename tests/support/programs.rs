//! Real clients, run in the agent's namespace with nothing but the gate's CA: no proxy setting anywhere.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::bed::Bed;
use super::ns::Namespace;

/// What a client would take a proxy from.
const PROXY_SETTINGS: [&str; 7] =
    ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "no_proxy"];

/// Where the clients look for a bundle of authorities.
const BUNDLE_SETTINGS: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
];

/// Runs a shell line in a namespace, with `dir` as home and folder, trusting `ca`. A program that is not installed
/// fails the test and says so; one that does not end within a minute is ended.
pub fn run(namespace: &Namespace, dir: &Path, ca: &Path, line: &str) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", "sh", "-ec", line]).current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    for name in PROXY_SETTINGS {
        command.env_remove(name);
    }
    command.envs(BUNDLE_SETTINGS.map(|name| (name, ca)));
    let output = namespace.run(move || command.output()).expect("timeout, from coreutils");
    assert_ne!(
        output.status.code(),
        Some(127),
        "a client is missing, tools/test installs it: {line}: {output:?}"
    );
    output
}

/// The standard output of a run that must have succeeded.
pub fn successful(line: &str, output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {}\n{words}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Bed {
    /// Runs a shell line as the agent would.
    pub fn program(&self, line: &str) -> Output {
        run(&self.world.agent, &self.gate.dir, &self.ca_file(), line)
    }

    /// Runs a client that must succeed, and gives its standard output.
    pub fn succeed(&self, line: &str) -> String {
        successful(line, &self.program(line))
    }
}
