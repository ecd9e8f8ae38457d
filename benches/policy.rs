//! What a verdict costs: one rule a host, 10 to 100,000 of them, and making an ordinary request canonical.
//!
//! Expected: under 2 µs a verdict with 10,000 rules, and about the same with 100,000. Each verdict includes a clone of
//! the request (it is given away), which `clone` measures alone.
//!
//! `exchange` is what stands between the head of an ordinary request over HTTP/1.1 and its permit, step by step: each
//! name says how far it goes, and begins with a head that was read. Expected: under 3 µs for claim and canonical form.
//! Run with `cargo bench --bench policy`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot be set up has nothing to measure")]

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use outgate::base::{Host, HostName, Scheme};
use outgate::codec::h1::{HeadLimits, RequestHead, parse_request};
use outgate::flow::claim::{self, Connection};
use outgate::pipeline::Asked;
use outgate::policy::{CanonicalRequest, LoadOptions, Snapshot, SourceFile};
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

fn snapshot(rules: usize) -> Arc<Snapshot> {
    let mut text = String::from("[[client]]\nname = \"agent\"\nsource = [\"10.0.0.0/8\"]\n");
    for number in 0..rules {
        let host = if number % 10 == 0 {
            format!("*.z{number}.example.test")
        } else {
            format!("h{number}.example.test")
        };
        let condition =
            "[[rule.match]]\nmethods = [\"GET\", \"HEAD\"]\npath = { prefix = \"/repos/acme\" }\n";
        let _ = write!(
            text,
            "[[rule]]\nname = \"r{number}\"\nhosts = [\"{host}\"]\naction = \"allow\"\n{condition}"
        );
    }
    let source = SourceFile { path: "bench.toml".into(), text };
    match Snapshot::parse(&[source], &LoadOptions::default()) {
        Ok(snapshot) => Arc::new(snapshot),
        Err(problems) => panic!("{problems}"),
    }
}

fn headers() -> http::HeaderMap {
    let fields = [
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("authorization", "Bearer placeholder"),
        ("content-type", "application/json"),
        ("cookie", "a=b"),
        ("user-agent", "agent/1.0"),
        ("x-request-id", "0123456789"),
        ("connection", "keep-alive"),
    ];
    fields
        .into_iter()
        .map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v)))
        .collect()
}

fn request(host: &str) -> CanonicalRequest {
    let host = Host::parse(host).unwrap();
    let target = "/repos/acme/site/contents/src?ref=main";
    CanonicalRequest::new(Scheme::Https, host, 443, http::Method::GET, target, headers()).unwrap()
}

fn verdicts(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy");
    for rules in [10, 1_000, 10_000, 100_000] {
        let snapshot = snapshot(rules);
        let client = snapshot.client(None, "10.1.2.3".parse().unwrap()).unwrap();
        let exact = request(&format!("h{}.example.test", rules - 1));
        let wild = request(&format!("a.b.z{}.example.test", rules - 10));
        let denied = request("www.elsewhere.example.com");
        assert!(snapshot.judge_request(client, exact.clone()).is_ok());
        assert!(snapshot.judge_request(client, wild.clone()).is_ok());
        assert!(snapshot.judge_request(client, denied.clone()).is_err());
        for (kind, request) in [("exact", &exact), ("wildcard", &wild), ("denied", &denied)] {
            group.bench_function(format!("request/{kind}/{rules}"), |b| {
                b.iter(|| black_box(snapshot.judge_request(client, black_box(request).clone())).is_ok());
            });
        }
        let host = exact.host().clone();
        group.bench_function(format!("connect/{rules}"), |b| {
            b.iter(|| black_box(snapshot.judge_connect(client, black_box(&host), 443)));
        });
        let name = HostName::parse("denied.example.org").unwrap();
        group.bench_function(format!("dns/denied/{rules}"), |b| {
            b.iter(|| black_box(snapshot.judge_dns(client, black_box(&name), 1)));
        });
    }
    group.bench_function("clone", |b| {
        let request = request("api.example.test");
        b.iter(|| black_box(black_box(&request).clone()));
    });
    group.finish();
}

fn normalise(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalise");
    let host = Host::parse("api.example.test").unwrap();
    let targets = [
        ("ordinary", "/repos/acme/site/contents/src/main.rs?ref=main&page=2"),
        ("escapes", "/repos/acme/a%20file%C3%A9.rs?q=a%20b"),
        ("dots", "/repos/acme/../other/./x"),
    ];
    for (kind, target) in targets {
        group.bench_function(kind, |b| {
            b.iter_batched(
                headers,
                |headers| {
                    CanonicalRequest::new(
                        Scheme::Https,
                        host.clone(),
                        443,
                        http::Method::GET,
                        black_box(target),
                        headers,
                    )
                },
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// An ordinary request of an agent, to the host of the last of a thousand rules.
const HEAD: &str = "GET /repos/acme/site/contents/src/main.rs?ref=main&page=2 HTTP/1.1\r\n\
    Host: h999.example.test\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\n\
    Authorization: Bearer placeholder\r\nContent-Type: application/json\r\nCookie: a=b\r\n\
    User-Agent: agent/1.0\r\nX-Request-Id: 0123456789\r\nConnection: keep-alive\r\n\r\n";

fn read(mut bytes: BytesMut) -> RequestHead {
    parse_request(&mut bytes, 0, &HeadLimits { bytes: 65_536, fields: 100 }).unwrap().unwrap()
}

fn canonical(asked: Asked) -> CanonicalRequest {
    let Asked { scheme, host, port, method, target, headers, .. } = asked;
    CanonicalRequest::new(scheme, host, port, method, &target, headers).unwrap()
}

fn exchange(c: &mut Criterion) {
    let mut group = c.benchmark_group("exchange");
    let snapshot = snapshot(1_000);
    let client = snapshot.client(None, "10.1.2.3".parse().unwrap()).unwrap();
    let connection = Connection {
        scheme: Scheme::Https,
        host: Some(Host::parse("h999.example.test").unwrap()),
        leased: None,
        port: 443,
    };
    let claimed = |head| match claim::h1(head, &connection) {
        Ok(asked) => *asked,
        Err(_) => panic!("an ordinary request is claimed"),
    };
    group.bench_function("0 read", |b| {
        b.iter_batched(|| BytesMut::from(HEAD), read, BatchSize::SmallInput);
    });
    let head = || read(BytesMut::from(HEAD));
    group.bench_function("1 claim", |b| b.iter_batched(head, claimed, BatchSize::SmallInput));
    group.bench_function("2 claim and canonical form", |b| {
        b.iter_batched(head, |head| canonical(claimed(head)), BatchSize::SmallInput);
    });
    group.bench_function("3 claim, canonical form and verdict", |b| {
        b.iter_batched(
            head,
            |head| {
                let Ok(permit) = snapshot.judge_request(client, canonical(claimed(head))) else {
                    panic!("an ordinary request is allowed")
                };
                permit
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn load(c: &mut Criterion) {
    c.bench_function("load/1000", |b| b.iter(|| snapshot(1_000)));
}

criterion_group!(benches, verdicts, normalise, exchange, load);
criterion_main!(benches);
