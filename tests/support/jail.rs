//! `outgate exec` in the gate's namespace of a world, run by an ordinary user: its files, its runs, its taps.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::World;

/// Nobody in particular.
pub const USER: u32 = 65_534;

pub struct Jail {
    pub world: World,
    pub home: PathBuf,
}

const CONFIG: &str = r#"
policies = "policies"

[resolver]
upstreams = ["93.184.216.53:53"]

[upstream]
roots = "origin-ca.pem"
"#;

impl Jail {
    /// A world, and a home folder with a configuration and a policy.
    pub fn new(policy: &str) -> Self {
        let world = World::new();
        let home = world.dir.path().join("home");
        for folder in ["", "policies", "state"] {
            std::fs::create_dir_all(home.join(folder)).unwrap();
        }
        std::fs::write(home.join("outgate.toml"), CONFIG).unwrap();
        std::fs::write(home.join("policies/agent.toml"), policy).unwrap();
        std::fs::copy(world.dir.path().join("origin-ca.pem"), home.join("origin-ca.pem")).unwrap();
        // A checkout may lie where only root can go.
        let binary = world.dir.path().join("outgate");
        let built = env!("CARGO_BIN_EXE_outgate");
        if std::fs::hard_link(built, &binary).is_err() {
            std::fs::copy(built, &binary).unwrap();
        }
        std::fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
        let jail = Self { world, home };
        jail.own();
        jail
    }

    /// Gives all that is in the home folder to its user.
    pub fn own(&self) {
        fn give(path: &std::path::Path) {
            chown(path, Some(USER), Some(USER)).unwrap();
            if path.is_dir() {
                std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
            }
        }
        give(&self.home);
    }

    /// `outgate exec WORDS` as the user, in his home; the words may begin with options.
    pub fn command(&self, words: &[&str]) -> Command {
        self.as_user(&[&[&*self.world.dir.path().join("outgate").to_string_lossy(), "exec"], words].concat())
    }

    /// A command of the user, outside.
    pub fn as_user(&self, words: &[&str]) -> Command {
        let user = USER.to_string();
        let mut command = Command::new("timeout");
        command.args(["60", "setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]).args(words);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", &self.home);
        command.env("XDG_STATE_HOME", self.home.join("state")).current_dir(&self.home).stdin(Stdio::null());
        command
    }

    pub fn run(&self, mut command: Command) -> Output {
        self.world.gate.run(move || command.output()).unwrap()
    }

    /// A shell line inside.
    pub fn line(&self, line: &str) -> Output {
        self.run(self.command(&["-c", "outgate.toml", "--", "sh", "-c", line]))
    }

    /// The standard output of a shell line that must succeed.
    pub fn succeed(&self, line: &str) -> String {
        super::programs::successful(line, &self.line(line))
    }
}
