//! Leaves: a certificate for exactly one host, signed by the authority when a client first asks for that host, and
//! kept in a bounded cache as a ready server configuration.
//!
//! Called by `flow` when it intercepts or answers a refusal inside TLS; the right to do so is judged there. Minting
//! takes some 30 µs, less than handing it to another thread would cost in latency, so it is done in place; of many
//! flows that want one name at once a single one mints and the others wait for it.

use super::authority::{Authority, date};
use super::ca::{CaError, random_serial};
use super::server::Template;
use crate::base::Host;
use arc_swap::ArcSwap;
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use time::OffsetDateTime;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// RFC 5280 ub-common-name.
const MAX_COMMON_NAME_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinterSettings {
    /// How many names are kept; the least useful goes first. 4096 names take 5 MB.
    pub names: usize,
    /// Seven days: a leaf is only ever met by clients of this gate, which mints another before three quarters of
    /// its life are over, so a client's clock may be wrong by more than a day.
    pub leaf_lifetime: Duration,
    /// Twelve hours: for clients whose clocks run behind.
    pub leaf_backdate: Duration,
    /// Writes session keys to the file that `SSLKEYLOGFILE` names: whoever reads it reads all traffic.
    pub danger_key_log: bool,
}

impl Default for MinterSettings {
    fn default() -> Self {
        Self { names: 4096, leaf_lifetime: 7 * 24 * HOUR, leaf_backdate: 12 * HOUR, danger_key_log: false }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MintError {
    #[error("the CA's name constraints do not cover {host}")]
    OutsideConstraints { host: Host },
    #[error("the CA expired on {}: run `outgate ca rotate`", date(*to))]
    AuthorityExpired { to: OffsetDateTime },
    #[error("signing a leaf failed: {0}")]
    Sign(#[from] rcgen::Error),
    #[error("no randomness for a serial number: {0}")]
    Random(#[source] CaError),
    #[error("TLS set-up failed: {0}")]
    Tls(#[from] rustls::Error),
}

/// Mints and remembers leaves. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct Minter(Arc<Inner>);

struct Inner {
    settings: MinterSettings,
    /// Everything that depends on the authority, in one piece: a mint that began before a rotation ends in the cache
    /// that goes away with the old one.
    issuing: ArcSwap<Issuing>,
    minted: AtomicU64,
}

struct Issuing {
    authority: Arc<Authority>,
    leaf_key: KeyPair,
    /// Parsed once: parsing a key costs as much as minting with it.
    signer: Arc<dyn SigningKey>,
    template: Template,
    cache: Cache<Host, Leaf>,
}

#[derive(Clone)]
struct Leaf {
    config: Arc<ServerConfig>,
    renew_at: OffsetDateTime,
}

impl Minter {
    pub fn new(authority: Arc<Authority>, settings: MinterSettings) -> Result<Self, MintError> {
        let issuing = ArcSwap::from_pointee(Issuing::new(authority, &settings)?);
        Ok(Self(Arc::new(Inner { settings, issuing, minted: AtomicU64::new(0) })))
    }

    /// The configuration to meet a client with that asked for `host`.
    pub fn server_config(&self, host: &Host) -> Result<Arc<ServerConfig>, MintError> {
        self.server_config_at(host, OffsetDateTime::now_utc())
    }

    /// Whether the host's leaf is there and need not be minted.
    pub fn holds(&self, host: &Host) -> bool {
        let leaf = self.0.issuing.load().cache.get(host);
        leaf.is_some_and(|leaf| OffsetDateTime::now_utc() < leaf.renew_at)
    }

    /// From now on `authority` signs. Cached leaves, the leaf key and the keys of session tickets are all new.
    pub fn replace(&self, authority: Arc<Authority>) -> Result<(), MintError> {
        self.0.issuing.store(Arc::new(Issuing::new(authority, &self.0.settings)?));
        Ok(())
    }

    pub fn authority(&self) -> Arc<Authority> {
        self.0.issuing.load().authority.clone()
    }

    /// How many leaves were minted since the start.
    pub fn minted(&self) -> u64 {
        self.0.minted.load(Ordering::Relaxed)
    }

    /// How many names are cached.
    pub fn cached(&self) -> usize {
        self.0.issuing.load().cache.len()
    }

    pub(super) fn server_config_at(
        &self,
        host: &Host,
        now: OffsetDateTime,
    ) -> Result<Arc<ServerConfig>, MintError> {
        let issuing = self.0.issuing.load();
        if let Some(leaf) = issuing.cache.get(host)
            && now < leaf.renew_at
        {
            return Ok(leaf.config);
        }
        let entry = issuing.cache.entry(host, None, |_, leaf: &mut Leaf| match now < leaf.renew_at {
            true => EntryAction::Retain(leaf.config.clone()),
            false => EntryAction::ReplaceWithGuard,
        });
        match entry {
            EntryResult::Retained(config) => Ok(config),
            EntryResult::Vacant(place) | EntryResult::Replaced(place, _) => {
                let leaf = self.mint(&issuing, host, now)?;
                // The place is gone only when the cache was cleared meanwhile; the leaf is good all the same.
                let _ = place.insert(leaf.clone());
                Ok(leaf.config)
            }
            // Neither happens: nothing is removed here and the wait has no time limit. Minting is right anyway.
            EntryResult::Removed(..) | EntryResult::Timeout => Ok(self.mint(&issuing, host, now)?.config),
        }
    }

    fn mint(&self, issuing: &Issuing, host: &Host, now: OffsetDateTime) -> Result<Leaf, MintError> {
        let (certificate, not_after) =
            mint(&issuing.authority, &issuing.leaf_key, host, now, &self.0.settings)?;
        let chain = [Some(certificate), issuing.authority.chain().cloned()].into_iter().flatten().collect();
        let certified = CertifiedKey::new(chain, issuing.signer.clone());
        self.0.minted.fetch_add(1, Ordering::Relaxed);
        Ok(Leaf {
            config: issuing.template.config(host, certified),
            renew_at: now + (not_after - now) * 0.75,
        })
    }
}

impl Issuing {
    fn new(authority: Arc<Authority>, settings: &MinterSettings) -> Result<Self, MintError> {
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialized_der()));
        let signer = super::provider().key_provider.load_private_key(der.clone_key())?;
        let template = Template::new(settings.danger_key_log)?;
        Ok(Self { authority, leaf_key, signer, template, cache: Cache::new(settings.names) })
    }
}

/// The profile of a leaf (GAUNTLET TL-15); `certs/README.md` says the same for people.
fn mint(
    authority: &Authority,
    key: &KeyPair,
    host: &Host,
    now: OffsetDateTime,
    settings: &MinterSettings,
) -> Result<(CertificateDer<'static>, OffsetDateTime), MintError> {
    if !authority.may_name(host) {
        return Err(MintError::OutsideConstraints { host: host.clone() });
    }
    if now >= authority.not_after() {
        return Err(MintError::AuthorityExpired { to: authority.not_after() });
    }
    let mut params = CertificateParams::default();
    params.serial_number = Some(random_serial().map_err(MintError::Random)?);
    params.not_before = (now - settings.leaf_backdate).max(authority.summary().not_before);
    params.not_after = (now + settings.leaf_lifetime).min(authority.not_after());
    // Without a subject the SAN is critical, as RFC 5280 asks for.
    params.distinguished_name = DistinguishedName::new();
    let (name, text) = match host {
        Host::Name(name) => (SanType::DnsName(name.as_str().try_into()?), name.to_string()),
        Host::Ip(ip) => (SanType::IpAddress(*ip), ip.to_string()),
    };
    if text.len() <= MAX_COMMON_NAME_BYTES {
        params.distinguished_name.push(DnType::CommonName, text);
    }
    params.subject_alt_names = vec![name];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let not_after = params.not_after;
    Ok((params.signed_by(key, authority.issuer())?.der().clone(), not_after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::HostName;
    use crate::tls::ca::{CaSettings, tests::settings as ca_settings};
    use std::collections::HashSet;
    use std::sync::Barrier;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::{FromDer, X509Certificate};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn authority(change: impl FnOnce(&mut CaSettings)) -> Arc<Authority> {
        let (_folder, mut settings) = ca_settings();
        change(&mut settings);
        Arc::new(Authority::load_or_create(&settings).unwrap().0)
    }

    fn minter(authority: &Arc<Authority>, names: usize) -> Minter {
        Minter::new(authority.clone(), MinterSettings { names, ..Default::default() }).unwrap()
    }

    fn leaf(authority: &Authority, host: &str, now: OffsetDateTime) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        mint(authority, &key, &Host::parse(host).unwrap(), now, &MinterSettings::default()).unwrap().0
    }

    fn in_leaf<R>(der: &CertificateDer<'_>, look: impl FnOnce(&X509Certificate<'_>) -> R) -> R {
        look(&X509Certificate::from_der(der).unwrap().1)
    }

    #[test]
    fn tl_15_the_profile_of_a_leaf() {
        let authority = authority(|_| {});
        let now = OffsetDateTime::now_utc();
        let long = format!("{}.{}.good.test", "a".repeat(60), "b".repeat(60));
        let mut serials = HashSet::new();
        for host in ["api.good.test", "my_bucket.wild.test", "192.0.2.9", "[2001:db8::9]", &long] {
            let der = leaf(&authority, host, now);
            in_leaf(&der, |leaf| {
                let alt = leaf.subject_alternative_name().unwrap().unwrap();
                let [name] = &alt.value.general_names[..] else { panic!("{host}: more than one name") };
                match (Host::parse(host).unwrap(), name) {
                    (Host::Name(wanted), GeneralName::DNSName(found)) => assert_eq!(wanted.as_str(), *found),
                    (Host::Ip(std::net::IpAddr::V4(ip)), GeneralName::IPAddress(b)) => {
                        assert_eq!(ip.octets(), *b)
                    }
                    (Host::Ip(std::net::IpAddr::V6(ip)), GeneralName::IPAddress(b)) => {
                        assert_eq!(ip.octets(), *b)
                    }
                    (_, found) => panic!("{host}: {found:?}"),
                }
                assert_eq!(alt.critical, host == long, "critical without a subject only");
                assert_eq!(leaf.subject().iter_common_name().count(), usize::from(host != long));
                assert!(leaf.raw_serial().len() == 16 && leaf.raw_serial()[0] & 0x80 == 0);
                assert!(serials.insert(leaf.raw_serial().to_vec()));
                let usage = leaf.extended_key_usage().unwrap().unwrap().value;
                assert!(usage.server_auth && !usage.client_auth && !usage.any && usage.other.is_empty());
                let usage = leaf.key_usage().unwrap().unwrap().value;
                assert!(usage.digital_signature() && usage.flags.count_ones() == 1);
                assert!(!leaf.is_ca());
                let from = leaf.validity().not_before.to_datetime();
                let to = leaf.validity().not_after.to_datetime();
                assert!(from >= now - DAY && from <= now - HOUR && to - from <= DAY * 398);
                assert_eq!(leaf.public_key().parsed().unwrap().key_size(), 256);
                assert_eq!(authority_key(leaf), subject_key(&authority));
            });
        }
    }

    fn authority_key(leaf: &X509Certificate<'_>) -> Vec<u8> {
        let found = leaf.iter_extensions().find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0.to_vec()),
            _ => None,
        });
        found.unwrap()
    }

    fn subject_key(authority: &Authority) -> Vec<u8> {
        in_leaf(authority.certificate_der(), |ca| {
            let found = ca.iter_extensions().find_map(|e| match e.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
            found.unwrap()
        })
    }

    #[test]
    fn a_leaf_never_outlives_the_ca_and_an_ended_ca_mints_none() {
        let authority = authority(|s| s.lifetime = DAY * 2);
        let now = OffsetDateTime::now_utc();
        let der = leaf(&authority, "a.test", now);
        in_leaf(&der, |leaf| {
            assert_eq!(leaf.validity().not_after.to_datetime(), authority.not_after());
        });
        let host = Host::parse("a.test").unwrap();
        let ended = minter(&authority, 8).server_config_at(&host, now + DAY * 2);
        assert!(matches!(ended, Err(MintError::AuthorityExpired { .. })));
    }

    #[test]
    fn names_outside_the_constraints_are_not_minted() {
        let authority = authority(|s| s.name_constraints = vec![HostName::parse("good.test").unwrap()]);
        let minter = minter(&authority, 8);
        assert!(minter.server_config(&Host::parse("a.good.test").unwrap()).is_ok());
        for host in ["evil.test", "evilgood.test", "192.0.2.1"] {
            let refused = minter.server_config(&Host::parse(host).unwrap());
            assert!(matches!(refused, Err(MintError::OutsideConstraints { .. })), "{host}");
        }
        assert_eq!((minter.minted(), minter.cached()), (1, 1));
    }

    #[test]
    fn many_flows_that_want_one_name_cause_one_mint() {
        let minter = minter(&authority(|_| {}), 64);
        let host = Host::parse("api.good.test").unwrap();
        let start = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    minter.server_config(&host).unwrap()
                });
            }
        });
        assert_eq!(minter.minted(), 1);
    }

    #[test]
    fn the_cache_stays_within_its_bound() {
        let minter = minter(&authority(|_| {}), 32);
        for n in 0..200 {
            minter.server_config(&Host::parse(&format!("n{n}.test")).unwrap()).unwrap();
        }
        assert!(minter.cached() <= 32, "{}", minter.cached());
        assert_eq!(minter.minted(), 200);
    }

    #[test]
    fn a_leaf_is_minted_again_before_it_ends() {
        let minter = minter(&authority(|_| {}), 8);
        let host = Host::parse("api.good.test").unwrap();
        let now = OffsetDateTime::now_utc();
        let first = minter.server_config_at(&host, now).unwrap();
        assert!(Arc::ptr_eq(&first, &minter.server_config_at(&host, now + DAY * 5).unwrap()));
        let later = minter.server_config_at(&host, now + DAY * 6).unwrap();
        assert!(!Arc::ptr_eq(&first, &later));
        assert_eq!((minter.minted(), minter.cached()), (2, 1));
    }

    #[test]
    fn ft_16_after_a_rotation_nothing_of_the_old_ca_is_served() {
        let (old, new) = (authority(|_| {}), authority(|_| {}));
        let minter = minter(&old, 8);
        let host = Host::parse("api.good.test").unwrap();
        let before = minter.server_config(&host).unwrap();
        minter.replace(new.clone()).unwrap();
        assert_eq!(minter.cached(), 0);
        assert!(!Arc::ptr_eq(&before, &minter.server_config(&host).unwrap()));
        assert_eq!(minter.authority().summary(), new.summary());
    }
}
