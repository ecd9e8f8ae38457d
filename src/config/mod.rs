//! `outgate.toml`: reads it, reports everything that is wrong with it at once, and turns it into each module's own
//! settings. What may leave is not here but in the policy folder.

mod command;
mod limits;
mod proxy;
mod raw;
mod resolver;

use crate::admin;
use crate::audit::{self, Sink};
use crate::dns::{DoorSettings, LeaseSettings, ResolverSettings, SyntheticSettings};
use crate::flow;
use crate::pipeline;
use crate::policy::{self, Problem, Problems, SoleClient};
use crate::script;
use crate::steer::{self, Intercept, RunAs};
use crate::tls::{CaSettings, DEFAULT_CA_LIFETIME, Roots};
use crate::upstream::{self, ProxySettings};
pub use command::Places;
use limits::Limits;
use raw::{Raw, Source};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// What must be there: the doors that the mode stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The explicit door.
    Regular,
    /// The transparent and the DNS door, and the tables that lead to them.
    Transparent,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Transparent => "transparent",
        }
    }
}

/// A checked configuration. Paths are absolute or relative to where the file stands.
#[derive(Debug, Clone)]
pub struct Config {
    pub file: PathBuf,
    pub mode: Mode,
    pub policies: PathBuf,
    /// Every flow is this client's; `None`: interface and source tell whose.
    pub sole_client: Option<SoleClient>,
    /// Whether a change in the policy folder is followed.
    pub watches_policies: bool,
    /// Who the daemon is after it has opened what it needs; `None` keeps the user that started it.
    pub run_as: Option<RunAs>,
    pub transparent: Vec<SocketAddr>,
    pub explicit: Vec<SocketAddr>,
    pub dns: Vec<SocketAddr>,
    /// The QUIC responder.
    pub quic: Vec<SocketAddr>,
    pub ca: CaSettings,
    pub roots: Roots,
    /// The proxy between the gate and the network.
    pub proxy: Option<ProxySettings>,
    pub resolver: ResolverSettings,
    /// Where the starts of the daemon are counted, for virtual answers.
    pub virtual_epochs: PathBuf,
    pub audit: audit::Settings,
    pub admin: admin::Settings,
    /// How connections come to the transparent door, whoever looks after the tables.
    pub intercept: Intercept,
    /// `None`: another program looks after the tables.
    pub steer: Option<steer::Settings>,
    /// Where workloads that come and go are remembered; `None`: none may be attached.
    pub attachments: Option<PathBuf>,
    pub limits: Limits,
}

/// The settings that `[limits]` may change, module by module.
#[derive(Debug, Clone, Default)]
pub struct LimitSettings {
    pub flow: flow::Settings,
    pub pipeline: pipeline::Settings,
    pub upstream: upstream::Settings,
    pub dns: DoorSettings,
    pub leases: LeaseSettings,
    pub scripts: script::Settings,
    pub steer: steer::Limits,
}

impl Config {
    /// The environment variables that hold secrets, of the policy or of the configuration. Whoever starts a gate takes
    /// them out of the environment before it starts anything else.
    pub fn secret_variables(&self) -> Result<Vec<String>, Problems> {
        let mut names = policy::environment_names(&self.policies)?;
        names.extend(self.proxy.iter().filter_map(|proxy| proxy.environment_name().map(str::to_owned)));
        Ok(names)
    }

    /// The files that secrets are read from: nobody who is judged may read those.
    pub fn secret_files(&self) -> Result<Vec<PathBuf>, Problems> {
        let mut files = policy::secret_files(&self.policies)?;
        files.extend(self.proxy.iter().filter_map(|proxy| proxy.secret_file().map(Path::to_owned)));
        Ok(files)
    }
}

/// Below it a port takes a privilege, which the daemon has given up when an interface is attached.
const FIRST_FREE_PORT: u16 = 1024;

/// The user of a daemon that was started as root and names none: nobody's.
const UNPRIVILEGED: u32 = 65_534;

impl Config {
    /// Reads and checks a file; `mode` from the command line wins over the file's.
    pub fn load(path: &Path, mode: Option<Mode>) -> Result<Self, Problems> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let problem = Problem::with_file(path, format!("cannot be read: {error}"))
                .help("name the configuration with -c FILE; README.md shows a small one");
            Problems::one(problem)
        })?;
        let source = Source::new(path, &text);
        let (raw, problems) = source.parse();
        match raw {
            Some(raw) => Self::checked(&source, raw, mode, problems),
            None => Err(Problems(problems)),
        }
    }

    /// `problems` are those of the file's form.
    fn checked(
        source: &Source<'_>,
        raw: Raw,
        mode: Option<Mode>,
        mut problems: Vec<Problem>,
    ) -> Result<Self, Problems> {
        let base = source.path.parent().unwrap_or(Path::new("")).to_owned();
        let at = |path: &Path| base.join(path);
        let mode = mode.or(raw.mode).unwrap_or(Mode::Transparent);
        let transparent = source.addresses(&raw.listen.transparent, &mut problems);
        let explicit = source.addresses(&raw.listen.explicit, &mut problems);
        let dns = source.addresses(&raw.listen.dns, &mut problems);
        let quic = source.addresses(&raw.listen.quic, &mut problems);
        problems.extend(doors(source, &raw, mode, &transparent, &explicit, dns.iter().chain(&quic)));
        let mut limits = Limits::apply(source, &raw.limits, &mut problems);
        let proxy =
            raw.upstream.proxy.as_ref().and_then(|raw| proxy::settings(source, raw, &base, &mut problems));
        let run_as = user(source, &raw, &mut problems);
        let http = raw.admin.http.as_ref().and_then(|text| source.address(text, &mut problems));
        if http.is_some_and(|address| !address.ip().is_loopback()) {
            problems.push(
                source
                    .problem("admin.http", "health and metrics are served on loopback only")
                    .help("use 127.0.0.1:PORT or [::1]:PORT"),
            );
        }
        let doors = Ports { transparent: &transparent, explicit: &explicit, dns: &dns, quic: &quic };
        let steer = steering(source, &raw, &limits, &doors, &mut problems);
        let agents = steer.as_ref().map_or(&[][..], |steer| &steer.networks);
        let asking = resolver::resolver(source, &raw, &dns, agents, &mut problems);
        limits.leases.synthetic.clone_from(&asking.synthetic);
        if !problems.is_empty() {
            problems.sort();
            return Err(Problems(problems));
        }
        let attach = attaches(&raw);
        let audit_file = raw.audit.file.as_deref().unwrap_or(Path::new("audit.jsonl"));
        Ok(Self {
            file: source.path.to_owned(),
            mode,
            policies: at(raw.policies.as_deref().unwrap_or(Path::new("policies"))),
            sole_client: None,
            watches_policies: true,
            run_as,
            transparent,
            explicit,
            dns: dns.clone(),
            quic,
            ca: CaSettings {
                certificate: at(raw.ca.certificate.as_deref().unwrap_or(Path::new("certs/ca.pem"))),
                key: at(raw.ca.key.as_deref().unwrap_or(Path::new("certs/ca.key"))),
                name_constraints: raw.ca.name_constraints,
                lifetime: DEFAULT_CA_LIFETIME,
            },
            roots: match raw.upstream.roots {
                None => Roots::System,
                Some(text) if text == "system" => Roots::System,
                Some(path) => Roots::File(at(Path::new(&path))),
            },
            proxy,
            resolver: ResolverSettings {
                upstreams: asking.upstreams,
                zones: asking.zones,
                own: dns,
                synthetic: asking.synthetic.iter().flat_map(SyntheticSettings::networks).collect(),
                ..ResolverSettings::default()
            },
            virtual_epochs: at(raw.resolver.virtual_epochs.as_deref().unwrap_or(Path::new("virtual-epochs"))),
            audit: audit::Settings::new(
                if [Path::new("-"), Path::new("/dev/stdout")].contains(&audit_file) {
                    Sink::Stdout
                } else {
                    Sink::File(at(audit_file))
                },
            ),
            admin: admin::Settings {
                socket: at(raw.admin.socket.as_deref().unwrap_or(Path::new("admin.sock"))),
                http,
            },
            intercept: raw.steer.intercept,
            steer,
            attachments: attach
                .then(|| at(raw.steer.attachments.as_deref().unwrap_or(Path::new("attachments.json")))),
            limits,
        })
    }
}

fn attaches(raw: &Raw) -> bool {
    raw.steer.attach.as_ref().is_some_and(|attach| *attach.as_ref())
}

fn doors<'a>(
    source: &Source<'_>,
    raw: &Raw,
    mode: Mode,
    transparent: &[SocketAddr],
    explicit: &'a [SocketAddr],
    datagrams: impl Iterator<Item = &'a SocketAddr>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (missing, example) = match mode {
        // A daemon may serve attached namespaces alone.
        Mode::Transparent => {
            (transparent.is_empty() && !attaches(raw), "transparent = [\"0.0.0.0:15001\", \"[::]:15001\"]")
        }
        Mode::Regular => (explicit.is_empty(), "explicit = [\"192.168.128.2:3128\"]"),
    };
    if missing {
        let message = format!("mode {} needs its door, and [listen] does not name it", mode.as_str());
        problems.push(source.problem("listen", message).help(format!("add {example} to [listen]")));
    }
    for address in explicit.iter().chain(datagrams).filter(|address| address.ip().is_unspecified()) {
        let message = format!("{address} would be open on every interface, the uplink included");
        problems
            .push(source.problem("listen", message).help("name the address of the clients' own interface"));
    }
    problems
}

fn user(source: &Source<'_>, raw: &Raw, problems: &mut Vec<Problem>) -> Option<RunAs> {
    match &raw.user {
        Some(name) => match nix::unistd::User::from_name(name.as_ref()) {
            Ok(Some(user)) => Some(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            Ok(None) | Err(_) => {
                problems.push(
                    source
                        .at(name, "there is no such user on this system")
                        .help("create it, or leave `user` out"),
                );
                None
            }
        },
        None if nix::unistd::geteuid().is_root() => Some(RunAs { uid: UNPRIVILEGED, gid: UNPRIVILEGED }),
        None => None,
    }
}

/// The doors that the tables lead to.
struct Ports<'a> {
    transparent: &'a [SocketAddr],
    explicit: &'a [SocketAddr],
    dns: &'a [SocketAddr],
    quic: &'a [SocketAddr],
}

fn steering(
    source: &Source<'_>,
    raw: &Raw,
    limits: &Limits,
    doors: &Ports<'_>,
    problems: &mut Vec<Problem>,
) -> Option<steer::Settings> {
    let Ports { transparent, explicit, dns, quic } = *doors;
    let manage = raw.steer.manage.unwrap_or(!transparent.is_empty());
    if !manage {
        if let Some(attach) = raw.steer.attach.as_ref().filter(|_| raw.steer.manage == Some(false)) {
            let message = "attaching changes packet rules, and manage = false leaves them to another program";
            problems.push(source.at(attach, message).help("take one of the two out"));
        }
        return None;
    }
    if raw.steer.interfaces.is_empty() && raw.steer.networks.is_empty() && !attaches(raw) {
        problems.push(
            source
                .problem("steer", "no agent interface and no network is named: the tables would fence nobody")
                .help("set them under [steer], attach = true where all of them are attached while the daemon runs, or \
                       manage = false where another program looks after the tables"),
        );
    }
    for (door, addresses) in [("transparent", transparent), ("dns", dns), ("quic", quic)] {
        if addresses.iter().any(|address| Some(address.port()) != addresses.first().map(SocketAddr::port)) {
            let message =
                format!("the {door} addresses have different ports, and the tables lead to one only");
            problems.push(source.problem(door, message).help("use one port for all addresses of this door"));
        }
    }
    let low = |addresses: &[SocketAddr]| addresses.iter().any(|address| address.port() < FIRST_FREE_PORT);
    if attaches(raw) && (low(transparent) || low(dns) || low(quic)) {
        problems.push(
            source
                .problem(
                    "listen",
                    "doors on ports below 1024 cannot be opened for interfaces that are attached later",
                )
                .help("take a higher port, as 15053 for DNS: port 53 is redirected to it"),
        );
    }
    let mut networks = Vec::new();
    for text in &raw.steer.networks {
        match text.as_ref().parse() {
            Ok(network) => networks.push(network),
            Err(_) => problems.push(source.at(text, "not a network").help("write it as 192.168.128.0/24")),
        }
    }
    let port = |addresses: &[SocketAddr]| addresses.first().map(SocketAddr::port);
    let mut explicit_ports: Vec<u16> = explicit.iter().map(SocketAddr::port).collect();
    explicit_ports.sort_unstable();
    explicit_ports.dedup();
    let settings = steer::Settings {
        interfaces: raw.steer.interfaces.clone(),
        networks,
        transparent_port: port(transparent),
        dns_port: port(dns),
        explicit_ports,
        redirect_tcp_ports: if transparent.is_empty() { Vec::new() } else { vec![80, 443] },
        quic_port: port(quic),
        intercept: raw.steer.intercept,
        // The daemon, which can say why, is to refuse first.
        flows_per_source: u32::try_from(limits.flow.flows_per_client.saturating_mul(2)).unwrap_or(u32::MAX),
        syns_per_second: limits.steer.syns_per_second,
        guard: raw.steer.guard.clone(),
    };
    if let Err(error) = settings.validate() {
        problems.extend(error.0.into_iter().map(|message| {
            source
                .problem("steer", message)
                .help("set it under [steer], or manage = false where another program does")
        }));
    }
    Some(settings)
}

/// The addresses that the doors answer on, for whoever must know them.
pub fn door_ips(addresses: &[SocketAddr]) -> impl Iterator<Item = IpAddr> {
    addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified())
}
