//! A future that lets all other ready tasks of its worker go first.
//!
//! A connection of many streams is woken by each of them. tokio runs the task woken last at once, so that each stream's
//! bytes would leave in a write of their own; polled behind the streams that are ready, the connection sends them
//! together. It costs one more turn of the scheduler, and no time when nothing else is ready.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project_lite::pin_project! {
    #[derive(Debug)]
    pub struct Lazily<F> {
        #[pin]
        work: F,
        others_went: bool,
    }
}

impl<F> Lazily<F> {
    pub fn new(work: F) -> Self {
        Self { work, others_went: false }
    }

    pub fn inner(self: Pin<&mut Self>) -> Pin<&mut F> {
        self.project().work
    }
}

impl<F: Future> Future for Lazily<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        *this.others_went = !*this.others_went;
        if *this.others_went {
            // A task that wakes itself goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.work.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn everything_that_is_ready_goes_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let order = order.clone();
            async move { order.lock().unwrap().push(what) }
        };
        let tasks = crate::rt::Tasks::new();
        tasks.spawn("last", Lazily::new(note("connection")));
        tasks.spawn("first", note("stream"));
        tasks.spawn("second", note("stream"));
        tasks.drain(std::time::Duration::from_secs(5), std::time::Duration::ZERO).await;
        assert_eq!(*order.lock().unwrap(), ["stream", "stream", "connection"]);
    }
}
