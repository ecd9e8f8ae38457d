//! The only place that connects. It takes a right, resolves its name with our own resolver, passes each address
//! through the guard at the moment of dialling, and connects to exactly the address that was passed: directly, or by
//! asking the upstream proxy for it. Where there is a proxy, only what `no_proxy` names is dialled directly; a proxy
//! that fails is never followed by a direct connection.

use super::chain::{self, Destination, ProxyError};
use super::proxy::Proxy;
use super::{Settings, UpstreamError, Wire};
use crate::base::{AddressClass, Host, Proto, Scheme, UpstreamAddr};
use crate::dns::{Resolver, Slot, Slots};
use crate::net::OwnAddresses;
use crate::policy::{DialRight, Rule};
use crate::tls::{
    self, Alpn, Anchors, ClientCertificate, ClientError, Profile, ProfileSettings, UpstreamFault,
};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long the first address is tried alone before the next joins in (RFC 8305 names 250 ms).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried at most.
const MAX_ADDRESSES: usize = 8;

pub(super) struct Dialler {
    resolver: Arc<Resolver>,
    own: Arc<OwnAddresses>,
    anchors: Anchors,
    profile: Arc<Profile>,
    /// Profiles of rules with trust of their own, as long as the rule lives.
    special: Mutex<HashMap<usize, OfRule>>,
    connect: Duration,
    write_stall: Duration,
    handshake: Duration,
    /// Dials under way, by client, host and port.
    under_way: Arc<Slots<u64>>,
    hasher: RandomState,
}

/// A rule, by which a stale entry is told, and its profile.
type OfRule = (Weak<Rule>, Arc<Profile>);

pub(super) struct Dialled {
    pub(super) wire: Wire,
    pub(super) proto: Proto,
    pub(super) reached: Reached,
}

/// What a connection leads to, for records.
#[derive(Debug, Clone)]
pub struct Reached {
    /// Absent where the proxy resolved the name.
    pub address: Option<UpstreamAddr>,
    /// The proxy that it goes through.
    pub proxy: Option<Arc<str>>,
}

/// A connection for bytes, without TLS of ours.
pub struct Opened {
    pub wire: Wire,
    /// What came in behind the proxy's answer.
    pub ahead: Bytes,
    pub reached: Reached,
}

/// The ways that a right may be followed.
enum Route {
    Direct(Vec<SocketAddr>),
    Through(Arc<Proxy>, Vec<Destination>),
}

impl Dialler {
    pub(super) fn new(
        settings: &Settings,
        resolver: Arc<Resolver>,
        own: Arc<OwnAddresses>,
        anchors: Anchors,
    ) -> Result<Self, ClientError> {
        let profile = Arc::new(Profile::new(&anchors, &ProfileSettings::default())?);
        Ok(Self {
            resolver,
            own,
            anchors,
            profile,
            special: Mutex::new(HashMap::new()),
            connect: settings.connect,
            write_stall: settings.write_stall,
            handshake: settings.handshake,
            under_way: Slots::new(usize::MAX, settings.dials_per_host),
            hasher: RandomState::new(),
        })
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(address)
    }

    /// Whether the guard lets this right connect to this address.
    pub(super) fn passes(&self, right: &DialRight, ip: IpAddr) -> bool {
        let class_passes = match AddressClass::of(ip) {
            AddressClass::Public => true,
            AddressClass::Grantable => right.grants(ip),
            AddressClass::Never => false,
        };
        class_passes && !self.own.contains(ip)
    }

    /// A place among the dials under way, while it is held.
    pub(super) fn turn(&self, right: &DialRight) -> Result<Slot<u64>, UpstreamError> {
        let place = self.hasher.hash_one((right.client(), right.host(), right.port()));
        self.under_way.take(place).ok_or(UpstreamError::Busy)
    }

    /// Bytes to where the right leads, through `proxy` where there is one.
    pub(super) async fn open(
        &self,
        right: &DialRight,
        proxy: Option<&Arc<Proxy>>,
    ) -> Result<Opened, UpstreamError> {
        match self.route(right, proxy).await? {
            Route::Direct(addresses) => {
                let stream = self.reach(&addresses).await?;
                let address = Some(UpstreamAddr(stream.peer_addr()?));
                let reached = Reached { address, proxy: None };
                Ok(Opened { wire: Wire::Tcp(stream), ahead: Bytes::new(), reached })
            }
            Route::Through(proxy, destinations) => Ok(self.through(&proxy, &destinations).await?),
        }
    }

    /// A connection that is ready for HTTP: over https the origin was verified, and `offer` was offered by ALPN.
    pub(super) async fn connect(
        &self,
        right: &DialRight,
        proxy: Option<&Arc<Proxy>>,
        offer: &[Proto],
    ) -> Result<Dialled, UpstreamError> {
        let _turn = self.turn(right)?;
        tokio::time::timeout(self.handshake, self.connect_unbounded(right, proxy, offer))
            .await
            .unwrap_or(Err(UpstreamError::ConnectTimeout))
    }

    async fn connect_unbounded(
        &self,
        right: &DialRight,
        proxy: Option<&Arc<Proxy>>,
        offer: &[Proto],
    ) -> Result<Dialled, UpstreamError> {
        let Opened { wire, ahead, reached } = self.open(right, proxy).await?;
        if !ahead.is_empty() {
            return Err(ProxyError::Answer("bytes behind it that nobody asked for".into()).into());
        }
        if right.scheme() != Scheme::Https {
            return Ok(Dialled { wire, proto: Proto::H1, reached });
        }
        let alpn = if offer.contains(&Proto::H2) { Alpn::Both } else { Alpn::Http1 };
        let config = self.profile(right)?.config(alpn);
        let name = server_name(right.host())?;
        let (stream, asked) = tls::asking(TlsConnector::from(config).connect(name, wire)).await;
        let stream = stream.map_err(|e| tls_failure(&e))?;
        let proto = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Proto::H2,
            _ => Proto::H1,
        };
        Ok(Dialled { wire: Wire::secured(stream, asked), proto, reached })
    }

    /// Fails where the right leads only to addresses that the guard refuses, or to none.
    pub(super) async fn check(
        &self,
        right: &DialRight,
        proxy: Option<&Arc<Proxy>>,
    ) -> Result<(), UpstreamError> {
        self.route(right, proxy).await.map(|_| ())
    }

    async fn route(&self, right: &DialRight, proxy: Option<&Arc<Proxy>>) -> Result<Route, UpstreamError> {
        let (host, port) = (right.host(), right.port());
        let found = self.candidates(right).await;
        let Some(proxy) = proxy.filter(|proxy| !proxy.passes_by(host, port)) else {
            return found.map(Route::Direct);
        };
        let resolves = proxy.settings().danger_proxy_resolves;
        let addresses = match found {
            Ok(addresses) => addresses,
            Err(UpstreamError::Dns(_)) if resolves => Vec::new(),
            Err(error) => return Err(error),
        };
        let near: Vec<SocketAddr> =
            addresses.iter().copied().filter(|a| proxy.passes_by_address(a.ip(), port)).collect();
        if !near.is_empty() {
            return Ok(Route::Direct(near));
        }
        let destinations = match host {
            Host::Name(name) if resolves => vec![Destination::Name(name.clone(), port)],
            Host::Name(_) | Host::Ip(_) => addresses.into_iter().map(Destination::Address).collect(),
        };
        Ok(Route::Through(proxy.clone(), destinations))
    }

    /// One destination after the other: the proxy has a dialler of its own, and is not asked for several at once.
    async fn through(&self, proxy: &Proxy, destinations: &[Destination]) -> Result<Opened, ProxyError> {
        let mut last = ProxyError::Dns("there is no address to ask it for".into());
        for destination in destinations {
            match self.one_through(proxy, destination).await {
                Err(error) if error.is_of_the_destination() => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    async fn reach(&self, addresses: &[SocketAddr]) -> Result<TcpStream, UpstreamError> {
        let stream = race(addresses, self.connect).await?;
        // A host that is gone acknowledges nothing: without this only the wait for its answer would tell (tcp(7)).
        socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(self.write_stall))?;
        Ok(stream)
    }

    async fn one_through(&self, proxy: &Proxy, destination: &Destination) -> Result<Opened, ProxyError> {
        let url = &proxy.settings().url;
        // The operator named it, so the guard has no say here: company proxies stand at private addresses.
        let addresses: Vec<SocketAddr> = match &url.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, url.port)],
            Host::Name(name) => {
                let found =
                    self.resolver.addresses(name).await.map_err(|e| ProxyError::Dns(e.to_string()))?;
                found.addrs.iter().take(MAX_ADDRESSES).map(|ip| SocketAddr::new(*ip, url.port)).collect()
            }
        };
        let stream = self.reach(&addresses).await.map_err(|error| match error {
            UpstreamError::Connect(io) => ProxyError::Connect(io),
            UpstreamError::ConnectTimeout => ProxyError::Slow,
            other => ProxyError::Dns(other.to_string()),
        })?;
        let asking = chain::through(proxy, Wire::Tcp(stream), destination);
        let (wire, ahead) =
            tokio::time::timeout(self.connect, asking).await.unwrap_or(Err(ProxyError::Slow))?;
        let address = match destination {
            Destination::Address(address) => Some(UpstreamAddr(*address)),
            Destination::Name(..) => None,
        };
        Ok(Opened { wire, ahead, reached: Reached { address, proxy: Some(proxy.shown().clone()) } })
    }

    async fn candidates(&self, right: &DialRight) -> Result<Vec<SocketAddr>, UpstreamError> {
        let port = right.port();
        let all: Vec<IpAddr> = match right.host() {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => {
                let found =
                    self.resolver.addresses(name).await.map_err(|e| UpstreamError::Dns(e.to_string()))?;
                found.addrs.clone()
            }
        };
        let blocked = all.first().copied();
        let mut passed: Vec<SocketAddr> = all
            .into_iter()
            .filter(|ip| self.passes(right, *ip))
            .map(|ip| SocketAddr::new(ip, port))
            .collect();
        passed.truncate(MAX_ADDRESSES);
        match (passed.is_empty(), blocked) {
            (false, _) => Ok(passed),
            (true, Some(ip)) => Err(UpstreamError::Blocked(ip)),
            (true, None) => Err(UpstreamError::Dns("the name has no address".into())),
        }
    }

    fn profile(&self, right: &DialRight) -> Result<Arc<Profile>, UpstreamError> {
        let rule = right.rule();
        let own = rule.tls();
        if own.roots.is_empty() && own.client_certificate.is_none() {
            return Ok(self.profile.clone());
        }
        let mut special = self.special.lock().unwrap_or_else(PoisonError::into_inner);
        special.retain(|_, (rule, _)| rule.strong_count() > 0);
        let key = Arc::as_ptr(rule) as usize;
        if let Some((_, profile)) = special.get(&key) {
            return Ok(profile.clone());
        }
        let settings = ProfileSettings {
            extra_roots: own.roots.clone(),
            client_certificate: own
                .client_certificate
                .as_ref()
                .map(|c| ClientCertificate { chain: c.chain.clone(), key: c.key.clone_key() }),
            ..ProfileSettings::default()
        };
        let profile = Profile::new(&self.anchors, &settings)
            .map_err(|e| UpstreamError::Tls(format!("rule {}: {e}", rule.name())))?;
        let profile = Arc::new(profile);
        special.insert(key, (Arc::downgrade(rule), profile.clone()));
        Ok(profile)
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, UpstreamError> {
    match host {
        Host::Ip(ip) => Ok(ServerName::from(*ip)),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|_| UpstreamError::Tls(format!("{name} is no name that TLS can verify"))),
    }
}

/// Connects to the first address that answers; each next one joins after a pause, or as soon as one failed (RFC 8305).
async fn race(candidates: &[SocketAddr], each: Duration) -> Result<TcpStream, UpstreamError> {
    let mut waiting = candidates.iter();
    let mut under_way = FuturesUnordered::new();
    let mut last = None;
    loop {
        under_way.extend(waiting.next().map(|address| connect(*address, each)));
        let next_joins = async {
            match waiting.len() {
                0 => std::future::pending().await,
                _ => tokio::time::sleep(NEXT_ADDRESS).await,
            }
        };
        tokio::select! {
            biased;
            ended = under_way.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = Some(error),
                None => break,
            },
            () = next_joins => {}
        }
    }
    Err(last.map_or_else(|| UpstreamError::Dns("the name has no address".into()), failed))
}

/// An address that does not answer is told from one that says no.
fn failed(error: io::Error) -> UpstreamError {
    match error.kind() {
        io::ErrorKind::TimedOut => UpstreamError::ConnectTimeout,
        _ => UpstreamError::Connect(error),
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that connects: the guard has passed the address"
    )]
    let connecting = TcpStream::connect(address);
    let stream = tokio::time::timeout(limit, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tls_failure(error: &io::Error) -> UpstreamError {
    use rustls::{AlertDescription, Error};
    match tls::tls_error(error) {
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            UpstreamError::NoCommonProtocol
        }
        Some(found) => UpstreamError::Handshake(UpstreamFault::of(found)),
        None => UpstreamError::Tls(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_address_joins_when_one_refuses_and_the_last_refusal_is_told() {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listen();
        // Ports that were free a moment ago.
        let closed: Vec<SocketAddr> = (0..3).map(|_| listen().local_addr().unwrap()).collect();
        let each = Duration::from_secs(5);
        let candidates = [&closed[..], &[good.local_addr().unwrap()]].concat();
        let stream = race(&candidates, each).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good.local_addr().unwrap());
        let refused = race(&closed, each).await.unwrap_err();
        assert!(matches!(refused, UpstreamError::Connect(_)), "{refused}");
        assert!(matches!(race(&[], each).await, Err(UpstreamError::Dns(_))));
    }
}
