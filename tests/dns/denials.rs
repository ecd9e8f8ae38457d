//! Denied names and what is not served: nothing is asked upstream.

use crate::gate::*;
use crate::peers::*;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::BinEncodable;

#[tokio::test]
async fn dn_02_a_denied_name_causes_no_upstream_query() {
    let gate = Gate::start(public).await;
    let random = format!("{}.attacker.test", "q7".repeat(20));
    for asked in ["evil.test", &random] {
        let message = query(fqdn(asked), RecordType::A, Some(1232));
        assert_denied(&ask(gate.door, &message).await);
        assert_denied(&ask_tcp(gate.door, &message).await);
    }
    assert_eq!(gate.upstream.asked(), []);
    assert_eq!(gate.lines().len(), 4);
    assert!(gate.lines()[0].contains("Denied no_rule"));
}

#[tokio::test]
async fn dn_03_a_denied_name_is_denied_for_every_type() {
    use RecordType::*;
    let gate = Gate::start(public).await;
    for qtype in [TXT, MX, NS, SRV, CNAME, SOA, HTTPS, AAAA, ANY, NULL] {
        assert_denied(&gate.ask("evil.test", qtype).await);
    }
    assert_eq!(gate.upstream.asked(), []);
}

#[tokio::test]
async fn dn_08_random_names_under_a_wildcard_run_out_of_budget() {
    let gate = Gate::start(public).await;
    let mut denied = 0;
    for n in 0..500 {
        let reply = gate.ask(&format!("{n:050}.w.test"), RecordType::A).await;
        denied += usize::from(blocked(&reply));
    }
    assert_eq!(denied, 300);
    assert_eq!(gate.upstream.asked().len(), 200);
    assert!(gate.lines().last().unwrap().contains("Budget dns_budget"));
    assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
    assert_eq!(ips(&gate.ask(&format!("{:050}.w.test", 7), RecordType::A).await), [PUBLIC]);
}

#[tokio::test]
async fn dn_32_what_one_client_may_ask_another_may_not() {
    let gate = Gate::start(public).await;
    assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
    let bytes = query(fqdn("api.good.test"), RecordType::A, Some(1232)).to_bytes().unwrap();
    let other = exchange(gate.door, "127.0.0.2", &bytes).await;
    assert_denied(&Message::from_vec(&other).unwrap());
    assert!(gate.leases.names(2, PUBLIC.parse().unwrap()).is_empty());
    let stranger = Message::from_vec(&exchange(gate.door, "127.0.0.3", &bytes).await).unwrap();
    assert_eq!(stranger.metadata.response_code, ResponseCode::Refused);
    assert!(gate.lines().last().unwrap().contains("None UnknownClient unknown_client"));
}

#[tokio::test]
async fn dn_38_transfers_other_operations_and_classes_are_not_served() {
    let gate = Gate::start(public).await;
    for qtype in [RecordType::AXFR, RecordType::IXFR] {
        let reply = gate.ask("api.good.test", qtype).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    }
    for asked in ["version.bind", "id.server"] {
        let mut message = query(fqdn(asked), RecordType::TXT, None);
        message.queries[0].query_class = DNSClass::CH;
        let reply = ask(gate.door, &message).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        assert!(reply.answers.is_empty());
    }
    for operation in [OpCode::Notify, OpCode::Update, OpCode::Status] {
        let mut bytes = query(fqdn("api.good.test"), RecordType::A, None).to_bytes().unwrap();
        bytes[2] = u8::from(operation) << 3;
        let reply = exchange(gate.door, "127.0.0.1", &bytes).await;
        assert_eq!(reply[3] & 0x0f, 4, "NOTIMP");
    }
    assert_eq!(gate.upstream.asked(), []);
}

#[tokio::test]
async fn dn_43_odd_names_are_denied_and_escaped() {
    let gate = Gate::start(public).await;
    let odd = Name::from_labels([&b"a\nb\x1b\"\0\xff"[..], b"good", b"test"]).unwrap();
    assert_denied(&ask(gate.door, &query(odd, RecordType::A, Some(1232))).await);
    let dotted = Name::from_labels([&b"api.good"[..], b"test"]).unwrap();
    assert_denied(&ask(gate.door, &query(dotted, RecordType::A, Some(1232))).await);
    assert_eq!(gate.upstream.asked(), []);
    assert!(gate.lines()[0].starts_with("a\\010b\\027\\034\\000\\255.good.test 1 Some(1) Denied"));
}
