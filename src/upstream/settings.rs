//! Limits of the upstream side; every default with its reason.

use crate::codec::h1::HeadLimits;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Settings {
    /// One address: long enough for a lost SYN or two, short enough to try the next address.
    pub connect: Duration,
    /// All addresses and TLS together.
    pub handshake: Duration,
    /// Connections to one place that a client may wait for at one time: one that does not answer must not hold all.
    pub dials_per_host: usize,
    /// From the end of the request to the head of the answer: language models think for minutes.
    pub response_head: Duration,
    /// How long the origin may take nothing of a request.
    pub write_stall: Duration,
    /// Silence inside an answer: event streams pause for a quarter of an hour.
    pub response_silence: Duration,
    /// Idle connections close soon: they hold memory on both sides, and most bursts are over in seconds.
    pub idle: Duration,
    /// Idle HTTP/1 connections for one destination, rule and client.
    pub idle_per_key: usize,
    /// Idle connections altogether.
    pub idle_total: usize,
    /// The head of an answer.
    pub head: HeadLimits,
    /// Body bytes that a stream of an HTTP/2 connection may send ahead of its reader.
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(20),
            dials_per_host: 256,
            response_head: Duration::from_secs(600),
            write_stall: Duration::from_secs(120),
            response_silence: Duration::from_secs(1200),
            idle: Duration::from_secs(5),
            idle_per_key: 64,
            idle_total: 1024,
            head: HeadLimits { bytes: 128 * 1024, fields: 128 },
            h2_stream_window: 256 * 1024,
            h2_connection_window: 64 * 1024 * 1024,
        }
    }
}
