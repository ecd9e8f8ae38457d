//! The DNS door and the resolver against a scripted upstream on loopback: what a client gets, what upstream is asked,
//! what is recorded. Cases carry their id of the gauntlet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod answers;
mod denials;
mod edns;
mod gate;
mod guarding;
mod peers;
mod upstream;
mod wire;
