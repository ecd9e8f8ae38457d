//! The sockets of the DNS door, UDP and TCP on one address, with every bound that the server library lacks: waiting
//! questions, connections in all and for each source, time for each message. Requests and answers are the library's;
//! its own `Server` has neither a connection cap nor a bound on tasks, so that the loops are ours.
//!
//! The listening address is one that clients reach and that is ours: behind the redirect the kernel rewrites replies,
//! so whatever server a client asked seems to answer.

use super::desk::{Desk, Step};
use super::limit::{Counters, Slots};
use super::udp::{Peer, Udp};
use super::{Judge, Leases, Recorder, Resolver, Transport};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

#[derive(Debug, Clone)]
pub struct DoorSettings {
    /// Questions a second and at once for each source address.
    pub rate: u32,
    pub burst: u32,
    /// Source addresses whose rate is remembered.
    pub sources: usize,
    /// Questions that wait for upstream, in all and for each client.
    pub waiting: usize,
    pub waiting_per_client: usize,
    /// New names under wildcards that a client may ask for in each window, and how many known names are remembered.
    pub wildcard_names: usize,
    pub wildcard_window: Duration,
    pub remembered_names: usize,
    /// How long a "no" holds, short so that a reload is not masked by caches.
    pub negative_ttl: Duration,
    /// Connections in all and for each source address.
    pub connections: usize,
    pub connections_per_source: usize,
    /// Between two messages on a connection.
    pub idle_timeout: Duration,
    /// For the bytes of one message, either way.
    pub message_timeout: Duration,
}

impl Default for DoorSettings {
    fn default() -> Self {
        Self {
            rate: 1000,
            burst: 2000,
            sources: 4096,
            waiting: 1024,
            waiting_per_client: 256,
            wildcard_names: 200,
            wildcard_window: Duration::from_secs(60),
            remembered_names: 4096,
            negative_ttl: Duration::from_secs(5),
            connections: 512,
            connections_per_source: 64,
            idle_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(5),
        }
    }
}

/// What the door works with.
#[derive(Clone)]
pub struct Parts {
    pub judge: Arc<dyn Judge>,
    pub recorder: Arc<dyn Recorder>,
    pub resolver: Arc<Resolver>,
    pub leases: Arc<Leases>,
    pub counters: Arc<Counters>,
    /// Addresses of the gate itself, which no answer may carry.
    pub own: Arc<[IpAddr]>,
    pub spawn: Spawn,
}

/// How the door starts a task for a waiting question or a connection; bounded by the settings.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Bound, not yet serving. Clones share sockets and bounds, so that several tasks may run [`Bound::serve_udp`].
#[derive(Clone)]
pub struct Bound {
    udp: Arc<Udp>,
    tcp: Arc<TcpListener>,
    desk: Arc<Desk>,
    connections: Arc<Slots<IpAddr>>,
    idle_timeout: Duration,
    message_timeout: Duration,
    spawn: Spawn,
    counters: Arc<Counters>,
}

/// A datagram that is longer is no question.
const DATAGRAM: usize = 4096;
/// Room for bursts in the kernel.
const SOCKET_BUFFER: usize = 1 << 20;
/// After an error of the socket itself (no descriptors left), so that a loop does not spin.
const PAUSE: Duration = Duration::from_millis(20);

impl Bound {
    /// Binds both transports to one address; with port 0 both get the same free port.
    pub async fn bind(listen: SocketAddr, settings: &DoorSettings, parts: Parts) -> io::Result<Self> {
        let tcp = TcpListener::bind(listen).await?;
        let udp = UdpSocket::bind(tcp.local_addr()?).await?;
        Ok(Self::over(udp, tcp, settings, parts))
    }

    /// Serves on sockets that somebody else made, as in another network namespace.
    pub fn over(udp: UdpSocket, tcp: TcpListener, settings: &DoorSettings, parts: Parts) -> Self {
        // A smaller buffer only drops sooner.
        let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(SOCKET_BUFFER);
        Self {
            udp: Arc::new(Udp::new(udp)),
            tcp: Arc::new(tcp),
            connections: Slots::new(settings.connections, settings.connections_per_source),
            idle_timeout: settings.idle_timeout,
            message_timeout: settings.message_timeout,
            spawn: parts.spawn.clone(),
            counters: parts.counters.clone(),
            desk: Desk::new(settings, parts),
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Both transports in one task, until dropped. Busy gates run [`Bound::serve_udp`] in more.
    pub async fn serve(self) {
        tokio::join!(self.serve_udp(), self.serve_tcp());
    }

    /// Answers datagrams until dropped. Questions that wait for upstream leave the loop.
    pub async fn serve_udp(&self) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (bytes, peer) = match self.udp.receive(&mut buffer).await {
                Ok((length, peer)) => (buffer.get(..length).unwrap_or_default(), peer),
                Err(error) => {
                    pause_unless_transient(&error).await;
                    continue;
                }
            };
            match self.desk.take(bytes, peer.source, Transport::Udp) {
                Step::Silence => {}
                Step::Reply(reply) => self.send(&reply, peer),
                Step::Wait(waiting) => {
                    let door = self.clone();
                    (self.spawn)(Box::pin(async move {
                        let reply = waiting.answer().await;
                        door.send(&reply, peer);
                    }));
                }
            }
        }
    }

    fn send(&self, reply: &[u8], to: Peer) {
        if !reply.is_empty() {
            self.udp.send(reply, to);
        }
    }

    /// Accepts connections until dropped.
    pub async fn serve_tcp(&self) {
        loop {
            let (stream, source) = match self.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_unless_transient(&error).await;
                    continue;
                }
            };
            let Some(slot) = self.connections.take(source.ip().to_canonical()) else {
                Counters::add(&self.counters.connections_refused);
                continue;
            };
            let door = self.clone();
            (self.spawn)(Box::pin(async move {
                // How a client's connection ends is its own affair.
                let _ = door.connection(stream, source).await;
                drop(slot);
            }));
        }
    }

    /// One message after the other; pipelined ones wait in the kernel.
    async fn connection(&self, stream: TcpStream, source: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let mut read = tokio::io::BufReader::with_capacity(DATAGRAM, read);
        let mut message = Vec::new();
        loop {
            let length = timeout(self.idle_timeout, read.read_u16()).await??;
            message.resize(length.into(), 0);
            timeout(self.message_timeout, read.read_exact(&mut message)).await??;
            let reply = match self.desk.take(&message, source, Transport::Tcp) {
                // Nothing to say to it, on a transport that keeps order: the end.
                Step::Silence => return Ok(()),
                Step::Reply(reply) => reply,
                Step::Wait(waiting) => waiting.answer().await,
            };
            let framed = frame(&reply).ok_or(io::ErrorKind::InvalidData)?;
            timeout(self.message_timeout, write.write_all(&framed)).await??;
        }
    }
}

/// Length and message in one write (RFC 7766 section 8).
fn frame(reply: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(reply.len()).ok().filter(|length| *length > 0)?;
    Some([&length.to_be_bytes()[..], reply].concat())
}

/// An ICMP error or an aborted handshake says nothing of the socket; anything else may repeat at once.
async fn pause_unless_transient(error: &io::Error) {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
    };
    let transient = [ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted];
    if !transient.contains(&error.kind()) {
        tracing::warn!(%error, "the DNS socket failed");
        tokio::time::sleep(PAUSE).await;
    }
}
