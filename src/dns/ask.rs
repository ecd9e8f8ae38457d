//! The upstream servers behind the resolver: one question out, one checked answer back. The only file that knows the
//! client side of the DNS library. No cache, no hosts file, no search list.
//!
//! Transport, random ports, ids and letter case, resends and TCP after truncation are the library's. Its alias chase
//! is not used: it cannot tell a loop from an empty answer. A set of upstreams fails by itself: there is no other.

use super::resolver::{Answer, Family, ResolveError};
use crate::base::HostName;
use arc_swap::ArcSwap;
use hickory_proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Aliases followed, and questions asked to follow them, before the chain counts as broken (GAUNTLET DN-22).
const CHAIN_LIMIT: usize = 16;
const QUESTION_LIMIT: usize = 6;

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
    /// One each, in the order of the configuration: a name is told to as few servers as can be.
    pools: Vec<NameServerPool<TokioRuntimeProvider>>,
    /// The one that answered last is asked first, so that a dead one is waited for once.
    preferred: AtomicUsize,
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
        let live = Live::new(servers, changed, timeout)?;
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
        let next = system_servers(path).and_then(|servers| Live::new(servers, changed, self.timeout));
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

    /// Asks for the addresses of one family, following aliases. The validity is the smallest TTL on the way, unclamped.
    pub(super) async fn addresses(
        &self,
        name: &HostName,
        family: Family,
    ) -> Result<(Answer, Duration), Failure> {
        let live = self.live.load_full();
        let mut walk = Walk::from(name, family).ok_or(Failure::of(ResolveError::ServFail))?;
        for _ in 0..QUESTION_LIMIT {
            let query = Query::query(walk.at.clone(), family.record_type());
            let response = live.exchange(query, self.attempts).await?;
            if let Some(done) = walk.step(&response)? {
                return Ok(done);
            }
        }
        Err(Failure::of(ResolveError::ServFail))
    }
}

/// Why there is no answer, and for how long the zone says that this holds.
#[derive(Debug)]
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
    ) -> Result<Self, ResolveError> {
        if servers.is_empty() {
            return Err(ResolveError::NoUpstreams);
        }
        let tls = TlsConfig::new().map_err(|_| ResolveError::NoUpstreams)?;
        let context = Arc::new(PoolContext::new(options(timeout), tls));
        let pool = |server: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let config = NameServerConfig::new(server.ip(), true, connections.to_vec());
            NameServerPool::from_config([config], context.clone(), TokioRuntimeProvider::default())
        };
        Ok(Self {
            pools: servers.iter().map(pool).collect(),
            preferred: AtomicUsize::new(0),
            servers,
            changed,
        })
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

fn system_servers(path: &Path) -> Result<Vec<SocketAddr>, ResolveError> {
    let text = std::fs::read(path).map_err(|_| ResolveError::NoUpstreams)?;
    let (config, _) = parse_resolv_conf(text).map_err(|_| ResolveError::NoUpstreams)?;
    Ok(config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).collect())
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// The way from the name that was asked to its addresses. Records beside that way are ignored.
struct Walk {
    family: Family,
    at: Name,
    passed: Vec<Name>,
    ttl: u32,
}

impl Walk {
    /// Starts at the name with its final dot, so that no search list can apply.
    fn from(name: &HostName, family: Family) -> Option<Self> {
        let mut at = Name::from_ascii(name.as_str()).ok()?;
        at.set_fqdn(true);
        Some(Self { family, at, passed: Vec::new(), ttl: u32::MAX })
    }

    /// Goes as far as this response leads: to addresses, to a "no", or to the next name to ask for.
    fn step(&mut self, response: &DnsResponse) -> Result<Option<(Answer, Duration)>, Failure> {
        let broken = Err(Failure::of(ResolveError::ServFail));
        let passed_before = self.passed.len();
        while let Some((target, ttl)) = alias(&self.at, &response.answers) {
            let both = addresses(&self.at, &response.answers, self.family).next().is_some();
            if both || self.passed.len() >= CHAIN_LIMIT || *target == self.at || self.passed.contains(target)
            {
                return broken;
            }
            self.ttl = self.ttl.min(ttl);
            self.passed.push(std::mem::replace(&mut self.at, target.clone()));
        }
        let mut found: Vec<IpAddr> = Vec::new();
        for (address, ttl) in addresses(&self.at, &response.answers, self.family) {
            self.ttl = self.ttl.min(ttl);
            if !found.contains(&address) {
                found.push(address);
            }
        }
        if !found.is_empty() {
            let answer = Answer { addresses: found, chain: self.chain(), valid_until: Instant::now() };
            return Ok(Some((answer, Duration::from_secs(self.ttl.into()))));
        }
        let negative_ttl = response.negative_ttl().map(|ttl| Duration::from_secs(ttl.into()));
        match response.metadata.response_code {
            ResponseCode::NXDomain => Err(Failure { error: ResolveError::NxDomain, negative_ttl }),
            _ if negative_ttl.is_some() => Err(Failure { error: ResolveError::NoData, negative_ttl }),
            _ if self.passed.len() > passed_before => Ok(None),
            _ => broken,
        }
    }

    fn chain(&self) -> Vec<Arc<str>> {
        let below = self.passed.iter().skip(1);
        let last = (!self.passed.is_empty()).then_some(&self.at);
        below.chain(last).map(|name| super::message::name_text(name).into()).collect()
    }
}

fn alias<'a>(at: &Name, records: &'a [Record]) -> Option<(&'a Name, u32)> {
    records.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *at => Some((&target.0, record.ttl)),
        _ => None,
    })
}

fn addresses<'a>(
    at: &'a Name,
    records: &'a [Record],
    family: Family,
) -> impl Iterator<Item = (IpAddr, u32)> + 'a {
    records.iter().filter(move |record| record.name == *at).filter_map(move |record| {
        match (&record.data, family) {
            (RData::A(a), Family::V4) => Some((IpAddr::V4(a.0), record.ttl)),
            (RData::AAAA(a), Family::V6) => Some((IpAddr::V6(a.0), record.ttl)),
            _ => None,
        }
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
