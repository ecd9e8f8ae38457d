//! `outgate init` in real namespaces: what a program can still do behind it, and what it refuses to start without.
//!
//! ```text
//! agent 10.77.1.2/24, fd77:1::2/64 --- bridge agent0 of the gate, 10.77.1.1, fd77:1::1 --- sibling 10.77.1.3
//! ```

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::at;
use crate::support::ns::Namespace;
use crate::support::orphans::scratch;

const PYTHON: &str = "/usr/bin/python3";
const USER: &str = "1000:1000";

/// What a program tries. Each function gives an errno, 0 where it worked.
const ATTEMPTS: &str = r#"
import ctypes, errno, fcntl, os, socket, struct, subprocess, sys
def tried(work):
    try: work(); return 0
    except OSError as error: return error.errno
def route():
    # RTM_DELROUTE of a route that nobody has: EPERM without the right, ESRCH with it.
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 0, 0) + struct.pack("=HH4B", 8, 1, 192, 0, 2, 254)
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.send(struct.pack("=IHHII", 16 + len(body), 25, 5, 1, 0) + body)
    return -struct.unpack("=i", s.recv(4096)[16:20])[0]
def ioctl(number, request):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return tried(lambda: fcntl.ioctl(s, number, request))
def inet(ip): return struct.pack("=HH4s8x", 2, 0, socket.inet_aton(ip))
def set_address(): return ioctl(0x8916, struct.pack("16s16s8x", b"eth0", inet("10.77.1.9")))
def add_route(): return ioctl(0x890B, struct.pack("Q16s16s16sHhQQhH4xQQQH6x", 0, inet("0.0.0.0"), inet("10.77.1.9"), inet("0.0.0.0"), 3, 0, 0, 0, 0, 0, 0, 0, 0, 0))
def option(level, name, value):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return tried(lambda: s.setsockopt(level, name, value))
def mark(): return option(socket.SOL_SOCKET, 36, 1)
def transparent(): return option(socket.SOL_IP, 19, 1)
def source_route(): return option(socket.SOL_IP, socket.IP_OPTIONS, bytes([131, 7, 4]) + socket.inet_aton("10.77.1.3") + b"\0")
def packet(): return tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300))
def raw_icmp(): return tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
def sysctl(): return tried(lambda: open("/proc/sys/net/ipv4/ip_forward", "w").write("1"))
def mount(): return 0 if ctypes.CDLL(None, use_errno=True).mount(b"none", b"/mnt", b"tmpfs", 0, None) == 0 else ctypes.get_errno()
def run(*words): return subprocess.run(words, capture_output=True, text=True)
def field(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"): return line.split(":")[1].strip()
"#;

struct Ground {
    agent: Namespace,
    sibling: Namespace,
    gate: Namespace,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let [agent, sibling, gate] = ["agent", "sibling", "gate"].map(Namespace::new);
        gate.ip(&format!(
            "link set lo up\nlink add agent0 type bridge\n\
             link add port0 type veth peer name eth0 netns {}\nlink add port1 type veth peer name eth0 netns {}\n\
             link set port0 master agent0\nlink set port1 master agent0\n\
             addr add 10.77.1.1/24 dev agent0\naddr add fd77:1::1/64 dev agent0 nodad\n\
             link set agent0 up\nlink set port0 up\nlink set port1 up",
            agent.path(),
            sibling.path()
        ));
        for (who, last) in [(&agent, 2), (&sibling, 3)] {
            who.ip(&format!(
                "link set lo up\naddr add 10.77.1.{last}/24 dev eth0\naddr add fd77:1::{last}/64 dev eth0 nodad\n\
                 link set eth0 up"
            ));
        }
        let dir = scratch();
        // What is written there stays in this namespace.
        agent.sh(format!(
            "mount --make-rprivate /; echo nameserver 127.0.0.1 > {dir}/resolv.conf\n\
             mount --bind {dir}/resolv.conf \"$(readlink -f /etc/resolv.conf)\"\n\
             mkdir -p /usr/local/share/ca-certificates; mount -t tmpfs none /usr/local/share/ca-certificates",
            dir = dir.path().display()
        ));
        std::fs::write(dir.path().join("attempts.py"), ATTEMPTS).unwrap();
        Self { agent, sibling, gate, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("PYTHONPATH", self.dir.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = self.command(words);
        self.agent.run(move || command.output()).unwrap()
    }

    /// `outgate init` with these arguments and this program.
    fn init(&self, arguments: &[&str], program: &[&str]) -> Output {
        let start = [env!("CARGO_BIN_EXE_outgate"), "init"];
        self.run(&[&start, arguments, &["--"], program].concat())
    }

    /// The lines that a Python program prints behind the usual start as an ordinary user.
    fn behind(&self, script: &str) -> Vec<String> {
        let usual = ["--gateway", "10.77.1.1", "--gateway", "fd77:1::1", "--user", USER];
        printed(&self.init(&usual, &[PYTHON, "-c", &format!("from attempts import *\n{script}")]))
    }

    /// As in a container.
    fn settings_read_only(&self) {
        self.agent.sh("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys");
    }

    fn routes(&self) -> String {
        self.agent.sh("ip route; ip -6 route")
    }

    /// A copy of a program in the scratch folder.
    fn copy(&self, program: &str, name: &str, mode: u32) -> String {
        let copy = self.file(name);
        std::fs::copy(std::fs::canonicalize(program).unwrap(), &copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(mode)).unwrap();
        copy.to_str().unwrap().to_owned()
    }

    /// A Python whose file gives CAP_NET_ADMIN and CAP_NET_RAW (struct vfs_cap_data of linux/capability.h).
    fn capable_python(&self) -> String {
        let copy = self.copy(PYTHON, "capable", 0o755);
        let script = "import os, struct, sys; os.setxattr(sys.argv[1], 'security.capability', struct.pack('<5I', 0x02000001, 0x3000, 0, 0, 0))";
        let done = self.run(&[PYTHON, "-c", script, &copy]);
        assert!(done.status.success(), "{done:?}");
        copy
    }
}

fn printed(done: &Output) -> Vec<String> {
    assert!(done.status.success(), "{done:?}");
    String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect()
}

fn words(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// The start was refused with one line, and the program never ran.
fn refused(ground: &Ground, done: &Output, because: &str) {
    let said = words(done);
    assert_eq!(done.status.code(), Some(111), "{said}");
    assert!(said.contains(because), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("nothing was executed")).count(), 1, "{said}");
    assert!(!ground.file("ran").exists(), "the program ran");
}

const EPERM: &str = "1";

#[test]
fn routes_addresses_rules_and_sysctls_cannot_be_changed() {
    let ground = Ground::new();
    let seen = ground.behind(
        "print(route(), set_address(), add_route(), sysctl() in (1, 13))\n\
         print(run('ip', 'route', 'replace', 'default', 'via', '10.77.1.9').stderr.strip())\n\
         print(run('nft', 'add', 'table', 'inet', 'mine').stderr.split('\\n')[0])\n\
         print(os.getresuid(), os.getresgid(), os.getgroups(), field('CapBnd'), field('CapEff'), field('NoNewPrivs'))",
    );
    assert_eq!(seen[0], "1 1 1 True");
    assert!(seen[1].contains("Operation not permitted"), "{seen:?}");
    assert!(seen[2].contains("Operation not permitted"), "{seen:?}");
    let nothing = "0000000000000000";
    assert_eq!(seen[3], format!("(1000, 1000, 1000) (1000, 1000, 1000) [] {nothing} {nothing} 1"));
    let routes = ground.routes();
    assert!(routes.contains("default via 10.77.1.1 dev eth0"), "{routes}");
    assert!(routes.contains("default via fd77:1::1 dev eth0"), "{routes}");
}

#[test]
fn a_setuid_program_gets_nothing_back() {
    let ground = Ground::new();
    let (cat, ip) = (ground.copy("/bin/cat", "suid-cat", 0o4755), ground.copy("/sbin/ip", "suid-ip", 0o4755));
    let seen = ground.behind(&format!(
        "status = run('{cat}', '/proc/self/status').stdout\n\
         print([line for line in status.split('\\n') if line.startswith(('Uid', 'CapEff', 'CapPrm'))])\n\
         print(run('{ip}', 'route', 'replace', 'default', 'via', '10.77.1.9').stderr.strip())"
    ));
    let ids = r"'Uid:\t1000\t1000\t1000\t1000'";
    assert!(seen[0].contains(ids) && seen[0].matches("0000000000000000").count() == 2, "{seen:?}");
    assert!(seen[1].contains("Operation not permitted"), "{seen:?}");
}

#[test]
fn a_program_with_file_capabilities_cannot_even_be_executed() {
    let ground = Ground::new();
    let capable = ground.capable_python();
    let seen = ground.behind(&format!("print(tried(lambda: run('{capable}', '-c', 'pass')))"));
    assert_eq!(seen, [EPERM]);
}

/// The control: without the bounding set and `no_new_privs` the same programs get everything back.
#[test]
fn a_change_of_user_alone_closes_none_of_it() {
    let ground = Ground::new();
    let (ip, capable) = (ground.copy("/sbin/ip", "suid-ip", 0o4755), ground.capable_python());
    ground.agent.sh("ip route replace default via 10.77.1.1");
    let only = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let changed =
        ground.run(&[&only[..], &[&ip, "route", "replace", "default", "via", "10.77.1.9"]].concat());
    assert!(changed.status.success(), "{changed:?}");
    assert!(ground.routes().contains("default via 10.77.1.9"));
    let script = "import sys; sys.path.insert(0, '.')\nfrom attempts import *\nprint(route(), mark())";
    let mut command = ground.command(&[&only[..], &[&capable, "-c", script]].concat());
    command.env("PYTHONHOME", "/usr");
    assert_eq!(printed(&ground.agent.run(move || command.output()).unwrap()), ["3 0"], "ESRCH, so it may");
}

#[test]
fn a_user_namespace_gives_no_right_over_this_network() {
    let ground = Ground::new();
    let seen = ground.behind(
        "inner = 'from attempts import *; print(field(\"CapEff\"), route(), run(\"nft\", \"add\", \"table\", \"inet\", \"mine\").returncode != 0)'\n\
         done = run('unshare', '-Ur', sys.executable, '-c', inner)\n\
         print(done.stdout.strip() or done.stderr.strip())",
    );
    let words: Vec<&str> = seen[0].split(' ').collect();
    // Where the machine forbids user namespaces there is nothing to try.
    let forbidden = seen[0].contains("unshare failed");
    assert!(forbidden || (words[0] != "0000000000000000" && words[1..] == [EPERM, "True"]), "{seen:?}");
}

#[test]
fn an_own_network_namespace_leads_nowhere_and_reaches_no_other() {
    let ground = Ground::new();
    let gate = ground.gate.path();
    let seen = ground.behind(&format!(
        "inner = '''\n\
         from attempts import *\n\
         s = socket.socket(); s.settimeout(1)\n\
         print(route(), tried(lambda: s.connect((\"10.77.1.1\", 80))))\n\
         print(run(\"ip\", \"link\", \"add\", \"v0\", \"type\", \"veth\", \"peer\", \"name\", \"v1\", \"netns\", sys.argv[1]).returncode != 0)\n\
         '''\n\
         done = run('unshare', '-Urn', sys.executable, '-c', inner, str(os.getpid()))\n\
         print(done.stdout.strip().replace('\\n', ' ') or done.stderr.strip())\n\
         print(run('nsenter', '--net={gate}', 'true').returncode != 0)"
    ));
    // It owns its namespace (ESRCH: it may change routes there), and nothing is reachable from it.
    let owns = seen[0].starts_with("3 101 True");
    assert!(owns || seen[0].contains("unshare failed"), "{seen:?}");
    assert_eq!(seen[1], "True", "another network namespace was entered");
    assert!(!ground.agent.sh("ip link").contains("v1"), "a device was pushed into the workload's namespace");
}

#[test]
fn marks_packet_sockets_raw_sockets_foreign_addresses_and_source_routes_are_refused() {
    let ground = Ground::new();
    let script = "print(mark(), packet(), raw_icmp(), transparent())\nprint(source_route())";
    assert_eq!(ground.behind(script), ["1 1 1 1", EPERM]);
    // The twin: with the rights all of them work, so the attempts are real ones.
    let free = ground.run(&[PYTHON, "-c", &format!("from attempts import *\n{script}")]);
    assert_eq!(printed(&free)[0], "0 0 0 0");
}

/// What no drop closes: any program may choose the interface. So a second one is told, and is a way out.
#[test]
fn a_second_interface_is_a_way_out_and_is_told() {
    let ground = Ground::new();
    ground.sibling.ip(&format!(
        "link add other0 type veth peer name eth1 netns {}\naddr add 10.88.0.1/24 dev other0\nlink set other0 up",
        ground.agent.path()
    ));
    ground.agent.ip("addr add 10.88.0.2/24 dev eth1\nlink set eth1 up");
    let _server = ground.sibling.listen("10.88.0.1:8080".parse().unwrap());
    let none_named = ground.init(&["--gateway", "10.77.1.1"], &["touch", "ran"]);
    refused(&ground, &none_named, "several interfaces are up (eth0, eth1)");
    let script = "from attempts import *\ns = socket.socket(); s.settimeout(3)\n\
                  s.setsockopt(socket.SOL_SOCKET, 25, b'eth1')\nprint(tried(lambda: s.connect(('10.88.0.1', 8080))))";
    let named = ["--gateway", "10.77.1.1", "--interface", "eth0", "--user", USER];
    let done = ground.init(&named, &[PYTHON, "-c", script]);
    assert!(words(&done).contains("eth1 is up as well"), "{}", words(&done));
    assert_eq!(printed(&done), ["0"]);
}

#[test]
fn root_with_kept_capabilities_cannot_change_the_route_or_mount() {
    let ground = Ground::new();
    ground.settings_read_only();
    let script = "from attempts import *\nprint(field('CapEff'), field('CapBnd'), route(), mount(), mark())\n\
                  open('mine', 'w').close(); print(tried(lambda: os.chown('mine', 7, 7)))";
    let done = ground.init(&["--gateway", "10.77.1.1", "--keep-caps", "0xfb"], &[PYTHON, "-c", script]);
    assert_eq!(printed(&done), ["00000000000000fb 00000000000000fb 1 1 1", "0"]);
    let done = ground.init(
        &["--gateway", "10.77.1.1"],
        &[PYTHON, "-c", "from attempts import *\nprint(os.getuid(), field('CapEff'), route())"],
    );
    assert_eq!(printed(&done), ["0 0000000000000000 1"], "root without anything kept");
    for (mask, name) in [
        ("0x1000", "CAP_NET_ADMIN"),
        ("0x2000", "CAP_NET_RAW"),
        ("0x200000", "CAP_SYS_ADMIN"),
        ("0x10000", "CAP_SYS_MODULE"),
        ("0x20000", "CAP_SYS_RAWIO"),
        ("0x80000", "CAP_SYS_PTRACE"),
        ("0x100", "CAP_SETPCAP"),
        ("0x4000000000", "CAP_PERFMON"),
        ("0x8000000000", "CAP_BPF"),
    ] {
        let done = ground.init(&["--gateway", "10.77.1.1", "--keep-caps", mask], &["touch", "ran"]);
        assert_eq!(done.status.code(), Some(111));
        assert!(words(&done).contains(name) && !ground.file("ran").exists(), "{}", words(&done));
    }
}

/// A neighbour on link is reached past the gate; with an own address of /32 it is not.
#[test]
fn an_on_link_neighbour_is_reached_only_through_the_gate() {
    let ground = Ground::new();
    let _servers = ["0.0.0.0:8080", "[::]:8080"].map(|place| ground.sibling.listen(place.parse().unwrap()));
    let shown = ground.sibling.sh("ip -6 -o addr show dev eth0 scope link");
    let link_local = shown.split_whitespace().nth(3).unwrap().trim_end_matches("/64");
    let script = format!(
        "from attempts import *\n\
         def reach(family, place):\n    s = socket.socket(family); s.settimeout(0.3)\n    return tried(lambda: s.connect(place)) == 0\n\
         print(reach(socket.AF_INET, ('10.77.1.3', 8080)), reach(socket.AF_INET6, ('fd77:1::3', 8080)), reach(socket.AF_INET6, ('{link_local}', 8080, 0, socket.if_nametoindex('eth0'))))"
    );
    let usual = ["--gateway", "10.77.1.1", "--gateway", "fd77:1::1", "--user", USER];
    let seen = printed(&ground.init(&usual, &[PYTHON, "-c", &script]));
    assert_eq!(seen, ["True True True"], "on link, as a route alone leaves it");
    let seen = printed(&ground.init(&[&usual[..], &["--on-link"]].concat(), &[PYTHON, "-c", &script]));
    assert_eq!(seen, ["False False False"]);
    let routes = ground.routes();
    assert!(!routes.contains("10.77.1.0/24") && !routes.contains("fd77:1::/64"), "{routes}");
    assert!(!routes.contains("fe80::/64"), "{routes}");
    assert!(routes.contains("default via 10.77.1.1 dev eth0") && routes.contains("onlink"), "{routes}");
    let addresses = ground.agent.sh("ip addr show dev eth0");
    assert!(addresses.contains("10.77.1.2/32") && addresses.contains("fd77:1::2/128"), "{addresses}");
    // The gate itself is still reached, over both.
    for gate in ["10.77.1.1", "fd77:1::1"] {
        let place = at(gate.parse().unwrap(), 8081);
        let _door = ground.gate.listen(place);
        assert!(ground.agent.connect(place, Duration::from_secs(3)).is_ok(), "{gate}");
    }
}

/// Without any capability root still owns the kernel's settings.
#[test]
fn root_starts_only_where_kernel_settings_are_read_only() {
    let ground = Ground::new();
    let touch = ["touch", "ran"];
    for arguments in [&["--gateway", "10.77.1.1"][..], &["--drop-only"]] {
        refused(&ground, &ground.init(arguments, &touch), "give --user, or a read-only /proc/sys");
    }
    ground.settings_read_only();
    let done = ground.init(&["--drop-only"], &touch);
    assert!(done.status.success() && ground.file("ran").exists(), "{}", words(&done));
}

/// A rule that is asked earlier makes the route meaningless.
#[test]
fn a_foreign_rule_asked_first_is_refused_in_both_families() {
    let ground = Ground::new();
    let usual = ["--gateway", "10.77.1.1", "--gateway", "fd77:1::1", "--user", USER];
    let policy = [&usual[..], &["--policy-route"]].concat();
    for family in ["-4", "-6"] {
        ground.agent.sh(format!("ip {family} rule add pref 50 lookup 7"));
        for arguments in [&usual[..], &policy] {
            refused(&ground, &ground.init(arguments, &["touch", "ran"]), "preference 50, table 7");
        }
        ground.agent.sh(format!("ip {family} rule del pref 50; ip {family} rule add pref 200 lookup 7"));
        refused(&ground, &ground.init(&usual, &["touch", "ran"]), "preference 200, table 7");
        let after = ground.init(&policy, &["true"]);
        assert!(after.status.success(), "one that is asked later does no harm: {}", words(&after));
        ground
            .agent
            .sh(format!("ip {family} rule del pref 200; ip -4 rule del pref 100; ip -6 rule del pref 100"));
    }
    assert!(ground.init(&usual, &["true"]).status.success());
}

/// For platforms that configure the interface later: what they add then changes nothing.
#[test]
fn a_policy_route_survives_a_platform_that_configures_the_interface_later() {
    let ground = Ground::new();
    ground.agent.ip("addr flush dev eth0\nlink set eth0 down");
    let usual = ["--gateway", "10.77.1.1", "--interface", "eth0", "--policy-route", "--user", USER];
    assert!(ground.init(&usual, &["true"]).status.success());
    ground.agent.ip("addr add 10.77.1.2/24 dev eth0\nroute add default via 10.77.1.254");
    let way = |to: &str| ground.agent.sh(format!("ip route get {to}"));
    for to in ["93.184.216.10", "10.77.1.3"] {
        assert!(way(to).contains("via 10.77.1.1 dev eth0 table 100"), "{}", way(to));
    }
    ground.agent.sh("echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
    ground.agent.ip("addr add fd77:1::2/64 dev eth0 nodad\nroute add default via fd77:1::1");
    let v6 = ground.run(&["ip", "-6", "route", "get", "2606:2800::1"]);
    assert!(!v6.status.success() || String::from_utf8_lossy(&v6.stdout).contains("unreachable"), "{v6:?}");
    // A second start finds its rule there.
    assert!(ground.init(&usual, &["true"]).status.success());
}

#[test]
fn without_a_gateway_for_ipv6_there_is_no_ipv6() {
    let ground = Ground::new();
    ground.agent.ip("route add default via fd77:1::1");
    let script = "from attempts import *\nprint(tried(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect(('2606:2800::1', 53))) != 0)";
    let done = ground.init(&["--gateway", "10.77.1.1", "--user", USER], &[PYTHON, "-c", script]);
    assert_eq!(printed(&done), ["True"]);
    assert_eq!(ground.agent.sh("ip -6 addr show dev eth0"), "");
}

/// As in a container: settings of the kernel cannot be written there.
#[test]
fn where_kernel_settings_are_read_only_ipv6_is_led_away_by_a_rule() {
    let ground = Ground::new();
    ground.agent.ip("route add default via fd77:1::1");
    ground.settings_read_only();
    let script = "from attempts import *\nprint(tried(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect(('2606:2800::1', 53))) != 0)";
    let done = ground.init(&["--gateway", "10.77.1.1", "--user", USER], &[PYTHON, "-c", script]);
    assert_eq!(printed(&done), ["True"], "{}", words(&done));
    assert!(words(&done).contains("ICMP redirects stay accepted"), "{}", words(&done));
    let both = ["--gateway", "10.77.1.1", "--gateway", "fd77:1::1", "--user", USER];
    assert!(ground.init(&both, &["true"]).status.success());
    let way = ground.agent.sh("ip -6 route get 2606:2800::1");
    assert!(way.contains("via fd77:1::1 dev eth0 table 100"), "{way}");
}

#[test]
fn every_route_through_somebody_else_goes() {
    let ground = Ground::new();
    ground.agent.ip(
        "route add default via 10.77.1.8\nroute add default via 10.77.1.9 metric 50\nroute add 0.0.0.0/1 via 10.77.1.9\n\
         route add 128.0.0.0/1 nexthop via 10.77.1.8 nexthop via 10.77.1.9\nroute add 10.99.0.0/16 via 10.77.1.1\n\
         route add default via fd77:1::8\nroute add default via fd77:1::9 metric 50\nroute add 2000::/3 via fd77:1::9",
    );
    ground.behind("pass");
    let routes = ground.routes();
    let through: Vec<&str> = routes.lines().filter(|line| line.contains("via")).collect();
    assert_eq!(through.len(), 3, "{routes}");
    assert!(through[0].starts_with("default via 10.77.1.1 dev eth0"), "{routes}");
    assert!(
        through[1].starts_with("10.99.0.0/16 via 10.77.1.1"),
        "what leads through the gate stays: {routes}"
    );
    assert!(through[2].starts_with("default via fd77:1::1 dev eth0"), "{routes}");
}

#[test]
fn without_the_rights_it_needs_nothing_is_executed() {
    let ground = Ground::new();
    let outgate = env!("CARGO_BIN_EXE_outgate");
    let without = |capability: &str| {
        let set = format!("-{capability}");
        ground.run(&[
            "setpriv",
            "--bounding-set",
            &set,
            outgate,
            "init",
            "--gateway",
            "10.77.1.1",
            "--",
            "touch",
            "ran",
        ])
    };
    refused(&ground, &without("net_admin"), "CAP_NET_ADMIN is missing");
    assert!(!ground.routes().contains("default"), "and nothing was changed");
    refused(&ground, &without("setpcap"), "CAP_SETPCAP is missing");
    // What it needs and nothing else: a container that was given these four.
    let four = ["setpriv", "--bounding-set", "-all,+net_admin,+setpcap,+setuid,+setgid", outgate, "init"];
    let whole = ["--gateway", "10.77.1.1", "--on-link", "--user", USER, "--", "id", "-u"];
    assert_eq!(printed(&ground.run(&[&four[..], &whole].concat())), ["1000"]);
    // The starts above had no gateway for IPv6, and so switched it off.
    let both = ["--gateway", "10.77.1.1", "--gateway", "fd77:1::1", "--on-link"];
    let late = ground.init(&both, &["touch", "ran"]);
    refused(&ground, &late, "IPv6 is switched off");
}

#[test]
fn whatever_fails_nothing_is_executed() {
    let ground = Ground::new();
    ground.settings_read_only();
    let touch = ["touch", "ran"];
    let bad = ground.file("no-certificate");
    std::fs::write(&bad, "nothing").unwrap();
    let bad = bad.to_str().unwrap();
    for (arguments, because) in [
        (vec!["--gateway", "10.99.0.1"], "--on-link"),
        (vec!["--gateway", "10.77.1.1", "--interface", "eth7"], "no interface eth7"),
        (vec!["--gateway", "10.77.1.1", "--ca", "/nonexistent"], "read the authority"),
        (vec!["--gateway", "10.77.1.1", "--ca", bad], "no certificate"),
        (vec!["--gateway", "10.77.1.1", "--gateway", "10.77.1.9"], "at most"),
        (vec!["--gateway", "127.0.0.1"], "no address of a gate"),
        (vec!["--user", USER], "--drop-only"),
    ] {
        refused(&ground, &ground.init(&arguments, &touch), because);
    }
    for wrong in
        [vec!["--user", "nobody-of-that-name", "--drop-only"], vec!["--gateway", "here"], vec!["--unknown"]]
    {
        let done = ground.init(&wrong, &touch);
        assert_eq!(done.status.code(), Some(111), "{done:?}");
        assert!(!ground.file("ran").exists());
    }
    refused(&ground, &ground.init(&["--gateway", "10.77.1.1"], &["/nonexistent"]), "cannot be executed");
    ground.agent.sh("mount -o remount,ro,bind \"$(readlink -f /etc/resolv.conf)\"");
    let other = ["--gateway", "10.77.1.1", "--dns", "10.77.1.9"];
    refused(&ground, &ground.init(&other, &touch), "--keep-resolver");
    let kept = ground.init(&["--gateway", "10.77.1.1", "--keep-resolver"], &touch);
    assert!(kept.status.success(), "{}", words(&kept));
}

#[test]
fn drop_only_drops_all_the_same_and_changes_nothing_else() {
    let ground = Ground::new();
    let script =
        "from attempts import *\nprint(route(), mark(), os.getuid(), field('CapBnd'), field('NoNewPrivs'))";
    let dropped = ["1 1 1000 0000000000000000 1"];
    let before = ground.routes();
    let done = ground.init(&["--drop-only", "--user", USER], &[PYTHON, "-c", script]);
    assert_eq!(printed(&done), dropped);
    assert_eq!(ground.routes(), before);
    assert_eq!(std::fs::read_to_string(ground.file("resolv.conf")).unwrap(), "nameserver 127.0.0.1\n");
    // Once more inside: one that holds nothing needs nothing.
    let again = [env!("CARGO_BIN_EXE_outgate-init"), "--drop-only", "--", PYTHON, "-c", script];
    assert_eq!(printed(&ground.init(&["--drop-only", "--user", USER], &again)), dropped);
    // As an engine starts an ordinary user without capabilities: nothing is left to drop, unless it holds other groups.
    let ordinary = |groups: &str| {
        let set =
            ["setpriv", "--reuid", "1000", "--regid", "1000", "--groups", groups, "--bounding-set", "-all"];
        let rest = [env!("CARGO_BIN_EXE_outgate"), "init", "--drop-only", "--", PYTHON, "-c", script];
        ground.run(&[&set[..], &rest].concat())
    };
    assert_eq!(printed(&ordinary("1000")), dropped);
    refused(&ground, &ordinary("1000,27"), "supplementary groups");
    // A container that was given NET_ADMIN for its start gives it to every exec; this is what takes it away.
    let set = [
        "setpriv",
        "--bounding-set",
        "-all,+net_admin,+setpcap,+setuid,+setgid",
        env!("CARGO_BIN_EXE_outgate"),
    ];
    let rest = ["init", "--drop-only", "--user", USER, "--", PYTHON, "-c", script];
    assert_eq!(printed(&ground.run(&[&set[..], &rest].concat())), dropped);
}

#[test]
fn the_resolver_and_the_trust_of_every_runtime_are_set_and_what_the_user_set_stays() {
    let ground = Ground::new();
    let ca = ground.file("ca.pem");
    let made = rcgen::generate_simple_self_signed(vec!["gate.test".into()]).unwrap();
    let ours = made.cert.pem().replace('\r', "");
    let mut file = std::fs::File::create(&ca).unwrap();
    write!(file, "{ours}{}", made.signing_key.serialize_pem()).unwrap();
    let trust = ground.file("trust");
    let usual =
        ["--gateway", "10.77.1.1", "--ca", ca.to_str().unwrap(), "--trust-folder", trust.to_str().unwrap()];
    let program = ["--user", USER, "--", "env"];
    let mut command =
        ground.command(&[&[env!("CARGO_BIN_EXE_outgate"), "init"], &usual[..], &program].concat());
    command.env_clear().env("PATH", "/usr/bin:/bin").env("PIP_CERT", "/mine.pem");
    let done = ground.agent.run(move || command.output()).unwrap();
    let lines = printed(&done);
    let combined = trust.join("combined.pem");
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"] {
        assert!(lines.contains(&format!("{name}={}", combined.display())), "{name}: {lines:?}");
    }
    assert!(lines.contains(&format!("NODE_EXTRA_CA_CERTS={}", trust.join("outgate-ca.pem").display())));
    assert!(lines.contains(&"PIP_CERT=/mine.pem".to_owned()));
    let java =
        format!("JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore={}", trust.join("combined.jks").display());
    assert!(lines.contains(&java), "{lines:?}");
    assert!(words(&done).contains("left as they are: PIP_CERT;"), "{}", words(&done));
    let bundle = std::fs::read_to_string(&combined).unwrap();
    assert!(bundle.ends_with(&ours), "ours are the last ones");
    let of_image = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    assert!(bundle.starts_with(&of_image), "and the image's own come first");
    assert!(!bundle.contains("PRIVATE KEY"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&combined), mode(&trust)), (0o644, 0o755));
    let anchor = ground.agent.sh("cat /usr/local/share/ca-certificates/outgate.crt");
    assert_eq!(anchor, ours, "an upgrade of ca-certificates keeps it");
    assert_eq!(std::fs::read_to_string(ground.file("resolv.conf")).unwrap(), "nameserver 10.77.1.1\n");
    // A later exec finds the files and sets the same variables.
    let folder = ["--drop-only", "--trust-folder", trust.to_str().unwrap(), "--user", USER];
    let mut command =
        ground.command(&[&[env!("CARGO_BIN_EXE_outgate"), "init"], &folder[..], &["--", "env"]].concat());
    command.env_clear().env("PATH", "/usr/bin:/bin");
    let lines = printed(&ground.agent.run(move || command.output()).unwrap());
    assert!(lines.contains(&format!("CARGO_HTTP_CAINFO={}", combined.display())), "{lines:?}");
}

#[test]
fn the_program_gets_the_three_standard_streams_and_no_other_descriptor() {
    let ground = Ground::new();
    let line = format!(
        "exec 7</etc/passwd 9</etc/hostname; exec {} init --drop-only --user {USER} -- ls /proc/self/fd",
        env!("CARGO_BIN_EXE_outgate")
    );
    // The last one is the listing's own.
    assert_eq!(printed(&ground.run(&["sh", "-c", &line])), ["0", "1", "2", "3"]);
}

#[test]
fn the_program_ends_as_it_would_have_without() {
    let ground = Ground::new();
    ground.settings_read_only();
    let done = ground.init(&["--gateway", "10.77.1.1"], &["sh", "-c", "exit 7"]);
    assert_eq!(done.status.code(), Some(7));
    let pid = ground.init(&["--drop-only"], &["sh", "-c", "kill -TERM $$"]);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&pid.status), Some(15));
}

/// A start is part of every container's; this prints what it adds (debug build) and keeps it from growing unseen.
#[test]
fn a_start_adds_little() {
    let ground = Ground::new();
    let (ca, trust) = (ground.file("ca.pem"), ground.file("trust"));
    let made = rcgen::generate_simple_self_signed(vec!["gate.test".into()]).unwrap();
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let bare = ["--gateway", "10.77.1.1", "--gateway", "fd77:1::1", "--on-link", "--user", USER];
    let trusting = ["--ca", ca.to_str().unwrap(), "--trust-folder", trust.to_str().unwrap()];
    let best = |run: &dyn Fn() -> Output| {
        let one = || {
            let begun = Instant::now();
            assert!(run().status.success());
            begun.elapsed()
        };
        (0..10).map(|_| one()).min().unwrap()
    };
    let without = best(&|| ground.run(&["true"]));
    for (what, arguments) in
        [("route and drop", bare.to_vec()), ("and trust", [&bare[..], &trusting].concat())]
    {
        let added = best(&|| ground.init(&arguments, &["true"])).saturating_sub(without);
        println!("outgate init ({what}) adds {added:?} to the start of a program, {without:?} by itself");
        assert!(added < Duration::from_millis(300), "{added:?}");
    }
}
