//! The product on real sockets in real namespaces: one binary, one module a subject, names that carry gauntlet ids.
//!
//! One binary because linking is most of what many small ones would cost. `ground` proves the proving ground itself.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that stops is a test that failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod bypass;
mod clients;
mod credentials;
mod doors;
mod faults;
mod framing;
mod ground;
mod handshake;
mod identity;
mod leaks;
mod names;
mod paths;
mod streaming;
mod verdicts;
