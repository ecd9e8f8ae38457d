//! The way through a proxy: asks it for one destination and takes its answer strictly. CONNECT over clear text or TLS,
//! and SOCKS5. It connects nothing itself; `dial` gives it the connection to the proxy and bounds its time.
//!
//! What it sends holds the destination and the gate's own credential, nothing of any client's request.

use super::Wire;
use super::proxy::{Proxy, ProxyKind};
use crate::base::{Host, HostName, IoWords};
use crate::codec::h1::{HeadLimits, ReadError, Reader};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use tokio_socks::tcp::Socks5Stream;
use tokio_socks::{Error as SocksError, TargetAddr};
use zeroize::Zeroizing;

/// The head of a proxy's answer: a status and a few fields.
const ANSWER: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 64 };

/// What the proxy is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// Passed by the guard.
    Address(SocketAddr),
    /// For the proxy to resolve.
    Name(HostName, u16),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Why there is no way through the proxy. None of them is followed by a direct connection.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("its name could not be resolved: {0}")]
    Dns(String),
    #[error("it could not be connected to: {0}")]
    Connect(#[source] io::Error),
    #[error("TLS with it failed: {0}")]
    Tls(#[source] io::Error),
    #[error("it does not accept the gate's credential")]
    Credential,
    #[error("it refused with status {0}")]
    Status(u16),
    #[error("it refused: {0}")]
    Socks(#[source] SocksError),
    #[error("its answer is not valid: {0}")]
    Answer(String),
    #[error("it closed before it answered, or the connection broke: {}", IoWords(.0))]
    Broken(#[source] io::Error),
    #[error("it did not answer in time")]
    Slow,
}

impl ProxyError {
    /// Whether another address of the same name may fare better.
    pub(super) fn is_of_the_destination(&self) -> bool {
        match self {
            Self::Status(status) => *status >= 500,
            Self::Socks(error) => matches!(
                error,
                SocksError::NetworkUnreachable
                    | SocksError::HostUnreachable
                    | SocksError::ConnectionRefused
                    | SocksError::TtlExpired
                    | SocksError::AddressTypeNotSupported
                    | SocksError::GeneralSocksServerFailure
            ),
            Self::Dns(_)
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::Credential
            | Self::Answer(_)
            | Self::Broken(_)
            | Self::Slow => false,
        }
    }
}

/// A connection through the proxy, and what the destination has sent already.
pub(super) async fn through(
    proxy: &Proxy,
    wire: Wire,
    to: &Destination,
) -> Result<(Wire, Bytes), ProxyError> {
    match proxy.settings().url.kind {
        ProxyKind::Http => connect(proxy, wire, to).await,
        ProxyKind::Https => connect(proxy, secure(proxy, wire).await?, to).await,
        ProxyKind::Socks5 => Ok((socks5(proxy, wire, to).await?, Bytes::new())),
    }
}

async fn secure(proxy: &Proxy, wire: Wire) -> Result<Wire, ProxyError> {
    let name = match &proxy.settings().url.host {
        Host::Ip(ip) => Ok(ServerName::from(*ip)),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other),
    };
    let config = proxy.tls().cloned().ok_or_else(|| io::Error::other("it has no TLS configuration"));
    let (name, config) = (name.map_err(ProxyError::Tls)?, config.map_err(ProxyError::Tls)?);
    let stream = TlsConnector::from(config).connect(name, wire).await.map_err(ProxyError::Tls)?;
    Ok(Wire::secured(stream, false))
}

/// RFC 9110 section 9.3.6: any 2xx opens the tunnel, whatever lengths its head states.
async fn connect(proxy: &Proxy, wire: Wire, to: &Destination) -> Result<(Wire, Bytes), ProxyError> {
    let (read, mut write) = tokio::io::split(wire);
    let request = connect_head(proxy, to);
    write.write_all(&request).await.map_err(ProxyError::Broken)?;
    write.flush().await.map_err(ProxyError::Broken)?;
    let mut reader = Reader::new(read);
    let head = reader.response(&Method::CONNECT, &ANSWER).await.map_err(|error| match error {
        ReadError::Io(error) => ProxyError::Broken(error),
        ReadError::Truncated => ProxyError::Broken(io::ErrorKind::UnexpectedEof.into()),
        ReadError::Head(error) => ProxyError::Answer(error.to_string()),
    })?;
    match head.status.as_u16() {
        200..=299 => {
            let (ahead, read) = reader.into_parts();
            Ok((read.unsplit(write), ahead))
        }
        407 => Err(ProxyError::Credential),
        status => Err(ProxyError::Status(status)),
    }
}

fn connect_head(proxy: &Proxy, to: &Destination) -> Zeroizing<Vec<u8>> {
    let mut head = Zeroizing::new(Vec::with_capacity(512));
    head.extend_from_slice(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").as_bytes());
    if let Some((user, password)) = proxy.credential() {
        let pair = Zeroizing::new([user.as_bytes(), b":", password].concat());
        let coded = Zeroizing::new(STANDARD.encode(&*pair));
        head.extend_from_slice(b"Proxy-Authorization: Basic ");
        head.extend_from_slice(coded.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

async fn socks5(proxy: &Proxy, wire: Wire, to: &Destination) -> Result<Wire, ProxyError> {
    let target = match to {
        Destination::Address(address) => TargetAddr::Ip(*address),
        Destination::Name(name, port) => TargetAddr::Domain(name.as_str().into(), *port),
    };
    let opened = match proxy.credential() {
        Some((user, password)) => {
            let password = std::str::from_utf8(password)
                .map_err(|_| ProxyError::Socks(SocksError::InvalidAuthValues("the password is not UTF-8")))?;
            Socks5Stream::connect_with_password_and_socket(wire, target, user, password).await
        }
        None => Socks5Stream::connect_with_socket(wire, target).await,
    };
    opened.map(Socks5Stream::into_inner).map_err(|error| match error {
        SocksError::Io(error) => ProxyError::Broken(error),
        SocksError::PasswordAuthFailure(_)
        | SocksError::NoAcceptableAuthMethods
        | SocksError::AuthorizationRequired => ProxyError::Credential,
        SocksError::InvalidResponseVersion
        | SocksError::UnknownAuthMethod
        | SocksError::UnknownError
        | SocksError::InvalidReservedByte
        | SocksError::UnknownAddressType => ProxyError::Answer(error.to_string()),
        refused => ProxyError::Socks(refused),
    })
}
