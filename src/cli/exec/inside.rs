//! The hidden verb `exec-inside`: leaves for namespaces of its own, makes the listeners there, and builds the walls.
//!
//! It is the parent of init and the owner of the namespaces. The command never sees it: it stays in the host's PID
//! namespace, gives up its rights but the one to read the table's counters once init runs, and waits for it.

use super::FAILED;
use super::masks;
use super::message::{self, Said, Told};
use super::refusal::Restrictions;
use super::terminal::Terminal;
use crate::net::{BoundTcp, bind_tcp, bind_udp};
use crate::steer::inside::Settings;
use crate::steer::route::Routes;
use crate::steer::{Tables, pass, privilege};
use anyhow::{Context, bail};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};

/// The one address of the namespace: from a range that nobody can want to reach (RFC 5737, RFC 4193).
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// "fd" and "outgate".
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd6f, 0x7574, 0x6761, 0x7465, 0, 0, 0, 1);
/// Nobody else is in the namespace, so any port is free.
const TRANSPARENT: u16 = 15001;
const DNS: u16 = 15053;

/// Rights that init needs to mount /proc and to empty its bounding set.
const FOR_INIT: [Capability; 2] = [Capability::CAP_SYS_ADMIN, Capability::CAP_SETPCAP];

pub(in crate::cli) fn run(inner: &super::Inner) -> ExitCode {
    close_inherited();
    let control = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => UnixStream::from(control),
        Err(_) => return ExitCode::from(FAILED),
    };
    let built = build(&control, inner);
    let code = built.unwrap_or_else(|error| {
        let why = crate::cli::told(&error);
        // Nobody listens when the gate itself has gone.
        let _ = message::send(&control, &Said::Failed { code: FAILED, why }, &[]);
        FAILED
    });
    ExitCode::from(code)
}

/// A file that somebody left open, a socket above all, would be a way out. Nothing of ours is open yet.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The one of the listing itself is closed already.
        let _ = nix::unistd::close(number);
    }
}

fn build(control: &UnixStream, inner: &super::Inner) -> anyhow::Result<u8> {
    leave()?;
    let listeners = listeners()?;
    let files: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    message::send(control, &Said::Ready, &files)?;
    drop(files);
    drop(listeners);
    let plan = match message::receive(control)? {
        Some((Told::Enter(plan), _)) => plan,
        // The gate could not be made ready, and has said why itself.
        Some(_) | None => return Ok(FAILED),
    };
    let (Some((certificate, _)), Some((bundle, _))) = (pass::receive(control)?, pass::receive(control)?)
    else {
        return Ok(FAILED);
    };
    let settings = Settings {
        uplinks: vec!["lo".into()],
        transparent_port: Some(TRANSPARENT),
        dns_port: Some(DNS),
        quic_port: None,
        redirect_tcp_ports: plan.ports.clone(),
        exempt_uid: None,
    };
    let mut tables = Tables::open()?;
    tables.apply_inside(&settings).context("the rules of the namespace could not be loaded")?;
    masks::build(&plan, &certificate, &bundle)?;
    let mut init = start_init(control, inner, &plan)?;
    // To read the counters at the end.
    privilege::keep_net_admin(None)?;
    let status = init.wait()?;
    if let Ok(packets) = tables.refused_inside() {
        let _ = message::send(control, &Said::Refused(packets), &[]);
    }
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED))
}

/// Into namespaces of our own, as ourselves: no other id is mapped, so no helper with rights is needed.
fn leave() -> anyhow::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let restrictions = Restrictions::read();
    let refused = |step: &'static str| {
        let restrictions = &restrictions;
        move |errno| restrictions.explain(step, errno)
    };
    unshare(CloneFlags::CLONE_NEWUSER).map_err(refused("a user namespace cannot be made"))?;
    let write = |file: &str, text: String| {
        let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
        fs::write(format!("/proc/self/{file}"), text).map_err(errno)
    };
    let map = |file, id: u32| write(file, format!("{id} {id} 1\n"));
    let mapped = write("setgroups", "deny".to_owned())
        .and_then(|()| map("uid_map", uid.as_raw()))
        .and_then(|()| map("gid_map", gid.as_raw()));
    mapped.map_err(refused("the user cannot be mapped into a user namespace"))?;
    let others = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC;
    unshare(others).map_err(refused("network, mount and PID namespaces cannot be made"))?;
    // The change of rights has forgotten any earlier one. The gate's death ends us, and its closed socket all the rest.
    prctl::set_pdeathsig(Signal::SIGKILL).context("no signal at the gate's death")?;
    Ok(())
}

/// An interface that leads nowhere, and the listeners on it. IPv6 where this kernel has it.
fn listeners() -> anyhow::Result<Vec<OwnedFd>> {
    let mut routes = Routes::open()?;
    routes.up("lo").context("the loopback interface of the namespace does not come up")?;
    let mut lead_nowhere = |address: IpAddr| {
        routes.add_address("lo", address.into())?;
        routes.default_through("lo", address)
    };
    lead_nowhere(ADDRESS.into()).context("the namespace gets no address or route")?;
    let mut files = Vec::from(family(Ipv4Addr::LOCALHOST.into())?);
    if lead_nowhere(ADDRESS6.into()).is_ok() {
        files.extend(family(Ipv6Addr::LOCALHOST.into())?);
    }
    Ok(files)
}

fn family(on: IpAddr) -> anyhow::Result<[OwnedFd; 3]> {
    let tcp = |port| -> anyhow::Result<BoundTcp> { Ok(bind_tcp(SocketAddr::new(on, port), None)?) };
    let udp = bind_udp(SocketAddr::new(on, DNS), None)?;
    Ok([tcp(TRANSPARENT)?.into(), udp.into(), tcp(DNS)?.into()])
}

/// The first child is PID 1 of the new namespace. It is not root there, so rights pass to it as ambient ones only.
fn start_init(control: &UnixStream, inner: &super::Inner, plan: &masks::Plan) -> anyhow::Result<Child> {
    for capability in FOR_INIT {
        for set in [CapSet::Inheritable, CapSet::Ambient] {
            if let Err(error) = caps::raise(None, set, capability) {
                bail!("{capability} cannot be passed on to init: {error}");
            }
        }
    }
    let mut init = Command::new("/proc/self/exe");
    init.arg0("outgate").arg("exec-init").arg("--folder").arg(plan.folder()).arg("--").args(&inner.command);
    init.stdin(Stdio::from(OwnedFd::from(control.try_clone()?)));
    // `kill 0` in there would reach whoever started us. As the terminal's foreground job it must stay in that group.
    if !Terminal::remember().is_ours() {
        init.process_group(0);
    }
    init.spawn().context("init cannot be started")
}
