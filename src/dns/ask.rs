//! The upstream servers behind the resolver: one question out, one checked answer back. The only file that knows the
//! resolver library. No cache, no hosts file, no search list, no validation of names beyond the alias chain.
//!
//! Every set of upstreams fails by itself: there is no other set to fall back to.

use super::resolver::{Answer, Family, ResolveError};
use crate::base::HostName;
use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Resolver as Client, TokioResolver};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// The `nameserver` lines of a resolver configuration file, followed as the file changes.
    System(PathBuf),
    Servers(Vec<SocketAddr>),
}

impl Upstreams {
    /// `upstreams = "system"`.
    pub fn system() -> Self {
        Self::System(PathBuf::from("/etc/resolv.conf"))
    }
}

/// Aliases followed in one answer before it counts as broken (GAUNTLET DN-22).
const CHAIN_LIMIT: usize = 16;

/// The file is looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The set of upstreams in use.
pub(super) struct Ask {
    upstreams: Upstreams,
    timeout: Duration,
    attempts: usize,
    live: ArcSwap<Live>,
    looked: Mutex<Instant>,
}

struct Live {
    client: TokioResolver,
    servers: Vec<SocketAddr>,
    /// Of the file that the servers were read from.
    changed: Option<SystemTime>,
}

impl Ask {
    /// Fails with [`ResolveError::NoUpstreams`] where nobody could be asked.
    pub(super) fn new(
        upstreams: Upstreams,
        timeout: Duration,
        attempts: usize,
    ) -> Result<Self, ResolveError> {
        let (servers, changed) = match &upstreams {
            Upstreams::Servers(servers) => (servers.clone(), None),
            Upstreams::System(path) => (system_servers(path)?, modified(path)),
        };
        let live = Live::new(servers, changed, timeout, attempts)?;
        let looked = Mutex::new(Instant::now());
        Ok(Self { upstreams, timeout, attempts, live: ArcSwap::from_pointee(live), looked })
    }

    /// Takes over a changed resolver configuration. True when other servers are asked from now on. A file that names
    /// no server (as while it is being written) leaves the old set in use.
    pub(super) fn follow(&self) -> bool {
        let Upstreams::System(path) = &self.upstreams else { return false };
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK_EVERY {
                return false;
            }
            *looked = Instant::now();
        }
        let changed = modified(path);
        let live = self.live.load();
        if changed.is_none() || changed == live.changed {
            return false;
        }
        let next =
            system_servers(path).and_then(|servers| Live::new(servers, changed, self.timeout, self.attempts));
        match next {
            Ok(next) => {
                let moved = next.servers != live.servers;
                self.live.store(Arc::new(next));
                moved
            }
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "the resolver configuration has no server; the last set stays");
                false
            }
        }
    }

    /// Asks for the addresses of one family. The validity is the smallest TTL of chain and addresses, unclamped.
    pub(super) async fn addresses(
        &self,
        name: &HostName,
        family: Family,
    ) -> Result<(Answer, Duration), Failure> {
        let asked = fully_qualified(name).ok_or(Failure::of(ResolveError::ServFail))?;
        let live = self.live.load_full();
        match live.client.lookup(asked.clone(), family.record_type()).await {
            Ok(lookup) => collect(&asked, lookup.answers(), family).map_err(Failure::of),
            Err(error) => Err(Failure::from_net(&error)),
        }
    }
}

/// Why there is no answer, and for how long the zone says that this holds.
pub(super) struct Failure {
    pub error: ResolveError,
    pub negative_ttl: Option<Duration>,
}

impl Failure {
    fn of(error: ResolveError) -> Self {
        Self { error, negative_ttl: None }
    }

    fn from_net(error: &NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => Self {
                error: match none.response_code {
                    ResponseCode::NXDomain => ResolveError::NxDomain,
                    ResponseCode::NoError => ResolveError::NoData,
                    _ => ResolveError::ServFail,
                },
                negative_ttl: none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())),
            },
            NetError::Timeout => Self::of(ResolveError::Timeout),
            _ => Self::of(ResolveError::ServFail),
        }
    }
}

impl Live {
    fn new(
        servers: Vec<SocketAddr>,
        changed: Option<SystemTime>,
        timeout: Duration,
        attempts: usize,
    ) -> Result<Self, ResolveError> {
        if servers.is_empty() {
            return Err(ResolveError::NoUpstreams);
        }
        let named = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), named.collect());
        let mut builder = Client::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options(timeout, attempts);
        let client = builder.build().map_err(|_| ResolveError::NoUpstreams)?;
        Ok(Self { client, servers, changed })
    }
}

fn options(timeout: Duration, attempts: usize) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    options.attempts = attempts;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.case_randomization = true;
    options.os_port_selection = false;
    options.edns0 = true;
    // One server at a time, in the order of the configuration: a name is told to as few as can be.
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options
}

fn system_servers(path: &Path) -> Result<Vec<SocketAddr>, ResolveError> {
    let text = std::fs::read(path).map_err(|_| ResolveError::NoUpstreams)?;
    let (config, _) = parse_resolv_conf(text).map_err(|_| ResolveError::NoUpstreams)?;
    Ok(config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).collect())
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// With the final dot, so that no search list can apply.
fn fully_qualified(name: &HostName) -> Option<Name> {
    let mut name = Name::from_ascii(name.as_str()).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Walks the aliases from the name that was asked to its addresses; records beside that path are ignored.
fn collect(asked: &Name, records: &[Record], family: Family) -> Result<(Answer, Duration), ResolveError> {
    let mut at = asked;
    let mut ttl = u32::MAX;
    let mut chain: Vec<Arc<str>> = Vec::new();
    while let Some((target, seconds)) = alias(at, records) {
        if chain.len() == CHAIN_LIMIT || addresses(at, records, family).next().is_some() {
            return Err(ResolveError::ServFail);
        }
        ttl = ttl.min(seconds);
        chain.push(super::message::name_text(target).into());
        at = target;
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for (address, seconds) in addresses(at, records, family) {
        ttl = ttl.min(seconds);
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() {
        return Err(ResolveError::ServFail);
    }
    Ok((Answer { addresses: found, chain, valid_until: Instant::now() }, Duration::from_secs(ttl.into())))
}

fn alias<'a>(at: &Name, records: &'a [Record]) -> Option<(&'a Name, u32)> {
    records.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *at => Some((&target.0, record.ttl)),
        _ => None,
    })
}

fn addresses<'a>(
    at: &Name,
    records: &'a [Record],
    family: Family,
) -> impl Iterator<Item = (IpAddr, u32)> + 'a {
    let at = at.clone();
    records.iter().filter_map(move |record| match (&record.data, family) {
        (RData::A(a), Family::V4) if record.name == at => Some((IpAddr::V4(a.0), record.ttl)),
        (RData::AAAA(a), Family::V6) if record.name == at => Some((IpAddr::V6(a.0), record.ttl)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_file_is_read_and_followed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, "search corp.test\nnameserver 192.0.2.1\noptions ndots:5\n").unwrap();
        let ask = Ask::new(Upstreams::System(file.clone()), Duration::from_secs(1), 1).unwrap();
        let look_again = || *ask.looked.lock().unwrap() = Instant::now() - LOOK_EVERY;
        let write = |text: &str, age: u64| {
            std::fs::write(&file, text).unwrap();
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(age);
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
            look_again();
        };
        assert_eq!(ask.live.load().servers, ["192.0.2.1:53".parse().unwrap()]);
        write("nameserver 192.0.2.1\n", 1);
        assert!(!ask.follow(), "the same servers");
        write("", 2);
        assert!(!ask.follow(), "half-written");
        write("nameserver 2001:db8::1\n", 3);
        assert!(ask.follow());
        assert_eq!(ask.live.load().servers, ["[2001:db8::1]:53".parse().unwrap()]);
    }

    #[test]
    fn nobody_to_ask_is_said_at_start() {
        let none = Ask::new(Upstreams::Servers(Vec::new()), Duration::from_secs(1), 1);
        assert!(matches!(none, Err(ResolveError::NoUpstreams)));
    }
}
