//! Names to addresses, for the DNS door and for dialling: a cache of our own, one question at a time for each name,
//! both address families at once, and time limits. Addresses are not filtered here: whoever hands one out or dials it
//! asks the guard at that moment.

use super::ask::{Ask, Failure, Followed, Upstreams, UpstreamsError, Zone};
use super::system::Watch;
use crate::base::HostName;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

#[derive(Debug, Clone)]
pub struct ResolverSettings {
    pub upstreams: Upstreams,
    /// Zones with upstreams of their own.
    pub zones: Vec<Zone>,
    /// Doors of this gate: a resolver configuration of the host that names one must not make it ask itself.
    pub own: Vec<SocketAddr>,
    /// Addresses that only this gate gives out and that no answer may have.
    pub synthetic: Vec<IpNet>,
    /// For one attempt with one set of servers; the transport repeats a lost datagram within it.
    pub timeout: Duration,
    /// Attempts after the first.
    pub attempts: usize,
    /// For one question in all, aliases included. Below the 5 s after which clients give up.
    pub deadline: Duration,
    /// Names and families remembered.
    pub cache_entries: usize,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// The longest that "there is none" is believed, so that a new record is seen soon.
    pub negative_ttl: Duration,
    /// How long a failure is repeated without asking again: a broken zone must not be asked for each connection.
    pub failure_ttl: Duration,
    /// How long dialling waits for the other family once one has answered.
    pub family_grace: Duration,
    /// Whether AAAA is asked at all; false where the gate has no way out over IPv6.
    pub ipv6: bool,
    /// Questions under way upstream at one time.
    pub in_flight: usize,
}

impl Default for ResolverSettings {
    fn default() -> Self {
        Self {
            upstreams: Upstreams::system(),
            zones: Vec::new(),
            own: Vec::new(),
            synthetic: Vec::new(),
            timeout: Duration::from_millis(1500),
            attempts: 1,
            deadline: Duration::from_secs(4),
            cache_entries: 16_384,
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(5),
            failure_ttl: Duration::from_secs(1),
            family_grace: Duration::from_millis(50),
            ipv6: true,
            in_flight: 512,
        }
    }
}

/// Why a name has no address. Never a reason to ask somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResolveError {
    #[error("the name does not exist")]
    NxDomain,
    #[error("the name has no address")]
    NoData,
    #[error("the upstream resolver failed, or its answer makes no sense")]
    ServFail,
    #[error("the upstream resolver did not answer in time")]
    Timeout,
}

impl ResolveError {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NxDomain => "nxdomain",
            Self::NoData => "nodata",
            Self::ServFail => "servfail",
            Self::Timeout => "timeout",
        }
    }

    /// True where the upstream said that there is none, rather than failing to say.
    pub fn is_negative(self) -> bool {
        matches!(self, Self::NxDomain | Self::NoData)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// The addresses of one family.
#[derive(Debug, Clone)]
pub struct Answer {
    pub addresses: Vec<IpAddr>,
    /// The names below the one that was asked, in order, as text for records.
    pub chain: Vec<Arc<str>>,
    pub valid_until: Instant,
}

/// The addresses of both families: IPv4 first, each in the order of its answer.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub addrs: Vec<IpAddr>,
    pub chain: Vec<Arc<str>>,
    pub valid_until: Instant,
}

/// What is remembered of one question.
#[derive(Debug, Clone)]
struct Known {
    result: Result<Arc<Answer>, ResolveError>,
    until: Instant,
}

type Question = (HostName, Family);

/// Shared by everything that needs an address.
pub struct Resolver {
    settings: ResolverSettings,
    ask: Ask,
    known: Cache<Question, Known>,
    /// Both families joined, so that a dial costs one look-up and an `Arc`.
    joined: Cache<HostName, Arc<Addresses>>,
    in_flight: Semaphore,
    /// Grows when other servers are asked: what older ones said is not remembered then.
    generation: AtomicU64,
}

impl Resolver {
    pub fn new(settings: ResolverSettings) -> Result<Self, UpstreamsError> {
        let ResolverSettings { upstreams, zones, own, timeout, attempts, .. } = &settings;
        Ok(Self {
            ask: Ask::new(upstreams, zones, own, *timeout, *attempts)?,
            generation: AtomicU64::new(0),
            known: Cache::new(settings.cache_entries),
            joined: Cache::new(settings.cache_entries),
            in_flight: Semaphore::new(settings.in_flight),
            settings,
        })
    }

    /// Follows the resolver configuration of the host for as long as it is polled; ends at once where none is used.
    /// The next question goes to the new servers, also for a name whose answer was remembered.
    pub async fn follow(&self, tell: impl Fn(&Followed)) {
        let files = self.ask.files();
        while !files.is_empty() {
            let watch = Watch::new(&files);
            for news in self.ask.follow() {
                if matches!(news, Followed::Servers { .. }) {
                    // Other servers may see other zones.
                    self.generation.fetch_add(1, Ordering::Relaxed);
                    self.clear();
                }
                tell(&news);
            }
            watch.changed().await;
        }
    }

    /// Every address of a name. Both families are asked at once; when one has answered, the other gets a short grace.
    pub async fn addresses(&self, name: &HostName) -> Result<Arc<Addresses>, ResolveError> {
        if let Some(joined) = self.joined.get(name)
            && joined.valid_until > Instant::now()
        {
            return Ok(joined);
        }
        let generation = self.generation.load(Ordering::Relaxed);
        let (v4, v6) = self.both(name).await;
        let joined = Arc::new(join(v4, v6, self.settings.min_ttl)?);
        if generation == self.generation.load(Ordering::Relaxed) {
            self.joined.insert(name.clone(), joined.clone());
        }
        Ok(joined)
    }

    /// The addresses of one family, from the cache or from upstream.
    pub async fn lookup(&self, name: &HostName, family: Family) -> Result<Arc<Answer>, ResolveError> {
        let question = (name.clone(), family);
        let deadline = Instant::now() + self.settings.deadline;
        let fresh = |_: &Question, known: &mut Known| match known.until > Instant::now() {
            true => EntryAction::Retain(known.result.clone()),
            false => EntryAction::ReplaceWithGuard,
        };
        // Whoever gets the guard asks; the others wait for the same answer. A guard that is dropped goes to the next.
        let guard = match timeout_at(deadline, self.known.entry_async(&question, fresh)).await {
            Ok(EntryResult::Retained(result)) => return result,
            Ok(EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _)) => guard,
            Ok(EntryResult::Removed(..) | EntryResult::Timeout) | Err(_) => {
                return Err(ResolveError::Timeout);
            }
        };
        let generation = self.generation.load(Ordering::Relaxed);
        let mut known = self.ask_upstream(name, family).await;
        if generation != self.generation.load(Ordering::Relaxed) {
            known.until = Instant::now();
        }
        let result = known.result.clone();
        // An entry that was replaced meanwhile is no harm: this caller has its answer.
        let _ = guard.insert(known);
        result
    }

    /// What the cache says now, without waiting; `None` means that somebody must ask.
    pub fn cached(&self, name: &HostName, family: Family) -> Option<Result<Arc<Answer>, ResolveError>> {
        let known = self.known.get(&(name.clone(), family))?;
        (known.until > Instant::now()).then_some(known.result)
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.known.clear();
        self.joined.clear();
    }

    async fn both(&self, name: &HostName) -> (Option<Looked>, Option<Looked>) {
        let v4 = self.lookup(name, Family::V4);
        if !self.settings.ipv6 {
            return (Some(v4.await), Some(Err(ResolveError::NoData)));
        }
        tokio::pin!(v4);
        let v6 = self.lookup(name, Family::V6);
        tokio::pin!(v6);
        let grace = self.settings.family_grace;
        tokio::select! {
            first = &mut v4 => {
                let other = second(&first, v6, grace).await;
                (Some(first), other)
            }
            first = &mut v6 => {
                let other = second(&first, v4, grace).await;
                (other, Some(first))
            }
        }
    }

    async fn ask_upstream(&self, name: &HostName, family: Family) -> Known {
        let asked = async {
            let _permit = self.in_flight.acquire().await;
            self.ask.addresses(name, family).await
        };
        let failed = Failure { error: ResolveError::Timeout, negative_ttl: None };
        let result = timeout(self.settings.deadline, asked).await.unwrap_or(Err(failed));
        let now = Instant::now();
        match result {
            Ok((mut answer, ttl)) => {
                answer.addresses.retain(|ip| !self.settings.synthetic.iter().any(|net| net.contains(ip)));
                answer.valid_until = now + ttl.clamp(self.settings.min_ttl, self.settings.max_ttl);
                Known { until: answer.valid_until, result: Ok(Arc::new(answer)) }
            }
            Err(Failure { error, negative_ttl }) => {
                let hold = match error.is_negative() {
                    true => negative_ttl
                        .map_or(self.settings.negative_ttl, |ttl| ttl.min(self.settings.negative_ttl)),
                    false => self.settings.failure_ttl,
                };
                Known { result: Err(error), until: now + hold }
            }
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("settings", &self.settings).finish_non_exhaustive()
    }
}

type Looked = Result<Arc<Answer>, ResolveError>;

/// The second family: waited for in full when the first brought nothing, for the grace otherwise.
async fn second(first: &Looked, other: impl Future<Output = Looked>, grace: Duration) -> Option<Looked> {
    match first {
        Ok(_) => timeout(grace, other).await.ok(),
        Err(_) => Some(other.await),
    }
}

/// One family is enough; without any, a failure speaks before "there is none".
fn join(v4: Option<Looked>, v6: Option<Looked>, min_ttl: Duration) -> Result<Addresses, ResolveError> {
    let mut settled = true;
    let mut errors = Vec::new();
    let mut joined = Addresses { addrs: Vec::new(), chain: Vec::new(), valid_until: Instant::now() };
    for looked in [v4, v6] {
        match looked {
            Some(Ok(answer)) => {
                let first = joined.addrs.is_empty();
                joined.valid_until =
                    if first { answer.valid_until } else { joined.valid_until.min(answer.valid_until) };
                joined.addrs.extend(&answer.addresses);
                if first {
                    joined.chain.clone_from(&answer.chain);
                }
            }
            Some(Err(error)) => {
                settled &= error.is_negative();
                errors.push(error);
            }
            None => settled = false,
        }
    }
    if joined.addrs.is_empty() {
        return Err(worst(&errors));
    }
    if !settled {
        // A family is late or failed: soon look again.
        joined.valid_until = joined.valid_until.min(Instant::now() + min_ttl);
    }
    Ok(joined)
}

fn worst(errors: &[ResolveError]) -> ResolveError {
    let failed = errors.iter().find(|error| !error.is_negative());
    let none = errors.iter().find(|error| **error == ResolveError::NxDomain);
    failed.or(none).copied().unwrap_or(ResolveError::NoData)
}
