//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, how things stand, and that the daemon
//! works. Without one that listens, nothing happens.
//!
//! The watchdog is fed only while every vital task answers: the doors' accept loops, the DNS doors, the writer of the
//! records and the look after the helper. A disk that is full or tables that somebody changed do not stop it: a restart
//! mends neither, and both are told elsewhere.

use super::Running;
use crate::rt::Tasks;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;

/// Without a watchdog: how often the status line is renewed.
const STATUS: Duration = Duration::from_secs(10);
/// In the time of the watchdog the vital tasks are asked this often, so that one slow answer is no death.
const ASKED: u32 = 3;

pub(super) fn ready(running: &Running) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(running))]);
}

pub(super) fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    tell(&[NotifyState::Reloading, now]);
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping: open flows have some seconds")]);
}

/// Feeds the watchdog and keeps the status line true. `writers` are the tasks that outlive the flows'.
pub(super) async fn keep(running: Arc<Running>, writers: Tasks) {
    let watchdog = sd_notify::watchdog_enabled();
    let pause = watchdog.map_or(STATUS, |limit| limit / ASKED);
    loop {
        tokio::time::sleep(pause).await;
        let mut silent = running.gate.tasks.silent(pause / 2).await;
        silent.extend(writers.silent(pause / 2).await);
        let status = status(&running);
        let mut states = vec![NotifyState::Status(&status)];
        if silent.is_empty() {
            states.push(NotifyState::Watchdog);
        } else {
            tracing::error!(
                ?silent,
                "parts of the daemon do not answer: the watchdog is not told that it works"
            );
        }
        tell(&states);
    }
}

fn status(running: &Running) -> String {
    let missing = running.readiness.missing();
    let policy = running.gate.shared.snapshot.load().version().to_owned();
    let flows = running.gate.registry.open();
    if missing.is_empty() {
        format!("policy {policy}, open flows: {flows}")
    } else {
        format!("not ready: {}", missing.join("; "))
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
