//! One message on its way: bytes go in as they come, and come out again, uncopied, once no finding can begin at them.
//! `pipeline` makes one for each inspected body (or WebSocket message, or trailer block) and drops it with the message.
//! Reads no clock: the caller says when a stream has been quiet.

use super::detectors::Detectors;
use super::gzip::Gzip;
use super::scanner::{Scanner, Timed};
use super::{Finding, Selection};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

pub struct Stream {
    detectors: Arc<Detectors>,
    queue: Queue,
    scanner: Option<Scanner>,
    gzip: Option<Unzip>,
    records: bool,
    findings: Vec<Finding>,
    stopped: Option<Stop>,
}

/// The content coding of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
}

/// What a content coding may expand to before it is called a bomb.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Decoded bytes for each byte that came. Text reaches 20, logs 60; deflate's most is 1032.
    pub ratio: u64,
    /// Decoded bytes below which the ratio is not asked.
    pub free: u64,
    /// Decoded bytes in all.
    pub decoded: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ratio: 100, free: 16 << 20, decoded: 64 << 30 }
    }
}

/// Why nothing more may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    Finding(Finding),
    /// The content coding expands beyond its [`Limits`].
    Bomb,
    /// The content coding is broken, cut off or followed by something else.
    BadCoding,
}

/// A held suffix that is shorter may be released when the stream is quiet.
const QUIET: u64 = 8;
/// Compressed bytes are released in such steps.
const STEP: usize = 1024;

impl Stream {
    pub fn new(detectors: &Arc<Detectors>, select: Selection, coding: Coding, limits: Limits) -> Self {
        let scanner = (!select.is_empty()).then(|| Scanner::new(detectors, select));
        let gzip = (coding == Coding::Gzip && scanner.is_some()).then(|| Unzip::new(limits));
        Self {
            detectors: detectors.clone(),
            queue: Queue::default(),
            scanner,
            gzip,
            records: false,
            findings: Vec::new(),
            stopped: None,
        }
    }

    /// For log-only: findings are kept for [`Stream::findings`], the first of each rule, and nothing is held.
    /// A bomb or a bad coding still stops once; the caller may go on, unscanned.
    pub fn recording(mut self) -> Self {
        self.records = true;
        self
    }

    /// Takes the next bytes. After a stop nothing more is taken and nothing more comes out.
    pub fn push(&mut self, chunk: Bytes) -> Result<(), Stop> {
        if let Some(stop) = &self.stopped
            && !self.records
        {
            return Err(stop.clone());
        }
        self.queue.push(chunk.clone());
        let outcome = if self.stopped.is_some() { Ok(()) } else { self.scan(&chunk) };
        if self.records || self.scanner.is_none() {
            self.queue.release_all();
        }
        outcome.inspect_err(|stop| self.stopped = Some(stop.clone()))
    }

    /// The next bytes that may be forwarded.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.queue.pop()
    }

    /// Whether everything that was pushed has been popped.
    pub fn is_drained(&self) -> bool {
        self.queue.popped == self.queue.pushed
    }

    /// The message is complete: the last word on what was held, which `pop` then hands out.
    pub fn finish(&mut self) -> Result<(), Stop> {
        if let Some(stop) = &self.stopped {
            return if self.records { Ok(()) } else { Err(stop.clone()) };
        }
        let outcome = self.end();
        if self.records || outcome.is_ok() {
            self.queue.release_all();
        }
        outcome.inspect_err(|stop| self.stopped = Some(stop.clone()))
    }

    /// Bytes that were pushed and may not be forwarded yet.
    pub fn held(&self) -> usize {
        (self.queue.pushed - self.queue.released) as usize
    }

    /// The stream has been silent for a while: a held suffix under 8 (decoded) bytes may go, so that interactive streams
    /// do not hang. What was seen is kept, so a finding that began in it is still found.
    pub fn release_quiet(&mut self) {
        let Some(scanner) = &self.scanner else { return };
        let seen = self.gzip.as_ref().map_or(self.queue.pushed, |gzip| gzip.decoded);
        if self.stopped.is_none() && seen - scanner.open(&self.detectors) < QUIET {
            self.queue.release_all();
        }
    }

    /// What a recording stream has found so far, taken.
    pub fn findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    fn scan(&mut self, chunk: &Bytes) -> Result<(), Stop> {
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        let Some(gzip) = &mut self.gzip else {
            let found = scanner.read(&self.detectors, chunk, false, !self.records);
            self.found(found)?;
            return self.release();
        };
        for step in chunk.chunks(STEP) {
            let mut found = Vec::new();
            let outcome = gzip.read(step, |out| {
                found.append(&mut scanner.read(&self.detectors, out, false, !self.records));
                self.records || found.is_empty()
            });
            // What was decoded before the fault counts first, as it would byte by byte.
            if let Some(first) = keep(&mut self.findings, found, self.records) {
                return Err(Stop::Finding(first));
            }
            outcome?;
            self.queue.release(gzip.clean(scanner.open(&self.detectors)));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        let whole = self.gzip.as_ref().map_or(Ok(()), |gzip| gzip.inner.finish());
        let found = scanner.read(&self.detectors, &[], true, !self.records);
        self.found(found)?;
        whole
    }

    fn found(&mut self, found: Vec<Timed>) -> Result<(), Stop> {
        keep(&mut self.findings, found, self.records).map_or(Ok(()), |first| Err(Stop::Finding(first)))
    }

    fn release(&mut self) -> Result<(), Stop> {
        if let Some(scanner) = &self.scanner {
            self.queue.release(scanner.open(&self.detectors));
        }
        Ok(())
    }
}

/// The finding to stop at; a recording stream keeps the first of each rule instead.
fn keep(kept: &mut Vec<Finding>, found: Vec<Timed>, records: bool) -> Option<Finding> {
    let mut found = found.into_iter().map(|timed| timed.finding);
    if !records {
        return found.next();
    }
    for finding in found {
        if !kept.iter().any(|known| known.kind == finding.kind && known.rule == finding.rule) {
            kept.push(finding);
        }
    }
    None
}

/// What was pushed and not yet popped, by offset.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    popped: u64,
    pushed: u64,
    released: u64,
}

impl Queue {
    fn push(&mut self, chunk: Bytes) {
        self.pushed += chunk.len() as u64;
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    fn release(&mut self, to: u64) {
        self.released = self.released.max(to.min(self.pushed));
    }

    fn release_all(&mut self) {
        self.released = self.pushed;
    }

    fn pop(&mut self) -> Option<Bytes> {
        let free = self.released - self.popped;
        let front = self.chunks.front_mut().filter(|_| free > 0)?;
        let chunk =
            if front.len() as u64 <= free { self.chunks.pop_front()? } else { front.split_to(free as usize) };
        self.popped += chunk.len() as u64;
        Some(chunk)
    }
}

/// Decodes, and remembers which compressed bytes led to which decoded ones.
struct Unzip {
    inner: Gzip,
    read: u64,
    decoded: u64,
    /// (compressed, decoded) offsets after each step; strictly growing in both.
    steps: VecDeque<(u64, u64)>,
}

impl Unzip {
    fn new(limits: Limits) -> Self {
        Self { inner: Gzip::new(limits), read: 0, decoded: 0, steps: VecDeque::new() }
    }

    fn read(&mut self, step: &[u8], mut sink: impl FnMut(&[u8]) -> bool) -> Result<(), Stop> {
        let decoded = &mut self.decoded;
        let outcome = self.inner.read(step, &mut |out| {
            *decoded += out.len() as u64;
            sink(out)
        });
        self.read += step.len() as u64;
        match self.steps.back_mut() {
            Some(last) if last.1 == self.decoded => last.0 = self.read,
            _ => self.steps.push_back((self.read, self.decoded)),
        }
        outcome
    }

    /// How many compressed bytes decode to nothing at or after `open`.
    fn clean(&mut self, open: u64) -> u64 {
        let mut clean = 0;
        while let Some((read, _)) = self.steps.front().filter(|(_, decoded)| *decoded <= open) {
            clean = *read;
            self.steps.pop_front();
        }
        clean
    }
}
