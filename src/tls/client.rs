//! The upstream's side: whom to trust and which protocols to offer. Certificates are always verified.
//!
//! `upstream` picks a configuration for each dial; `config` makes one [`Profile`] for the rules without a `[rule.tls]`
//! and one for each distinct such section. Sessions are resumed within a profile only: a session that was verified
//! against one rule's roots, or made with its client certificate, is never used under another's.

use rustls::client::{ClientSessionMemoryCache, ResolvesClientCert, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The certificates that upstreams may chain to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// The system's store (`SSL_CERT_FILE` and `SSL_CERT_DIR` of the daemon, else the well-known places).
    System,
    /// One PEM file instead.
    File(PathBuf),
}

/// Loaded roots, shared by all profiles.
#[derive(Clone)]
pub struct Anchors {
    certificates: Arc<Vec<CertificateDer<'static>>>,
    store: Arc<RootCertStore>,
}

/// What an upstream host that asks for it is shown.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

#[derive(Debug)]
pub struct ProfileSettings {
    /// Certificates that are trusted besides the [`Anchors`].
    pub extra_roots: Vec<CertificateDer<'static>>,
    pub client_certificate: Option<ClientCertificate>,
    /// How many upstream names keep sessions (up to eight of some 3 KB each) for resumption.
    pub session_names: usize,
    /// Writes session keys to the file that `SSLKEYLOGFILE` names: whoever reads it reads all traffic.
    pub danger_key_log: bool,
}

impl Default for ProfileSettings {
    fn default() -> Self {
        Self { extra_roots: Vec::new(), client_certificate: None, session_names: 256, danger_key_log: false }
    }
}

/// What to offer upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    Http1,
    H2,
    /// `h2` first; the server chooses.
    Both,
}

/// The client configurations of one set of roots and client certificate.
#[derive(Clone)]
pub struct Profile {
    http1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    both: Arc<ClientConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "this system has no trusted certificates{detail}: install ca-certificates or name a file with upstream roots"
    )]
    NoSystemRoots { detail: String },
    #[error("cannot read certificates from {path}: {source}")]
    Read { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{path} holds no certificate in PEM")]
    NoCertificate { path: PathBuf },
    #[error("a certificate in {path} cannot be used as a root: {source}")]
    BadRoot { path: PathBuf, source: rustls::Error },
    #[error("the client certificate cannot be used: {0}")]
    ClientCertificate(#[source] rustls::Error),
    #[error("TLS set-up failed: {0}")]
    Tls(#[from] rustls::Error),
}

impl Anchors {
    pub fn load(roots: &Roots) -> Result<Self, ClientError> {
        let mut store = RootCertStore::empty();
        let certificates = match roots {
            Roots::System => {
                let found = rustls_native_certs::load_native_certs();
                // Stores hold a few certificates that webpki cannot use; the others must not suffer.
                let (added, _) = store.add_parsable_certificates(found.certs.iter().cloned());
                if added == 0 {
                    let detail = found.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
                    return Err(ClientError::NoSystemRoots { detail });
                }
                found.certs
            }
            Roots::File(path) => {
                let certificates = read_certificates(path)?;
                add_all(&mut store, path, &certificates)?;
                certificates
            }
        };
        Ok(Self { certificates: Arc::new(certificates), store: Arc::new(store) })
    }

    /// All certificates that were found, for the combined bundle.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

impl Profile {
    pub fn new(anchors: &Anchors, settings: &ProfileSettings) -> Result<Self, ClientError> {
        let store = if settings.extra_roots.is_empty() {
            anchors.store.clone()
        } else {
            let mut store = (*anchors.store).clone();
            for root in &settings.extra_roots {
                store.add(root.clone())?;
            }
            Arc::new(store)
        };
        let builder = ClientConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store);
        let own = match &settings.client_certificate {
            None => None,
            Some(own) => {
                let made = CertifiedKey::from_der(own.chain.clone(), own.key.clone_key(), &super::provider());
                Some(SingleCertAndKey::from(made.map_err(ClientError::ClientCertificate)?))
            }
        };
        let mut base = builder.with_client_cert_resolver(Arc::new(Identity(own)));
        base.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(settings.session_names)));
        base.enable_early_data = false;
        if settings.danger_key_log {
            base.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        let offering = |protocols: &[&[u8]]| {
            let mut config = base.clone();
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self {
            http1: offering(&[b"http/1.1"]),
            h2: offering(&[b"h2"]),
            both: offering(&[b"h2", b"http/1.1"]),
        })
    }

    pub fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        match alpn {
            Alpn::Http1 => self.http1.clone(),
            Alpn::H2 => self.h2.clone(),
            Alpn::Both => self.both.clone(),
        }
    }
}

/// Who we are to a server that asks; and that it did.
#[derive(Debug)]
struct Identity(Option<SingleCertAndKey>);

tokio::task_local! {
    static ASKED: Cell<bool>;
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Outside of `asking` nobody wants to know.
        let _ = ASKED.try_with(|asked| asked.set(true));
        self.0.as_ref()?.resolve(issuers, schemes)
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Runs a handshake, and tells whether the server asked for a certificate. (A resolver of its own for each connection
/// could tell that too, but sessions are resumed under the same one only.)
pub async fn asking<T>(handshake: impl Future<Output = T>) -> (T, bool) {
    ASKED.scope(Cell::new(false), async { (handshake.await, ASKED.with(Cell::get)) }).await
}

/// All certificates of a PEM file; none at all is an error.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = |source| ClientError::Read { path: path.into(), source };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(read)?.collect();
    let all = all.map_err(read)?;
    if all.is_empty() {
        return Err(ClientError::NoCertificate { path: path.into() });
    }
    Ok(all)
}

/// Every one must be usable: an operator named this file, and a root left out would surface as odd failures later.
fn add_all(
    store: &mut RootCertStore,
    path: &Path,
    all: &[CertificateDer<'static>],
) -> Result<(), ClientError> {
    for certificate in all {
        store
            .add(certificate.clone())
            .map_err(|source| ClientError::BadRoot { path: path.into(), source })?;
    }
    Ok(())
}
