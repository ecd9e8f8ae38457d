//! What inspection costs on clean traffic, all default detectors and five known secrets on.
//!
//! - `stream/*`: a [`Stream`] fed 4 MiB in pieces of 16 KiB (what a TLS record brings), everything popped. It should do 1 GB/s
//!   and more on text, JSON, HTML and random bytes; `base64` and `wrapped` are random bytes in base64, one line and 76 columns,
//!   and `form` is percent-escaped text, the worst honest cases.
//! - `gzip`: the JSON compressed; given per decoded byte, so inflating dominates.
//! - `head`: a request target and ten header values of 300 bytes in all; should stay well under 1.5 µs.
//! - `compile`: from configuration to detectors; a few milliseconds, once a reload.
//!
//! `cargo bench --bench dlp -- stream/json` runs one of them. Compare only runs of one machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may panic")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outgate::base::SecretBytes;
use outgate::dlp::{Coding, Detectors, KnownSecret, Limits, Selection, Stream};
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

const LEN: usize = 4 << 20;
const PIECE: usize = 16 << 10;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 56) as u8).collect()
    }

    fn words(&mut self, n: usize) -> String {
        const WORDS: &str = "the of and to in for is on that by this with you it not or be are from at as your all have new more an was we will \
            home can us about if page my has search free but our one other do no information time they site he up may what which their news \
            out use any there see only so his when contact here business who web also now help get view online first been would how were \
            services some these click its like service than find price date back top people had list name just over state year day into \
            email two health world next used go work last most products music buy data make them should product system post her city add \
            policy number such please available copyright support message after best software then good video well where info rights public \
            books high school through each links she review years order very privacy book items company read group need many user said";
        let all: Vec<&str> = WORDS.split_whitespace().collect();
        (0..n).map(|_| all[self.below(all.len())]).collect::<Vec<_>>().join(" ")
    }
}

fn repeat(mut make: impl FnMut(&mut Random) -> String) -> Bytes {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut text = String::new();
    while text.len() < LEN {
        text.push_str(&make(&mut random));
    }
    text.truncate(LEN);
    text.into_bytes().into()
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes)
}

fn inputs() -> Vec<(&'static str, Bytes)> {
    let random = Random(0x9e37_79b9_7f4a_7c15).bytes(LEN);
    let blob = base64(&random);
    let wrapped: Vec<u8> =
        blob.as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"].concat()).take(LEN).collect();
    vec![
        ("text", repeat(|r| r.words(14) + ".\n")),
        (
            "json",
            repeat(|r| {
                format!(
                    "{{\"id\":{},\"key\":\"{}\",\"user\":{{\"name\":\"{}\",\"email\":\"{}@example.com\",\"url\":\"https://example.com/{}/{}\"}},\"text\":\"{}\\n\",\"score\":{}.{}}},\n",
                    r.below(1_000_000),
                    r.words(1),
                    r.words(2),
                    r.words(1),
                    r.words(1),
                    r.below(9999),
                    r.words(20),
                    r.below(100),
                    r.below(1000)
                )
            }),
        ),
        (
            "html",
            repeat(|r| {
                format!(
                    "<div class=\"item-{} row col-md-{}\"><a href=\"/path/{}?q={}%20{}&amp;p={}\">{}</a>\n  <p>{}</p></div>\n",
                    r.below(99),
                    r.below(12),
                    r.words(1),
                    r.words(1),
                    r.words(1),
                    r.below(99),
                    r.words(4),
                    r.words(18)
                )
            }),
        ),
        ("random", random.into()),
        ("base64", blob.into_bytes().into()),
        ("wrapped", wrapped.into()),
        (
            "form",
            repeat(|r| {
                format!(
                    "field{}={}&",
                    r.below(99),
                    r.words(9).replace(' ', "%20").replace("the", "%7B%22the%22%3A%2F")
                )
            }),
        ),
    ]
}

fn detectors() -> Arc<Detectors> {
    let mut random = Random(7);
    let known: Vec<KnownSecret> = (0..5)
        .map(|i| KnownSecret {
            name: format!("secret {i}").as_str().into(),
            value: SecretBytes::new(base64(&random.bytes(24)).into_bytes()),
        })
        .collect();
    Arc::new(Detectors::compile(&known, &[]).unwrap())
}

fn run(detectors: &Arc<Detectors>, body: &Bytes, coding: Coding) -> usize {
    let mut stream = Stream::new(detectors, Selection::all(), coding, Limits::default());
    let mut out = 0;
    for at in (0..body.len()).step_by(PIECE) {
        stream.push(body.slice(at..(at + PIECE).min(body.len()))).unwrap();
        while let Some(bytes) = stream.pop() {
            out += bytes.len();
        }
    }
    stream.finish().unwrap();
    while let Some(bytes) = stream.pop() {
        out += bytes.len();
    }
    assert_eq!(out, body.len());
    out
}

fn bench(c: &mut Criterion) {
    let detectors = detectors();
    let inputs = inputs();
    let mut group = c.benchmark_group("stream");
    for (name, body) in &inputs {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), body, |b, body| {
            b.iter(|| run(&detectors, black_box(body), Coding::Identity));
        });
    }
    group.finish();

    let json = &inputs[1].1;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(json).unwrap();
    let packed: Bytes = encoder.finish().unwrap().into();
    let mut group = c.benchmark_group("gzip");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("json", |b| b.iter(|| run(&detectors, black_box(&packed), Coding::Gzip)));
    group.finish();

    let head: [&[u8]; 11] = [
        b"/v1/repos/acme/widgets/contents/src/main.rs?ref=main&per_page=100",
        b"api.example.com",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
        b"application/json, text/plain, */*",
        b"en-US,en;q=0.5",
        b"gzip, deflate, br, zstd",
        b"https://www.example.com/some/page?x=1",
        b"application/json; charset=utf-8",
        b"session=4f2d1c9a7e; theme=dark",
        b"no-cache",
        b"1234",
    ];
    c.bench_function("head", |b| b.iter(|| detectors.scan_each(Selection::all(), black_box(head)).is_none()));
    c.bench_function("compile", |b| b.iter(|| Detectors::compile(black_box(&[]), &[]).is_ok()));
}

criterion_group!(benches, bench);
criterion_main!(benches);
