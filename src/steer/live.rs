//! What the kernel of this network namespace holds, beside what a configuration says it should.
//!
//! The kernel itself says what it would hold: the tables are made a second time in a namespace of a thread that then
//! ends, and both are read back and compared. Nothing here is changed. Needs root (CAP_SYS_ADMIN makes a namespace,
//! CAP_NET_ADMIN reads rules). `outgate fence show --live` calls it.

use std::fmt;
use std::io;

use nix::sched::{CloneFlags, unshare};

use super::dump::Fingerprint;
use super::guard::{self, GUARD};
use super::marked::Routes;
use super::rules::{FENCE, Table};
use super::settings::Settings;
use super::tables::{SteerError, Tables, wanted};

/// How one of the tables stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    AsConfigured,
    Different,
    Missing,
}

/// All that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    pub tables: Vec<(&'static str, Standing)>,
    /// The routing rules that TPROXY needs; `None` where it is not in use.
    pub routes: Option<bool>,
    /// Chains of others that take connections before the redirect does.
    pub rivals: Vec<String>,
}

impl Live {
    /// Everything is as the configuration says.
    pub fn good(&self) -> bool {
        let tables = self.tables.iter().all(|(_, standing)| *standing == Standing::AsConfigured);
        tables && self.routes != Some(false) && self.rivals.is_empty()
    }
}

impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, standing) in &self.tables {
            let words = match (standing, *name) {
                (Standing::AsConfigured, _) => "as configured",
                (Standing::Missing, FENCE | GUARD) => "MISSING: outgate fence up (or guard) loads it",
                (Standing::Missing, _) => {
                    "MISSING: the daemon loads it when it starts; until then all is refused"
                }
                (Standing::Different, _) => {
                    "DIFFERENT from the configuration: changed by hand, or loaded from an earlier one; \
                     `nft list table inet` shows it, loading it again or a restart of the daemon mends it"
                }
            };
            writeln!(f, "table {name}: {words}")?;
        }
        match self.routes {
            Some(true) => writeln!(f, "routing rules for TPROXY: as configured")?,
            Some(false) => {
                writeln!(f, "routing rules for TPROXY: MISSING: the daemon makes them when it starts")?
            }
            None => {}
        }
        for rival in &self.rivals {
            writeln!(f, "chain {rival}: takes connections before the redirect does; {RIVAL_REMEDY}")?;
        }
        Ok(())
    }
}

/// What to do about a chain that comes first.
pub const RIVAL_REMEDY: &str = "remove it, or give it a priority behind -110";

/// Compares this namespace with what the settings ask for.
///
/// # Errors
/// The settings are wrong, or a right is missing.
pub fn compare(settings: &Settings) -> Result<Live, SteerError> {
    settings.validate()?;
    let mut live = compare_tables(wanted(settings))?;
    if settings.tproxy_port().is_some() {
        live.routes = Some(Routes::open()?.stand()?);
    }
    live.rivals = Tables::open()?.rivals()?;
    Ok(live)
}

/// Compares the guard alone, for a host without a gate.
///
/// # Errors
/// As [`compare`].
pub fn compare_guard(bridges: &[String]) -> Result<Live, SteerError> {
    guard::check(bridges)?;
    compare_tables(vec![guard::table(bridges, guard::addresses(bridges))])
}

fn compare_tables(wanted: Vec<Table>) -> Result<Live, SteerError> {
    let mut here = Tables::open()?;
    let present = here.presence()?;
    let twins = elsewhere(wanted.clone())?;
    let mut tables = Vec::new();
    for (table, twin) in wanted.iter().zip(twins) {
        let found = here.fingerprint(std::slice::from_ref(table))?;
        let standing = match present.of(table.name) {
            false => Standing::Missing,
            true if found == twin => Standing::AsConfigured,
            true => Standing::Different,
        };
        tables.push((table.name, standing));
    }
    Ok(Live { tables, routes: None, rivals: Vec::new() })
}

/// The same tables in a namespace that nobody else sees, as its kernel shows them one by one.
fn elsewhere(tables: Vec<Table>) -> Result<Vec<Fingerprint>, SteerError> {
    let work = move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| SteerError::Scratch(errno.into()))?;
        let mut there = Tables::open()?.plain();
        there.apply_tables(tables.clone())?;
        tables.iter().map(|table| there.fingerprint(std::slice::from_ref(table))).collect()
    };
    let thread = std::thread::Builder::new().name("compare".into()).spawn(work)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(SteerError::Netlink(io::Error::other("the comparing thread has died"))))
}
