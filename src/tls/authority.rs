//! The authority in memory: one certificate with its signing key, checked so that what it signs is worth signing.
//!
//! It reads no files (`ca` does) and keeps no cache (`leaf` does). The key leaves it only as signatures.

use super::ca::CaError;
use crate::base::Host;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::path::Path;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// RSA under this can be factored by a determined adversary; OpenSSL at its default level refuses it as well.
const MIN_RSA_BITS: usize = 2048;
const MIN_EC_BITS: usize = 256;

/// A CA certificate with its key. `Debug` shows the subject only.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    summary: Summary,
    limits: NameLimits,
    self_issued: bool,
}

/// What a person or a program may know of the authority (`outgate ca show`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    pub subject: String,
    /// Hex.
    pub serial: String,
    #[serde(serialize_with = "rfc3339")]
    pub not_before: OffsetDateTime,
    #[serde(serialize_with = "rfc3339")]
    pub not_after: OffsetDateTime,
    /// SHA-256 of the certificate, upper-case hex with colons, as browsers and `openssl x509 -fingerprint` show it.
    pub fingerprint: String,
    pub key: String,
    /// Names that the certificate limits itself to; empty: no limit.
    pub permitted: Vec<String>,
}

impl Authority {
    /// Takes a certificate and a key in PEM. The paths are for the errors.
    pub(super) fn from_pem(
        certificate: (&Path, &str),
        key: (&Path, &str),
        now: OffsetDateTime,
    ) -> Result<Self, CaError> {
        let (certificate_path, key_path) = (certificate.0, key.0);
        let unreadable = || CaError::CertificateUnreadable { path: certificate_path.into() };
        let der = CertificateDer::from_pem_slice(certificate.1.as_bytes()).map_err(|_| unreadable())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
        check_role(certificate_path, &parsed)?;
        let key_kind = check_strength(certificate_path, &parsed)?;
        let pair = KeyPair::from_pem(key.1).map_err(|_| CaError::KeyUnreadable { path: key_path.into() })?;
        if pair.public_key_raw() != parsed.public_key().subject_public_key.data.as_ref() {
            return Err(CaError::Mismatch { certificate: certificate_path.into(), key: key_path.into() });
        }
        check_time(certificate_path, &parsed, now)?;
        let limits = NameLimits::of(&parsed);
        let summary = Summary::of(&parsed, &der, key_kind, &limits);
        let self_issued = parsed.subject().as_raw() == parsed.issuer().as_raw();
        let issuer = Issuer::from_ca_cert_der(&der, pair)
            .map_err(|_| CaError::Subject { path: certificate_path.into() })?;
        let probe = signed_probe(&issuer)?;
        let (_, probe) = X509Certificate::from_der(&probe).map_err(|_| unreadable())?;
        if probe.issuer().as_raw() != parsed.subject().as_raw() {
            return Err(CaError::Subject { path: certificate_path.into() });
        }
        Ok(Self { issuer, certificate: der, summary, limits, self_issued })
    }

    /// What the certificate alone says. Reads no key, so it needs no right to one.
    pub fn describe(settings: &super::CaSettings) -> Result<Option<Summary>, CaError> {
        let path = &settings.certificate;
        let Some(pem) = super::files::read_certificate(path)? else { return Ok(None) };
        let unreadable = || CaError::CertificateUnreadable { path: path.clone() };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
        let key = check_strength(path, &parsed)?;
        Ok(Some(Summary::of(&parsed, &der, key, &NameLimits::of(&parsed))))
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn not_after(&self) -> OffsetDateTime {
        self.summary.not_after
    }

    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn certificate_pem(&self) -> String {
        super::bundle::to_pem(&self.certificate)
    }

    /// May this authority name `host` at all, by its own name constraints?
    pub fn may_name(&self, host: &Host) -> bool {
        self.limits.allow(host)
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What is sent after a leaf: nothing when clients hold this very certificate as their root (400 bytes saved in
    /// each handshake), the certificate itself when it is an intermediate of a root elsewhere.
    pub(super) fn chain(&self) -> Option<&CertificateDer<'static>> {
        (!self.self_issued).then_some(&self.certificate)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("subject", &self.summary.subject).finish_non_exhaustive()
    }
}

fn check_role(path: &Path, parsed: &X509Certificate<'_>) -> Result<(), CaError> {
    let not = |why| Err(CaError::NotAuthority { path: path.into(), why });
    match parsed.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => {}
        _ => return not("basicConstraints does not say CA:TRUE"),
    }
    match parsed.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => not("keyUsage has no keyCertSign"),
        Ok(_) => Ok(()),
        Err(_) => not("keyUsage cannot be read"),
    }
}

fn check_strength(path: &Path, parsed: &X509Certificate<'_>) -> Result<String, CaError> {
    let (kind, bits, least) = match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) => ("RSA", rsa.key_size(), MIN_RSA_BITS),
        // The size of a point's coordinate as x509-parser counts it: bytes after the form byte, halved.
        Ok(PublicKey::EC(point)) => ("EC", point.key_size(), MIN_EC_BITS),
        _ => return Ok("other".to_owned()),
    };
    if bits < least {
        return Err(CaError::Weak { path: path.into(), kind, bits, least });
    }
    Ok(format!("{kind} {bits}"))
}

fn check_time(path: &Path, parsed: &X509Certificate<'_>, now: OffsetDateTime) -> Result<(), CaError> {
    let validity = parsed.validity();
    let (from, to) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
    if now < from {
        return Err(CaError::NotYetValid { path: path.into(), from });
    }
    if now >= to {
        return Err(CaError::Expired { path: path.into(), to });
    }
    Ok(())
}

/// A throw-away certificate: shows whether the subject survives being written as an issuer. Names with repeated
/// attributes (`DC=corp, DC=example`) do not, and every leaf would fail at the client.
fn signed_probe(issuer: &Issuer<'static, KeyPair>) -> Result<CertificateDer<'static>, CaError> {
    let certificate = CertificateParams::default().signed_by(issuer.key(), issuer).map_err(CaError::Sign)?;
    Ok(certificate.der().clone())
}

/// The certificate's own name constraints (RFC 5280 section 4.2.1.10), as far as leaves are concerned.
#[derive(Debug, Default)]
struct NameLimits {
    permitted: Vec<String>,
    excluded: Vec<String>,
    no_addresses: bool,
}

impl NameLimits {
    fn of(parsed: &X509Certificate<'_>) -> Self {
        let mut limits = Self::default();
        let Ok(Some(constraints)) = parsed.name_constraints() else { return limits };
        for subtree in constraints.value.permitted_subtrees.iter().flatten() {
            match &subtree.base {
                GeneralName::DNSName(name) => limits.permitted.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(_) => limits.no_addresses = true,
                _ => {}
            }
        }
        for subtree in constraints.value.excluded_subtrees.iter().flatten() {
            match &subtree.base {
                GeneralName::DNSName(name) => limits.excluded.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(_) => limits.no_addresses = true,
                _ => {}
            }
        }
        limits
    }

    fn allow(&self, host: &Host) -> bool {
        match host {
            Host::Ip(_) => !self.no_addresses,
            Host::Name(name) => {
                let under = |base: &String| {
                    let base = base.trim_start_matches('.');
                    base.is_empty() || name.as_str() == base || name.parents().any(|parent| parent == base)
                };
                (self.permitted.is_empty() || self.permitted.iter().any(under))
                    && !self.excluded.iter().any(under)
            }
        }
    }
}

impl Summary {
    fn of(parsed: &X509Certificate<'_>, der: &[u8], key: String, limits: &NameLimits) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let fingerprint: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        Self {
            subject: parsed.subject().to_string(),
            serial: parsed.serial.to_str_radix(16),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            fingerprint: fingerprint.join(":"),
            key,
            permitted: limits.permitted.clone(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "subject      {}", self.subject)?;
        writeln!(f, "serial       {}", self.serial)?;
        writeln!(f, "valid from   {}", date(self.not_before))?;
        writeln!(f, "valid to     {}", date(self.not_after))?;
        writeln!(f, "sha-256      {}", self.fingerprint)?;
        writeln!(f, "key          {}", self.key)?;
        if self.permitted.is_empty() {
            writeln!(f, "names        any")
        } else {
            writeln!(f, "names        only under {}; no addresses", self.permitted.join(", "))
        }
    }
}

pub(super) fn date(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| at.unix_timestamp().to_string())
}

fn rfc3339<S: serde::Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&date(*at))
}
