//! Gauntlet DN: a name is judged before anybody is asked, and an answer before anybody hears it.

use crate::support::dns::{A, AAAA, Answer, CNAME, HTTPS, MX, NS, SOA, SRV, TXT, ask};
use crate::support::*;

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
