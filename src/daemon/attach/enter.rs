//! What is made in a workload's namespace, once, by whoever may enter it: root at `outgate attach`, and the daemon's
//! start where it has the rights. Sockets keep the namespace they were made in, so nobody has to go there again.

use crate::admin::Namespace;
use crate::net::{self, BoundDns, BoundTcp};
use crate::steer::{self, Tables, place};
use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A free port of one family may be taken in the other; then another is tried.
const PORT_ATTEMPTS: usize = 16;

/// A namespace and the files that stand for it, in the order of [`Namespace`].
pub struct Made {
    pub namespace: Namespace,
    pub files: Vec<OwnedFd>,
}

/// A network namespace that stays the same one from here on.
struct Door {
    path: PathBuf,
    file: File,
    process: Option<(i32, OwnedFd)>,
}

/// By its path, as `/run/netns/NAME`.
pub fn by_path(path: &Path) -> anyhow::Result<Made> {
    Door::open(std::path::absolute(path)?, None)?.make()
}

/// The one that a process is in.
pub fn by_pid(pid: i32) -> anyhow::Result<Made> {
    Door::of(pid)?.make()
}

/// The namespace of an earlier attachment, if it is still there and still holds the table that was put into it.
pub(super) fn again(known: &Namespace) -> anyhow::Result<Made> {
    let door = match known.pid {
        Some(pid) => Door::of(pid)?,
        None => Door::open(known.path.clone(), None)?,
    };
    if door.identity()? != known.identity {
        bail!("another namespace is there now");
    }
    let ours = place::within(door.file.as_fd(), || Tables::open()?.is_inside()).map_err(cannot_enter)??;
    if !ours {
        bail!("it does not hold the table that was put into it");
    }
    door.make()
}

/// `st_dev` and `st_ino` of a namespace's file.
pub(super) fn identity_of(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Whether the process behind a descriptor has ended.
pub(super) fn has_ended(process: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

impl Door {
    fn of(pid: i32) -> anyhow::Result<Self> {
        let number =
            rustix::process::Pid::from_raw(pid).filter(|_| pid > 0).context("no process has that number")?;
        // First this: were the number given to another process meanwhile, this one would have ended.
        let process = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())
            .with_context(|| format!("there is no process {pid}"))?;
        let door = Self::open(format!("/proc/{pid}/ns/net").into(), Some((pid, process)))?;
        if door.process.as_ref().is_some_and(|(_, process)| has_ended(process.as_fd())) {
            bail!("process {pid} has ended");
        }
        Ok(door)
    }

    fn open(path: PathBuf, process: Option<(i32, OwnedFd)>) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        // A pipe in its place must not hold us up.
        let file = options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
        let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
        if nix::sys::statfs::fstatfs(&file)?.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
            bail!("{} is no namespace", path.display());
        }
        Ok(Self { path, file, process })
    }

    fn identity(&self) -> std::io::Result<(u64, u64)> {
        self.file.metadata().map(|meta| (meta.dev(), meta.ino()))
    }

    fn make(self) -> anyhow::Result<Made> {
        let inside = place::within(self.file.as_fd(), Inside::make).map_err(cannot_enter)??;
        let namespace = Namespace {
            identity: self.identity()?,
            path: self.path,
            pid: self.process.as_ref().map(|(pid, _)| *pid),
            uplinks: inside.uplinks,
            transparent_port: inside.transparent.first().map_or(0, |door| door.address().port()),
            dns_port: inside.dns.first().map_or(0, |door| door.tcp.address().port()),
            families: inside.dns.len(),
        };
        let mut files = Vec::from(inside.sockets);
        files.extend(self.process.map(|(_, process)| process));
        for (transparent, BoundDns { udp, tcp }) in inside.transparent.into_iter().zip(inside.dns) {
            files.extend([transparent.into(), udp.into(), tcp.into()]);
        }
        Ok(Made { namespace, files })
    }
}

struct Inside {
    sockets: [OwnedFd; 2],
    transparent: Vec<BoundTcp>,
    dns: Vec<BoundDns>,
    uplinks: Vec<String>,
}

impl Inside {
    /// To be called inside.
    fn make() -> anyhow::Result<Self> {
        let sockets = place::open_sockets().context("no netlink socket")?;
        let mut last = None;
        for _ in 0..PORT_ATTEMPTS {
            match listeners() {
                Ok((transparent, dns)) => return Ok(Self { sockets, transparent, dns, uplinks: uplinks()? }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("no listener"), Into::into))
    }
}

/// On wildcard addresses: containers inside meet them on their bridge's address. Nobody else meets them, see
/// `steer::inside`.
fn listeners() -> Result<(Vec<BoundTcp>, Vec<BoundDns>), net::BindError> {
    let four = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let (tcp, dns) = (net::bind_tcp(four(0), None)?, net::bind_dns(four(0), None)?);
    let six = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match net::bind_tcp(six(tcp.address().port()), None) {
        Ok(tcp6) => {
            let dns6 = net::bind_dns(six(dns.tcp.address().port()), None)?;
            Ok((vec![tcp, tcp6], vec![dns, dns6]))
        }
        // A kernel without IPv6: what is redirected to nobody is refused.
        Err(error) if error.source.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            Ok((vec![tcp], vec![dns]))
        }
        Err(error) => Err(error),
    }
}

/// The interfaces that default routes lead through. Others are refused whatever they are, but for bridges inside.
fn uplinks() -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    // proc(5): interface, destination, gateway, flags, refcnt, use, metric, mask.
    let v4 = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    for line in v4.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] {
            found.push(name.to_owned());
        }
    }
    // Destination, its prefix length, source, its prefix length, next hop, metric, refcnt, use, flags, interface.
    let v6 = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    for line in v6.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        // The kernel's own "no route" is a default route on `lo`.
        if let [_, "00", _, _, _, _, _, _, _, name] = fields[..]
            && name != "lo"
        {
            found.push(name.to_owned());
        }
    }
    if found.is_empty() {
        let all = nix::net::if_::if_nameindex().context("the interfaces cannot be listed")?;
        found.extend(all.into_iter().filter_map(|one| one.name().to_str().ok().map(str::to_owned)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn cannot_enter(error: std::io::Error) -> anyhow::Error {
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    let error = anyhow::Error::from(error);
    if denied {
        error.context("it cannot be entered: that takes root (CAP_SYS_ADMIN)")
    } else {
        error.context("it cannot be entered")
    }
}

/// The table of a namespace; its ports come with the policy.
pub(super) fn settings(namespace: &Namespace) -> steer::inside::Settings {
    steer::inside::Settings {
        uplinks: namespace.uplinks.clone(),
        transparent_port: Some(namespace.transparent_port),
        dns_port: Some(namespace.dns_port),
        quic_port: None,
        redirect_tcp_ports: Vec::new(),
        exempt_uid: None,
    }
}
