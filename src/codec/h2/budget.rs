//! How much a peer may ask of a connection that is no work: a bucket of tokens that progress and time fill again.

use std::time::Duration;
use tokio::time::Instant;

/// What a bucket holds and how time fills it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure {
    /// Tokens at the beginning, and at most.
    pub(super) most: u32,
    /// Tokens that come back each second, whatever the peer does.
    pub(super) per_second: u32,
}

/// Frames without work. An honest client sends a handful for each request, and WINDOW_UPDATEs for what it downloads;
/// some send two for each small piece of an event stream, which the rate is for. At 2 µs each, the most that an idle
/// connection can cost is a thousandth of a core.
pub(super) const IDLE_FRAMES: Measure = Measure { most: 4000, per_second: 500 };
/// Tokens that a new stream brings: its priorities, window updates and pings.
pub(super) const FOR_STREAM: u32 = 16;
/// Bytes of DATA, either way, that bring a token. The most frugal window needs two updates for 16 KiB, the most
/// wasteful client sends two for each frame.
pub(super) const BYTES_A_TOKEN: usize = 128;

/// Streams that a client resets. Leaving a page cancels all of its streams, a deadline one; each stream that ends in
/// order gives a token back.
pub(super) const RESETS: Measure = Measure { most: 200, per_second: 20 };

#[derive(Debug)]
pub(super) struct Budget {
    measure: Measure,
    tokens: u32,
    /// Bytes of progress that have not yet made a token.
    crumbs: usize,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(measure: Measure) -> Self {
        Self { measure, tokens: measure.most, crumbs: 0, filled: Instant::now() }
    }

    pub(super) fn earn(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.measure.most);
    }

    pub(super) fn earn_for(&mut self, bytes: usize) {
        self.crumbs += bytes;
        self.earn(u32::try_from(self.crumbs / BYTES_A_TOKEN).unwrap_or(u32::MAX));
        self.crumbs %= BYTES_A_TOKEN;
    }

    /// Whether this much is still granted. Only an empty bucket asks for the time.
    #[must_use]
    pub(super) fn spend(&mut self, tokens: u32) -> bool {
        if self.tokens < tokens {
            self.fill();
        }
        let left = self.tokens.checked_sub(tokens);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }

    fn fill(&mut self) {
        let per_second = u128::from(self.measure.per_second);
        let passed = self.filled.elapsed().as_micros();
        let earned = passed * per_second / 1_000_000;
        if earned > 0 {
            // The rest of a token's time is kept for the next one.
            let spent = u64::try_from(earned * 1_000_000 / per_second.max(1)).unwrap_or(u64::MAX);
            self.filled += Duration::from_micros(spent);
            self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(budget: &mut Budget) -> u32 {
        (0..).take_while(|_| budget.spend(1)).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn ht_04_what_carries_no_work_is_granted_by_number_then_by_work_and_time() {
        let mut budget = Budget::new(IDLE_FRAMES);
        assert_eq!(spent(&mut budget), 4000);
        budget.earn(FOR_STREAM);
        assert_eq!(spent(&mut budget), 16);
        for _ in 0..128 {
            budget.earn_for(16 * 1024 + 1);
        }
        assert_eq!(spent(&mut budget), 4000, "never more than at the beginning");
        for _ in 0..128 {
            budget.earn_for(1);
        }
        assert_eq!(spent(&mut budget), 1, "crumbs add up");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(spent(&mut budget), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_honest_client_never_reaches_the_end_of_its_budget() {
        // Two updates for every event of 60 bytes, two hundred events a second, for ten minutes.
        let mut budget = Budget::new(IDLE_FRAMES);
        for _ in 0..120_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            budget.earn_for(60);
            assert!(budget.spend(2));
        }
        // A download whose client answers each frame twice, as fast as it can.
        let mut budget = Budget::new(IDLE_FRAMES);
        for _ in 0..1_000_000 {
            budget.earn_for(1024);
            assert!(budget.spend(2));
        }
    }
}
