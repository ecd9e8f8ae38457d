//! The record of every decision: one JSON line each, numbered and chained, in the kernel's hands before the first byte
//! goes upstream. `docs/records.md` is the schema.
//!
//! Every step that decides calls `Log::decide` and waits; whoever ends a flow calls `Log::end`. When records cannot be
//! written, `decide` fails and the caller refuses: nothing passes unrecorded. One task, the `Writer`, does all writing;
//! records that arrive while it works share the next `write(2)`.

mod asker;
mod body;
mod chain;
mod clock;
mod outlet;
mod queue;
mod record;
mod text;
mod verify;
mod writer;

pub use asker::Asker;
pub use chain::SCHEMA_VERSION;
pub use record::{Decision, Dns, End, Event, Finding, FlowId, WebSocket};
pub use text::{TEXT_LIMIT, Text};
pub use verify::{Problem, Report, verify};
pub use writer::Writer;

use aws_lc_rs::rand;
use chain::Link;
use queue::{Haste, Kind, Queue};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// A file that may be rotated by rename or truncation, a FIFO, or a character device.
    File(PathBuf),
    Stdout,
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("standard output"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub sink: Sink,
    /// Records that wait to be written. 4 MiB: some ten thousand, seconds of full load, and little memory.
    pub queue_bytes: usize,
    /// Wait for the disk, not only for the kernel. Off: a crash of the daemon loses nothing either way, only one of the
    /// machine does, and a disk takes milliseconds.
    pub fsync: bool,
    /// How long an end or an event waits for a batch to go with.
    pub flush_after: Duration,
    /// How long a pipe may take nothing before requests are refused: a collector that restarts needs a moment.
    pub patience: Duration,
}

impl Settings {
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            queue_bytes: 4 << 20,
            fsync: false,
            flush_after: Duration::from_millis(100),
            patience: Duration::from_secs(1),
        }
    }
}

/// Why a record is not written. The caller must refuse what it wanted to let pass; the loss itself is counted and
/// recorded as soon as that is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    #[error("records cannot be written at present")]
    Stalled,
    #[error("the record could not be written")]
    NotWritten,
    #[error("too many records wait to be written")]
    Full,
    #[error("the record is closed")]
    Closed,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the record file {}: {source}; give [audit] a path that the daemon may create and append to", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is neither a file nor a pipe; give [audit] the path of a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} holds something else than records; move it away or give [audit] another path", path.display())]
    NotRecords { path: PathBuf },
    #[error("another process writes records to {}; stop it, or give each daemon a file of its own", path.display())]
    InUse { path: PathBuf },
    #[error("cannot use standard output for records: {0}")]
    Stdout(io::Error),
    #[error("cannot write the first record to {sink}: {source}; make room, or give [audit] another path")]
    FirstWrite { sink: String, source: io::Error },
}

/// The last record in the kernel's hands: what an operator may note elsewhere to prove that nothing was cut off the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: String,
}

/// What metrics show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub queued_bytes: usize,
    /// The sink takes nothing: requests are refused.
    pub stalled: bool,
    /// Records that were refused or dropped since the start.
    pub lost: u64,
    pub written: u64,
}

type SharedHead = Arc<Mutex<Link>>;

/// The handle that everybody who decides holds; cheap to clone. When the last one is gone, the writer ends.
#[derive(Clone)]
pub struct Log(Arc<Owner>);

struct Owner {
    queue: Arc<Queue>,
    head: SharedHead,
    /// The number that was last when this run began.
    first: u64,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

thread_local! {
    static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A body buffer that one huge record grew is given back.
const KEPT_BODY: usize = 16 * 1024;

impl Log {
    /// Opens the sink, continues its chain, and writes the first line. The writer must then be run by somebody.
    pub fn open(settings: Settings) -> Result<(Self, Writer), OpenError> {
        let queue = Arc::new(Queue::new(settings.queue_bytes));
        let head = Arc::new(Mutex::new(Link::START));
        let writer = Writer::new(queue.clone(), head.clone(), settings, run_name())?;
        let first = lock(&head).seq.saturating_sub(1);
        Ok((Self(Arc::new(Owner { queue, head, first })), writer))
    }

    /// Hands a decision over at once, and waits until `write(2)` has returned (with `fsync`: the disk).
    pub fn decide(
        &self,
        decision: &Decision<'_>,
    ) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        let ticket = self.push(Kind::Decision, Haste::Now, true, |out| decision.write(out));
        async move {
            match ticket? {
                Some((batch, index)) => batch.wait(index).await,
                None => Ok(()),
            }
        }
    }

    /// For refusals, whose answer need not wait for the record.
    pub fn decide_nowait(&self, decision: &Decision<'_>) -> Result<(), AuditError> {
        self.push(Kind::Decision, Haste::Now, false, |out| decision.write(out)).map(drop)
    }

    /// Goes with the next batch. When there is no room it is counted into the next gap marker.
    pub fn end(&self, end: &End<'_>) {
        let _ = self.push(Kind::End, Haste::Soon, false, |out| end.write(out));
    }

    /// As `end`.
    pub fn note(&self, event: &Event<'_>) {
        let _ = self.push(Kind::Event, Haste::Soon, false, |out| event.write(out));
    }

    /// Takes no more; the writer writes what is there and ends.
    pub fn close(&self) {
        self.0.queue.close();
    }

    pub fn head(&self) -> Head {
        let link = lock(&self.0.head);
        Head { seq: link.seq, hash: link.hash_text().to_owned() }
    }

    pub fn stats(&self) -> Stats {
        let (queued_bytes, stalled, lost) = self.0.queue.pressure();
        Stats { queued_bytes, stalled, lost, written: lock(&self.0.head).seq.saturating_sub(self.0.first) }
    }

    fn push(
        &self,
        kind: Kind,
        haste: Haste,
        ticket: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Option<(Arc<queue::Batch>, usize)>, AuditError> {
        BODY.with_borrow_mut(|body| {
            body.clear();
            write(body);
            let pushed = self.0.queue.push(kind, body, haste, ticket);
            body.shrink_to(KEPT_BODY);
            pushed
        })
    }
}

fn lock(head: &Mutex<Link>) -> std::sync::MutexGuard<'_, Link> {
    head.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the records of one run from those of another, since flow numbers begin again. Falls back on the process id.
fn run_name() -> String {
    let mut bytes = [0; 4];
    let number = match rand::fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => std::process::id(),
    };
    format!("{number:08x}")
}
