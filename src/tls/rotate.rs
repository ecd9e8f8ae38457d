//! Rotation with overlap: a next CA is prepared and given to clients while the current one still signs; later it
//! takes its place. Beside `ca.pem` and `ca.key` stand `ca.next.pem`, `ca.next.key` and `ca.previous.pem`.
//!
//! Called by `outgate ca rotate`; the daemon then reloads and hands the new authority to `Minter::replace`.

use super::authority::Authority;
use super::ca::{self, CaError, CaSettings, Created};
use super::files;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// First step: makes the next CA, or loads the one that is prepared already. From here [`trusted`] includes it.
pub fn stage(settings: &CaSettings) -> Result<(Authority, Created), CaError> {
    let _lock = files::lock(&settings.certificate, &settings.key)?;
    finish(settings)?;
    let (certificate, key) = (beside(&settings.certificate, "next"), beside(&settings.key, "next"));
    ca::create(settings, &certificate, &key, OffsetDateTime::now_utc())
}

/// Second step: the prepared CA becomes the current one. The old certificate stays as `previous`, its key is gone.
pub fn promote(settings: &CaSettings) -> Result<Authority, CaError> {
    let lock = files::lock(&settings.certificate, &settings.key)?;
    finish(settings)?;
    let (next, next_key) = (beside(&settings.certificate, "next"), beside(&settings.key, "next"));
    let staged = (files::read_certificate(&next)?, files::read_key(&next_key)?);
    let (Some(certificate_pem), Some(key_pem)) = staged else {
        return Err(CaError::NothingStaged { certificate: settings.certificate.clone() });
    };
    Authority::from_pem((&next, &certificate_pem), (&next_key, &key_pem), OffsetDateTime::now_utc())?;
    if let Some(old) = files::read_certificate(&settings.certificate)? {
        files::write(&beside(&settings.certificate, "previous"), 0o644, old.as_bytes())?;
    }
    files::rename(&next_key, &settings.key)?;
    files::rename(&next, &settings.certificate)?;
    drop(lock);
    Authority::load_or_create(settings).map(|(authority, _)| authority)
}

/// Every certificate that clients should trust now: the current CA, the next and the previous one while they are
/// valid. Reads no key, so it needs no right to one.
pub fn trusted(settings: &CaSettings) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let now = OffsetDateTime::now_utc();
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    for tag in ["", "next", "previous"] {
        let path =
            if tag.is_empty() { settings.certificate.clone() } else { beside(&settings.certificate, tag) };
        let Some(pem) = files::read_certificate(&path)? else { continue };
        let unreadable = || CaError::CertificateUnreadable { path: path.clone() };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
        let to = parsed.validity().not_after.to_datetime();
        if now < to && !all.contains(&der) {
            all.push(der);
        }
    }
    Ok(all)
}

/// [`promote`] renames the key, then the certificate. When only the first happened, this does the second.
pub(super) fn finish(settings: &CaSettings) -> Result<(), CaError> {
    if is_cut_off(&settings.certificate, &settings.key) {
        files::rename(&beside(&settings.certificate, "next"), &settings.certificate)?;
    }
    Ok(())
}

/// Does the current key belong to the next certificate?
pub(super) fn is_cut_off(certificate: &Path, key: &Path) -> bool {
    let next = beside(certificate, "next");
    let (Ok(Some(pem)), Ok(Some(key_pem))) = (files::read_certificate(&next), files::read_key(key)) else {
        return false;
    };
    Authority::from_pem((&next, &pem), (key, &key_pem), OffsetDateTime::now_utc()).is_ok()
}

/// `certs/ca.pem` and `next` give `certs/ca.next.pem`. The tags are `next` and `previous`.
pub fn beside(path: &Path, tag: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(".");
    name.push(tag);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::ca::tests::settings;

    #[test]
    fn clients_can_trust_the_next_ca_before_it_signs_and_the_old_one_after() {
        let (_folder, settings) = settings();
        let (old, _) = Authority::load_or_create(&settings).unwrap();
        assert!(matches!(promote(&settings), Err(CaError::NothingStaged { .. })));
        let (next, _) = stage(&settings).unwrap();
        let (same, created) = stage(&settings).unwrap();
        assert_eq!((same.summary(), created), (next.summary(), Created::Loaded));
        let both = [old.certificate_der().clone(), next.certificate_der().clone()];
        assert_eq!(trusted(&settings).unwrap(), both);
        let now = promote(&settings).unwrap();
        assert_eq!(now.summary(), next.summary());
        let [old_der, next_der] = both;
        assert_eq!(trusted(&settings).unwrap(), [next_der, old_der]);
        assert!(!beside(&settings.key, "next").exists());
    }

    #[test]
    fn ft_13_a_promotion_that_was_cut_off_is_finished() {
        let (_folder, settings) = settings();
        Authority::load_or_create(&settings).unwrap();
        let (next, _) = stage(&settings).unwrap();
        std::fs::rename(beside(&settings.key, "next"), &settings.key).unwrap();
        let (found, created) = Authority::load_or_create(&settings).unwrap();
        assert_eq!((found.summary(), created), (next.summary(), Created::Loaded));
        assert!(!beside(&settings.certificate, "next").exists());
    }
}
