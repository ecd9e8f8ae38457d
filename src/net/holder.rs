//! Who has an address that we want: found in /proc, for the error message alone.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// Reading every process's descriptors must not take long on a busy host.
const MAX_PROCESSES: usize = 20_000;

/// `nginx (pid 812)`, if /proc tells us; other users' descriptors need privileges.
pub(super) fn holder(address: SocketAddr, protocol: &str) -> Option<String> {
    let tables = match protocol {
        "TCP" => ["tcp", "tcp6"],
        _ => ["udp", "udp6"],
    };
    let inode = tables.iter().find_map(|table| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        socket_inode(&text, address.port(), protocol == "TCP")
    })?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten().take(MAX_PROCESSES);
    processes.filter(|entry| has_descriptor(&entry.path(), &wanted)).find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some(format!("{} (pid {pid})", name.trim().escape_debug()))
    })
}

/// proc_net(5): `sl local_address rem_address st ... inode`; state 0A is LISTEN.
fn socket_inode(table: &str, port: u16, listening: bool) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        let state = *fields.get(3)?;
        (local == port && (!listening || state == "0A")).then(|| fields.get(9)?.parse().ok())?
    })
}

fn has_descriptor(process: &Path, wanted: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted))
}
