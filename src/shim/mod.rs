//! The agent's side: what `outgate init` does inside a container or namespace before a program that is not trusted runs
//! there. It leads the traffic to the gate and makes the tools trust it; then it gives up every right for good, proves
//! that, and becomes the program.
//!
//! ```text
//! trust, resolver, route   with the rights that a container's root has
//! drop, close, verify      none left; a change of routes must be refused now
//! exec                     or nothing at all: every failure before it ends with exit code 111
//! ```
//! It reads no configuration of the daemon and starts no thread. `cli` calls it.

mod address;
mod command;
mod kernel;
mod resolver;
mod route;
mod rules;
mod trust;

use crate::steer::privilege::{self, PrivilegeError};
use std::io;
use std::path::PathBuf;

pub use command::{Keep, User, UserError};
pub use route::{PolicyRoute, Route};
pub use rules::is_led_by_rule;
pub use trust::Trust;

/// The exit code of a start that failed: nothing was executed. Programs themselves seldom use it.
pub const FAILED: u8 = 111;

/// What to do before the program runs.
#[derive(Debug)]
pub struct Plan {
    /// `None`: the routes stay as they are.
    pub route: Option<Route>,
    /// The servers for `/etc/resolv.conf`; empty: it stays as it is.
    pub servers: Vec<std::net::IpAddr>,
    pub trust: Option<Trust>,
    pub user: Option<User>,
    pub keep: Keep,
    /// The program and its arguments.
    pub command: Vec<std::ffi::OsString>,
}

#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error(
        "CAP_NET_ADMIN is missing, so routes cannot be set: grant it to this start, or have the namespace set up from outside and leave --gateway out"
    )]
    NoNetAdmin,
    #[error("no interface is up beside the loopback: attach one, or name it with --interface")]
    NoInterface,
    #[error(
        "several interfaces are up ({0}), each a way out: attach the workload to one network, or name the one with --interface"
    )]
    Interfaces(String),
    #[error("there is no interface {0}")]
    NotThere(String),
    #[error("the kernel refused to {what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} is no folder of its own: name another with --trust-folder", .0.display())]
    NotAFolder(PathBuf),
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(
        "privileges are gone, and yet the kernel would let routes be changed ({0}): is this namespace owned by another user namespace?"
    )]
    StillMayRoute(String),
    #[error(
        "privileges are gone, and yet {0} could be written, as its owner may: give --user, or a read-only /proc/sys"
    )]
    StillMaySet(&'static str),
    #[error(
        "a rule asked before ours leads elsewhere ({0}): take it away (ip rule del), or put ours before it (--policy-route)"
    )]
    LedElsewhere(String),
    #[error("descriptor {0} is still open")]
    StillOpen(i32),
    #[error("{} cannot be executed: {source}", program.to_string_lossy())]
    Exec { program: std::ffi::OsString, source: io::Error },
}

/// Does all of it; `tell` gets what the operator should know. Returns only when it failed, and then nothing was executed.
pub fn run(plan: Plan, tell: &mut dyn FnMut(&str)) -> ShimError {
    match prepare(&plan, tell) {
        Ok(environment) => command::execute(&plan.command, &environment),
        Err(error) => error,
    }
}

/// Everything up to the exec: the variables that the program gets.
fn prepare(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Vec<command::Variable>, ShimError> {
    // Said before anything is changed.
    if plan.route.is_some() && !privilege::has_net_admin() {
        return Err(ShimError::NoNetAdmin);
    }
    let mut environment = match &plan.trust {
        Some(trust) => trust.establish(tell)?,
        None => Vec::new(),
    };
    resolver::write(&plan.servers)?;
    if let Some(route) = &plan.route {
        route.establish(tell)?;
    }
    environment.extend(plan.user.as_ref().and_then(User::home));
    privilege::drop_for_command(plan.keep.mask(), plan.user.as_ref().map(User::ids))?;
    command::close_descriptors()?;
    route::require_refusal()?;
    kernel::require_read_only()?;
    Ok(environment)
}
