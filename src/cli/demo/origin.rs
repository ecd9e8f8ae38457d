//! Every web host of the demo's internet: HTTP and HTTPS (h1, h2), with a memory of what arrived.
//!
//! Its word, not the gate's, is the proof of each step: connections are counted before a byte is read.

use super::namespace::Namespace;
use crate::rt::Tasks;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use socket2::{Protocol, Type};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The port of HTTPS; every other one is served in the clear.
const TLS_PORT: u16 = 443;
/// Far more than any step sends.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What one request was when it arrived.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) host: String,
    pub(super) path: String,
    pub(super) version: Version,
    pub(super) authorization: String,
    pub(super) body: Bytes,
}

/// What has happened up to now.
#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    requests: Vec<Arrived>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Origin(Arc<Mutex<Seen>>);

impl Origin {
    /// Listens on `ports` of one address. Gives the certificate, in PEM, that its hosts are signed by.
    pub(super) fn serve(
        internet: &Namespace,
        address: Ipv4Addr,
        ports: &[u16],
        hosts: &[&str],
        tasks: &Tasks,
    ) -> Result<(Self, String)> {
        let (config, authority) = certificates(hosts).context("cannot make the demo's certificates")?;
        let (origin, acceptor) = (Self::default(), TlsAcceptor::from(Arc::new(config)));
        for &port in ports {
            let listener: TcpListener =
                internet.bind(SocketAddr::new(address.into(), port), Type::STREAM, Protocol::TCP)?.into();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let acceptor = (port == TLS_PORT).then(|| acceptor.clone());
            let (origin, connections) = (origin.clone(), tasks.clone());
            tasks.spawn("demo-origin", async move {
                while let Ok((stream, _)) = listener.accept().await {
                    origin.seen(|seen| seen.connections += 1);
                    let serving = converse(origin.clone(), stream, acceptor.clone(), connections.clone());
                    connections.spawn("demo-connection", serving);
                }
            });
        }
        Ok((origin, authority))
    }

    pub(super) fn connections(&self) -> usize {
        self.seen(|seen| seen.connections)
    }

    pub(super) fn requests(&self) -> Vec<Arrived> {
        self.seen(|seen| seen.requests.clone())
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let text = |value: Option<&http::HeaderValue>| {
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
        };
        let host = head.uri.host().map_or_else(|| text(head.headers.get(header::HOST)), str::to_owned);
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
        let arrived = Arrived {
            host,
            path: head.uri.path().to_owned(),
            version: head.version,
            authorization: text(head.headers.get(header::AUTHORIZATION)),
            body: body.map(|whole| whole.to_bytes()).unwrap_or_default(),
        };
        let page = match arrived.path.as_str() {
            "/echo" => format!("authorization: {}\n", arrived.authorization),
            _ => format!("hello from {} over {:?}\n", arrived.host, arrived.version),
        };
        self.seen(|seen| seen.requests.push(arrived));
        Ok(Response::new(Full::from(page)))
    }
}

async fn converse(origin: Origin, stream: TcpStream, acceptor: Option<TlsAcceptor>, tasks: Tasks) {
    let Some(acceptor) = acceptor else { return speak(origin, stream, false, tasks).await };
    // A peer that breaks off a handshake has been counted, and that is all it gets.
    if let Ok(stream) = acceptor.accept(stream).await {
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        speak(origin, stream, h2, tasks).await;
    }
}

async fn speak(
    origin: Origin,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    h2: bool,
    tasks: Tasks,
) {
    let service = service_fn(move |request| {
        let origin = origin.clone();
        async move { origin.answer(request).await }
    });
    let io = TokioIo::new(io);
    // How a connection ends is of no interest: what arrived on it has been noted.
    if h2 {
        let _ = http2::Builder::new(tasks).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

/// One leaf for all hosts, and the authority that signed it and is never kept.
fn certificates(hosts: &[&str]) -> Result<(ServerConfig, String)> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Outgate demo internet");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(leaf)], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, authority_pem))
}
