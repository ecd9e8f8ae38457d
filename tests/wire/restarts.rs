//! A restart refuses nobody: doors that somebody else holds, and the bounded time of what is under way.

use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::gate::{Gate, wait_until, write_files};
use crate::support::h2::H2;
use crate::support::holder::Holder;
use crate::support::message::get;
use crate::support::ns::Namespace;
use crate::support::orphans::scratch;
use crate::support::websocket::{TEXT, frame, receive};
use crate::support::*;

/// All doors of the agent's network.
const DOORS: [(&str, &str); 4] = [
    ("transparent", "0.0.0.0:15001"),
    ("dns/udp", "10.77.1.1:53"),
    ("dns", "10.77.1.1:53"),
    ("explicit", "10.77.1.1:3128"),
];

fn held(policy: &str, limits: &'static str) -> (Bed, Holder) {
    let world = World::new();
    write_files(world.dir.path(), &Setup { policy: policy.into(), limits, ..Setup::default() });
    let holder = Holder::new(&world.gate, &DOORS);
    let gate = holder.start(&world.gate, world.dir.path());
    (Bed { gate, world }, holder)
}

/// What a service manager does when the daemon has ended.
fn next(gate: &mut Gate, holder: &Holder, world: &World) {
    let next = holder.start(&world.gate, world.dir.path());
    drop(std::mem::replace(gate, next));
}

#[test]
fn a_restart_under_load_refuses_no_connection_and_loses_none() {
    let (mut bed, holder) = held(P1, "");
    let (done, asked, longest) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let (agent, roots) = (&bed.world.agent, bed.roots());
    let secure = wire::Tls { name: "api.good.test".into(), send_name: true, alpn: vec!["http/1.1"], roots };
    // The bed is ours to change while the clients run: they have what they need.
    let one = |number: u32| {
        let begun = Instant::now();
        let port = if number.is_multiple_of(2) { 80 } else { 443 };
        let socket = agent.connect(at(PUB1, port), wire::PATIENCE);
        let mut wire = Wire::plain(socket.unwrap_or_else(|error| panic!("connection {number}: {error}")));
        let host = if port == 80 { "plain.good.test" } else { "api.good.test" };
        if port == 443 {
            wire = wire.secure(&secure).unwrap_or_else(|end| panic!("handshake {number}: {end:?}"));
        }
        let answer = wire.ask(get(host, "/")).unwrap_or_else(|| panic!("no answer to {number}"));
        assert_eq!(answer.status, 200, "{number}");
        longest.fetch_max(begun.elapsed().as_millis() as u32, Ordering::Relaxed);
    };
    let questions = || {
        let reply = dns::ask(agent, at(GATE, 53), "api.good.test", dns::A, false);
        assert!(reply.is_ok_and(|reply| !reply.addresses.is_empty()), "a question went unanswered");
    };
    let restarts = 3;
    let gate = &mut bed.gate;
    let world = &bed.world;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) && asked.load(Ordering::Relaxed) < 20_000 {
                    one(asked.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                questions();
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        for _ in 0..restarts {
            let before = asked.load(Ordering::Relaxed);
            wait_until(Duration::from_secs(10), || {
                (asked.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            gate.signal(Signal::SIGTERM);
            assert_eq!(gate.wait_for_exit(), Some(0));
            next(gate, &holder, world);
        }
        done.store(true, Ordering::Relaxed);
    });
    eprintln!(
        "{restarts} restarts under {} connections: none refused, the longest took {} ms",
        asked.load(Ordering::Relaxed),
        longest.load(Ordering::Relaxed)
    );
    let ends =
        bed.gate.records().into_iter().filter(|record| record.is_end() && record.text("outcome") != "done");
    assert_eq!(ends.count(), 0, "an exchange was cut");
}

#[test]
fn who_was_let_in_before_the_stop_still_gets_an_answer() {
    let (mut bed, holder) = held(P1, "");
    // Let in, but silent up to now. The handshake of the second says that the first was taken in before.
    let mut clear = bed.tcp(PUB1, 80);
    let mut secure = bed.https(PUB1, "api.good.test").unwrap();
    bed.gate.signal(Signal::SIGTERM);
    bed.gate.wait_for_words("outgate stops");
    assert_eq!(clear.ask(get("plain.good.test", "/")).unwrap().status, 200);
    let answer = secure.ask(get("api.good.test", "/")).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
    next(&mut bed.gate, &holder, &bed.world);
    bed.control();
}

#[test]
fn ft_14_websockets_and_tunnels_have_the_time_of_the_drain_and_then_end_with_a_record() {
    let mut bed =
        Bed::with(&Setup { policy: STREAMS.into(), limits: "stop_timeout = \"2s\"", ..Setup::default() });
    let mut socket = bed.https(PUB1, "api.good.test").unwrap();
    let answer = socket.ask(
        "GET /ws HTTP/1.1\r\nHost: api.good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(answer.unwrap().status, 101);
    let mut origin_ca = bed.tls("pinned.good.test");
    origin_ca.roots = bed.origin_roots();
    let mut tunnel = bed.tcp(PUB1, 443).secure(&origin_ca).unwrap();
    assert_eq!(tunnel.ask(get("pinned.good.test", "/")).unwrap().status, 200);
    let mut stream = bed.https(PUB1, "api.good.test").unwrap();
    stream.send(get("api.good.test", "/sse"));
    assert_eq!(stream.head().unwrap().status, 200);
    bed.gate.signal(Signal::SIGTERM);
    bed.gate.wait_for_words("outgate stops");
    let stopping = Instant::now();
    for _ in 0..3 {
        socket.send(frame(TEXT, b"still here", Some([1, 2, 3, 4])));
        assert_eq!(receive(&mut socket), Some((TEXT, b"still here".to_vec())));
    }
    assert_eq!(tunnel.ask(get("pinned.good.test", "/")).unwrap().status, 200);
    bed.world.origin.pages.event("still here");
    assert!(stream.until(b"still here").is_some());
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
    let lasted = stopping.elapsed();
    assert!(lasted > Duration::from_millis(1500) && lasted < Duration::from_secs(6), "{lasted:?}");
    drop((socket.rest(), tunnel.rest(), stream.rest()));
    let cut = bed.gate.records().into_iter();
    let cut = cut.filter(|record| record.is_end() && record.text("reason") == "shutdown").count();
    assert_eq!(cut, 3, "each of them has its record");
}

#[test]
fn h2_streams_that_are_open_at_the_stop_go_on_and_new_ones_find_another_connection() {
    let mut bed = Bed::new(P1);
    let h2 = H2::connect(&bed, PUB1, "api.good.test");
    assert_eq!(h2.get("https://api.good.test/").unwrap().0.status(), 200);
    let answered = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| h2.get("https://api.good.test/sse"));
        let open =
            || bed.world.origin.requests().iter().any(|request| request.target == "/sse").then_some(());
        assert!(wait_until(Duration::from_secs(5), open).is_some());
        bed.gate.signal(Signal::SIGTERM);
        bed.gate.wait_for_words("outgate stops");
        bed.world.origin.pages.event("the last word");
        bed.world.origin.pages.end_events();
        waiting.join().unwrap()
    });
    let (answer, _) = answered.unwrap();
    assert!(String::from_utf8_lossy(answer.body()).contains("the last word"));
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
}

#[test]
fn a_socket_that_fits_no_door_stops_the_start_and_says_why() {
    let dir = scratch();
    let gate = Namespace::new("gate");
    gate.ip("link set lo up\naddr add 10.77.1.1/32 dev lo\naddr add 10.77.2.1/32 dev lo");
    write_files(dir.path(), &Setup { policy: P1.into(), ..Setup::default() });
    let both = socket2::Domain::IPV6;
    let dual = gate.socket(both, socket2::Type::STREAM, None);
    dual.set_only_v6(false).unwrap();
    dual.bind(&"[::]:15001".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    dual.listen(1).unwrap();
    let udp: UdpSocket = gate.udp("10.77.1.1:3128".parse().unwrap());
    let cases = [
        (Holder::new(&gate, &[("outgate.socket", "10.77.1.1:4001")]), "the name of no door"),
        (Holder::new(&gate, &[("explicit", "10.77.1.1:4000")]), "[listen] explicit has 10.77.1.1:3128"),
        (Holder::new(&gate, &[("dns", "10.77.1.1:4002")]), "[listen] dns has 10.77.1.1:53"),
        (Holder::of("explicit", udp), "only the DNS door speaks that"),
        (Holder::of("transparent", dual), "BindIPv6Only=ipv6-only"),
        (Holder::of("dns", std::fs::File::open("/dev/null").unwrap()), "neither TCP nor UDP"),
    ];
    for (holder, words) in cases {
        let mut gate = Gate::launch(&gate, dir.path(), holder.command(&dir.path().join("outgate.toml")));
        assert_eq!(gate.wait_for_exit(), Some(1), "{words}");
        gate.wait_for_words(words);
        assert!(!dir.path().join("audit.jsonl").exists(), "{words}: it had begun");
    }
}

#[test]
fn systemd_starts_the_daemon_with_the_first_connection() {
    let world = World::new();
    write_files(world.dir.path(), &Setup { policy: P1.into(), ..Setup::default() });
    let mut command = Command::new("systemd-socket-activate");
    command.args([
        "--fdname=transparent",
        "--listen=0.0.0.0:15001",
        env!("CARGO_BIN_EXE_outgate"),
        "run",
        "-c",
    ]);
    command.arg(world.dir.path().join("outgate.toml"));
    let gate = Gate::launch(&world.gate, world.dir.path(), command);
    gate.wait_for_words("Listening on");
    assert!(!gate.stderr().contains("outgate is ready"));
    // No table leads here yet: whoever connects to the door itself wakes the daemon.
    let first = world.gate.connect("127.0.0.1:15001".parse().unwrap(), wire::PATIENCE);
    gate.wait_for_words("outgate is ready");
    drop(first);
    let bed = Bed { gate, world };
    bed.control();
}
