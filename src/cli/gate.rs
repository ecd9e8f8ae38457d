//! `outgate run` and `outgate fence`.

use super::{ConfigFile, executable, out, verdict};
use crate::config::{Config, Mode};
use crate::daemon::{self, Start};
use crate::policy;
use crate::secrets::Environment;
use crate::steer::{self, Tables};
use crate::telemetry::logs;
use anyhow::Context;
use clap::Subcommand;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

#[derive(Subcommand)]
pub(super) enum FenceVerb {
    /// Loads the fence alone: nothing leaves until a daemon serves (for boot, before anything else)
    Up {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Takes the fence and the redirect away: the clients are free
    Down,
    /// Prints the rules of a configuration as nft text
    Show {
        #[command(flatten)]
        file: ConfigFile,
    },
}

pub(super) fn run(
    file: &Path,
    mode: Option<Mode>,
    log_json: bool,
    log: LevelFilter,
) -> anyhow::Result<ExitCode> {
    let config = Config::load(file, mode)?;
    // First of all, while there is one thread and no child: the secrets leave the environment.
    let names = policy::environment_names(&config.policies)?;
    let environment = Environment::sealed(&names)?;
    logs::init(log, log_json)?;
    let prepared = daemon::prepare(Start { config, environment, executable: executable()? })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("outgate")
        .build()
        .context("the runtime could not be started")?;
    runtime.block_on(daemon::run(prepared))?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

pub(super) fn fence(verb: FenceVerb) -> anyhow::Result<ExitCode> {
    match verb {
        FenceVerb::Up { file } => {
            Tables::open()?.apply_fence(&settings(&file)?)?;
            Ok(ExitCode::SUCCESS)
        }
        FenceVerb::Down => {
            Tables::open()?.remove_all()?;
            Ok(ExitCode::SUCCESS)
        }
        FenceVerb::Show { file } => {
            out(&steer::render(&settings(&file)?))?;
            Ok(verdict(true))
        }
    }
}

fn settings(file: &ConfigFile) -> anyhow::Result<steer::Settings> {
    let config = Config::load(&file.file, None)?;
    config.steer.context("steer.manage is false in this configuration: the tables are another program's")
}

pub(super) fn helper() -> anyhow::Result<ExitCode> {
    steer::helper::serve_stdin(None)?;
    Ok(ExitCode::SUCCESS)
}
