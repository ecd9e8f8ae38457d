//! The certificate authorities of the test internet: one that the gate is told to trust, and one it never heard of.
//!
//! A host's certificate is made when it is first asked for. A few names get a wrong one on purpose, so that a test
//! chooses the fault by the name it asks for.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

#[derive(Debug)]
pub struct Authorities {
    trusted: Issuer<'static, KeyPair>,
    trusted_pem: String,
    stranger: Issuer<'static, KeyPair>,
    stranger_pem: String,
    leaf_key: KeyPair,
    leaves: Mutex<HashMap<(String, Fault), Arc<CertifiedKey>>>,
}

/// What is wrong with a host's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    None,
    Expired,
    SelfSigned,
    WrongHost,
    UnknownRoot,
}

impl Authorities {
    pub fn new() -> Self {
        let (trusted, trusted_pem) = authority("Test Internet CA");
        let (stranger, stranger_pem) = authority("A Stranger's CA");
        let leaf_key = KeyPair::generate().unwrap();
        Self { trusted, trusted_pem, stranger, stranger_pem, leaf_key, leaves: Mutex::default() }
    }

    pub fn write(&self, dir: &Path) {
        std::fs::write(dir.join("origin-ca.pem"), &self.trusted_pem).unwrap();
    }

    /// A host's certificate and key as files, for a program that is that host: `leaf.pem` and `leaf.key`.
    pub fn write_leaf(&self, dir: &Path, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let leaf = params.signed_by(&self.leaf_key, &self.trusted).unwrap();
        std::fs::write(dir.join("leaf.pem"), leaf.pem()).unwrap();
        std::fs::write(dir.join("leaf.key"), self.leaf_key.serialize_pem()).unwrap();
    }

    /// A certificate and its key for a client, in PEM.
    pub fn client(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.trusted).unwrap().pem(), key.serialize_pem())
    }

    /// Who vouches for `unknownroot.good.test`.
    pub fn stranger(&self) -> &str {
        &self.stranger_pem
    }

    /// Whom a host that asks for certificates trusts.
    pub fn client_roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.trusted_pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    fn leaf(&self, name: &str, fault: Fault) -> Arc<CertifiedKey> {
        let mut leaves = self.leaves.lock().unwrap();
        let made = leaves.entry((name.to_owned(), fault)).or_insert_with(|| Arc::new(self.mint(name, fault)));
        Arc::clone(made)
    }

    fn mint(&self, name: &str, fault: Fault) -> CertifiedKey {
        let subject = if fault == Fault::WrongHost { "other.good.test" } else { name };
        let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        let end = if fault == Fault::Expired { 2021 } else { 2090 };
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let certificate = match fault {
            Fault::SelfSigned => params.self_signed(&self.leaf_key),
            Fault::UnknownRoot => params.signed_by(&self.leaf_key, &self.stranger),
            Fault::None | Fault::Expired | Fault::WrongHost => {
                params.signed_by(&self.leaf_key, &self.trusted)
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        CertifiedKey::new(vec![CertificateDer::from(certificate.unwrap())], key)
    }
}

/// Chooses the certificate of the host that was asked for; the attacker's machine only has its own.
#[derive(Debug)]
pub struct Certificates {
    pub authorities: Arc<Authorities>,
    pub attacker: bool,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or("no-name.test");
        let fault = match name {
            _ if self.attacker && !name.ends_with("evil.test") => Fault::SelfSigned,
            "expired.good.test" => Fault::Expired,
            "selfsigned.good.test" => Fault::SelfSigned,
            "wronghost.good.test" => Fault::WrongHost,
            "unknownroot.good.test" => Fault::UnknownRoot,
            _ => Fault::None,
        };
        Some(self.authorities.leaf(name, fault))
    }
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}
