//! What a record costs: one decision and its end, from the call to `write(2)`, per exchange.
//!
//! Prints CPU time of the whole process per exchange for 1 and 32 flows on a single-thread runtime. With 32 flows the
//! budget is 3 microseconds; a quarter of it is SHA-256. Run: `cargo bench --bench audit`, against the same on the
//! commit before.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use outgate::audit::{Asker, Decision, End, FlowId, Log, Settings, Sink};
use outgate::base::{Door, Scheme};
use std::time::Duration;

const EXCHANGES: u64 = 400_000;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    for flows in [1, 8, 32, 256] {
        let path = dir.path().join(format!("{flows}.jsonl"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let before = cpu();
        runtime.block_on(run(flows, Settings::new(Sink::File(path.clone()))));
        let spent = cpu() - before;
        let bytes = path.metadata().unwrap().len() / EXCHANGES;
        println!(
            "{flows:4} flows: {:.2} us CPU and {bytes} bytes an exchange",
            spent.as_secs_f64() * 1e6 / EXCHANGES as f64
        );
        std::fs::remove_file(path).unwrap();
    }
}

async fn run(flows: u64, settings: Settings) {
    let (log, writer) = Log::open(settings).unwrap();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let writer = tokio::task::spawn_local(writer.run());
            let tasks: Vec<_> = (0..flows)
                .map(|flow| tokio::task::spawn_local(exchanges(log.clone(), flow, flows)))
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            log.close();
            writer.await.unwrap();
        })
        .await;
}

async fn exchanges(log: Log, flow: u64, flows: u64) {
    let address = "93.184.216.34:443".parse().ok();
    let source = "192.168.128.2:40000".parse().unwrap();
    let asker = Asker::new(Some("agent"), source, Door::Transparent).to(address);
    let asker = asker.greeting(Some("api.github.com".into()));
    for exchange in 0..EXCHANGES / flows {
        let id = FlowId { flow, exchange: exchange as u32 + 1 };
        let decision = Decision {
            id,
            verdict: "allow",
            rule: Some("read the repository"),
            policy: "5c1f0a9b2d34",
            asker: &asker,
            proto: Some("h2"),
            scheme: Some(Scheme::Https),
            authority: Some("api.github.com".into()),
            method: Some("GET".into()),
            path: Some("/repos/acme/widgets/contents/README.md?ref=main".into()),
            ..Decision::default()
        };
        log.decide(&decision).await.unwrap();
        log.end(&End {
            id,
            outcome: "done",
            status: Some(200),
            bytes_down: 10_240,
            duration: Duration::from_micros(4_321),
            upstream: address,
            upstream_proto: Some("h2"),
            ..End::default()
        });
    }
}

fn cpu() -> Duration {
    let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec() as u64, t.tv_usec() as u32 * 1000);
    of(used.user_time()) + of(used.system_time())
}
