//! The agent's programs: real ones, started in its namespace with nothing of the user's environment.

use super::namespace::Namespace;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than any step should take, so that a hanging client fails its step and no more.
const PATIENCE_SECONDS: &str = "8";

/// curl's exit code when nothing listens: "Failed to connect to host".
pub(super) const REFUSED: i32 = 7;

/// What the agent has to work with.
#[derive(Debug)]
pub(super) struct Client<'a> {
    pub(super) namespace: &'a Namespace,
    /// The certificate of the gate, in PEM.
    pub(super) trusts: &'a Path,
    /// The agent's environment beside PATH.
    pub(super) environment: Vec<(&'static str, String)>,
}

/// How a request ended, as curl tells it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) exit: i32,
    pub(super) status: String,
    pub(super) version: String,
    pub(super) body: String,
    pub(super) took: Duration,
    complaint: String,
}

impl Answer {
    /// One line for a step that went wrong.
    pub(super) fn short(&self) -> String {
        let said = if self.exit == 0 { self.body.lines().next() } else { self.complaint.lines().next() };
        format!("curl exit {}, status {}: {}", self.exit, self.status, said.unwrap_or("nothing said"))
    }
}

impl Client<'_> {
    pub(super) fn curl(&self, arguments: &[&str]) -> Result<Answer> {
        let mut curl = self.command("curl");
        curl.args([
            "-q",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            PATIENCE_SECONDS,
            "--cacert",
        ]);
        curl.arg(self.trusts).args(["--write-out", "\n%{http_code} %{http_version}"]).args(arguments);
        let start = Instant::now();
        let done = self.output(curl)?;
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let (body, numbers) = said.rsplit_once('\n').unwrap_or_default();
        let (status, version) = numbers.split_once(' ').unwrap_or_default();
        Ok(Answer {
            exit: done.status.code().unwrap_or(-1),
            status: status.to_owned(),
            version: version.to_owned(),
            body: body.trim_end().to_owned(),
            took,
            complaint: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }

    /// Whether the C library finds an address for a name.
    pub(super) fn finds(&self, name: &str) -> Result<bool> {
        let mut getent = self.command("getent");
        getent.args(["ahosts", name]);
        Ok(self.output(getent)?.status.success())
    }

    /// What a program of the agent's sees as its environment.
    pub(super) fn sees(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.output(self.command("env"))?.stdout).into_owned())
    }

    fn command(&self, program: &'static str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    fn output(&self, mut command: Command) -> Result<Output> {
        let name = command.get_program().to_string_lossy().into_owned();
        self.namespace.run(move || command.output())?.with_context(|| format!("cannot run {name}"))
    }
}
