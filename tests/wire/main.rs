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

mod answers;
mod attach;
mod attach_interfaces;
mod authority;
mod bypass;
mod chain;
mod claims;
mod clients;
mod clock;
mod crashes;
mod credentials;
mod differential;
mod doctor;
mod doors;
mod events;
mod exec;
mod exec_walls;
mod faults;
mod framing;
mod git;
mod ground;
mod grpc;
mod h2_answers;
mod h2_breaches;
mod h2_floods;
mod h2_frames;
mod h2_messages;
mod handshake;
mod hellos;
mod identity;
mod interim;
mod languages;
mod leaving;
mod leaks;
mod mutual;
mod names;
mod nested;
mod packages;
mod packets;
mod paths;
mod quic;
mod records;
mod refusals;
mod registries;
mod reloads;
mod resolver;
mod resources;
mod restarts;
mod retries;
mod sidecar;
mod smuggling;
mod shim;
mod stacks;
mod streaming;
mod supervised;
mod transfers;
mod upstreams;
mod verdicts;
mod virtuals;
mod websockets;
