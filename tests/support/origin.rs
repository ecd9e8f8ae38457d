//! Every HTTP host of the test internet, and tap T2: the raw bytes that each connection brought, after TLS.
//!
//! One listener on each of 80 and 443 serves all addresses, over HTTP/1 and h2, with the pages of `pages`. A test that
//! needs an upstream that misbehaves puts a script on an address and holds the conversation itself.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_rustls::TlsAcceptor;

use super::ca::{Authorities, Certificates};
use super::ns::Namespace;
use super::pages::{self, Pages};
use super::world::EVIL;

/// Recorded bytes a connection; what comes later is only counted.
const KEPT: usize = 4 << 20;

/// One connection that reached a host.
#[derive(Debug)]
pub struct Seen {
    pub local: SocketAddr,
    pub tls: Option<Hello>,
    bytes: Mutex<Vec<u8>>,
}

#[derive(Debug, Clone, Default)]
pub struct Hello {
    pub name: Option<String>,
    pub alpn: Option<String>,
    /// The common name of the client's certificate.
    pub client: Option<String>,
}

impl Seen {
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    pub fn is_h2(&self) -> bool {
        self.tls.as_ref().is_some_and(|hello| hello.alpn.as_deref() == Some("h2"))
    }

    fn keep(&self, new: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap();
        let room = KEPT.saturating_sub(bytes.len()).min(new.len());
        bytes.extend(&new[..room]);
    }
}

/// What holds a conversation, and the protocol it speaks inside TLS.
#[derive(Clone)]
struct Script {
    alpn: &'static [u8],
    hold: Arc<dyn Fn(&mut Conversation) + Send + Sync>,
}

pub struct Origin {
    pub pages: Arc<Pages>,
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
    scripts: Mutex<HashMap<SocketAddr, Script>>,
    honest: Arc<ServerConfig>,
    asking: Mutex<HashMap<IpAddr, Arc<ServerConfig>>>,
    authorities: Arc<Authorities>,
    attacker: Arc<ServerConfig>,
    only_h2: AtomicBool,
    runtime: Mutex<Option<Runtime>>,
}

impl Origin {
    pub fn start(net: &Namespace, authorities: Arc<Authorities>) -> Arc<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let origin = Arc::new(Self {
            pages: Arc::new(Pages::new()),
            seen: Arc::default(),
            scripts: Mutex::default(),
            honest: server_config(Certificates { authorities: Arc::clone(&authorities), attacker: false }),
            asking: Mutex::default(),
            attacker: server_config(Certificates { authorities: Arc::clone(&authorities), attacker: true }),
            authorities,
            only_h2: AtomicBool::new(false),
            runtime: Mutex::new(Some(runtime)),
        });
        for at in ["0.0.0.0:80", "[::]:80", "0.0.0.0:443", "[::]:443", "0.0.0.0:8443", "0.0.0.0:22"] {
            let at: SocketAddr = at.parse().unwrap();
            let listener = net.listen(at);
            listener.set_nonblocking(true).unwrap();
            handle.spawn(accept(Arc::downgrade(&origin), listener, handle.clone()));
        }
        origin
    }

    /// Lets `script` hold every conversation at this address from now on, inside TLS on port 443.
    pub fn script(&self, at: (IpAddr, u16), script: impl Fn(&mut Conversation) + Send + Sync + 'static) {
        let script = Script { alpn: b"http/1.1", hold: Arc::new(script) };
        self.scripts.lock().unwrap().insert(at.into(), script);
    }

    /// The same for a host that speaks HTTP/2 only; the script reads and says its frames.
    pub fn script_h2(&self, at: (IpAddr, u16), script: impl Fn(&mut Conversation) + Send + Sync + 'static) {
        self.scripts.lock().unwrap().insert(at.into(), Script { alpn: b"h2", hold: Arc::new(script) });
    }

    /// From now on no host offers HTTP/1.1 inside TLS.
    pub fn speak_only_h2(&self) {
        self.only_h2.store(true, Ordering::Relaxed);
    }

    pub fn connections(&self) -> Vec<Arc<Seen>> {
        self.seen.lock().unwrap().clone()
    }

    pub fn requests(&self) -> Vec<Arc<pages::Request>> {
        self.pages.requests()
    }

    /// Has this address ask its clients for certificates from now on, over these versions of TLS.
    pub fn ask_for_certificates(
        &self,
        at: IpAddr,
        required: bool,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(self.authorities.client_roots());
        let asked = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let asked = if required { asked } else { asked.allow_unauthenticated() };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(asked.build().unwrap())
            .with_cert_resolver(Arc::new(Certificates {
                authorities: Arc::clone(&self.authorities),
                attacker: false,
            }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.asking.lock().unwrap().insert(at, Arc::new(config));
    }

    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    fn tls_config(&self, local: SocketAddr) -> Arc<ServerConfig> {
        if let Some(asking) = self.asking.lock().unwrap().get(&local.ip()) {
            return Arc::clone(asking);
        }
        Arc::clone(if local.ip() == EVIL { &self.attacker } else { &self.honest })
    }

    fn note(&self, local: SocketAddr, tls: Option<Hello>) -> Arc<Seen> {
        let seen = Arc::new(Seen { local, tls, bytes: Mutex::default() });
        self.seen.lock().unwrap().push(Arc::clone(&seen));
        seen
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) fn server_config(certificates: Certificates) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn accept(origin: std::sync::Weak<Origin>, listener: std::net::TcpListener, handle: Handle) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let Some(origin) = origin.upgrade() else { return };
        let local = stream.local_addr().unwrap();
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let script = origin.scripts.lock().unwrap().get(&local).cloned();
        match script {
            Some(script) => {
                let stream = stream.into_std().unwrap();
                std::thread::spawn(move || converse(&origin, stream, local, &script));
            }
            None => drop(handle.spawn(serve(origin, stream, local))),
        }
    }
}

async fn serve(origin: Arc<Origin>, stream: tokio::net::TcpStream, local: SocketAddr) {
    let pages = Arc::clone(&origin.pages);
    if local.port() != 443 && local.port() != 8443 {
        let seen = origin.note(local, None);
        drop(origin);
        return http1(Tap { inner: stream, seen }, pages).await;
    }
    let mut config = ServerConfig::clone(&origin.tls_config(local));
    if origin.only_h2.load(Ordering::Relaxed) {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let Ok(stream) = acceptor.accept(stream).await else {
        origin.note(local, Some(Hello::default()));
        return;
    };
    let hello = hello_of(stream.get_ref().1);
    let seen = origin.note(local, Some(hello.clone()));
    drop(origin);
    let tap = Tap { inner: stream, seen };
    if hello.alpn.as_deref() == Some("h2") {
        let service = hyper::service::service_fn(move |request| pages::answer(Arc::clone(&pages), request));
        let io = TokioIo::new(tap);
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
            .ok();
    } else {
        http1(tap, pages).await;
    }
}

async fn http1<S>(tap: Tap<S>, pages: Arc<Pages>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| pages::answer(Arc::clone(&pages), request));
    let server = hyper::server::conn::http1::Builder::new();
    server.serve_connection(TokioIo::new(tap), service).with_upgrades().await.ok();
}

fn hello_of(connection: &ServerConnection) -> Hello {
    let alpn = connection.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned());
    let client = connection.peer_certificates().and_then(|chain| {
        let (_, leaf) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
        let name = leaf.subject().iter_common_name().next()?.as_str().ok()?;
        Some(name.to_owned())
    });
    Hello { name: connection.server_name().map(str::to_owned), alpn, client }
}

/// Hands the bytes on and keeps a copy of what was read.
struct Tap<S> {
    inner: S,
    seen: Arc<Seen>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.seen.keep(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A scripted upstream's side of one connection.
pub struct Conversation {
    stream: Box<dyn Duplex>,
    seen: Arc<Seen>,
    buffered: Vec<u8>,
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

impl Conversation {
    /// The next request head, or nothing when the peer has gone. Bodies are the script's affair.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffered.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffered.drain(..end + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if self.more() == 0 {
                return None;
            }
        }
    }

    /// What `first` finds at the front of the bytes that have come, and how long it is; nothing when the peer goes before.
    pub fn next<T>(&mut self, mut first: impl FnMut(&[u8]) -> Option<(usize, T)>) -> Option<T> {
        loop {
            if let Some((length, found)) = first(&self.buffered) {
                self.buffered.drain(..length);
                return Some(found);
            }
            if self.more() == 0 {
                return None;
            }
        }
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.tell(bytes);
    }

    /// The same, and whether the peer was still there.
    pub fn tell(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Up to and with `mark`, or nothing when the peer has gone.
    pub fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(found) = self.buffered.windows(mark.len()).position(|part| part == mark) {
                return Some(self.buffered.drain(..found + mark.len()).collect());
            }
            if self.more() == 0 {
                return None;
            }
        }
    }

    /// Exactly so many bytes, or nothing when the peer has gone.
    pub fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffered.len() < length {
            if self.more() == 0 {
                return None;
            }
        }
        Some(self.buffered.drain(..length).collect())
    }

    /// Reads until the peer closes: what it sent after the head.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() > 0 {}
        std::mem::take(&mut self.buffered)
    }

    /// Reads exactly so many bytes and keeps none; gives their SHA-256, or nothing when the peer went before.
    pub fn digest(&mut self, length: u64) -> Option<String> {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut left = length;
        while left > 0 {
            if self.buffered.is_empty() && self.more() == 0 {
                return None;
            }
            let taken = self.buffered.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            digest.update(&self.buffered[..taken]);
            self.buffered.drain(..taken);
            left -= taken as u64;
        }
        Some(pages::hex(digest.finish().as_ref()))
    }

    fn more(&mut self) -> usize {
        let mut chunk = [0_u8; 16 * 1024];
        let length = self.stream.read(&mut chunk).unwrap_or(0);
        self.seen.keep(&chunk[..length]);
        self.buffered.extend(&chunk[..length]);
        length
    }
}

fn converse(origin: &Origin, stream: std::net::TcpStream, local: SocketAddr, script: &Script) {
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (stream, hello): (Box<dyn Duplex>, _) = if local.port() == 443 {
        let mut config = ServerConfig::clone(&origin.tls_config(local));
        config.alpn_protocols = vec![script.alpn.to_vec()];
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
        while tls.conn.is_handshaking() {
            if tls.conn.complete_io(&mut tls.sock).is_err() {
                origin.note(local, Some(Hello::default()));
                return;
            }
        }
        let hello = hello_of(&tls.conn);
        (Box::new(tls), Some(hello))
    } else {
        (Box::new(stream), None)
    };
    let seen = origin.note(local, hello);
    (script.hold)(&mut Conversation { stream, seen, buffered: Vec::new() });
}
