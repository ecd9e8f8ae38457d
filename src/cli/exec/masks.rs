//! What of the file system the command does not see as it is: sockets of the host, known credential files, the gate's own
//! files; and what it sees of ours: the authority and a resolver.
//!
//! A new network namespace closes no Unix socket that has a path, and such a socket (a container engine, the session bus,
//! an ssh agent, a terminal multiplexer) is a whole way out. So `/run` is replaced by an empty one, and every other
//! socket that exists now is covered by an empty file. Covers are mounts of a namespace that the command has no rights
//! in; one it makes for itself gets them locked (mount_namespaces(7)).

use super::credentials;
use super::mounts::Mounts;
use super::places::Places;
use crate::audit::Sink;
use crate::config::Config;
use crate::tls::beside;
use anyhow::{Context, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where the command finds our certificate, and the roots of the system with it.
pub(super) const CERTIFICATE: &str = "/run/outgate/ca.pem";
pub(super) const BUNDLE: &str = "/run/outgate/combined.pem";
const OWN: &str = "/run/outgate";
const RUN: &str = "/run";
const PTS: &str = "/dev/pts";
const CONSOLE: &str = "/dev/console";
const RESOLVER: &str = "/etc/resolv.conf";
/// Port 53 of any address leads to the gate; this one is the namespace's own.
const RESOLVER_TEXT: &str = "# outgate exec: every resolver is the gate\nnameserver 127.0.0.1\n";

/// A session of a busy desktop has some hundreds.
const MOST_SOCKETS: usize = 4096;
const MOST_LINKS: usize = 1024;
const CGROUPS: [&str; 2] = ["cgroup", "cgroup2"];
const VIEWS: [&str; 9] =
    ["sysfs", "debugfs", "tracefs", "securityfs", "configfs", "efivarfs", "pstore", "bpf", "binfmt_misc"];
/// Sockets and small files of programs inside.
const RUN_SIZE: &str = "mode=0755,size=64m,nr_inodes=16384";
const OWN_SIZE: &str = "mode=0755,size=8m,nr_inodes=64";

/// A path as it stands in the file system, which need not be text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RawPath(Vec<u8>);

impl From<&Path> for RawPath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().to_owned().into_vec())
    }
}

impl RawPath {
    fn path(&self) -> PathBuf {
        std::ffi::OsString::from_vec(self.0.clone()).into()
    }
}

/// What the processes inside are to build and to start in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// TCP ports that go to the transparent listener.
    pub(super) ports: Vec<u16>,
    folder: RawPath,
    hidden: Vec<RawPath>,
    read_only: Vec<RawPath>,
    exposed: Vec<RawPath>,
}

impl Plan {
    pub(super) fn folder(&self) -> PathBuf {
        self.folder.path()
    }
}

/// What `--expose` names, without links; each must be there.
pub(super) fn resolved(exposed: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let one = |path: &PathBuf| {
        fs::canonicalize(path).with_context(|| format!("--expose {}: it is not there", path.display()))
    };
    exposed.iter().map(one).collect()
}

pub(super) fn plan(
    config: &Config,
    file: Option<&Path>,
    places: &Places,
    exposed: Vec<PathBuf>,
    folder: PathBuf,
    ports: Vec<u16>,
) -> anyhow::Result<Plan> {
    let (certificate, key) = (&config.ca.certificate, &config.ca.key);
    let mut hidden =
        vec![places.state.clone(), key.clone(), beside(key, "next"), places.admin_socket.clone()];
    hidden.extend(config.secret_files()?);
    if let Sink::File(records) = &config.audit.sink {
        hidden.push(records.clone());
    }
    hidden.extend(credentials::paths(places.home.as_deref()));
    hidden.extend(sockets()?);
    // Links are followed: a socket may have several names, and a folder of keys may be elsewhere.
    let hidden: BTreeSet<PathBuf> = hidden
        .iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .filter(|path| !path.starts_with(RUN))
        .collect();
    for path in exposed.iter().filter(|path| !path.starts_with(RUN)) {
        if let Some(whole) = hidden.iter().find(|hidden| path.starts_with(hidden) && *path != **hidden) {
            bail!(
                "--expose {}: it is inside {}, which can only be exposed as a whole",
                path.display(),
                whole.display()
            );
        }
    }
    // The command must not write the policy that the next run is judged by, nor what others trust.
    let mut read_only = vec![config.policies.clone(), certificate.clone()];
    read_only.extend(["next", "previous"].map(|tag| beside(certificate, tag)));
    read_only.extend(file.map(Path::to_owned));
    let read_only = read_only.into_iter().filter_map(|path| fs::canonicalize(path).ok());
    let mounts = Mounts::read()?;
    let covered = hidden.into_iter().filter(|path| !exposed.contains(path));
    Ok(Plan {
        ports,
        folder: RawPath::from(folder.as_path()),
        read_only: by_every_name(read_only, &mounts),
        hidden: by_every_name(covered, &mounts),
        exposed: exposed.iter().map(|path| RawPath::from(path.as_path())).collect(),
    })
}

/// The same files by the names that further mounts give them, too.
fn by_every_name(paths: impl Iterator<Item = PathBuf>, mounts: &Mounts) -> Vec<RawPath> {
    let all: BTreeSet<PathBuf> = paths
        .flat_map(|path| {
            let others = mounts.other_names(&path);
            others.into_iter().filter(|name| !name.starts_with(RUN)).chain([path])
        })
        .collect();
    all.iter().map(|path| RawPath::from(path.as_path())).collect()
}

/// Every socket with a path that somebody in this network namespace has bound (proc(5), `/proc/net/unix`).
fn sockets() -> anyhow::Result<BTreeSet<PathBuf>> {
    let table = fs::read("/proc/net/unix").context("the sockets of this host cannot be listed")?;
    let paths = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let start = line.windows(2).position(|two| two == b" /")? + 1;
        Some(PathBuf::from(std::ffi::OsString::from_vec(line.get(start..)?.to_vec())))
    });
    let is_socket =
        |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let found: BTreeSet<PathBuf> = paths.filter(|path| !path.starts_with(RUN)).filter(is_socket).collect();
    if found.len() > MOST_SOCKETS {
        bail!(
            "{} sockets lie about on this host, more than {MOST_SOCKETS}: they cannot all be covered",
            found.len()
        );
    }
    Ok(found)
}

/// Builds it all in the mount namespace that this is called in, whose owner we must be.
pub(super) fn build(plan: &Plan, certificate: &[u8], bundle: &[u8]) -> anyhow::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("the mounts cannot be made private")?;
    let resolver = fs::canonicalize(RESOLVER).ok();
    let kept = kept(plan)?;
    let links = links();
    tmpfs(Path::new(RUN), RUN_SIZE)?;
    for (name, target) in links {
        symlink(target, Path::new(RUN).join(name))?;
    }
    own_files(certificate, bundle)?;
    let user = Path::new(RUN).join("user").join(nix::unistd::geteuid().to_string());
    DirBuilder::new().recursive(true).create(user.parent().unwrap_or(Path::new(RUN)))?;
    DirBuilder::new().mode(0o700).create(user)?;
    for (path, file, is_folder) in kept {
        put_back(&path, &file, is_folder)?;
    }
    resolve_at_the_gate(resolver.as_deref())?;
    terminals()?;
    // Before the covers, which may lie inside.
    for path in plan.read_only.iter().map(RawPath::path).filter(|path| path.exists()) {
        bind(&path, &path)?;
        protect(&path)?;
    }
    kernel_trees()?;
    let (file, folder) = (Path::new(OWN).join("empty"), Path::new(OWN).join("none"));
    for path in plan.hidden.iter().map(RawPath::path) {
        let cover = match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => &folder,
            Ok(_) => &file,
            // It lies under something that is covered already, or has gone.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("{} cannot be covered", path.display())),
        };
        bind(cover, &path)?;
    }
    Ok(())
}

/// Control groups: a user's own are delegated to him, and whoever writes them freezes or ends his programs. For root also
/// every other file system that is a view of the kernel, where the owner of a file needs no further right.
fn kernel_trees() -> anyhow::Result<()> {
    let root = nix::unistd::geteuid().is_root();
    for mount in Mounts::read()?.iter() {
        let kind = mount.kind.as_str();
        if !(CGROUPS.contains(&kind) || root && VIEWS.contains(&kind)) {
            continue;
        }
        // What we cannot see the command cannot either, and under another mount it is not seen at all.
        if fs::metadata(&mount.at).is_ok() {
            protect(&mount.at)?;
        }
    }
    Ok(())
}

/// What is exposed below `/run`, held open while `/run` is replaced.
fn kept(plan: &Plan) -> anyhow::Result<Vec<(PathBuf, OwnedFd, bool)>> {
    let below = plan.exposed.iter().map(RawPath::path).filter(|path| path.starts_with(RUN));
    let hold = |path: PathBuf| {
        let held = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let held = held.with_context(|| format!("{} cannot be exposed", path.display()))?;
        let is_folder = path.is_dir();
        Ok((path, held, is_folder))
    };
    below.map(hold).collect()
}

/// Links out of `/run` go on working (a system may find its programs by them); where they lead is not covered by it.
fn links() -> Vec<(std::ffi::OsString, PathBuf)> {
    let entries = fs::read_dir(RUN).into_iter().flatten().flatten().take(MOST_LINKS);
    entries.filter_map(|entry| Some((entry.file_name(), fs::read_link(entry.path()).ok()?))).collect()
}

fn own_files(certificate: &[u8], bundle: &[u8]) -> anyhow::Result<()> {
    DirBuilder::new().create(OWN)?;
    tmpfs(Path::new(OWN), OWN_SIZE)?;
    let own = Path::new(OWN);
    let files: [(&str, &[u8]); 4] = [
        ("ca.pem", certificate),
        ("combined.pem", bundle),
        ("resolv.conf", RESOLVER_TEXT.as_bytes()),
        ("empty", b""),
    ];
    for (name, content) in files {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(own.join(name))?
            .write_all(content)?;
    }
    DirBuilder::new().create(own.join("none"))?;
    fs::set_permissions(own.join("none"), Permissions::from_mode(0o555))?;
    // Not the mount alone but the file system: every cover is made of it.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, OWN, None::<&str>, flags, None::<&str>).context("our own files cannot be protected")
}

fn put_back(path: &Path, file: &OwnedFd, is_folder: bool) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).create(parent)?;
    }
    if is_folder {
        DirBuilder::new().recursive(true).create(path)?;
    } else if !path.exists() {
        OpenOptions::new().write(true).create_new(true).open(path)?;
    }
    bind(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), path)
}

/// Where the file is there, it names the gate; where it is not, programs ask 127.0.0.1 anyway.
fn resolve_at_the_gate(resolver: Option<&Path>) -> anyhow::Result<()> {
    let Some(at) = resolver else { return Ok(()) };
    if at.starts_with(RUN) {
        if let Some(parent) = at.parent() {
            DirBuilder::new().recursive(true).create(parent)?;
        }
        fs::write(at, RESOLVER_TEXT)?;
        return Ok(());
    }
    bind(&Path::new(OWN).join("resolv.conf"), at)
}

/// Terminals of the command's own. The user's others could be read and written through their names else; the one it is
/// started on is open anyway, and gets the name that programs look for.
fn terminals() -> anyhow::Result<()> {
    let on = ["/proc/self/fd/1", "/proc/self/fd/2"].iter().filter_map(|file| fs::read_link(file).ok());
    let on = on.into_iter().find(|name| name.starts_with(PTS) && name.exists());
    let held = on.map(|name| open(&name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())).transpose()?;
    if !Path::new(PTS).is_dir() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), PTS, Some("devpts"), flags, Some("newinstance,ptmxmode=0666,mode=0620"))
        .context("terminals of the command's own cannot be made")?;
    match held.filter(|_| Path::new(CONSOLE).exists()) {
        Some(terminal) => {
            bind(Path::new(&format!("/proc/self/fd/{}", terminal.as_raw_fd())), Path::new(CONSOLE))
        }
        None => Ok(()),
    }
}

fn tmpfs(at: &Path, size: &str) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(size))
        .with_context(|| format!("an empty folder cannot be mounted on {}", at.display()))
}

pub(super) fn bind(what: &Path, at: &Path) -> anyhow::Result<()> {
    mount(Some(what), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("{} cannot be covered", at.display()))
}

/// Makes a mount read-only. What restricts it already is locked, and has to be said again.
pub(super) fn protect(at: &Path) -> anyhow::Result<()> {
    let now = statvfs(at).with_context(|| format!("{} cannot be looked at", at.display()))?.flags();
    let same = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let flags = same
        .into_iter()
        .filter(|(is, _)| now.contains(*is))
        .fold(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, |flags, (_, flag)| flags | flag);
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("{} cannot be made read-only", at.display()))
}
