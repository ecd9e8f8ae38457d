//! The verbs a person types, and what they print. Exit codes: 0 good, 1 found something wrong, 2 wrong usage.

mod attach;
mod ca;
mod demo;
mod doctor;
mod exec;
mod first;
mod flows;
mod gate;
mod init;
mod policy;

use crate::config::{Config, Mode};
use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

#[derive(Parser)]
#[command(
    name = "outgate",
    version,
    about = "The one way out for code that is not trusted",
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The daemon: opens the doors, judges what comes, records it
    Run {
        #[command(flatten)]
        file: ConfigFile,
        /// Which doors must be there; wins over the file
        #[arg(long, value_name = "regular|transparent", value_parser = mode)]
        mode: Option<Mode>,
        /// Log lines as JSON
        #[arg(long)]
        log_json: bool,
        /// How much to log: off, error, warn, info, debug or trace; libraries never say more than warn
        #[arg(long, value_name = "LEVEL", default_value = "info")]
        log: LevelFilter,
    },
    /// Runs a command behind a gate of its own, without root: what it may reach is what the policy says
    Exec(exec::Options),
    /// A guided tour in throw-away namespaces: allowed, denied, secret injected, leak stopped
    Demo,
    /// Is this configuration and its policy right: every problem at once, with file, line and a way out
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Do not read secrets: their sources need not be there
        #[arg(long)]
        without_secrets: bool,
        #[arg(long)]
        json: bool,
    },
    /// Runs the policy's case files (*.cases.toml)
    Test {
        #[command(flatten)]
        source: PolicySource,
        #[arg(long)]
        json: bool,
    },
    /// Which rule speaks for a request, and why the others do not
    Explain {
        #[command(flatten)]
        source: PolicySource,
        /// As which client; the only one when there is one
        #[arg(long)]
        client: Option<String>,
        /// A request header, as "name: value"; may be repeated
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        method: String,
        url: String,
        #[arg(long)]
        json: bool,
    },
    /// The certificate authority: what clients need to trust the gate
    Ca {
        #[command(subcommand)]
        verb: ca::Verb,
    },
    /// What passes: open flows of a running daemon, and the records
    Flows {
        #[command(subcommand)]
        verb: flows::Verb,
    },
    /// The nftables fence and redirect
    Fence {
        #[command(subcommand)]
        verb: gate::FenceVerb,
    },
    /// Puts a running daemon in front of a workload: a namespace, a container, an interface or a bridge
    Attach(attach::Attach),
    /// Takes a workload away from the daemon again; it stays fenced in unless it is set free
    Detach(attach::Detach),
    /// The start of a workload, inside its container: route, resolver, trust; drops every right, proves it, executes
    Init(init::Arguments),
    /// Checks the set-up, from the gateway or from inside a workload: each a fact, how good that is, and a remedy
    Doctor(doctor::Arguments),
    /// Tells a running daemon to read its policy again
    Reload {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Looks after the tables for a daemon; started by it
    #[command(hide = true)]
    SteerHelper,
    /// What process 1 of a container becomes when it has started the daemon
    #[command(hide = true)]
    FirstProcess(first::Left),
    /// The walls of `exec`; started by it
    #[command(hide = true)]
    ExecInside(exec::Inner),
    /// PID 1 inside them
    #[command(hide = true)]
    ExecInit(exec::Inner),
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "outgate.toml")]
    file: PathBuf,
}

#[derive(Args)]
struct PolicySource {
    #[command(flatten)]
    file: ConfigFile,
    /// The policy folder itself, where there is no configuration
    #[arg(long, value_name = "FOLDER", conflicts_with = "file")]
    policies: Option<PathBuf>,
}

impl PolicySource {
    fn folder(&self) -> anyhow::Result<PathBuf> {
        match &self.policies {
            Some(folder) => Ok(folder.clone()),
            None => Ok(Config::load(&self.file.file, None)?.policies),
        }
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "regular" => Ok(Mode::Regular),
        "transparent" => Ok(Mode::Transparent),
        _ => Err("regular (explicit proxy) or transparent".into()),
    }
}

/// Found something wrong.
const WRONG: u8 = 1;
/// Used wrongly.
const USAGE: u8 = 2;

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A program that `init` starts may end with any code of its own; ours must not be taken for one of those.
            let init = std::env::args_os().nth(1).is_some_and(|verb| verb == "init");
            let usage = if init { crate::shim::FAILED } else { USAGE };
            let code = if error.use_stderr() { usage } else { 0 };
            // A closed terminal is no reason for another exit code.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match perform(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outgate: {}", told(&error));
            ExitCode::from(WRONG)
        }
    }
}

/// `outgate-init`: the verb as a program.
pub fn init() -> ExitCode {
    match init::Program::try_parse() {
        Ok(program) => init::perform(program.arguments),
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { crate::shim::FAILED } else { 0 })
        }
    }
}

fn perform(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run { file, mode, log_json, log } => gate::run(&file.file, mode, log_json, log),
        Verb::Exec(options) => Ok(exec::run(&options)),
        Verb::Demo => demo::run(&executable()?),
        Verb::Check { file, without_secrets, json } => policy::check(&file.file, without_secrets, json),
        Verb::Test { source, json } => policy::test(&source.folder()?, json),
        Verb::Explain { source, client, headers, method, url, json } => {
            policy::explain(&source.folder()?, client.as_deref(), &headers, &method, &url, json)
        }
        Verb::Ca { verb } => ca::perform(verb),
        Verb::Flows { verb } => flows::perform(verb),
        Verb::Fence { verb } => gate::fence(verb),
        Verb::Attach(what) => attach::attach(what),
        Verb::Detach(what) => attach::detach(&what),
        Verb::Init(arguments) => Ok(init::perform(arguments)),
        Verb::Doctor(arguments) => doctor::perform(arguments),
        Verb::Reload { file } => flows::reload(&file.file),
        Verb::SteerHelper => gate::helper(),
        Verb::FirstProcess(left) => first::serve(&left),
        Verb::ExecInside(inner) => Ok(exec::inside(&inner)),
        Verb::ExecInit(inner) => Ok(exec::init(&inner)),
    }
}

/// An error and its causes, each said once.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let between = if text.is_empty() { "" } else { ": " };
            text = text + between + cause.as_str();
        }
    }
    text
}

fn executable() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?)
}

/// Prints to standard output; a reader that has gone away ends the program quietly.
fn out(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    out(&(serde_json::to_string_pretty(value)? + "\n"))
}

fn verdict(good: bool) -> ExitCode {
    ExitCode::from(if good { 0 } else { WRONG })
}

/// A path as the user should type it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
