//! What a new intercepted connection costs before its first request.
//!
//! - `hello/*`: a ClientHello from bytes to facts: as rustls' client sends it, with a post-quantum share, and cut into
//!   records of 7 bytes (which no honest client does). About 2 µs; grows with the bytes, not with the pieces.
//! - `leaf/mint`: a name that was never asked for, signed and made a server configuration. About 26 µs, most of it one
//!   P-256 signature.
//! - `leaf/cached`: the same name again. Well under 1 µs.
//! - `cold/outgate`, `cold/floor`: hello, mint and a whole TLS 1.3 handshake with a client that verifies, both ends in
//!   memory on one core; the floor is the same from rcgen and rustls alone. At most 1.2 times the floor is the aim.
//! - `resumed/outgate`: hello, cached leaf and a resumed handshake.
//!
//! `cargo bench --bench tls -- cold` runs one group. Compare only runs of one machine.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use outgate::base::Host;
use outgate::tls::{Authority, CaSettings, DEFAULT_CA_LIFETIME, Minter, MinterSettings, Pending};
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::Accepted;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use std::hint::black_box;
use std::sync::Arc;

fn authority() -> Arc<Authority> {
    let folder = tempfile::tempdir().unwrap();
    let settings = CaSettings {
        certificate: folder.path().join("ca.pem"),
        key: folder.path().join("ca.key"),
        name_constraints: Vec::new(),
        lifetime: DEFAULT_CA_LIFETIME,
    };
    Arc::new(Authority::load_or_create(&settings).unwrap().0)
}

fn client(root: &CertificateDer<'static>, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    change(&mut config);
    Arc::new(config)
}

fn connect(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    ClientConnection::new(config.clone(), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

fn first_flight(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn accept(bytes: &[u8]) -> Accepted {
    Pending::default().feed(bytes).unwrap().unwrap().accepted
}

/// Runs the handshake to its end; the client reads its tickets.
fn finish(mut client: ClientConnection, mut server: ServerConnection) -> HandshakeKind {
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets().unwrap();
        wire.clear();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
    }
    server.handshake_kind().unwrap()
}

fn hello(c: &mut Criterion) {
    let authority = authority();
    let usual = client(authority.certificate_der(), |_| {});
    let post_quantum = client(authority.certificate_der(), |config| {
        let mut groups = provider::default_provider();
        groups.kx_groups = vec![provider::kx_group::X25519MLKEM768];
        *config = ClientConfig::builder_with_provider(Arc::new(groups))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    });
    let usual = first_flight(&mut connect(&usual, "api.good.test"));
    let post_quantum = first_flight(&mut connect(&post_quantum, "api.good.test"));
    let (_, message) = usual.split_at(5);
    let cut: Vec<u8> =
        message.chunks(7).flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat()).collect();
    let mut group = c.benchmark_group("hello");
    for (name, bytes) in [("usual", usual), ("post_quantum", post_quantum), ("cut", cut)] {
        group.bench_function(format!("{name}/{}B", bytes.len()), |b| b.iter(|| accept(black_box(&bytes))));
    }
}

fn hosts() -> impl FnMut() -> (String, Host) {
    let mut count = 0u64;
    move || {
        count += 1;
        let name = format!("n{count}.good.test");
        let host = Host::parse(&name).unwrap();
        (name, host)
    }
}

fn leaf(c: &mut Criterion) {
    let minter = Minter::new(authority(), MinterSettings::default()).unwrap();
    let mut group = c.benchmark_group("leaf");
    let mut next = hosts();
    group.bench_function("mint", |b| {
        b.iter_batched(|| next().1, |host| minter.server_config(&host).unwrap(), BatchSize::SmallInput);
    });
    let host = Host::parse("api.good.test").unwrap();
    group.bench_function("cached", |b| b.iter(|| minter.server_config(black_box(&host)).unwrap()));
}

fn cold(c: &mut Criterion) {
    let authority = authority();
    // No resumption at the client: every name is new to it as well.
    let fresh = |root: &CertificateDer<'static>| {
        client(root, |c| c.resumption = rustls::client::Resumption::disabled())
    };
    let minter = Minter::new(authority.clone(), MinterSettings::default()).unwrap();
    let ours = fresh(authority.certificate_der());
    let floor = Floor::new();
    let theirs = fresh(&floor.root);
    let mut group = c.benchmark_group("cold");
    let mut next = hosts();
    group.bench_function("outgate", |b| {
        b.iter_batched(
            &mut next,
            |(name, host)| {
                let mut client = connect(&ours, &name);
                let accepted = accept(&first_flight(&mut client));
                let config = minter.server_config(&host).unwrap();
                finish(client, accepted.into_connection(config).map_err(|(e, _)| e).unwrap())
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("floor", |b| {
        b.iter_batched(
            &mut next,
            |(name, _)| {
                let mut client = connect(&theirs, &name);
                let mut acceptor = rustls::server::Acceptor::default();
                acceptor.read_tls(&mut &first_flight(&mut client)[..]).unwrap();
                let accepted = acceptor.accept().map_err(|(e, _)| e).unwrap().unwrap();
                let config = floor.config(&name);
                finish(client, accepted.into_connection(config).map_err(|(e, _)| e).unwrap())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
    let host = Host::parse("api.good.test").unwrap();
    let resuming = client(authority.certificate_der(), |_| {});
    let handshake = || {
        let mut client = connect(&resuming, "api.good.test");
        let accepted = accept(&first_flight(&mut client));
        let config = minter.server_config(&host).unwrap();
        finish(client, accepted.into_connection(config).map_err(|(e, _)| e).unwrap())
    };
    handshake();
    assert_eq!(handshake(), HandshakeKind::Resumed);
    c.bench_function("resumed/outgate", |b| b.iter(handshake));
}

/// The least that minting and meeting a client costs with these libraries.
struct Floor {
    root: CertificateDer<'static>,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    key: rcgen::KeyPair,
    signer: Arc<dyn SigningKey>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl Floor {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&ca_key).unwrap().der().clone();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let signer = provider::sign::any_supported_type(&der).unwrap();
        Self { root, issuer, key, signer, provider: Arc::new(provider::default_provider()) }
    }

    fn config(&self, name: &str) -> Arc<ServerConfig> {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&self.key, &self.issuer).unwrap();
        let certified = CertifiedKey::new(vec![leaf.der().clone()], self.signer.clone());
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

criterion_group!(benches, hello, leaf, cold);
criterion_main!(benches);
