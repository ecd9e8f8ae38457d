//! `outgate doctor`: prints what `doctor` found. Exit code 1 where something is bad.

use super::{ConfigFile, json, out, verdict};
use crate::doctor::{self, Inside};
use clap::Args;
use std::net::IpAddr;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// From inside a workload: try what it might try. Needs no configuration
    #[arg(long)]
    inside: bool,
    #[arg(long)]
    json: bool,
    /// The gate, where it is not the gateway of the default route
    #[arg(long, value_name = "ADDRESS", requires = "inside")]
    gateway: Option<IpAddr>,
    /// A host outside that would answer; documentation addresses, which nobody has, without it
    #[arg(long, value_name = "ADDRESS", requires = "inside")]
    target: Vec<IpAddr>,
    /// A host beside this workload that it should not reach
    #[arg(long, value_name = "ADDRESS", requires = "inside")]
    neighbour: Vec<IpAddr>,
    /// A resolver other than the configured one
    #[arg(long, value_name = "ADDRESS", requires = "inside")]
    resolver: Option<IpAddr>,
    /// A page that the policy allows, for one request by each runtime found
    #[arg(long, value_name = "URL", requires = "inside")]
    url: Option<String>,
    /// A name that no rule allows
    #[arg(long, value_name = "NAME", requires = "inside")]
    denied: Option<String>,
}

pub(super) fn perform(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { file, inside, gateway, target, neighbour, resolver, url, denied, .. } = arguments;
    let report = if inside {
        doctor::inside(&Inside { gateway, targets: target, neighbours: neighbour, resolver, url, denied })
    } else {
        doctor::gate(&file.file)
    };
    if arguments.json {
        json(&serde_json::json!({ "ok": report.holds(), "checks": report.checks }))?;
    } else {
        out(&report.to_string())?;
    }
    Ok(verdict(report.holds()))
}
