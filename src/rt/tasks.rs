//! A counted set of tasks with one drain signal, and a question to those that must never stop: are you still there?

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

/// A client that was accepted just before the drain may still say what it wants.
pub const LAST_CALL: Duration = Duration::from_secs(2);

/// Spawns tasks and ends them together. Clones share one set.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    running: AtomicUsize,
    emptied: Notify,
    phase: watch::Sender<Phase>,
    /// The last phase once more, for those who look at it with every piece of a body.
    over: AtomicBool,
    vital: Mutex<Vec<Vital>>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    /// The patience of the drain is used up.
    Over,
}

/// A task without which there is no service.
#[derive(Debug)]
struct Vital {
    name: &'static str,
    ask: mpsc::Sender<oneshot::Sender<()>>,
}

/// Tells its holder how the set ends: first it drains, then it is over.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: watch::Receiver<Phase>,
    shared: Arc<Shared>,
}

impl Drain {
    /// Completes when draining begins; at once if it already has.
    pub async fn signalled(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Completes a moment after draining began: who was let in before has had time to say what he wants.
    pub async fn last_call(&mut self) {
        self.signalled().await;
        // Boxed: every idle connection holds the place of this future.
        Box::pin(tokio::time::sleep(LAST_CALL)).await;
    }

    /// Completes when what still runs has to end.
    pub async fn over(&mut self) {
        self.reached(Phase::Over).await;
    }

    /// As cheap as a look at a number.
    pub fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Relaxed)
    }

    async fn reached(&mut self, wanted: Phase) {
        // No error: the sender is ours too.
        let _ = self.phase.wait_for(|phase| *phase >= wanted).await;
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    pub fn new() -> Self {
        let (phase, _) = watch::channel(Phase::Running);
        let shared = Shared {
            running: AtomicUsize::new(0),
            emptied: Notify::new(),
            phase,
            over: AtomicBool::new(false),
            vital: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs a future as a task of its own. A panic in it ends only it, and is logged under the task's name by the
    /// panic hook.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(self.shared.clone(), name);
        #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
        tokio::spawn(Counting { work, _counted: counted });
    }

    /// Runs what works for other tasks and never for itself, as the driver of a connection that is kept for the next
    /// request. No drain waits for it; it ends with the runtime.
    pub fn spawn_aside(&self, work: impl Future<Output = ()> + Send + 'static) {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
        tokio::spawn(work);
    }

    /// A task of which [`Tasks::silent`] asks whether it still runs: it answers between two steps of its work.
    pub fn spawn_vital(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (ask, mut asked) = mpsc::channel::<oneshot::Sender<()>>(1);
        self.vital().push(Vital { name, ask });
        self.spawn(name, async move {
            let mut work = pin!(work);
            loop {
                tokio::select! {
                    biased;
                    () = &mut work => return,
                    Some(answer) = asked.recv() => {
                        let _ = answer.send(());
                    }
                }
            }
        });
    }

    /// The vital tasks that have ended, or do not answer within this time: they hang, or nobody runs them.
    pub async fn silent(&self, within: Duration) -> Vec<&'static str> {
        let deadline = Instant::now() + within;
        let asked: Vec<_> = self.vital().iter().map(|vital| (vital.name, vital.ask.clone())).collect();
        let mut silent = Vec::new();
        for (name, ask) in asked {
            let (answer, answered) = oneshot::channel();
            let asking = async {
                ask.send(answer).await.ok()?;
                answered.await.ok()
            };
            if !matches!(tokio::time::timeout_at(deadline, asking).await, Ok(Some(()))) {
                silent.push(name);
            }
        }
        silent
    }

    fn vital(&self) -> std::sync::MutexGuard<'_, Vec<Vital>> {
        self.shared.vital.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        *self.shared.phase.borrow() >= Phase::Draining
    }

    pub fn drain_signal(&self) -> Drain {
        Drain { phase: self.shared.phase.subscribe(), shared: self.shared.clone() }
    }

    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::Relaxed)
    }

    /// Asks every task to end and waits for them, but no longer than `patience`; then tells them that it is over, and
    /// waits for `rest`. Gives back how many are left even so.
    pub async fn drain(&self, patience: Duration, rest: Duration) -> usize {
        self.enter(Phase::Draining, patience).await;
        if self.running() > 0 {
            self.shared.over.store(true, Ordering::Relaxed);
            self.enter(Phase::Over, rest).await;
        }
        self.running()
    }

    async fn enter(&self, phase: Phase, patience: Duration) {
        self.shared.phase.send_replace(phase);
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
    }
}

/// hyper's HTTP/2, which the demo's host speaks, starts its own tasks through this.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, work: F) {
        self.spawn("http2", work);
    }
}

pin_project_lite::pin_project! {
    /// Work and its place in the count. By hand, because an async block would hold the work twice: once as what it
    /// captured and once as what it awaits, and every spawn would move both.
    struct Counting<F> {
        #[pin]
        work: F,
        _counted: Counted,
    }
}

impl<F: Future<Output = ()>> Future for Counting<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().work.poll(cx)
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
        let mut last = tasks.drain_signal();
        tasks.spawn("heeds", async move { signal.signalled().await });
        tasks.spawn("takes its time", async move { last.over().await });
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.drain(Duration::from_secs(1), Duration::from_secs(1)).await, 1);
        assert!(tasks.drain_signal().is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_vital_task_that_has_ended_is_silent_and_one_that_waits_is_not() {
        let tasks = Tasks::new();
        tasks.spawn_vital("waits", std::future::pending());
        assert!(tasks.silent(Duration::from_secs(1)).await.is_empty());
        tasks.spawn_vital("ended", async {});
        assert_eq!(tasks.silent(Duration::from_secs(1)).await, ["ended"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_vital_task_that_hangs_is_silent() {
        let tasks = Tasks::new();
        let (release, held) = std::sync::mpsc::channel::<()>();
        tasks.spawn_vital("hangs", async move {
            let _ = held.recv();
        });
        assert_eq!(tasks.silent(Duration::from_millis(100)).await, ["hangs"]);
        drop(release);
    }
}
