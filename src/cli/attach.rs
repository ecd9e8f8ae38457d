//! `outgate attach` and `outgate detach`. What has to be made inside a namespace is made here, by root, and given to the
//! daemon, which has no right to go there.

use super::{ConfigFile, json, out, verdict};
use crate::admin::{self, Attachment, Place, client};
use crate::config::Config;
use crate::daemon::attach::enter;
use anyhow::{Context, bail};
use caps::Capability;
use clap::Args;
use ipnet::IpNet;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
#[command(group = clap::ArgGroup::new("place").required(true))]
pub(super) struct Attach {
    #[command(flatten)]
    file: ConfigFile,
    /// Whose it is: a client of the policy that says attached = true
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    client: Option<String>,
    /// What detach calls it; the client's name unless given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// An interface or a bridge of the daemon's namespace, behind which only this workload lives
    #[arg(long, value_name = "IF", group = "place", visible_alias = "bridge")]
    interface: Option<String>,
    /// The workload's network, where it is not that of the interface's address; may be repeated
    #[arg(long, value_name = "CIDR", conflicts_with_all = ["netns", "pid"])]
    network: Vec<IpNet>,
    /// A network namespace, as /run/netns/NAME
    #[arg(long, value_name = "PATH", group = "place")]
    netns: Option<PathBuf>,
    /// The network namespace of a process, as a container's first one
    #[arg(long, group = "place")]
    pid: Option<i32>,
    /// Shows what is attached
    #[arg(long, group = "place")]
    list: bool,
    /// With --list
    #[arg(long, requires = "list")]
    json: bool,
}

#[derive(Args)]
pub(super) struct Detach {
    #[command(flatten)]
    file: ConfigFile,
    name: String,
    /// Takes the fence away too: the workload then reaches whatever its network reaches
    #[arg(long)]
    free: bool,
}

pub(super) fn attach(what: Attach) -> anyhow::Result<ExitCode> {
    let socket = Config::load(&what.file.file, None)?.admin.socket;
    if what.list {
        return list(&socket, what.json);
    }
    let client = what.client.unwrap_or_default();
    let (place, files) = match (what.interface, what.netns, what.pid) {
        (Some(interface), ..) => (Place::Interface { interface, networks: what.network }, Vec::new()),
        (None, Some(path), _) => made(enter::by_path(&path))?,
        (None, None, pid) => made(enter::by_pid(pid.context("what is to be attached?")?))?,
    };
    if let Some(pid) = what.pid
        && let Some(warning) = warning(pid)
    {
        writeln!(std::io::stderr(), "outgate: warning: {warning}")?;
    }
    let name = what.name.unwrap_or_else(|| client.clone());
    let body = serde_json::to_string(&Attachment { name, client, place, detached: false })?;
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    said(client::send(&socket, "POST", "/attach", &body, &files)?)
}

fn made(made: anyhow::Result<enter::Made>) -> anyhow::Result<(Place, Vec<OwnedFd>)> {
    let made = made.context("the namespace cannot be attached")?;
    Ok((Place::Namespace(made.namespace), made.files))
}

/// Tables inside a namespace do not hold who has these rights there.
fn warning(pid: i32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    let bounding = u64::from_str_radix(bounding.trim(), 16).ok()?;
    let rights = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];
    let may: Vec<_> = rights
        .into_iter()
        .filter(|right| bounding & right.bitmask() != 0)
        .map(|right| right.to_string())
        .collect();
    (!may.is_empty()).then(|| {
        format!(
            "process {pid} may have {}, with which it can get past rules in its own namespace: start it without \
             (--cap-drop=ALL), or attach the interface or bridge that leads to it",
            may.join(" and ")
        )
    })
}

pub(super) fn detach(what: &Detach) -> anyhow::Result<ExitCode> {
    let socket = Config::load(&what.file.file, None)?.admin.socket;
    let body = serde_json::to_string(&admin::Detach { name: what.name.clone(), free: what.free })?;
    said(client::send(&socket, "POST", "/detach", &body, &[])?)
}

fn said((status, text): (u16, String)) -> anyhow::Result<ExitCode> {
    out(&(text.trim_end().to_owned() + "\n"))?;
    Ok(verdict(status == 200))
}

fn list(socket: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let (status, text) = client::call(socket, "GET", "/attachments")?;
    if status != 200 {
        bail!("{text}");
    }
    let all: Vec<Attachment> = serde_json::from_str(&text)?;
    if as_json {
        json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(["NAME", "CLIENT", "PLACE", "STATE"]);
    for one in &all {
        let state = if one.detached { "detached, fenced" } else { "attached" };
        table.add_row([one.name.as_str(), &one.client, &one.place.to_string(), state]);
    }
    out(&format!("{table}\n"))?;
    Ok(ExitCode::SUCCESS)
}
