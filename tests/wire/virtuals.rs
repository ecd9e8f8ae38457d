//! Raw TCP by name: leases of real addresses, and virtual answers, with real programs (sshd, git).

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::dns::{A, AAAA, ask};
use crate::support::gate::{Gate, wait_until};
use crate::support::*;

const VIRTUAL: &str = "upstreams = [\"93.184.216.53:53\"]\nanswers = \"virtual\"";

const RAW: &str = r#"
[[rule]]
name = "git over ssh"
hosts = ["api.good.test"]
action = "tunnel"
scheme = "tcp"
ports = [2200]

[[rule]]
name = "a server that speaks first"
hosts = ["files.good.test", "cdn.good.test", "twin.good.test"]
action = "tunnel"
scheme = "tcp"
ports = [2222]
"#;

fn lending(policy: &str) -> Bed {
    Bed::with(&Setup { policy: policy.into(), resolver: Some(VIRTUAL), ..Setup::default() })
}

fn one(bed: &Bed, name: &str, kind: u16) -> IpAddr {
    let told = bed.resolve(name, kind).addresses;
    let [address] = told[..] else { panic!("{name}: {told:?}") };
    address
}

fn is_virtual(address: IpAddr) -> bool {
    let nets: [ipnet::IpNet; 2] =
        ["198.18.0.0/15".parse().unwrap(), "fd6f:7574:6761:7465::/64".parse().unwrap()];
    nets.iter().any(|net| net.contains(&address))
}

/// A server that says who it is before it hears anything, and then says back what it hears.
fn greets(bed: &Bed, ip: IpAddr, greeting: &'static str) {
    let listener = bed.world.net.listen(at(ip, 2222));
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(greeting.as_bytes()).ok();
            let mut said = [0; 5];
            if stream.read_exact(&mut said).is_ok() {
                stream.write_all(&said).ok();
            }
        }
    });
}

/// What a dialled server says first, and whether it echoes.
fn greeting(bed: &Bed, ip: IpAddr) -> Option<String> {
    let mut stream = bed.try_tcp(ip, 2222).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut said = [0; 5];
    stream.read_exact(&mut said).ok()?;
    stream.write_all(b"hello").ok()?;
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).ok()?;
    assert_eq!(&echo, b"hello");
    Some(String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_virtual_address_stands_for_its_name_and_nobody_is_asked_before_a_verdict() {
    let bed = lending(&format!("{P1}{RAW}"));
    greets(&bed, PUB2, "files");
    greets(&bed, CDN, "cdn..");
    let mark = bed.mark();
    let (api, files, cdn) =
        (one(&bed, "api.good.test", A), one(&bed, "files.good.test", A), one(&bed, "cdn.good.test", A));
    let (plain, api6) = (one(&bed, "plain.good.test", A), one(&bed, "api.good.test", AAAA));
    assert!([api, files, cdn, plain, api6].into_iter().all(is_virtual), "{api} {files} {cdn} {plain} {api6}");
    assert_eq!(one(&bed, "api.good.test", A), api, "a name keeps its address");
    assert!(bed.resolve("evil.test", A).is_denied());
    assert!(bed.resolve("api.good.test", 16).addresses.is_empty());
    bed.since(mark, 0).no_query().nothing_upstream();

    assert_eq!(greeting(&bed, files).as_deref(), Some("files"), "server-first, by name alone");
    assert_eq!(greeting(&bed, cdn).as_deref(), Some("cdn.."));
    for ip in [api, api6] {
        let mark = bed.mark();
        let answer = bed.https(ip, "api.good.test").unwrap().ask(get("api.good.test", "/"));
        assert_eq!(answer.unwrap().status, 200);
        let record = bed.since(mark, 1).decided("allow", &[]).clone();
        assert!(!record.mentions("dst_mismatch"), "{}", record.0);
    }
    // No name but the address's: TLS without SNI, HTTP without Host.
    let mut silent = bed.tls("api.good.test");
    silent.send_name = false;
    let answer = bed.tcp(api, 443).secure(&silent).unwrap().ask(get("api.good.test", "/"));
    assert_eq!(answer.unwrap().status, 200);
    let answer = bed.tcp(plain, 80).ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.unwrap().status, 200);
    let packets = bed.world.capture.packets();
    assert!(!packets.iter().any(|packet| is_virtual(packet.to.ip())), "none of them is ever dialled");
}

#[test]
fn a_virtual_address_that_stands_for_nothing_is_refused_with_a_record() {
    let bed = lending(&format!("{P1}{RAW}"));
    greets(&bed, PUB2, "files");
    let files = one(&bed, "files.good.test", A);
    let none: [IpAddr; 3] = [
        "198.18.7.7".parse().unwrap(),
        "198.19.255.1".parse().unwrap(),
        "fd6f:7574:6761:7465::9".parse().unwrap(),
    ];
    for ip in none {
        let mark = bed.mark();
        assert_eq!(greeting(&bed, ip), None, "{ip}");
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_authority"]);
        let mut silent = bed.tls("api.good.test");
        silent.send_name = false;
        let mark = bed.mark();
        assert_denied(bed.tcp(ip, 443).secure(&silent), get("api.good.test", "/"));
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_authority"]);
    }
    // Another client's address is nobody's.
    let mark = bed.mark();
    let other = bed.world.agent2.connect(at(files, 2222), Duration::from_secs(3));
    let said = other.and_then(|mut stream| stream.read(&mut [0; 5]));
    assert!(said.as_ref().map_or(true, |length| *length == 0), "{said:?}");
    bed.since(mark, 1).nothing_upstream().decided("deny", &["no_authority"]);
    let reply = ask(&bed.world.agent2, at("10.77.2.1".parse().unwrap(), 53), "cdn.good.test", A, false);
    assert_eq!(reply.unwrap().addresses, [files], "each client has its own");
    assert_eq!(greeting(&bed, files).as_deref(), Some("files"));
}

#[test]
fn a_restart_gives_no_old_address_another_name() {
    let mut bed = lending(RAW);
    greets(&bed, PUB2, "files");
    greets(&bed, CDN, "cdn..");
    let old: Vec<IpAddr> = [A, AAAA].map(|kind| one(&bed, "files.good.test", kind)).into();
    assert_eq!(greeting(&bed, old[0]).as_deref(), Some("files"));
    bed.gate.signal(Signal::SIGTERM);
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
    bed.gate = Gate::run(&bed.world.gate, bed.world.dir.path(), &[]);
    let new = [A, AAAA].map(|kind| one(&bed, "cdn.good.test", kind));
    assert!(!new.iter().any(|ip| old.contains(ip)), "{old:?} {new:?}");
    for ip in old {
        let mark = bed.mark();
        assert_eq!(greeting(&bed, ip), None);
        bed.since(mark, 1).nothing_upstream().decided("deny", &["no_authority"]);
    }
    assert_eq!(greeting(&bed, new[0]).as_deref(), Some("cdn.."));
}

#[test]
fn a_real_address_that_was_told_for_two_names_is_refused_for_raw_tcp() {
    let bed = Bed::new(RAW);
    greets(&bed, PUB2, "files");
    bed.world.dns.set("twin.good.test", &[PUB2]);
    let mark = bed.mark();
    assert_eq!(greeting(&bed, PUB2), None, "an address that nobody was told");
    bed.since(mark, 1).nothing_upstream().decided("deny", &[]);
    assert_eq!(bed.resolve("files.good.test", A).addresses, [PUB2]);
    assert_eq!(greeting(&bed, PUB2).as_deref(), Some("files"));
    assert_eq!(bed.resolve("twin.good.test", A).addresses, [PUB2]);
    let mark = bed.mark();
    assert_eq!(greeting(&bed, PUB2), None);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["no_authority"]);

    let bed = lending(RAW);
    greets(&bed, PUB2, "files");
    bed.world.dns.set("twin.good.test", &[PUB2]);
    let (files, twin) = (one(&bed, "files.good.test", A), one(&bed, "twin.good.test", A));
    assert_ne!(files, twin, "virtual answers tell them apart");
    assert_eq!(greeting(&bed, files).as_deref(), Some("files"));
    assert_eq!(greeting(&bed, twin).as_deref(), Some("files"));
}

/// A real sshd at the addresses of an allowed and of a forbidden host, with a repository behind it.
struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn sshd(bed: &Bed) -> (Sshd, PathBuf) {
    let dir = bed.world.dir.path().join("ssh");
    std::fs::create_dir(&dir).unwrap();
    git::repository(&dir, "project.git");
    let shown = dir.display();
    let config = format!(
        "Port 2200\nListenAddress {PUB1}\nListenAddress {EVIL}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/client.pub\n\
         StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n"
    );
    std::fs::write(dir.join("config"), config).unwrap();
    // An account that is locked may not log in, and sshd wants a folder that only a booted system has.
    bed.world.net.sh(format!(
        "cd {shown}; for key in host client; do ssh-keygen -q -t ed25519 -N '' -f $key; done\n\
         for host in api.good.test evil.test {EVIL}; do printf '[%s]:2200 ' $host; cut -d' ' -f1,2 host.pub; done > known\n\
         mount --make-rprivate /; mount -t tmpfs none /run; mkdir /run/sshd\n\
         sed 's/^root:[^:]*:/root:*:/' /etc/shadow > shadow; chmod 600 shadow; mount --bind shadow /etc/shadow\n\
         chmod 755 . .."
    ));
    let config = dir.join("config");
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let start = move || {
        let mut command = std::process::Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(config).stdin(Stdio::null()).stderr(log).spawn()
    };
    let child = Sshd(bed.world.net.run(start).expect("sshd, from openssh-server"));
    let up = || bed.world.net.connect(at(PUB1, 2200), Duration::from_secs(1)).ok();
    wait_until(Duration::from_secs(10), up).expect("sshd listens");
    (child, dir)
}

#[test]
fn git_clones_over_ssh_from_an_allowed_host_and_from_no_other() {
    for resolver in [None, Some(VIRTUAL)] {
        let bed = Bed::with(&Setup { policy: RAW.into(), resolver, ..Setup::default() });
        let (sshd, dir) = sshd(&bed);
        let shown = dir.display();
        let clone = |host: &str, to: &str| {
            format!(
                "export GIT_SSH_COMMAND='ssh -F none -i {shown}/client -o UserKnownHostsFile={shown}/known \
                 -o StrictHostKeyChecking=yes -o BatchMode=yes -o ConnectTimeout=10'; \
                 git clone -q --upload-pack \"$(command -v git) upload-pack\" ssh://root@{host}:2200{shown}/project.git {to}"
            )
        };
        let said = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        let run = bed.program(&clone("api.good.test", "clone"));
        assert!(run.status.success(), "{run:?}\nsshd: {}", said());
        assert_eq!(std::fs::read_to_string(bed.gate.dir.join("clone/file")).unwrap(), "a file\n");
        let end = bed.gate.wait_for_record("the tunnel's end", |record| {
            record.is_end() && record.number("bytes_down").is_some_and(|bytes| bytes > 1000)
        });
        assert_eq!(end.text("upstream"), "93.184.216.10:2200", "{}", end.0);
        let mark = bed.mark();
        for host in ["evil.test", "93.184.216.66"] {
            let run = bed.program(&clone(host, "other"));
            assert!(!run.status.success() && !bed.gate.dir.join("other").exists(), "{host}: {run:?}");
        }
        bed.since(mark, 1).nothing_upstream().no_query().no_packet_to(EVIL).decided("deny", &[]);
        drop(sshd);
    }
}
