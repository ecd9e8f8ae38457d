//! Gauntlet RS: what one client may cost. Counts are scaled down with the limits; what is claimed is that a limit answers,
//! that others do not suffer, and that all comes back. `tools/soak` runs the last two for long.

use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::gate::wait_until;
use crate::support::origin::Conversation;
use crate::support::pages::{hex, pattern};
use crate::support::*;

const WITHIN: Duration = Duration::from_secs(5);

fn limited(policy: &str, limits: &'static str) -> Bed {
    Bed::with(&Setup { policy: policy.into(), limits, ..Setup::default() })
}

/// A request of the other client on a fresh connection, and how long it took.
fn neighbour(bed: &Bed) -> (Option<u16>, Duration) {
    let begun = Instant::now();
    let socket = bed.world.agent2.connect(at(PUB2, 443), WITHIN).expect("the other client connects");
    let answer = Wire::plain(socket).secure(&bed.tls("files.good.test")).ok();
    let status = answer.and_then(|mut wire| Some(wire.ask(get("files.good.test", "/"))?.status));
    (status, begun.elapsed())
}

fn undisturbed(bed: &Bed) {
    let (status, time) = neighbour(bed);
    assert_eq!(status, Some(200));
    assert!(time < WITHIN, "the other client waited {time:?}");
}

fn denials(bed: &Bed, reason: &str) -> usize {
    bed.gate.records().iter().filter(|record| record.text("reason") == reason).count()
}

fn holds(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(wait_until(WITHIN, || condition().then_some(())).is_some(), "{what}");
}

#[test]
fn rs_01_idle_connections_of_one_client_meet_its_cap_and_no_one_elses() {
    let bed = limited(P1, "flows_per_client = 100");
    undisturbed(&bed);
    let before = bed.gate.resident_kib();
    let doors = [(PUB1, 80), (PUB1, 443), (GATE, 3128)];
    // Fewer than twice the cap, from which on the fence refuses what the daemon has had no time for.
    let idle: Vec<TcpStream> =
        (0..180).filter_map(|n| bed.try_tcp(doors[n % 3].0, doors[n % 3].1).ok()).collect();
    holds("the surplus is turned away, each with a record", || denials(&bed, "limit") == 80);
    holds("no more than the cap are open", || bed.metric("outgate_flows_open") == 100.0);
    undisturbed(&bed);
    let growth = bed.gate.resident_kib().saturating_sub(before);
    assert!(growth < 16 << 10, "100 idle connections took {growth} KiB");
    drop(idle);
    holds("places come back", || bed.fetch("api.good.test", get("api.good.test", "/")).is_some());
}

#[test]
fn rs_02_after_a_churn_of_connections_nothing_is_left() {
    let bed = limited(P1, "upstream_idle_timeout = \"500ms\"");
    undisturbed(&bed);
    holds("at rest", || {
        bed.metric("outgate_upstream_idle") == 0.0 && bed.metric("outgate_flows_open") == 0.0
    });
    let before = bed.gate.open_files();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let bed = &bed;
            scope.spawn(move || {
                for n in 0..100 {
                    match (thread + n) % 4 {
                        0 => drop(bed.tcp(PUB1, 443)),
                        1 => drop(bed.tcp(PUB1, 80).send("GET / HT")),
                        2 => drop(bed.fetch_plain(get("plain.good.test", "/")).unwrap()),
                        _ => drop(bed.https(PUB1, "api.good.test").map(|mut w| w.ask(get("evil.test", "/")))),
                    }
                }
            });
        }
    });
    let begun = Instant::now();
    holds("descriptors and flows are back", || {
        bed.gate.open_files() <= before && bed.metric("outgate_flows_open") == 0.0
    });
    assert!(begun.elapsed() < WITHIN);
}

#[test]
fn rs_03_many_names_under_a_wildcard_meet_the_rate_of_minting() {
    let both = format!("{P1}{P2}");
    let bed = limited(&both, "leaves_per_second = 1\nleaves_burst = 40");
    undisturbed(&bed);
    let minted = bed.metric("outgate_leaves_minted");
    let (worst, shaken) = std::thread::scope(|scope| {
        let flood =
            scope.spawn(|| (0..150).filter(|n| bed.https(PUB1, &format!("n{n}.wild.test")).is_ok()).count());
        let mut worst = Duration::ZERO;
        while !flood.is_finished() {
            let (status, time) = neighbour(&bed);
            assert_eq!(status, Some(200));
            worst = worst.max(time);
        }
        (worst, flood.join().unwrap())
    });
    assert!(shaken >= 40, "{shaken}");
    let new = bed.metric("outgate_leaves_minted") - minted;
    assert!((40.0..=70.0).contains(&new), "{new} leaves for 150 names");
    holds("each refusal has its record", || denials(&bed, "limit") == 150 - shaken);
    assert!(bed.https(PUB1, "n0.wild.test").is_ok(), "a name that is known costs nothing");
    assert!(worst < WITHIN, "the other client waited {worst:?}");
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn rs_06_an_answer_without_an_end_takes_no_memory_and_ends_with_its_client() {
    let bed = Bed::new(P1);
    undisturbed(&bed);
    let endless = |peer: &mut Conversation| {
        let Some(head) = peer.head() else { return };
        match head.split(' ').nth(1).unwrap_or("") {
            "/chunks" => {
                peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
                while peer.tell(&chunk) {}
            }
            "/interim" => while peer.tell("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") {},
            _ => {
                peer.say("HTTP/1.1 200 OK\r\n");
                while peer.tell("x-more: of the same, and the same, and the same\r\n") {}
            }
        }
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), endless);
    }
    for path in ["/interim", "/head"] {
        let (answer, growth) = growth_during(&bed, || bed.fetch("api.good.test", get("api.good.test", path)));
        assert_eq!(answer.map(|answer| answer.status), Some(502), "{path}");
        assert!(growth < 16 << 10, "{path}: {growth} KiB");
    }
    let (id, growth) = growth_during(&bed, || {
        let mark = bed.mark();
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        wire.send(get("api.good.test", "/chunks"));
        assert_eq!(wire.head().unwrap().status, 200);
        for _ in 0..32 {
            assert!(wire.exactly(1 << 20).is_some());
        }
        bed.since(mark, 1).decided("allow", &[]).text("id").to_owned()
    });
    assert!(growth < 24 << 10, "{growth} KiB");
    let end = bed.gate.wait_for_record("it ends with the client", |r| r.is_end() && r.text("id") == id);
    assert_eq!(end.text("outcome"), "abandoned", "{}", end.0);
    assert!(end.number("bytes_down").unwrap() < 200 << 20, "{}", end.0);
}

/// Processor time of the daemon so far.
fn cpu(bed: &Bed) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bed.gate.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn rs_07_without_descriptors_accepting_pauses_says_so_once_and_recovers() {
    let bed = Bed::with(&Setup {
        policy: P1.into(),
        through: &["prlimit", "--nofile=128:128"],
        ..Setup::default()
    });
    undisturbed(&bed);
    let crowd: Vec<TcpStream> = (0..300).filter_map(|_| bed.try_tcp(PUB1, 443).ok()).collect();
    assert!(crowd.len() >= 250, "the kernel holds the others: {}", crowd.len());
    bed.gate.wait_for_words("connections could not be accepted");
    let (before, watched) = (cpu(&bed), Duration::from_secs(1));
    std::thread::park_timeout(watched);
    let busy = cpu(&bed) - before;
    assert!(busy < watched / 5, "{busy:?} of {watched:?} while nothing can be accepted");
    let said = bed.gate.stderr().matches("connections could not be accepted").count();
    assert!(said <= 4, "said {said} times");
    drop(crowd);
    let begun = Instant::now();
    let served = || bed.fetch("api.good.test", get("api.good.test", "/")).filter(|a| a.status == 200);
    assert!(wait_until(WITHIN, served).is_some(), "it accepts again");
    assert!(begun.elapsed() < WITHIN);
}

#[test]
fn rs_08_a_host_that_never_answers_holds_up_nobody_else() {
    const DARK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 216, 99));
    let policy = format!("{P1}\n[[rule]]\nname = \"dark\"\nhosts = [\"dark.test\"]\naction = \"allow\"\n");
    let bed = limited(&policy, "connect_timeout = \"1500ms\"\ndials_per_host = 8");
    bed.world.net.sh(format!(
        "ip addr add {DARK}/24 dev br0; nft 'add table ip dark; add chain ip dark in {{ type filter hook input \
         priority 0; }}; add rule ip dark in ip daddr {DARK} drop'"
    ));
    bed.world.dns.set("dark.test", &[DARK]);
    let statuses: Vec<Option<u16>> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..40)
            .map(|_| {
                scope.spawn(|| {
                    let mut wire = bed.https(DARK, "dark.test").ok()?;
                    Some(wire.ask(get("dark.test", "/"))?.status)
                })
            })
            .collect();
        while !asking.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            undisturbed(&bed);
            let begun = Instant::now();
            bed.control();
            assert!(begun.elapsed() < WITHIN, "the same client to another host");
        }
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|s| **s == Some(status)).count();
    assert_eq!(count(504) + count(503), 40, "{statuses:?}");
    assert!(count(504) >= 8 && count(503) >= 8, "the cap answers at once: {statuses:?}");
}

#[test]
fn rs_09_one_client_at_full_load_does_not_starve_another() {
    const SCRIPT: &str = "fn request(req) { let n = 0; while n < 3000 { n += 1; } pass() }";
    let policy = format!("{P1}\n  [rule.script]\n  file = \"busy.rhai\"\n");
    // A fast gate answers more questions than one client may ask.
    let limits = "dns_queries_per_second = 1000000\ndns_burst = 1000000";
    let beside = vec![("busy.rhai", SCRIPT.into())];
    let bed = Bed::with(&Setup { policy, beside, limits, ..Setup::default() });
    let measured = || {
        let mut times: Vec<Duration> = (0..30)
            .map(|_| {
                let (status, time) = neighbour(&bed);
                assert_eq!(status, Some(200));
                time
            })
            .collect();
        times.sort();
        (times[15], times[29])
    };
    let idle = measured();
    let (stop, body) = (AtomicBool::new(false), pattern(4 << 20));
    let busy = std::thread::scope(|scope| {
        for work in 0..3 {
            let (bed, stop, body) = (&bed, &stop, &body);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match work {
                        0 => {
                            let head = format!(
                                "POST /upload HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: {}\r\n\r\n",
                                body.len()
                            );
                            bed.fetch("api.good.test", [head.as_bytes(), body].concat());
                        }
                        1 => drop(bed.fetch_plain(get("plain.good.test", "/"))),
                        _ => drop(bed.resolve("no.such.test", crate::support::dns::A)),
                    }
                }
            });
        }
        let _ending = Ending(&stop);
        measured()
    });
    println!("the other client, median and worst of 30: idle {idle:?}, beside full load {busy:?}");
    // The load's own clients share these processors, so a ratio would judge them too; `tools/soak` prints it.
    assert!(busy.1 < WITHIN, "{idle:?} {busy:?}");
}

#[test]
fn rs_10_a_script_without_an_end_is_stopped_while_others_go_on() {
    let policy = "[[rule]]\nname = \"endless\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n\
                  [rule.script]\nfile = \"endless.rhai\"\n\
                  [[rule]]\nname = \"files\"\nhosts = [\"files.good.test\"]\naction = \"allow\"\n";
    let bed = Bed::with(&Setup {
        policy: policy.into(),
        beside: vec![("endless.rhai", "fn request(req) { loop {} }".into())],
        limits: "script_operations = 1000000000\nscript_wall_time = \"100ms\"",
        ..Setup::default()
    });
    undisturbed(&bed);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    bed.fetch("api.good.test", get("api.good.test", "/")).map(|answer| answer.status)
                })
            })
            .collect();
        undisturbed(&bed);
        for asked in asking {
            assert_eq!(asked.join().unwrap(), Some(403));
        }
    });
    assert!(begun.elapsed() < WITHIN, "{:?}", begun.elapsed());
    holds("each with its reason", || denials(&bed, "script_timeout") == 8);
    assert!(bed.world.origin.requests().iter().all(|request| request.authority != "api.good.test"));
}

#[test]
fn rs_17_a_body_over_its_cap_is_413_and_never_a_whole_message_upstream() {
    let policy = "[[rule]]\nname = \"small\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n\
                  [rule.dlp]\nmax_body = \"64 KiB\"\n";
    let bed = Bed::new(policy);
    let most = 64 << 10;
    let fits = bed.fetch("api.good.test", post("api.good.test", "/upload", "", &"x".repeat(most)));
    assert_eq!(fits.map(|answer| answer.status), Some(200), "the cap itself");
    let mark = bed.mark();
    let over = bed.fetch("api.good.test", post("api.good.test", "/upload", "", &"x".repeat(most + 1)));
    assert_eq!(over.map(|answer| answer.status), Some(413), "by its length");
    bed.since(mark, 1).nothing_upstream();

    let mark = bed.mark();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let chunks = format!(
        "POST /upload HTTP/1.1\r\nHost: api.good.test\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(20)
    );
    let over = bed.fetch("api.good.test", chunks);
    assert_eq!(over.map(|answer| answer.status), Some(413), "by what came");
    let taps = bed.since(mark, 1);
    for request in &taps.requests {
        assert!(request.body.lock().unwrap().is_none(), "upstream understood a whole message");
    }
    assert!(!taps.upstream_text().ends_with("0\r\n\r\n"));
}

#[test]
fn on_one_cpu_one_thread_does_all_of_the_mix() {
    // Whichever this machine has: the first of those that the test itself may use.
    const ONE: &str = "exec taskset -c $(taskset -cp $$ | sed 's/.*: //; s/[,-].*//') \"$@\"";
    let bed = Bed::with(&Setup { policy: P1.into(), through: &["sh", "-c", ONE, "sh"], ..Setup::default() });
    let status = std::fs::read_to_string(format!("/proc/{}/status", bed.gate.pid())).unwrap();
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    assert!(cpus.parse::<u32>().is_ok(), "one CPU: {cpus}");
    // A thread has its parent's name until it first runs.
    holds("there is no worker beside the first thread", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", bed.gate.pid())).unwrap();
        let name = |thread: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default()
        };
        threads.map(name).filter(|name| name.trim_end() == "outgate").count() == 1
    });
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let bed = &bed;
            scope.spawn(move || {
                for n in thread * 40..(thread + 1) * 40 {
                    assert!(one_of_the_mix(bed, n), "request {n}");
                }
            });
        }
    });
    undisturbed(&bed);
}

/// How long and how large the last two are; `tools/soak` says more.
fn asked_for(variable: &str, else_by: u64) -> u64 {
    let text = std::env::var_os(variable).and_then(|text| text.into_string().ok());
    text.map_or(else_by, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn rs_19_a_soak_of_good_requests_and_attacks_leaves_everything_flat() {
    let seconds = asked_for("OUTGATE_SOAK_SECONDS", 4);
    let bed = limited(P1, "upstream_idle_timeout = \"500ms\"");
    let (asked, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let load = |length: Duration| {
        let until = Instant::now() + length;
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (bed, asked, failed) = (&bed, &asked, &failed);
                scope.spawn(move || {
                    let mut n: u64 = thread;
                    while Instant::now() < until {
                        n += 1;
                        asked.fetch_add(1, Ordering::Relaxed);
                        if !one_of_the_mix(bed, n) {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    };
    load(Duration::from_secs(seconds) / 3);
    let (memory, files) = (bed.gate.resident_kib(), bed.gate.open_files());
    load(Duration::from_secs(seconds) * 2 / 3);
    let growth = bed.gate.resident_kib().saturating_sub(memory);
    holds("descriptors are flat", || bed.gate.open_files() <= files);
    let asked = asked.into_inner();
    println!("{seconds} s, {asked} requests, {growth} KiB more after the first third, {files} descriptors");
    assert_eq!(failed.into_inner(), 0, "of {asked}");
    assert!(asked > 50, "{asked}");
    assert!(growth < 8 << 10, "resident memory grew by {growth} KiB");
}

/// One request of the mix, every twentieth an attack; whether it had the end that it should.
fn one_of_the_mix(bed: &Bed, n: u64) -> bool {
    let status = |answer: Option<crate::support::message::Response>| answer.map(|answer| answer.status);
    if n.is_multiple_of(20) {
        return match n / 20 % 4 {
            0 => status(bed.fetch_plain(get("evil.test", "/"))) == Some(403),
            1 => status(bed.tcp(PUB1, 80).ask("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")) == Some(400),
            2 => bed.tunnel("127.0.0.1:443").err() == Some(End::Status(403)),
            _ => status(bed.fetch("api.good.test", get("evil.test", "/"))) == Some(421),
        };
    }
    match n % 4 {
        0 => status(bed.fetch_plain(get("plain.good.test", "/"))) == Some(200),
        1 => status(bed.fetch("api.good.test", post("api.good.test", "/upload", "", "hello"))) == Some(200),
        2 => {
            let mut wire = bed.https(PUB1, "api.good.test").unwrap();
            (0..3).all(|_| status(wire.ask(get("api.good.test", "/bytes/20000"))) == Some(200))
        }
        _ => {
            let tunnel = bed.tunnel("api.good.test:443").and_then(|w| w.secure(&bed.tls("api.good.test")));
            tunnel.is_ok_and(|mut wire| status(wire.ask(get("api.good.test", "/"))) == Some(200))
        }
    }
}

#[test]
fn rs_20_a_large_upload_and_download_through_one_flow_take_no_memory() {
    const PIECE: usize = 1 << 20;
    let pieces = asked_for("OUTGATE_SOAK_MIB", 64);
    let length = pieces * PIECE as u64;
    let bed = Bed::new(P1);
    undisturbed(&bed);
    let script = move |peer: &mut Conversation| {
        let piece = pattern(PIECE);
        while let Some(head) = peer.head() {
            if head.starts_with("GET") {
                peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
                if !(0..pieces).all(|_| peer.tell(&piece)) {
                    return;
                }
            } else {
                let digest = peer.digest(length).unwrap_or_default();
                peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{digest}", digest.len()));
            }
        }
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), script);
    }
    let piece = pattern(PIECE);
    let mut whole = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    (0..pieces).for_each(|_| whole.update(&piece));
    let whole = hex(whole.finish().as_ref());
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    let ((), growth) = growth_during(&bed, || {
        wire.send(format!("PUT / HTTP/1.1\r\nHost: api.good.test\r\nContent-Length: {length}\r\n\r\n"));
        for _ in 0..pieces {
            wire.send(&piece);
        }
        assert_eq!(wire.response().map(|answer| answer.text()), Some(whole.clone()), "up");
        wire.send(get("api.good.test", "/"));
        assert_eq!(wire.head().unwrap().status, 200);
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for _ in 0..pieces {
            digest.update(&wire.exactly(PIECE).expect("the whole download"));
        }
        assert_eq!(hex(digest.finish().as_ref()), whole, "down");
    });
    println!("{pieces} MiB each way, {growth} KiB more");
    assert!(growth < 24 << 10, "resident memory grew by {growth} KiB");
}

#[test]
fn what_idle_connections_held_goes_back_to_the_kernel_when_they_close() {
    let bed = Bed::new(P1);
    bed.control();
    let before = bed.gate.resident_kib();
    let open = |_| {
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
        wire
    };
    let wires: Vec<_> = (0..500).map(open).collect();
    let held = bed.gate.resident_kib();
    assert!(held > before + 4000, "{before} KiB before, {held} with them");
    drop(wires);
    let back = wait_until(Duration::from_secs(10), || {
        (bed.gate.resident_kib() < before + (held - before) / 2).then_some(())
    });
    assert!(back.is_some(), "{before} KiB before, {held} with them, {} after", bed.gate.resident_kib());
}
