//! `outgate doctor` on the proving ground: all good where the set-up is right, and each gap found that is made on purpose.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::gate::write_files;
use crate::support::ns::Namespace;
use crate::support::*;

/// What a run of doctor said.
struct Examined {
    code: Option<i32>,
    report: Value,
}

impl Examined {
    fn of(done: &Output) -> Self {
        let report = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
        Self { code: done.status.code(), report }
    }

    fn checks(&self) -> &Vec<Value> {
        self.report["checks"].as_array().unwrap()
    }

    fn check(&self, name: &str) -> &Value {
        self.checks()
            .iter()
            .find(|check| check["check"] == name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    fn those(&self, verdict: &str) -> Vec<&str> {
        let graded = self.checks().iter().filter(|check| check["verdict"] == verdict);
        graded.map(|check| check["check"].as_str().unwrap()).collect()
    }

    /// Exactly these are bad, each with a remedy; the exit code says so.
    #[track_caller]
    fn finds(&self, wrong: &[&str]) -> &Self {
        assert_eq!(self.those("bad"), wrong, "{self:?}");
        assert_eq!(self.code, Some(i32::from(!wrong.is_empty())));
        assert_eq!(self.report["ok"], wrong.is_empty());
        for check in self.checks().iter().filter(|check| check["verdict"] != "good") {
            assert!(check["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{check}");
        }
        self
    }

    /// This is bad, whatever else is.
    #[track_caller]
    fn names(&self, wrong: &str, words: &str) -> &Self {
        let check = self.check(wrong);
        assert_eq!(check["verdict"], "bad", "{self:?}");
        assert!(check["fact"].as_str().unwrap().contains(words), "{check}");
        assert_eq!(self.code, Some(1));
        self
    }
}

impl std::fmt::Debug for Examined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string_pretty(&self.report).unwrap())
    }
}

/// The gateway with forwarding on, so that only the fence stands before the internet.
fn forwarding(policy: &str) -> Bed {
    Bed::with(&Setup { policy: policy.into(), forwarding: true, ..Setup::default() })
}

fn from_gate(world: &World) -> Examined {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_outgate"));
    doctor.args(["doctor", "--json", "-c"]).arg(world.dir.path().join("outgate.toml"));
    Examined::of(&world.gate.run(move || doctor.output()).unwrap())
}

/// A world whose daemon does not run: the files are there, and the tables only if they are loaded.
fn without_daemon() -> World {
    let world = World::new();
    write_files(world.dir.path(), &Setup { policy: P1.into(), ..Setup::default() });
    world
}

fn load_fence(world: &World) {
    let mut fence = Command::new(env!("CARGO_BIN_EXE_outgate"));
    fence.args(["fence", "up", "-c"]).arg(world.dir.path().join("outgate.toml"));
    let done = world.gate.run(move || fence.output()).unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Where every user finds the binary.
fn binary(world: &World) -> PathBuf {
    let copy = world.dir.path().join("outgate");
    if !copy.exists() {
        let original = env!("CARGO_BIN_EXE_outgate");
        std::fs::hard_link(original, &copy).or_else(|_| std::fs::copy(original, &copy).map(drop)).unwrap();
    }
    copy
}

/// An environment that holds nothing of the machine that runs the tests.
fn clean(command: &mut Command, world: &World, runtimes: bool) {
    let home = world.dir.path().join("home");
    std::fs::create_dir_all(&home).unwrap();
    // Starting a JVM takes longer than all else, so only tests that are about runtimes have them.
    let path = if runtimes { "/usr/local/bin:/usr/bin:/bin" } else { "/nonexistent" };
    command.env_clear().env("PATH", path).env("HOME", home);
    command.env("XDG_RUNTIME_DIR", world.dir.path().join("runtime")).stdin(Stdio::null());
}

/// As an agent that `init` started.
fn from_inside(world: &World, init: &[&str], doctor: &[&str]) -> Examined {
    Examined::of(&started(world, &world.agent, init, doctor))
}

fn started(world: &World, agent: &Namespace, init: &[&str], doctor: &[&str]) -> Output {
    let binary = binary(world);
    let mut command = Command::new(&binary);
    command.args(["init", "--user", "1000:1000"]);
    if !init.contains(&"--drop-only") {
        command.args(["--gateway", "10.77.1.1", "--gateway", "fd77:1::1"]);
    }
    command.args(["--keep-resolver", "--trust-folder"]).arg(world.dir.path().join("trust"));
    command.args(init).arg("--").arg(&binary).args(["doctor", "--inside", "--json"]).args(doctor);
    clean(&mut command, world, init.contains(&"--ca") || doctor.contains(&"--url"));
    agent.run(move || command.output()).unwrap()
}

/// The arguments with which the agent trusts the gate. What would be written into the system stays in the namespace.
fn trusting(bed: &Bed) -> [String; 2] {
    bed.world.agent.sh(
        "mkdir -p /usr/local/share/ca-certificates; mount -t tmpfs none /usr/local/share/ca-certificates",
    );
    ["--ca".to_owned(), bed.ca_file().to_str().unwrap().to_owned()]
}

#[test]
fn by_32_a_right_gateway_is_good_throughout() {
    let bed = forwarding(P1);
    let examined = from_gate(&bed.world);
    examined.finds(&[]);
    // How many files a process may open is the machine's, which may be a small one.
    let odd: Vec<&str> = examined.those("warn").into_iter().filter(|check| *check != "descriptors").collect();
    assert!(odd.is_empty(), "{examined:?}");
    for check in [
        "daemon",
        "fence",
        "redirect",
        "forwarding v6",
        "reverse path",
        "doors",
        "listeners",
        "policy",
        "authority",
    ] {
        assert_eq!(examined.check(check)["verdict"], "good");
    }
    bed.control();
}

#[test]
fn by_32_missing_rules_forwarding_reverse_path_and_open_doors_are_each_named() {
    let world = without_daemon();
    world.forward_packets();
    let examined = from_gate(&world);
    examined.finds(&["daemon", "fence", "forwarding", "forwarding v6", "reverse path", "doors"]);
    let doors = examined.check("doors")["fact"].to_string();
    assert!(doors.contains("0.0.0.0:15001 is open on every interface"), "{doors}");
    assert!(doors.contains("10.77.1.1:53 is reached from the uplink too"), "{doors}");
    load_fence(&world);
    from_gate(&world).finds(&["daemon"]);
}

#[test]
fn by_32_a_fence_that_somebody_changed_is_no_fence() {
    for change in [
        "flush chain inet outgate_fence raw_pre",
        "insert rule inet outgate_fence forw accept",
        "delete table inet outgate_fence",
        "add element inet outgate_fence agent_if { \"wan0\" }",
        "flush set inet outgate_fence agent_net6",
    ] {
        let world = without_daemon();
        world.forward_packets();
        load_fence(&world);
        from_gate(&world).finds(&["daemon"]);
        world.gate.sh(format!("nft '{change}'"));
        let examined = from_gate(&world);
        examined.names("fence", "outgate_fence").names("forwarding", "past the gate");
        examined.names("forwarding v6", "past the gate").names("reverse path", "as anybody");
    }
}

#[test]
fn by_32_an_address_outside_the_fenced_networks_is_open_to_neighbours() {
    let bed = forwarding(P1);
    bed.world.gate.ip("addr add fd99::1/64 dev agent0 nodad");
    from_gate(&bed.world).finds(&["networks"]).names("networks", "fd99::1 on agent0");
}

#[test]
fn by_32_a_door_on_the_uplink_is_found() {
    let world = without_daemon();
    load_fence(&world);
    let file = world.dir.path().join("outgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("10.77.2.1:53\"]", "93.184.216.1:53\"]")).unwrap();
    from_gate(&world).names("doors", "dns 93.184.216.1:53 stands on wan0");
}

#[test]
fn by_32_what_is_wrong_with_the_authority_is_found() {
    let bed = forwarding(P1);
    let key = bed.gate.dir.join("certs/ca.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    from_gate(&bed.world).finds(&["authority key"]).names("authority key", "mode 0644");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let folder = bed.gate.dir.join("certs");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    from_gate(&bed.world).finds(&["authority key"]).names("authority key", "replace the key");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "An old one");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    std::fs::write(bed.ca_file(), pem).unwrap();
    from_gate(&bed.world).finds(&["authority"]).names("authority", "expired on 2021-01-01");
}

#[test]
fn by_32_a_policy_that_does_not_load_and_a_secret_that_is_missing_are_found() {
    let bed = forwarding(P1);
    let secret = "[[secret]]\nname = \"s\"\nfrom = { file = \"/nonexistent\" }\n";
    bed.gate.write_policy(&format!("{P1}\n{secret}"));
    from_gate(&bed.world).finds(&["secrets"]);
    bed.gate.write_policy("[[rule]]\nname = 7\n");
    from_gate(&bed.world).finds(&["policy"]);
    std::fs::write(bed.gate.dir.join("outgate.toml"), "nonsense = 1\n").unwrap();
    from_gate(&bed.world).finds(&["configuration"]);
}

/// The daemon has read what is in its environment; doctor cannot see there, and does not call that a gap.
#[test]
fn a_secret_of_the_daemons_own_environment_is_no_gap() {
    let secret = "[[secret]]\nname = \"s\"\nfrom = { env = \"OUTGATE_TEST_SECRET\" }\n";
    let bed = Bed::with(&Setup {
        policy: format!("{P1}\n{secret}"),
        environment: vec![("OUTGATE_TEST_SECRET", "a value of some length".into())],
        ..Setup::default()
    });
    let examined = from_gate(&bed.world);
    assert_eq!(examined.finds(&[]).check("secrets")["verdict"], "warn", "{examined:?}");
}

#[test]
fn by_32_a_dead_daemon_is_found() {
    let mut bed = forwarding(P1);
    bed.gate.kill();
    let examined = from_gate(&bed.world);
    examined.finds(&["daemon"]);
    assert_eq!(examined.check("fence")["verdict"], "good", "the fence outlives it");
}

#[test]
fn from_inside_a_right_set_up_is_good_throughout() {
    let bed = forwarding(P1);
    let [flag, ca] = trusting(&bed);
    let mark = bed.mark();
    // As container engines set it.
    bed.world.agent.sh("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    let examined = from_inside(&bed.world, &[&flag, &ca], &["--url", "https://api.good.test/"]);
    examined.finds(&[]);
    assert_eq!(examined.those("warn"), [] as [&str; 0], "{examined:?}");
    let told: Vec<&str> = examined.those("good");
    for check in [
        "TCP",
        "TCP over v6",
        "UDP",
        "QUIC",
        "capabilities",
        "resolver",
        "another resolver",
        "DNS over TLS",
        "transparent door",
    ] {
        assert!(told.contains(&check), "{check}: {told:?}");
    }
    for runtime in ["trust: curl", "trust: python3", "trust: requests", "trust: node", "trust: git"] {
        assert!(told.contains(&runtime), "{runtime}: {told:?}");
    }
    // What left is the probes' own page, and nothing else.
    let packets = bed.world.capture.packets().split_off(0);
    let elsewhere: Vec<_> = packets
        .iter()
        .filter(|packet| {
            packet.outgoing && packet.syn && ![at(PUB1, 443), at(PUB1_V6, 443)].contains(&packet.to)
        })
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    drop(mark);
}

#[test]
fn from_inside_nothing_leaves_a_gate_that_holds() {
    let bed = forwarding(P1);
    let [flag, ca] = trusting(&bed);
    let examined = from_inside(&bed.world, &[&flag, &ca], &[]);
    examined.finds(&[]);
    let loud: Vec<_> = bed
        .world
        .capture
        .packets()
        .into_iter()
        .filter(|packet| {
            packet.outgoing && (packet.syn || packet.is_echo_request() || packet.protocol == capture::UDP)
        })
        .collect();
    assert!(loud.is_empty(), "{loud:?}");
    assert!(bed.world.dns.queries().is_empty());
    for runtime in ["trust: curl", "trust: python3", "trust: requests", "trust: node", "trust: git"] {
        assert_eq!(examined.check(runtime)["verdict"], "good", "against the gate itself: {examined:?}");
    }
}

#[test]
fn by_32_from_inside_a_gate_without_fence_and_redirect_is_seen() {
    let world = without_daemon();
    world.forward_packets();
    let examined = from_inside(&world, &[], &["--target", "93.184.216.66", "--resolver", "93.184.216.53"]);
    examined.names("TCP", "8443").names("another resolver", "answered").names("resolver", "does not answer");
    examined.names("transparent door", "not by the gate");
}

/// As rule sets with an `ip` table alone leave it.
#[test]
fn by_32_from_inside_ipv6_that_nobody_fences_is_seen() {
    let world = without_daemon();
    world.forward_packets();
    world.gate.sh("nft 'table ip v4_only { chain forw { type filter hook forward priority 0; \
         meta l4proto tcp reject with tcp reset; reject with icmp admin-prohibited; }; }'");
    // A gate that has a way to everywhere, and refuses it.
    world.gate.sh(
        "ip route add 192.0.2.0/24 dev $(ip -o route get 93.184.216.77 | grep -o 'dev [^ ]*' | cut -d' ' -f2)",
    );
    let _servers = ["0.0.0.0:8080", "[::]:8080"].map(|place| world.lan.listen(place.parse().unwrap()));
    let answering = [123, 443].map(|port| world.lan.udp(at("::".parse().unwrap(), port)));
    for socket in answering {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            let (_, peer) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(b"an answer", peer).unwrap();
        });
    }
    let lan = ["--target", "93.184.216.77", "--target", "2606:2800:220:1::77"];
    let examined = from_inside(&world, &[], &lan);
    examined.names("TCP over v6", "8080").names("UDP over v6", "123").names("QUIC over v6", "of something");
    for fenced in ["TCP", "UDP", "QUIC"] {
        assert_eq!(examined.check(fenced)["verdict"], "good", "{examined:?}");
    }
    from_gate(&world).names("forwarding v6", "nothing fences");
}

#[test]
fn from_inside_an_agent_that_keeps_its_rights_is_seen() {
    let bed = forwarding(P1);
    let mut command = Command::new(binary(&bed.world));
    command.args(["doctor", "--inside", "--json"]);
    clean(&mut command, &bed.world, false);
    let done = bed.world.agent.run(move || command.output()).unwrap();
    let examined = Examined::of(&done);
    examined.names("capabilities", "CAP_NET_ADMIN").names("no new privileges", "CAP_NET_ADMIN");
    examined.names("packet mark", "SO_MARK can be set");
}

#[test]
fn from_inside_a_second_interface_and_a_second_route_are_seen() {
    let bed = forwarding(P1);
    bed.world.lan.ip(&format!(
        "link add other0 type veth peer name eth1 netns {}\naddr add 10.88.0.1/24 dev other0\nlink set other0 up",
        bed.world.agent.path()
    ));
    bed.world
        .agent
        .ip("addr add 10.88.0.2/24 dev eth1\nlink set eth1 up\nroute add 10.89.0.0/16 via 10.88.0.1");
    let examined = from_inside(&bed.world, &["--drop-only"], &[]);
    examined.names("interfaces", "eth0, eth1").names("routes", "10.88.0.1").names("neighbours", "10.88.0.1");
    // With a table that is asked first those routes mean nothing; and `init` takes them away where it has none.
    let led = from_inside(&bed.world, &["--interface", "eth0", "--policy-route"], &[]);
    assert_eq!(led.check("routes")["verdict"], "warn", "{led:?}");
    bed.world.agent.sh("ip rule del pref 100");
    let alone = from_inside(&bed.world, &["--interface", "eth0"], &[]);
    assert_eq!(alone.check("routes")["verdict"], "good", "{alone:?}");
}

#[test]
fn from_inside_a_neighbour_on_the_link_is_seen_unless_the_link_is_closed() {
    let bed = forwarding(P1);
    bed.world.gate.ip("addr add 10.77.1.3/24 dev agent0");
    let _server = bed.world.gate.listen("10.77.1.3:8080".parse().unwrap());
    let seen = from_inside(&bed.world, &[], &["--neighbour", "10.77.1.3"]);
    seen.names("neighbours", "10.77.1.3").names("neighbour", "on this link");
    bed.world.agent.sh("ip neigh flush all");
    let closed = from_inside(&bed.world, &["--on-link"], &["--neighbour", "10.77.1.3"]);
    assert_eq!(closed.check("neighbours")["verdict"], "good", "{closed:?}");
}

#[test]
fn from_inside_sockets_of_other_daemons_and_keys_are_seen() {
    let bed = forwarding(P1);
    let runtime = bed.gate.dir.join("runtime");
    std::fs::create_dir_all(runtime.join("podman")).unwrap();
    let sockets = ["bus", "podman/podman.sock", "ssh-agent.socket"].map(|name| {
        let path = runtime.join(name);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        listener
    });
    let home = bed.gate.dir.join("home");
    std::fs::create_dir_all(home.join(".ssh")).unwrap();
    std::fs::write(home.join(".ssh/id_ed25519"), "a key").unwrap();
    let examined = from_inside(&bed.world, &[], &[]);
    examined
        .names("container engine", "podman.sock")
        .names("session bus", "bus")
        .names("key agents", "ssh-agent");
    examined.names("credentials", "id_ed25519");
    drop(sockets);
}

#[test]
fn from_inside_a_runtime_that_does_not_trust_the_gate_is_seen() {
    let bed = forwarding(P1);
    let examined = from_inside(&bed.world, &[], &["--url", "https://api.good.test/"]);
    for runtime in ["trust: curl", "trust: python3", "trust: requests", "trust: node", "trust: git"] {
        examined.names(runtime, "does not trust");
    }
}

#[test]
fn from_inside_a_name_that_the_policy_lets_through_is_seen() {
    let bed = forwarding(P1);
    from_inside(&bed.world, &[], &["--denied", "api.good.test"]).names("resolver", "api.good.test");
}

/// Who refuses: the gate, or a host that was reached?
#[test]
fn from_inside_a_refusal_of_the_target_itself_is_no_refusal_of_the_gate() {
    let world = without_daemon();
    world.forward_packets();
    let target = ["--target", "93.184.216.77"];
    let open = from_inside(&world, &[], &target);
    assert_eq!(open.check("TCP")["verdict"], "warn", "{open:?}");
    assert!(open.check("TCP")["fact"].as_str().unwrap().contains("refuses"), "{open:?}");
}

#[test]
fn from_inside_a_rule_asked_first_is_seen_with_one_gateway_too() {
    let bed = forwarding(P1);
    for family in ["-4", "-6"] {
        bed.world.agent.sh(format!("ip {family} rule add pref 50 lookup 7"));
        let examined = from_inside(&bed.world, &["--drop-only"], &[]);
        assert_eq!(examined.check("routes")["verdict"], "warn", "{examined:?}");
        bed.world.agent.sh(format!("ip {family} rule del pref 50"));
    }
}

/// A silent gate cannot be told from a hole in the dark: then a target that would answer decides.
#[test]
fn from_inside_silence_is_no_proof_without_a_target_that_would_answer() {
    let bed = Bed::new(P1);
    let blind = from_inside(&bed.world, &[], &[]);
    assert_eq!(blind.check("TCP")["verdict"], "warn", "{blind:?}");
    let target = ["--target", "93.184.216.66", "--target", "2606:2800:220:1::66"];
    let sure = from_inside(&bed.world, &[], &target);
    for check in ["TCP", "UDP", "TCP over v6"] {
        assert_eq!(sure.check(check)["verdict"], "good", "{sure:?}");
    }
}

#[test]
fn doctor_ends_within_seconds() {
    let bed = Bed::new(P1);
    let begun = std::time::Instant::now();
    from_inside(&bed.world, &[], &[]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
