//! A Docker engine of the test's own, in a namespace of the test's own: Debian's dockerd with its data in the world's
//! folder and its sockets on a `/run` that only it sees. It pulls nothing: images are made from files of this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::gate::wait_until;
use super::ns::Namespace;

/// Debian's programs, whatever else this machine has.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Load on a small machine may make an engine slow.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Docker<'a> {
    host: &'a Namespace,
    daemon: Child,
    log: PathBuf,
}

impl<'a> Docker<'a> {
    /// Starts the engine without a default bridge; the containers' resolver is `resolver`.
    pub fn start(host: &'a Namespace, dir: &Path, resolver: &str) -> Self {
        Self::with(host, dir, resolver, &["--bridge=none"])
    }

    /// The same with the default bridge and its masquerading.
    pub fn bridged(host: &'a Namespace, dir: &Path, resolver: &str) -> Self {
        Self::with(host, dir, resolver, &[])
    }

    fn with(host: &'a Namespace, dir: &Path, resolver: &str, more: &[&str]) -> Self {
        let (data, log) = (dir.join("docker"), dir.join("dockerd.log"));
        std::fs::write(dir.join("resolv.conf"), format!("nameserver {resolver}\n")).unwrap();
        host.sh(format!(
            "mount --make-rprivate /\n\
             mount -t tmpfs run /run\n\
             file=$(readlink -f /etc/resolv.conf)\n\
             mkdir -p \"${{file%/*}}\"; [ -e \"$file\" ] || : > \"$file\"\n\
             mount --bind {} \"$file\"",
            dir.join("resolv.conf").display()
        ));
        let mut command = Command::new("dockerd");
        command.args(more).args(["--userland-proxy=false", "--host=unix:///run/docker.sock"]);
        command.args(["--pidfile=/run/docker.pid", "--exec-root=/run/docker", "--data-root"]).arg(data);
        let out = std::fs::File::create(&log).unwrap();
        command.env("PATH", PATH).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let daemon = host.run(move || command.spawn()).expect("dockerd, from the package docker.io");
        let docker = Self { host, daemon, log };
        let up = || docker.try_run("docker", &["version"], &[]).status.success().then_some(());
        assert!(wait_until(PATIENCE, up).is_some(), "dockerd does not answer:\n{}", docker.log());
        docker
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn try_run(&self, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["120", program]).args(arguments).env("PATH", PATH).envs(environment.iter().copied());
        command.env("DOCKER_HOST", "unix:///run/docker.sock").env("HOME", "/run").stdin(Stdio::null());
        self.host.run(move || command.output()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a client that must succeed, and gives its standard output.
    pub fn run(&self, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let done = self.try_run(program, arguments, environment);
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(
            done.status.success(),
            "{program} {arguments:?}: {}\n{out}{err}\n{}",
            done.status,
            self.log()
        );
        out.into_owned()
    }

    pub fn docker(&self, arguments: &[&str]) -> String {
        self.run("docker", arguments, &[])
    }

    /// An image of one layer from a folder.
    pub fn import(&self, folder: &Path, name: &str) {
        let line = format!("tar -C {} -c . | docker import - {name}", folder.display());
        self.run("sh", &["-ec", &line], &[]);
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        // It ends its containers and its containerd itself.
        let pid = Pid::from_raw(self.daemon.id() as i32);
        kill(pid, Signal::SIGTERM).ok();
        if wait_until(PATIENCE, || self.daemon.try_wait().ok().flatten()).is_none() {
            self.daemon.kill().ok();
            self.daemon.wait().ok();
        }
    }
}

/// A root file system with these programs of this machine and the libraries that they ask for.
pub fn tree(folder: &Path, programs: &[(&str, &str)]) {
    for place in ["bin", "etc", "proc", "sys", "dev", "run", "tmp", "usr/local/bin"] {
        std::fs::create_dir_all(folder.join(place)).unwrap();
    }
    for (program, to) in programs {
        let source = which(program);
        std::fs::create_dir_all(folder.join(to).parent().unwrap()).unwrap();
        std::fs::copy(&source, folder.join(to)).unwrap();
        let linked = Command::new("ldd").arg(&source).output().unwrap();
        for library in
            String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/'))
        {
            let copy = folder.join(&library[1..]);
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::copy(library, copy).unwrap();
        }
    }
}

fn which(program: &str) -> PathBuf {
    if program.starts_with('/') {
        return program.into();
    }
    let found = PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is missing, tools/test installs it"))
}
