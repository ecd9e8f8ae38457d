//! Outgate: the one way out for code that is not trusted.
//!
//! The modules from top to bottom. A module names only modules printed below it; `tests/layers.rs` keeps that.
//! Read `flow` first: it has one file for each step that a connection goes through.

pub mod cli;
pub mod daemon;
pub mod doctor;
pub mod config;
pub mod admin;
pub mod flow;
pub mod pipeline;
pub mod upstream;
pub mod quic;
pub mod dns;
pub mod shim;
pub mod tls;
pub mod codec;
pub mod net;
pub mod steer;
pub mod audit;
pub mod telemetry;
pub mod policy;
pub mod script;
pub mod dlp;
pub mod secrets;
pub mod rt;
pub mod base;
