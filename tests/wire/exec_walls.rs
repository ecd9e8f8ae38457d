//! The walls of `outgate exec`: what a hostile command tries, and what it must not see.

use std::os::unix::net::UnixListener;

use crate::support::jail::{Jail, USER};
use crate::support::*;

/// Each line fails inside, and says so by its exit code.
const ATTEMPTS: &[&str] = &[
    "ip link set lo down",
    "ip link add x type veth",
    "ip addr add 192.0.2.9/32 dev lo",
    "ip route replace default via 192.0.2.9 dev lo",
    "nft flush ruleset",
    "nft add table inet x",
    "nsenter -t 1 -n true",
    "nsenter -t 1 -m true",
    "umount /run",
    "umount /run/outgate",
    "umount /etc/resolv.conf",
    "umount /proc",
    "mount -t tmpfs x /mnt",
    "mount -o remount,rw /run/outgate",
    "echo nameserver 8.8.8.8 > /etc/resolv.conf",
    "echo x > policies/agent.toml",
    "echo x > policies/new.toml",
    "mv policies old",
    "echo x >> outgate.toml",
    "ls /proc/1/fd/",
    "cat /proc/1/environ",
    "unshare -n true",
    "unshare -m true",
    "chroot / true",
    "python3 -c 'import socket as s; s.socket(s.AF_INET, s.SOCK_RAW, 1)'",
    "python3 -c 'import socket as s; s.socket(s.AF_PACKET, s.SOCK_RAW, 3)'",
    "python3 -c 'import socket as s; s.socket(40, s.SOCK_STREAM)'",
    "python3 -c 'import socket as s; k = s.socket(); k.setsockopt(s.SOL_SOCKET, 36, 1)'",
    "python3 -c 'import socket as s; k = s.socket(); k.setsockopt(0, 19, 1)'",
    // ptrace(PTRACE_ATTACH) of PID 1, and the user's keyring.
    "python3 -c 'import ctypes as c, sys; sys.exit(0 if c.CDLL(None).ptrace(16, 1, 0, 0) == 0 else 1)'",
    "python3 -c 'import ctypes as c, sys; sys.exit(0 if c.CDLL(None).syscall(250, 0, -4, 0) > 0 else 1)'",
];

/// The same from a user namespace that the command makes for itself, where it is root.
const AS_ROOT_OF_NOTHING: &[&str] = &[
    "unshare -Ur nft list ruleset",
    "unshare -Ur ip link set lo down",
    "unshare -Ur ip route replace default dev lo src 127.0.0.1",
    "unshare -Urm umount /run",
    "unshare -Urm umount -l /run",
    "unshare -Urm umount /run/outgate",
    "unshare -Urm umount $HOME/.ssh",
    "unshare -Urm umount /etc/resolv.conf",
    "unshare -Urm umount /proc",
    "unshare -Urm mount -o remount,bind,rw policies",
    "unshare -Urm nsenter -t 1 -m true",
    "unshare -Urn curl -sS -m 2 http://93.184.216.10/",
    "unshare -Urn curl -sS -m 2 http://127.0.0.1:15001/",
];

fn with_credentials() -> Jail {
    let jail = Jail::new(P1);
    for (file, text) in [
        (".ssh/id_ed25519", "PRIVATE"),
        (".netrc", "PRIVATE"),
        (".aws/credentials", "PRIVATE"),
        (".config/gh/hosts.yml", "PRIVATE"),
    ] {
        let path = jail.home.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    jail.own();
    jail
}

#[test]
fn exec_cannot_be_undone_by_its_command() {
    let jail = with_credentials();
    let mut script = String::from("id -u; ");
    for attempt in ATTEMPTS.iter().chain(AS_ROOT_OF_NOTHING) {
        script += &format!(
            "if ( {attempt} ) >/dev/null 2>&1; then echo \"went through: {}\"; fi\n",
            attempt.replace('"', "\\\"").replace('$', "\\$")
        );
    }
    // Twins: the same programs do their work where that is no way out.
    script += "unshare -Urnm sh -ec 'ip link set lo up; ip link add x type veth; nft add table inet x; mount -t tmpfs x /mnt; umount /mnt' \
               && kill -0 $$ && python3 -c 'import socket as s; s.socket(s.AF_INET6)' && echo x > mine && echo end\n";
    let out = jail.succeed(&script);
    assert_eq!(out, format!("{USER}\nend\n"));
    assert_eq!(std::fs::read_to_string(jail.home.join("policies/agent.toml")).unwrap(), P1);
    let rights = jail.succeed("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ls /proc/self/fd; ls -d /proc/[0-9]* | wc -l");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(rights.contains(&format!("{set}:\t0000000000000000\n")), "{rights}");
    }
    assert!(rights.contains("NoNewPrivs:\t1\nSeccomp:\t2\n0\n1\n2\n"), "{rights}");
}

#[test]
fn exec_covers_sockets_and_credentials_of_the_user() {
    let jail = with_credentials();
    let agent = jail.home.join("agent.sock");
    let _listener = UnixListenerInside::new(&jail, &agent);
    let read = "cat .netrc .ssh/* .aws/* .config/gh/* state/outgate/* 2>/dev/null; ls -A .ssh .aws .config/gh state/outgate; echo end";
    let out = jail.succeed(read);
    assert!(!out.contains("PRIVATE") && out.ends_with("end\n"), "{out}");
    assert!(!out.contains("id_ed25519") && !out.contains("ca.key"), "{out}");
    let connect = format!(
        "python3 -c 'import socket as s, sys; k = s.socket(s.AF_UNIX); sys.exit(k.connect_ex(\"{}\"))'",
        agent.display()
    );
    let mut plain = jail.as_user(&["sh", "-c", &connect]);
    plain.env("SSH_AUTH_SOCK", &agent);
    assert_eq!(jail.run(plain).status.code(), Some(0), "outside it is there");
    let with_agent = |options: &[&str]| {
        let line = format!("echo agent=$SSH_AUTH_SOCK; {connect}");
        let mut command =
            jail.command(&[&["-q", "-c", "outgate.toml"], options, &["--", "sh", "-c", &line]].concat());
        command.env("SSH_AUTH_SOCK", &agent);
        jail.run(command)
    };
    let covered = with_agent(&[]);
    assert!([Some(30), Some(111)].contains(&covered.status.code()), "EROFS or ECONNREFUSED: {covered:?}");
    assert_eq!(covered.stdout, b"agent=\n");
    let exposed = with_agent(&["--expose", "agent.sock"]);
    assert_eq!(exposed.status.code(), Some(0), "{exposed:?}");
    assert_eq!(String::from_utf8_lossy(&exposed.stdout), format!("agent={}\n", agent.display()));
    let key = jail.run(jail.command(&[
        "-q",
        "-c",
        "outgate.toml",
        "--expose",
        ".ssh",
        "--",
        "cat",
        ".ssh/id_ed25519",
    ]));
    assert_eq!(key.stdout, b"PRIVATE");
    let part = jail.run(jail.command(&["-c", "outgate.toml", "--expose", ".ssh/id_ed25519", "--", "true"]));
    assert_eq!(part.status.code(), Some(125), "a part of a covered folder is refused, not silently covered");
    let abstract_socket =
        "import socket as s, sys; k = s.socket(s.AF_UNIX); sys.exit(k.connect_ex(\"\\0outgate-test\"))";
    let outside = jail.world.gate.run(|| {
        use std::os::linux::net::SocketAddrExt;
        UnixListener::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name("outgate-test").unwrap())
            .unwrap()
    });
    assert_eq!(jail.run(jail.as_user(&["python3", "-c", abstract_socket])).status.code(), Some(0));
    let inside =
        jail.run(jail.command(&["-q", "-c", "outgate.toml", "--", "python3", "-c", abstract_socket]));
    assert_eq!(inside.status.code(), Some(111), "{inside:?}");
    drop(outside);
}

#[test]
fn exec_covers_a_file_by_every_name_that_mounts_give_it() {
    let jail = with_credentials();
    let twice = jail.home.join("twice");
    let keys = jail.home.join("keys");
    std::fs::create_dir_all(&twice).unwrap();
    std::fs::create_dir_all(&keys).unwrap();
    let inner = "cat twice/.netrc twice/.ssh/id_ed25519 keys/id_ed25519 2>/dev/null; echo x > twice/policies/agent.toml \
                 2>/dev/null || echo refused; echo mine > twice/mine && cat twice/mine mine";
    let [home, twice, keys] = [&jail.home, &twice, &keys].map(|path| path.display().to_string());
    let plain = jail.as_user(&["sh", "-c", "cat twice/.netrc keys/id_ed25519"]);
    let exec = jail.command(&["-q", "-c", "outgate.toml", "--", "sh", "-c", inner]);
    let read = |command: std::process::Command| {
        let mounts = format!("mount --bind {home} {twice} && mount --bind {home}/.ssh {keys} && exec \"$@\"");
        let mut within = std::process::Command::new("unshare");
        within.args(["-m", "sh", "-c", &mounts, "-"]).arg(command.get_program()).args(command.get_args());
        within.current_dir(&jail.home).env("HOME", &jail.home).env("XDG_STATE_HOME", jail.home.join("state"));
        jail.run(within)
    };
    assert_eq!(String::from_utf8_lossy(&read(plain).stdout), "PRIVATEPRIVATE", "outside they are there");
    let inside = read(exec);
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "refused\nmine\nmine\n", "{inside:?}");
}

#[test]
fn exec_keeps_the_password_of_the_upstream_proxy_to_itself() {
    let jail = Jail::new(P1);
    let secret = jail.home.join("proxy-password");
    std::fs::write(&secret, "correct horse").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    jail.own();
    let config = std::fs::read_to_string(jail.home.join("outgate.toml")).unwrap();
    for source in ["env = \"PROXY_PASSWORD\"", "file = \"proxy-password\""] {
        let section = format!(
            "{config}\n[upstream.proxy]\nurl = \"http://203.0.113.9:3128\"\nusername = \"gate\"\npassword = {{ {source} }}\n"
        );
        std::fs::write(jail.home.join("proxied.toml"), section).unwrap();
        let mut command = jail.command(&[
            "-q",
            "-c",
            "proxied.toml",
            "--",
            "sh",
            "-c",
            "env; cat proxy-password; echo end",
        ]);
        let in_environment = source.starts_with("env");
        if in_environment {
            command.env("PROXY_PASSWORD", "correct horse");
        }
        let output = jail.run(command);
        let text = String::from_utf8_lossy(&output.stdout);
        // The file is ordinary where it is not the password's.
        let shown = if in_environment { "correct horseend\n" } else { "end\n" };
        assert!(text.ends_with(shown), "{source}: {output:?}");
        assert!(!text.contains("PROXY_PASSWORD"), "{source}: {text}");
    }
}

/// A listener that the gate's namespace owns, as a program of the user would.
struct UnixListenerInside(#[expect(dead_code, reason = "held open")] UnixListener);

impl UnixListenerInside {
    fn new(jail: &Jail, at: &std::path::Path) -> Self {
        let path = at.to_owned();
        let listener = jail.world.gate.run(move || UnixListener::bind(path)).unwrap();
        jail.own();
        Self(listener)
    }
}

#[test]
fn exec_takes_what_the_policy_names_out_of_the_environment_and_puts_the_authority_in() {
    let jail = Jail::new(P4);
    let mut command = jail.command(&[
        "-q",
        "-c",
        "outgate.toml",
        "--",
        "sh",
        "-c",
        "env; curl -sS https://api.good.test/ >/dev/null",
    ]);
    command
        .env("OUTGATE_TEST_K5", &*K5)
        .env("https_proxy", "http://10.0.0.1:3128")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/x");
    let output = jail.run(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for gone in [K5.as_str(), "https_proxy", "DBUS_SESSION", "OUTGATE_"] {
        assert!(!text.contains(gone), "{gone}: {text}");
    }
    for variable in outgate::tls::VARIABLES {
        assert!(
            text.contains(&format!("\n{}=/run/outgate/", variable.name)) || text.starts_with(variable.name),
            "{text}"
        );
    }
    let requests = jail.world.origin.requests();
    assert!(requests.iter().any(|request| request.header("authorization") == [format!("Bearer {}", *K5)]));
}

#[test]
fn exec_says_what_to_do_where_user_namespaces_are_restricted() {
    let jail = Jail::new(P1);
    // The limit of a user namespace holds for all that are made below it.
    let binary = jail.world.dir.path().join("outgate").to_string_lossy().into_owned();
    let line =
        format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {binary} exec -c outgate.toml -- true");
    let output = jail.run(jail.as_user(&["unshare", "-Ur", "sh", "-ec", &line]));
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("user.max_user_namespaces is 0"), "{text}");
}

#[test]
fn exec_replaces_run_and_finds_its_resolver_behind_a_link_into_it() {
    let jail = Jail::new(P1);
    // A system whose resolver configuration is a link below /run, and whose engines have their sockets there.
    jail.world.gate.sh(format!(
        "mount --make-rprivate /; cp -a /etc {dir}/etc; ln -sfn /run/resolve/stub.conf {dir}/etc/resolv.conf
         mount --bind {dir}/etc /etc; mount -t tmpfs x /run; mkdir -p /run/resolve /run/engine
         echo 'nameserver 127.0.0.53' > /run/resolve/stub.conf; chown -R {USER} /run/engine",
        dir = jail.world.dir.path().display()
    ));
    let _engine = UnixListenerInside::new(&jail, std::path::Path::new("/run/engine/engine.sock"));
    jail.world.gate.sh(format!("chown {USER} /run/engine/engine.sock"));
    let connect = "python3 -c 'import socket as s, sys; sys.exit(s.socket(s.AF_UNIX).connect_ex(\"/run/engine/engine.sock\"))'";
    assert_eq!(jail.run(jail.as_user(&["sh", "-c", connect])).status.code(), Some(0), "outside it is there");
    assert_eq!(
        jail.succeed("cat /etc/resolv.conf | grep ^nameserver; ls /run"),
        "nameserver 127.0.0.1\noutgate\nresolve\nuser\n"
    );
    assert_eq!(jail.line(connect).status.code(), Some(2), "ENOENT");
    assert_eq!(jail.succeed("curl -sS -m 9 https://api.good.test/"), "hello from api.good.test\n");
    let words =
        ["-q", "-c", "outgate.toml", "--expose", "/run/engine/engine.sock", "--", "sh", "-c", connect];
    assert_eq!(jail.run(jail.command(&words)).status.code(), Some(0), "what is exposed is reachable");
}

#[test]
fn exec_hides_what_the_policy_and_the_authority_keep_in_files() {
    let jail = Jail::new(&P4.replace("env = \"OUTGATE_TEST_K5\"", "file = \"k5\""));
    let config = jail.home.join("outgate.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let ca = "\n[ca]\ncertificate = \"certs/ca.pem\"\nkey = \"certs/ca.key\"\n";
    std::fs::write(config, text + ca).unwrap();
    for folder in ["certs", "elsewhere/gh"] {
        std::fs::create_dir_all(jail.home.join(folder)).unwrap();
    }
    for (file, text) in [
        ("policies/k5", K5.as_str()),
        ("certs/ca.next.key", "PRIVATE"),
        ("elsewhere/gh/hosts.yml", "PRIVATE"),
    ] {
        std::fs::write(jail.home.join(file), text).unwrap();
        std::fs::set_permissions(jail.home.join(file), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
    }
    jail.own();
    let line = "cat policies/k5 certs/*.key elsewhere/gh/*; test -s certs/ca.pem; \
                if echo x >> certs/ca.pem; then echo written; fi; if echo x > policies/k5; then echo written; fi; \
                curl -sS https://api.good.test/";
    let mut command = jail.command(&["-q", "-c", "outgate.toml", "--", "sh", "-c", line]);
    command.env("XDG_CONFIG_HOME", jail.home.join("elsewhere"));
    let output = jail.run(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "hello from api.good.test\n", "{output:?}");
    let requests = jail.world.origin.requests();
    assert!(requests.iter().any(|request| request.header("authorization") == [format!("Bearer {}", *K5)]));
}

/// Root owns the files of the kernel's settings, and an owner needs no capability.
#[test]
fn exec_started_by_root_leaves_the_kernel_as_it_is() {
    let jail = Jail::new(P1);
    jail.world.gate.sh(format!("chown -R 0:0 {}", jail.home.display()));
    let script = "import os, sys\n\
                  def tried(path):\n    try: os.close(os.open(path, os.O_WRONLY)); return True\n    except OSError: return False\n\
                  paths = ['/proc/sys/kernel/core_pattern', '/proc/sys/net/ipv4/ip_forward', '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches']\n\
                  print(os.getuid(), [path for path in paths if tried(path)])";
    let nested = format!("unshare -Urpmf --mount-proc {}", "true");
    let binary = jail.world.dir.path().join("outgate").to_string_lossy().into_owned();
    let run = |words: &[&str]| {
        let start = [&*binary, "exec", "-q", "-c", "outgate.toml", "--"];
        let mut command = std::process::Command::new("timeout");
        command.arg("60").args(start).args(words).current_dir(&jail.home);
        command.env("HOME", &jail.home).env("XDG_STATE_HOME", jail.home.join("state"));
        jail.run(command)
    };
    let output = run(&["python3", "-c", script]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0 []\n", "{output:?}");
    let output = run(&["sh", "-c", &nested]);
    assert!(!output.status.success(), "a fresh /proc: {output:?}");
}

#[test]
fn exec_gives_no_control_group_to_write() {
    let jail = Jail::new(P1);
    let line = "grep -E ' - cgroup2? ' /proc/self/mountinfo || true";
    let mounts = jail.succeed(line);
    for mount in mounts.lines() {
        let at = mount.split(' ').nth(4).unwrap();
        assert!(mount.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro"), "{at}: {mount}");
    }
    let outside = jail.run(jail.as_user(&["sh", "-c", line]));
    assert_eq!(outside.stdout.is_empty(), mounts.is_empty(), "there are as many as outside");
}
