//! The authority on disk: created at the first start, loaded and checked at every other one.
//!
//! Called by `daemon` at start and reload and by `outgate ca`. The key is written first and the certificate after
//! it, so that a crash leaves at most a key that nobody trusts yet; the next start finishes the work.

use super::authority::Authority;
use super::{files, rotate};
use crate::base::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree, IsCa,
    KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Five years: long enough that nobody is surprised in the middle of a project, short enough that rotation is
/// exercised while somebody still remembers it.
pub const DEFAULT_CA_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);
const MAX_CA_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Clients whose clocks run behind accept a new CA at once.
const CA_BACKDATE: Duration = DAY;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSettings {
    /// PEM; any mode, it is public.
    pub certificate: PathBuf,
    /// PEM, mode 0600 or less, owned by the daemon's user.
    pub key: PathBuf,
    /// A new CA can name only these and what is under them, and no addresses. Empty: no limit.
    pub name_constraints: Vec<HostName>,
    /// Of a new CA: one day to ten years.
    pub lifetime: Duration,
}

/// What [`Authority::load_or_create`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Both files were there.
    Loaded,
    /// A new key and certificate.
    New,
    /// A key stood alone (a creation that was cut off); it has got its certificate. Clients need that one.
    Completed,
}

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "the CA key {path} has mode {mode:04o}, others may have read it: make a new CA, or chmod 600 if you are sure"
    )]
    KeyExposed { path: PathBuf, mode: u32 },
    #[error("the CA key {path} is a symbolic link: name the file itself in the configuration")]
    KeySymlink { path: PathBuf },
    #[error("the CA key {path} is not a regular file")]
    KeyNotFile { path: PathBuf },
    #[error(
        "the CA key {path} belongs to user {owner}, the daemon runs as user {expected}: chown it or make a new CA"
    )]
    KeyOwner { path: PathBuf, owner: u32, expected: u32 },
    #[error(
        "the CA certificate {certificate} is there but its key {key} is not: put the key back, or move the certificate away to get a new CA, which every client must then trust anew"
    )]
    KeyMissing { certificate: PathBuf, key: PathBuf },
    #[error("{path} holds no readable PEM certificate")]
    CertificateUnreadable { path: PathBuf },
    #[error(
        "{path} holds no usable private key: expected unencrypted PEM (PKCS#8, SEC 1 or PKCS#1), EC P-256 to P-521, Ed25519 or RSA"
    )]
    KeyUnreadable { path: PathBuf },
    #[error("the key {key} does not belong to the certificate {certificate}")]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("the certificate {path} is not a CA: {why}")]
    NotAuthority { path: PathBuf, why: &'static str },
    #[error("the CA certificate {path} has a weak key: {kind} {bits} bits, at least {least} are needed")]
    Weak { path: PathBuf, kind: &'static str, bits: usize, least: usize },
    #[error("the CA certificate {path} expired on {}: run `outgate ca rotate`", super::authority::date(*to))]
    Expired { path: PathBuf, to: OffsetDateTime },
    #[error("the CA certificate {path} is not valid before {}: is the clock right?", super::authority::date(*from))]
    NotYetValid { path: PathBuf, from: OffsetDateTime },
    #[error(
        "the subject of the CA certificate {path} cannot be written into leaves (repeated or unusual attributes): use a CA with a plain subject"
    )]
    Subject { path: PathBuf },
    #[error("the CA lifetime must be from one day to ten years")]
    Lifetime,
    #[error(
        "no next CA is prepared beside {certificate}: run `outgate ca rotate` first and let clients trust it"
    )]
    NothingStaged { certificate: PathBuf },
    #[error("signing failed: {0}")]
    Sign(#[source] rcgen::Error),
}

impl Authority {
    /// Loads the authority; makes it when neither file is there; finishes what a crash cut off.
    pub fn load_or_create(settings: &CaSettings) -> Result<(Self, Created), CaError> {
        let now = OffsetDateTime::now_utc();
        if let Some(found) = load(&settings.certificate, &settings.key, now)? {
            return Ok((found, Created::Loaded));
        }
        let _lock = files::lock(&settings.certificate, &settings.key)?;
        rotate::finish(settings)?;
        create(settings, &settings.certificate, &settings.key, now)
    }
}

/// `None`: not both files are there, or a rotation was cut off between them.
fn load(certificate: &Path, key: &Path, now: OffsetDateTime) -> Result<Option<Authority>, CaError> {
    let (Some(key_pem), Some(certificate_pem)) =
        (files::read_key(key)?, files::read_certificate(certificate)?)
    else {
        return Ok(None);
    };
    match Authority::from_pem((certificate, &certificate_pem), (key, &key_pem), now) {
        Err(CaError::Mismatch { .. }) if rotate::is_cut_off(certificate, key) => Ok(None),
        other => other.map(Some),
    }
}

/// Under the lock: whatever another process or an earlier crash left is looked at again first.
pub(super) fn create(
    settings: &CaSettings,
    certificate: &Path,
    key: &Path,
    now: OffsetDateTime,
) -> Result<(Authority, Created), CaError> {
    if let Some(found) = load(certificate, key, now)? {
        return Ok((found, Created::Loaded));
    }
    let (pair, created) = match files::read_key(key)? {
        None if files::read_certificate(certificate)?.is_some() => {
            return Err(CaError::KeyMissing { certificate: certificate.into(), key: key.into() });
        }
        None => {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Sign)?;
            files::write(key, 0o600, Zeroizing::new(pair.serialize_pem()).as_bytes())?;
            (pair, Created::New)
        }
        Some(pem) => {
            let pair = KeyPair::from_pem(&pem).map_err(|_| CaError::KeyUnreadable { path: key.into() })?;
            (pair, Created::Completed)
        }
    };
    let made = profile(settings, now)?.self_signed(&pair).map_err(CaError::Sign)?;
    files::write(certificate, 0o644, super::bundle::to_pem(made.der()).as_bytes())?;
    // Read back from disk: what is used is what the next start will find.
    let made = load(certificate, key, now)?;
    made.map(|a| (a, created)).ok_or(CaError::CertificateUnreadable { path: certificate.into() })
}

/// The profile of a CA made here (GAUNTLET TL-16); `certs/README.md` says the same for people.
fn profile(settings: &CaSettings, now: OffsetDateTime) -> Result<CertificateParams, CaError> {
    if settings.lifetime < DAY || settings.lifetime > MAX_CA_LIFETIME {
        return Err(CaError::Lifetime);
    }
    let mut params = CertificateParams::default();
    params.serial_number = Some(random_serial()?);
    params.not_before = now - CA_BACKDATE;
    params.not_after = now + settings.lifetime;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name(now)?);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    if !settings.name_constraints.is_empty() {
        let name = |n: &HostName| GeneralSubtree::DnsName(n.as_str().to_owned());
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: settings.name_constraints.iter().map(name).collect(),
            // A list of permitted names alone would leave every address open (RFC 5280 section 4.2.1.10).
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)),
                GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)),
            ],
        });
    }
    Ok(params)
}

/// `Outgate CA <host> <date> <random>`, at most 64 bytes (RFC 5280 ub-common-name). The random part keeps two CAs of
/// one host and day apart in trust stores that look issuers up by name.
fn common_name(now: OffsetDateTime) -> Result<String, CaError> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String =
        host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(32).collect();
    let host = if host.is_empty() { "host" } else { &host };
    let [a, b, c, d] = random()?;
    Ok(format!("Outgate CA {host} {} {a:02x}{b:02x}{c:02x}{d:02x}", now.date()))
}

/// 126 random bits, positive, never with a leading zero byte.
pub(super) fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = random::<16>()?;
    let [first, ..] = &mut bytes;
    *first = *first & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Sign(rcgen::Error::RingUnspecified))?;
    Ok(bytes)
}
