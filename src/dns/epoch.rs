//! The number of a start of the daemon, in a file, so that no two runs give synthetic addresses the same meaning.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// IPv4 addresses have room for so many; then they begin again.
pub(super) const EPOCHS: u32 = 32;

/// The number of one start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub u32);

#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    #[error("{} cannot be read or written, and without it old virtual addresses could get new names: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged; take it away once no client can hold a virtual address of an earlier run any more",
        path.display()
    )]
    Damaged { path: PathBuf },
    #[error(
        "the daemon was started {EPOCHS} times within {} minutes, and the virtual addresses of the first start may still be in use: start it again in {} s",
        hold.as_secs() / 60,
        wait.as_secs()
    )]
    TooSoon { hold: Duration, wait: Duration },
}

impl Epoch {
    /// The next one, written down before it is given. `hold`: for how long an address of a run that has ended may still
    /// be used; an epoch is not used again before.
    pub fn next(path: &Path, now: Duration, hold: Duration) -> Result<Self, EpochError> {
        let io = |source| EpochError::Io { path: path.to_owned(), source };
        let mut starts = match std::fs::read_to_string(path) {
            Ok(text) => read(&text).ok_or(EpochError::Damaged { path: path.to_owned() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
        };
        let number = starts.last().map_or(0, |(last, _)| last.wrapping_add(1));
        // The last run with these bits ended, at the latest, when the one after it began.
        let after = number.checked_sub(EPOCHS - 1).filter(|after| *after > 0);
        if let Some((_, ended)) = starts.iter().find(|(number, _)| Some(*number) == after) {
            let free = Duration::from_secs(*ended) + hold;
            if now.as_secs() >= *ended && now < free {
                return Err(EpochError::TooSoon { hold, wait: free - now });
            }
        }
        starts.push((number, now.as_secs()));
        let first = starts.len().saturating_sub(EPOCHS as usize - 1);
        let mut text = String::new();
        for (number, start) in starts.iter().skip(first) {
            let _ = writeln!(text, "{number} {start}");
        }
        write(path, &text).map_err(io)?;
        Ok(Self(number))
    }
}

/// A start on each line: its number, and the second in which it was.
fn read(text: &str) -> Option<Vec<(u32, u64)>> {
    let start = |line: &str| {
        let (number, second) = line.split_once(' ')?;
        Some((number.parse().ok()?, second.parse().ok()?))
    };
    let starts: Option<Vec<_>> = text.lines().map(start).collect();
    starts.filter(|starts| !starts.is_empty())
}

/// Whole or not at all, and on the disk before it counts.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("fresh");
    // Left by a start that died, or put there by somebody else: nothing in its place is followed.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::create_new(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(1800);

    #[test]
    fn each_start_has_another_epoch_and_none_comes_back_too_soon() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("epochs");
        let next = |second| Epoch::next(&file, Duration::from_secs(second), HOLD);
        for n in 0..EPOCHS {
            assert_eq!(next(1_000_000 + u64::from(n)).unwrap(), Epoch(n));
        }
        // Epoch 32 has the bits of epoch 0, which ended when epoch 1 began.
        match next(1_000_100) {
            Err(EpochError::TooSoon { wait, .. }) => assert_eq!(wait, Duration::from_secs(1 + 1800 - 100)),
            other => panic!("{other:?}"),
        }
        assert_eq!(next(1_001_801).unwrap(), Epoch(EPOCHS));
        let lines = std::fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().count(), EPOCHS as usize - 1);
    }

    #[test]
    fn a_link_in_the_place_of_the_fresh_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, victim) = (dir.path().join("epochs"), dir.path().join("victim"));
        std::fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, file.with_extension("fresh")).unwrap();
        assert_eq!(Epoch::next(&file, Duration::from_secs(1), HOLD).unwrap(), Epoch(0));
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
    }

    #[test]
    fn a_damaged_file_is_no_first_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("epochs");
        for text in ["", "nonsense\n", "1 2\nx 3\n"] {
            std::fs::write(&file, text).unwrap();
            let error = Epoch::next(&file, Duration::from_secs(1), HOLD).unwrap_err();
            assert!(matches!(error, EpochError::Damaged { .. }), "{text:?}");
        }
    }
}
