//! `outgate run` and `outgate fence`.

use super::{ConfigFile, USAGE, executable, first, out, verdict};
use crate::config::{Config, Mode};
use crate::daemon::{self, Start};
use crate::policy::{LoadOptions, Snapshot};
use crate::rt::runtime;
use crate::secrets::Environment;
use crate::steer::live::{self, Live};
use crate::steer::{self, Tables};
use crate::telemetry::logs;
use anyhow::Context;
use clap::Subcommand;
use std::io::Write;
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
        /// Instead: whether the kernel has just these, as root; exit code 1 where it does not
        #[arg(long)]
        live: bool,
    },
    /// Lets neighbours of a container host reach published ports only; needs no gate and no configuration
    Guard {
        /// The bridges, as docker0 or 'br-*'
        #[arg(value_name = "BRIDGE", required_unless_present = "down")]
        bridges: Vec<String>,
        /// Takes the guard away
        #[arg(long, conflicts_with_all = ["bridges", "show", "live"])]
        down: bool,
        /// Prints the rules and changes nothing
        #[arg(long)]
        show: bool,
        /// Looks whether the kernel has just these rules; exit code 1 where it does not
        #[arg(long, conflicts_with = "show")]
        live: bool,
    },
}

pub(super) fn run(
    file: &Path,
    mode: Option<Mode>,
    log_json: bool,
    log: LevelFilter,
) -> anyhow::Result<ExitCode> {
    let config = Config::load(file, mode)?;
    if std::process::id() == 1 {
        return first::start(config.run_as);
    }
    first::hear_signals()?;
    // First of all, while there is one thread and no child: the secrets leave the environment.
    let environment =
        Environment::sealed(&config.secret_variables()?)?.of_user(config.run_as.map(|user| user.uid));
    logs::init(log, log_json)?;
    let doors = daemon::handed(&config)?;
    let prepared = daemon::prepare(Start { config, environment, executable: executable()?, doors })?;
    let runtime = runtime().context("the runtime could not be started")?;
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
        FenceVerb::Show { file, live: false } => {
            out(&steer::render(&whole_settings(&file)?))?;
            Ok(verdict(true))
        }
        FenceVerb::Show { file, live: true } => told(&live::compare(&whole_settings(&file)?)?),
        FenceVerb::Guard { bridges, down, show, live } => guard(&bridges, down, show, live),
    }
}

fn guard(bridges: &[String], down: bool, show: bool, live: bool) -> anyhow::Result<ExitCode> {
    if down {
        Tables::open()?.remove_guard()?;
        return Ok(ExitCode::SUCCESS);
    }
    // A wrong name is wrong usage, whatever was to be done with it.
    if let Err(error) = steer::guard::check(bridges) {
        writeln!(std::io::stderr(), "outgate: {error}")?;
        return Ok(ExitCode::from(USAGE));
    }
    if show {
        out(&steer::guard::render(bridges))?;
    } else if live {
        return told(&live::compare_guard(bridges)?);
    } else {
        Tables::open()?.apply_guard(bridges)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(live: &Live) -> anyhow::Result<ExitCode> {
    out(&live.to_string())?;
    Ok(verdict(live.good()))
}

/// What a running daemon would apply: the ports that the policy opens are in it, and what is attached.
fn whole_settings(file: &ConfigFile) -> anyhow::Result<steer::Settings> {
    let config = Config::load(&file.file, None)?;
    let options =
        LoadOptions { without_secrets: true, scripts: config.limits.scripts, ..LoadOptions::default() };
    let snapshot = Snapshot::load(&config.policies, &options)?;
    let settings = daemon::steer_settings(&config, &snapshot).context(NOT_OURS)?;
    daemon::attach::state::widened(&config, settings)
}

const NOT_OURS: &str = "steer.manage is false in this configuration: the tables are another program's";

fn settings(file: &ConfigFile) -> anyhow::Result<steer::Settings> {
    let config = Config::load(&file.file, None)?;
    let settings = config.steer.clone().context(NOT_OURS)?;
    daemon::attach::state::widened(&config, settings)
}

pub(super) fn helper() -> anyhow::Result<ExitCode> {
    steer::helper::serve_stdin(None)?;
    Ok(ExitCode::SUCCESS)
}
