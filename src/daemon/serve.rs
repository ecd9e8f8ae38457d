//! The running gate: doors served, policy watched, until a signal ends it.

use super::attach::state::State;
use super::attach::{Attachments, Cut, Cuts};
use super::dns_door::{PolicyJudge, QuestionLog};
use super::prepare::{Prepared, redirected_ports, steer_settings};
use super::quic_door::QuicJudge;
use super::reload::Reloader;
use super::steering::{Steering, Wanted};
use super::watch::Watch;
use super::{Readiness, Running, notice};
use crate::audit::{Event, Text};
use crate::base::{Door, Ingress};
use crate::config::Config;
use crate::dns::{self, Counters, Followed, Leases, Resolver};
use crate::flow::{self, Gate, Registry};
use crate::net::{BoundDns, BoundTcp, BoundUdp, Listener, OwnAddresses};
use crate::pipeline::Shared;
use crate::quic;
use crate::rt::{Drain, Tasks};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use anyhow::Context;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// For flows that are told to end when their time after SIGTERM is over: they look every second.
const CUT: Duration = Duration::from_millis(1500);
/// Why a daemon ends that nobody told to: without its helper the tables are nobody's, and it cannot start another.
const HELPER_GONE: &str = "the helper has ended or answers no more";
/// For the last records.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT. The tables stay when it ends.
pub async fn run(prepared: Prepared) -> anyhow::Result<()> {
    run_until(prepared, std::future::pending()).await
}

/// As [`run`], and also ends when `over` does, which says why.
pub async fn run_until(prepared: Prepared, over: impl Future<Output = &'static str>) -> anyhow::Result<()> {
    let Prepared { config, environment, snapshot, minter, anchors, proxy, log, writer, epoch, .. } = prepared;
    let config = Arc::new(config);
    let tasks = Tasks::new();
    // The writer outlives the drain of the others: it has the last records to write.
    let writers = Tasks::new();
    writers.spawn_vital("audit", writer.run());
    let own = Arc::new(OwnAddresses::read().context("the addresses of this host cannot be read")?);
    let resolver = Arc::new(Resolver::new(config.resolver.clone())?);
    if let Some(proxy) = &proxy {
        tracing::info!(proxy = %proxy.settings().url, "connections go through a proxy");
    }
    let settings = config.limits.upstream.clone();
    let upstream =
        Upstream::new(settings, proxy, resolver.clone(), own.clone(), anchors.clone(), tasks.clone())?;
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::new(snapshot.clone()),
        upstream,
        log: log.clone(),
        metrics: Arc::new(Metrics::new()),
        settings: config.limits.pipeline.clone(),
        drain: tasks.drain_signal(),
    });
    let limits = &config.limits.flow;
    let gate = Arc::new(Gate {
        shared,
        minter: Arc::new(minter),
        own: own.clone(),
        leases: Arc::new(Leases::of_epoch(config.limits.leases.clone(), epoch)),
        registry: Arc::new(Registry::default()),
        mints: dns::Rate::new(limits.leaves_per_second, limits.leaves_burst, usize::from(u16::MAX)),
        tasks: tasks.clone(),
        settings: config.limits.flow.clone(),
    });
    let readiness = Arc::new(Readiness::default());
    follow_resolvers(&gate, resolver.clone());
    let running = Arc::new(Running {
        gate: gate.clone(),
        resolver,
        counters: Arc::new(Counters::default()),
        quic: quic::Bounds::new(&quic::Settings::default()),
        readiness: readiness.clone(),
        cuts: Cuts::default(),
    });
    let helper_gone = Arc::new(Notify::new());
    let steering = match prepared.helper {
        Some(helper) => {
            let (own, ports) = (steer_settings(&config, &snapshot), redirected_ports(&snapshot));
            let interfaces = prepared.attached.as_ref().map(State::interfaces).unwrap_or_default();
            let wanted = Wanted { own, ports, interfaces, ..Wanted::default() };
            let steering = Arc::new(Steering::new(helper.into_async()?, wanted));
            let (watching, gone) = (steering.clone().watch(readiness.clone()), helper_gone.clone());
            tasks.spawn_vital(
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
    let attachments = match (prepared.attached, &steering) {
        (Some(state), Some(steering)) => {
            Some(Attachments::open(running.clone(), config.clone(), steering.clone(), state).await)
        }
        _ => None,
    };
    if let Some(attachments) = &attachments {
        tasks.spawn_vital("attachments", until(tasks.drain_signal(), attachments.clone().watch()));
    }
    let reloader =
        Arc::new(Reloader::new(config.clone(), Arc::new(environment), anchors, running.clone(), steering));
    open_doors(&running, prepared.doors.transparent, Door::Transparent)?;
    open_doors(&running, prepared.doors.explicit, Door::Explicit)?;
    open_dns(&running, &config, prepared.doors.dns)?;
    open_quic(&running, prepared.doors.quic)?;
    let reaping = gate.clone();
    tasks.spawn("reaper", until(tasks.drain_signal(), async move { reaping.shared.upstream.reap().await }));
    tasks.spawn("log", until(tasks.drain_signal(), crate::telemetry::logs::tell_what_is_left_out()));
    let (counting, remembering) = (gate.clone(), gate.clone());
    let memory = crate::rt::memory::give_back(
        move || counting.registry.open(),
        move || remembering.registry.most_open(),
    );
    tasks.spawn("memory", until(tasks.drain_signal(), memory));
    if config.watches_policies {
        watch_policies(&config, &tasks, &reloader);
    }
    super::control::serve(&running, &config, &reloader, attachments, prepared.admin)?;
    gate.shared.metrics.policy_loaded(snapshot.version(), super::reload::unix_seconds());
    // Before anybody is told: who hears "ready" may send a signal at once, and unheard it would kill.
    let signals = Signals::new()?;
    readiness.doors_open(true);
    log.note(&Event { event: "ready", detail: Some(Text::from(snapshot.version())), fields: &[] });
    tracing::info!(mode = config.mode.as_str(), policy = snapshot.version(), "outgate is ready");
    notice::ready(&running);
    tasks.spawn("notice", until(tasks.drain_signal(), notice::keep(running.clone(), writers.clone())));
    let ended_by = tokio::select! {
        signal = signals.serve(&reloader) => signal,
        () = helper_gone.notified() => HELPER_GONE,
        why = over => why,
    };
    readiness.doors_open(false);
    notice::stopping();
    let patience = config.limits.flow.stop;
    tracing::info!(signal = ended_by, "outgate stops: no new flows, open ones have {patience:?}");
    let left = tasks.drain(patience, CUT).await;
    log.note(&Event { event: "stop", detail: Some(Text::from(ended_by)), fields: &[] });
    if left > 0 {
        tracing::warn!(left, "tasks were ended without having finished");
    }
    log.close();
    writers.drain(LAST_RECORDS, Duration::ZERO).await;
    if ended_by == HELPER_GONE {
        anyhow::bail!(
            "the helper that looks after the tables has ended or answers no more; start the daemon again"
        );
    }
    Ok(())
}

/// Work that ends with the drain, wherever it is. The drain is looked at first: a door takes nobody in any more that
/// another daemon on the same socket could serve.
pub(super) async fn until(mut drain: Drain, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = drain.signalled() => {}
        () = work => {}
    }
}

fn open_doors(running: &Arc<Running>, bound: Vec<BoundTcp>, door: Door) -> anyhow::Result<()> {
    for listener in bound {
        let listener = listener.listen(running.gate.own.clone()).context("a door could not be opened")?;
        let tasks = &running.gate.tasks;
        tasks.spawn_vital("door", until(tasks.drain_signal(), accept(running.clone(), listener, door)));
    }
    Ok(())
}

pub(super) async fn accept(running: Arc<Running>, listener: Listener, door: Door) {
    let gate = &running.gate;
    let mut troubled = Troubled::default();
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                gate.shared.metrics.flows_accepted.inc();
                let cut = running.cuts.of(&accepted.ingress);
                let flow = flow::serve(gate.clone(), accepted, door);
                match cut {
                    Cut::Never => gate.tasks.spawn("flow", flow),
                    Cut::When(detached) => gate.tasks.spawn("flow", until(detached, flow)),
                    Cut::Now => {}
                }
            }
            // The listener has paused already: no descriptors or memory are left.
            Err(error) => troubled.warn(&error),
        }
    }
}

/// Says at once that connections cannot be accepted, and then how often that happened, not each time.
#[derive(Default)]
struct Troubled {
    said: Option<Instant>,
    since: u64,
}

impl Troubled {
    const AGAIN: Duration = Duration::from_secs(10);

    fn warn(&mut self, error: &std::io::Error) {
        self.since += 1;
        if self.said.is_none_or(|said| said.elapsed() >= Self::AGAIN) {
            tracing::warn!(%error, times = self.since, "connections could not be accepted");
            (self.said, self.since) = (Some(Instant::now()), 0);
        }
    }
}

fn open_dns(running: &Arc<Running>, config: &Config, bound: Vec<BoundDns>) -> anyhow::Result<()> {
    let gate = &running.gate;
    for bound in bound {
        let ingress = bound.udp.ingress(&gate.own);
        let door = dns_door(running, config, bound, ingress)?;
        gate.tasks.spawn_vital("dns", until(gate.tasks.drain_signal(), door.serve()));
    }
    Ok(())
}

/// A DNS door for what comes in at one place.
pub(super) fn dns_door(
    running: &Arc<Running>,
    config: &Config,
    BoundDns { udp, tcp }: BoundDns,
    ingress: Ingress,
) -> std::io::Result<dns::Bound> {
    let gate = &running.gate;
    let own: Vec<_> = crate::config::door_ips(&config.dns).collect();
    let spawning = gate.tasks.clone();
    let parts = dns::Parts {
        judge: Arc::new(PolicyJudge { gate: gate.clone(), ingress: ingress.clone() }),
        recorder: Arc::new(QuestionLog { gate: gate.clone(), ingress }),
        resolver: running.resolver.clone(),
        leases: gate.leases.clone(),
        counters: running.counters.clone(),
        own: own.into(),
        spawn: Arc::new(move |work| spawning.spawn("question", work)),
    };
    Ok(dns::Bound::over(udp.open()?, tcp.open()?, &config.limits.dns, parts))
}

fn open_quic(running: &Arc<Running>, bound: Vec<BoundUdp>) -> anyhow::Result<()> {
    let gate = &running.gate;
    for bound in bound {
        let ingress = bound.ingress(&gate.own);
        let door = quic_door(running, bound, ingress)?;
        gate.tasks.spawn("quic", until(gate.tasks.drain_signal(), door.serve()));
    }
    Ok(())
}

/// A QUIC responder for what comes in at one place.
pub(super) fn quic_door(
    running: &Arc<Running>,
    bound: BoundUdp,
    ingress: Ingress,
) -> std::io::Result<quic::Responder> {
    let gate = running.gate.clone();
    let metrics = gate.shared.metrics.clone();
    let judge = Arc::new(QuicJudge { gate, ingress });
    Ok(quic::Responder::new(bound.open()?, running.quic.clone(), judge, metrics))
}

/// Follows the resolver configuration of the host; what changes is in the records.
fn follow_resolvers(gate: &Arc<Gate>, resolver: Arc<Resolver>) {
    let following = gate.clone();
    let work = async move {
        let tell = |news: &Followed| {
            let (detail, path) = match news {
                Followed::Servers { path, servers } => {
                    tracing::info!(file = %path.display(), ?servers, "other resolvers are asked from now on");
                    (format!("{servers:?}"), path)
                }
                Followed::Kept { path, why } => {
                    tracing::warn!(file = %path.display(), "the last resolvers stay in use: {why}");
                    (format!("kept: {why}"), path)
                }
            };
            let path = path.display().to_string();
            following.shared.log.note(&Event {
                event: "resolver",
                detail: Some(Text::from(&detail)),
                fields: &[("file", Text::from(&path))],
            });
        };
        resolver.follow(tell).await;
    };
    gate.tasks.spawn("resolver", until(gate.tasks.drain_signal(), work));
}

/// Reloads on changes of the folder and of the configuration's file. Where they cannot be watched, SIGHUP and the admin
/// socket still reload.
fn watch_policies(config: &Arc<Config>, tasks: &Tasks, reloader: &Arc<Reloader>) {
    let mut watch = match Watch::new(&config.policies, &config.file) {
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

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Handles signals until one of them ends the daemon; gives its name.
    async fn serve(mut self, reloader: &Arc<Reloader>) -> &'static str {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    let _ = reloader.reload("SIGHUP").await;
                }
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
            }
        }
    }
}
