//! Reading one secret from where the operator keeps it. Every refusal names the cause and the way out, never the value.

use super::{Environment, SHORTEST, Spec};
use crate::base::SecretBytes;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// No credential is longer; a wrong path to something large must not be read whole.
const LONGEST: usize = 64 * 1024;
/// A secret store answers in seconds; a hanging one must not hold up a start or a reload.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An environment variable as it was when the daemon started.
    Env(String),
    /// A file of ours (or root's) that nobody else may read.
    File(PathBuf),
    /// `$CREDENTIALS_DIRECTORY/NAME` (systemd.exec(5), `LoadCredential=`).
    Credential(String),
    /// The standard output of a program; found by `PATH`, no shell.
    Command(Vec<String>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
            // Arguments may hold what should not be shown.
            Self::Command(argv) => write!(f, "command {}", argv.first().map_or("", String::as_str)),
        }
    }
}

/// Which secret could not be had, and why.
#[derive(Debug, thiserror::Error)]
#[error("secret {name:?} ({origin}): {cause}")]
pub struct LoadError {
    pub name: Arc<str>,
    pub origin: String,
    #[source]
    pub cause: Cause,
}

impl LoadError {
    pub(super) fn new(spec: &Spec, cause: Cause) -> Self {
        Self { name: spec.name.clone(), origin: spec.source.to_string(), cause }
    }

    /// The way out.
    pub fn help(&self) -> &'static str {
        self.cause.help()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("another secret has the same name")]
    SecondOfName,
    #[error("the placeholder has to be at least 8 visible ASCII characters, without blanks")]
    Placeholder,
    #[error(
        "the placeholder stands inside another placeholder, or it and a secret's value inside each other"
    )]
    PlaceholderAmbiguous,
    #[error("the variable was not set when the daemon started")]
    NotSet,
    #[error("CREDENTIALS_DIRECTORY is not set")]
    NoCredentials,
    #[error("the name of a credential is a plain file name")]
    CredentialName,
    #[error("it cannot be read ({0})")]
    Read(#[source] io::Error),
    #[error("it is a symbolic link")]
    Symlink,
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it belongs to another user (uid {0})")]
    ForeignOwner(u32),
    #[error("others may read or change it (mode {0:03o})")]
    Exposed(u32),
    #[error("the command is empty")]
    NoCommand,
    #[error("the command cannot be run")]
    Run(#[source] io::Error),
    #[error("the command did not end within 10 seconds")]
    TimedOut,
    #[error("the command failed with {0}")]
    Failed(std::process::ExitStatus),
    #[error("it is empty")]
    Empty,
    #[error("it is shorter than 8 bytes")]
    Short,
    #[error("it is longer than 64 KiB")]
    Long,
    #[error("it holds a line break, a NUL or another control byte")]
    Control,
}

impl Cause {
    pub fn help(&self) -> &'static str {
        match self {
            Self::SecondOfName => "give each [[secret]] a name of its own",
            Self::Placeholder => "choose a longer one, such as \"placeholder_github_agent\"",
            Self::PlaceholderAmbiguous => "choose a placeholder that shares no long text with the others",
            Self::NotSet => "set it and start the daemon again: a reload does not see new variables",
            Self::NoCredentials => "add LoadCredential= to the systemd unit, or use file",
            Self::CredentialName => "write the ID of LoadCredential=, without a directory",
            Self::Read(_) => "check that it is there and that the daemon's user may read it",
            Self::Symlink => "name the file that the link leads to",
            Self::NotAFile => "name a regular file",
            Self::ForeignOwner(_) => "chown it to the daemon's user",
            Self::Exposed(_) => "chmod 600 it, and rotate the secret if others may have read it",
            Self::NoCommand => "write the program and its arguments as a list",
            Self::Run(_) => "check the path of the program",
            Self::TimedOut | Self::Failed(_) => "run it by hand as the daemon's user",
            Self::Empty => "put the value in",
            Self::Short => "use a longer one: a short value cannot be told from ordinary text",
            Self::Long => "name the right place: no credential is that long",
            Self::Control => {
                "store the bare value, at most one line break at its end (of a file or a command)"
            }
        }
    }
}

pub(super) fn read(source: &Source, environment: &Environment) -> Result<SecretBytes, Cause> {
    match source {
        Source::Env(name) => {
            let value = environment.get(name).ok_or(Cause::NotSet)?;
            accept(value.expose())?;
            Ok(value.clone())
        }
        Source::File(path) => one_line(read_file(path, 0o077, environment)?),
        Source::Credential(name) => {
            let directory = environment.credentials().ok_or(Cause::NoCredentials)?;
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
                || name.ends_with('/')
            {
                return Err(Cause::CredentialName);
            }
            // systemd grants the service's user by an ACL, whose mask shows as the group's bits: 0440 is its normal mode.
            one_line(read_file(&directory.join(name), 0o037, environment)?)
        }
        Source::Command(argv) => one_line(run(argv)?),
    }
}

/// Takes one trailing line break off, as editors and `echo` leave it, then checks the value.
fn one_line(mut value: Zeroizing<Vec<u8>>) -> Result<SecretBytes, Cause> {
    if value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    accept(&value)?;
    Ok(SecretBytes::new(std::mem::take(&mut *value)))
}

fn accept(value: &[u8]) -> Result<(), Cause> {
    match value.len() {
        0 => Err(Cause::Empty),
        // Whatever cannot stand in a header value could not be injected later either.
        _ if value.iter().any(|b| b.is_ascii_control()) => Err(Cause::Control),
        len if len < SHORTEST => Err(Cause::Short),
        len if len > LONGEST => Err(Cause::Long),
        _ => Ok(()),
    }
}

/// The bytes of a file that holds a secret as a whole, such as a private key in PEM.
pub fn read_private(path: &Path, environment: &Environment) -> Result<Zeroizing<Vec<u8>>, Cause> {
    let bytes = read_file(path, 0o077, environment)?;
    if bytes.len() > LONGEST { Err(Cause::Long) } else { Ok(bytes) }
}

/// Reads a file after checking, on the open file, that nobody else could have read or written it.
fn read_file(
    path: &Path,
    forbidden_mode: u32,
    environment: &Environment,
) -> Result<Zeroizing<Vec<u8>>, Cause> {
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|e| match e.raw_os_error() {
        Some(code) if code == nix::errno::Errno::ELOOP as i32 => Cause::Symlink,
        _ => Cause::Read(e),
    })?;
    let meta = file.metadata().map_err(Cause::Read)?;
    if !meta.is_file() {
        return Err(Cause::NotAFile);
    }
    let owners = [Some(geteuid().as_raw()), Some(0), environment.owner()];
    if !owners.contains(&Some(meta.uid())) {
        return Err(Cause::ForeignOwner(meta.uid()));
    }
    if meta.mode() & forbidden_mode != 0 {
        return Err(Cause::Exposed(meta.mode() & 0o777));
    }
    read_bounded(file)
}

/// Reads to the end or a byte past the limit, into one allocation that is wiped: growth would leave copies behind.
fn read_bounded(file: File) -> Result<Zeroizing<Vec<u8>>, Cause> {
    let mut value = Zeroizing::new(Vec::with_capacity(LONGEST + 64));
    file.take(LONGEST as u64 + 3).read_to_end(&mut value).map_err(Cause::Read)?;
    Ok(value)
}

fn run(argv: &[String]) -> Result<Zeroizing<Vec<u8>>, Cause> {
    let (program, arguments) = argv.split_first().ok_or(Cause::NoCommand)?;
    let mut command = Command::new(program);
    // What it says on stderr is dropped: a tool in a debug mode prints the secret there. A group of its own, so
    // that a time-out ends its children too.
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    let mut child = command.spawn().map_err(Cause::Run)?;
    let deadline = Instant::now() + COMMAND_TIME;
    let output = collect(&mut child, deadline).and_then(|output| Ok((output, wait(&mut child, deadline)?)));
    if output.is_err() {
        let _gone_already = i32::try_from(child.id()).map(|id| killpg(Pid::from_raw(id), Signal::SIGKILL));
        let _gone_already = child.wait();
    }
    match output? {
        (value, status) if status.success() => Ok(value),
        (_, status) => Err(Cause::Failed(status)),
    }
}

fn collect(child: &mut Child, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, Cause> {
    let mut pipe = child.stdout.take().ok_or_else(|| Cause::Run(ErrorKind::BrokenPipe.into()))?;
    let mut value = Zeroizing::new(Vec::with_capacity(LONGEST + 4096));
    let mut chunk = Zeroizing::new([0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout);
        match ready {
            Ok(0) => return Err(Cause::TimedOut),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(Cause::Run(e.into())),
        }
        match pipe.read(&mut *chunk).map_err(Cause::Run)? {
            0 => return Ok(value),
            n => value.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
        if value.len() > LONGEST {
            return Err(Cause::Long);
        }
    }
}

/// The exit of a program that has closed its output; there is no wait with a time-out in std.
fn wait(child: &mut Child, deadline: Instant) -> Result<std::process::ExitStatus, Cause> {
    loop {
        if let Some(status) = child.try_wait().map_err(Cause::Run)? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(Cause::TimedOut);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn file(dir: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn value(source: Source, environment: &Environment) -> Result<Vec<u8>, Cause> {
        read(&source, environment).map(|v| v.expose().to_vec())
    }

    #[test]
    fn one_trailing_line_break_of_a_file_is_not_part_of_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let none = Environment::default();
        let read = |content: &str| value(Source::File(file(dir.path(), "k", content, 0o600)), &none);
        assert_eq!(read("the-value\n").unwrap(), b"the-value");
        assert_eq!(read("the-value\r\n").unwrap(), b"the-value");
        assert!(matches!(read("the-value\n\n"), Err(Cause::Control)));
        assert!(matches!(read("\n"), Err(Cause::Empty)));
        assert!(matches!(read(&"x".repeat(LONGEST + 1)), Err(Cause::Long)));
        assert_eq!(read(&"x".repeat(LONGEST)).unwrap().len(), LONGEST);
    }

    #[test]
    fn cr_19_a_file_that_others_can_reach_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let none = Environment::default();
        for mode in [0o640, 0o604, 0o620, 0o644, 0o666] {
            let path = file(dir.path(), "open", "the-value", mode);
            assert!(matches!(value(Source::File(path), &none), Err(Cause::Exposed(m)) if m == mode));
        }
        let real = file(dir.path(), "real", "the-value", 0o600);
        let link = dir.path().join("link");
        symlink(&real, &link).unwrap();
        assert!(matches!(value(Source::File(link), &none), Err(Cause::Symlink)));
        let directory = dir.path().to_path_buf();
        assert!(matches!(value(Source::File(directory), &none), Err(Cause::NotAFile)));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(value(Source::File(pipe), &none), Err(Cause::NotAFile)));
        let absent = dir.path().join("absent");
        assert!(matches!(value(Source::File(absent), &none), Err(Cause::Read(_))));
    }

    #[test]
    fn a_credential_is_a_file_of_systemd_and_nothing_outside_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        file(dir.path(), "github", "the-value\n", 0o440);
        file(dir.path(), "open", "the-value\n", 0o444);
        let there = Environment::new([], Some(dir.path().to_path_buf()));
        let credential = |name: &str| value(Source::Credential(name.into()), &there);
        assert_eq!(credential("github").unwrap(), b"the-value");
        assert!(matches!(credential("open"), Err(Cause::Exposed(_))));
        for name in ["../github", "/etc/shadow", "a/b", "", ".", "..", "github/"] {
            assert!(matches!(credential(name), Err(Cause::CredentialName)), "{name}");
        }
        let nowhere = Environment::default();
        assert!(matches!(value(Source::Credential("github".into()), &nowhere), Err(Cause::NoCredentials)));
    }

    #[test]
    fn a_command_gives_its_output_and_its_failures_are_told_apart() {
        let none = Environment::default();
        let sh = |script: &str| value(Source::Command(["sh", "-c", script].map(Into::into).into()), &none);
        assert_eq!(sh("echo the-value").unwrap(), b"the-value");
        assert!(matches!(sh("echo the-value; exit 3"), Err(Cause::Failed(s)) if s.code() == Some(3)));
        assert!(matches!(sh("exec yes"), Err(Cause::Long)));
        assert!(matches!(sh(":"), Err(Cause::Empty)));
        assert!(matches!(value(Source::Command(vec![]), &none), Err(Cause::NoCommand)));
        let absent = vec!["/nowhere/at/all".to_owned()];
        assert!(matches!(value(Source::Command(absent), &none), Err(Cause::Run(_))));
    }

    #[test]
    fn a_command_that_hangs_is_ended_at_its_deadline() {
        let mut child =
            Command::new("sleep").arg("600").stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        assert!(matches!(collect(&mut child, Instant::now()), Err(Cause::TimedOut)));
        assert!(matches!(wait(&mut child, Instant::now()), Err(Cause::TimedOut)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
