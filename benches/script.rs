//! What a script costs a request, and what redaction costs an answer.
//!
//! `request hook`: build the view, two conditions on method and path, one header read. Aim: under 6 µs.
//! `redact clean`: 64 KiB of text without a secret, ten secrets. Aim: above 1 GB/s, since it scans only answers under
//! rules that inject. Compare with `cargo bench --bench script -- --baseline NAME`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has to stop")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method};
use outgate::base::{Door, Host, Scheme, SecretBytes};
use outgate::script::{Engine, RequestView, Settings};
use outgate::secrets::Redactor;
use std::path::Path;

const SCRIPT: &str = r#"
fn request(req) {
    if req.method != "GET" && req.method != "HEAD" { return deny("read only"); }
    if !req.path.starts_with("/repos/acme/") { return deny("outside"); }
    if req.header("x-admin") != "" { return deny("admin"); }
    pass()
}"#;

fn scripts(criterion: &mut Criterion) {
    let engine = Engine::new(Settings::default());
    let script = engine.compile(Path::new("bench.rhai"), SCRIPT).unwrap();
    let headers: HeaderMap = ["accept", "user-agent", "authorization", "accept-encoding", "x-request-id"]
        .into_iter()
        .map(|name| (name.parse().unwrap(), HeaderValue::from_static("a value of usual length")))
        .collect();
    let view = RequestView {
        client: "agent".into(),
        door: Door::Transparent,
        method: Method::GET,
        scheme: Scheme::Https,
        host: Host::parse("api.example.com").unwrap(),
        port: 443,
        path: "/repos/acme/app/pulls/17".into(),
        query: Some("page=2".into()),
        headers,
    };
    criterion.bench_function("request hook", |bench| {
        bench.iter_batched(|| view.clone(), |view| script.request(view), criterion::BatchSize::SmallInput);
    });
    criterion.bench_function("compile", |bench| {
        bench.iter(|| engine.compile(Path::new("bench.rhai"), SCRIPT));
    });
}

fn redaction(criterion: &mut Criterion) {
    let secrets: Vec<SecretBytes> =
        (0..10).map(|n| SecretBytes::new(format!("ghp_{n:0>4}{}", "a1B2".repeat(8)).into_bytes())).collect();
    let redactor = Redactor::new(&secrets).unwrap();
    let line = "{\"id\": 4711, \"name\": \"an answer of an api\", \"url\": \"https://api.example.com/repos/acme\"}\n";
    let body = Bytes::from(line.repeat(64 * 1024 / line.len()));
    let mut group = criterion.benchmark_group("redact");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("clean", |bench| {
        bench.iter(|| redactor.start().push(body.clone()));
    });
    group.finish();
}

criterion_group!(benches, scripts, redaction);
criterion_main!(benches);
