//! Gauntlet FT-09, 10 and 16: policies change while flows run.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::gate::wait_until;
use crate::support::h2::H2;
use crate::support::message::get;
use crate::support::websocket::{TEXT, frame, receive};
use crate::support::*;

/// A policy whose rule, secret and marks all say which of the two it is.
fn marked(letter: char) -> String {
    format!(
        r#"
[[secret]]
name = "mark"
from = {{ env = "OUTGATE_TEST_{letter}" }}

[[rule]]
name = "rule {letter}"
hosts = ["api.good.test"]
action = "allow"
  [rule.request]
  set = {{ "x-rule" = "{letter}" }}
  inject = [{{ header = "x-secret", value = "{{secret.mark}}" }}]
"#
    )
}

#[test]
fn ft_09_each_request_is_judged_by_one_version_while_fifty_reloads_pass() {
    let environment = vec![
        ("OUTGATE_TEST_A", "secret-of-the-a".to_owned()),
        ("OUTGATE_TEST_B", "secret-of-the-b".to_owned()),
    ];
    // Both are asked for at start: what is not named then is not taken out of the environment.
    let other = marked('B').replace("\"mark\"", "\"other\"").replace("secret.mark", "secret.other");
    let both = format!("{}{other}", marked('A'));
    let bed = Bed::with(&Setup { policy: both, environment, ..Setup::default() });
    let (done, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    let reloads = 50;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut wire = bed.https(PUB1, "api.good.test").unwrap();
                while !done.load(Ordering::Relaxed) && asked.load(Ordering::Relaxed) < 20_000 {
                    let answer = wire.ask(get("api.good.test", "/"));
                    assert_eq!(answer.map(|answer| answer.status), Some(200));
                    asked.fetch_add(1, Ordering::Relaxed);
                    // 200 requests a second from the four of them.
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            });
        }
        for round in 0..reloads {
            let before = reloaded(&bed);
            bed.gate.write_policy(&marked(if round % 2 == 0 { 'A' } else { 'B' }));
            bed.gate.signal(Signal::SIGHUP);
            let passed = wait_until(Duration::from_secs(10), || (reloaded(&bed) > before).then_some(()));
            if passed.is_none() {
                done.store(true, Ordering::Relaxed);
                panic!("reload {round} did not happen");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let requests = bed.world.origin.requests();
    assert!(requests.len() >= asked.load(Ordering::Relaxed) as usize && requests.len() > 100);
    for request in &requests {
        let (rule, secret) = (request.header("x-rule"), request.header("x-secret"));
        let whole = matches!(
            (&rule[..], &secret[..]),
            ([r], [s]) if (r == "A" && s == "secret-of-the-a") || (r == "B" && s == "secret-of-the-b")
        );
        assert!(whole, "a mixture: {rule:?} {secret:?}");
    }
    let mut rule_of = std::collections::HashMap::new();
    for record in bed.gate.records().iter().filter(|record| record.is_decision()) {
        assert_eq!(record.text("verdict"), "allow", "{}", record.0);
        let rule =
            rule_of.entry(record.text("policy").to_owned()).or_insert_with(|| record.text("rule").to_owned());
        assert_eq!(rule, record.text("rule"), "two rules under one version");
    }
    eprintln!("{reloads} reloads under {} requests", requests.len());
}

fn reloaded(bed: &Bed) -> usize {
    bed.gate.records().iter().filter(|record| record.text("event") == "reload").count()
}

/// How long what was open may go on: the look is taken every second.
const ENDED: Duration = Duration::from_secs(3);

#[test]
fn ft_10_a_host_that_is_taken_away_is_taken_from_every_open_flow() {
    let bed = Bed::with(&Setup { policy: STREAMS.into(), ..Setup::default() });
    let ask = get("api.good.test", "/");
    let mut kept = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(kept.ask(&ask).unwrap().status, 200);
    let mut connected = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    assert_eq!(connected.ask(&ask).unwrap().status, 200);
    let h2 = H2::connect(&bed, PUB1, "api.good.test");
    assert_eq!(h2.get("https://api.good.test/").unwrap().0.status(), 200);
    let mut socket = bed.https(PUB1, "api.good.test").unwrap();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: api.good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(socket.ask(upgrade).unwrap().status, 101);
    socket.send(frame(TEXT, b"open", Some([1, 2, 3, 4])));
    assert!(receive(&mut socket).is_some());
    let mut behind = bed.tls("pinned.good.test");
    behind.roots = bed.origin_roots();
    let mut tunnel = bed.tcp(PUB1, 443).secure(&behind).unwrap();
    assert_eq!(tunnel.ask(get("pinned.good.test", "/")).unwrap().status, 200);
    let mut named = bed.tunnel("pinned.good.test:443").unwrap().secure(&behind).unwrap();
    assert_eq!(named.ask(get("pinned.good.test", "/")).unwrap().status, 200);

    bed.gate.write_policy("[[rule]]\nname = \"other\"\nhosts = [\"files.good.test\"]\naction = \"allow\"\n");
    bed.gate.wait_for_record("the reload", |record| record.text("event") == "reload");
    let taken = Instant::now();
    let mark = bed.mark();
    for (who, wire) in [("keep-alive", &mut kept), ("inside CONNECT", &mut connected)] {
        let next = wire.ask(&ask).map(|answer| answer.status);
        assert!(matches!(next, None | Some(403)), "{who}: {next:?}");
    }
    let next = h2.get("https://api.good.test/").map(|(answer, _)| answer.status().as_u16());
    assert!(!matches!(next, Ok(status) if status != 403), "h2: {next:?}");
    for (who, wire) in
        [("WebSocket", &mut socket), ("tunnel", &mut tunnel), ("tunnel by CONNECT", &mut named)]
    {
        let (_, end) = wire.rest();
        assert_ne!(end, End::Silence, "{who} stays open");
        assert!(taken.elapsed() < ENDED, "{who} took {:?}", taken.elapsed());
    }
    let taps = bed.since(mark, 3);
    assert!(taps.requests.is_empty() && taps.decisions.iter().all(|record| record.text("verdict") == "deny"));
    let ends = || {
        bed.gate.records().into_iter().filter(|record| record.is_end() && record.text("reason") == "reload")
    };
    assert!(wait_until(ENDED, || (ends().count() == 3).then_some(())).is_some(), "{} ends", ends().count());
}

#[test]
fn ft_16_a_daemon_whose_key_file_is_gone_goes_on_and_the_next_start_refuses_clearly() {
    let mut bed = Bed::new(P1);
    bed.control();
    std::fs::remove_file(bed.gate.dir.join("certs/ca.key")).unwrap();
    let answer = bed.https(PUB2, "files.good.test").unwrap().ask(get("files.good.test", "/"));
    assert_eq!(answer.unwrap().status, 200, "a name that had no leaf yet");
    bed.gate.signal(Signal::SIGHUP);
    bed.gate.wait_for_record("the reload", |record| record.text("event") == "reload");
    bed.control();
    bed.gate.signal(Signal::SIGTERM);
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outgate"));
    command.args(["run", "-c"]).arg(bed.gate.dir.join("outgate.toml"));
    let mut next = gate::Gate::launch(&bed.world.gate, &bed.gate.dir, command);
    assert_eq!(next.wait_for_exit(), Some(1), "an authority whose key is lost is not replaced in silence");
    next.wait_for_words("ca.key");
}
