//! What a WebSocket carries, message by message and each way on its own: credentials masked in what comes back, the rule's
//! script asked, DLP with its hold. `flow` feeds it what the codec read and writes what it gives back; nothing here does
//! I/O. A message streams through; it is held whole only where the rule's script has the hook `message`.

use super::ending::{Ending, REDACTED};
use super::{Flow, Stop, credentials, hooks};
use crate::codec::ws::{Kind, code};
use crate::dlp::{self, Coding, Detectors, Limits, Selection};
use crate::policy::{OnMatch, Permit, Reason, Rule};
use crate::script::{MessageView, Script, Way};
use crate::secrets::{Redaction, Redactor};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a finding was made.
const MESSAGE: &str = "message";

/// One way of one WebSocket.
pub struct Inspector {
    way: Way,
    ending: Arc<Ending>,
    rule: Arc<Rule>,
    detectors: Arc<Detectors>,
    selection: Selection,
    /// Of what comes back where the rule puts credentials in.
    redactor: Option<Redactor>,
    asked: Option<Asked>,
    message: Message,
}

/// A script with the hook `message`, and what it is shown beside the message.
struct Asked {
    script: Arc<Script>,
    view: MessageView,
}

/// The message that is on its way.
#[derive(Default)]
struct Message {
    is_text: bool,
    length: u64,
    redaction: Option<Redaction>,
    /// All of it so far, where a script will be asked.
    held: BytesMut,
    /// Its first piece, as long as that may be all of it: most messages come whole, and are scanned at once.
    first: Bytes,
    stream: Option<dlp::Stream>,
    ready: VecDeque<Bytes>,
}

/// A first piece that is longer begins a stream.
const WHOLE: usize = 16 * 1024;

/// Why a WebSocket has to end here.
#[derive(Debug)]
pub struct Stopped {
    pub reason: Reason,
    pub detail: String,
    /// What the client is told (RFC 6455 section 7.4).
    pub code: u16,
}

/// From the client, and to it.
pub(super) fn inspectors(flow: &Flow, permit: &Permit, ending: &Arc<Ending>) -> (Inspector, Inspector) {
    let dlp = permit.rule().dlp();
    let one = |way, selection, redactor| Inspector {
        way,
        ending: ending.clone(),
        rule: permit.rule().clone(),
        detectors: permit.snapshot().detectors().clone(),
        selection,
        redactor,
        asked: hooks::message_view(flow, permit, way).map(|(script, view)| Asked { script, view }),
        message: Message::default(),
    };
    let redactor = credentials::carries_credentials(permit).then(|| permit.snapshot().redactor().clone());
    (one(Way::Up, dlp.outbound, None), one(Way::Down, dlp.inbound, redactor))
}

impl Inspector {
    /// A message begins.
    pub fn begin(&mut self, kind: Kind) {
        self.message = Message {
            is_text: kind == Kind::Text,
            redaction: self.redactor.as_ref().map(Redactor::start),
            ..Message::default()
        };
    }

    /// The next bytes of it. What of them may go on comes out of [`Self::pop`].
    pub fn push(&mut self, data: Bytes) -> Result<(), Stopped> {
        self.message.length += data.len() as u64;
        let most = self.rule.dlp().max_body.filter(|_| self.way == Way::Up);
        if let Some(most) = most.filter(|most| self.message.length > *most) {
            let detail = format!("a message is longer than the {most} bytes that this rule inspects");
            return Err(Stopped { reason: Reason::DlpLimit, detail, code: code::TOO_BIG });
        }
        let data = match &mut self.message.redaction {
            Some(redaction) => redaction.push(data),
            None => data,
        };
        self.collect(data)
    }

    /// It is complete.
    pub fn end(&mut self) -> Result<(), Stopped> {
        if let Some(mut redaction) = self.message.redaction.take() {
            let rest = redaction.finish();
            if redaction.count() > 0 {
                self.ending.found(REDACTED, MESSAGE, "");
            }
            self.collect(rest)?;
        }
        if let Some(asked) = &self.asked {
            let payload = std::mem::take(&mut self.message.held).freeze();
            let is_text = self.message.is_text;
            let view = MessageView { payload: payload.clone(), is_text, ..asked.view.clone() };
            hooks::on_message(&asked.script, view, &self.rule)?;
            self.scan(payload)?;
        }
        let whole = std::mem::take(&mut self.message.first);
        if !whole.is_empty() {
            if let Some(finding) = self.detectors.scan(self.selection, &whole) {
                self.found(&finding)?;
            }
            self.message.ready.push_back(whole);
        }
        if let Some(stream) = &mut self.message.stream {
            let finished = stream.finish();
            self.scanned(finished)?;
        }
        match self.way {
            Way::Up => self.ending.message_up(),
            Way::Down => self.ending.message_down(),
        }
        Ok(())
    }

    /// Its end is not here yet: what came is scanned, so that it may go on.
    pub fn pause(&mut self) -> Result<(), Stopped> {
        let first = std::mem::take(&mut self.message.first);
        if first.is_empty() { Ok(()) } else { self.stream(first) }
    }

    /// The next bytes that may go on.
    pub fn pop(&mut self) -> Option<Bytes> {
        let ready = match &mut self.message.stream {
            Some(stream) => stream.pop(),
            None => self.message.ready.pop_front(),
        }?;
        match self.way {
            Way::Up => self.ending.count_up(ready.len() as u64),
            Way::Down => self.ending.count_down(ready.len() as u64),
        }
        Some(ready)
    }

    /// Whether bytes are held that may be released when their sender is silent.
    pub fn is_holding(&self) -> bool {
        let message = &self.message;
        self.asked.is_none()
            && (message.redaction.as_ref().is_some_and(Redaction::may_release)
                || message.stream.as_ref().is_some_and(|stream| stream.held() > 0))
    }

    /// Nothing comes: the few bytes that may yet begin a finding go on, so that interactive streams never hang.
    pub fn release_quiet(&mut self) -> Result<(), Stopped> {
        if let Some(redaction) = self.message.redaction.as_mut().filter(|r| r.may_release()) {
            let released = redaction.release_quiet();
            self.scan(released)?;
            self.pause()?;
        }
        if let Some(stream) = &mut self.message.stream {
            stream.release_quiet();
        }
        Ok(())
    }

    /// What of the reason of a close goes on: a script is asked about messages only, so none passes beside it.
    pub fn close_reason(&mut self, reason: String) -> Result<String, Stopped> {
        if reason.is_empty() || self.asked.is_some() {
            return Ok(String::new());
        }
        if let Some(finding) = self.detectors.scan(self.selection, reason.as_bytes()) {
            self.found(&finding)?;
        }
        let Some(redactor) = &self.redactor else { return Ok(reason) };
        let mut redaction = redactor.start();
        let masked = [redaction.push(reason.into()), redaction.finish()].concat();
        Ok(String::from_utf8(masked).unwrap_or_default())
    }

    fn logs(&self) -> bool {
        self.rule.dlp().on_match == OnMatch::Log
    }

    /// To where the script will see it, or straight on.
    fn collect(&mut self, data: Bytes) -> Result<(), Stopped> {
        let Some(asked) = &self.asked else { return self.scan(data) };
        let most = asked.script.message_most();
        if self.message.held.len() + data.len() > most {
            let detail = format!("a message is longer than the {most} bytes that a script is asked about");
            return Err(Stopped { reason: Reason::ScriptError, detail, code: code::TOO_BIG });
        }
        self.message.held.extend_from_slice(&data);
        Ok(())
    }

    fn scan(&mut self, data: Bytes) -> Result<(), Stopped> {
        if data.is_empty() {
            return Ok(());
        }
        if self.selection.is_empty() {
            self.message.ready.push_back(data);
            return Ok(());
        }
        let message = &mut self.message;
        let is_first = message.stream.is_none() && message.first.is_empty();
        // A stream that only logs tells every finding, a scan of the whole the first one.
        if is_first && data.len() <= WHOLE && self.rule.dlp().on_match == OnMatch::Block {
            message.first = data;
            return Ok(());
        }
        self.pause()?;
        self.stream(data)
    }

    fn stream(&mut self, data: Bytes) -> Result<(), Stopped> {
        let (detectors, selection, logs) = (&self.detectors, self.selection, self.logs());
        let stream = self.message.stream.get_or_insert_with(|| {
            let stream = dlp::Stream::new(detectors, selection, Coding::Identity, Limits::default());
            if logs { stream.recording() } else { stream }
        });
        let pushed = stream.push(data);
        self.scanned(pushed)
    }

    fn scanned(&mut self, outcome: Result<(), dlp::Stop>) -> Result<(), Stopped> {
        for finding in self.message.stream.iter_mut().flat_map(dlp::Stream::findings) {
            self.ending.found(&finding.rule, MESSAGE, finding.encoding.as_str());
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(dlp::Stop::Finding(finding)) => self.found(&finding),
            // Messages have no coding, so that neither can be.
            Err(dlp::Stop::Bomb | dlp::Stop::BadCoding) => Err(Stopped {
                reason: Reason::DlpCoding,
                detail: "a message cannot be inspected".to_owned(),
                code: code::POLICY,
            }),
        }
    }

    fn found(&self, finding: &dlp::Finding) -> Result<(), Stopped> {
        self.ending.found(&finding.rule, MESSAGE, finding.encoding.as_str());
        if self.logs() {
            return Ok(());
        }
        let detail = format!("{} found in a message", finding.rule);
        Err(Stopped { reason: Reason::Dlp, detail, code: code::POLICY })
    }
}

impl From<Stop> for Stopped {
    fn from(stop: Stop) -> Self {
        Self { reason: stop.refusal.reason, detail: stop.refusal.detail, code: code::POLICY }
    }
}
