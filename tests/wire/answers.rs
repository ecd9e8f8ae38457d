//! Gauntlet DN: what is handed out is what is dialled, and never to anybody else.

use crate::support::dns::{A, Answer, ask};
use crate::support::*;

fn fetched(bed: &Bed, name: &str) -> Option<u16> {
    bed.https(PUB2, name).ok()?.ask(get(name, "/")).map(|answer| answer.status)
}

#[test]
fn dn_08_names_under_a_wildcard_run_out_and_normal_ones_do_not() {
    let bed = Bed::new(&format!("{P1}{P2}"));
    let denied = (0..500).filter(|n| bed.resolve(&format!("{n:050}.wild.test"), A).is_denied()).count();
    // Upstream knows none of them, so the code alone tells nothing: the record and the query log do.
    assert_eq!(denied, 500);
    let mut asked: Vec<String> = bed.world.dns.queries().into_iter().map(|query| query.name).collect();
    asked.dedup();
    assert_eq!(asked.len(), 200, "the documented budget");
    let spent = |record: &Record| record.text("reason") == "dns_budget";
    bed.gate.wait_for_record("the budget", spent);
    assert_eq!(bed.gate.records().iter().filter(|record| spent(record)).count(), 300);
    assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1]);
}

#[test]
fn dn_17_only_the_public_part_of_an_answer_is_handed_out_and_dialled() {
    let bed = Bed::new(P1);
    let inward: [std::net::IpAddr; 2] = [PRIVATE, "127.0.0.1".parse().unwrap()];
    bed.world.dns.set("files.good.test", &[inward[0], inward[1], PUB2]);
    assert_eq!(bed.resolve("files.good.test", A).addresses, [PUB2]);
    let mark = bed.mark();
    assert_eq!(fetched(&bed, "files.good.test"), Some(200));
    bed.since(mark, 1).no_packet_to(PRIVATE);
    bed.gate.wait_for_record("what was taken out", |record| {
        record.0["blocked"] == serde_json::json!(["10.99.0.5", "127.0.0.1"])
    });
}

#[test]
fn dn_21_an_alias_into_a_private_place_is_neither_handed_out_nor_dialled() {
    let bed = Bed::new(P1);
    bed.world.dns.answer("files.good.test", Answer::Alias("internal.corp.test".into()));
    bed.world.dns.set("internal.corp.test", &[PRIVATE]);
    assert!(bed.resolve("files.good.test", A).addresses.is_empty());
    let mark = bed.mark();
    assert!(matches!(fetched(&bed, "files.good.test"), Some(403 | 502)));
    bed.since(mark, 1).no_packet_to(PRIVATE);
    bed.gate.wait_for_record("the guard's word", |record| record.mentions("addr_blocked"));
    bed.world.dns.set("api.good.test", &[PUB1]);
    bed.control();
}

#[test]
fn dn_23_a_granted_range_opens_itself_and_nothing_else() {
    let hosts = ["in", "beside", "loop", "meta"].map(|host| format!("{host}.intern.test"));
    let rule = format!(
        "[[rule]]\nname = \"inside\"\nhosts = {hosts:?}\naction = \"allow\"\nprivate = [\"10.99.0.0/24:443\"]\n"
    );
    let bed = Bed::new(&rule);
    let [inside, never @ ..] = ["10.99.0.5", "10.98.0.5", "127.0.0.1", "169.254.169.254"]
        .map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
    bed.world.dns.set(&hosts[0], &[inside]);
    for (host, ip) in hosts[1..].iter().zip(never) {
        bed.world.dns.set(host, &[ip]);
        assert!(bed.resolve(host, A).addresses.is_empty(), "{host}");
        let mark = bed.mark();
        assert!(matches!(fetched(&bed, host), None | Some(403 | 502)), "{host}");
        bed.since(mark, 1).nothing_upstream().no_packet_to(ip);
    }
    assert_eq!(bed.resolve(&hosts[0], A).addresses, [inside]);
    let mark = bed.mark();
    fetched(&bed, &hosts[0]);
    let taps = bed.since(mark, 1);
    assert!(taps.syns().any(|packet| packet.to == at(inside, 443)), "the granted one is dialled");
}

#[test]
fn dn_32_a_name_of_one_tenant_is_none_of_anothers() {
    let rule = P1.replace("hosts = [\"api.good.test\"", "clients = [\"agent2\"]\nhosts = [\"api.good.test\"");
    let bed = Bed::new(&rule);
    let theirs = ask(&bed.world.agent2, at("10.77.2.1".parse().unwrap(), 53), "api.good.test", A, false);
    assert_eq!(theirs.unwrap().addresses, [PUB1]);
    let mark = bed.mark();
    assert!(bed.resolve("api.good.test", A).is_denied(), "though it is in the cache");
    bed.since(mark, 0).no_query();
}

#[test]
fn dn_43_a_name_of_odd_bytes_is_one_line_of_json() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    for name in ["a\nb\u{1b}[0m\"\0.good.test", "\u{ff}\u{2028}.good.test", "{\"v\":1}\r\n.evil.test"] {
        assert!(bed.resolve(name, A).is_denied(), "{name:?}");
    }
    bed.since(mark, 0).no_query();
    bed.gate.wait_for_record("the escaped name", |record| {
        record.text("qname").starts_with("a\\010b\\027[0m\\034\\000.")
    });
    assert_eq!(bed.resolve("api.good.test", A).addresses, [PUB1]);
}
