//! Allowed names: what is answered, cached, leased and recorded.

use crate::gate::*;
use crate::peers::*;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use outgate::dns::{DoorSettings, Leased};
use std::sync::Arc;

#[tokio::test]
async fn dn_01_an_allowed_name_is_answered_recorded_and_leased_over_both_transports() {
    let gate = Gate::start(|name, qtype, _| match qtype {
        RecordType::A => Script::Records(addresses(name, 86_400, &[PUBLIC])),
        _ => Script::Records(addresses(name, 0, &["2606:4700::1"])),
    })
    .await;
    let a = gate.ask("API.good.test", RecordType::A).await;
    assert_eq!(ips(&a), [PUBLIC]);
    assert!((290..=300).contains(&a.answers[0].ttl), "clamped from above: {}", a.answers[0].ttl);
    assert_eq!(a.queries[0].name().to_ascii(), "API.good.test.", "the question keeps its case");
    let aaaa = ask_tcp(gate.door, &query(fqdn("api.good.test"), RecordType::AAAA, None)).await;
    assert_eq!(ips(&aaaa), ["2606:4700::1"]);
    assert!((1..=5).contains(&aaaa.answers[0].ttl), "clamped from below");
    assert!(a.metadata.recursion_available && !a.metadata.authentic_data && !a.metadata.authoritative);
    assert_eq!(gate.leases.names(1, PUBLIC.parse().unwrap()), [name("api.good.test")]);
    let lines = gate.lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[0], "api.good.test 1 Some(1) Allowed allowed ");
    assert!(lines[1].starts_with("api.good.test Answered given [93.184.216.34] blocked []"), "{}", lines[1]);
}

#[tokio::test]
async fn a_second_question_is_answered_from_the_cache() {
    let gate = Gate::start(public).await;
    for _ in 0..20 {
        assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
    }
    assert_eq!(gate.upstream.asked().len(), 1);
}

#[tokio::test]
async fn dn_05_an_allowed_name_with_another_type_is_nodata_and_asks_nothing() {
    let gate = Gate::start(public).await;
    for qtype in [RecordType::TXT, RecordType::NULL, RecordType::ANY, RecordType::MX, RecordType::CNAME] {
        assert_nodata(&gate.ask("api.good.test", qtype).await);
    }
    assert_eq!(gate.upstream.asked(), []);
    assert!(gate.lines().iter().all(|line| line.contains("TypeClosed dns_type")));
}

#[tokio::test]
async fn dn_06_https_and_svcb_are_nodata() {
    let gate = Gate::start(public).await;
    for qtype in [RecordType::HTTPS, RecordType::SVCB] {
        assert_nodata(&gate.ask("api.good.test", qtype).await);
    }
    assert_eq!(gate.upstream.asked(), []);
}

#[tokio::test]
async fn negative_answers_keep_their_kind() {
    let gate = Gate::start(|name, _, _| match name {
        "none.good.test" => Script::Code(ResponseCode::NXDomain),
        _ => Script::Records(vec![]),
    })
    .await;
    let none = gate.ask("none.good.test", RecordType::A).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert!(!blocked(&none), "upstream said so, not the policy");
    assert_nodata(&gate.ask("v4.good.test", RecordType::AAAA).await);
}

#[tokio::test]
async fn a_virtual_answer_asks_nobody_and_the_room_for_them_is_bounded() {
    let gate = Gate::lending(3).await;
    let mut given = Vec::new();
    for n in 0..3 {
        let asked = format!("n{n}.good.test");
        let reply = gate.ask(&asked, RecordType::A).await;
        let told = ips(&reply);
        let [ip] = &told[..] else { panic!("{reply:?}") };
        assert!((1..=30).contains(&reply.answers[0].ttl));
        assert_eq!(gate.leases.leased(1, ip.parse().unwrap()), Leased::Virtual(name(&asked)));
        assert_eq!(ips(&gate.ask(&asked, RecordType::A).await), told);
        assert_ne!(ips(&gate.ask(&asked, RecordType::AAAA).await), told);
        given.push(ip.clone());
    }
    let full = gate.ask("n3.good.test", RecordType::A).await;
    assert_eq!(full.metadata.response_code, ResponseCode::ServFail);
    assert!(gate.lines().last().unwrap().contains("Limit limit"));
    assert_eq!(ips(&gate.ask("n0.good.test", RecordType::A).await), given[..1]);
    assert_denied(&gate.ask("evil.test", RecordType::A).await);
    assert_nodata(&gate.ask("n0.good.test", RecordType::TXT).await);
    assert_eq!(gate.upstream.asked(), []);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_asked() {
    let log = Arc::new(Log::default());
    let gate = Gate::over(public, DoorSettings::default(), |_| {}, Arc::new(Full), log).await;
    let reply = gate.ask("api.good.test", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(gate.upstream.asked(), []);
}
