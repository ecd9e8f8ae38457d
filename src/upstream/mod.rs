//! The other side: dialling what was permitted, TLS to it, HTTP on it, and the pool. Called by `pipeline` for
//! exchanges and by `flow` for tunnels; both must show a right that only judging gives.

mod dial;
mod error;
mod h1;
mod h2;
mod pool;
mod request;
mod settings;
mod wire;

pub use error::UpstreamError;
pub use request::{Answer, UpstreamRequest};
pub use settings::Settings;
pub use wire::Wire;

use crate::base::{Proto, Scheme, UpstreamAddr};
use crate::dns::Resolver;
use crate::net::OwnAddresses;
use crate::policy::{DialRight, TunnelPermit};
use crate::rt::Tasks;
use pool::{Key, Pool};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Everything needed to reach upstream hosts; shared by all flows.
pub struct Upstream {
    dialler: dial::Dialler,
    pool: Arc<Pool>,
    settings: Settings,
    tasks: Tasks,
}

impl Upstream {
    pub fn new(
        settings: Settings,
        resolver: Arc<Resolver>,
        own: Arc<OwnAddresses>,
        anchors: crate::tls::Anchors,
        tasks: Tasks,
    ) -> Result<Self, crate::tls::ClientError> {
        let dialler = dial::Dialler::new(&settings, resolver, own, anchors)?;
        let pool = Arc::new(Pool::new(&settings));
        Ok(Self { dialler, pool, settings, tasks })
    }

    /// Sends one judged request and waits for the head of its answer. `client` is the protocol the client speaks,
    /// which the upstream side follows where the origin lets it.
    ///
    /// A request without body is repeated once, on a fresh connection, when the pooled one turns out to be dead
    /// before anything came back.
    pub async fn send(&self, request: UpstreamRequest, client: Proto) -> Result<Answer, UpstreamError> {
        let key = Key::new(&request.right);
        let wants_h1 = client == Proto::H1 || request.websocket || request.right.scheme() == Scheme::Http;
        if wants_h1 { self.send_h1(key, request).await } else { self.send_h2(key, request).await }
    }

    /// Boxed: most requests find a connection and should not carry the state of a handshake around.
    fn dial<'a>(
        &'a self,
        request: &'a UpstreamRequest,
        offer: &'a [Proto],
    ) -> Pin<Box<dyn Future<Output = Result<dial::Dialled, UpstreamError>> + Send + 'a>> {
        Box::pin(self.dialler.connect(&request.right, offer))
    }

    async fn send_h1(&self, key: Key, request: UpstreamRequest) -> Result<Answer, UpstreamError> {
        let request = match self.reuse_h1(&key, request).await {
            ControlFlow::Break(answered) => return answered,
            ControlFlow::Continue(request) => request,
        };
        match self.dial(&request, &[Proto::H1]).await {
            Ok(dialled) => h1::exchange(h1::Connection::new(dialled), request, self, &key).await,
            Err(UpstreamError::NoCommonProtocol) => Box::pin(self.send_h2(key, request)).await,
            Err(error) => Err(error),
        }
    }

    /// Over an idle connection, where one is held. Gives the request back where it needs a fresh one.
    async fn reuse_h1(
        &self,
        key: &Key,
        request: UpstreamRequest,
    ) -> ControlFlow<Result<Answer, UpstreamError>, UpstreamRequest> {
        let Some(held) = self.pool.take_h1(key) else { return ControlFlow::Continue(request) };
        let again = request.repeatable();
        match h1::exchange(held, request, self, key).await {
            Err(UpstreamError::Stale) => match again {
                Some(copy) => ControlFlow::Continue(copy),
                None => ControlFlow::Break(Err(UpstreamError::Closed)),
            },
            other => ControlFlow::Break(other),
        }
    }

    async fn send_h2(&self, key: Key, request: UpstreamRequest) -> Result<Answer, UpstreamError> {
        let mut request = request;
        let cell = self.pool.h2_cell(&key);
        if let Some(held) = cell.current() {
            let again = request.repeatable();
            match h2::exchange(held, request, self).await {
                Err(UpstreamError::Stale) => {
                    cell.forget();
                    let Some(copy) = again else { return Err(UpstreamError::Closed) };
                    request = copy;
                }
                other => return other,
            }
        }
        let turn = if cell.is_h1_only() {
            request = match self.reuse_h1(&key, request).await {
                ControlFlow::Break(answered) => return answered,
                ControlFlow::Continue(request) => request,
            };
            None
        } else {
            // One dial at a time for each key: whoever waits uses what the first one opened. Where that takes too
            // long the others must not fail one after the other.
            let turn = tokio::time::timeout(self.settings.handshake, cell.turn()).await;
            Some(turn.map_err(|_| UpstreamError::ConnectTimeout)?)
        };
        if let Some(held) = cell.current() {
            drop(turn);
            return h2::exchange(held, request, self).await;
        }
        let dialled = self.dial(&request, &[Proto::H2, Proto::H1]).await?;
        if dialled.proto == Proto::H1 {
            cell.found_h1_only();
            drop(turn);
            return h1::exchange(h1::Connection::new(dialled), request, self, &key).await;
        }
        let connection = h2::Connection::open(dialled, self).await?;
        cell.set(connection.clone());
        drop(turn);
        h2::exchange(connection, request, self).await
    }

    /// Opens a connection for bytes that are relayed unread.
    pub async fn tunnel(&self, permit: &TunnelPermit) -> Result<(TcpStream, UpstreamAddr), UpstreamError> {
        self.dialler.tcp(permit.dial()).await
    }

    /// Whether this is an address of the gate itself, which nothing opens.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.dialler.is_own(address)
    }

    /// Fails where a right leads only to addresses that the guard refuses. While a connection for it is open there is
    /// nothing to dial, and nothing to ask.
    pub async fn guard(&self, right: &DialRight) -> Result<(), UpstreamError> {
        if self.pool.holds(&Key::new(right)) {
            return Ok(());
        }
        Box::pin(self.dialler.candidates(right)).await.map(|_| ())
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
