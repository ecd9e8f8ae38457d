//! Ways out that are no packets: sockets of daemons that would act for this user, and credentials that lie about.

use super::Check;
use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const ENGINES: [&str; 7] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
    "/var/snap/lxd/common/lxd/unix.socket",
];
/// Below the user's runtime folder.
const USER_ENGINES: [&str; 3] = ["docker.sock", "podman/podman.sock", "buildkit/buildkitd.sock"];

/// Below the home folder. Keys first; the others may hold placeholders, which are worth nothing.
const KEYS: [&str; 9] = [
    ".ssh/id_rsa",
    ".ssh/id_ed25519",
    ".ssh/id_ecdsa",
    ".aws/credentials",
    ".config/gcloud/application_default_credentials.json",
    ".config/gcloud/credentials.db",
    ".azure/msal_token_cache.json",
    ".kube/config",
    ".gnupg/private-keys-v1.d",
];
const TOKENS: [&str; 9] = [
    ".netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".docker/config.json",
    ".config/gh/hosts.yml",
    ".config/containers/auth.json",
    ".cargo/credentials.toml",
    ".vault-token",
];
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) fn checks() -> Vec<Check> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let uid = nix::unistd::geteuid();
    let runtime =
        variable("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from(format!("/run/user/{uid}")), PathBuf::from);
    let home = variable("HOME").map(PathBuf::from);
    let mut engines: Vec<PathBuf> = ENGINES.iter().map(PathBuf::from).collect();
    engines.extend(USER_ENGINES.iter().map(|name| runtime.join(name)));
    engines.extend(variable("DOCKER_HOST").and_then(unix_address));
    let mut buses = vec![runtime.join("bus"), runtime.join("systemd/private")];
    buses.extend(variable("DBUS_SESSION_BUS_ADDRESS").and_then(unix_address));
    let mut agents = vec![
        runtime.join("gnupg/S.gpg-agent"),
        runtime.join("keyring/ssh"),
        runtime.join("ssh-agent.socket"),
    ];
    agents.extend(variable("SSH_AUTH_SOCK").map(PathBuf::from));
    if let Some(home) = &home {
        agents.push(home.join(".gnupg/S.gpg-agent"));
    }
    vec![
        reachable(
            "container engine",
            &engines,
            "whoever may talk to it is root outside: do not mount its socket",
        ),
        reachable(
            "session bus",
            &buses,
            "systemd-run --user leaves by it: do not share the user's runtime folder",
        ),
        system_bus(),
        reachable("key agents", &agents, "an agent signs for whoever asks: do not share its socket"),
        credentials(home.as_deref()),
    ]
}

/// `unix:///path` or `unix:path=/path,guid=...`.
fn unix_address(value: OsString) -> Option<PathBuf> {
    let text = value.into_string().ok()?;
    let rest = text.strip_prefix("unix:")?;
    let path = rest.strip_prefix("path=").or(rest.strip_prefix("//"))?;
    path.split(',').next().map(PathBuf::from)
}

fn answers(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_ok()
}

fn reachable(check: &'static str, paths: &[PathBuf], remedy: &str) -> Check {
    let mut open: Vec<String> =
        paths.iter().filter(|path| answers(path)).map(|path| path.display().to_string()).collect();
    open.sort();
    open.dedup();
    if open.is_empty() {
        Check::good(check, "no socket of it answers")
    } else {
        Check::bad(check, format!("{} answers", open.join(", ")), remedy)
    }
}

fn system_bus() -> Check {
    let path = Path::new("/run/dbus/system_bus_socket");
    if answers(path) {
        Check::warn(
            "system bus",
            format!("{} answers; what it does for this user its policy says", path.display()),
            "do not mount it into the workload",
        )
    } else {
        Check::good("system bus", "it does not answer")
    }
}

fn credentials(home: Option<&Path>) -> Check {
    let readable = |path: &PathBuf| {
        if path.is_dir() {
            std::fs::read_dir(path).is_ok_and(|mut all| all.next().is_some())
        } else {
            std::fs::File::open(path).is_ok()
        }
    };
    let below = |names: &[&str]| -> Vec<PathBuf> {
        home.into_iter().flat_map(|home| names.iter().map(|name| home.join(name))).filter(readable).collect()
    };
    let mut keys = below(&KEYS);
    keys.extend([PathBuf::from(SERVICE_ACCOUNT)].into_iter().filter(readable));
    let tokens = below(&TOKENS);
    let list = |paths: &[PathBuf]| {
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    if !keys.is_empty() {
        let remedy = "keep keys outside and let the gate put them in ([[secret]] with a placeholder inside)";
        Check::bad("credentials", format!("readable: {}", list(&[keys, tokens].concat())), remedy)
    } else if !tokens.is_empty() {
        Check::warn(
            "credentials",
            format!("readable: {}", list(&tokens)),
            "see that they hold placeholders only",
        )
    } else {
        Check::good("credentials", "none in the usual places")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_address_of_a_unix_socket_is_found_in_its_variable() {
        let path = |text: &str| unix_address(text.into());
        assert_eq!(path("unix:///run/docker.sock"), Some("/run/docker.sock".into()));
        assert_eq!(path("unix:path=/run/user/7/bus,guid=1f"), Some("/run/user/7/bus".into()));
        assert_eq!(path("tcp://10.0.0.1:2375"), None);
        assert_eq!(path("unix:abstract=/tmp/x"), None);
    }

    #[test]
    fn a_socket_that_answers_is_a_way_out_and_a_dead_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(reachable("x", std::slice::from_ref(&path), "").verdict, super::super::Grade::Bad);
        drop(listener);
        assert_eq!(reachable("x", &[path], "").verdict, super::super::Grade::Good);
    }

    #[test]
    fn keys_are_bad_and_what_may_hold_placeholders_is_to_be_looked_at() {
        let home = tempfile::tempdir().unwrap();
        let grade = || credentials(Some(home.path())).verdict;
        std::fs::write(home.path().join(".npmrc"), "").unwrap();
        assert_eq!(grade(), super::super::Grade::Warn);
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        std::fs::write(home.path().join(".ssh/id_ed25519"), "").unwrap();
        assert_eq!(grade(), super::super::Grade::Bad);
    }
}
