//! Bytes relayed unread between a client and the one place its rule names. Counted, ended by long silence, by a policy
//! that no longer allows it, or when a daemon that stops has waited long enough.

use super::Gate;
use super::decide::Tunnelled;
use super::refuse;
use crate::base::{IoWords, Scheme};
use crate::net;
use crate::pipeline::{self, Ending, Outcome};
use crate::policy::{ConnectVerdict, Reason, TunnelPermit};
use crate::upstream::{Opened, UpstreamError};
use bytes::{Buf, Bytes};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is read at a time in each direction.
const PIECE: usize = 16 * 1024;

pub(super) async fn serve(gate: &Arc<Gate>, tunnelled: Tunnelled) {
    let Tunnelled { stream, ahead, flow, ticket: _ticket, permit, facts } = tunnelled;
    let snapshot = permit.snapshot().clone();
    if let Err(refusal) = pipeline::on_tunnel(&flow, &permit) {
        pipeline::refuse(&flow, &snapshot, &facts, &refusal).await;
        return refuse::reset(stream);
    }
    let lane = flow.shared.upstream.lane(permit.dial().clone());
    if let Err(UpstreamError::Blocked(address)) = flow.shared.upstream.guard(&lane).await {
        let refusal =
            crate::policy::Refusal::new(Reason::AddrBlocked, format!("the address guard refuses {address}"));
        pipeline::refuse(&flow, &snapshot, &facts, &refusal).await;
        return refuse::reset(stream);
    }
    let rule = permit.rule().name().clone();
    let Ok(ending) = pipeline::decide(&flow, &snapshot, &facts, "tunnel", &rule).await else {
        return refuse::reset(stream);
    };
    let (upstream, first) = match flow.shared.upstream.tunnel(&permit).await {
        Ok(Opened { wire, ahead, reached }) => {
            ending.tunnelled_to(reached);
            (wire, ahead)
        }
        Err(error) => {
            ending.finish(Outcome::Failed, Some(error.reason()), Some(error.to_string()));
            return net::reset(stream);
        }
    };
    let still = || if allowed_still(&flow, &permit) { Ok(()) } else { Err(Reason::Reload) };
    relay(gate, stream, upstream, (ahead, first), &ending, still).await;
}

/// Whether the policy of this moment would permit the tunnel again.
fn allowed_still(flow: &pipeline::Flow, permit: &TunnelPermit) -> bool {
    let snapshot = flow.shared.snapshot.load_full();
    if Arc::ptr_eq(&snapshot, permit.snapshot()) {
        return true;
    }
    let Ok(client) = flow.client_in(&snapshot) else { return false };
    let right = permit.dial();
    match right.scheme() {
        Scheme::Tcp => snapshot.judge_tcp(client, right.host(), right.port()).is_ok(),
        Scheme::Http | Scheme::Https => {
            matches!(snapshot.judge_connect(client, right.host(), right.port()), ConnectVerdict::Tunnel(_))
        }
    }
}

/// Copies both ways until both ends have closed. `first` holds what was already read: from the client, and from the
/// upstream side.
async fn relay(
    gate: &Arc<Gate>,
    client: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    first: (Bytes, Bytes),
    ending: &Arc<Ending>,
    holds: impl FnMut() -> Result<(), Reason>,
) {
    let (client_read, client_write) = tokio::io::split(client);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let moved = AtomicU64::new(0);
    let up = copy(first.0, client_read, upstream_write, |n| {
        ending.count_up(n);
        moved.fetch_add(n, Ordering::Relaxed);
    });
    let down = copy(first.1, upstream_read, client_write, |n| {
        ending.count_down(n);
        moved.fetch_add(n, Ordering::Relaxed);
    });
    tokio::select! {
        ended = both_ways(up, down) => {
            ending.finish(Outcome::Done, None, ended.err().map(|error| IoWords(&error).to_string()));
        }
        reason = watch(gate, &moved, holds) => ending.finish(Outcome::of_lost(reason), Some(reason), None),
    }
}

/// What one way may still bring after the other broke.
pub(super) const LAST_BYTES: Duration = Duration::from_secs(1);

/// Runs both ways to their ends. When one breaks nobody is left at one side, and the other way, which may have
/// nothing to read for hours, would not notice.
async fn both_ways(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let (mut up, mut down) = (pin!(up), pin!(down));
    tokio::select! {
        first = &mut up => after(first, down).await,
        first = &mut down => after(first, up).await,
    }
}

async fn after(first: io::Result<()>, rest: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    match first {
        Ok(()) => rest.await,
        Err(error) => {
            let _ = tokio::time::timeout(LAST_BYTES, rest).await;
            Err(error)
        }
    }
}

/// How often an open tunnel is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Ends when the connection may not go on: its policy has gone, the daemon ends, or nothing has `moved` for too long.
pub(super) async fn watch(
    gate: &Gate,
    moved: &AtomicU64,
    mut holds: impl FnMut() -> Result<(), Reason>,
) -> Reason {
    let (mut seen, mut quiet) = (0, Duration::ZERO);
    loop {
        tokio::time::sleep(WATCH).await;
        if gate.shared.drain.is_over() {
            return Reason::Shutdown;
        }
        if let Err(reason) = holds() {
            return reason;
        }
        let now = moved.load(Ordering::Relaxed);
        quiet = if now == seen { quiet + WATCH } else { Duration::ZERO };
        seen = now;
        if quiet >= gate.settings.tunnel_idle {
            return Reason::Timeout;
        }
    }
}

async fn copy(
    mut first: Bytes,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(u64),
) -> io::Result<()> {
    if first.has_remaining() {
        count(first.remaining() as u64);
        to.write_all_buf(&mut first).await?;
        to.flush().await?;
    }
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        count(n as u64);
        to.write_all(piece.get(..n).unwrap_or_default()).await?;
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_way_that_breaks_ends_the_other_and_one_that_finishes_does_not() {
        let broken = async { Err(io::ErrorKind::ConnectionReset.into()) };
        assert!(both_ways(broken, std::future::pending()).await.is_err());
        let slow = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        };
        assert!(both_ways(async { Ok(()) }, slow).await.is_ok());
    }
}
