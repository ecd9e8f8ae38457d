//! The nftables fence and redirect beside what the configuration wants them to be.

use super::Check;
use crate::config::Config;
use crate::policy::Snapshot;
use crate::steer::SteerError;
use crate::steer::live::{self, RIVAL_REMEDY, Standing};

/// What the other checks may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fence {
    /// It is there, rule for rule.
    Stands,
    /// It is not there, or is not what it should be.
    Down,
    /// Another program's business, or not to be told.
    Unknown,
}

/// `intact` is what the daemon says of its own tables.
pub(super) fn checks(
    config: &Config,
    snapshot: Option<&Snapshot>,
    intact: Option<bool>,
    checks: &mut Vec<Check>,
) -> Fence {
    let Some(mut settings) = config.steer.clone() else {
        let remedy = "doctor cannot judge rules of others: see that what comes from workloads is neither forwarded nor let in beside the doors";
        checks.push(Check::warn("fence", "steer.manage is false: another program looks after it", remedy));
        return Fence::Unknown;
    };
    settings.redirect_tcp_ports.extend(snapshot.map(Snapshot::open_ports).unwrap_or_default());
    let compared = match live::compare(&settings) {
        Ok(compared) => compared,
        Err(error @ SteerError::NoNftables(_)) => {
            checks.push(Check::bad("fence", error.to_string(), "load those modules, or use another kernel"));
            return Fence::Down;
        }
        Err(error) => {
            let fact = format!("the tables cannot be compared: {error}");
            checks.push(Check::warn("fence", fact, "run doctor as root"));
            return if intact == Some(true) { Fence::Stands } else { Fence::Unknown };
        }
    };
    let interfaces = settings.interfaces.join(", ");
    let of = |table: &str| {
        let found = compared.tables.iter().find(|(name, _)| *name == table);
        found.map_or(Standing::Missing, |(_, standing)| *standing)
    };
    let fence = standing(checks, "fence", of("outgate_fence"), intact, || {
        format!("outgate_fence stands before {interfaces}, as the configuration wants it")
    });
    if intact.is_some() || of("outgate_redirect") != Standing::Missing {
        standing(checks, "redirect", of("outgate_redirect"), intact, || {
            "outgate_redirect leads to the doors, as the configuration wants it".to_owned()
        });
    }
    if compared.routes == Some(false) {
        let fact = "the routing rules that TPROXY needs are missing";
        checks.push(Check::bad("tproxy", fact, "the daemon makes them when it starts"));
    }
    for rival in &compared.rivals {
        checks.push(Check::bad("rivals", format!("chain {rival} takes connections first"), RIVAL_REMEDY));
    }
    fence
}

fn standing(
    checks: &mut Vec<Check>,
    name: &'static str,
    standing: Standing,
    intact: Option<bool>,
    good: impl FnOnce() -> String,
) -> Fence {
    let (check, fence) = match (standing, intact) {
        (Standing::AsConfigured, _) => (Check::good(name, good()), Fence::Stands),
        (Standing::Missing, _) => {
            let remedy = "outgate fence up at boot, before any workload; the daemon adds the redirect";
            (Check::bad(name, format!("there is no table outgate_{name}"), remedy), Fence::Down)
        }
        // The daemon knows what it made; the file has changed since, or clients were attached to it.
        (Standing::Different, Some(true)) => {
            let fact = format!(
                "outgate_{name} is as the running daemon made it, and not as the configuration is now"
            );
            (Check::warn(name, fact, "restart the daemon if the configuration was changed"), Fence::Stands)
        }
        (Standing::Different, _) => {
            let fact = format!(
                "outgate_{name} is there, but somebody changed its rules, or the configuration changed"
            );
            (Check::bad(name, fact, "outgate fence up, or start the daemon"), Fence::Down)
        }
    };
    checks.push(check);
    fence
}
