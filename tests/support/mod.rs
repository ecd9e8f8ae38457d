//! The proving ground: namespaces, an internet with taps, the daemon under test, and clients that repair nothing.
//!
//! Start at `Bed`: `Bed::new(policy)` makes a world and starts the gate in it; `mark` and `since` judge by the taps of
//! GAUNTLET section 1 (T2 `origin`, T3 `capture`, T4 `dns`, T5 `gate`). A bed belongs to one test.

pub mod bed;
pub mod ca;
pub mod capture;
pub mod dns;
pub mod docker;
pub mod files;
pub mod frames;
pub mod gate;
pub mod git;
pub mod h2;
pub mod hello;
pub mod holder;
pub mod jail;
pub mod message;
pub mod ns;
pub mod origin;
pub mod orphans;
pub mod pages;
pub mod parsers;
pub mod policies;
pub mod programs;
pub mod proxy;
pub mod registries;
pub mod tls13;
pub mod websocket;
pub mod wire;
pub mod world;

pub use bed::{Bed, Way, assert_denied, growth_during};
pub use gate::{Record, Setup};
pub use message::{get, post};
pub use policies::*;
pub use wire::{End, Wire};
pub use world::*;
