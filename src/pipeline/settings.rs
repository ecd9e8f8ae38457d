//! Limits of an exchange.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Settings {
    /// A suffix that DLP holds back is released after this much silence, so that interactive streams never hang.
    pub quiet: Duration,
    /// Decoded bytes of one compressed body that DLP looks at; more is a bomb.
    pub decoded_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(20), decoded_bytes: 1 << 33 }
    }
}
