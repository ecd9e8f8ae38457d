//! The resolver itself, and upstreams that fail.

use crate::gate::*;
use crate::peers::*;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use outgate::dns::{DoorSettings, ResolveError, Upstreams};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[tokio::test]
async fn dn_44_a_failing_upstream_is_servfail_within_five_seconds() {
    let gate = Gate::start(|name, _, _| match name {
        "refused.good.test" => Script::Code(ResponseCode::Refused),
        "failed.good.test" => Script::Code(ResponseCode::ServFail),
        "cut.good.test" => Script::Truncated,
        _ => Script::Silent,
    })
    .await;
    for asked in ["refused.good.test", "failed.good.test", "cut.good.test", "silent.good.test"] {
        let start = Instant::now();
        let reply = gate.ask(asked, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{asked}");
        assert!(reply.answers.is_empty());
        assert!(start.elapsed() < Duration::from_secs(5), "{asked}: {:?}", start.elapsed());
    }
    assert!(gate.lines().iter().any(|line| line.contains("silent.good.test Failed(Timeout)")));
}

#[tokio::test]
async fn both_families_are_asked_and_a_late_one_is_not_waited_for() {
    let gate = Gate::start(|name, qtype, _| match (name, qtype) {
        ("late.good.test", RecordType::AAAA) => Script::Silent,
        (_, RecordType::AAAA) => Script::Records(addresses(name, 60, &["2606:4700::1"])),
        _ => Script::Records(addresses(name, 60, &[PUBLIC])),
    })
    .await;
    let both = gate.resolver.addresses(&name("api.good.test")).await.unwrap();
    assert_eq!(both.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(), [PUBLIC, "2606:4700::1"]);
    let start = Instant::now();
    let late = gate.resolver.addresses(&name("late.good.test")).await.unwrap();
    assert_eq!(late.addrs.len(), 1);
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    let asked = gate.upstream.asked().len();
    let again = gate.resolver.addresses(&name("api.good.test")).await.unwrap();
    assert!(Arc::ptr_eq(&both, &again), "the second time costs a look-up");
    assert_eq!(gate.upstream.asked().len(), asked);
}

#[tokio::test]
async fn one_question_is_asked_for_many_that_wait() {
    let gate = Gate::start(public).await;
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let resolver = gate.resolver.clone();
        callers.spawn(async move { resolver.addresses(&name("api.good.test")).await });
    }
    for result in callers.join_all().await {
        assert_eq!(result.unwrap().addrs.len(), 1);
    }
    assert_eq!(gate.upstream.asked().len(), 2, "A and AAAA");
}

#[tokio::test]
async fn a_failure_is_an_error_and_is_not_asked_for_at_once_again() {
    let gate = Gate::start(|name, _, _| match name {
        "none.good.test" => Script::Code(ResponseCode::NXDomain),
        "empty.good.test" => Script::Records(vec![]),
        _ => Script::Code(ResponseCode::ServFail),
    })
    .await;
    for (asked, error) in [
        ("none.good.test", ResolveError::NxDomain),
        ("empty.good.test", ResolveError::NoData),
        ("failed.good.test", ResolveError::ServFail),
    ] {
        assert_eq!(gate.resolver.addresses(&name(asked)).await.unwrap_err(), error);
        let before = gate.upstream.asked().len();
        assert_eq!(gate.resolver.addresses(&name(asked)).await.unwrap_err(), error);
        assert_eq!(gate.upstream.asked().len(), before, "{asked}");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_strand_the_others() {
    let gate = Gate::start(public).await;
    let asked = name("api.good.test");
    tokio::select! {
        biased;
        _ = gate.resolver.addresses(&asked) => panic!("nothing is known yet"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(gate.resolver.addresses(&asked).await.unwrap().addrs.len(), 1);
}

#[tokio::test]
async fn the_next_server_of_the_set_is_asked_and_then_kept() {
    let broken = Upstream::start(|_, _, _| Script::Code(ResponseCode::ServFail)).await;
    let settings = DoorSettings::default();
    let bad = broken.address;
    let gate = Gate::with(public, settings, |resolving| {
        if let Upstreams::Servers(servers) = &mut resolving.upstreams {
            servers.insert(0, bad);
        }
    })
    .await;
    for n in 0..5 {
        assert_eq!(ips(&gate.ask(&format!("{n}.good.test"), RecordType::A).await), [PUBLIC]);
    }
    assert_eq!(broken.asked().len(), 1);
}
