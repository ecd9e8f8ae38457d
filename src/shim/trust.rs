//! Makes the tools of this image trust the gate: one bundle of the image's own roots and the gate's authority, and the
//! variables that lead to it (ATTACHMENT 3g). What the user set already stays as it is, and is told.

use super::ShimError;
use super::command::Variable;
use crate::tls::{self, VARIABLES};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where images keep certificates that their own tool (`update-ca-certificates`, `update-ca-trust`) takes up, so that
/// ours stays when a package is upgraded.
const ANCHORS: [&str; 4] = [
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/usr/share/pki/trust/anchors",
    "/etc/ca-certificates/trust-source/anchors",
];

/// What every JVM takes options from; each says so in a line on standard error.
const JAVA: &str = "JAVA_TOOL_OPTIONS";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The gate's authority, as this image sees it. `None`: an earlier start wrote the files, and the variables are
    /// set where they are there.
    pub authority: Option<PathBuf>,
    /// Where the bundle goes; made when it is missing.
    pub folder: PathBuf,
}

impl Trust {
    /// Writes the files and gives the variables.
    pub(super) fn establish(&self, tell: &mut dyn FnMut(&str)) -> Result<Vec<Variable>, ShimError> {
        let [combined, alone, java] =
            ["combined.pem", "outgate-ca.pem", "combined.jks"].map(|n| self.folder.join(n));
        match &self.authority {
            Some(authority) => self.write(authority, [&combined, &alone, &java], tell)?,
            None if combined.is_file() && alone.is_file() => {}
            None => return Ok(Vec::new()),
        }
        let pem = VARIABLES
            .iter()
            .map(|variable| (variable.name, OsString::from(if variable.adds { &alone } else { &combined })));
        let mut option = OsString::from("-Djavax.net.ssl.trustStore=");
        option.push(&java);
        let (mut variables, mut kept) = (Vec::new(), Vec::new());
        for (name, value) in pem.chain([(JAVA, option)]) {
            match std::env::var_os(name).filter(|now| !now.is_empty()) {
                None => variables.push((name.to_owned(), value)),
                Some(now) if now == value => {}
                Some(_) => kept.push(name),
            }
        }
        if !kept.is_empty() {
            tell(&format!(
                "set already and left as they are: {}; what follows them trusts the gate only if {} is in what they name",
                kept.join(", "),
                alone.display()
            ));
        }
        Ok(variables)
    }

    fn write(
        &self,
        authority: &Path,
        [combined, alone, java]: [&Path; 3],
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), ShimError> {
        let failed = |source| ShimError::File { doing: "read the authority", path: authority.into(), source };
        let ours = tls::certificates_in(&fs::read(authority).map_err(failed)?);
        if ours.is_empty() {
            return Err(ShimError::NoCertificate(authority.into()));
        }
        let (text, store) = tls::image_bundle(&ours);
        if store.is_none() {
            tell("this image has no roots of its own: the bundle holds the gate's authority alone");
        }
        self.folder()?;
        let ours: String = ours.iter().map(|der| tls::to_pem(der)).collect();
        let store = tls::java_store(&tls::certificates_in(text.as_bytes()));
        for (path, bytes) in [(combined, text.as_bytes()), (alone, ours.as_bytes()), (java, &store)] {
            put(path, bytes).map_err(|source| ShimError::File {
                doing: "write",
                path: path.into(),
                source,
            })?;
        }
        for folder in ANCHORS.map(Path::new).into_iter().filter(|folder| folder.is_dir()) {
            // A read-only image keeps what it has; the variables do the work.
            let _ = put(&folder.join("outgate.crt"), ours.as_bytes());
        }
        Ok(())
    }

    fn folder(&self) -> Result<(), ShimError> {
        let path = &self.folder;
        let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
        made.map_err(|source| ShimError::File { doing: "make", path: path.clone(), source })?;
        // What a link leads to is somebody else's.
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(()),
            _ => Err(ShimError::NotAFolder(path.clone())),
        }
    }
}

/// A whole file or none, readable for all; a link in its place is replaced, not followed.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("fresh");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&fresh)?;
    file.write_all(bytes)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = dir.path().join("ca.pem");
        fs::write(&authority, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        let trust = Trust { authority: Some(authority), folder: dir.path().join("trust") };
        let refused = trust.establish(&mut |_| {}).unwrap_err();
        assert!(matches!(refused, ShimError::NoCertificate(_)), "{refused}");
        assert!(!dir.path().join("trust").exists());
    }

    #[test]
    fn a_later_start_without_files_sets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let trust = Trust { authority: None, folder: dir.path().to_owned() };
        assert_eq!(trust.establish(&mut |_| {}).unwrap(), []);
    }
}
