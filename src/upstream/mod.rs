//! The other side: dialling what was permitted, TLS to it, HTTP on it, and the pool. Called by `pipeline` for
//! exchanges and by `flow` for tunnels; both must show a right that only judging gives.

mod chain;
mod dial;
mod error;
mod h1;
mod h2;
mod interim;
mod pool;
mod proxy;
mod request;
mod settings;
mod wire;

pub use chain::ProxyError;
pub use dial::{Opened, Reached};
pub use error::UpstreamError;
pub use interim::OnInterim;
pub use pool::Lane;
pub use proxy::{
    Bypass, BypassError, Proxy, ProxyKind, ProxyLoadError, ProxySettings, ProxyUrl, ProxyUrlError,
};
pub use request::{Answer, UpstreamRequest};
pub use settings::Settings;
pub use wire::Wire;

use crate::base::{Proto, Scheme};
use crate::dns::Resolver;
use crate::net::OwnAddresses;
use crate::policy::{DialRight, TunnelPermit};
use crate::rt::Tasks;
use arc_swap::ArcSwapOption;
use interim::Interims;
use pool::Pool;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything needed to reach upstream hosts; shared by all flows.
pub struct Upstream {
    dialler: dial::Dialler,
    pool: Arc<Pool>,
    proxy: ArcSwapOption<Proxy>,
    settings: Settings,
    tasks: Tasks,
}

impl Upstream {
    pub fn new(
        settings: Settings,
        proxy: Option<Proxy>,
        resolver: Arc<Resolver>,
        own: Arc<OwnAddresses>,
        anchors: crate::tls::Anchors,
        tasks: Tasks,
    ) -> Result<Self, crate::tls::ClientError> {
        let dialler = dial::Dialler::new(&settings, resolver, own, anchors)?;
        let pool = Arc::new(Pool::new(&settings));
        let proxy = ArcSwapOption::new(proxy.map(Arc::new));
        Ok(Self { dialler, pool, proxy, settings, tasks })
    }

    /// What is judged from now on takes this way. Open connections end with what they carry: none is used for another request.
    /// Gives `false` where it is the way that is taken already.
    pub fn change_proxy(&self, proxy: Option<Proxy>) -> bool {
        let now = self.proxy.load_full();
        let same = match (&now, &proxy) {
            (None, None) => true,
            (Some(now), Some(new)) => now.is_same(new),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !same {
            self.proxy.store(proxy.map(Arc::new));
        }
        !same
    }

    /// The proxy that new connections go through.
    pub fn proxy(&self) -> Option<Arc<Proxy>> {
        self.proxy.load_full()
    }

    /// Where a request with this right goes. The proxy of this moment is its way, also where it is dialled later.
    pub fn lane(&self, right: DialRight) -> Lane {
        self.pool.lane(right, self.proxy.load_full())
    }

    /// Sends one judged request and waits for the head of its answer. `client` is the protocol the client speaks,
    /// which the upstream side follows where the origin lets it. Interim answers are given to `on_interim` as they come.
    ///
    /// A request without body is repeated once, on a fresh connection, when the pooled one turns out to be dead
    /// before anything came back.
    pub async fn send(
        &self,
        mut request: Box<UpstreamRequest>,
        client: Proto,
        on_interim: OnInterim<'_>,
    ) -> Result<Answer, UpstreamError> {
        let mut interims = Interims::new(on_interim, self.settings.head.bytes);
        let scheme = request.lane.right().scheme();
        let wants_h1 = client == Proto::H1 || request.websocket || scheme == Scheme::Http;
        let pooled = if wants_h1 {
            self.reuse_h1(&mut request, &mut interims).await
        } else {
            self.reuse_h2(&mut request, &mut interims).await
        };
        let answered = match pooled {
            Some(answered) => answered,
            // Boxed: most requests find a connection and should not carry the state of a handshake around.
            None if wants_h1 => Box::pin(self.fresh_h1(&mut request, &mut interims)).await,
            None => Box::pin(self.fresh_h2(&mut request, &mut interims)).await,
        };
        answered.map_err(|error| match error {
            UpstreamError::Stale => UpstreamError::Closed,
            other => other,
        })
    }

    /// Over an idle connection, where one is held. `None`: the request needs a fresh one.
    async fn reuse_h1(
        &self,
        request: &mut UpstreamRequest,
        interims: &mut Interims<'_>,
    ) -> Option<Result<Answer, UpstreamError>> {
        let held = self.pool.take_h1(&request.lane)?;
        let repeatable = request.is_repeatable();
        let answered = h1::exchange(held, request, self, interims).await;
        unless_stale(answered, repeatable && !interims.any())
    }

    /// As [`Self::reuse_h1`].
    async fn reuse_h2(
        &self,
        request: &mut UpstreamRequest,
        interims: &mut Interims<'_>,
    ) -> Option<Result<Answer, UpstreamError>> {
        let cell = self.pool.h2_cell(&request.lane);
        let held = ready(&cell).await?;
        let repeatable = request.is_repeatable();
        let answered = h2::exchange(held.clone(), request, self, interims).await;
        if matches!(answered, Err(UpstreamError::Stale | UpstreamError::HeadTimeout)) {
            cell.forget(&held);
        }
        unless_stale(answered, repeatable && !interims.any())
    }

    async fn fresh_h1(
        &self,
        request: &mut UpstreamRequest,
        interims: &mut Interims<'_>,
    ) -> Result<Answer, UpstreamError> {
        let cell = self.pool.h2_cell(&request.lane);
        if !cell.is_only(Proto::H2) {
            match self.connect(&request.lane, &[Proto::H1]).await {
                Ok(dialled) => {
                    return h1::exchange(h1::Connection::new(dialled), request, self, interims).await;
                }
                Err(UpstreamError::NoCommonProtocol) if !request.websocket => cell.found_only(Proto::H2),
                Err(error) => return Err(error),
            }
        }
        match self.reuse_h2(request, interims).await {
            Some(answered) => answered,
            None => self.fresh_h2(request, interims).await,
        }
    }

    async fn fresh_h2(
        &self,
        request: &mut UpstreamRequest,
        interims: &mut Interims<'_>,
    ) -> Result<Answer, UpstreamError> {
        let cell = self.pool.h2_cell(&request.lane);
        let turn = if cell.is_only(Proto::H1) {
            if let Some(answered) = self.reuse_h1(request, interims).await {
                return answered;
            }
            None
        } else {
            // One dial at a time in each lane: whoever waits uses what the first one opened. Where that takes too
            // long the others must not fail one after the other.
            let turn = tokio::time::timeout(self.settings.handshake, cell.turn()).await;
            Some(turn.map_err(|_| UpstreamError::ConnectTimeout)?)
        };
        if let Some(held) = ready(&cell).await {
            drop(turn);
            return h2::exchange(held, request, self, interims).await;
        }
        let dialled = self.connect(&request.lane, &[Proto::H2, Proto::H1]).await?;
        if dialled.proto == Proto::H1 {
            cell.found_only(Proto::H1);
            drop(turn);
            return h1::exchange(h1::Connection::new(dialled), request, self, interims).await;
        }
        let connection = h2::Connection::open(dialled, self).await?;
        cell.add(connection.clone());
        drop(turn);
        h2::exchange(connection, request, self, interims).await
    }

    async fn connect(&self, lane: &Lane, protos: &[Proto]) -> Result<dial::Dialled, UpstreamError> {
        self.dialler.connect(lane.right(), lane.proxy(), protos).await
    }

    /// Opens a connection for bytes that are relayed unread.
    pub async fn tunnel(&self, permit: &TunnelPermit) -> Result<Opened, UpstreamError> {
        let _turn = self.dialler.turn(permit.dial())?;
        self.dialler.open(permit.dial(), self.proxy.load_full().as_ref()).await
    }

    /// Whether this is an address of the gate itself, which nothing opens.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.dialler.is_own(address)
    }

    /// Whether a connection in this lane is open: then there is nothing to dial.
    pub fn holds(&self, lane: &Lane) -> bool {
        self.pool.holds(lane)
    }

    /// Fails where a lane leads only to addresses that the guard refuses.
    pub async fn guard(&self, lane: &Lane) -> Result<(), UpstreamError> {
        Box::pin(self.dialler.check(lane.right(), lane.proxy())).await
    }

    /// Closes what has been idle for too long; run by a task of its own until the process ends.
    pub async fn reap(&self) {
        let mut tick = tokio::time::interval(self.settings.idle / 4);
        loop {
            tick.tick().await;
            self.pool.expire();
        }
    }

    /// Connections open and idle, for metrics.
    pub fn idle_connections(&self) -> usize {
        self.pool.len()
    }
}

/// The answer that came over a pooled connection; `None` where that was dead and the request may be sent once more.
fn unless_stale(
    answered: Result<Answer, UpstreamError>,
    repeatable: bool,
) -> Option<Result<Answer, UpstreamError>> {
    match answered {
        Err(UpstreamError::Stale) if repeatable => None,
        other => Some(other),
    }
}

/// A connection that takes another request. One that has said goodbye is found out here, where nothing of the request
/// is on its way.
async fn ready(cell: &pool::H2Cell) -> Option<h2::Connection> {
    loop {
        let held = cell.current()?;
        match held.clone().ready().await {
            Some(ready) => return Some(ready),
            None => cell.forget(&held),
        }
    }
}
