//! How slowly a body may arrive, whichever protocol brings it.

use super::BodyError;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// What is granted. Time in which nobody asked for the body does not count.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Waiting that is always granted.
    pub patience: Duration,
    /// Bytes that must have come for each further second of waiting; zero: `patience` is granted anew with each piece.
    pub bytes_per_second: u32,
}

/// What of a pace is used up.
#[derive(Debug)]
pub(super) struct Patience {
    pace: Pace,
    sleep: Option<Pin<Box<Sleep>>>,
    waited: Duration,
    since: Option<Instant>,
    received: u64,
}

impl Patience {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, sleep: None, waited: Duration::ZERO, since: None, received: 0 }
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.sleep = None;
        if let Some(since) = self.since.take() {
            self.waited =
                if self.pace.bytes_per_second == 0 { Duration::ZERO } else { self.waited + since.elapsed() };
        }
        self.received += bytes as u64;
    }

    /// Asked whenever nothing has come; ready when it has taken too long.
    pub(super) fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.since.get_or_insert_with(Instant::now);
        let earned = match self.pace.bytes_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs(self.received / u64::from(rate)),
        };
        let left = (self.pace.patience + earned).saturating_sub(self.waited);
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(left))).as_mut().poll(cx)
    }
}

/// A body of HTTP/2, whose libraries know no such limit.
pub struct Paced<B> {
    body: B,
    patience: Patience,
}

impl<B> Paced<B> {
    pub fn new(body: B, pace: Pace) -> Self {
        Self { body, patience: Patience::new(pace) }
    }
}

impl<B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin> HttpBody for Paced<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.patience.poll_spent(cx));
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        };
        let bytes = frame.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum();
        self.patience.received(bytes);
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// How long one wait is granted, after `bytes` came.
    async fn granted(patience: &mut Patience) -> Duration {
        let begun = Instant::now();
        poll_fn(|cx| patience.poll_spent(cx)).await;
        begun.elapsed().min(Duration::from_secs(1000))
    }

    #[tokio::test(start_paused = true)]
    async fn ht_13_waiting_is_granted_once_and_then_has_to_be_earned() {
        let pace = Pace { patience: Duration::from_secs(60), bytes_per_second: 64 };
        assert_eq!(granted(&mut Patience::new(pace)).await.as_secs(), 60);
        let mut fast = Patience::new(pace);
        fast.received(6400);
        assert_eq!(granted(&mut fast).await.as_secs(), 160);
        let mut drip = Patience::new(pace);
        for _ in 0..59 {
            let second = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                () = poll_fn(|cx| drip.poll_spent(cx)) => panic!("too early"),
                () = second => drip.received(1),
            }
        }
        assert!(granted(&mut drip).await.as_secs() <= 1, "a byte a second earns nothing");
        let mut silent = Patience::new(Pace { bytes_per_second: 0, ..pace });
        for _ in 0..3 {
            tokio::select! {
                () = poll_fn(|cx| silent.poll_spent(cx)) => panic!("too early"),
                () = tokio::time::sleep(Duration::from_secs(59)) => silent.received(1),
            }
        }
        assert_eq!(granted(&mut silent).await.as_secs(), 60, "anew with each piece");
    }
}
