//! The running gate: doors served, policy watched, until a signal ends it.

use super::dns_door::{PolicyJudge, QuestionLog};
use super::prepare::{Prepared, steer_settings};
use super::reload::Reloader;
use super::steering::Steering;
use super::watch::Watch;
use super::{Readiness, Running};
use crate::audit::{Event, Text};
use crate::base::Door;
use crate::config::Config;
use crate::dns::{self, Counters, Leases, Resolver};
use crate::flow::{self, Gate, Registry};
use crate::net::{BoundDns, BoundTcp, Listener, OwnAddresses};
use crate::pipeline::Shared;
use crate::rt::{Drain, Tasks};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use anyhow::Context;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How long open flows may go on after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);
/// Why a daemon ends that nobody told to: without its helper the tables are nobody's, and it cannot start another.
const HELPER_GONE: &str = "the helper has ended";
/// For the last records.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT. The tables stay when it ends.
pub async fn run(prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { config, environment, snapshot, minter, anchors, log, writer, .. } = prepared;
    let config = Arc::new(config);
    let tasks = Tasks::new();
    // The writer outlives the drain of the others: it has the last records to write.
    let writers = Tasks::new();
    writers.spawn("audit", writer.run());
    let own = Arc::new(OwnAddresses::read().context("the addresses of this host cannot be read")?);
    let resolver = Arc::new(Resolver::new(config.resolver.clone())?);
    let upstream =
        Upstream::new(config.limits.upstream.clone(), resolver.clone(), own.clone(), anchors, tasks.clone())?;
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::new(snapshot.clone()),
        upstream,
        log: log.clone(),
        metrics: Arc::new(Metrics::new()),
        settings: config.limits.pipeline.clone(),
    });
    let gate = Arc::new(Gate {
        shared,
        minter: Arc::new(minter),
        own: own.clone(),
        leases: Arc::new(Leases::new(config.limits.leases.clone())),
        registry: Arc::new(Registry::default()),
        tasks: tasks.clone(),
        settings: config.limits.flow.clone(),
    });
    let readiness = Arc::new(Readiness::default());
    let running = Arc::new(Running { gate: gate.clone(), resolver, readiness: readiness.clone() });
    let helper_gone = Arc::new(Notify::new());
    let steering = match prepared.helper {
        Some(helper) => {
            let applied = steer_settings(&config, &snapshot);
            let steering = Arc::new(Steering::new(helper.into_async()?, applied));
            let (watching, gone) = (steering.clone().watch(readiness.clone()), helper_gone.clone());
            tasks.spawn(
                "steering",
                until(tasks.drain_signal(), async move {
                    watching.await;
                    gone.notify_one();
                }),
            );
            Some(steering)
        }
        None => None,
    };
    readiness.tables_stand(true);
    let reloader = Arc::new(Reloader::new(config.clone(), Arc::new(environment), running.clone(), steering));
    open_doors(&running, prepared.transparent, Door::Transparent)?;
    open_doors(&running, prepared.explicit, Door::Explicit)?;
    open_dns(&running, &config, prepared.dns)?;
    let reaping = gate.clone();
    tasks.spawn("reaper", until(tasks.drain_signal(), async move { reaping.shared.upstream.reap().await }));
    watch_policies(&config, &tasks, &reloader);
    super::control::serve(&running, &config, &reloader, prepared.admin)?;
    gate.shared.metrics.policy_loaded(snapshot.version(), super::reload::unix_seconds());
    readiness.doors_open(true);
    log.note(&Event { event: "ready", detail: Some(Text::from(snapshot.version())), fields: &[] });
    tracing::info!(mode = config.mode.as_str(), policy = snapshot.version(), "outgate is ready");
    let ended_by = tokio::select! {
        signal = signals(&reloader) => signal?,
        () = helper_gone.notified() => HELPER_GONE,
    };
    readiness.doors_open(false);
    tracing::info!(signal = ended_by, "outgate stops: no new flows, open ones have {} s", DRAIN.as_secs());
    let left = tasks.drain(DRAIN).await;
    log.note(&Event { event: "stop", detail: Some(Text::from(ended_by)), fields: &[] });
    if left > 0 {
        tracing::warn!(left, "tasks were ended without having finished");
    }
    log.close();
    writers.drain(LAST_RECORDS).await;
    if ended_by == HELPER_GONE {
        anyhow::bail!("the helper that looks after the tables has ended; start the daemon again");
    }
    Ok(())
}

/// Work that ends with the drain, wherever it is.
pub(super) async fn until(mut drain: Drain, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = drain.signalled() => {}
    }
}

fn open_doors(running: &Arc<Running>, bound: Vec<BoundTcp>, door: Door) -> anyhow::Result<()> {
    for listener in bound {
        let listener = listener.listen(running.gate.own.clone()).context("a door could not be opened")?;
        let tasks = &running.gate.tasks;
        tasks.spawn("door", until(tasks.drain_signal(), accept(running.gate.clone(), listener, door)));
    }
    Ok(())
}

async fn accept(gate: Arc<Gate>, listener: Listener, door: Door) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                gate.shared.metrics.flows_accepted.inc();
                gate.tasks.spawn("flow", flow::serve(gate.clone(), accepted, door));
            }
            // The listener has paused already: no descriptors or memory are left.
            Err(error) => tracing::warn!(%error, "a connection could not be accepted"),
        }
    }
}

fn open_dns(running: &Arc<Running>, config: &Config, bound: Vec<BoundDns>) -> anyhow::Result<()> {
    let gate = &running.gate;
    for BoundDns { udp, tcp } in bound {
        let interface = udp.interface(&gate.own);
        let own: Vec<_> = crate::config::door_ips(&config.dns).collect();
        let spawning = gate.tasks.clone();
        let parts = dns::Parts {
            judge: Arc::new(PolicyJudge { gate: gate.clone(), interface: interface.clone() }),
            recorder: Arc::new(QuestionLog { gate: gate.clone(), interface }),
            resolver: running.resolver.clone(),
            leases: gate.leases.clone(),
            counters: Arc::new(Counters::default()),
            own: own.into(),
            spawn: Arc::new(move |work| spawning.spawn("question", work)),
        };
        let door = dns::Bound::over(udp.open()?, tcp.open()?, &config.limits.dns, parts);
        gate.tasks.spawn("dns", until(gate.tasks.drain_signal(), door.serve()));
    }
    Ok(())
}

/// Reloads on changes of the folder. Where it cannot be watched, SIGHUP and the admin socket still reload.
fn watch_policies(config: &Arc<Config>, tasks: &Tasks, reloader: &Arc<Reloader>) {
    let mut watch = match Watch::new(&config.policies) {
        Ok(watch) => watch,
        Err(error) => {
            return tracing::warn!(%error, "the policy folder cannot be watched; reload with SIGHUP");
        }
    };
    let reloader = reloader.clone();
    let work = async move {
        while watch.changed().await.is_some() {
            // The outcome is logged and recorded there.
            let _ = reloader.reload("files").await;
        }
    };
    tasks.spawn("watch", until(tasks.drain_signal(), work));
}

/// Handles signals until one of them ends the daemon; gives its name.
async fn signals(reloader: &Arc<Reloader>) -> anyhow::Result<&'static str> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                let _ = reloader.reload("SIGHUP").await;
            }
            _ = terminate.recv() => return Ok("SIGTERM"),
            _ = interrupt.recv() => return Ok("SIGINT"),
        }
    }
}
