//! `outgate init`: the start of a program that is not trusted, inside its container or namespace.

use crate::shim::{self, Keep, Plan, PolicyRoute, Route, Trust, User};
use clap::{Args, Parser};
use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "outgate-init", version, about = "The start of a workload, inside its container")]
pub(super) struct Program {
    #[command(flatten)]
    pub(super) arguments: Arguments,
}

#[derive(Args)]
pub(super) struct Arguments {
    /// The gate, as this namespace sees it; once for IPv4, once for IPv6. Without one routes stay as they are
    #[arg(long, value_name = "ADDRESS", conflicts_with = "drop_only")]
    gateway: Vec<IpAddr>,
    /// The interface to the gate; the only one that is up when there is one
    #[arg(long, value_name = "NAME", requires = "gateway")]
    interface: Option<String>,
    /// Reach neighbours through the gate only: own addresses become /32 and /128, the route is an on-link one
    #[arg(long, requires = "gateway")]
    on_link: bool,
    /// Route in a table of our own that is asked first, for platforms that configure the interface later
    #[arg(long, requires = "gateway")]
    policy_route: bool,
    /// The number of that table
    #[arg(long, value_name = "NUMBER", default_value_t = PolicyRoute::default().table, value_parser = clap::value_parser!(u32).range(1..=252))]
    table: u32,
    /// A server for /etc/resolv.conf; the gateways without it
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["drop_only", "keep_resolver"])]
    dns: Vec<IpAddr>,
    /// Leave /etc/resolv.conf as it is
    #[arg(long)]
    keep_resolver: bool,
    /// The gate's authority in PEM (outgate ca export): a bundle is made and every runtime's variable set
    #[arg(long, value_name = "FILE", conflicts_with = "drop_only")]
    ca: Option<PathBuf>,
    /// Where the bundle goes; a later start with --drop-only sets the variables where it finds it
    #[arg(long, value_name = "FOLDER", default_value = "/run/outgate")]
    trust_folder: PathBuf,
    /// Who the program is: NAME, UID, NAME:GROUP or UID:GID. Without it the user stays, without its capabilities
    #[arg(long, value_name = "USER")]
    user: Option<User>,
    /// Capabilities that a program of root keeps, as a hexadecimal mask (0xfb: files and users); none otherwise
    #[arg(long, value_name = "MASK", default_value = "0")]
    keep_caps: Keep,
    /// Only drop everything and prove it: for `exec` into a container that runs already
    #[arg(long)]
    drop_only: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Returns only when nothing was executed.
pub(super) fn perform(arguments: Arguments) -> ExitCode {
    let said = match plan(arguments) {
        Ok(plan) => {
            let mut tell = |line: &str| say(line);
            shim::run(plan, &mut tell).to_string()
        }
        Err(usage) => usage,
    };
    say(&format!("nothing was executed: {said}"));
    ExitCode::from(shim::FAILED)
}

/// One line, also where somebody's file name has several.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "outgate init: {}", line.replace(char::is_control, " "));
}

fn plan(arguments: Arguments) -> Result<Plan, String> {
    let Arguments {
        gateway,
        interface,
        on_link,
        policy_route,
        table,
        dns,
        keep_resolver,
        ca,
        trust_folder,
        ..
    } = arguments;
    for ip in &gateway {
        if gateway.iter().filter(|other| other.is_ipv4() == ip.is_ipv4()).count() > 1 {
            return Err("one --gateway for IPv4 and one for IPv6 at most".to_owned());
        }
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return Err(format!("{ip} is no address of a gate"));
        }
    }
    if gateway.is_empty() && !arguments.drop_only && dns.is_empty() && ca.is_none() {
        return Err("name the gate with --gateway, or say --drop-only where the namespace is set up already"
            .to_owned());
    }
    let servers = match (keep_resolver, dns.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => gateway.clone(),
        (false, false) => dns,
    };
    let policy = policy_route.then(|| PolicyRoute { table, ..PolicyRoute::default() });
    let route = (!gateway.is_empty()).then_some(Route { gateways: gateway, interface, on_link, policy });
    let trust =
        (ca.is_some() || arguments.drop_only).then_some(Trust { authority: ca, folder: trust_folder });
    Ok(Plan {
        route,
        servers,
        trust,
        user: arguments.user,
        keep: arguments.keep_caps,
        command: arguments.command,
    })
}
