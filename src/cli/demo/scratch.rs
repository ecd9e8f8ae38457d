//! The one folder the demo writes to. What is worth keeping stays, the rest goes when all went well.

use anyhow::{Context, Result};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A fresh folder of an unguessable name that everybody may enter: the daemon gives up root before it reads again.
    pub(super) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("outgate-demo-{}", random_text(10)?));
        fs::create_dir(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.0).with_context(|| format!("cannot remove {}", self.0.display()))
    }

    /// Removes everything but one file, which the daemon wrote for itself and everybody may read now.
    pub(super) fn keep_only(&self, name: &str) -> Result<()> {
        fs::set_permissions(self.0.join(name), Permissions::from_mode(0o644))?;
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_name() == name {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Letters and digits from the system's generator; 32 of them, so that every byte maps evenly.
pub(super) fn random_text(length: usize) -> Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0_u8; length];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(bytes
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)))
        .map(|byte| char::from(*byte))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_worth_keeping_stays() {
        let scratch = Scratch::new().unwrap();
        for name in ["audit.jsonl", "outgate.toml", "certs/ca.key"] {
            scratch.write(name, "x").unwrap();
        }
        scratch.keep_only("audit.jsonl").unwrap();
        let left: Vec<_> =
            fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["audit.jsonl"]);
        scratch.remove().unwrap();
        assert!(!scratch.path().exists());
    }

    #[test]
    fn random_text_has_its_length_and_does_not_repeat() {
        let (one, other) = (random_text(24).unwrap(), random_text(24).unwrap());
        assert_eq!((one.len(), other.len()), (24, 24));
        assert_ne!(one, other);
    }
}
