//! Outgate: the one way out for code that is not trusted.
//!
//! The modules from top to bottom. A module names only modules printed below it; `tests/layers.rs` keeps that.
//! Read `flow` first: it has one file for each step that a connection goes through.

pub mod admin;
pub mod audit;
pub mod base;
pub mod cli;
pub mod codec;
pub mod config;
pub mod daemon;
pub mod dlp;
pub mod dns;
pub mod flow;
pub mod net;
pub mod pipeline;
pub mod policy;
pub mod rt;
pub mod script;
pub mod secrets;
pub mod steer;
pub mod telemetry;
pub mod tls;
pub mod upstream;
