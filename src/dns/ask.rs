//! The upstream servers behind the resolver: one question out, one checked answer back. The only file that knows the
//! client side of the DNS library. No cache, no hosts file, no search list.
//!
//! Transport, random ports, ids and letter case, resends and TCP after truncation are the library's. Its alias chase
//! is not used: it cannot tell a loop from an empty answer. A name belongs to one set of upstreams, that of the longest
//! zone it is in; a set fails by itself, and no other is asked in its place.

use super::resolver::{Answer, Family, ResolveError};
use super::system::{self, SystemError};
use super::walk::Walk;
use crate::base::HostName;
use arc_swap::ArcSwap;
use hickory_proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_proto::rr::Name;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

/// Split DNS: names in this zone, its own included, are asked of these servers and no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub suffix: HostName,
    pub upstreams: Upstreams,
}

/// There is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamsError {
    #[error("no upstream resolver is configured")]
    None,
    #[error("{}: {source}; name servers under [resolver] upstreams, or put one into that file", path.display())]
    System { path: PathBuf, source: SystemError },
    #[error("the DNS client cannot be set up")]
    Client,
}

/// What became of a resolver configuration that was looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// These are asked from now on.
    Servers { path: PathBuf, servers: Vec<SocketAddr> },
    /// It names nobody; the last servers stay in use.
    Kept { path: PathBuf, why: String },
}

/// Questions asked to follow the aliases of one name.
const QUESTION_LIMIT: usize = 6;

/// All sets of upstreams.
pub(super) struct Ask {
    rest: Set,
    /// The longest suffix first.
    zones: Vec<(Name, Set)>,
    attempts: usize,
}

/// One set of upstreams.
struct Set {
    upstreams: Upstreams,
    /// Doors of the gate, which it must not ask.
    own: Arc<[SocketAddr]>,
    timeout: Duration,
    live: ArcSwap<Live>,
    /// What was said last of a file that names nobody.
    kept: Mutex<Option<String>>,
}

struct Live {
    /// One each, in the order of the configuration: a name is told to as few servers as can be.
    pools: Vec<NameServerPool<TokioRuntimeProvider>>,
    /// The one that answered last is asked first, so that a dead one is waited for once.
    preferred: AtomicUsize,
    servers: Vec<SocketAddr>,
}

impl Ask {
    /// Fails where a set has nobody to ask.
    pub(super) fn new(
        upstreams: &Upstreams,
        zones: &[Zone],
        own: &[SocketAddr],
        timeout: Duration,
        attempts: usize,
    ) -> Result<Self, UpstreamsError> {
        let own: Arc<[SocketAddr]> = own.into();
        let set = |upstreams: &Upstreams| Set::new(upstreams.clone(), own.clone(), timeout);
        let mut sets = Vec::new();
        for zone in zones {
            let mut name = Name::from_ascii(zone.suffix.as_str()).map_err(|_| UpstreamsError::None)?;
            name.set_fqdn(true);
            sets.push((name, set(&zone.upstreams)?));
        }
        sets.sort_by_key(|(name, _)| std::cmp::Reverse(name.num_labels()));
        Ok(Self { rest: set(upstreams)?, zones: sets, attempts })
    }

    /// The resolver configuration files that are followed.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.sets().filter_map(Set::file).cloned().collect();
        files.sort();
        files.dedup();
        files
    }

    /// Looks at those files again and takes over what changed.
    pub(super) fn follow(&self) -> Vec<Followed> {
        self.sets().filter_map(Set::follow).collect()
    }

    /// Asks for the addresses of one family, following aliases. The validity is the smallest TTL on the way, unclamped.
    pub(super) async fn addresses(
        &self,
        name: &HostName,
        family: Family,
    ) -> Result<(Answer, Duration), Failure> {
        let mut walk = Walk::from(name, family).ok_or(Failure::of(ResolveError::ServFail))?;
        for _ in 0..QUESTION_LIMIT {
            let set = self.set(&walk.at);
            let query = Query::query(walk.at.clone(), family.record_type());
            let response = set.live.load_full().exchange(query, self.attempts).await?;
            if let Some(done) = walk.step(&response, |name| std::ptr::eq(self.set(name), set))? {
                return Ok(done);
            }
        }
        Err(Failure::of(ResolveError::ServFail))
    }

    fn set(&self, name: &Name) -> &Set {
        let zone = self.zones.iter().find(|(suffix, _)| suffix.zone_of(name));
        zone.map_or(&self.rest, |(_, set)| set)
    }

    fn sets(&self) -> impl Iterator<Item = &Set> {
        self.zones.iter().map(|(_, set)| set).chain([&self.rest])
    }
}

impl Set {
    fn new(upstreams: Upstreams, own: Arc<[SocketAddr]>, timeout: Duration) -> Result<Self, UpstreamsError> {
        let servers = match &upstreams {
            Upstreams::Servers(servers) => servers.clone(),
            Upstreams::System(path) => system::servers(path, &own)
                .map_err(|source| UpstreamsError::System { path: path.clone(), source })?,
        };
        let live = ArcSwap::from_pointee(Live::new(servers, timeout)?);
        Ok(Self { upstreams, own, timeout, live, kept: Mutex::default() })
    }

    fn file(&self) -> Option<&PathBuf> {
        match &self.upstreams {
            Upstreams::System(path) => Some(path),
            Upstreams::Servers(_) => None,
        }
    }

    /// A file that names no server (as while it is being written) leaves the old set in use. `None`: nothing new.
    fn follow(&self) -> Option<Followed> {
        let path = self.file()?.clone();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let next = system::servers(&path, &self.own).map_err(|error| error.to_string());
        let live = next.and_then(|servers| {
            let same = servers == self.live.load().servers;
            let live = (!same).then(|| Live::new(servers, self.timeout)).transpose();
            live.map_err(|error| error.to_string())
        });
        match live {
            Ok(None) => {
                *kept = None;
                None
            }
            Ok(Some(live)) => {
                *kept = None;
                let servers = live.servers.clone();
                self.live.store(Arc::new(live));
                Some(Followed::Servers { path, servers })
            }
            Err(why) => {
                let said = kept.replace(why.clone());
                (said.as_ref() != Some(&why)).then_some(Followed::Kept { path, why })
            }
        }
    }
}

/// Why there is no answer, and for how long the zone says that this holds.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: ResolveError,
    pub negative_ttl: Option<Duration>,
}

impl Failure {
    pub(super) fn of(error: ResolveError) -> Self {
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
    fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Result<Self, UpstreamsError> {
        if servers.is_empty() {
            return Err(UpstreamsError::None);
        }
        let tls = TlsConfig::new().map_err(|_| UpstreamsError::Client)?;
        let context = Arc::new(PoolContext::new(options(timeout), tls));
        let pool = |server: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let config = NameServerConfig::new(server.ip(), true, connections.to_vec());
            NameServerPool::from_config([config], context.clone(), TokioRuntimeProvider::default())
        };
        Ok(Self { pools: servers.iter().map(pool).collect(), preferred: AtomicUsize::new(0), servers })
    }

    /// Asks one server after the other until one says something; again after that only where none did.
    async fn exchange(&self, query: Query, attempts: usize) -> Result<DnsResponse, Failure> {
        let mut failure = Failure::of(ResolveError::Timeout);
        for _ in 0..=attempts {
            let first = self.preferred.load(Ordering::Relaxed);
            for at in (0..self.pools.len()).map(|n| (first + n) % self.pools.len()) {
                let Some(pool) = self.pools.get(at) else { continue };
                let said = pool.lookup(query.clone(), DnsRequestOptions::default()).first_answer().await;
                let said = said.map_err(|error| Failure::from_net(&error));
                if said.as_ref().err().is_none_or(|failure| failure.error.is_negative()) {
                    self.preferred.store(at, Ordering::Relaxed);
                    return said;
                }
                failure = said.err().unwrap_or(failure);
            }
            if failure.error != ResolveError::Timeout {
                break;
            }
        }
        Err(failure)
    }
}

fn options(timeout: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    options.case_randomization = true;
    options.os_port_selection = false;
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(upstreams: &Upstreams, zones: &[Zone], own: &[SocketAddr]) -> Result<Ask, UpstreamsError> {
        Ask::new(upstreams, zones, own, Duration::from_secs(1), 1)
    }

    fn servers(text: &str) -> Upstreams {
        Upstreams::Servers(vec![text.parse().unwrap()])
    }

    #[test]
    fn the_system_file_is_read_and_followed_and_a_broken_one_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("search corp.test\nnameserver 192.0.2.1\noptions ndots:5\n");
        let ask = ask(&Upstreams::System(file.clone()), &[], &[]).unwrap();
        let asked = || ask.rest.live.load().servers.clone();
        assert_eq!(asked(), ["192.0.2.1:53".parse().unwrap()]);
        write("nameserver 192.0.2.1\n");
        assert_eq!(ask.follow(), [], "the same servers");
        write("");
        assert!(matches!(ask.follow()[..], [Followed::Kept { .. }]), "half-written");
        assert_eq!(ask.follow(), [], "that was said");
        assert_eq!(asked(), ["192.0.2.1:53".parse().unwrap()]);
        write("nameserver 2001:db8::1\n");
        assert!(matches!(ask.follow()[..], [Followed::Servers { .. }]));
        assert_eq!(asked(), ["[2001:db8::1]:53".parse().unwrap()]);
    }

    #[test]
    fn a_door_of_our_own_in_the_system_file_is_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let own = ["10.77.1.1:53".parse().unwrap()];
        std::fs::write(&file, "nameserver 10.77.1.1\n").unwrap();
        let error = ask(&Upstreams::System(file.clone()), &[], &own).err().unwrap();
        assert!(error.to_string().contains("this gate itself"), "{error}");
        std::fs::write(&file, "nameserver 10.77.1.1\nnameserver 192.0.2.1\n").unwrap();
        let both = ask(&Upstreams::System(file), &[], &own).unwrap();
        assert_eq!(both.rest.live.load().servers, ["192.0.2.1:53".parse().unwrap()]);
    }

    #[test]
    fn nobody_to_ask_is_said_at_start() {
        assert!(matches!(ask(&Upstreams::Servers(Vec::new()), &[], &[]), Err(UpstreamsError::None)));
    }

    #[test]
    fn the_longest_zone_has_the_name() {
        let zone = |suffix: &str, upstreams: &str| Zone {
            suffix: HostName::parse(suffix).unwrap(),
            upstreams: servers(upstreams),
        };
        let zones = [zone("corp.test", "192.0.2.1:53"), zone("eu.corp.test", "192.0.2.2:53")];
        let ask = ask(&servers("192.0.2.9:53"), &zones, &[]).unwrap();
        let asked = |name: &str| {
            let servers = ask.set(&Name::from_ascii(name).unwrap()).live.load().servers.clone();
            servers[0].ip().to_string()
        };
        assert_eq!(asked("wiki.corp.test."), "192.0.2.1");
        assert_eq!(asked("corp.test."), "192.0.2.1");
        assert_eq!(asked("a.EU.Corp.test."), "192.0.2.2");
        assert_eq!(asked("eucorp.test."), "192.0.2.9");
        assert_eq!(asked("test."), "192.0.2.9");
    }
}
