//! What stands between the flows and the writer: a bounded buffer of bodies, and the tickets of those who wait.
//!
//! Bodies are made outside of the lock; under it they are only copied. The writer takes the whole buffer at once.

use super::AuditError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Decision,
    End,
    Event,
    /// What the writer itself says of the chain; made again when it could not be written.
    Open,
    Gap,
}

/// When a body must reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    Now,
    /// With the next batch, or when `Settings::flush_after` has passed.
    Soon,
}

/// Bodies, one after the other.
#[derive(Default)]
pub(super) struct Fill {
    bytes: Vec<u8>,
    entries: Vec<(Kind, usize)>,
}

impl Fill {
    pub fn push(&mut self, kind: Kind, body: &[u8]) {
        self.bytes.extend_from_slice(body);
        self.entries.push((kind, body.len()));
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Gives memory back after a burst.
    pub fn shrink(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
        self.entries.shrink_to(bytes / 256);
    }

    pub fn iter(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.entries.iter().map(move |&(kind, length)| {
            let (body, tail) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = tail;
            (kind, body)
        })
    }
}

/// Those who wait for the same write.
pub(super) struct Batch {
    /// How many records of the batch were written, from the front; `PENDING` until that is known.
    written: AtomicU32,
    done: Notify,
}

const PENDING: u32 = u32::MAX;

impl Batch {
    fn new() -> Self {
        Self { written: AtomicU32::new(PENDING), done: Notify::new() }
    }

    fn resolve(&self, written: usize) {
        self.written.store(u32::try_from(written).unwrap_or(PENDING - 1), Ordering::Release);
        self.done.notify_waiters();
    }

    /// Waits until the record at `index` is in the kernel's hands.
    pub async fn wait(&self, index: usize) -> Result<(), AuditError> {
        let mut done = std::pin::pin!(self.done.notified());
        done.as_mut().enable();
        if self.written.load(Ordering::Acquire) == PENDING {
            done.await;
        }
        match self.written.load(Ordering::Acquire) {
            PENDING => Err(AuditError::Closed),
            written if index < written as usize => Ok(()),
            _ => Err(AuditError::NotWritten),
        }
    }
}

/// A batch in the writer's hands. Those who wait are told in any case: unless said otherwise, that nothing was written.
pub(super) struct Taken {
    batch: Option<Arc<Batch>>,
    written: usize,
}

impl Taken {
    pub fn resolve(mut self, written: usize) {
        self.written = written;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(batch) = &self.batch {
            batch.resolve(self.written);
        }
    }
}

/// Records that were refused or dropped since the last gap marker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub decisions: u64,
    pub ends: u64,
    pub events: u64,
}

impl Lost {
    pub fn any(self) -> bool {
        self != Self::default()
    }

    pub fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Decision => self.decisions += 1,
            Kind::End => self.ends += 1,
            Kind::Event => self.events += 1,
            Kind::Open | Kind::Gap => {}
        }
    }

    fn subtract(&mut self, other: Self) {
        self.decisions = self.decisions.saturating_sub(other.decisions);
        self.ends = self.ends.saturating_sub(other.ends);
        self.events = self.events.saturating_sub(other.events);
    }
}

/// What the writer finds when it wakes.
pub(super) struct Wanted {
    pub now: bool,
    pub soon: bool,
    pub closed: bool,
}

pub(super) struct Queue {
    state: Mutex<State>,
    pub wake: Notify,
    limit: usize,
}

#[derive(Default)]
struct State {
    fill: Fill,
    /// Only there when somebody waits for a record in `fill`.
    batch: Option<Arc<Batch>>,
    now: bool,
    soon: bool,
    /// What the writer keeps of earlier batches that failed; counts against the limit.
    held: usize,
    stalled: bool,
    closed: bool,
    lost: Lost,
    lost_ever: u64,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), limit }
    }

    /// Adds a body; with `ticket`, what to wait on. Decisions leave a quarter of the room to the ends of those that
    /// were let through before.
    pub fn push(
        &self,
        kind: Kind,
        body: &[u8],
        haste: Haste,
        ticket: bool,
    ) -> Result<Option<(Arc<Batch>, usize)>, AuditError> {
        let mut state = self.lock();
        if let Err(error) = self.admit(&state, kind, body.len()) {
            state.lost.add(kind);
            state.lost_ever += 1;
            return Err(error);
        }
        let index = state.fill.len();
        state.fill.push(kind, body);
        let ticket =
            ticket.then(|| (state.batch.get_or_insert_with(|| Arc::new(Batch::new())).clone(), index));
        let asked = match haste {
            Haste::Now => std::mem::replace(&mut state.now, true),
            Haste::Soon => std::mem::replace(&mut state.soon, true),
        };
        drop(state);
        if !asked {
            self.wake.notify_one();
        }
        Ok(ticket)
    }

    fn admit(&self, state: &State, kind: Kind, length: usize) -> Result<(), AuditError> {
        let limit = if kind == Kind::Decision { self.limit / 4 * 3 } else { self.limit };
        if state.closed {
            Err(AuditError::Closed)
        } else if state.stalled && kind == Kind::Decision {
            Err(AuditError::Stalled)
        } else if state.held + state.fill.byte_count() + length > limit {
            Err(AuditError::Full)
        } else {
            Ok(())
        }
    }

    pub fn wanted(&self) -> Wanted {
        let state = self.lock();
        Wanted { now: state.now, soon: state.soon, closed: state.closed }
    }

    /// Swaps the buffer for the empty `spare`.
    pub fn take(&self, spare: &mut Fill) -> Taken {
        let mut state = self.lock();
        std::mem::swap(&mut state.fill, spare);
        state.now = false;
        Taken { batch: state.batch.take(), written: 0 }
    }

    /// From now on a `Soon` body wakes the writer again.
    pub fn timer_fired(&self) {
        self.lock().soon = false;
    }

    pub fn lost(&self) -> Lost {
        self.lock().lost
    }

    /// A gap marker with these counts was written.
    pub fn confessed(&self, lost: Lost) {
        self.lock().lost.subtract(lost);
    }

    /// The writer gave these up.
    pub fn dropped(&self, lost: Lost) {
        let mut state = self.lock();
        state.lost.decisions += lost.decisions;
        state.lost.ends += lost.ends;
        state.lost.events += lost.events;
        state.lost_ever += lost.decisions + lost.ends + lost.events;
    }

    pub fn set_held(&self, bytes: usize) {
        self.lock().held = bytes;
    }

    pub fn stall(&self) {
        self.lock().stalled = true;
    }

    /// Decisions are taken again, and the writer is woken for what it kept.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.stalled = false;
        state.now = true;
        drop(state);
        self.wake.notify_one();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Bytes waiting, whether the sink takes nothing, and how many records were ever lost.
    pub fn pressure(&self) -> (usize, bool, u64) {
        let state = self.lock();
        (state.held + state.fill.byte_count(), state.stalled, state.lost_ever)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_leave_room_for_ends_and_neither_passes_the_limit() {
        let queue = Queue::new(400);
        let body = [b'x'; 100];
        let push = |kind| queue.push(kind, &body, Haste::Now, false);
        for _ in 0..3 {
            push(Kind::Decision).unwrap();
        }
        assert!(matches!(push(Kind::Decision), Err(AuditError::Full)));
        push(Kind::End).unwrap();
        assert!(matches!(push(Kind::End), Err(AuditError::Full)));
        assert_eq!(queue.lost(), Lost { decisions: 1, ends: 1, events: 0 });
    }

    #[tokio::test]
    async fn a_ticket_says_whether_its_own_record_was_written() {
        let queue = Queue::new(4096);
        let (batch, first) = queue.push(Kind::Decision, b"a", Haste::Now, true).unwrap().unwrap();
        let (_, second) = queue.push(Kind::Decision, b"b", Haste::Now, true).unwrap().unwrap();
        queue.take(&mut Fill::default()).resolve(1);
        batch.wait(first).await.unwrap();
        assert!(matches!(batch.wait(second).await, Err(AuditError::NotWritten)));
    }

    #[tokio::test]
    async fn a_batch_that_is_dropped_fails_its_waiters() {
        let queue = Queue::new(4096);
        let (batch, index) = queue.push(Kind::Decision, b"a", Haste::Now, true).unwrap().unwrap();
        drop(queue.take(&mut Fill::default()));
        assert!(matches!(batch.wait(index).await, Err(AuditError::NotWritten)));
    }
}
