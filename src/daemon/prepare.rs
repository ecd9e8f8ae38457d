//! Everything before the runtime: one thread, with the rights that the start needs, which are gone at its end.

use super::attach::state::State;
use crate::audit::{Log, Writer};
use crate::config::Config;
use crate::dns::Epoch;
use crate::net::{self, BoundDns, BoundTcp, BoundUdp};
use crate::policy::{LoadOptions, Snapshot};
use crate::secrets::Environment;
use crate::steer::{self, Helper, Intercept};
use crate::tls::{Anchors, Authority, Created, Minter, MinterSettings};
use crate::upstream::Proxy;
use anyhow::{Context, bail};
use std::net::SocketAddr;
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
    /// Doors that somebody else opened; without them they are opened as the configuration says.
    pub doors: Option<Doors>,
}

/// The sockets of the doors, open but not served yet.
#[derive(Default)]
pub struct Doors {
    pub transparent: Vec<BoundTcp>,
    pub explicit: Vec<BoundTcp>,
    pub dns: Vec<BoundDns>,
    pub quic: Vec<BoundUdp>,
}

pub(super) type Bind = fn(SocketAddr, Option<&str>) -> Result<BoundTcp, net::BindError>;

/// How a door is opened for connections that were meant for others.
pub(super) fn for_others(intercept: Intercept) -> Bind {
    match intercept {
        Intercept::Redirect => net::bind_tcp,
        Intercept::Tproxy => net::bind_transparent,
    }
}

impl Doors {
    fn open(config: &Config) -> Result<Self, net::BindError> {
        let bind = |addresses: &[SocketAddr], bind: Bind| -> Result<Vec<BoundTcp>, net::BindError> {
            addresses.iter().map(|address| bind(*address, None)).collect()
        };
        let dns = config.dns.iter().map(|address| net::bind_dns(*address, None)).collect::<Result<_, _>>()?;
        let quic =
            config.quic.iter().map(|address| net::bind_udp(*address, None)).collect::<Result<_, _>>()?;
        Ok(Self {
            transparent: bind(&config.transparent, for_others(config.intercept))?,
            explicit: bind(&config.explicit, net::bind_tcp)?,
            dns,
            quic,
        })
    }
}

/// All that is open and checked, without rights.
pub struct Prepared {
    pub(super) config: Config,
    pub(super) environment: Environment,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) minter: Minter,
    pub(super) anchors: Anchors,
    pub(super) proxy: Option<Proxy>,
    pub(super) log: Log,
    pub(super) writer: Writer,
    pub(super) doors: Doors,
    pub(super) admin: crate::admin::Bound,
    pub(super) helper: Option<Helper>,
    pub(super) attached: Option<State>,
    pub(super) epoch: Option<Epoch>,
}

impl Prepared {
    /// The TCP ports that whoever steers packets should hand to the transparent door.
    pub fn redirect_ports(&self) -> Vec<u16> {
        redirected_ports(&self.snapshot)
    }

    /// Whom the gate trusts upstream.
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }
}

/// Opens and checks everything, puts the tables into the kernel, and gives up all privileges.
pub fn prepare(start: Start) -> anyhow::Result<Prepared> {
    let Start { config, environment, executable, doors } = start;
    let (authority, created) = Authority::load_or_create(&config.ca)?;
    if created != Created::Loaded {
        tracing::info!(certificate = %config.ca.certificate.display(), "a new certificate authority was made; clients must trust it");
    }
    let minter = Minter::new(Arc::new(authority), MinterSettings::default())?;
    let anchors = Anchors::load(&config.roots)?;
    let proxy = load_proxy(&config, &environment, &anchors)?;
    let snapshot = load_policy(&config, &environment, None)?;
    let doors = match doors {
        Some(doors) => doors,
        None => Doors::open(&config)?,
    };
    let admin = crate::admin::Bound::bind(&config.admin)?;
    // Behind the doors: a second daemon that fails there must not touch the records of the first.
    let (log, writer) = Log::open(config.audit.clone())?;
    let epoch = epoch(&config)?;
    let attached = State::restore(&config)?;
    let helper = steer(&config, &snapshot, attached.as_ref(), executable)?;
    hand_over(&config, &writer)?;
    steer::privilege::harden().context("the process could not be hardened")?;
    steer::privilege::drop_all(config.run_as).context("privileges could not be dropped")?;
    Ok(Prepared {
        config,
        environment,
        snapshot,
        minter,
        anchors,
        proxy,
        log,
        writer,
        doors,
        admin,
        helper,
        attached,
        epoch,
    })
}

/// The proxy of a configuration, with its password.
pub(super) fn load_proxy(
    config: &Config,
    environment: &Environment,
    anchors: &Anchors,
) -> anyhow::Result<Option<Proxy>> {
    let Some(settings) = config.proxy.clone() else { return Ok(None) };
    if settings.danger_proxy_resolves {
        tracing::warn!(
            proxy = %settings.url,
            "danger_proxy_resolves: what only the proxy can resolve is not judged by the address guard"
        );
    }
    let loaded = Proxy::load(settings, environment, anchors);
    Ok(Some(loaded.with_context(|| format!("{}: [upstream.proxy] cannot be used", config.file.display()))?))
}

/// Virtual answers say by which start of the daemon they were given.
fn epoch(config: &Config) -> anyhow::Result<Option<Epoch>> {
    let Some(synthetic) = &config.limits.leases.synthetic else { return Ok(None) };
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Ok(Some(Epoch::next(&config.virtual_epochs, now, synthetic.hold)?))
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
        sole_client: config.sole_client.as_ref(),
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

/// What the tables redirect depends on the ports that the policy opens.
pub fn steer_settings(config: &Config, snapshot: &Snapshot) -> Option<steer::Settings> {
    let mut settings = config.steer.clone()?;
    if settings.transparent_port.is_some() {
        settings.redirect_tcp_ports = redirected_ports(snapshot);
    }
    Some(settings)
}

/// TCP ports that go to the gate: the web's, and those that rules open.
pub(super) fn redirected_ports(snapshot: &Snapshot) -> Vec<u16> {
    let mut ports = snapshot.open_ports();
    ports.extend([80, 443]);
    ports.into_iter().collect()
}

fn steer(
    config: &Config,
    snapshot: &Snapshot,
    attached: Option<&State>,
    executable: PathBuf,
) -> anyhow::Result<Option<Helper>> {
    let mut settings = steer_settings(config, snapshot);
    if settings.is_none() && attached.is_none() {
        return Ok(None);
    }
    let mut command = Command::new(executable);
    command.arg("steer-helper");
    let mut helper = Helper::spawn(command)?;
    if let Some(settings) = &mut settings {
        for (interface, networks) in attached.iter().flat_map(|state| state.interfaces().into_values()) {
            settings.interfaces.push(interface);
            settings.networks.extend(networks);
        }
        helper.apply(settings).context("the nftables rules could not be put in place")?;
    }
    Ok(Some(helper))
}

/// Gives the files that the daemon writes to the user that it becomes, so that a reload can open them again.
fn hand_over(config: &Config, writer: &Writer) -> anyhow::Result<()> {
    let crate::audit::Sink::File(path) = &config.audit.sink else { return Ok(()) };
    let file = writer.file();
    if file.metadata().is_ok_and(|meta| meta.is_file()) {
        super::owned::give(config, &file, path)?;
    }
    Ok(())
}
