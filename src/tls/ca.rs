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
    let params = profile(settings, now)?;
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
    let made = params.self_signed(&pair).map_err(CaError::Sign)?;
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use x509_parser::prelude::{FromDer, X509Certificate};

    pub(in crate::tls) fn settings() -> (tempfile::TempDir, CaSettings) {
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("certs/ca.pem");
        let key = folder.path().join("certs/ca.key");
        let lifetime = DEFAULT_CA_LIFETIME;
        (folder, CaSettings { certificate, key, name_constraints: Vec::new(), lifetime })
    }

    fn made() -> (tempfile::TempDir, CaSettings, Authority) {
        let (folder, settings) = settings();
        let (authority, created) = Authority::load_or_create(&settings).unwrap();
        assert_eq!(created, Created::New);
        (folder, settings, authority)
    }

    fn refusal(settings: &CaSettings) -> CaError {
        Authority::load_or_create(settings).unwrap_err()
    }

    /// Puts a CA beside the paths of `settings` that differs from the usual one by `change`.
    fn plant(settings: &CaSettings, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = profile(settings, OffsetDateTime::now_utc()).unwrap();
        change(&mut params);
        let _lock = files::lock(&settings.certificate, &settings.key).unwrap();
        let pem = params.self_signed(key).unwrap().pem();
        files::write(&settings.certificate, 0o644, pem.as_bytes()).unwrap();
        files::write(&settings.key, 0o600, key.serialize_pem().as_bytes()).unwrap();
    }

    #[test]
    fn tl_16_the_profile_of_a_new_ca() {
        let (_folder, mut settings) = settings();
        settings.name_constraints = vec![HostName::parse("good.test").unwrap()];
        let (authority, _) = Authority::load_or_create(&settings).unwrap();
        let (_, ca) = X509Certificate::from_der(authority.certificate_der()).unwrap();
        let constraints = ca.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = ca.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert_eq!(usage.value.flags.count_ones(), 2);
        assert_eq!(ca.raw_serial().len(), 16);
        assert!(ca.raw_serial()[0] & 0x80 == 0);
        assert_eq!(ca.subject(), ca.issuer());
        let common_name = ca.subject().iter_common_name().next().unwrap().as_str().unwrap();
        assert!(common_name.starts_with("Outgate CA ") && common_name.len() <= 64);
        assert_eq!(authority.summary().key, "EC 256");
        assert_eq!(authority.summary().permitted, ["good.test"]);
        let may = |host: &str| authority.may_name(&crate::base::Host::parse(host).unwrap());
        assert!(may("good.test") && may("a.b.good.test"));
        assert!(!may("evilgood.test") && !may("test") && !may("192.0.2.1") && !may("[2001:db8::1]"));
    }

    #[test]
    fn tl_16_what_is_no_sound_ca_is_refused() {
        let key = KeyPair::generate().unwrap();
        let (_folder, settings) = settings();
        let past = OffsetDateTime::now_utc() - DAY;
        plant(&settings, &key, |p| p.not_after = past);
        assert!(matches!(refusal(&settings), CaError::Expired { .. }));
        plant(&settings, &key, |p| p.not_before = OffsetDateTime::now_utc() + DAY);
        assert!(matches!(refusal(&settings), CaError::NotYetValid { .. }));
        plant(&settings, &key, |p| p.is_ca = IsCa::NoCa);
        assert!(matches!(refusal(&settings), CaError::NotAuthority { .. }));
        plant(&settings, &key, |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
        assert!(matches!(refusal(&settings), CaError::NotAuthority { .. }));
        plant(&settings, &key, |_| {});
        let other = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(&settings.key, other).unwrap();
        assert!(matches!(refusal(&settings), CaError::Mismatch { .. }));
        std::fs::write(&settings.key, "no key").unwrap();
        assert!(matches!(refusal(&settings), CaError::KeyUnreadable { .. }));
        std::fs::write(&settings.certificate, "no certificate").unwrap();
        assert!(matches!(refusal(&settings), CaError::CertificateUnreadable { .. }));
    }

    #[test]
    fn tl_16_a_key_of_rsa_1024_is_refused() {
        // Nothing here signs with so weak a key any more, so the certificate carries one that it was not signed with.
        struct Weak(Vec<u8>);
        impl rcgen::PublicKeyData for Weak {
            fn der_bytes(&self) -> &[u8] {
                &self.0
            }
            fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
                &rcgen::PKCS_RSA_SHA256
            }
        }
        let (_folder, settings) = settings();
        let key = KeyPair::generate().unwrap();
        plant(&settings, &key, |_| {});
        // RSAPublicKey: a modulus of 128 bytes and the exponent 65537.
        let modulus = [&[0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00][..], &[0xc5; 128]].concat();
        let weak = Weak([&modulus[..], &[0x02, 0x03, 0x01, 0x00, 0x01]].concat());
        let params = profile(&settings, OffsetDateTime::now_utc()).unwrap();
        let issuer = rcgen::Issuer::from_params(&params, &key);
        let certificate = params.signed_by(&weak, &issuer).unwrap();
        std::fs::write(&settings.certificate, certificate.pem()).unwrap();
        assert!(matches!(refusal(&settings), CaError::Weak { bits: 1024, .. }));
    }

    #[test]
    fn cr_19_a_key_that_others_may_have_read_or_planted_is_refused() {
        let (_folder, settings, _) = made();
        for mode in [0o644, 0o640, 0o604, 0o660] {
            std::fs::set_permissions(&settings.key, PermissionsExt::from_mode(mode)).unwrap();
            let error = refusal(&settings);
            assert!(matches!(error, CaError::KeyExposed { mode: m, .. } if m == mode), "{error}");
        }
        std::fs::set_permissions(&settings.key, PermissionsExt::from_mode(0o400)).unwrap();
        assert_eq!(Authority::load_or_create(&settings).unwrap().1, Created::Loaded);
        let elsewhere = settings.key.with_extension("real");
        std::fs::rename(&settings.key, &elsewhere).unwrap();
        symlink(&elsewhere, &settings.key).unwrap();
        assert!(matches!(refusal(&settings), CaError::KeySymlink { .. }));
    }

    #[test]
    fn cr_19_a_new_key_is_readable_by_its_owner_only_and_nothing_else_is_left() {
        let (_folder, settings, _) = made();
        let mode = std::fs::metadata(&settings.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let names = std::fs::read_dir(settings.key.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 2);
    }

    #[test]
    fn cr_21_two_installs_share_nothing_and_words_hold_no_key() {
        let ((_a, settings, one), (_b, _, two)) = (made(), made());
        assert_ne!(one.summary().fingerprint, two.summary().fingerprint);
        assert_ne!(one.summary().serial, two.summary().serial);
        assert_ne!(one.issuer().key().public_key_raw(), two.issuer().key().public_key_raw());
        let words = format!("{one:?} {} {}", one.summary(), one.certificate_pem());
        let key = std::fs::read_to_string(&settings.key).unwrap();
        assert!(key.lines().filter(|l| !l.starts_with('-')).all(|line| !words.contains(line)));
        assert!(!words.contains("PRIVATE"));
    }

    #[test]
    fn ft_13_a_creation_that_was_cut_off_is_finished() {
        let (_folder, settings, first) = made();
        let key = std::fs::read_to_string(&settings.key).unwrap();
        std::fs::remove_file(&settings.certificate).unwrap();
        std::fs::write(settings.key.with_file_name(".ca.pem.new"), "half").unwrap();
        let (second, created) = Authority::load_or_create(&settings).unwrap();
        assert_eq!(created, Created::Completed);
        assert_eq!(std::fs::read_to_string(&settings.key).unwrap(), key);
        assert_ne!(first.summary().serial, second.summary().serial);
        let (again, created) = Authority::load_or_create(&settings).unwrap();
        assert_eq!((again.summary(), created), (second.summary(), Created::Loaded));
    }

    #[test]
    fn a_certificate_without_its_key_is_never_overwritten() {
        let (_folder, settings, _) = made();
        let before = std::fs::read(&settings.certificate).unwrap();
        std::fs::remove_file(&settings.key).unwrap();
        assert!(matches!(refusal(&settings), CaError::KeyMissing { .. }));
        assert_eq!(std::fs::read(&settings.certificate).unwrap(), before);
        assert!(!settings.key.exists());
    }

    #[test]
    fn processes_that_start_at_once_agree_on_one_ca() {
        let (_folder, settings) = settings();
        let start = || Authority::load_or_create(&settings).unwrap().0.summary().fingerprint.clone();
        let found: Vec<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(found.iter().all(|f| *f == found[0]));
    }

    #[test]
    fn a_lifetime_out_of_range_is_refused_before_anything_is_written() {
        let (_folder, mut settings) = settings();
        settings.lifetime = Duration::from_secs(60);
        assert!(matches!(refusal(&settings), CaError::Lifetime));
        assert!(!settings.key.exists());
    }
}
