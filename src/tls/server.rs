//! The server's side of an interception: one configuration a leaf, all alike but for certificate and tickets, and
//! the handshake that goes on from a hello that was read already.
//!
//! Called by `leaf` (configurations) and `flow` (`terminate`). TLS 1.2 and 1.3, `h2` before HTTP/1, no client
//! certificates, no early data.

use super::fault::{ClientFault, tls_error};
use super::records::Records;
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
) -> Result<TlsStream<Records<IO>>, TerminateError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = StartHandshake::from_parts(accepted, Records::new(io)).into_stream(config);
    let mut stream = handshake.await.map_err(|source| {
        let fault = tls_error(&source).map_or(ClientFault::Gone, ClientFault::of);
        TerminateError { fault, source }
    })?;
    let (records, _) = stream.get_mut();
    records.established();
    Ok(stream)
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
        base.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).to_vec();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::client::{Alpn, Anchors, Profile, ProfileSettings, Roots};
    use crate::tls::fault::UpstreamFault;
    use crate::tls::hello::Pending;
    use crate::tls::{Authority, Minter, MinterSettings, ca::tests::settings};
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, HandshakeKind};
    use std::io;
    use std::time::Duration;
    use time::OffsetDateTime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    struct Gate {
        _folder: tempfile::TempDir,
        minter: Minter,
        client: Profile,
    }

    fn gate() -> Gate {
        let (folder, settings) = settings();
        let authority = Arc::new(Authority::load_or_create(&settings).unwrap().0);
        let anchors = Anchors::load(&Roots::File(settings.certificate)).unwrap();
        Gate {
            _folder: folder,
            minter: Minter::new(authority, MinterSettings::default()).unwrap(),
            client: Profile::new(&anchors, &ProfileSettings::default()).unwrap(),
        }
    }

    impl Gate {
        fn server(&self, host: &str) -> Arc<ServerConfig> {
            self.minter.server_config(&Host::parse(host).unwrap()).unwrap()
        }

        fn client(&self, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
            let mut config = (*self.client.config(Alpn::Both)).clone();
            change(&mut config);
            Arc::new(config)
        }
    }

    type Met = (Result<HandshakeKind, TerminateError>, io::Result<Option<Vec<u8>>>);

    /// One connection: the handshake, one byte each way, the protocol that the client ended up with.
    async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> Met {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let serve = async move {
            let mut tls = terminate(open(&mut near).await, server, near).await?;
            let kind = tls.get_ref().1.handshake_kind().unwrap();
            // The client may have gone by now; its own result tells.
            let _ = tls.write_all(b"x").await;
            let _ = tls.read_u8().await;
            Ok(kind)
        };
        let ask = async move {
            let mut tls = tokio_rustls::TlsConnector::from(client).connect(name, far).await?;
            assert_eq!(tls.read_u8().await?, b'x');
            tls.write_all(b"y").await?;
            Ok(tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
        };
        tokio::join!(serve, ask)
    }

    async fn open(io: &mut DuplexStream) -> Accepted {
        let (mut pending, mut seen) = (Pending::default(), Vec::new());
        loop {
            assert_ne!(io.read_buf(&mut seen).await.unwrap(), 0);
            if let Some(opening) = pending.feed(&seen).unwrap() {
                return opening.accepted;
            }
        }
    }

    fn fault(met: Met) -> UpstreamFault {
        UpstreamFault::of(tls_error(&met.1.unwrap_err()).unwrap())
    }

    #[tokio::test]
    async fn tl_08_h2_before_http_1_1_and_nothing_else() {
        let gate = gate();
        let offering = |alpn: &[&str]| {
            gate.client(|c| c.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect())
        };
        for (offer, chosen) in [
            (&["http/1.1", "h2"][..], Some("h2")),
            (&["http/1.0", "http/1.1"], Some("http/1.1")),
            (&["http/1.0"], Some("http/1.0")),
            (&[], None),
        ] {
            let (server, client) = meet(gate.server("a.test"), offering(offer), "a.test").await;
            server.unwrap();
            assert_eq!(client.unwrap().as_deref(), chosen.map(str::as_bytes));
        }
        let met = meet(gate.server("a.test"), offering(&["foo"]), "a.test").await;
        assert_eq!(met.0.as_ref().unwrap_err().fault, ClientFault::NoApplicationProtocol);
        assert_eq!(fault(met), UpstreamFault::NoApplicationProtocol);
    }

    #[tokio::test]
    async fn hc_39_underscores_and_addresses_verify_at_the_client() {
        let gate = gate();
        for (host, name) in [
            ("my_bucket.wild.test", "my_bucket.wild.test"),
            ("192.0.2.4", "192.0.2.4"),
            ("[2001:db8::4]", "2001:db8::4"),
        ] {
            let (server, client) = meet(gate.server(host), gate.client(|_| {}), name).await;
            assert!(server.is_ok() && client.is_ok(), "{host}: {client:?}");
        }
    }

    #[tokio::test]
    async fn both_versions_resume_and_only_for_the_host_they_were_made_with() {
        let gate = gate();
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
            let mut config = ClientConfig::builder_with_provider(crate::tls::provider())
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(trusting(&gate))
                .with_no_client_auth();
            // Without SNI rustls cannot tell the hosts of two tickets apart.
            config.enable_sni = false;
            let client = Arc::new(config);
            let first = meet(gate.server("a.test"), client.clone(), "a.test").await.0.unwrap();
            assert_eq!(first, HandshakeKind::Full);
            let again = meet(gate.server("a.test"), client.clone(), "a.test").await.0.unwrap();
            assert_eq!(again, HandshakeKind::Resumed);
            let other = meet(gate.server("b.test"), client, "a.test").await;
            assert_eq!(fault(other), UpstreamFault::WrongName);
        }
    }

    fn trusting(gate: &Gate) -> rustls::RootCertStore {
        let mut store = rustls::RootCertStore::empty();
        store.add(gate.minter.authority().certificate_der().clone()).unwrap();
        store
    }

    #[tokio::test]
    async fn a_client_without_our_ca_is_reported_as_exactly_that() {
        let (gate, stranger) = (gate(), gate());
        let met = meet(gate.server("a.test"), stranger.client(|_| {}), "a.test").await;
        let error = met.0.as_ref().unwrap_err();
        assert_eq!(error.fault, ClientFault::DistrustsCa(rustls::AlertDescription::UnknownCA));
        assert_eq!(error.to_string(), "the client does not trust our CA (TLS alert unknown_ca, 48)");
        assert_eq!(fault(met), UpstreamFault::UnknownIssuer);
    }

    #[tokio::test]
    async fn tl_19_a_bad_certificate_is_named_by_its_fault() {
        let gate = gate();
        let met = meet(gate.server("b.test"), gate.client(|_| {}), "a.test").await;
        assert_eq!(fault(met), UpstreamFault::WrongName);
        let host = Host::parse("a.test").unwrap();
        let now = OffsetDateTime::now_utc();
        let minted_at = |at, leaf_lifetime| {
            let settings = MinterSettings { leaf_lifetime, ..Default::default() };
            let minter = Minter::new(gate.minter.authority(), settings).unwrap();
            minter.server_config_at(&host, at).unwrap()
        };
        let day = Duration::from_secs(24 * 60 * 60);
        let met = meet(minted_at(now + day * 30, day), gate.client(|_| {}), "a.test").await;
        assert_eq!(fault(met), UpstreamFault::NotYetValid);
        let ended = minted_at(now - Duration::from_secs(60), Duration::ZERO);
        let met = meet(ended, gate.client(|_| {}), "a.test").await;
        assert_eq!(fault(met), UpstreamFault::Expired);
    }

    #[tokio::test]
    async fn tl_21_a_server_that_wants_a_client_certificate_is_named() {
        let gate = gate();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(trusting(&gate)),
            crate::tls::provider(),
        );
        let server = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_cert_resolver(gate.server("a.test").cert_resolver.clone());
        let met = meet(Arc::new(server), gate.client(|c| c.alpn_protocols.clear()), "a.test").await;
        assert_eq!(fault(met), UpstreamFault::WantsClientCertificate);
    }
}
