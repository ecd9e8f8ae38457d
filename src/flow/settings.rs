//! Limits of connections; every default with its reason.

use crate::codec::h1::HeadLimits;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Settings {
    /// First bytes and the whole TLS handshake: ten times what a far, slow client needs.
    pub hello: Duration,
    /// A whole request head, from its first byte.
    pub head: Duration,
    /// Between requests on one connection; clients keep theirs for a minute or two.
    pub idle: Duration,
    /// Waiting for a request body that is always granted, beside the rate below.
    pub body_patience: Duration,
    /// Bytes a second that a body must bring on average once that is used up. Back-pressure of ours does not count.
    pub body_rate: u32,
    /// How long a client may take nothing of its answer; a download that was paused is taken up again sooner.
    pub write_stall: Duration,
    /// The unread rest of an upload that was refused is read and thrown away for so long, so that the client sees the
    /// answer instead of a reset.
    pub drain_time: Duration,
    /// Heads of requests; the same figures hold for HTTP/2.
    pub head_limits: HeadLimits,
    /// Open connections of one client.
    pub flows_per_client: usize,
    /// Open connections altogether.
    pub flows_total: usize,
    /// Certificates for new names that a client may cause, on average and at once.
    pub leaves_per_second: u32,
    pub leaves_burst: u32,
    /// Streams of one HTTP/2 connection.
    pub h2_streams: u32,
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
    /// Silence on a tunnel before it is closed.
    pub tunnel_idle: Duration,
    /// How long open flows may go on after SIGTERM: most answers end sooner, and a restart must not take for ever.
    pub stop: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            body_patience: Duration::from_secs(60),
            body_rate: 64,
            write_stall: Duration::from_secs(600),
            drain_time: Duration::from_secs(5),
            head_limits: HeadLimits { bytes: 64 * 1024, fields: 100 },
            flows_per_client: 2048,
            flows_total: 16384,
            leaves_per_second: 100,
            leaves_burst: 1000,
            h2_streams: 128,
            h2_stream_window: 256 * 1024,
            h2_connection_window: 1024 * 1024,
            tunnel_idle: Duration::from_secs(3600),
            stop: Duration::from_secs(10),
        }
    }
}
