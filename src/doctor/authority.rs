//! The certificate authority's files and the clock that its dates are held against.

use super::Check;
use crate::config::Config;
use crate::tls::Authority;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use time::{Duration, OffsetDateTime};

/// Enough for a rotation with overlap.
const SOON: Duration = Duration::days(30);
/// A clock behind the making of this program is wrong. 2025-01-01.
const EARLIEST: i64 = 1_735_689_600;

pub(super) fn checks(config: &Config, checks: &mut Vec<Check>) {
    let now = OffsetDateTime::now_utc();
    let clock = clock(config, now);
    checks.push(key(config));
    checks.push(match Authority::describe(&config.ca) {
        Err(error) => {
            Check::bad("authority", error.to_string(), "outgate ca new makes another; clients must trust it")
        }
        Ok(None) => Check::warn(
            "authority",
            format!("there is none at {}", config.ca.certificate.display()),
            "the daemon makes it at its first start; or: outgate ca new",
        ),
        Ok(Some(summary)) if summary.not_after <= now => Check::bad(
            "authority",
            format!("{} expired on {}", summary.subject, summary.not_after.date()),
            "outgate ca rotate, and give clients the new one",
        ),
        Ok(Some(summary)) if summary.not_before > now => Check::bad(
            "authority",
            format!("{} is not valid before {}", summary.subject, summary.not_before.date()),
            "is the clock right?",
        ),
        Ok(Some(summary)) if summary.not_after - now < SOON => Check::warn(
            "authority",
            format!("{} expires on {}", summary.subject, summary.not_after.date()),
            "outgate ca rotate prepares the next one while this one still signs",
        ),
        Ok(Some(summary)) => {
            Check::good("authority", format!("{}, valid until {}", summary.subject, summary.not_after.date()))
        }
    });
    checks.push(clock);
}

fn key(config: &Config) -> Check {
    let path = &config.ca.key;
    let shown = path.display();
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::warn(
                "authority key",
                format!("there is none at {shown}"),
                "the daemon makes it at its first start",
            );
        }
        Err(error) => {
            return Check::warn(
                "authority key",
                format!("{shown}: {error}"),
                "run doctor as root or as the daemon's user",
            );
        }
    };
    let mode = meta.mode() & 0o7777;
    if !meta.is_file() {
        return Check::bad(
            "authority key",
            format!("{shown} is no regular file"),
            "name the file itself in [ca] key",
        );
    }
    if mode & 0o077 != 0 {
        let remedy =
            format!("others may have read it: make a new authority, or chmod 600 {shown} if you are sure");
        return Check::bad("authority key", format!("{shown} has mode {mode:04o}"), remedy);
    }
    // Who may write its folder may put another key into its place.
    match open_folder(path) {
        Some(mode) => Check::bad(
            "authority key",
            format!("the folder of {shown} has mode {mode:04o}: others may replace the key"),
            "chmod go-w that folder",
        ),
        None => Check::good("authority key", format!("{shown}: mode {mode:04o}, user {}", meta.uid())),
    }
}

fn open_folder(path: &Path) -> Option<u32> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = std::fs::metadata(folder).ok()?.mode() & 0o7777;
    // With the sticky bit nobody replaces another's file.
    (mode & 0o022 != 0 && mode & 0o1000 == 0).then_some(mode)
}

/// There is nobody to ask for the time, so it is held against what must lie in the past.
fn clock(config: &Config, now: OffsetDateTime) -> Check {
    let past = |path: &Path| {
        let changed = std::fs::metadata(path).ok()?.modified().ok()?;
        Some(OffsetDateTime::from(changed))
    };
    let log = match &config.audit.sink {
        crate::audit::Sink::File(path) => past(path),
        crate::audit::Sink::Stdout => None,
    };
    let latest = [log, past(&config.ca.certificate)].into_iter().flatten().max();
    let remedy = "set the clock (timedatectl set-ntp true): certificates on both sides are held against it";
    if now.unix_timestamp() < EARLIEST {
        Check::bad("clock", format!("{} lies before this program was made", now.date()), remedy)
    } else if latest.is_some_and(|latest| latest > now + Duration::minutes(1)) {
        Check::bad(
            "clock",
            "files of the gate were written in what is now the future: the clock went back",
            remedy,
        )
    } else {
        Check::good(
            "clock",
            format!("{} {:02}:{:02} UTC, behind all that was written", now.date(), now.hour(), now.minute()),
        )
    }
}
