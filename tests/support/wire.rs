//! The agent's side of a connection: bytes as they are given, sent and read with a deadline; nothing is repaired.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long a client waits for the gate. A test that gets this far has failed, so it may be long.
pub const PATIENCE: Duration = Duration::from_secs(15);

pub struct Wire {
    stream: Stream,
    buffered: Vec<u8>,
    ended: Option<End>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// How a connection was ended, or how a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// An orderly end: FIN, or close_notify inside TLS.
    Closed,
    /// RST.
    Reset,
    Refused,
    Silence,
    Alert(AlertDescription),
    /// The explicit door said no to a CONNECT.
    Status(u16),
    Other(String),
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (inner, error.kind()) {
            (Some(rustls::Error::AlertReceived(alert)), _) => Self::Alert(*alert),
            (Some(error), _) => Self::Other(error.to_string()),
            (_, ErrorKind::UnexpectedEof) => Self::Closed,
            (_, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Self::Reset,
            (_, ErrorKind::ConnectionRefused) => Self::Refused,
            (_, ErrorKind::WouldBlock | ErrorKind::TimedOut) => Self::Silence,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// What the client's ClientHello says and whom it trusts.
#[derive(Clone)]
pub struct Tls {
    /// The name the certificate must have; it is the SNI too.
    pub name: String,
    pub send_name: bool,
    pub alpn: Vec<&'static str>,
    pub roots: Vec<CertificateDer<'static>>,
}

impl Tls {
    pub fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.roots.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_sni = self.send_name;
        config.alpn_protocols = self.alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.name.clone()).unwrap()
    }

    pub fn connection(&self) -> ClientConnection {
        ClientConnection::new(self.config(), self.server_name()).unwrap()
    }
}

impl Wire {
    pub fn plain(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: Stream::Plain(stream), buffered: Vec::new(), ended: None }
    }

    /// The socket of a plain wire that nothing unread is left on.
    pub fn into_socket(self) -> TcpStream {
        let Stream::Plain(socket) = self.stream else { panic!("inside TLS") };
        assert!(self.buffered.is_empty(), "unread: {:?}", String::from_utf8_lossy(&self.buffered));
        socket
    }

    /// Shakes hands over a plain wire that nothing unread is left on.
    pub fn secure(self, tls: &Tls) -> Result<Self, End> {
        self.secure_as(tls.connection())
    }

    pub fn secure_as(self, connection: ClientConnection) -> Result<Self, End> {
        let mut tls = StreamOwned::new(connection, self.into_socket());
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Self { stream: Stream::Tls(Box::new(tls)), buffered: Vec::new(), ended: None })
    }

    pub fn alpn(&self) -> Option<String> {
        let Stream::Tls(tls) = &self.stream else { return None };
        tls.conn.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned())
    }

    pub fn leaf(&self) -> CertificateDer<'static> {
        let Stream::Tls(tls) = &self.stream else { panic!("no certificate on a plain wire") };
        tls.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// A peer that has already refused may not read to the end: that is no error here, its answer is the judge.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        let done = match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        };
        done.ok();
        self
    }

    /// Says that nothing more will come.
    pub fn end_of_sending(&mut self) -> &mut Self {
        let socket = match &mut self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => {
                tls.conn.send_close_notify();
                tls.flush().ok();
                &mut tls.sock
            }
        };
        // A peer that has closed already has what it wants.
        socket.shutdown(std::net::Shutdown::Write).ok();
        self
    }

    /// Ends what is sent without a word inside TLS.
    pub fn cut(&mut self) -> &mut Self {
        // A peer that has closed already has what it wants.
        self.socket().shutdown(std::net::Shutdown::Write).ok();
        self
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        socket2::SockRef::from(self.socket()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// Each byte in a TCP segment of its own, as far as the kernel lets us.
    pub fn dribble(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.send([*byte]);
        }
        self
    }

    /// Exactly so many bytes, or nothing when the connection ends before.
    pub fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffered.len() < length {
            self.more()?;
        }
        Some(self.buffered.drain(..length).collect())
    }

    /// Up to and with `mark`, or nothing when the connection ends before.
    pub fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(found) = self.buffered[searched..].windows(mark.len()).position(|part| part == mark) {
                return Some(self.buffered.drain(..searched + found + mark.len()).collect());
            }
            searched = self.buffered.len().saturating_sub(mark.len() - 1);
            self.more()?;
        }
    }

    /// Everything that still comes, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        while self.more().is_some() {}
        (std::mem::take(&mut self.buffered), self.ended.clone().unwrap_or(End::Closed))
    }

    /// Reads what has arrived into the buffer; nothing when the connection has ended.
    fn more(&mut self) -> Option<()> {
        if self.ended.is_some() {
            return None;
        }
        let mut chunk = vec![0_u8; 64 * 1024];
        let read = match &mut self.stream {
            Stream::Plain(socket) => socket.read(&mut chunk),
            Stream::Tls(tls) => tls.read(&mut chunk),
        };
        match read {
            Ok(0) => self.ended = Some(End::Closed),
            Ok(length) => {
                self.buffered.extend(&chunk[..length]);
                return Some(());
            }
            Err(error) => self.ended = Some(error.into()),
        }
        None
    }
}
