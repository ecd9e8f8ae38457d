//! The one task that writes records: takes what has gathered, seals it into the chain, one `write(2)`, wakes who waits.
//!
//! When the sink takes nothing, it fails those who wait (their requests are refused), keeps the ends, and tries again
//! until a gap marker with the counts of what was lost could be written.

use super::chain::Link;
use super::outlet::{Fault, Outlet, Renewal};
use super::queue::{Fill, Kind, Lost, Queue, Taken};
use super::record::Event;
use super::text::Text;
use super::{OpenError, Settings, SharedHead};
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{Sleep, sleep};

/// How often the sink is looked at for rotation: often enough that a file which was moved away gets few more lines,
/// rare enough to cost nothing.
const RENEW_INTERVAL: Duration = Duration::from_millis(100);

/// How often a sink that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How often a pipe that is full is looked at, before patience ends.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(5);

/// Buffers that a burst made larger are given back.
const KEPT_BUFFER: usize = 256 * 1024;

/// The future that `rt` runs. Dropping it fails every waiter and every later decision.
pub struct Writer {
    queue: Arc<Queue>,
    head: SharedHead,
    outlet: Outlet,
    run: String,
    link: Link,
    /// The batch at hand, and ends of earlier ones that could not be written.
    fill: Fill,
    held: Fill,
    sheet: Sheet,
    /// Why the next line must be an `open` event, and the torn end that it reports.
    opening: Option<(&'static str, Option<Vec<u8>>)>,
    renewed: Instant,
    settings: Settings,
}

/// Composed lines, and the state of the chain after each.
#[derive(Default)]
struct Sheet {
    bytes: Vec<u8>,
    /// Bytes at the front that complete a line begun by an earlier write.
    carried: usize,
    lines: Vec<Line>,
    gap: Option<Lost>,
    body: Vec<u8>,
    scratch: Vec<u8>,
}

struct Line {
    end: usize,
    kind: Kind,
    after: Link,
}

impl Writer {
    /// What is open, so that it and nothing else is given to the daemon's user.
    pub fn file(&self) -> std::sync::Arc<std::fs::File> {
        self.outlet.handle()
    }

    pub(super) fn new(
        queue: Arc<Queue>,
        head: SharedHead,
        settings: Settings,
        run: String,
    ) -> Result<Self, OpenError> {
        let (outlet, found) = Outlet::open(&settings.sink)?;
        let why = match found.link.seq {
            _ if found.foreign => "damaged",
            0 => "new",
            _ => "restart",
        };
        let mut writer = Self {
            queue,
            head,
            outlet,
            run,
            link: found.link,
            fill: Fill::default(),
            held: Fill::default(),
            sheet: Sheet::default(),
            opening: Some((why, found.torn)),
            renewed: Instant::now(),
            settings,
        };
        writer.begin(false);
        match writer.outlet.write(&writer.sheet.bytes) {
            (written, None) => {
                writer.settle(written);
                Ok(writer)
            }
            (written, Some(fault)) => {
                writer.outlet.retract(written);
                Err(OpenError::FirstWrite {
                    sink: writer.settings.sink.to_string(),
                    source: fault.into_error(),
                })
            }
        }
    }

    /// Runs until the log is closed, and writes what is left then.
    pub async fn run(mut self) {
        let queue = self.queue.clone();
        let mut timer = pin!(None::<Sleep>);
        loop {
            let due = async {
                match timer.as_mut().as_pin_mut() {
                    Some(timer) => timer.await,
                    None => pending().await,
                }
            };
            let fired = tokio::select! {
                () = queue.wake.notified() => false,
                () = due => true,
            };
            if fired {
                timer.set(None);
                queue.timer_fired();
            }
            let wanted = queue.wanted();
            if wanted.now && !wanted.closed {
                // Every task that is ready may add its record to this batch before it is taken.
                tokio::task::yield_now().await;
            }
            if wanted.now || wanted.closed || fired {
                self.flush().await;
            }
            if wanted.closed {
                return;
            }
            if wanted.soon && !fired && timer.is_none() {
                timer.set(Some(sleep(self.settings.flush_after)));
            }
        }
    }

    async fn flush(&mut self) {
        if self.renewed.elapsed() >= RENEW_INTERVAL
            && let Err(error) = self.renew()
        {
            self.stall(&error).await;
        }
        let batch = self.queue.take(&mut self.fill);
        let lead = self.compose();
        if !self.sheet.bytes.is_empty() {
            self.deliver(batch, lead).await;
        }
    }

    /// Forgets what was written.
    fn clear(&mut self) {
        if self.held.len() > 0 {
            self.queue.set_held(0);
        }
        self.fill.clear();
        self.held.clear();
        for fill in [&mut self.fill, &mut self.held] {
            fill.shrink(KEPT_BUFFER);
        }
        self.sheet.bytes.shrink_to(KEPT_BUFFER);
        self.sheet.lines.shrink_to(KEPT_BUFFER / 256);
    }

    /// Goes where the path leads by now; a new stretch of the file begins with an `open` event.
    fn renew(&mut self) -> io::Result<()> {
        self.renewed = Instant::now();
        match self.outlet.renew()? {
            Renewal::Same => return Ok(()),
            Renewal::Truncated => self.opening = Some(("truncated", None)),
            Renewal::Reopened => self.opening = Some(("rotated", None)),
        }
        // The rest of a line makes no sense where its beginning is not: that stays torn.
        self.sheet.carried = 0;
        Ok(())
    }

    /// Starts a sheet with what must come first: the rest of a begun line, an `open` event, a gap marker.
    fn begin(&mut self, force_gap: bool) {
        let (prev, mut next) = (self.link, self.link);
        self.sheet.lines.clear();
        self.sheet.bytes.truncate(self.sheet.carried);
        if let Some((why, torn)) = &self.opening {
            let torn = torn.as_ref().map(|torn| ("torn", Text::from(torn.as_slice())));
            let fields = [("why", Text::from(*why)), ("prev", Text::from(prev.hash_text()))];
            let fields: Vec<_> = fields.into_iter().chain(torn).collect();
            self.sheet.marker(
                Kind::Open,
                &mut next,
                &self.run,
                &Event { event: "open", detail: None, fields: &fields },
            );
        }
        let lost = self.queue.lost();
        self.sheet.gap = (force_gap || lost.any()).then_some(lost);
        if self.sheet.gap.is_some() {
            let counts = [lost.decisions, lost.ends, lost.events].map(|count| count.to_string());
            let [decisions, ends, events] = &counts;
            let fields = [
                ("lost_decisions", decisions.into()),
                ("lost_ends", ends.into()),
                ("lost_events", events.into()),
            ];
            self.sheet.marker(
                Kind::Gap,
                &mut next,
                &self.run,
                &Event { event: "gap", detail: None, fields: &fields },
            );
        }
    }

    /// A sheet of all there is to write; gives the number of lines before the batch's own.
    fn compose(&mut self) -> usize {
        self.begin(false);
        let mut next = self.sheet.lines.last().map_or(self.link, |line| line.after);
        let lead = self.sheet.lines.len() + self.held.len();
        for (kind, body) in self.held.iter().chain(self.fill.iter()) {
            self.sheet.line(&mut next, &self.run, kind, body);
        }
        lead
    }

    /// Writes the sheet. On a fault the waiters of what was not written are told, and this returns only when the sink
    /// takes records again, or the log was closed.
    async fn deliver(&mut self, batch: Taken, lead: usize) {
        let mut written = 0;
        let mut blocked_since = None::<Instant>;
        let error = loop {
            let rest = self.sheet.bytes.get(written..).unwrap_or_default();
            let (count, fault) = self.outlet.write(rest);
            written += count;
            match fault {
                None => break self.sync().await.err(),
                Some(Fault::Failed(error)) => break Some(error),
                Some(Fault::Blocked) => {
                    let since = *blocked_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.settings.patience {
                        break Some(Fault::Blocked.into_error());
                    }
                    sleep(BLOCKED_INTERVAL).await;
                }
            }
        };
        let unsynced = error.is_some() && written == self.sheet.bytes.len();
        let whole = self.settle(written);
        batch.resolve(if unsynced { 0 } else { whole.saturating_sub(lead) });
        match error {
            None => self.clear(),
            Some(error) => {
                self.keep_unwritten(whole, lead);
                self.stall(&error).await;
            }
        }
    }

    async fn sync(&self) -> io::Result<()> {
        if !self.settings.fsync {
            return Ok(());
        }
        let file = self.outlet.handle();
        let synced = tokio::task::spawn_blocking(move || file.sync_data());
        synced.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Moves the chain to the last line that was written; gives the number of those lines. A line that was begun is
    /// taken back where that goes, else counted, and its rest carried into the next sheet.
    fn settle(&mut self, written: usize) -> usize {
        let sheet = &mut self.sheet;
        let mut whole = sheet.lines.iter().take_while(|line| line.end <= written).count();
        let end_of_whole = match whole.checked_sub(1).and_then(|last| sheet.lines.get(last)) {
            Some(line) => line.end,
            None => sheet.carried.min(written),
        };
        let mut carry = end_of_whole..end_of_whole;
        if written < sheet.carried {
            carry = written..sheet.carried;
        } else if written > end_of_whole && !self.outlet.retract(written - end_of_whole) {
            carry = written..sheet.lines.get(whole).map_or(written, |line| line.end);
            whole += 1;
        }
        if let Some(line) = whole.checked_sub(1).and_then(|last| sheet.lines.get(last)) {
            self.link = line.after;
            *self.head.lock().unwrap_or_else(PoisonError::into_inner) = line.after;
        }
        for line in sheet.lines.iter().take(whole) {
            match line.kind {
                Kind::Open => self.opening = None,
                Kind::Gap => self.queue.confessed(sheet.gap.take().unwrap_or_default()),
                Kind::Decision | Kind::End | Kind::Event => {}
            }
        }
        sheet.carried = carry.len();
        sheet.bytes.truncate(carry.end);
        sheet.bytes.drain(..carry.start);
        whole
    }

    /// Of the lines that were not written, ends and events are kept for later; decisions were refused.
    fn keep_unwritten(&mut self, whole: usize, lead: usize) {
        let markers = lead - self.held.len();
        let mut kept = Fill::default();
        let mut lost = Lost::default();
        for (kind, body) in self.held.iter().chain(self.fill.iter()).skip(whole.saturating_sub(markers)) {
            match kind {
                Kind::End | Kind::Event => kept.push(kind, body),
                Kind::Decision | Kind::Open | Kind::Gap => lost.add(kind),
            }
        }
        self.fill.clear();
        self.held = kept;
        self.queue.dropped(lost);
        self.queue.set_held(self.held.byte_count());
    }

    /// Refuses decisions until a gap marker could be written.
    async fn stall(&mut self, error: &io::Error) {
        self.queue.stall();
        tracing::error!(sink = %self.settings.sink, %error, "records cannot be written: requests are refused until they can");
        loop {
            self.fail_queued();
            if self.queue.wanted().closed {
                return;
            }
            sleep(RETRY_INTERVAL).await;
            if self.renew().is_err() {
                continue;
            }
            self.begin(true);
            let length = self.sheet.bytes.len();
            let (written, fault) = self.outlet.write(&self.sheet.bytes);
            self.settle(written);
            if fault.is_none() && written == length && self.sync().await.is_ok() {
                break;
            }
        }
        self.queue.resume();
        tracing::info!(sink = %self.settings.sink, "records are written again");
    }

    /// Tells those who queued up before the stall was known.
    fn fail_queued(&mut self) {
        let batch = self.queue.take(&mut self.fill);
        let mut lost = Lost::default();
        for (kind, body) in self.fill.iter() {
            match kind {
                Kind::End | Kind::Event => self.held.push(kind, body),
                Kind::Decision | Kind::Open | Kind::Gap => lost.add(kind),
            }
        }
        self.fill.clear();
        self.queue.dropped(lost);
        self.queue.set_held(self.held.byte_count());
        batch.resolve(0);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        self.queue.take(&mut self.fill).resolve(0);
    }
}

impl Sheet {
    fn marker(&mut self, kind: Kind, next: &mut Link, run: &str, event: &Event<'_>) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        event.write(&mut body);
        self.line(next, run, kind, &body);
        self.body = body;
    }

    fn line(&mut self, next: &mut Link, run: &str, kind: Kind, body: &[u8]) {
        next.seal(&mut self.bytes, run, body, &mut self.scratch);
        self.lines.push(Line { end: self.bytes.len(), kind, after: *next });
    }
}

impl Fault {
    fn into_error(self) -> io::Error {
        match self {
            Self::Blocked => io::Error::new(io::ErrorKind::WouldBlock, "nobody reads the other end"),
            Self::Failed(error) => error,
        }
    }
}
