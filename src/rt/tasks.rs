//! A counted set of tasks with one drain signal.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Spawns tasks and ends them together. Clones share one set.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    running: AtomicUsize,
    emptied: Notify,
    draining: watch::Sender<bool>,
}

/// Tells its holder when the set begins to drain.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<bool>);

impl Drain {
    /// Completes when draining begins; at once if it already has.
    pub async fn signalled(&mut self) {
        // An error means that the set itself is gone, which is a drain too.
        let _ = self.0.wait_for(|draining| *draining).await;
    }

    pub fn is_signalled(&self) -> bool {
        *self.0.borrow()
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    pub fn new() -> Self {
        let (draining, _) = watch::channel(false);
        Self { shared: Arc::new(Shared { running: AtomicUsize::new(0), emptied: Notify::new(), draining }) }
    }

    /// Runs a future as a task of its own. A panic in it ends only it, and is logged under the task's name by the
    /// panic hook.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(self.shared.clone(), name);
        #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
        tokio::spawn(async move {
            let _counted = counted;
            work.await;
        });
    }

    pub fn drain_signal(&self) -> Drain {
        Drain(self.shared.draining.subscribe())
    }

    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::Relaxed)
    }

    /// Asks every task to end and waits for them, but no longer than `patience`. Gives back how many were left.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.shared.draining.send_replace(true);
        let all_gone = async {
            loop {
                let emptied = self.shared.emptied.notified();
                if self.running() == 0 {
                    return;
                }
                emptied.await;
            }
        };
        let _ = tokio::time::timeout(patience, all_gone).await;
        self.running()
    }
}

/// hyper's HTTP/2 starts its own tasks through this.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, work: F) {
        self.spawn("http2", work);
    }
}

struct Counted {
    shared: Arc<Shared>,
    name: &'static str,
}

impl Counted {
    fn new(shared: Arc<Shared>, name: &'static str) -> Self {
        shared.running.fetch_add(1, Ordering::Relaxed);
        Self { shared, name }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked");
        }
        if self.shared.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_tasks_that_heed_it_and_counts_those_that_do_not() {
        let tasks = Tasks::new();
        let mut signal = tasks.drain_signal();
        tasks.spawn("heeds", async move { signal.signalled().await });
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.drain(Duration::from_secs(1)).await, 1);
    }
}
