//! Agent, gate and internet, joined by two cables, with no way to the host's network.
//!
//! ```text
//! agent 10.77.1.2 --- agent0 10.77.1.1 [ gate ] wan0 93.184.216.1 --- 93.184.216.34 web, .53 names  [ internet ]
//! ```
//! The gate's kernel forwards packets and the internet knows the way back to the agent: without the daemon's tables
//! nothing would stop the agent. The addresses look public because special ranges would be refused anyway.

use super::names::{self, Asked};
use super::namespace::Namespace;
use super::origin::Origin;
use super::scratch::Scratch;
use crate::rt::Tasks;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use socket2::{Protocol, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

pub(super) const AGENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
pub(super) const GATE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
pub(super) const WEB: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
pub(super) const NAMES: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 53);

/// A host whose pages the agent may read, in the clear too.
pub(super) const PAGES: &str = "pages.demo.test";
/// A host that wants a token.
pub(super) const API: &str = "api.demo.test";
/// A host that no rule names.
pub(super) const OTHER: &str = "other.demo.test";
/// A service that is neither HTTP nor HTTPS by its port, open to whoever reaches it.
pub(super) const OTHER_PORT: u16 = 8443;

const HOSTS: &[&str] = &[PAGES, API, OTHER];

#[derive(Debug)]
pub(super) struct World {
    pub(super) origin: Origin,
    pub(super) asked: Asked,
    pub(super) agent: Namespace,
    pub(super) gate: Namespace,
    _internet: Namespace,
}

impl World {
    pub(super) fn new(scratch: &Scratch, runtime: &Handle) -> Result<Self> {
        let (agent, gate, internet) =
            (Namespace::new("agent")?, Namespace::new("gate")?, Namespace::new("internet")?);
        join(&agent, &gate, &internet)?;
        gate.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?
            .context("cannot let the gate's kernel forward packets (/proc/sys is read-only?)")?;
        scratch.write("resolv.conf", &format!("nameserver {GATE}\noptions timeout:2 attempts:1\n"))?;
        scratch.write("nsswitch.conf", "hosts: files dns\n")?;
        let folder = scratch.path().to_owned();
        agent.run(move || resolve_here(&folder))??;
        let _guard = runtime.enter();
        let tasks = Tasks::new();
        let (origin, authority) = Origin::serve(&internet, WEB, &[80, 443, OTHER_PORT], HOSTS, &tasks)?;
        scratch.write("origin-ca.pem", &authority)?;
        let asked = names::serve(&internet, SocketAddr::new(NAMES.into(), 53), HOSTS, WEB, &tasks)?;
        Ok(Self { origin, asked, agent, gate, _internet: internet })
    }
}

fn join(agent: &Namespace, gate: &Namespace, internet: &Namespace) -> Result<()> {
    gate.ip(format!(
        "link set lo up\n\
         link add agent0 type veth peer name eth0 netns {agent}\n\
         link add wan0 type veth peer name eth0 netns {internet}\n\
         addr add {GATE}/24 dev agent0\n\
         addr add 93.184.216.1/24 dev wan0\n\
         link set agent0 up\n\
         link set wan0 up\n",
        agent = agent.path(),
        internet = internet.path(),
    ))?;
    agent.ip(format!(
        "link set lo up\naddr add {AGENT}/24 dev eth0\nlink set eth0 up\nroute add default via {GATE}\n"
    ))?;
    internet.ip(format!(
        "link set lo up\naddr add {WEB}/24 dev eth0\naddr add {NAMES}/24 dev eth0\nlink set eth0 up\n\
         route add 10.77.1.0/24 via 93.184.216.1\n"
    ))
}

/// Puts the agent's own resolver files in the place of the host's, in this namespace's mounts only.
fn resolve_here(folder: &Path) -> Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("cannot make the agent's mounts its own")?;
    for name in ["resolv.conf", "nsswitch.conf"] {
        // A link is followed here: the kernel would mount over the link's target all the same.
        let place: PathBuf = std::fs::canonicalize(Path::new("/etc").join(name))
            .with_context(|| format!("the agent needs /etc/{name} as a place for its own"))?;
        mount(Some(&folder.join(name)), &place, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("cannot give the agent a {name} of its own"))?;
    }
    // The host's name cache would answer on the host's behalf: a network namespace does not close its socket.
    let (cache, empty) = (Path::new("/var/run/nscd"), folder.join("nscd"));
    if cache.exists() {
        std::fs::create_dir(&empty)?;
        mount(Some(&empty), cache, NONE, MsFlags::MS_BIND, NONE)
            .context("cannot hide the host's nscd from the agent")?;
    }
    Ok(())
}

/// Waits until the internet's web server answers a SYN from `namespace`; a new cable takes a moment.
pub(super) fn reaches(namespace: &Namespace, to: SocketAddr) -> Result<bool> {
    let patience = std::time::Duration::from_secs(5);
    namespace.run(move || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        Ok(socket.connect_timeout(&to.into(), patience).is_ok())
    })?
}
