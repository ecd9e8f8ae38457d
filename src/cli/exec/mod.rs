//! `outgate exec -- CMD`: runs a command behind a gate of its own, without root.
//!
//! ```text
//! exec        the user's process: the gate itself, in the network of the host; judges, dials, records
//! `- inside   hidden verb: leaves for its own user, network, mount, PID and IPC namespaces, makes the listeners there and
//!    |        passes them out, loads the table (`steer::inside`), covers sockets and credentials (`masks`)
//!    `- init  hidden verb, PID 1 in there: fresh /proc, gives up every right for good, starts CMD, reaps, passes signals
//!       `- CMD
//! ```
//! They are this binary again, started before there are threads, so that nothing here needs unsafe code. The three talk
//! over one socketpair (`message`); when `exec` dies its end closes, init ends, and the kernel ends all that is inside.

mod account;
mod credentials;
mod environment;
mod init;
mod inside;
mod jail;
mod masks;
mod message;
mod mounts;
mod places;
mod refusal;
mod seal;
mod terminal;

use crate::config::{self, Config};
use crate::daemon::{self, Start};
use crate::rt::runtime;
use crate::secrets::Environment;
use crate::telemetry::logs;
use crate::tls::{bundle, to_pem, trusted};
use account::Account;
use anyhow::Context;
use clap::Args;
use jail::Jail;
use places::Places;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use terminal::Terminal;
use tracing_subscriber::filter::LevelFilter;

pub(super) use init::run as init;
pub(super) use inside::run as inside;

/// The gate or its walls failed, and the command did not run: as `timeout` and `docker run` have it.
const FAILED: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Args)]
pub(super) struct Options {
    /// A configuration to take policies, authority, resolver, records and limits from; none is needed
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The policy folder; ./policies otherwise. Where there is none, everything is refused
    #[arg(long, value_name = "FOLDER")]
    policies: Option<PathBuf>,
    /// Which client of the policy the command is; the only one when there is one
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// A file, folder or socket that would be covered and shall be reachable; may be repeated
    #[arg(long, value_name = "PATH")]
    expose: Vec<PathBuf>,
    /// No account at the end
    #[arg(short, long)]
    quiet: bool,
    /// Writes the account as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How much the gate logs on standard error
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    log: LevelFilter,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What the hidden verbs get.
#[derive(Args)]
pub(super) struct Inner {
    #[arg(long)]
    folder: Option<PathBuf>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(super) fn run(options: &Options) -> ExitCode {
    match attempt(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outgate: {}", super::told(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn attempt(options: &Options) -> anyhow::Result<u8> {
    let folder = std::env::current_dir().context("the folder that this was started in is gone")?;
    let places = Places::find()?;
    let policies = options.policies.clone().or_else(|| places.policies(options.config.is_some()));
    let named = config::Places {
        policies,
        state: places.state.clone(),
        records: places.records.clone(),
        admin_socket: places.admin_socket.clone(),
        client: options.client.clone(),
    };
    let config = Config::for_command(options.config.as_deref(), named)?;
    // Before anything is started: the secrets leave the environment, and so the command's as well.
    let sealed = Environment::sealed(&config.secret_variables()?)?;
    logs::init(options.log, false)?;
    places.make()?;
    let exposed = masks::resolved(&options.expose)?;
    // Before the start: afterwards the code is the command's.
    let json = options
        .json
        .as_ref()
        .map(|file| File::create(file).with_context(|| format!("cannot write {}", file.display())));
    let json = json.transpose()?;
    let terminal = Terminal::remember();
    let mut jail = Jail::start(&options.command, &environment::changes(&exposed))?;
    let doors = jail.doors()?;
    let executable = super::executable()?;
    let prepared = daemon::prepare(Start {
        config: config.clone(),
        environment: sealed,
        executable,
        doors: Some(doors),
    })?;
    let ours = trusted(&config.ca)?;
    let certificate: String = ours.iter().map(|der| to_pem(der)).collect();
    let account = Account::begin(&config.audit.sink);
    jail.enter(
        &masks::plan(
            &config,
            options.config.as_deref(),
            &places,
            exposed,
            folder,
            prepared.redirect_ports(),
        )?,
        &certificate,
        &bundle(prepared.anchors(), &ours),
    )?;
    // The threads of the runtime inherit it: from here on signals are passed on instead of ending us.
    jail::hold_signals()?;
    let runtime = runtime().context("the runtime could not be started")?;
    let (over, watch) = jail.watch()?;
    let over = async {
        let _ = over.await;
        "the command has ended"
    };
    let gone = runtime.block_on(daemon::run_until(prepared, over));
    terminal.take_back();
    gone?;
    runtime.shutdown_background();
    let ending =
        watch.join().map_err(|_| anyhow::anyhow!("the thread that waits for the command panicked"))?;
    terminal.take_back();
    places.tidy();
    if let Some(why) = ending.why {
        let _ = writeln!(std::io::stderr(), "outgate: {why}");
    }
    if ending.started
        && let Err(error) = tell(account, ending.refused_packets, json, options.quiet)
    {
        let _ = writeln!(std::io::stderr(), "outgate: {}", super::told(&error));
    }
    Ok(ending.code)
}

fn tell(begun: account::Begun, packets: u64, json: Option<File>, quiet: bool) -> anyhow::Result<()> {
    let account = begun.end(packets)?;
    if !quiet {
        let _ = std::io::stderr().lock().write_all(account.to_string().as_bytes());
    }
    if let Some(mut file) = json {
        let text = serde_json::to_string_pretty(&account)? + "\n";
        file.write_all(text.as_bytes()).context("the account cannot be written")?;
    }
    Ok(())
}
