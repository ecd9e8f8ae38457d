//! A small world of network namespaces: two agents, the gate, and an internet of one host.
//!
//! ```text
//! agent  10.77.1.2  -- agent0 --+
//! other  10.77.2.2  -- agent1 --+ gate +-- wan0 -- internet 93.184.216.34, 2606:2800:220:1::34
//! ```
//!
//! The gate forwards, and the internet knows the way back: what is not fenced does arrive. Public addresses exist only
//! inside these namespaces, and nothing outside is ever contacted.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use outgate::steer::Settings;
use socket2::{Domain, Protocol, Socket, Type};

pub const PATIENCE: Duration = Duration::from_secs(3);

pub struct Namespace(String);

impl Namespace {
    pub fn new(role: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ogt{}-{number}-{role}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        namespace
    }

    pub fn ip(&self, words: &str) {
        let words: Vec<_> = words.split_whitespace().collect();
        run(&[&["ip", "-n", &self.0], words.as_slice()].concat());
    }

    /// Runs a program inside; its output, and whether it went well.
    pub fn exec(&self, words: &[&str]) -> (bool, String) {
        let output = Command::new("ip").args(["netns", "exec", &self.0]).args(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub fn nft(&self, text: &str) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.0, "nft", "-f", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft refused:\n{text}");
    }

    pub fn sysctl(&self, key: &str, value: &str) {
        self.inside(|| std::fs::write(format!("/proc/sys/{key}"), value).unwrap());
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Runs a closure on a thread of this namespace; sockets and processes that it makes stay here.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let path = self.path();
            let inside = scope.spawn(move || {
                enter(&path);
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn try_tcp(&self, to: &str) -> Attempt {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| Attempt::of(TcpStream::connect_timeout(&to, PATIENCE)))
    }

    /// Like `try_tcp`, all at once: what is dropped takes its whole time to be seen.
    pub fn try_each(&self, targets: &[&str]) -> Vec<Attempt> {
        thread::scope(|scope| {
            let attempts: Vec<_> = targets.iter().map(|to| scope.spawn(|| self.try_tcp(to))).collect();
            attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect()
        })
    }

    /// Sends one ICMP echo request of 1000 bytes; is it answered? `from` must be an address of this namespace.
    pub fn echo(&self, from: &str, to: &str) -> bool {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let (domain, protocol, request, reply) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        self.inside(|| {
            let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            socket.connect(&SocketAddr::new(to, 0).into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let mut packet = vec![request, 0, 0, 0, 0x4f, 0x47, 0, 1];
            packet.resize(1000, 7);
            // Over IPv6 the kernel puts in the sum itself.
            let sum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
            socket.send(&packet).unwrap();
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                let mut buffer = [0; 2048];
                let Ok(n) = (&socket).read(&mut buffer) else { continue };
                // IPv4 gives its header too.
                let message = if to.is_ipv4() { &buffer[20..n] } else { &buffer[..n] };
                if message[0] == reply && message[4..] == packet[4..] {
                    return true;
                }
            }
            false
        })
    }

    /// Connects and gives what the other side says.
    pub fn hear(&self, to: &str) -> String {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| {
            let connected = TcpStream::connect_timeout(&to, PATIENCE);
            let mut stream = connected.unwrap_or_else(|error| panic!("{to}: {error}"));
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        })
    }

    /// Sends a datagram on a connected socket and gives the answer or the error it met.
    pub fn try_udp(&self, from: &str, to: &str) -> Result<String, std::io::Error> {
        self.inside(|| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(b"?")?;
            let mut buffer = [0; 64];
            let n = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
        })
    }
}

/// Moves this thread into the namespace behind the path.
pub fn enter(path: &str) {
    setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    Connected,
    Refused,
    TimedOut,
    Other(String),
}

impl Attempt {
    fn of(result: std::io::Result<TcpStream>) -> Self {
        match result.map_err(|e| (e.kind(), e)) {
            Ok(_) => Self::Connected,
            Err((ErrorKind::ConnectionRefused, _)) => Self::Refused,
            Err((ErrorKind::TimedOut | ErrorKind::WouldBlock, _)) => Self::TimedOut,
            Err((_, error)) => Self::Other(error.to_string()),
        }
    }
}

fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "`{}` failed (these tests need root and iproute2): {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub struct World {
    pub agent: Namespace,
    pub other: Namespace,
    pub gate: Namespace,
    pub internet: Namespace,
    servers: Servers,
}

impl World {
    pub fn new() -> Self {
        let [agent, other, gate, internet] = ["agent", "other", "gate", "net"].map(Namespace::new);
        join(&gate, "agent0", &agent, &["10.77.1.1/24", "fd77:1::1/64"], &["10.77.1.2/24", "fd77:1::2/64"]);
        join(&gate, "agent1", &other, &["10.77.2.1/24", "fd77:2::1/64"], &["10.77.2.2/24", "fd77:2::2/64"]);
        let here = ["93.184.216.2/24", "2606:2800:220:1::2/64"];
        let there =
            ["93.184.216.1/24", "93.184.216.34/24", "2606:2800:220:1::1/64", "2606:2800:220:1::34/64"];
        join(&gate, "wan0", &internet, &here, &there);
        for (inner, n) in [(&agent, 1), (&other, 2)] {
            inner.ip(&format!("route add default via 10.77.{n}.1"));
            inner.ip(&format!("-6 route add default via fd77:{n}::1"));
            internet.ip(&format!("route add 10.77.{n}.0/24 via 93.184.216.2"));
            internet.ip(&format!("-6 route add fd77:{n}::/64 via 2606:2800:220:1::2"));
        }
        gate.sysctl("net/ipv4/ip_forward", "1");
        gate.sysctl("net/ipv6/conf/all/forwarding", "1");
        for name in ["all", "agent0", "agent1", "wan0"] {
            gate.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0");
        }
        // Every packet that reaches the internet, but for what keeps the link itself alive.
        internet.nft(
            "table inet watch {
                counter leaked { }
                chain pre { type filter hook prerouting priority raw; policy accept;
                    iifname \"lo\" return
                    icmpv6 type { 130-137, 143 } return
                    counter name leaked
                }
            }",
        );
        Self { agent, other, gate, internet, servers: Servers::default() }
    }

    pub fn settings() -> Settings {
        Settings {
            interfaces: vec!["agent0".into(), "agent1".into()],
            networks: ["10.77.1.0/24", "10.77.2.0/24", "fd77:1::/64", "fd77:2::/64"]
                .map(|net| net.parse().unwrap())
                .into(),
            transparent_port: Some(15001),
            dns_port: Some(53),
            explicit_ports: vec![3128],
            redirect_tcp_ports: vec![80, 443],
            quic_port: Some(15443),
            ..Settings::default()
        }
    }

    /// Packets that reached the internet so far.
    pub fn leaked(&self) -> u64 {
        let (good, text) = self.internet.exec(&["nft", "list", "counter", "inet", "watch", "leaked"]);
        assert!(good, "{text}");
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse().unwrap()
    }

    /// A server in the namespace that says `word` to each connection; counts them.
    pub fn serve_tcp(&self, namespace: &Namespace, at: &str, word: &'static str) -> Arc<AtomicUsize> {
        self.servers.serve_tcp(namespace, at, word)
    }

    /// A UDP server that answers each datagram with `word`.
    pub fn serve_udp(&self, namespace: &Namespace, at: &str, word: &'static str) {
        self.servers.serve_udp(namespace, at, word);
    }
}

/// Servers that run until this is dropped.
#[derive(Default)]
pub struct Servers {
    stop: Arc<AtomicBool>,
}

impl Servers {
    pub fn serve_tcp(&self, namespace: &Namespace, at: &str, word: &'static str) -> Arc<AtomicUsize> {
        let at: SocketAddr = at.parse().unwrap();
        let listener: TcpListener = namespace.inside(|| {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
            if at.is_ipv6() {
                socket.set_only_v6(true).unwrap();
            }
            socket.set_reuse_address(true).unwrap();
            socket.bind(&at.into()).unwrap();
            socket.listen(64).unwrap();
            socket.into()
        });
        listener.set_nonblocking(true).unwrap();
        let (count, stop) = (Arc::new(AtomicUsize::new(0)), self.stop.clone());
        let served = count.clone();
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        served.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(word.as_bytes());
                    }
                    Err(_) => thread::park_timeout(Duration::from_millis(2)),
                }
            }
        });
        count
    }

    pub fn serve_udp(&self, namespace: &Namespace, at: &str, word: &'static str) {
        let socket = namespace.inside(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = self.stop.clone();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(word.as_bytes(), peer);
                }
            }
        });
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A veth pair: `name` in the gate, `eth0` at the other end.
pub fn join(gate: &Namespace, name: &str, other: &Namespace, here: &[&str], there: &[&str]) {
    gate.ip(&format!("link add {name} type veth peer name eth0 netns {}", other.0));
    for (namespace, link, addresses) in [(gate, name, here), (other, "eth0", there)] {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            namespace.ip(&format!("addr add {address} dev {link} {nodad}"));
        }
        namespace.ip(&format!("link set {link} up"));
    }
}

/// Waits for a condition, for a bounded time.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it never came true: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}
