//! Proxies of the test internet, as a company has them: one that does as it is told and keeps every CONNECT it was
//! sent, and ones that fail in each way. Real programs stand beside them (`Program`).

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::ca::Certificates;
use super::gate::wait_until;
use super::origin::server_config;
use super::world::{PUB1, World, at};

/// Where proxies stand: at an address that no host of a policy has.
pub const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 216, 254));

/// What a proxy does with whoever connects.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Connects to the address that CONNECT names; a name leads to `api.good.test`'s.
    Honest,
    /// The same inside TLS, as `proxy.corp.test`.
    HonestInTls,
    /// Says this to the first bytes, and then nothing.
    Says(Vec<u8>),
    /// A head without an end.
    Endless,
    Closes,
}

pub struct Proxy {
    pub at: SocketAddr,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start(world: &World, port: u16, manner: Manner) -> Self {
        world.dns.set("proxy.corp.test", &[PROXY]);
        let at = at(PROXY, port);
        let listener = world.net.listen(at);
        listener.set_nonblocking(true).unwrap();
        let heads = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (stop, stopped) = oneshot::channel();
        let certificates = Certificates { authorities: world.authorities.clone(), attacker: false };
        let acceptor = TlsAcceptor::from(server_config(certificates));
        let kept = heads.clone();
        // A thread inherits the namespace of the one that makes it, and what it connects leaves from there.
        let thread = world.net.run(move || {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).unwrap();
                    tokio::select! {
                        () = accept(&listener, &manner, &acceptor, &kept) => {}
                        _ = stopped => {}
                    }
                });
            })
        });
        Self { at, heads, stop: Some(stop), thread: Some(thread) }
    }

    /// What was sent to it, connection by connection, up to the end of the head.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().iter().map(|head| String::from_utf8_lossy(head).into_owned()).collect()
    }

    /// The targets of the CONNECTs.
    pub fn asked(&self) -> Vec<String> {
        self.heads().iter().filter_map(|head| Some(head.split(' ').nth(1)?.to_owned())).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn accept(
    listener: &TcpListener,
    manner: &Manner,
    acceptor: &TlsAcceptor,
    heads: &Arc<Mutex<Vec<Vec<u8>>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (manner, acceptor, heads) = (manner.clone(), acceptor.clone(), heads.clone());
        drop(tokio::runtime::Handle::current().spawn(async move {
            if matches!(manner, Manner::HonestInTls) {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                converse(stream, &manner, &heads).await.ok();
            } else {
                converse(stream, &manner, &heads).await.ok();
            }
        }));
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    manner: &Manner,
    heads: &Mutex<Vec<Vec<u8>>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let honest = matches!(manner, Manner::Honest | Manner::HonestInTls);
    while if honest { !head.ends_with(b"\r\n\r\n") } else { head.is_empty() } {
        let mut piece = [0; 1024];
        // One byte at a time: what comes behind the head is not ours.
        let most = if honest { 1 } else { piece.len() };
        let length = stream.read(&mut piece[..most]).await?;
        if length == 0 {
            return Ok(());
        }
        head.extend(&piece[..length]);
    }
    heads.lock().unwrap().push(head.clone());
    match manner {
        Manner::Honest | Manner::HonestInTls => {
            let head = String::from_utf8_lossy(&head).into_owned();
            let target = head.split(' ').nth(1).unwrap_or("");
            let port = target.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(443);
            let to = target.parse().unwrap_or(at(PUB1, port));
            let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            let Ok(mut upstream) = socket.connect(to).await else {
                return stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await;
            };
            stream.write_all(b"HTTP/1.0 200 Connection established\r\nVia: a test\r\n\r\n").await?;
            tokio::io::copy_bidirectional(&mut stream, &mut upstream).await?;
        }
        Manner::Says(words) => {
            stream.write_all(words).await?;
            while stream.read(&mut [0; 1024]).await? > 0 {}
        }
        Manner::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            for _ in 0..1 << 14 {
                stream.write_all(b"x-more: of the same, and the same, and the same\r\n").await?;
            }
        }
        Manner::Closes => {}
    }
    Ok(())
}

/// A proxy program of the distribution, run in the test internet.
pub struct Program(Child);

impl Program {
    /// Starts it, and waits until it listens at `at`. `line` is what a shell would be told.
    pub fn start(world: &World, line: &str, at: SocketAddr) -> Self {
        let (script, dir) = (format!("exec {line}"), world.dir.path().to_owned());
        let child = world.net.run(move || {
            let mut command = Command::new("sh");
            command.args(["-ec", &script]).current_dir(dir).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        let mut program = Self(child);
        let up = || {
            let ended = program.0.try_wait().unwrap();
            assert!(ended.is_none(), "{line} ended ({ended:?}): is it installed? tools/test does that");
            world.net.connect(at, Duration::from_secs(1)).ok()
        };
        assert!(wait_until(Duration::from_secs(5), up).is_some(), "{line} does not listen at {at}");
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
