//! TLS on both sides: the certificate authority, leaves minted on the fly, what a ClientHello says, the server
//! configurations that clients meet, the client configurations that upstreams meet, and the trust bundles.
//!
//! It decides nothing: `flow` reads hellos and terminates, `upstream` dials with the client configurations, `cli`
//! shows and exports. No process-wide provider is installed; everything here uses [`provider`].

mod alert;
mod authority;
mod bundle;
mod ca;
mod client;
mod fault;
mod files;
mod hello;
mod leaf;
mod records;
mod rotate;
mod server;
mod wire;

use rustls::crypto::CryptoProvider;
use std::sync::{Arc, OnceLock};

pub use alert::Alert;
pub use authority::{Authority, Summary};
pub use bundle::{
    EnvStyle, VARIABLES, Variable, bundle, certificates_in, env_lines, image_bundle, java_store, to_pem,
};
pub use ca::{CaError, CaSettings, Created, DEFAULT_CA_LIFETIME};
pub use client::{Alpn, Anchors, ClientCertificate, ClientError, Profile, ProfileSettings, Roots, asking};
pub use fault::{ClientFault, UpstreamFault, tls_error};
pub use hello::{AlpnOffer, Hello, HelloError, MAX_HELLO_BYTES, Opening, Pending, Sni, looks_like_tls};
pub use leaf::{MintError, Minter, MinterSettings};
pub use records::Records;
pub use rotate::{beside, promote, stage, trusted};
pub use server::{TerminateError, terminate};

/// The one crypto provider: aws-lc-rs with rustls' default suites and groups (TLS 1.2 with ECDHE and AEAD only,
/// TLS 1.3; X25519, P-256, P-384 and X25519MLKEM768).
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}
