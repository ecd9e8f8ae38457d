//! What the command's environment has more and less than ours: the authority for every runtime, no way to an agent or a
//! session of the user, no proxy.
//!
//! Secrets that the policy names are gone already (`secrets::Environment`).

use super::masks::{BUNDLE, CERTIFICATE};
use crate::tls::VARIABLES;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

/// Agents, buses, displays, multiplexers, container engines: what they name is covered, so a program must not try.
const SESSION: &[&str] = &[
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "AT_SPI_BUS_ADDRESS",
    "SESSION_MANAGER",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "NVIM",
    "VSCODE_IPC_HOOK_CLI",
    "VSCODE_GIT_IPC_HANDLE",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "BUILDKIT_HOST",
    "KRB5CCNAME",
];

/// A proxy of the host is no place that the command can reach; the gate needs none of them.
const PROXIES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ftp_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "FTP_PROXY",
];

/// Of our own start.
const OURS: &[&str] = &["OUTGATE_SEALED_ENVIRONMENT"];

pub(super) struct Changes {
    removed: Vec<&'static str>,
}

/// A variable that names something exposed stays.
pub(super) fn changes(exposed: &[PathBuf]) -> Changes {
    let kept = |name: &str| {
        let value = std::env::var_os(name).unwrap_or_default();
        exposed.iter().any(|path| value == *path || contains(&value, path.as_os_str()))
    };
    let removed = [SESSION, PROXIES, OURS].concat().into_iter().filter(|name| !kept(name)).collect();
    Changes { removed }
}

impl Changes {
    pub(super) fn apply(&self, command: &mut Command) {
        for name in &self.removed {
            command.env_remove(name);
        }
        for variable in VARIABLES {
            command.env(variable.name, if variable.adds { CERTIFICATE } else { BUNDLE });
        }
    }
}

fn contains(value: &OsString, path: &OsStr) -> bool {
    value.to_string_lossy().contains(&*path.to_string_lossy())
}
