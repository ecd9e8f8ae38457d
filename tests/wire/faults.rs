//! Gauntlet FT: what breaks is refused; nothing falls back to a less checked path, nothing is made up.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::dns::{Answer, NXDOMAIN, SERVFAIL};
use crate::support::gate::wait_until;
use crate::support::origin::Conversation;
use crate::support::*;

#[test]
fn ft_01_02_a_response_that_is_cut_is_never_a_whole_one() {
    let bed = Bed::new(P1);
    let cut = |peer: &mut Conversation| {
        let Some(head) = peer.head() else { return };
        match head.split(' ').nth(1).unwrap_or("") {
            "/length" => peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
            "/chunks" => peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
            "/head" => peer.say("HTTP/1.1 200 OK\r\nContent-Le"),
            _ => {}
        }
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), cut);
    }
    for path in ["/length", "/chunks"] {
        let answer = bed.fetch("api.good.test", get("api.good.test", path));
        assert!(answer.is_none_or(|answer| !answer.complete || answer.status == 502), "{path}");
    }
    for path in ["/head", "/nothing"] {
        let answer = bed.fetch("api.good.test", post("api.good.test", path, "", "x")).unwrap();
        assert_eq!(answer.status, 502, "{path}");
    }
}

#[test]
fn ft_01_02_an_answer_that_breaks_off_at_once_reaches_the_client_up_to_there() {
    let bed = Bed::new(P1);
    let broken = |peer: &mut Conversation| {
        let Some(head) = peer.head() else { return };
        // One write, so that the fault is there with the head.
        peer.say(match head.split(' ').nth(1).unwrap_or("") {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            "/chunks" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
            "/none" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        });
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), broken);
        bed.world.origin.script((ip, 80), broken);
    }
    for (path, body) in [("/length", "hello"), ("/chunks", "hello"), ("/none", "")] {
        for (host, secure) in [("api.good.test", true), ("plain.good.test", false)] {
            let before = bed.gate.records().iter().filter(|record| record.is_end()).count();
            let request = get(host, path);
            let answer = if secure { bed.fetch(host, request) } else { bed.fetch_plain(request) }.unwrap();
            assert_eq!(
                (answer.status, answer.text().as_str(), answer.complete),
                (200, body, false),
                "{path}"
            );
            let end = bed.gate.wait_for_record("the end", |record| {
                let ends = bed.gate.records().into_iter().filter(Record::is_end).skip(before);
                record.is_end() && ends.into_iter().any(|end| end.0 == record.0)
            });
            let told = (end.text("outcome"), end.number("status"), end.number("bytes_down"));
            assert_eq!(told, ("failed", Some(200), Some(body.len() as u64)), "{path} {host}");
            assert!(!end.text("detail").contains("://"), "in our own words: {}", end.0);
        }
    }
    let whole = bed.fetch("api.good.test", get("api.good.test", "/")).unwrap();
    assert_eq!((whole.status, whole.text().as_str(), whole.complete), (200, "hello", true));
}

#[test]
fn ft_04_a_name_that_does_not_resolve_is_502_and_never_the_clients_address() {
    let bed = Bed::new(P1);
    for answer in [Answer::Fail(SERVFAIL), Answer::Fail(NXDOMAIN), Answer::Silence] {
        for name in ["api.good.test", "plain.good.test"] {
            bed.world.dns.answer(name, answer.clone());
        }
        let secure = bed.fetch("api.good.test", get("api.good.test", "/")).map(|answer| answer.status);
        let plain = bed.fetch_plain(get("plain.good.test", "/")).map(|answer| answer.status);
        assert_eq!((secure, plain), (Some(502), Some(502)), "{answer:?}");
    }
    let packets = bed.world.capture.packets();
    assert!(
        !packets.iter().any(|packet| packet.syn && [80, 443].contains(&packet.to.port())),
        "it dialled something"
    );
    assert!(bed.world.origin.connections().is_empty());
    bed.gate.wait_for_record("dns", |record| {
        record.text("door") != "dns"
            && ["reason", "outcome", "detail"].iter().any(|field| record.text(field).contains("dns"))
    });
}

/// What an operator may do to the rule file, and the word that the daemon's complaint must hold.
fn break_policy(bed: &Bed, how: &str) -> &'static str {
    let rules = bed.gate.dir.join("policies/10-rules.toml");
    let good = "[[rule]]\nname = \"good\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n";
    match how {
        "syntax error" => bed.gate.write_policy(&format!("{good}\n[[rule\n")),
        "unknown key" => bed.gate.write_policy(&format!("{good}colour = \"red\"\n")),
        "empty file" => bed.gate.write_policy(""),
        "half-written file" => bed.gate.write_policy(&good[..good.len() - 12]),
        "directory" => {
            std::fs::remove_file(&rules).unwrap();
            std::fs::create_dir(&rules).unwrap();
        }
        "unreadable file" => {
            bed.gate.write_policy(good);
            std::fs::set_permissions(&rules, std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        "missing folder" => {
            std::fs::rename(bed.gate.dir.join("policies"), bed.gate.dir.join("elsewhere")).unwrap();
            return "policies";
        }
        other => panic!("{other}"),
    }
    "10-rules.toml"
}

#[test]
fn ft_08_a_bad_policy_is_refused_and_the_old_one_stays() {
    for how in [
        "syntax error",
        "unknown key",
        "empty file",
        "half-written file",
        "directory",
        "unreadable file",
        "missing folder",
    ] {
        let bed = Bed::new(P1);
        bed.control();
        let before = bed.gate.stderr().len();
        let word = break_policy(&bed, how);
        bed.gate.signal(Signal::SIGHUP);
        let complained =
            wait_until(Duration::from_secs(5), || bed.gate.stderr()[before..].contains(word).then_some(()));
        assert!(
            complained.is_some(),
            "{how}: no complaint that names {word}:\n{}",
            &bed.gate.stderr()[before..]
        );
        if ["syntax error", "unknown key", "half-written file"].contains(&how) {
            let said = bed.gate.stderr()[before..].to_owned();
            let place = said.split(word).nth(1).unwrap_or("");
            assert!(
                place.starts_with(':') && place[1..].starts_with(|c: char| c.is_ascii_digit()),
                "{how}: {said}"
            );
        }
        bed.gate.wait_for_record(how, |record| record.text("kind") == "event" && record.mentions("reload"));
        bed.control();
        assert_eq!(
            bed.fetch_plain(get("plain.good.test", "/")).map(|answer| answer.status),
            Some(200),
            "{how}"
        );
        assert_denied(bed.https(PUB1, "evil.test"), get("evil.test", "/"));
    }
}

#[test]
fn ft_08_a_good_policy_takes_over_and_live_flows_are_judged_by_it() {
    let bed = Bed::new(P1);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
    let old = bed.gate.records().pop().unwrap().text("policy").to_owned();
    bed.gate.write_policy(&P1.replace("api.good.test", "cdn.good.test"));
    bed.gate.signal(Signal::SIGHUP);
    let open = || {
        bed.https(CDN, "cdn.good.test")
            .ok()?
            .ask(get("cdn.good.test", "/"))
            .filter(|answer| answer.status == 200)
    };
    assert!(wait_until(Duration::from_secs(5), open).is_some(), "the new rule speaks");
    let next = wire.ask(get("api.good.test", "/")).map(|answer| answer.status);
    assert!(matches!(next, None | Some(403)), "the open connection too: {next:?}");
    let new = bed.gate.records().into_iter().rfind(|record| record.text("verdict") == "allow").unwrap();
    assert_ne!(new.text("policy"), old, "the record names the version that judged");
}

#[test]
fn ft_10_a_reload_that_takes_a_host_away_ends_its_open_streams() {
    let bed = Bed::new(P1);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/sse"));
    assert_eq!(wire.head().unwrap().status, 200);
    bed.world.origin.pages.event("while it is allowed");
    assert!(wire.until(b"while it is allowed").is_some());
    bed.gate.write_policy("[[rule]]\nname = \"other\"\nhosts = [\"files.good.test\"]\naction = \"allow\"\n");
    bed.gate.wait_for_record("the reload", |record| record.text("event") == "reload");
    bed.world.origin.pages.event("after it was taken away");
    let (rest, _) = wire.rest();
    assert!(!String::from_utf8_lossy(&rest).contains("after it was taken away"));
    bed.gate.wait_for_record("the end", |record| {
        record.text("kind") == "end" && record.text("reason") == "reload"
    });
}

#[test]
fn ft_14_sigterm_drains_and_leaves_the_fence() {
    let mut bed = Bed::with(&Setup { policy: P1.into(), forwarding: true, ..Setup::default() });
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    let head = {
        wire.send(get("api.good.test", "/sse"));
        wire.head().unwrap()
    };
    assert_eq!(head.status, 200);
    bed.gate.signal(Signal::SIGTERM);
    let refused = || bed.world.agent.connect(at(PUB1, 443), Duration::from_secs(1)).err();
    assert!(wait_until(Duration::from_secs(5), refused).is_some(), "no new connections");
    bed.world.origin.pages.event("still here");
    assert!(wire.until(b"still here").is_some(), "a flow in progress goes on");
    bed.world.origin.pages.end_events();
    drop(wire);
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
    assert!(bed.try_tcp(PUB1, 8443).is_err() && bed.try_tcp(PUB1, 80).is_err(), "the fence stands");
}
