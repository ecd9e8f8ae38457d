//! Real clients, run in the agent's namespace with nothing but the gate's CA: no proxy setting anywhere.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::bed::Bed;

/// A real client may be slow to start on a loaded machine, but it ends.
const LIMIT: Duration = Duration::from_secs(60);

impl Bed {
    /// Runs a shell line as the agent would. A program that is not installed fails the test and says so.
    pub fn program(&self, line: &str) -> Output {
        let ca = self.ca_file();
        let mut command = Command::new("timeout");
        command.args(["60", "sh", "-ec", line]).current_dir(&self.gate.dir).env("HOME", &self.gate.dir);
        for name in
            ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "no_proxy"]
        {
            command.env_remove(name);
        }
        let bundle = [
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "NODE_EXTRA_CA_CERTS",
            "GIT_SSL_CAINFO",
            "PIP_CERT",
        ];
        command.envs(bundle.map(|name| (name, ca.clone())));
        command.stdin(Stdio::null());
        let begun = Instant::now();
        let output = self.world.agent.run(move || command.output()).expect("timeout from coreutils");
        assert_ne!(
            output.status.code(),
            Some(127),
            "a client is missing, tools/test installs it: {line}: {output:?}"
        );
        assert!(begun.elapsed() < LIMIT, "too slow: {line}");
        output
    }

    /// Runs a client that must succeed, and gives its standard output.
    pub fn succeed(&self, line: &str) -> String {
        let output = self.program(line);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{words}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
