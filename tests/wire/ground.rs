//! The proving ground without a gate: its servers, its name server and its taps do what the other tests believe.

use std::time::Duration;

use crate::support::capture::TCP;
use crate::support::dns::{self, A, AAAA, Answer, NXDOMAIN, SERVFAIL};
use crate::support::h2::H2;
use crate::support::ns::Namespace;
use crate::support::programs::{run, successful};
use crate::support::websocket::{TEXT, frame, receive};
use crate::support::wire::Tls;
use crate::support::world::resolve_at;
use crate::support::{CDN, DNS, EVIL, GATE, PUB1, PUB1_V6, PUB2, Wire, World, at, get};

const WAIT: Duration = Duration::from_secs(3);

pub fn origin_tls(world: &World, name: &str) -> Tls {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let pem = std::fs::read(world.dir.path().join("origin-ca.pem")).unwrap();
    let roots = CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect();
    Tls { name: name.to_owned(), send_name: true, alpn: vec!["http/1.1"], roots }
}

#[test]
fn a_plain_request_reaches_the_host_and_every_tap() {
    let world = World::new();
    let mut wire = Wire::plain(world.gate.connect(at(PUB1, 80), WAIT).unwrap());
    let answer = wire.ask(get("plain.good.test", "/")).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello from plain.good.test\n"));
    assert_eq!(world.origin.connections()[0].text(), get("plain.good.test", "/"));
    assert_eq!(world.origin.requests()[0].authority, "plain.good.test");
    let packets = world.capture.packets();
    let syns: Vec<_> = packets.iter().filter(|packet| packet.syn && packet.outgoing).collect();
    assert_eq!(syns.len(), 1, "{syns:?}");
    assert_eq!((syns[0].protocol, syns[0].to), (TCP, at(PUB1, 80)));
}

#[test]
fn the_hosts_speak_tls_over_both_families() {
    let world = World::new();
    for ip in [PUB1, PUB1_V6] {
        let wire = Wire::plain(world.gate.connect(at(ip, 443), WAIT).unwrap());
        let mut wire = wire.secure(&origin_tls(&world, "api.good.test")).unwrap();
        assert_eq!(wire.ask(get("api.good.test", "/bytes/70000")).unwrap().body.len(), 70_000);
    }
    for name in ["expired.good.test", "selfsigned.good.test", "wronghost.good.test", "unknownroot.good.test"]
    {
        let wire = Wire::plain(world.gate.connect(at(PUB1, 443), WAIT).unwrap());
        assert!(wire.secure(&origin_tls(&world, name)).is_err(), "{name}");
    }
    let wire = Wire::plain(world.gate.connect(at(EVIL, 443), WAIT).unwrap());
    assert!(
        wire.secure(&origin_tls(&world, "api.good.test")).is_err(),
        "the attacker has no good certificate"
    );
}

#[test]
fn the_name_server_answers_logs_and_rebinds() {
    let world = World::new();
    let ask = |name: &str, kind, tcp| dns::ask(&world.gate, at(DNS, 53), name, kind, tcp).unwrap();
    assert_eq!(ask("api.good.test", A, false).addresses, [PUB1]);
    assert_eq!(ask("API.good.test", AAAA, true).addresses, [PUB1_V6]);
    assert_eq!(ask("nobody.test", A, false).code, NXDOMAIN);
    world.dns.answer("alias.good.test", Answer::Alias("cdn.good.test".into()));
    let alias = ask("alias.good.test", A, false);
    assert_eq!((alias.addresses, alias.aliases), (vec![CDN], vec!["cdn.good.test".to_owned()]));
    world.dns.answer("rb.good.test", Answer::Turns(vec![vec![PUB2], vec![GATE]]));
    assert_eq!(ask("rb.good.test", A, false).addresses, [PUB2]);
    assert_eq!(ask("rb.good.test", A, false).addresses, [GATE]);
    world.dns.answer("broken.good.test", Answer::Fail(SERVFAIL));
    assert_eq!(ask("broken.good.test", A, false).code, SERVFAIL);
    let log: Vec<String> = world.dns.queries().into_iter().map(|query| query.name).collect();
    assert_eq!(log[..3], ["api.good.test", "api.good.test", "nobody.test"]);
}

#[test]
fn without_a_gate_the_agent_reaches_nothing_unless_packets_are_forwarded() {
    let world = World::new();
    assert!(world.agent.connect(at(PUB1, 80), Duration::from_millis(300)).is_err());
    world.forward_packets();
    for ip in [PUB1, PUB1_V6] {
        let mut wire = Wire::plain(world.agent.connect(at(ip, 80), WAIT).unwrap());
        assert_eq!(wire.ask(get("plain.good.test", "/")).unwrap().status, 200);
    }
    let packets = world.capture.packets();
    for ip in [PUB1, PUB1_V6] {
        assert!(
            packets.iter().any(|packet| packet.syn && packet.to == at(ip, 80)),
            "the capture sees what leaks"
        );
    }
}

#[test]
fn a_script_holds_the_conversation_within_tls_and_its_bytes_are_recorded() {
    let world = World::new();
    world.origin.script((PUB2, 443), |peer| {
        let head = peer.head().unwrap_or_default();
        peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()));
    });
    let wire = Wire::plain(world.gate.connect(at(PUB2, 443), WAIT).unwrap());
    let mut wire = wire.secure(&origin_tls(&world, "files.good.test")).unwrap();
    assert_eq!(wire.ask(get("files.good.test", "/a")).unwrap().text(), get("files.good.test", "/a"));
    assert_eq!(world.origin.connections()[0].text(), get("files.good.test", "/a"));
}

#[test]
fn the_hosts_speak_h2_with_trailers_and_websocket() {
    let world = World::new();
    let tls = origin_tls(&world, "api.good.test");
    let h2 = H2::over(world.gate.connect(at(PUB1, 443), WAIT).unwrap(), &tls);
    let (answer, trailers) = h2.get("https://api.good.test/trailers").unwrap();
    assert_eq!(
        (answer.body().as_slice(), &trailers["x-checksum"]),
        (&b"body before trailers\n"[..], &"abc123".parse().unwrap())
    );

    let wire = Wire::plain(world.gate.connect(at(PUB1, 443), WAIT).unwrap());
    let mut wire = wire.secure(&tls).unwrap();
    let answer = wire.ask(
        "GET /ws HTTP/1.1\r\nHost: api.good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(answer.unwrap().status, 101);
    wire.send(frame(TEXT, &[b'x'; 300], Some([1, 2, 3, 4])));
    assert_eq!(receive(&mut wire), Some((TEXT, vec![b'x'; 300])));
}

/// The clients work where no gate stands between: what they do not do behind one is the gate's doing.
#[test]
fn the_hosts_serve_real_clients() {
    let world = World::new();
    let dir = world.dir.path();
    let clients = Namespace::new("clients");
    clients.ip("link set lo up");
    world.gate.ip(&format!(
        "link add direct type veth peer name eth0 netns {}\naddr add 10.77.9.1/24 dev direct\nlink set direct up",
        clients.path()
    ));
    clients.ip("addr add 10.77.9.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.77.9.1");
    world.forward_packets();
    resolve_at(&clients, dir, "93.184.216.53");
    let ca = dir.join("origin-ca.pem");
    let succeed = |line: &str| successful(line, &run(&clients, dir, &ca, line));
    for (what, line, expected) in super::clients::lines(&world.origin.pages, dir, &succeed) {
        assert!(succeed(&line).ends_with(&expected), "{what}");
    }
}
