//! Property: making a target canonical twice changes nothing more, a permit carries exactly what was judged, and what a
//! path rule permits stays below the rule's path for a server that decodes it once or twice, and is never the denied one.
//! The reader below is written apart from the product's, so that one mistake is not made in both.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use outgate::base::{Host, Scheme};
use outgate::policy::{CanonicalRequest, ClientId, LoadOptions, Snapshot, SourceFile};
use std::sync::{Arc, LazyLock};

const POLICY: &str = r#"
[[client]]
name = "agent"
source = ["10.77.1.0/24"]

[[rule]]
name = "the public part"
hosts = ["site.test"]
action = "allow"
[[rule.match]]
path = { prefix = "/public" }

[[rule]]
name = "but not that"
hosts = ["site.test"]
action = "deny"
[[rule.match]]
path = { prefix = "/public/secret" }
"#;

static JUDGE: LazyLock<(Arc<Snapshot>, ClientId)> = LazyLock::new(|| {
    let source = SourceFile { path: "policy.toml".into(), text: POLICY.into() };
    let snapshot = Snapshot::parse(&[source], &LoadOptions::default()).expect("a good policy");
    let client = snapshot.client_by_name("agent").expect("its client");
    (Arc::new(snapshot), client)
});

fn canonical(target: &str) -> Option<CanonicalRequest> {
    let host = Host::parse("site.test").expect("a host name");
    CanonicalRequest::new(Scheme::Https, host, 443, Method::GET, target, HeaderMap::new()).ok()
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let escape = match path.get(at..at + 3) {
            Some([b'%', high, low]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        out.push(escape.unwrap_or(path[at]));
        at += if escape.is_some() { 3 } else { 1 };
    }
    out
}

/// What is left of a path to a server that takes path parameters for its own.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let names = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(&b'/')
}

/// Where a server ends up that merges slashes, takes a backslash for one and follows dots; `None` is above the root.
fn place(path: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut place = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment {
            b"" | b"." => {}
            b".." => drop(place.pop()?),
            name => place.push(name.to_ascii_lowercase()),
        }
    }
    Some(place)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(target) = std::str::from_utf8(bytes) else { return };
    let Some(request) = canonical(target) else { return };
    let sent = request.path_and_query().as_str().to_owned();
    let again = canonical(&sent).expect("what is canonical is refused");
    assert_eq!(again.path_and_query().as_str(), sent, "not idempotent");

    let (snapshot, client) = &*JUDGE;
    let Ok(permit) = snapshot.judge_request(*client, request) else { return };
    assert_eq!(permit.request().path_and_query().as_str(), sent, "what is sent was not judged");
    let path = sent.split('?').next().unwrap_or_default().as_bytes();
    let once = decoded(path);
    let cut_first = decoded(&without_parameters(path));
    let readings = [(path.to_vec(), 0), (once.clone(), 1), (decoded(&once), 2)];
    let cut = [(without_parameters(&once), 1), (cut_first, 1)];
    for (reading, times) in readings.into_iter().chain(cut) {
        let place = place(&reading).expect("a permitted path climbs above the root");
        assert_eq!(
            place.first().map(Vec::as_slice),
            Some(&b"public"[..]),
            "outside the rule, decoded {times} times"
        );
        let secret = place.get(1).is_some_and(|name| name == b"secret");
        assert!(!secret || times == 2, "denied and permitted at once, decoded {times} times");
    }
});
