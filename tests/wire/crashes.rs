//! The daemon dies, stops, or is killed in the middle of its work. Nothing leaves meanwhile, and it is back at once.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::gate::{Gate, wait_until, write_files};
use crate::support::message::get;
use crate::support::ns::Namespace;
use crate::support::origin::Conversation;
use crate::support::orphans::scratch;
use crate::support::*;

/// How long the next daemon may take to serve.
const BACK: Duration = Duration::from_secs(2);

fn forwarding() -> Bed {
    Bed::with(&Setup { policy: P1.into(), forwarding: true, ..Setup::default() })
}

/// Starts the daemon again on the same files.
fn again(bed: &mut Bed) {
    let next = Gate::run(&bed.world.gate, bed.world.dir.path(), &[]);
    drop(std::mem::replace(&mut bed.gate, next));
}

#[test]
fn ft_13_a_daemon_that_dies_again_and_again_leaves_everything_closed_and_is_back_within_two_seconds() {
    let mut bed = forwarding();
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        bed.control();
        let mark = bed.mark();
        bed.gate.kill();
        for port in [80, 443, 8443] {
            assert!(bed.try_tcp(PUB1, port).is_err(), "round {round}: port {port} is open");
        }
        bed.since(mark, 0).nothing_upstream();
        let begun = Instant::now();
        again(&mut bed);
        bed.control();
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("back and serving after {} ms at most", slowest.as_millis());
    assert!(slowest < BACK, "{slowest:?}");
}

#[test]
fn by_23_a_daemon_that_is_stopped_lets_nothing_out_and_goes_on_where_it_was() {
    let bed = forwarding();
    let mut open = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(open.ask(get("api.good.test", "/before")).unwrap().status, 200);
    bed.gate.stop();
    let mark = bed.mark();
    open.send(get("api.good.test", "/while-stopped"));
    let mut waiting = bed.tcp(PUB1, 80);
    waiting.send(get("plain.good.test", "/while-stopped"));
    let leaked = wait_until(Duration::from_millis(500), || {
        (bed.world.origin.requests().iter().any(|request| request.target == "/while-stopped")).then_some(())
    });
    assert!(leaked.is_none() && bed.try_tcp(PUB1, 8443).is_err());
    bed.gate.signal(Signal::SIGCONT);
    assert_eq!(open.response().unwrap().status, 200);
    assert_eq!(waiting.response().unwrap().status, 200);
    assert_eq!(bed.since(mark, 2).requests.len(), 2);
}

#[test]
fn ft_13_an_upload_that_dies_with_the_daemon_is_never_whole() {
    let mut bed = Bed::new(P1);
    let mut chunked = bed.https(PUB1, "api.good.test").unwrap();
    chunked.send(
        "POST /upload HTTP/1.1\r\nHost: api.good.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    );
    let mut counted = bed.tcp(PUB1, 80);
    counted.send("POST /upload HTTP/1.1\r\nHost: plain.good.test\r\nContent-Length: 100\r\n\r\nonly this");
    let arrived = || (bed.world.origin.requests().len() == 2).then_some(());
    assert!(wait_until(Duration::from_secs(5), arrived).is_some());
    bed.gate.kill();
    drop((chunked.rest(), counted.rest()));
    again(&mut bed);
    bed.control();
    for request in bed.world.origin.requests().iter().filter(|request| request.target == "/upload") {
        assert!(request.body.lock().unwrap().is_none(), "a whole message: {request:?}");
    }
}

#[test]
fn ft_13_a_daemon_that_dies_in_a_reload_starts_with_the_new_policy_and_sound_records() {
    let mut bed = Bed::new(P1);
    for round in 0..6_u64 {
        let host = if round % 2 == 0 { "cdn.good.test" } else { "api.good.test" };
        bed.gate.write_policy(&P1.replace("api.good.test", host));
        bed.gate.signal(Signal::SIGHUP);
        std::thread::park_timeout(Duration::from_millis(round * 7));
        bed.gate.kill();
        again(&mut bed);
        let ip = if round % 2 == 0 { CDN } else { PUB1 };
        let answer = bed.https(ip, host).unwrap().ask(get(host, "/")).unwrap();
        assert_eq!(answer.status, 200, "round {round}");
    }
    verified(&bed);
}

#[test]
fn ft_13_records_that_were_being_written_are_whole_or_taken_off_at_the_next_start() {
    let mut bed = Bed::new(P1);
    for _ in 0..3 {
        let done = AtomicBool::new(false);
        let (agent, done_ref) = (&bed.world.agent, &done);
        let gate = &mut bed.gate;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    while !done_ref.load(Ordering::Relaxed) {
                        let Ok(socket) = agent.connect(at(PUB1, 80), Duration::from_secs(1)) else {
                            continue;
                        };
                        Wire::plain(socket).ask(get("plain.good.test", "/"));
                    }
                });
            }
            let before = gate.records().len();
            let busy = || (gate.records().len() > before + 40).then_some(());
            assert!(wait_until(Duration::from_secs(10), busy).is_some());
            gate.kill();
            done.store(true, Ordering::Relaxed);
        });
        again(&mut bed);
        bed.control();
    }
    verified(&bed);
}

fn verified(bed: &Bed) {
    let mut verify = Command::new(env!("CARGO_BIN_EXE_outgate"));
    let output =
        verify.args(["flows", "verify", "-c"]).arg(bed.gate.dir.join("outgate.toml")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn ft_13_a_daemon_that_dies_while_it_makes_its_authority_leaves_none_or_a_whole_one() {
    let dir = scratch();
    let gate = Namespace::new("gate");
    gate.ip("link set lo up\naddr add 10.77.1.1/32 dev lo");
    write_files(dir.path(), &Setup { policy: P1.into(), ..Setup::default() });
    let regular = "mode = \"regular\"\npolicies = \"policies\"\n[listen]\nexplicit = [\"10.77.1.1:3128\"]\n";
    std::fs::write(dir.path().join("outgate.toml"), regular).unwrap();
    let (certificate, key) = (dir.path().join("certs/ca.pem"), dir.path().join("certs/ca.key"));
    let launch = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outgate"));
        command.args(["run", "-c"]).arg(dir.path().join("outgate.toml"));
        Gate::launch(&gate, dir.path(), command)
    };
    for attempt in 0..12 {
        for file in [&certificate, &key] {
            std::fs::remove_file(file).ok();
        }
        let mut daemon = launch();
        // From before the first file to after the last: each attempt a little later.
        let folder = certificate.parent().unwrap();
        let begun =
            || (std::fs::read_dir(folder).unwrap().count() > usize::from(attempt % 4 != 0)).then_some(());
        wait_until(Duration::from_secs(5), begun);
        std::thread::park_timeout(Duration::from_micros(300 * attempt));
        daemon.kill();
        drop(daemon);
        let next = launch();
        next.wait_for_words("outgate is ready");
        assert!(certificate.exists() && key.exists(), "attempt {attempt}");
    }
}

#[test]
fn au_07_a_request_that_reached_the_upstream_is_on_disk_although_the_daemon_dies_at_once() {
    let mut bed = Bed::new(P1);
    let (arrived, arrival) = std::sync::mpsc::channel();
    let arrived = std::sync::Mutex::new(arrived);
    bed.world.origin.script((PUB1, 443), move |peer: &mut Conversation| {
        if peer.head().is_some() {
            arrived.lock().unwrap().send(()).ok();
            peer.rest();
        }
    });
    for round in 0..5 {
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        wire.send(get("api.good.test", &format!("/round-{round}")));
        arrival.recv_timeout(Duration::from_secs(10)).unwrap();
        bed.gate.kill();
        let path = format!("/round-{round}");
        let written = bed.gate.records().into_iter().any(|record| {
            record.is_decision() && record.text("verdict") == "allow" && record.mentions(&path)
        });
        assert!(written, "no record of {path}");
        again(&mut bed);
    }
}

/// The records of this gate go to a file system of 64 KiB that only the gate sees.
fn on_a_small_disk() -> Bed {
    let world = World::new();
    let dir = world.dir.path().to_owned();
    write_files(&dir, &Setup { policy: P1.into(), ..Setup::default() });
    let small = dir.join("small");
    std::fs::create_dir(&small).unwrap();
    std::fs::write(dir.join("audit.jsonl"), "").unwrap();
    // The daemon follows no link to its records.
    world.gate.sh(format!(
        "mount --make-rprivate /; cd {}; mount -t tmpfs -o size=64k,mode=0777 small small; : > small/audit.jsonl; \
         mount --bind small/audit.jsonl audit.jsonl",
        dir.display()
    ));
    let gate = Gate::run(&world.gate, &dir, &[]);
    Bed { gate, world }
}

#[test]
fn rs_14_a_full_disk_refuses_requests_until_there_is_room_and_nothing_leaves_unrecorded() {
    let bed = on_a_small_disk();
    let status =
        |path: &str| bed.fetch("api.good.test", get("api.good.test", path)).map(|answer| answer.status);
    assert_eq!(status("/room"), Some(200));
    let small = bed.gate.dir.join("small");
    bed.world
        .gate
        .sh(format!("dd if=/dev/zero of={}/filler bs=1k count=100 2>/dev/null || true", small.display()));
    let refused = || (status("/full") == Some(503)).then_some(());
    assert!(wait_until(Duration::from_secs(10), refused).is_some());
    let before = bed.world.origin.requests().len();
    for _ in 0..20 {
        assert_eq!(status("/full"), Some(503));
    }
    assert_eq!(bed.world.origin.requests().len(), before, "a request left without a record");
    bed.gate.wait_for_words("records cannot be written");
    bed.world.gate.sh(format!("rm {}/filler", small.display()));
    let served = || (status("/room-again") == Some(200)).then_some(());
    assert!(wait_until(Duration::from_secs(10), served).is_some());
    let records = bed.world.gate.sh(format!("cat {}/audit.jsonl", small.display()));
    assert!(records.lines().any(|line| line.contains("\"gap\"")), "no marker of what was lost:\n{records}");
}

#[test]
fn ft_11_a_start_that_cannot_be_right_ends_with_one_clear_line_and_the_fence_stands() {
    let mut bed = forwarding();
    bed.gate.kill();
    let config = bed.gate.dir.join("outgate.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    let taken = bed.world.gate.listen("10.77.1.1:3128".parse().unwrap());
    let attempts = [
        (format!("nonsense = true\n{good}"), "outgate.toml:1"),
        (good.replace("certs/ca.key", "certs/elsewhere.key"), "elsewhere.key"),
        (good.clone(), "10.77.1.1:3128: it is held by"),
    ];
    for (text, words) in attempts {
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outgate"));
        command.args(["run", "-c"]).arg(&config);
        let mut gate = Gate::launch(&bed.world.gate, &bed.gate.dir, command);
        assert_eq!(gate.wait_for_exit(), Some(1), "{words}");
        gate.wait_for_words(words);
        for port in [80, 443, 8443] {
            assert!(bed.try_tcp(PUB1, port).is_err(), "{words}: port {port} is open");
        }
    }
    drop(taken);
    std::fs::write(&config, good).unwrap();
    again(&mut bed);
    bed.control();
}
