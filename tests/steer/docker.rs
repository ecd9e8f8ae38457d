//! The guard beside a real dockerd, in a namespace of its own: what Docker publishes stays reachable, nothing else is.
//!
//! Nothing is pulled: the one image is a static busybox. The daemon enters the network namespace only (as `ip netns
//! exec` would mount a new /sys, without which it does not start).

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::outgate;
use crate::world::{Attempt, Namespace, join};

struct Dockerd {
    child: Child,
    folder: tempfile::TempDir,
}

impl Dockerd {
    fn start(host: &Namespace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", host.path()))
            .arg("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args([
                "-H",
                &format!("unix://{}", at("socket")),
                "--storage-driver",
                "vfs",
                "--bip",
                "172.31.0.1/16",
            ])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("dockerd (package docker.io)");
        let mut dockerd = Self { child, folder };
        let end = Instant::now() + Duration::from_secs(60);
        while !dockerd.try_docker(&["version"]).0 {
            let ended = dockerd.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "dockerd does not serve ({ended:?}):\n{}",
                dockerd.log()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
        dockerd
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn try_docker(&self, arguments: &[&str]) -> (bool, String) {
        let socket = format!("unix://{}", self.folder.path().join("socket").display());
        let output = Command::new("/usr/bin/docker").args(["-H", &socket]).args(arguments).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let (good, said) = self.try_docker(arguments);
        assert!(good, "docker {arguments:?}: {said}\n{}", self.log());
        said.trim().to_owned()
    }

    /// An image with busybox and one page to serve.
    fn import(&self) {
        let root = self.folder.path().join("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy(busybox(), root.join("bin/busybox")).unwrap();
        std::fs::write(root.join("index.html"), "container").unwrap();
        let tar = self.folder.path().join("image.tar").display().to_string();
        assert!(
            Command::new("tar")
                .args(["-C", root.to_str().unwrap(), "-cf", &tar, "."])
                .status()
                .unwrap()
                .success()
        );
        self.docker(&["import", &tar, "busybox"]);
    }
}

fn busybox() -> &'static Path {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    places.into_iter().find(|place| place.exists()).expect("busybox (package busybox-static)")
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.try_docker(&["kill", "web"]);
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let end = Instant::now() + Duration::from_secs(15);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it may have left mounted would keep the folder.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = self.folder.path().display().to_string();
        for place in
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|place| place.starts_with(&ours))
        {
            let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// The page at an address, if it is there.
fn page(from: &Namespace, to: &str) -> Result<String, Attempt> {
    use std::io::{Read, Write};
    match from.try_tcp(to) {
        Attempt::Connected => {}
        other => return Err(other),
    }
    from.inside(|| {
        let mut stream = std::net::TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        Ok(text.rsplit("\r\n").next().unwrap_or_default().to_owned())
    })
}

#[test]
fn docker_publishes_what_it_should_and_a_neighbour_reaches_nothing_else() {
    let [neighbour, host] = ["neighbour", "host"].map(Namespace::new);
    join(&host, "lan0", &neighbour, &["198.51.100.1/24"], &["198.51.100.9/24"]);
    neighbour.ip("route add 172.31.0.0/16 via 198.51.100.1");
    let dockerd = Dockerd::start(&host);
    dockerd.import();
    let run = ["run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "-p", "8081:80"];
    dockerd.docker(&[&run[..], &["busybox", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/"]].concat());
    let inside = dockerd.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"]) + ":80";
    let good = || Ok("container".to_owned());
    let works = || {
        assert_eq!(page(&neighbour, "198.51.100.1:8081"), good(), "published on all addresses");
        for to in ["127.0.0.1:8080", "127.0.0.1:8081", "198.51.100.1:8081", &inside] {
            assert_eq!(page(&host, to), good(), "the host itself, {to}");
        }
        let hairpin = ["exec", "web", "/bin/busybox", "wget", "-q", "-O", "-", "http://198.51.100.1:8081/"];
        assert_eq!(dockerd.docker(&hairpin), "container", "the container itself");
    };
    works();
    assert_eq!(page(&neighbour, &inside), good(), "the exposure that the guard is for");
    assert_eq!(page(&neighbour, "198.51.100.1:8080"), Err(Attempt::Refused));
    let (code, said) = outgate(&host, &["fence", "guard", "docker0", "br-*"]);
    assert_eq!(code, Some(0), "{said}");
    works();
    assert_eq!(page(&neighbour, &inside), Err(Attempt::TimedOut));
    // Docker makes its rules anew for another network; ours stay as they are.
    dockerd.docker(&["network", "create", "other"]);
    assert_eq!(
        outgate(&host, &["fence", "guard", "--live", "docker0"]).0,
        Some(1),
        "another guard than was asked for"
    );
    assert_eq!(page(&neighbour, &inside), Err(Attempt::TimedOut));
    works();
}
