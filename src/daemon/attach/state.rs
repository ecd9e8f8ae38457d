//! What is attached, on disk, so that a daemon that is started again takes it up again. Opened while the daemon has its
//! rights, and written after it has given them up: whole beside the old file where its folder allows, else in place.

use super::enter;
use crate::admin::{Attachment, Place};
use crate::config::Config;
use crate::daemon::owned;
use anyhow::Context;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Above what the most attachments take.
const MOST_BYTES: u64 = 4 << 20;

/// The file, and what it said at the start.
pub(in crate::daemon) struct State {
    path: PathBuf,
    file: File,
    /// With the files that were made anew, as `outgate attach` would send them.
    pub(super) restored: Vec<(Attachment, Vec<OwnedFd>)>,
}

impl State {
    /// Reads the file and goes into each namespace that is still there. `None`: nothing may be attached.
    ///
    /// # Errors
    /// It cannot be told what was attached. Then nothing starts: a fence without it would let it out.
    pub(in crate::daemon) fn restore(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(path) = &config.attachments else { return Ok(None) };
        let mut options = OpenOptions::new();
        let file = owned::open(options.read(true).write(true).create(true).truncate(false).mode(0o600), path);
        let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
        owned::give(config, &file, path)?;
        let restored = read(&file, path)?.into_iter().filter_map(restored).collect();
        Ok(Some(Self { path: path.clone(), file, restored }))
    }

    /// The interfaces that were attached, fenced from the first moment on, by the numbers that they will have.
    pub(in crate::daemon) fn interfaces(&self) -> BTreeMap<u32, (String, Vec<IpNet>)> {
        let numbered = (1..).zip(&self.restored).filter_map(|(number, (what, _))| match &what.place {
            Place::Interface { interface, networks } => Some((number, (interface.clone(), networks.clone()))),
            Place::Namespace(_) => None,
        });
        numbered.collect()
    }

    pub(super) fn write(&mut self, all: &[Attachment]) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(all)?;
        text.push('\n');
        match beside(&self.path) {
            Ok((fresh, file)) => {
                (&file).write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(fresh, &self.path)?;
                self.file = file;
                folder_of(&self.path).and_then(|folder| folder.sync_all())
            }
            Err(_) => in_place(&self.file, text.as_bytes()),
        }
    }
}

/// A new file in the same folder, if this user may make one.
fn beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".fresh");
    let fresh = PathBuf::from(fresh);
    // Left by a run that died.
    let _ = fs::remove_file(&fresh);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&fresh)?;
    Ok((fresh, file))
}

fn folder_of(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    File::open(folder)
}

/// The first byte comes last: a file that was written by half is none that can be read, and no empty one.
fn in_place(file: &File, text: &[u8]) -> io::Result<()> {
    file.write_all_at(b"!", 0)?;
    file.sync_all()?;
    file.write_all_at(text.get(1..).unwrap_or_default(), 1)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()?;
    file.write_all_at(text.get(..1).unwrap_or_default(), 0)?;
    file.sync_all()
}

/// Nothing was attached only where the file says so, or is empty as the first start makes it.
fn read(file: &File, path: &Path) -> anyhow::Result<Vec<Attachment>> {
    let mut text = String::new();
    let whole = Read::take(file, MOST_BYTES).read_to_string(&mut text);
    let parsed = whole.map_err(anyhow::Error::from).and_then(|_| {
        if text.is_empty() { Ok(Vec::new()) } else { serde_json::from_str(&text).map_err(Into::into) }
    });
    parsed.with_context(|| {
        format!(
            "{} does not tell what is attached: repair it, or remove it once nothing attached is running",
            path.display()
        )
    })
}

fn restored(mut what: Attachment) -> Option<(Attachment, Vec<OwnedFd>)> {
    let Place::Namespace(namespace) = &mut what.place else { return Some((what, Vec::new())) };
    match enter::again(namespace) {
        Ok(made) => {
            *namespace = made.namespace;
            Some((what, made.files))
        }
        Err(error) => {
            tracing::warn!("attachment {} is not taken up again: {error:#}", what.name);
            None
        }
    }
}

/// These tables of the configuration with the interfaces that are attached, for `outgate fence`. Needs no rights but
/// to read the file.
///
/// # Errors
/// The file is there and cannot be read: tables without what is attached would let it out.
pub fn widened(
    config: &Config,
    mut settings: crate::steer::Settings,
) -> anyhow::Result<crate::steer::Settings> {
    let Some(path) = &config.attachments else { return Ok(settings) };
    let file = match owned::open(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(settings),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("{} cannot be read, and it tells what is attached; run this as root", path.display())
            });
        }
    };
    for what in read(&file, path)? {
        if let Place::Interface { interface, networks } = what.place {
            settings.interfaces.push(interface);
            settings.networks.extend(networks);
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<Attachment> {
        let place = Place::Interface { interface: "br0".into(), networks: Vec::new() };
        vec![Attachment { name: "one".into(), client: "ci".into(), detached: false, place }]
    }

    fn opened(path: &Path) -> File {
        owned::open(OpenOptions::new().read(true).write(true).create(true).truncate(false), path).unwrap()
    }

    #[test]
    fn a_broken_file_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attachments.json");
        assert!(read(&opened(&path), &path).unwrap().is_empty());
        for broken in ["[", "!", "{}", "\u{0}\u{0}"] {
            fs::write(&path, broken).unwrap();
            let error = read(&opened(&path), &path).unwrap_err();
            assert!(format!("{error:#}").contains("repair it, or remove it once"), "{broken}");
        }
        fs::write(&path, b"\xff").unwrap();
        assert!(read(&opened(&path), &path).is_err());
    }

    #[test]
    fn what_is_written_either_way_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attachments.json");
        let mut state = State { file: opened(&path), path: path.clone(), restored: Vec::new() };
        state.write(&example()).unwrap();
        assert_eq!(read(&opened(&path), &path).unwrap(), example());
        assert!(!dir.path().join("attachments.json.fresh").exists());
        in_place(&state.file, b"[]\n").unwrap();
        assert!(read(&opened(&path), &path).unwrap().is_empty());
        in_place(&state.file, serde_json::to_string(&example()).unwrap().as_bytes()).unwrap();
        assert_eq!(read(&opened(&path), &path).unwrap(), example());
    }
}
