//! After `101`: messages both ways, each read, judged and framed anew, until one side closes, breaks a rule of the
//! protocol or of the policy, or is gone. Bounded: what is held each way is a read, a fragment, and what DLP or a script holds.
//!
//! A ping carries a number of ours in place of its payload, and the answer gets the payload back, so that nothing but
//! messages (and the reason of a close) brings bytes from one side to the other, and all of those are judged.

mod pings;
mod way;

use super::{Gate, tunnel};
use crate::base::IoWords;
use crate::codec::ws::{Close, Sender, code};
use crate::pipeline::{Ending, Outcome, Stopped, Switched};
use crate::policy::Reason;
use bytes::{Bytes, BytesMut};
use pings::Pings;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use way::{End, Times, Way};

/// How long the other side may take to answer a close; it may have a long message to finish.
const CLOSING: Duration = Duration::from_secs(5);

pub(super) async fn relay(
    gate: &Arc<Gate>,
    client: impl AsyncRead + AsyncWrite + Unpin,
    ahead: Bytes,
    switched: Switched,
) {
    let Switched { ahead: first, wire, ending, mut standing, up, down } = switched;
    let (client_read, client_write) = tokio::io::split(client);
    let (upstream_read, upstream_write) = tokio::io::split(wire);
    let times = Times {
        frame: gate.settings.body_patience,
        stall: gate.settings.write_stall,
        quiet: gate.shared.settings.quiet,
    };
    let moved = AtomicU64::new(0);
    let (from_client, from_server) = (Pings::default(), Pings::default());
    let pings = (&from_client, &from_server);
    let mut up = Way::new(Sender::Client, (client_read, ahead), upstream_write, up, times, &moved, pings);
    let pings = (&from_server, &from_client);
    let mut down = Way::new(Sender::Server, (upstream_read, first), client_write, down, times, &moved, pings);
    // Not in order: a way that always has something to do must not starve the other.
    let last = tokio::select! {
        end = up.run() => conclude(&mut up, &mut down, end).await,
        end = down.run() => conclude(&mut down, &mut up, end).await,
        reason = tunnel::watch(gate, &moved, || standing.holds()) => {
            let code = if reason == Reason::Reload { code::POLICY } else { code::GOING_AWAY };
            tokio::join!(up.say(Close::with(code::GOING_AWAY)), down.say(Close::with(code)));
            Last { outcome: Outcome::of_lost(reason), reason: Some(reason), detail: None, code }
        }
    };
    last.tell(&ending);
    tokio::join!(up.shut(), down.shut());
    // Whoever holds the inspectors holds the record, which is complete.
    drop((down, ending));
    let mut source = up.into_source();
    // A close that is followed by a reset is lost in most clients: the rest is read away.
    let mut rest = BytesMut::new();
    let away = async {
        while source.read_buf(&mut rest).await.is_ok_and(|n| n > 0) {
            rest.clear()
        }
    };
    let _ = timeout(gate.settings.drain_time, away).await;
}

/// How it ended, for the record.
struct Last {
    outcome: Outcome,
    reason: Option<Reason>,
    detail: Option<String>,
    code: u16,
}

impl Last {
    fn tell(self, ending: &Ending) {
        ending.closed_with(self.code);
        ending.finish(self.outcome, self.reason, self.detail);
    }
}

/// Says goodbye to both sides after `way` has ended; `back` leads to the side that ended it.
async fn conclude<R1, W1, R2, W2>(way: &mut Way<'_, R1, W1>, back: &mut Way<'_, R2, W2>, end: End) -> Last
where
    R1: AsyncRead + Unpin,
    W1: AsyncWrite + Unpin,
    R2: AsyncRead + Unpin,
    W2: AsyncWrite + Unpin,
{
    let by_client = way.sender == Sender::Client;
    let last = |outcome, reason, detail: String, code| Last { outcome, reason, detail: Some(detail), code };
    match end {
        End::Close(close) => closing(way, back, close).await,
        End::Stopped(Stopped { reason, detail, code }) => {
            let (theirs, others) =
                if by_client { (code, code::GOING_AWAY) } else { (code::GOING_AWAY, code) };
            cut(way, back, theirs, others).await;
            last(Outcome::Blocked, Some(reason), detail, code)
        }
        End::Violation(violation) => {
            let others = if by_client { code::GOING_AWAY } else { code::INTERNAL };
            cut(way, back, violation.code(), others).await;
            let (outcome, reason) = match by_client {
                true => (Outcome::Blocked, Reason::BadFraming),
                false => (Outcome::Failed, Reason::UpstreamProtocol),
            };
            last(outcome, Some(reason), violation.to_string(), violation.code())
        }
        End::Stalled => {
            cut(way, back, code::POLICY, code::GOING_AWAY).await;
            let outcome = if by_client { Outcome::Abandoned } else { Outcome::Failed };
            last(outcome, Some(Reason::Timeout), "a frame did not come to its end".to_owned(), code::POLICY)
        }
        End::Gone if by_client => {
            let detail = "the client went away without a close".to_owned();
            last(Outcome::Abandoned, None, detail, code::ABNORMAL)
        }
        End::Gone => {
            let detail = "the origin went away without a close".to_owned();
            last(Outcome::Failed, Some(Reason::UpstreamProtocol), detail, code::ABNORMAL)
        }
        End::Lost(error) => {
            // What the origin said before it closed still goes on, perhaps its close among it.
            if let Ok(End::Close(close)) = timeout(tunnel::LAST_BYTES, back.run()).await {
                return closing(back, way, close).await;
            }
            let outcome = if by_client { Outcome::Failed } else { Outcome::Abandoned };
            last(outcome, None, IoWords(&error).to_string(), code::ABNORMAL)
        }
    }
}

/// The handshake of a close (section 7): passed on, its answer awaited and passed back.
async fn closing<R1, W1, R2, W2>(
    way: &mut Way<'_, R1, W1>,
    back: &mut Way<'_, R2, W2>,
    mut close: Close,
) -> Last
where
    R1: AsyncRead + Unpin,
    W1: AsyncWrite + Unpin,
    R2: AsyncRead + Unpin,
    W2: AsyncWrite + Unpin,
{
    let code = close.code.unwrap_or(code::NONE);
    let stop = |stopped: Stopped| Last {
        outcome: Outcome::Blocked,
        reason: Some(stopped.reason),
        detail: Some(stopped.detail),
        code: stopped.code,
    };
    match way.inspector.close_reason(std::mem::take(&mut close.reason)) {
        Ok(reason) => close.reason = reason,
        Err(stopped) => {
            tokio::join!(way.say(Close::with(code::GOING_AWAY)), back.say(Close::with(stopped.code)));
            return stop(stopped);
        }
    }
    let echo = Close { code: close.code, reason: String::new() };
    way.say(close).await;
    let (answer, stopped) = match timeout(CLOSING, back.run()).await {
        Ok(End::Close(answer)) => match back.inspector.close_reason(answer.reason) {
            Ok(reason) => (Close { code: answer.code, reason }, None),
            Err(stopped) => (Close::with(stopped.code), Some(stopped)),
        },
        Ok(End::Stopped(stopped)) => (Close::with(stopped.code), Some(stopped)),
        _ => (echo, None),
    };
    back.say(answer).await;
    match stopped {
        Some(stopped) => stop(stopped),
        None => Last { outcome: Outcome::Done, reason: None, detail: None, code },
    }
}

/// Ends it from here: `theirs` is told to the side that is to blame, `others` to the one that `way` leads to.
async fn cut<R1, W1, R2, W2>(way: &mut Way<'_, R1, W1>, back: &mut Way<'_, R2, W2>, theirs: u16, others: u16)
where
    R1: AsyncRead + Unpin,
    W1: AsyncWrite + Unpin,
    R2: AsyncRead + Unpin,
    W2: AsyncWrite + Unpin,
{
    way.say(Close::with(others)).await;
    if way.sender == Sender::Client {
        // What the origin answers to what was sent before still reaches the client.
        let _ = timeout(tunnel::LAST_BYTES, back.run()).await;
    }
    back.say(Close::with(theirs)).await;
}
