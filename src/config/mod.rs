//! `outgate.toml`: reads it, reports everything that is wrong with it at once, and turns it into each module's own
//! settings. What may leave is not here but in the policy folder.

mod limits;
mod raw;

use crate::admin;
use crate::audit::{self, Sink};
use crate::dns::{DoorSettings, LeaseSettings, ResolverSettings, Upstreams};
use crate::flow;
use crate::pipeline;
use crate::policy::{Problem, Problems};
use crate::script;
use crate::steer::{self, RunAs};
use crate::tls::{CaSettings, DEFAULT_CA_LIFETIME, Roots};
use crate::upstream;
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
    /// Who the daemon is after it has opened what it needs; `None` keeps the user that started it.
    pub run_as: Option<RunAs>,
    pub transparent: Vec<SocketAddr>,
    pub explicit: Vec<SocketAddr>,
    pub dns: Vec<SocketAddr>,
    pub ca: CaSettings,
    pub roots: Roots,
    pub resolver: ResolverSettings,
    pub audit: audit::Settings,
    pub admin: admin::Settings,
    /// `None`: another program looks after the tables.
    pub steer: Option<steer::Settings>,
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
}

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
        let raw: Raw = source.parse()?;
        Self::checked(&source, raw, mode)
    }

    fn checked(source: &Source<'_>, raw: Raw, mode: Option<Mode>) -> Result<Self, Problems> {
        let base = source.path.parent().unwrap_or(Path::new("")).to_owned();
        let at = |path: &Path| base.join(path);
        let mut problems = Vec::new();
        let mode = mode.or(raw.mode).unwrap_or(Mode::Transparent);
        let transparent = source.addresses(&raw.listen.transparent, &mut problems);
        let explicit = source.addresses(&raw.listen.explicit, &mut problems);
        let dns = source.addresses(&raw.listen.dns, &mut problems);
        problems.extend(doors(source, mode, &transparent, &explicit, &dns));
        let limits = Limits::apply(source, &raw.limits, &mut problems);
        let resolver = ResolverSettings {
            upstreams: upstreams(source, &raw, &mut problems),
            ..ResolverSettings::default()
        };
        let run_as = user(source, &raw, &mut problems);
        let http = raw.admin.http.as_ref().and_then(|text| source.address(text, &mut problems));
        if http.is_some_and(|address| !address.ip().is_loopback()) {
            problems.push(
                source
                    .problem("admin.http", "health and metrics are served on loopback only")
                    .help("use 127.0.0.1:PORT or [::1]:PORT"),
            );
        }
        let steer = steering(source, &raw, &transparent, &explicit, &dns, &mut problems);
        if !problems.is_empty() {
            problems.sort();
            return Err(Problems(problems));
        }
        let audit_file = raw.audit.file.as_deref().unwrap_or(Path::new("audit.jsonl"));
        Ok(Self {
            file: source.path.to_owned(),
            mode,
            policies: at(raw.policies.as_deref().unwrap_or(Path::new("policies"))),
            run_as,
            transparent,
            explicit,
            dns,
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
            resolver,
            audit: audit::Settings::new(if audit_file == Path::new("-") {
                Sink::Stdout
            } else {
                Sink::File(at(audit_file))
            }),
            admin: admin::Settings {
                socket: at(raw.admin.socket.as_deref().unwrap_or(Path::new("admin.sock"))),
                http,
            },
            steer,
            limits,
        })
    }
}

fn doors(
    source: &Source<'_>,
    mode: Mode,
    transparent: &[SocketAddr],
    explicit: &[SocketAddr],
    dns: &[SocketAddr],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (missing, example) = match mode {
        Mode::Transparent => (transparent.is_empty(), "transparent = [\"0.0.0.0:15001\", \"[::]:15001\"]"),
        Mode::Regular => (explicit.is_empty(), "explicit = [\"192.168.128.2:3128\"]"),
    };
    if missing {
        let message = format!("mode {} needs its door, and [listen] does not name it", mode.as_str());
        problems.push(source.problem("listen", message).help(format!("add {example} to [listen]")));
    }
    for address in explicit.iter().chain(dns).filter(|address| address.ip().is_unspecified()) {
        let message = format!("{address} would be open on every interface, the uplink included");
        problems
            .push(source.problem("listen", message).help("name the address of the clients' own interface"));
    }
    problems
}

fn upstreams(source: &Source<'_>, raw: &Raw, problems: &mut Vec<Problem>) -> Upstreams {
    match &raw.resolver.upstreams {
        None => Upstreams::system(),
        Some(value) if value.as_ref().as_str() == Some("system") => Upstreams::system(),
        Some(value) => Upstreams::Servers(source.servers(value, problems)),
    }
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

fn steering(
    source: &Source<'_>,
    raw: &Raw,
    transparent: &[SocketAddr],
    explicit: &[SocketAddr],
    dns: &[SocketAddr],
    problems: &mut Vec<Problem>,
) -> Option<steer::Settings> {
    let manage = raw.steer.manage.unwrap_or(!transparent.is_empty());
    if !manage {
        return None;
    }
    for (door, addresses) in [("transparent", transparent), ("dns", dns)] {
        if addresses.iter().any(|address| Some(address.port()) != addresses.first().map(SocketAddr::port)) {
            let message =
                format!("the {door} addresses have different ports, and the tables lead to one only");
            problems.push(source.problem(door, message).help("use one port for all addresses of this door"));
        }
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
        quic_port: None,
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
