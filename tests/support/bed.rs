//! A world with a running gate, the ways into it, and the judgement by taps.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::capture::{Packet, TCP, UDP};
use super::dns::{self, Query, Reply};
use super::gate::{Gate, Record, Setup, show, wait_until};
use super::message::{Response, get};
use super::origin::Seen;
use super::pages::Request;
use super::wire::{End, Tls, Wire};
use super::world::{GATE, PUB1, World, at};

pub struct Bed {
    pub gate: Gate,
    pub world: World,
}

/// The ways into the gate that one case is sent through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Explicit, absolute-form: plain HTTP only.
    Absolute,
    /// Explicit, CONNECT, then TLS.
    Connect,
    V4,
    V6,
    /// Transparent, by TPROXY: through a gate of its own.
    Tproxy4,
    Tproxy6,
}

impl Way {
    pub fn is_tproxy(self) -> bool {
        matches!(self, Self::Tproxy4 | Self::Tproxy6)
    }
}

/// How far the taps had got.
#[derive(Clone)]
pub struct Mark {
    /// How many bytes each upstream connection had brought.
    read: Vec<usize>,
    requests: usize,
    packets: usize,
    queries: usize,
    records: usize,
}

impl Mark {
    pub fn packets(&self) -> usize {
        self.packets
    }
}

/// What the taps saw since a mark.
pub struct Taps {
    /// Upstream connections that are new, or old ones over HTTP/1 that brought more.
    pub connections: Vec<Arc<Seen>>,
    /// The new bytes of those, as text.
    pub upstream: Vec<String>,
    /// What the hosts understood, over h2 too.
    pub requests: Vec<Arc<Request>>,
    pub packets: Vec<Packet>,
    /// Connections of the gate that were begun before the mark, whose last packets may come at any time.
    begun: Vec<(SocketAddr, SocketAddr)>,
    pub queries: Vec<Query>,
    /// Decision records, those of the DNS door left out.
    pub decisions: Vec<Record>,
}

impl Bed {
    pub fn new(policy: &str) -> Self {
        Self::with(&Setup { policy: policy.to_owned(), ..Setup::default() })
    }

    pub fn with(setup: &Setup) -> Self {
        Self::over(World::new(), setup)
    }

    /// A gate in a world that is there.
    pub fn over(world: World, setup: &Setup) -> Self {
        if setup.forwarding {
            world.forward_packets();
        }
        let gate = Gate::start(&world.gate, world.dir.path(), setup);
        Self { gate, world }
    }

    /// The gate stopped, set up anew, and started in the same world.
    pub fn again(self, setup: &Setup) -> Self {
        let Self { gate, world } = self;
        drop(gate);
        Self::over(world, setup)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.gate.dir.join("certs/ca.pem")
    }

    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.ca_file())
    }

    /// Whom a client trusts behind a tunnel.
    pub fn origin_roots(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.gate.dir.join("origin-ca.pem"))
    }

    /// A client that trusts the gate and speaks HTTP/1.1.
    pub fn tls(&self, name: &str) -> Tls {
        Tls { name: name.to_owned(), send_name: true, alpn: vec!["http/1.1"], roots: self.roots() }
    }

    /// A TCP connection from the agent to where it believes the host to be.
    pub fn tcp(&self, ip: IpAddr, port: u16) -> Wire {
        Wire::plain(
            self.try_tcp(ip, port).unwrap_or_else(|end| panic!("connect to {ip} port {port}: {end:?}")),
        )
    }

    pub fn try_tcp(&self, ip: IpAddr, port: u16) -> Result<std::net::TcpStream, End> {
        Ok(self.world.agent.connect(at(ip, port), Duration::from_secs(3))?)
    }

    /// Transparent HTTPS: TCP to `ip` and a handshake for `name`.
    pub fn https(&self, ip: IpAddr, name: &str) -> Result<Wire, End> {
        self.tcp(ip, 443).secure(&self.tls(name))
    }

    pub fn explicit(&self) -> Wire {
        self.tcp(GATE, 3128)
    }

    /// A CONNECT on the explicit door, up to its 200.
    pub fn tunnel(&self, authority: &str) -> Result<Wire, End> {
        let mut wire = self.explicit();
        wire.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
        let Some(answer) = wire.head() else { return Err(wire.rest().1) };
        if answer.status == 200 { Ok(wire) } else { Err(End::Status(answer.status)) }
    }

    /// Opens `way` for HTTPS to `host`, which the agent believes at `ip` (v4) or `ip6`.
    pub fn open_https(&self, way: Way, host: &str, ip: IpAddr, ip6: IpAddr) -> Result<Wire, End> {
        match way {
            Way::Connect => self.tunnel(&format!("{host}:443"))?.secure(&self.tls(host)),
            Way::V4 | Way::Tproxy4 => self.https(ip, host),
            Way::V6 | Way::Tproxy6 => self.https(ip6, host),
            Way::Absolute => panic!("HTTPS has no absolute form"),
        }
    }

    /// One request on a fresh transparent HTTPS connection to `api.good.test`'s address.
    pub fn fetch(&self, name: &str, request: impl AsRef<[u8]>) -> Option<Response> {
        self.https(PUB1, name).ok()?.ask(request)
    }

    /// One request on a fresh transparent HTTP connection.
    pub fn fetch_plain(&self, request: impl AsRef<[u8]>) -> Option<Response> {
        self.tcp(PUB1, 80).ask(request)
    }

    pub fn resolve(&self, name: &str, kind: u16) -> Reply {
        dns::ask(&self.world.agent, at(GATE, 53), name, kind, false)
            .unwrap_or_else(|error| panic!("DNS {name}: {error}"))
    }

    /// The value of a metric; zero where it has none yet.
    pub fn metric(&self, name: &str) -> f64 {
        let at = "127.0.0.1:9180".parse().unwrap();
        let mut wire = Wire::plain(self.world.gate.connect(at, Duration::from_secs(3)).unwrap());
        let text = wire.ask(get("127.0.0.1:9180", "/metrics")).expect("metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub fn mark(&self) -> Mark {
        Mark {
            read: self.world.origin.connections().iter().map(|seen| seen.bytes().len()).collect(),
            requests: self.world.origin.requests().len(),
            packets: self.world.capture.packets().len(),
            queries: self.world.dns.queries().len(),
            records: self.gate.records().len(),
        }
    }

    /// The taps once `decisions` decision records are there; then one more look, so that a surplus one is seen.
    pub fn since(&self, mark: Mark, decisions: usize) -> Taps {
        let look = || -> Vec<Record> {
            let new = self.gate.records().into_iter().skip(mark.records);
            new.filter(|record| record.is_decision() && record.text("door") != "dns").collect()
        };
        wait_until(Duration::from_secs(5), || (look().len() >= decisions).then_some(()));
        let mut before = self.world.capture.packets();
        let packets = before.split_off(mark.packets);
        let begun = before.iter().filter(|packet| packet.outgoing && packet.syn);
        let (connections, upstream) = self.upstream_since(&mark.read);
        let taps = Taps {
            connections,
            upstream,
            requests: self.world.origin.requests().split_off(mark.requests),
            begun: begun.map(|packet| (packet.from, packet.to)).collect(),
            packets,
            queries: self.world.dns.queries().split_off(mark.queries),
            decisions: look(),
        };
        assert_eq!(taps.decisions.len(), decisions, "decision records:\n{}", show(&self.gate.records()));
        taps
    }

    fn upstream_since(&self, read: &[usize]) -> (Vec<Arc<Seen>>, Vec<String>) {
        let all = self.world.origin.connections().into_iter().enumerate();
        let news = all.filter_map(|(place, seen)| {
            let bytes = seen.bytes();
            let before = read.get(place).copied();
            let new = String::from_utf8_lossy(&bytes[before.unwrap_or(0)..]).into_owned();
            // Frames of an idle h2 connection may come at any time; its requests are in their own list.
            let is_news = before.is_none() || (!new.is_empty() && !seen.is_h2());
            is_news.then_some((seen, new))
        });
        news.unzip()
    }

    /// GI3: a request on a fresh connection works.
    pub fn control(&self) {
        let answer = self.fetch("api.good.test", get("api.good.test", "/control"));
        assert_eq!(answer.map(|answer| answer.status), Some(200), "the control request failed");
    }
}

fn certificates(file: &std::path::Path) -> Vec<CertificateDer<'static>> {
    let pem = std::fs::read(file).expect("a CA certificate");
    CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect()
}

/// The largest resident memory of the daemon while `work` runs, less what it was before, in KiB.
pub fn growth_during<T>(bed: &Bed, work: impl FnOnce() -> T) -> (T, u64) {
    /// Also where the work panics, or the scope would wait for ever.
    struct Ending<'a>(&'a AtomicBool);
    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let before = bed.gate.resident_kib();
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(bed.gate.resident_kib(), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let _ending = Ending(&done);
        work()
    });
    (result, peak.into_inner().saturating_sub(before))
}

/// DENY of the gauntlet on a TLS door: a 403 inside the session, a fatal alert or a closed connection.
pub fn assert_denied(opened: Result<Wire, End>, request: impl AsRef<[u8]>) {
    match opened {
        Ok(mut wire) => {
            let status = wire.ask(request).map(|answer| answer.status);
            assert_eq!(status, Some(403), "inside the session");
        }
        Err(End::Alert(_) | End::Closed | End::Reset | End::Status(403)) => {}
        Err(end) => panic!("no clear refusal: {end:?}"),
    }
}

impl Taps {
    /// U0: nothing of it reached any upstream, not even a SYN.
    pub fn nothing_upstream(&self) -> &Self {
        let syns: Vec<&Packet> = self.syns().collect();
        assert!(syns.is_empty(), "SYNs on the WAN: {syns:?}");
        let requests = &self.requests;
        assert!(
            self.connections.is_empty() && requests.is_empty(),
            "upstream saw {:?} {requests:?}",
            self.upstream
        );
        self
    }

    /// UD0: no query was caused.
    pub fn no_query(&self) -> &Self {
        assert!(self.queries.is_empty(), "upstream DNS saw {:?}", self.queries);
        self
    }

    /// EV0: this address saw no packet at all.
    pub fn no_packet_to(&self, ip: IpAddr) -> &Self {
        let packets: Vec<&Packet> = self.packets.iter().filter(|packet| packet.to.ip() == ip).collect();
        assert!(packets.is_empty(), "packets to {ip}: {packets:?}");
        self
    }

    /// The WAN carried no TCP, UDP or echo from the gate, whatever it was meant for, but for the last words of what was
    /// begun before.
    pub fn quiet_wan(&self) -> &Self {
        let loud = |packet: &&Packet| {
            let is_old =
                packet.protocol == TCP && !packet.syn && self.begun.contains(&(packet.from, packet.to));
            packet.outgoing && !is_old && (matches!(packet.protocol, TCP | UDP) || packet.is_echo_request())
        };
        let packets: Vec<&Packet> = self.packets.iter().filter(loud).collect();
        assert!(packets.is_empty(), "packets on the WAN: {packets:?}");
        self
    }

    pub fn syns(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(|packet| packet.outgoing && packet.syn)
    }

    /// The one decision, which must be this verdict; `reasons` empty: any.
    pub fn decided(&self, verdict: &str, reasons: &[&str]) -> &Record {
        let [record] = &self.decisions[..] else { panic!("not one decision:\n{}", show(&self.decisions)) };
        assert_eq!(record.text("verdict"), verdict, "{}", record.0);
        let reason = record.text("reason");
        assert!(
            reasons.is_empty() || reasons.contains(&reason),
            "reason {reason}, not of {reasons:?}: {}",
            record.0
        );
        record
    }

    /// All that upstreams read since the mark, as text.
    pub fn upstream_text(&self) -> String {
        self.upstream.concat()
    }
}
