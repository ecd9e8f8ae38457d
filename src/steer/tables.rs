//! The tables in the kernel of this network namespace: made, replaced, compared and removed over one netlink
//! socket, which owns them.
//!
//! Synchronous; the helper process drives it, and `outgate fence up|down` directly. Needs CAP_NET_ADMIN in the user
//! namespace of the network namespace.

use std::io;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use nftnl::nftnl_sys::libc;

use super::batch::{self, OWNER_PERSIST, Step};
use super::dump::{self, Fingerprint};
use super::guard::{self, GUARD};
use super::inside::{self, INSIDE};
use super::marked::Routes;
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
    #[error("the routing rule that keeps what TPROXY takes on this host could not be made: {0}")]
    Routes(#[source] io::Error),
    #[error("a network namespace to compare with could not be made (this needs root): {0}")]
    Scratch(#[source] io::Error),
    #[error("netlink failed: {0}")]
    Netlink(#[from] io::Error),
}

/// Which of the tables are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    pub fence: bool,
    pub redirect: bool,
    pub guard: bool,
}

impl Presence {
    pub(super) fn of(self, name: &str) -> bool {
        match name {
            FENCE => self.fence,
            REDIRECT => self.redirect,
            _ => self.guard,
        }
    }
}

/// All tables that the settings ask for; that of the guard with the addresses that the host has now.
pub(super) fn wanted(settings: &Settings) -> Vec<Table> {
    wanted_on(settings, guard::addresses(&settings.guard))
}

fn wanted_on(settings: &Settings, host: Vec<IpNet>) -> Vec<Table> {
    let guard = (!settings.guard.is_empty()).then(|| guard::table(&settings.guard, host));
    [rules::fence(settings), rules::redirect(settings)].into_iter().chain(guard).collect()
}

/// The owner's handle. Dropping it leaves the tables in place, owned by nobody.
pub struct Tables {
    netlink: Netlink,
    flags: u32,
    applied: Option<Applied>,
    /// Where TPROXY is in use.
    routes: Option<Routes>,
    /// The bridges that are guarded, and the host's addresses on them that the table knows.
    guarded: Option<(Vec<String>, Vec<IpNet>)>,
}

struct Applied {
    tables: Vec<Table>,
    fingerprint: Fingerprint,
}

impl Tables {
    /// # Errors
    /// No permission, or no nftables in this kernel.
    pub fn open() -> Result<Self, SteerError> {
        Self::on(Netlink::open().map_err(cannot_ask)?)
    }

    /// The tables of the namespace that this socket was made in.
    pub(super) fn over(socket: OwnedFd) -> Result<Self, SteerError> {
        Self::on(Netlink::over(socket)?)
    }

    fn on(netlink: Netlink) -> Result<Self, SteerError> {
        let mut tables = Self { netlink, flags: OWNER_PERSIST, applied: None, routes: None, guarded: None };
        tables.presence()?;
        Ok(tables)
    }

    /// From here on tables that any process with CAP_NET_ADMIN may change: all that kernels before 6.9 can have.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { flags: 0, ..self }
    }

    /// All tables in one step: what stands as it was applied here last is changed where it differs, so that counts and
    /// open flows go on; anything else is replaced.
    pub fn apply(&mut self, settings: &Settings) -> Result<(), SteerError> {
        settings.validate()?;
        // Before the rules that need them, and after those that do not any more.
        let tproxy = settings.tproxy_port().is_some();
        if tproxy {
            self.make_routes()?;
        }
        let host = guard::addresses(&settings.guard);
        self.install(wanted_on(settings, host.clone()))?;
        self.guarded = (!settings.guard.is_empty()).then(|| (settings.guard.clone(), host));
        if !tproxy {
            self.remove_routes()?;
        }
        Ok(())
    }

    /// What needs no daemon (the fence, and the guard where there is one), for `outgate fence up` before any runs. A
    /// redirect that is there stays.
    pub fn apply_fence(&mut self, settings: &Settings) -> Result<(), SteerError> {
        settings.validate()?;
        let mut tables = wanted(settings);
        tables.retain(|table| table.name != REDIRECT);
        self.install(tables)
    }

    /// The table of a workload's own namespace, which this must have been opened in. Replaces what is there in one step.
    pub fn apply_inside(&mut self, settings: &inside::Settings) -> Result<(), SteerError> {
        settings.validate()?;
        self.install(vec![inside::table(settings)])
    }

    /// Packets that the rules of that table have refused so far.
    pub fn refused_inside(&mut self) -> Result<u64, SteerError> {
        Ok(dump::counted(&mut self.netlink, INSIDE)?)
    }

    /// Takes that table away: the namespace is free.
    pub fn remove_inside(&mut self) -> Result<(), SteerError> {
        self.remove(&[INSIDE])?;
        self.applied = None;
        Ok(())
    }

    /// The guard alone, for a host without a gate.
    pub fn apply_guard(&mut self, bridges: &[String]) -> Result<(), SteerError> {
        guard::check(bridges)?;
        self.install(vec![guard::table(bridges, guard::addresses(bridges))])
    }

    /// These tables whatever they are, as settings of another namespace made them.
    pub(super) fn apply_tables(&mut self, tables: Vec<Table>) -> Result<(), SteerError> {
        self.install(tables)
    }

    /// Are the tables exactly as they were applied here? `false` also where nothing was applied.
    pub fn intact(&mut self) -> Result<bool, SteerError> {
        Ok(self.tables_intact()? && self.routes.as_mut().map_or(Ok(true), Routes::stand)?)
    }

    fn tables_intact(&mut self) -> Result<bool, SteerError> {
        let Some(applied) = &self.applied else { return Ok(false) };
        Ok(dump::fingerprint(&mut self.netlink, &applied.tables)? == applied.fingerprint)
    }

    /// Makes again what was applied last where it is no longer so; tells whether that was needed.
    pub fn mend(&mut self) -> Result<bool, SteerError> {
        // The tables first: what they say holds without the routes too.
        let changed = self.applied.is_some() && !self.tables_intact()?;
        if changed {
            self.reassert()?;
        } else {
            self.follow_host()?;
        }
        let routes = self.routes.as_mut().map_or(Ok(false), Routes::make).map_err(SteerError::Routes)?;
        Ok(changed || routes)
    }

    /// Networks of containers come and go, and with them the host's own addresses on their bridges.
    fn follow_host(&mut self) -> Result<(), SteerError> {
        let Some((bridges, known)) = &self.guarded else { return Ok(()) };
        let host = guard::addresses(bridges);
        let Some(applied) = self.applied.as_ref().filter(|_| host != *known) else { return Ok(()) };
        let mut tables: Vec<Table> =
            applied.tables.iter().filter(|table| table.name != GUARD).cloned().collect();
        tables.push(guard::table(bridges, host.clone()));
        let bridges = bridges.clone();
        self.install(tables)?;
        self.guarded = Some((bridges, host));
        Ok(())
    }

    fn reassert(&mut self) -> Result<(), SteerError> {
        let Some(Applied { tables, fingerprint }) = self.applied.take() else { return Ok(()) };
        let result = self.commit(&names(&tables), &tables);
        let fingerprint = if result.is_ok() { self.read(&tables) } else { fingerprint };
        self.applied = Some(Applied { tables, fingerprint });
        result
    }

    fn make_routes(&mut self) -> Result<(), SteerError> {
        let routes = match &mut self.routes {
            Some(routes) => routes,
            None => self.routes.insert(Routes::open()?),
        };
        routes.make().map(drop).map_err(SteerError::Routes)
    }

    fn remove_routes(&mut self) -> Result<(), SteerError> {
        let mut routes = match self.routes.take() {
            Some(routes) => routes,
            None => Routes::open()?,
        };
        routes.remove().map_err(SteerError::Routes)
    }

    /// Chains of others that take connections before the redirect does: table family, table, chain.
    pub fn rivals(&mut self) -> Result<Vec<String>, SteerError> {
        dump::rivals(&mut self.netlink).map_err(cannot_ask)
    }

    pub(super) fn fingerprint(&mut self, tables: &[Table]) -> Result<Fingerprint, SteerError> {
        dump::fingerprint(&mut self.netlink, tables).map_err(cannot_ask)
    }

    /// Takes the redirect away; the fence then refuses all.
    pub fn remove_redirect(&mut self) -> Result<(), SteerError> {
        self.remove(&[REDIRECT])?;
        self.remove_routes()?;
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
        self.remove_routes()
    }

    /// Takes the guard of a container host away.
    pub fn remove_guard(&mut self) -> Result<(), SteerError> {
        self.remove(&[GUARD])
    }

    /// Is a workload's own table here?
    pub fn is_inside(&mut self) -> Result<bool, SteerError> {
        self.there(INSIDE)
    }

    pub fn presence(&mut self) -> Result<Presence, SteerError> {
        Ok(Presence { fence: self.there(FENCE)?, redirect: self.there(REDIRECT)?, guard: self.there(GUARD)? })
    }

    fn there(&mut self, name: &'static str) -> Result<bool, SteerError> {
        dump::exists(&mut self.netlink, name).map_err(cannot_ask)
    }

    /// A batch that the kernel refused leaves the old tables, here as there.
    fn install(&mut self, tables: Vec<Table>) -> Result<(), SteerError> {
        if !self.change(&tables)? {
            self.commit(&names(&tables), &tables)?;
        }
        self.applied = Some(Applied { fingerprint: self.read(&tables), tables });
        Ok(())
    }

    /// Changes what was applied here into `tables`, where that stands and is built alike.
    fn change(&mut self, tables: &[Table]) -> Result<bool, SteerError> {
        let change = self.applied.as_ref().and_then(|applied| batch::change(&applied.tables, tables));
        match change {
            Some(transaction) if self.tables_intact()? => {
                Ok(transaction.steps.is_empty() || self.netlink.commit(&transaction).is_ok())
            }
            _ => Ok(false),
        }
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
            let mut old = Vec::new();
            for &name in names {
                if self.there(name)? {
                    old.push(name);
                }
            }
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
