//! Secrets that arrive in environment variables, taken out of the process for good.
//!
//! The kernel shows the block a process was started with in `/proc/PID/environ`, whatever the process does to its
//! variables later. So [`Environment::sealed`] writes the named values into an unnamed memory file, drops the
//! variables, and executes the same program once more with that file open. The second image reads it, closes it (which
//! frees the memory) and goes on. Called once by the daemon, before it has threads, children or listeners.

use crate::base::SecretBytes;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use zeroize::Zeroizing;

/// `PID:FD` of the memory file. The process number stays the same over an exec and tells our own file from a
/// variable that a child of the daemon merely inherited.
const HANDOVER: &str = "OUTGATE_SEALED_ENVIRONMENT";
const FILE_NAME: &str = "outgate-environment";
/// The kernel allows 128 KiB a variable and far fewer variables than this could hold.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What the environment held at start: the named variables, and where systemd puts credentials.
#[derive(Default)]
pub struct Environment {
    values: BTreeMap<String, SecretBytes>,
    credentials: Option<PathBuf>,
    /// The user that the daemon becomes.
    owner: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("the secrets in the environment cannot be taken out of it: {step}")]
pub struct SealError {
    step: &'static str,
    #[source]
    cause: io::Error,
}

impl Environment {
    /// Values from elsewhere: for tests, and programs that embed the library.
    pub fn new(
        values: impl IntoIterator<Item = (String, SecretBytes)>,
        credentials: Option<PathBuf>,
    ) -> Self {
        Self { values: values.into_iter().collect(), credentials, owner: None }
    }

    /// Files of this user are ours as well: root reads them at the start, the user that it becomes at each reload.
    #[must_use]
    pub fn of_user(self, owner: Option<u32>) -> Self {
        Self { owner, ..self }
    }

    pub(super) fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// The named variables as they are, left in place: for commands that end at once (`check`, `test`).
    pub fn read(names: &[String]) -> Self {
        let values =
            names.iter().filter_map(|n| Some((n.clone(), SecretBytes::new(variable(n)?.into_vec()))));
        Self::new(values, variable("CREDENTIALS_DIRECTORY").map(PathBuf::from))
    }

    /// The named variables, which `/proc/PID/environ` no longer shows when this returns. It returns in the image
    /// whose environment is clean; where a named variable is still set the program is executed again with the same
    /// arguments, process number and open files.
    pub fn sealed(names: &[String]) -> Result<Self, SealError> {
        let mut environment = Self::read(names);
        let exposed: Vec<String> = environment.values.keys().cloned().collect();
        for (name, value) in handed_over()? {
            environment.values.entry(name).or_insert(value);
        }
        if exposed.is_empty() { Ok(environment) } else { Err(environment.execute_again(&exposed)) }
    }

    pub fn get(&self, name: &str) -> Option<&SecretBytes> {
        self.values.get(name)
    }

    pub fn credentials(&self) -> Option<&Path> {
        self.credentials.as_deref()
    }

    /// Returns only when it failed.
    fn execute_again(&self, exposed: &[String]) -> SealError {
        let failed = |step| move |cause| SealError { step, cause };
        let prepare = || {
            let program = std::env::current_exe().map_err(failed("the program's own path is not known"))?;
            let file = self.write_out().map_err(failed("no memory file could be written"))?;
            Ok((program, file))
        };
        let (program, file) = match prepare() {
            Ok(prepared) => prepared,
            Err(e) => return e,
        };
        let mut arguments = std::env::args_os();
        let mut command = Command::new(&program);
        command.arg0(arguments.next().unwrap_or_else(|| program.clone().into())).args(arguments);
        for name in exposed {
            command.env_remove(name);
        }
        command.env(HANDOVER, format!("{}:{}", std::process::id(), file.as_raw_fd()));
        failed("the program could not be executed again")(command.exec())
    }

    /// `NAME=value` pairs, each ended by NUL, as the kernel's own block: no variable holds a NUL.
    fn write_out(&self) -> io::Result<File> {
        // Without MFD_CLOEXEC: it has to outlive the exec.
        let mut file = File::from(memfd_create(FILE_NAME, MFdFlags::empty())?);
        for (name, value) in &self.values {
            for part in [name.as_bytes(), b"=", value.expose(), b"\0"] {
                file.write_all(part)?;
            }
        }
        Ok(file)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// What the image before this one left for us; nothing when there was none.
fn handed_over() -> Result<Vec<(String, SecretBytes)>, SealError> {
    let handover = variable(HANDOVER).and_then(|text| text.into_string().ok());
    let numbers = handover.as_deref().and_then(|text| text.split_once(':'));
    let Some((Ok(process), Ok(number))) = numbers.map(|(p, n)| (p.parse::<u32>(), n.parse::<i32>())) else {
        return Ok(Vec::new());
    };
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    let is_ours = std::fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().contains(FILE_NAME));
    if process != std::process::id() || !is_ours {
        return Ok(Vec::new());
    }
    let failed = |cause| SealError { step: "what was handed over cannot be read", cause };
    // Opened by its path, since taking over a number is not safe code; both are closed, and with the last the file goes.
    let file = File::open(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len().min(LARGEST);
    let mut block = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 64));
    file.take(LARGEST).read_to_end(&mut block).map_err(failed)?;
    nix::unistd::close(number).map_err(|e| failed(e.into()))?;
    let pairs = block.split(|b| *b == 0).filter_map(|pair| {
        let at = memchr::memchr(b'=', pair)?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        Some((String::from_utf8_lossy(name).into_owned(), SecretBytes::new(value.to_vec())))
    });
    Ok(pairs.collect())
}

/// The only place that reads the environment.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    const ROLE: &str = "OUTGATE_TEST_SEALS_ITSELF";
    const NAMES: [&str; 2] = ["OUTGATE_TEST_TOKEN", "OUTGATE_TEST_OTHER"];

    /// Runs this very test once more as a child, which seals itself; the parent judges by its exit code.
    #[test]
    fn a_sealed_value_is_in_the_process_and_not_in_procfs() {
        if variable(ROLE).is_some() {
            return sealing_child();
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "secrets::environment::tests::a_sealed_value_is_in_the_process_and_not_in_procfs",
            ])
            .envs([(ROLE, "1"), (NAMES[0], "value=of=the=token"), ("OUTGATE_TEST_PLAIN", "stays")])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn sealing_child() {
        let environment = Environment::sealed(&NAMES.map(String::from)).unwrap();
        let shown = std::fs::read("/proc/self/environ").unwrap();
        let shows = |text: &str| memchr::memmem::find(&shown, text.as_bytes()).is_some();
        assert_eq!(environment.get(NAMES[0]).unwrap().expose(), b"value=of=the=token");
        assert!(environment.get(NAMES[1]).is_none());
        assert!(!shows("value=of=the=token"));
        assert!(shows("OUTGATE_TEST_PLAIN=stays"));
        assert!(shows(HANDOVER), "the first image must not have been the last");
        let open = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|e| std::fs::read_link(e.ok()?.path()).ok());
        assert!(!open.into_iter().any(|to| to.to_string_lossy().contains(FILE_NAME)));
    }

    #[test]
    fn debug_prints_names_only() {
        let environment = Environment::new([("A".into(), SecretBytes::new(b"the-value".to_vec()))], None);
        assert_eq!(format!("{environment:?}"), "{\"A\"}");
    }
}
