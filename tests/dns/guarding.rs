//! What upstream says is filtered: private addresses, alias chains.

use crate::gate::*;
use crate::peers::*;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{RData, Record, RecordType};
use outgate::dns::DoorSettings;
use std::time::{Duration, Instant};

#[tokio::test]
async fn dn_15_a_name_that_turns_private_is_not_handed_out() {
    let gate = Gate::with(
        |name, _, before| {
            let ip = if before == 0 { PUBLIC } else { "169.254.169.254" };
            Script::Records(addresses(name, 0, &[ip]))
        },
        DoorSettings::default(),
        |settings| settings.min_ttl = Duration::ZERO,
    )
    .await;
    assert_eq!(ips(&gate.ask("rb.good.test", RecordType::A).await), [PUBLIC]);
    assert_nodata(&gate.ask("rb.good.test", RecordType::A).await);
    assert!(gate.lines()[3].starts_with("rb.good.test AddrBlocked given [] blocked [169.254.169.254]"));
}

#[tokio::test]
async fn dn_17_only_the_public_part_of_a_mixed_answer_is_given() {
    let mixed = |name: &str, _, _| {
        Script::Records(addresses(name, 60, &[PUBLIC, "10.0.0.5", "127.0.0.1", "198.41.0.4"]))
    };
    let gate = Gate::start(mixed).await;
    assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
    assert!(gate.lines()[1].contains("blocked [10.0.0.5, 127.0.0.1, 198.41.0.4]"));
    assert!(gate.leases.names(1, "10.0.0.5".parse().unwrap()).is_empty());
}

#[tokio::test]
async fn dn_20_an_alias_to_an_unlisted_name_is_followed_flattened_and_recorded() {
    let gate = Gate::start(|name, _, _| {
        let mut records = vec![alias(name, "edge.cdn.test"), alias("edge.cdn.test", "x.cdn.test")];
        records.extend(addresses("x.cdn.test", 60, &[PUBLIC]));
        Script::Records(records)
    })
    .await;
    let reply = gate.ask("api.good.test", RecordType::A).await;
    assert_eq!(ips(&reply), [PUBLIC]);
    assert_eq!(reply.answers[0].name, fqdn("api.good.test"));
    assert!(gate.lines()[1].contains(r#"chain ["edge.cdn.test", "x.cdn.test"]"#));
}

#[tokio::test]
async fn dn_20_an_alias_whose_addresses_are_asked_apart_is_followed() {
    let gate = Gate::start(|name, qtype, _| match name {
        "api.good.test" => Script::Records(vec![alias(name, "x.cdn.test")]),
        _ => public(name, qtype, 0),
    })
    .await;
    assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
}

#[tokio::test]
async fn dn_21_an_alias_to_a_private_address_gives_nothing() {
    let gate = Gate::start(|name, _, _| {
        let mut records = vec![alias(name, "internal.corp.test")];
        records.extend(addresses("internal.corp.test", 60, &["10.0.0.5"]));
        Script::Records(records)
    })
    .await;
    assert_nodata(&gate.ask("api.good.test", RecordType::A).await);
}

#[tokio::test]
async fn dn_22_broken_alias_chains_fail_soon_and_ask_little() {
    let gate = Gate::start(|name, _, _| match name {
        "self.good.test" => Script::Records(vec![alias(name, name)]),
        "loop.good.test" => Script::Records(vec![alias(name, "pool.good.test")]),
        "pool.good.test" => Script::Records(vec![alias(name, "loop.good.test")]),
        "long.good.test" => {
            let hop = |n: usize| format!("h{n}.good.test");
            let mut records = vec![alias(name, &hop(0))];
            records.extend((0..20).map(|n| alias(&hop(n), &hop(n + 1))));
            records.extend(addresses(&hop(20), 60, &[PUBLIC]));
            Script::Records(records)
        }
        "both.good.test" => {
            let mut records = vec![alias(name, "x.cdn.test")];
            records.extend(addresses(name, 60, &[PUBLIC]));
            records.extend(addresses("x.cdn.test", 60, &[PUBLIC]));
            Script::Records(records)
        }
        // DNAME without the alias that a server has to make of it (RFC 6672).
        "tree.good.test" => Script::Records(vec![Record::from_rdata(
            fqdn("good.test"),
            60,
            RData::Unknown { code: RecordType::from(39), rdata: NULL::with(b"\x03cdn\x04test\0".to_vec()) },
        )]),
        _ => Script::Records(vec![]),
    })
    .await;
    for asked in ["self.good.test", "loop.good.test", "long.good.test", "both.good.test", "tree.good.test"] {
        let (start, before) = (Instant::now(), gate.upstream.asked().len());
        let reply = gate.ask(asked, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{asked}");
        assert!(start.elapsed() < Duration::from_secs(2), "{asked}");
        let queries = gate.upstream.asked().len() - before;
        assert!(queries <= 16, "{asked}: {queries}");
    }
}

#[tokio::test]
async fn dn_23_a_granted_range_is_handed_out() {
    let gate = Gate::start(|name, _, _| {
        Script::Records(addresses(name, 60, &["10.99.0.5", "10.98.0.5", "127.0.0.1", "169.254.169.254"]))
    })
    .await;
    assert_eq!(ips(&gate.ask("intern.good.test", RecordType::A).await), ["10.99.0.5"]);
}
