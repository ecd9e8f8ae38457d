//! `outgate demo`: a tour in throw-away namespaces, with the real daemon and real clients.
//!
//! `ground` finds out whether namespaces can be made here, `world` makes three of them (agent, gate, internet),
//! `origin` and `names` are the internet, `gate` is this same binary as the daemon, `tour` walks the steps and
//! `screen` prints them. Nothing outside the namespaces is contacted or changed; what is made has no name in any file
//! system but one scratch folder, and ends with this process.

mod client;
mod gate;
mod ground;
mod names;
mod namespace;
mod origin;
mod scratch;
mod screen;
mod tour;
mod world;

use anyhow::{Context, Result};
use gate::Gate;
use scratch::Scratch;
use screen::Screen;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tour::{Ending, Tour};
use world::World;

/// Runs the tour. `exe` is this binary: the daemon is started from it, and it is started anew where only a user
/// namespace gives the right to make the others. Success only when every step went as expected.
pub fn run(exe: &Path) -> Result<ExitCode> {
    ground::programs()?;
    ground::permission(exe)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the demo's runtime")?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let tour = {
        let (exe, handle, interrupted) = (exe.to_owned(), runtime.handle().clone(), interrupted.clone());
        std::thread::Builder::new()
            .name("tour".into())
            .spawn(move || walk(&exe, &handle, &interrupted))
            .context("cannot start the demo's thread")?
    };
    let finished = runtime.block_on(until_finished_or_interrupted(&tour, &interrupted));
    let outcome = tour.join().map_err(|_| anyhow::anyhow!("the demo panicked"))?;
    // The origin's tasks wait for connections that never come again.
    runtime.shutdown_background();
    finished?;
    Ok(if outcome? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A signal only raises a flag: the tour ends at its next step and takes down what it built.
async fn until_finished_or_interrupted(
    tour: &std::thread::JoinHandle<Result<bool>>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
    while !tour.is_finished() {
        tokio::select! {
            _ = look.tick() => continue,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        interrupted.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// The whole tour, from the empty folder to the last line. True when every step was as expected.
fn walk(exe: &Path, runtime: &tokio::runtime::Handle, interrupted: &AtomicBool) -> Result<bool> {
    let scratch = Scratch::new()?;
    let kept = scratch.path().to_owned();
    let screen = Screen::new();
    let toured = World::new(&scratch, runtime).and_then(|world| {
        let gate = Gate::prepare(&world, &scratch, exe)?;
        screen.title();
        Tour::new(&world, gate)?.walk(&screen, interrupted)
    });
    if interrupted.load(Ordering::Relaxed) {
        scratch.remove()?;
        anyhow::bail!("interrupted; nothing is left behind");
    }
    match toured {
        Ok(Ending::AsExpected(summary)) => {
            scratch.keep_only(gate::RECORDS)?;
            screen.end(&summary, &kept.join(gate::RECORDS));
            Ok(true)
        }
        Ok(Ending::Failed { steps }) => {
            screen.failed(steps, &kept);
            Ok(false)
        }
        Err(error) => Err(error.context(format!("the demo stopped; its files are in {}", kept.display()))),
    }
}
