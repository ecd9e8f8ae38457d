//! The two tables in the kernel of this network namespace: made, replaced, compared and removed over one netlink
//! socket, which owns them.
//!
//! Synchronous; the helper process drives it, and `outgate fence up|down` directly. Needs CAP_NET_ADMIN in the user
//! namespace of the network namespace.

use std::io;

use nftnl::nftnl_sys::libc;

use super::batch::{self, OWNER_PERSIST, Step};
use super::dump::{self, Fingerprint};
use super::netlink::{Netlink, Refused};
use super::rules::{self, FENCE, REDIRECT, Table};
use super::settings::{Settings, SettingsError};

/// Somebody may add or take a table between our look and our batch; more than this is a fight.
const ATTEMPTS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    #[error(
        "no permission to change nftables: CAP_NET_ADMIN is needed in this network namespace; run as root, give the \
         container NET_ADMIN, or set `steer.manage = false` if another program looks after the rules"
    )]
    NoPermission,
    #[error(
        "this kernel has no nftables (nf_tables, nft_fib, nft_redir, nft_reject, nft_ct and nf_nat are needed)"
    )]
    NoNftables(#[source] io::Error),
    #[error(
        "table {0} belongs to another running process: is a second outgate running in this network namespace?"
    )]
    OwnedByAnother(&'static str),
    #[error("the settings are not right: {0}")]
    Settings(#[from] SettingsError),
    #[error("the kernel refused {step}: {source}")]
    Refused { step: Step, source: io::Error },
    #[error("netlink failed: {0}")]
    Netlink(#[from] io::Error),
}

/// Which of the two tables are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    pub fence: bool,
    pub redirect: bool,
}

/// The owner's handle. Dropping it leaves the tables in place, owned by nobody.
pub struct Tables {
    netlink: Netlink,
    flags: u32,
    applied: Option<Applied>,
}

struct Applied {
    tables: Vec<Table>,
    fingerprint: Fingerprint,
}

impl Tables {
    /// # Errors
    /// No permission, or no nftables in this kernel.
    pub fn open() -> Result<Self, SteerError> {
        let netlink = Netlink::open().map_err(cannot_ask)?;
        let mut tables = Self { netlink, flags: OWNER_PERSIST, applied: None };
        tables.presence()?;
        Ok(tables)
    }

    /// From here on tables that any process with CAP_NET_ADMIN may change: all that kernels before 6.9 can have.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { flags: 0, ..self }
    }

    /// Both tables, replacing what is there in one step.
    pub fn apply(&mut self, settings: &Settings) -> Result<(), SteerError> {
        settings.validate()?;
        self.install(vec![rules::fence(settings), rules::redirect(settings)])
    }

    /// The fence alone, for `outgate fence up` before any daemon runs. A redirect that is there stays.
    pub fn apply_fence(&mut self, settings: &Settings) -> Result<(), SteerError> {
        settings.validate()?;
        self.install(vec![rules::fence(settings)])
    }

    /// Are the tables exactly as they were applied here? `false` also where nothing was applied.
    pub fn intact(&mut self) -> Result<bool, SteerError> {
        let Some(applied) = &self.applied else { return Ok(false) };
        Ok(dump::fingerprint(&mut self.netlink, &applied.tables)? == applied.fingerprint)
    }

    /// Makes again what was applied last where it is no longer so; tells whether that was needed.
    pub fn mend(&mut self) -> Result<bool, SteerError> {
        if self.applied.is_none() || self.intact()? {
            return Ok(false);
        }
        self.reassert().map(|()| true)
    }

    fn reassert(&mut self) -> Result<(), SteerError> {
        let Some(Applied { tables, fingerprint }) = self.applied.take() else { return Ok(()) };
        let result = self.commit(&names(&tables), &tables);
        let fingerprint = if result.is_ok() { self.read(&tables) } else { fingerprint };
        self.applied = Some(Applied { tables, fingerprint });
        result
    }

    /// Takes the redirect away; the fence then refuses all.
    pub fn remove_redirect(&mut self) -> Result<(), SteerError> {
        self.remove(&[REDIRECT])?;
        if let Some(Applied { mut tables, .. }) = self.applied.take() {
            tables.retain(|table| table.name != REDIRECT);
            self.applied = Some(Applied { fingerprint: self.read(&tables), tables });
        }
        Ok(())
    }

    /// Takes both tables away (`outgate fence down`): from then on nothing is fenced.
    pub fn remove_all(&mut self) -> Result<(), SteerError> {
        self.remove(&[REDIRECT, FENCE])?;
        self.applied = None;
        Ok(())
    }

    pub fn presence(&mut self) -> Result<Presence, SteerError> {
        let mut there = |name| dump::exists(&mut self.netlink, name).map_err(cannot_ask);
        Ok(Presence { fence: there(c"outgate_fence")?, redirect: there(c"outgate_redirect")? })
    }

    /// A batch that the kernel refused leaves the old tables, here as there.
    fn install(&mut self, tables: Vec<Table>) -> Result<(), SteerError> {
        self.commit(&names(&tables), &tables)?;
        self.applied = Some(Applied { fingerprint: self.read(&tables), tables });
        Ok(())
    }

    fn remove(&mut self, names: &[&'static str]) -> Result<(), SteerError> {
        self.commit(names, &[])
    }

    /// A read that fails gives a fingerprint that nothing equals, so that the next look makes the tables again.
    fn read(&mut self, tables: &[Table]) -> Fingerprint {
        dump::fingerprint(&mut self.netlink, tables).unwrap_or_default()
    }

    /// Deletes those of `names` that are there and makes `new`, as one batch.
    fn commit(&mut self, names: &[&'static str], new: &[Table]) -> Result<(), SteerError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let present = self.presence()?;
            let there = |name: &str| if name == FENCE { present.fence } else { present.redirect };
            let old: Vec<_> = names.iter().copied().filter(|name| there(name)).collect();
            if old.is_empty() && new.is_empty() {
                return Ok(());
            }
            let refused = match self.netlink.commit(&batch::replace(&old, new, self.flags)) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            let errno = refused.source.raw_os_error().unwrap_or_default();
            match (&refused.step, errno) {
                // Before Linux 6.9 there is no `persist`, and `owner` alone would take the fence away when we die.
                (Some(Step::Table(_)), libc::EINVAL | libc::EOPNOTSUPP) if self.flags != 0 => self.flags = 0,
                // Made or taken away by another between the look and the batch.
                (Some(Step::DeleteTable(_)), libc::ENOENT) | (_, libc::EEXIST) => {}
                _ => return Err(in_words(refused)),
            }
            last = Some(in_words(refused));
        }
        Err(last.unwrap_or(SteerError::NoPermission))
    }
}

fn names(tables: &[Table]) -> Vec<&'static str> {
    tables.iter().map(|table| table.name).collect()
}

fn in_words(refused: Refused) -> SteerError {
    match (refused.step, refused.source.raw_os_error()) {
        (Some(Step::DeleteTable(name) | Step::Table(name)), Some(libc::EPERM)) => {
            SteerError::OwnedByAnother(name)
        }
        (_, Some(libc::EPERM)) => SteerError::NoPermission,
        (Some(step), _) => SteerError::Refused { step, source: refused.source },
        (None, _) => SteerError::Netlink(refused.source),
    }
}

fn cannot_ask(source: io::Error) -> SteerError {
    match source.raw_os_error() {
        Some(libc::EPERM) => SteerError::NoPermission,
        Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP) => SteerError::NoNftables(source),
        _ => SteerError::Netlink(source),
    }
}
