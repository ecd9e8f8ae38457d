//! Where a command's gate keeps its things: the authority and the records in the user's state folder, the admin socket in
//! the runtime folder. All of them are covered for the command.

use anyhow::{Context, bail};
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Record files that are kept, the newest; a run makes one.
const KEPT_RECORDS: usize = 100;
/// `sun_path` less the closing zero and what the admin socket's temporary name adds (unix(7)).
const LONGEST_SOCKET: usize = 90;

pub(super) struct Places {
    pub(super) state: PathBuf,
    pub(super) records: PathBuf,
    pub(super) admin_socket: PathBuf,
    pub(super) home: Option<PathBuf>,
}

impl Places {
    pub(super) fn find() -> anyhow::Result<Self> {
        let home = folder("HOME");
        let state = match (folder("XDG_STATE_HOME"), &home) {
            (Some(state), _) => state.join("outgate"),
            (None, Some(home)) => home.join(".local/state/outgate"),
            (None, None) => bail!(
                "neither HOME nor XDG_STATE_HOME names a folder: set one, for the authority and the records"
            ),
        };
        let me = std::process::id();
        let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let records = state.join(format!("exec/{seconds}-{me}.jsonl"));
        let socket = format!("exec-{me}.sock");
        let near = folder("XDG_RUNTIME_DIR")
            .map(|folder| folder.join("outgate"))
            .filter(|near| private(near).is_ok());
        let mut admin_socket = near.unwrap_or_else(|| state.join("exec")).join(&socket);
        if admin_socket.as_os_str().len() > LONGEST_SOCKET {
            admin_socket = std::env::temp_dir().join(format!("outgate-{me}")).join(&socket);
        }
        Ok(Self { state, records, admin_socket, home })
    }

    /// The policy folder where the command line names none. `None`: the configuration file says it.
    pub(super) fn policies(&self, has_file: bool) -> Option<PathBuf> {
        if has_file {
            return None;
        }
        let here = Path::new("policies");
        Some(if here.is_dir() { here.to_owned() } else { self.nothing_allowed() })
    }

    /// A policy without a rule. Says so, since nobody wrote it.
    fn nothing_allowed(&self) -> PathBuf {
        let folder = self.state.join("no-policy");
        let made = private(&folder).and_then(|()| {
            let text = "# Used where there is no policy folder: without a rule everything is refused.\n\
                        [[client]]\nname = \"command\"\ninterface = \"lo\"\n";
            fs::write(folder.join("none.toml"), text)
        });
        if made.is_ok() {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"outgate: there is no folder ./policies and no --policies: everything is refused\n",
            );
        }
        folder
    }

    pub(super) fn make(&self) -> anyhow::Result<()> {
        for folder in [Some(self.state.as_path()), self.records.parent(), self.admin_socket.parent()] {
            let Some(folder) = folder else { continue };
            private(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        self.forget_old_records();
        Ok(())
    }

    fn forget_old_records(&self) {
        let Some(entries) = self.records.parent().and_then(|folder| fs::read_dir(folder).ok()) else {
            return;
        };
        let ours = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jsonl");
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(ours).collect();
        // Their names begin with the time.
        files.sort();
        for old in files.iter().rev().skip(KEPT_RECORDS - 1) {
            let _ = fs::remove_file(old);
        }
    }

    /// The socket's own file goes with the daemon; a folder made for it alone goes here.
    pub(super) fn tidy(&self) {
        if let Some(folder) =
            self.admin_socket.parent().filter(|folder| folder.starts_with(std::env::temp_dir()))
        {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn private(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A variable that holds an absolute path.
pub(super) fn folder(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value: &OsString| !value.is_empty())
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
}
