//! A company's proxy between the gate and the network: everything goes through it, by the same policy and guard, and
//! when it fails nothing takes another way. Gauntlet CR-26 and FT-06.

use std::net::IpAddr;
use std::time::Duration;

use crate::support::capture::TCP;
use crate::support::gate::wait_until;
use crate::support::proxy::{Manner, PROXY, Program, Proxy};
use crate::support::*;

/// P1, a tunnel, raw TCP, and names that lead inside.
const POLICY: &str = concat!(
    r#"
[[rule]]
name = "good"
hosts = ["api.good.test", "files.good.test", "inside.test", "only.proxy.test"]
action = "allow"

[[rule]]
name = "pinned"
hosts = ["pinned.good.test"]
action = "tunnel"

[[rule]]
name = "shell"
hosts = ["cdn.good.test"]
scheme = "tcp"
ports = [22]
action = "tunnel"
"#,
    plain!()
);

const PASSWORD: &str = "word-of-the-proxy";

fn through(url: &str, more: &str) -> Setup {
    Setup {
        policy: POLICY.into(),
        sections: format!("[upstream.proxy]\nurl = \"{url}\"\n{more}\n"),
        limits: "connect_timeout = \"700ms\"",
        environment: vec![("OUTGATE_TEST_PROXY", PASSWORD.into())],
        ..Setup::default()
    }
}

/// A bed whose gate goes through one proxy that the test made first.
fn bed(url: &str, more: &str, manner: Manner) -> (Bed, Proxy) {
    let world = World::new();
    let proxy = Proxy::start(&world, 3128, manner);
    (Bed::over(world, &through(url, more)), proxy)
}

const HTTP: &str = "http://proxy.corp.test:3128";
const CREDENTIAL: &str = "username = \"gate\"\npassword = { env = \"OUTGATE_TEST_PROXY\" }";

/// Whom the gate connected to.
fn dialled(bed: &Bed) -> Vec<std::net::SocketAddr> {
    let packets = bed.world.capture.packets();
    let mut to: Vec<_> =
        packets.iter().filter(|p| p.outgoing && p.syn && p.protocol == TCP).map(|p| p.to).collect();
    to.sort();
    to.dedup();
    to
}

fn status(bed: &Bed, host: &str, path: &str) -> Option<u16> {
    bed.fetch(host, get(host, path)).map(|answer| answer.status)
}

fn plain(bed: &Bed) -> Option<u16> {
    bed.fetch_plain(get("plain.good.test", "/")).map(|answer| answer.status)
}

/// Every way out that the policy has: clear text, intercepted, relayed unread, raw TCP whose server speaks first.
fn every_way(bed: &Bed) {
    assert_eq!(plain(bed), Some(200), "http");
    assert_eq!(status(bed, "api.good.test", "/"), Some(200), "https");
    let mut origin = bed.tls("pinned.good.test");
    origin.roots = super::ground::origin_tls(&bed.world, "pinned.good.test").roots;
    let mut pinned = bed.tcp(PUB1, 443).secure(&origin).expect("the origin's own certificate");
    assert_eq!(pinned.ask(get("pinned.good.test", "/")).map(|answer| answer.status), Some(200), "tunnel");
    assert_eq!(bed.resolve("cdn.good.test", crate::support::dns::A).addresses, [CDN]);
    let mut shell = bed.tcp(CDN, 22);
    assert_eq!(shell.until(b"\r\n").as_deref(), Some(&b"SSH-2.0-first\r\n"[..]), "raw TCP");
    shell.send("echo\r\n\r\n");
    assert_eq!(shell.until(b"\r\n\r\n").as_deref(), Some(&b"echo\r\n\r\n"[..]));
}

fn shell(world: &World) {
    world.origin.script((CDN, 22), |peer| {
        peer.say("SSH-2.0-first\r\n");
        let said = peer.head().unwrap_or_default();
        peer.say(said);
    });
}

#[test]
fn every_way_out_goes_through_the_proxy_and_only_there() {
    for (url, manner) in [(HTTP, Manner::Honest), ("https://proxy.corp.test:3128", Manner::HonestInTls)] {
        let (bed, proxy) = bed(url, CREDENTIAL, manner);
        shell(&bed.world);
        every_way(&bed);
        assert_eq!(dialled(&bed), [proxy.at], "{url}: nothing else was connected to");
        let asked = proxy.asked();
        for target in ["93.184.216.10:80", "93.184.216.10:443", "93.184.216.30:22"] {
            assert!(asked.contains(&target.to_owned()), "{url}: the judged address {target}: {asked:?}");
        }
        let end = bed.gate.wait_for_record("an end", |record| {
            record.is_end() && record.text("upstream") == "93.184.216.10:443"
        });
        assert_eq!(end.text("proxy"), url, "{}", end.0);
    }
}

#[test]
fn the_programs_that_companies_run_are_spoken_to() {
    let world = World::new();
    shell(&world);
    world.dns.set("proxy.corp.test", &[PROXY]);
    let config = format!(
        "Port 3128\nListen {PROXY}\nTimeout 60\nBasicAuth gate {PASSWORD}\nConnectPort 443\nConnectPort 80\n\
         ConnectPort 22\nMaxClients 50\n"
    );
    std::fs::write(world.dir.path().join("tinyproxy.conf"), config).unwrap();
    let _tinyproxy = Program::start(&world, "tinyproxy -d -c tinyproxy.conf", at(PROXY, 3128));
    let line = format!("microsocks -i {PROXY} -p 1080 -u gate -P {PASSWORD}");
    let _microsocks = Program::start(&world, &line, at(PROXY, 1080));
    let mut bed = Bed::over(world, &through(HTTP, CREDENTIAL));
    every_way(&bed);
    assert_eq!(dialled(&bed), [at(PROXY, 3128)]);
    let body = bed.succeed("curl -sS --max-time 20 https://api.good.test/bytes/3000000 | wc -c");
    assert_eq!(body.trim(), "3000000", "a real client, a real proxy");

    bed = bed.again(&through("socks5://proxy.corp.test:1080", CREDENTIAL));
    let mark = bed.mark();
    every_way(&bed);
    assert!(bed.since(mark, 4).syns().all(|packet| packet.to == at(PROXY, 1080)));

    bed = bed.again(&through("socks5://proxy.corp.test:1080", ""));
    assert_eq!(status(&bed, "api.good.test", "/"), Some(502), "without the credential");
    bed.gate.wait_for_record("why", |r| r.is_end() && r.mentions("does not accept the gate's credential"));
}

#[test]
fn cr_26_neither_credential_is_where_the_other_belongs() {
    let world = World::new();
    let proxy = Proxy::start(&world, 3128, Manner::Honest);
    let mut setup = through(HTTP, CREDENTIAL);
    setup.policy = P4.into();
    setup.environment.extend(p4_environment());
    let bed = Bed::over(world, &setup);
    let theirs = "Y2xpZW50OnB3";
    let mut wire = bed.explicit();
    wire.send(format!(
        "CONNECT api.good.test:443 HTTP/1.1\r\nHost: api.good.test:443\r\n\
         Proxy-Authorization: Basic {theirs}\r\n\r\n"
    ));
    assert_eq!(wire.head().unwrap().status, 200);
    let mut wire = wire.secure(&bed.tls("api.good.test")).unwrap();
    let request =
        format!("GET /echo HTTP/1.1\r\nHost: api.good.test\r\nProxy-Authorization: Basic {theirs}\r\n\r\n");
    assert_eq!(wire.ask(request).unwrap().status, 200);

    let heads = proxy.heads();
    let ours = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("gate:{PASSWORD}"));
    assert_eq!(
        heads,
        [format!(
            "CONNECT 93.184.216.10:443 HTTP/1.1\r\nHost: 93.184.216.10:443\r\nProxy-Authorization: Basic {ours}\r\n\r\n"
        )],
        "the destination and the gate's own credential, and nothing else"
    );
    let origin: String = bed.world.origin.connections().iter().map(|seen| seen.text()).collect();
    assert!(origin.contains(&*K5), "the origin has its own credential");
    let everything = format!("{}{}", bed.gate.stderr(), crate::support::gate::show(&bed.gate.records()));
    for (what, text) in [("origin", &origin), ("logs and records", &everything)] {
        for secret in [&ours, PASSWORD, theirs] {
            assert!(!text.to_ascii_lowercase().contains(&secret.to_ascii_lowercase()), "{what}: {secret}");
        }
        assert!(!text.to_ascii_lowercase().contains("proxy-authorization"), "{what}");
    }
    assert!(!everything.contains(&*K5));
}

#[test]
fn ft_06_a_proxy_that_fails_is_502_and_nothing_goes_direct() {
    let says = |text: &str| Some(Manner::Says(text.as_bytes().to_vec()));
    for (what, url, manner) in [
        ("down", HTTP, None),
        ("407", HTTP, says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")),
        ("403", HTTP, says("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever")),
        ("503", HTTP, says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")),
        ("garbage", HTTP, says("220 smtp.corp.test ESMTP\r\n")),
        ("eager", HTTP, says("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")),
        ("slow", HTTP, says("")),
        ("half a head", HTTP, says("HTTP/1.1 200 OK\r\nX-Half: ")),
        ("endless", HTTP, Some(Manner::Endless)),
        ("closes", HTTP, Some(Manner::Closes)),
        ("not TLS", "https://proxy.corp.test:3128", says("HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("another name", "https://93.184.216.254:3128", Some(Manner::HonestInTls)),
        ("no SOCKS", "socks5://proxy.corp.test:3128", says("HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("SOCKS that wants a password", "socks5://proxy.corp.test:3128", says("\x05\x7f")),
        ("SOCKS that is slow", "socks5://proxy.corp.test:3128", says("\x05\0")),
        ("SOCKS that refuses", "socks5://proxy.corp.test:3128", says("\x05\0\x05\x02\0\x01\0\0\0\0\0\0")),
    ] {
        let world = World::new();
        let proxy = manner.map(|manner| Proxy::start(&world, 3128, manner));
        if proxy.is_none() {
            world.dns.set("proxy.corp.test", &[PROXY]);
        }
        let bed = Bed::over(world, &through(url, ""));
        let begun = std::time::Instant::now();
        assert_eq!(status(&bed, "api.good.test", "/"), Some(502), "{what}");
        assert_eq!(plain(&bed), Some(502), "{what}, in clear text");
        let tunnel = bed.tcp(PUB1, 443).secure(&bed.tls("pinned.good.test"));
        assert!(tunnel.is_err(), "{what}, relayed unread");
        assert!(begun.elapsed() < Duration::from_secs(6), "{what}: bounded");
        let to = dialled(&bed);
        assert!(to.iter().all(|to| *to == at(PROXY, 3128)), "{what}: something went direct: {to:?}");
        assert!(bed.world.origin.connections().is_empty(), "{what}");
        let end = bed.gate.wait_for_record(what, Record::is_end);
        assert_eq!(
            (end.text("outcome"), end.text("reason")),
            ("failed", "upstream_proxy"),
            "{what}: {}",
            end.0
        );
    }
}

#[test]
fn the_guard_judges_what_the_proxy_is_asked_for() {
    let (bed, proxy) = bed(HTTP, "", Manner::Honest);
    bed.world.dns.set("inside.test", &[PRIVATE]);
    for (name, policy_says) in [("inside.test", 403), ("only.proxy.test", 502), ("evil.test", 403)] {
        let mut wire = bed.explicit();
        wire.send(format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n"));
        let opened = wire.head().unwrap().status;
        let answered = if opened == 200 {
            wire.secure(&bed.tls(name)).unwrap().ask(get(name, "/")).unwrap().status
        } else {
            opened
        };
        assert_eq!(answered, policy_says, "{name}");
    }
    assert!(proxy.asked().is_empty(), "{:?}", proxy.asked());
    assert!(dialled(&bed).is_empty());
}

#[test]
fn names_that_only_the_proxy_resolves_need_the_danger_key_and_the_guard_still_speaks() {
    let (bed, proxy) = bed(HTTP, "danger_proxy_resolves = true", Manner::Honest);
    bed.world.dns.set("inside.test", &[PRIVATE]);
    let ask = |name: &str| {
        let mut wire = bed.tunnel(&format!("{name}:443")).unwrap().secure(&bed.tls(name)).unwrap();
        wire.ask(get(name, "/")).unwrap().status
    };
    assert_eq!(ask("only.proxy.test"), 200);
    assert_eq!(proxy.asked(), ["only.proxy.test:443"], "by name");
    assert_eq!(ask("inside.test"), 403, "what the gate can resolve is judged");
    assert_eq!(bed.tunnel("evil.test:443").err(), Some(End::Status(403)), "and the policy speaks first");
    assert_eq!(proxy.asked().len(), 1);
    assert!(bed.gate.stderr().contains("danger_proxy_resolves"), "said at start");
    let end = bed.gate.wait_for_record("the end", |r| r.is_end() && r.text("outcome") == "done");
    assert_eq!((end.text("upstream"), end.text("proxy")), ("", HTTP), "{}", end.0);
}

#[test]
fn what_no_proxy_names_is_dialled_directly_and_nothing_else() {
    let direct = |entry: &str| {
        let (bed, proxy) = bed(HTTP, &format!("no_proxy = [\"{entry}\"]"), Manner::Honest);
        assert_eq!(status(&bed, "api.good.test", "/"), Some(200), "{entry}");
        assert_eq!(plain(&bed), Some(200), "{entry}");
        let asked = proxy.asked();
        let past = |port| !asked.iter().any(|target| target.ends_with(&format!(":{port}")));
        let direct: Vec<IpAddr> =
            dialled(&bed).iter().map(std::net::SocketAddr::ip).filter(|ip| *ip != PROXY).collect();
        assert!(direct.iter().all(|ip| [PUB1, PUB1_V6].contains(ip)), "{entry}: {direct:?}");
        assert_eq!(direct.is_empty(), !past(443) && !past(80), "{entry}");
        (past(443), past(80))
    };
    assert_eq!(direct("good.test"), (true, true));
    assert_eq!(direct(".api.good.test"), (false, false));
    assert_eq!(direct("api.good.test:443"), (true, false));
    assert_eq!(direct("93.184.216.0/28"), (true, true));
    assert_eq!(direct("93.184.216.10:80"), (false, true));
    assert_eq!(direct("*:443"), (true, false));
}

#[test]
fn a_change_of_the_proxy_is_taken_over_while_old_transfers_finish() {
    let (bed, first) = bed(HTTP, "", Manner::Honest);
    let second = Proxy::start(&bed.world, 3129, Manner::Honest);
    let mut download = bed.https(PUB1, "api.good.test").unwrap();
    download.send(get("api.good.test", "/sse"));
    assert_eq!(download.head().unwrap().status, 200);
    let mut kept = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(kept.ask(get("api.good.test", "/")).unwrap().status, 200);
    let before = first.asked().len();

    let said = |event: &str| {
        bed.gate.wait_for_record(event, |record| record.text("event") == event).text("detail").to_owned()
    };
    // The file alone: no signal.
    bed.gate.write_sections("[upstream.proxy]\nurl = \"http://proxy.corp.test:3129\"\n");
    assert!(said("proxy_changed").contains(":3129"));
    assert_eq!(kept.ask(get("api.good.test", "/")).unwrap().status, 200, "an old connection of the client");
    assert_eq!(status(&bed, "api.good.test", "/"), Some(200));
    assert_eq!(
        (first.asked().len(), second.asked().is_empty()),
        (before, false),
        "all that is new goes the new way"
    );
    bed.world.origin.pages.event("by the first");
    assert!(download.until(b"by the first").is_some(), "what runs goes on");
    let now = second.asked().len();

    bed.gate.write_sections("[upstream.proxy]\nurl = \"ftp://proxy.corp.test:3130\"\n");
    let why = said("proxy_refused");
    assert!(why.contains("outgate.toml") && why.contains("socks5://"), "{why}");
    bed.gate.write_policy(&POLICY.replace("\"files.good.test\", ", ""));
    let new = || (status(&bed, "files.good.test", "/") != Some(200)).then_some(());
    assert!(wait_until(Duration::from_secs(5), new).is_some(), "the policy follows all the same");
    assert_eq!(plain(&bed), Some(200));
    assert!(second.asked().len() > now, "the old one stays in force");
    assert!(dialled(&bed).iter().all(|to| to.ip() == PROXY), "never direct");

    bed.gate.write_sections("");
    let gone = || {
        bed.gate.records().iter().any(|r| r.text("event") == "proxy_changed" && r.text("detail") == "none")
    };
    assert!(wait_until(Duration::from_secs(5), || gone().then_some(())).is_some());
    assert_eq!(plain(&bed), Some(200));
    assert!(
        dialled(&bed).iter().any(|to| [PUB1, PUB1_V6].contains(&to.ip())),
        "without a proxy it is direct"
    );
}
