//! The server's side of an interception: one configuration a leaf, all alike but for certificate and tickets, and
//! the handshake that goes on from a hello that was read already.
//!
//! Called by `leaf` (configurations) and `flow` (`terminate`). TLS 1.2 and 1.3, `h2` before `http/1.1`, no client
//! certificates, no early data.

use super::fault::{ClientFault, tls_error};
use crate::base::Host;
use rustls::ServerConfig;
use rustls::server::{Accepted, NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

/// Why there is no session with the client.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct TerminateError {
    pub fault: ClientFault,
    #[source]
    pub source: std::io::Error,
}

/// Finishes the handshake that `accepted` began. `io` is the bare socket: every byte read so far is in `accepted`.
/// The caller bounds the time. A failed handshake has sent its alert.
pub async fn terminate<IO>(
    accepted: Accepted,
    config: Arc<ServerConfig>,
    io: IO,
) -> Result<TlsStream<IO>, TerminateError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    StartHandshake::from_parts(accepted, io).into_stream(config).await.map_err(|source| {
        let fault = tls_error(&source).map_or(ClientFault::Gone, ClientFault::of);
        TerminateError { fault, source }
    })
}

/// What all configurations of one authority share: provider, protocols, the keys of session tickets.
pub(super) struct Template {
    base: ServerConfig,
    tickets: Arc<dyn ProducesTickets>,
}

impl Template {
    pub(super) fn new(danger_key_log: bool) -> Result<Self, rustls::Error> {
        let mut base = ServerConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Nobody));
        base.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Sessions live in tickets at the client: no table to bound, and nothing to lose on eviction of a leaf.
        base.session_storage = Arc::new(NoServerSessionStorage {});
        base.max_early_data_size = 0;
        if danger_key_log {
            base.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        Ok(Self { base, tickets: rustls::crypto::aws_lc_rs::Ticketer::new()? })
    }

    pub(super) fn config(&self, host: &Host, certified: CertifiedKey) -> Arc<ServerConfig> {
        let mut config = self.base.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        config.ticketer = Arc::new(HostTickets::new(host, self.tickets.clone()));
        Arc::new(config)
    }
}

#[derive(Debug)]
struct Nobody;

impl rustls::server::ResolvesServerCert for Nobody {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// Tickets of one host under the shared keys. rustls compares the SNI of a ticket with that of the hello, but hellos
/// without SNI (addresses, CONNECT) are all alike to it; the host's digest inside the ticket tells them apart.
#[derive(Debug)]
struct HostTickets {
    mark: [u8; Self::MARK_BYTES],
    keys: Arc<dyn ProducesTickets>,
}

impl HostTickets {
    const MARK_BYTES: usize = 16;

    fn new(host: &Host, keys: Arc<dyn ProducesTickets>) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, host.to_string().as_bytes());
        let mut mark = [0; Self::MARK_BYTES];
        for (to, from) in mark.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self { mark, keys }
    }
}

impl ProducesTickets for HostTickets {
    fn enabled(&self) -> bool {
        self.keys.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.encrypt(&[&self.mark, plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.keys.decrypt(cipher)?;
        plain.strip_prefix(&self.mark).map(<[u8]>::to_vec)
    }
}
