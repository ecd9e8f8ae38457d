//! Metrics and logs: what an operator watches. Neither ever holds a secret, a header or a request target.
//!
//! Every module counts through `Metrics`; `daemon` calls `logs::init` once and sets the gauges that are read off other
//! modules when somebody scrapes. Decisions belong to `audit`, not here.

pub mod logs;
mod metrics;
mod sites;

pub use metrics::Metrics;
