//! Property: findings do not depend on where chunks end, and no byte of a finding is handed out before it is found.
//! The first three bytes of an input choose the coding and the chunks, the rest is the message.
#![no_main]

#[path = "../pieces.rs"]
mod pieces;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outgate::base::SecretBytes;
use outgate::dlp::{Coding, Detectors, KnownSecret, Limits, Selection, Stop, Stream};
use pieces::cut;
use std::sync::{Arc, LazyLock};

static DETECTORS: LazyLock<Arc<Detectors>> = LazyLock::new(|| {
    let secret = KnownSecret { name: "canary".into(), value: SecretBytes::new(b"swordfish-4711".to_vec()) };
    Arc::new(Detectors::compile(&[secret], &[]).expect("the shipped patterns compile"))
});

/// Small, so that bombs are met.
const LIMITS: Limits = Limits { ratio: 50, free: 64 * 1024, decoded: 1 << 20 };

/// What came out, and how it ended.
fn run<'a>(coding: Coding, chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<(), Stop>) {
    let mut stream = Stream::new(&DETECTORS, Selection::all(), coding, LIMITS);
    let mut out = Vec::new();
    let mut end = Ok(());
    for chunk in chunks {
        end = stream.push(Bytes::copy_from_slice(chunk));
        while let Some(released) = stream.pop() {
            out.extend_from_slice(&released);
        }
        if end.is_err() {
            return (out, end);
        }
    }
    if end.is_ok() {
        end = stream.finish();
        while let Some(released) = stream.pop() {
            out.extend_from_slice(&released);
        }
    }
    (out, end)
}

fuzz_target!(|input: &[u8]| {
    let [coding, most, seed, message @ ..] = input else { return };
    let coding = if coding % 2 == 0 { Coding::Identity } else { Coding::Gzip };
    let most = 1 + usize::from(*most);
    let (whole, whole_end) = run(coding, std::iter::once(message));
    let (pieces, pieces_end) = run(coding, cut(message, most, u32::from(*seed)).into_iter());
    assert_eq!(whole_end, pieces_end, "another end in chunks of 1 to {most}");
    for (released, end) in [(&whole, &whole_end), (&pieces, &pieces_end)] {
        assert!(message.starts_with(released), "what came out is not what went in");
        match end {
            Ok(()) => assert_eq!(released.len(), message.len(), "bytes of a clean message are missing"),
            // The offset counts decoded bytes where there is a coding.
            Err(Stop::Finding(finding)) if coding == Coding::Identity => {
                assert!(released.len() as u64 <= finding.offset, "a part of {finding:?} was released");
            }
            Err(_) => {}
        }
    }
});
