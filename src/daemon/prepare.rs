//! Everything before the runtime: one thread, with the rights that the start needs, which are gone at its end.

use crate::audit::{Log, Writer};
use crate::config::Config;
use crate::net::{self, BoundDns, BoundTcp};
use crate::policy::{LoadOptions, Snapshot};
use crate::secrets::Environment;
use crate::steer::{self, Helper};
use crate::tls::{Anchors, Authority, Created, Minter, MinterSettings};
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// How the daemon was asked to start.
pub struct Start {
    pub config: Config,
    /// Secrets out of the environment, taken before anything else ran.
    pub environment: Environment,
    /// Our own binary, for the helper.
    pub executable: PathBuf,
}

/// All that is open and checked, without rights.
pub struct Prepared {
    pub(super) config: Config,
    pub(super) environment: Environment,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) minter: Minter,
    pub(super) anchors: Anchors,
    pub(super) log: Log,
    pub(super) writer: Writer,
    pub(super) transparent: Vec<BoundTcp>,
    pub(super) explicit: Vec<BoundTcp>,
    pub(super) dns: Vec<BoundDns>,
    pub(super) admin: crate::admin::Bound,
    pub(super) helper: Option<Helper>,
}

/// Opens and checks everything, puts the tables into the kernel, and gives up all privileges.
pub fn prepare(start: Start) -> anyhow::Result<Prepared> {
    let Start { config, environment, executable } = start;
    let (authority, created) = Authority::load_or_create(&config.ca)?;
    if created != Created::Loaded {
        tracing::info!(certificate = %config.ca.certificate.display(), "a new certificate authority was made; clients must trust it");
    }
    let minter = Minter::new(Arc::new(authority), MinterSettings::default())?;
    let anchors = Anchors::load(&config.roots)?;
    let snapshot = load_policy(&config, &environment, None)?;
    let bind = |addresses: &[std::net::SocketAddr]| -> Result<Vec<BoundTcp>, net::BindError> {
        addresses.iter().map(|address| net::bind_tcp(*address, None)).collect()
    };
    let transparent = bind(&config.transparent)?;
    let explicit = bind(&config.explicit)?;
    let dns = config.dns.iter().map(|address| net::bind_dns(*address, None)).collect::<Result<_, _>>()?;
    let admin = crate::admin::Bound::bind(&config.admin)?;
    // Behind the doors: a second daemon that fails there must not touch the records of the first.
    let (log, writer) = Log::open(config.audit.clone())?;
    let helper = steer(&config, &snapshot, executable)?;
    hand_over(&config)?;
    steer::privilege::harden().context("the process could not be hardened")?;
    steer::privilege::drop_all(config.run_as).context("privileges could not be dropped")?;
    Ok(Prepared {
        config,
        environment,
        snapshot,
        minter,
        anchors,
        log,
        writer,
        transparent,
        explicit,
        dns,
        admin,
        helper,
    })
}

/// Loads the policy folder and runs its case files. Any problem, or a case that fails, is an error.
pub(super) fn load_policy(
    config: &Config,
    environment: &Environment,
    previous: Option<&Snapshot>,
) -> anyhow::Result<Arc<Snapshot>> {
    let options = LoadOptions {
        environment: Some(environment),
        scripts: config.limits.scripts,
        previous,
        ..LoadOptions::default()
    };
    let snapshot = Arc::new(Snapshot::load(&config.policies, &options)?);
    for warning in snapshot.warnings() {
        tracing::warn!("{warning}");
    }
    let report = snapshot.run_cases(&config.policies)?;
    if let Some(first) = report.failures.first() {
        let more = report.failures.len() - 1;
        let rest = if more > 0 { format!("; {more} more (outgate test shows all)") } else { String::new() };
        bail!("the policy's cases do not hold: {first}{rest}");
    }
    Ok(snapshot)
}

/// What the tables redirect depends on the policy's raw TCP ports.
pub(super) fn steer_settings(config: &Config, snapshot: &Snapshot) -> Option<steer::Settings> {
    let mut settings = config.steer.clone()?;
    settings.redirect_tcp_ports.extend(snapshot.tcp_ports());
    settings.redirect_tcp_ports.sort_unstable();
    settings.redirect_tcp_ports.dedup();
    Some(settings)
}

fn steer(config: &Config, snapshot: &Snapshot, executable: PathBuf) -> anyhow::Result<Option<Helper>> {
    let Some(settings) = steer_settings(config, snapshot) else { return Ok(None) };
    let mut command = Command::new(executable);
    command.arg("steer-helper");
    let mut helper = Helper::spawn(command)?;
    helper.apply(&settings).context("the nftables rules could not be put in place")?;
    Ok(Some(helper))
}

/// Gives the files that the daemon writes to the user that it becomes, so that a reload can open them again.
fn hand_over(config: &Config) -> anyhow::Result<()> {
    let Some(run_as) = config.run_as else { return Ok(()) };
    if let crate::audit::Sink::File(path) = &config.audit.sink {
        let meta =
            std::fs::metadata(path).with_context(|| format!("{} cannot be looked at", path.display()))?;
        if meta.is_file() {
            std::os::unix::fs::chown(path, Some(run_as.uid), Some(run_as.gid))
                .with_context(|| format!("{} cannot be given to the daemon's user", path.display()))?;
        }
    }
    Ok(())
}
