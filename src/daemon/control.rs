//! What the admin doors show and do, put together from the running parts.

use super::Running;
use super::attach::Attachments;
use super::reload::Reloader;
use crate::admin::{self, Bound, Flow, Listener, Source, State};
use crate::audit::{Event, Text};
use crate::config::Config;
use crate::rt::Tasks;
use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::oneshot;

pub(super) fn serve(
    running: &Arc<Running>,
    config: &Arc<Config>,
    reloader: &Arc<Reloader>,
    attachments: Option<Arc<Attachments>>,
    bound: Bound,
) -> anyhow::Result<()> {
    let source = source(running, config, reloader, attachments);
    let tasks = running.gate.tasks.clone();
    let spawning = tasks.clone();
    let spawn: admin::Spawn = Arc::new(move |name, work| spawning.spawn(name, work));
    let serving = bound.serve(Arc::new(source), spawn).context("the admin doors could not be opened")?;
    tasks.spawn("admin", super::serve::until(tasks.drain_signal(), serving));
    Ok(())
}

fn source(
    running: &Arc<Running>,
    config: &Arc<Config>,
    reloader: &Arc<Reloader>,
    attachments: Option<Arc<Attachments>>,
) -> Source {
    let listed = attachments.clone();
    let started = Instant::now();
    let (state, flows, metrics, unready, stranger) =
        (running.clone(), running.clone(), running.clone(), running.clone(), running.clone());
    let (reloading, changing) = (running.clone(), running.clone());
    let (config, reloader) = (config.clone(), reloader.clone());
    Source {
        state: Box::new(move || state_of(&state, &config, started)),
        reload: Box::new(move || {
            let reloader = reloader.clone();
            let tasks = reloading.gate.tasks.clone();
            Box::pin(to_its_end(tasks, "reload", async move { reloader.reload("admin").await }))
        }),
        flows: Box::new(move || flows_of(&flows)),
        attachments: Box::new(move || listed.as_ref().map(|all| all.list()).unwrap_or_default()),
        change: Box::new(move |change| {
            let attachments = attachments.clone();
            Box::pin(to_its_end(changing.gate.tasks.clone(), "change", async move {
                match attachments {
                    Some(attachments) => attachments.change(change).await,
                    None => {
                        Err("this daemon attaches nothing: set attach = true in [steer] and start it again"
                            .into())
                    }
                }
            }))
        }),
        metrics: Box::new(move || measured(&metrics)),
        unready: Box::new(move || unready.readiness.missing()),
        stranger: Box::new(move |uid, pid| {
            let words =
                format!("user {uid}, process {}", pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string()));
            let detail = Some(Text::from(&words));
            stranger.gate.shared.log.note(&Event { event: "admin_stranger", detail, fields: &[] });
        }),
    }
}

/// As a task of its own: who asked may go away, and half a change is none.
async fn to_its_end(
    tasks: Tasks,
    name: &'static str,
    work: impl Future<Output = Result<String, String>> + Send + 'static,
) -> Result<String, String> {
    let (tell, told) = oneshot::channel();
    tasks.spawn(name, async move {
        let _ = tell.send(work.await);
    });
    told.await.unwrap_or_else(|_| Err("it was not finished: the daemon's log says why".to_owned()))
}

fn state_of(running: &Running, config: &Config, started: Instant) -> State {
    let shared = &running.gate.shared;
    let unready = running.readiness.missing();
    let head = shared.log.head();
    let doors = [
        ("transparent", &config.transparent),
        ("explicit", &config.explicit),
        ("dns", &config.dns),
        ("quic", &config.quic),
    ];
    let listeners = doors
        .into_iter()
        .flat_map(|(door, all)| all.iter().map(move |a| Listener { door, address: a.to_string() }))
        .collect();
    State {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: config.mode.as_str().to_owned(),
        listeners,
        policy: shared.snapshot.load().version().to_owned(),
        ready: unready.is_empty(),
        unready,
        uptime_seconds: started.elapsed().as_secs(),
        flows: running.gate.registry.open(),
        audit_seq: head.seq,
        audit_hash: head.hash,
    }
}

fn flows_of(running: &Running) -> Vec<Flow> {
    running
        .gate
        .registry
        .list()
        .into_iter()
        .map(|flow| Flow {
            id: crate::audit::FlowId { flow: flow.number, exchange: 0 }.to_string(),
            client: Some(flow.client.to_string()),
            source: flow.source.to_string(),
            door: flow.door.as_str(),
            host: flow.name.or_else(|| flow.target.map(|t| t.to_string())),
            age_seconds: flow.since.elapsed().as_secs(),
        })
        .collect()
}

/// Gauges are read off their modules when somebody scrapes; counters have counted already.
fn measured(running: &Running) -> String {
    let gate = &running.gate;
    let metrics = &gate.shared.metrics;
    let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let stats = gate.shared.log.stats();
    metrics.flows_open.set(gauge(gate.registry.open()));
    metrics.upstream_idle.set(gauge(gate.shared.upstream.idle_connections()));
    metrics.leaves_cached.set(gauge(gate.minter.cached()));
    metrics.leaves_minted.set(i64::try_from(gate.minter.minted()).unwrap_or(i64::MAX));
    metrics.audit_queue_bytes.set(gauge(stats.queued_bytes));
    metrics.audit_stalled.set(i64::from(stats.stalled));
    metrics.audit_lost.set(i64::try_from(stats.lost).unwrap_or(i64::MAX));
    metrics.audit_written.set(i64::try_from(stats.written).unwrap_or(i64::MAX));
    let dns = &running.counters;
    let total = |counter: &AtomicU64| i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
    metrics.dns_messages.set(total(&dns.messages));
    metrics.dns_dropped.set(total(&dns.rate_dropped));
    metrics.dns_connections_refused.set(total(&dns.connections_refused));
    metrics.encode()
}
