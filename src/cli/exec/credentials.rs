//! Where tools keep what a command must not see: by their usual places, and by the variables that name others.

use super::places::folder;
use nix::unistd::{User, geteuid};
use std::path::{Path, PathBuf};

/// Below the home folder: what tools keep credentials in. A folder goes whole.
const CREDENTIALS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".netrc",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".git-credentials",
    ".docker/config.json",
    ".docker/contexts",
    ".docker/run",
    ".docker/desktop",
    ".config/containers/auth.json",
    ".config/gh",
    ".config/hub",
    ".config/glab-cli",
    ".config/gcloud",
    ".config/git/credentials",
    ".config/helm/registry",
    ".config/rclone",
    ".config/op",
    ".config/doctl",
    ".config/sops",
    ".config/age",
    ".config/google-chrome",
    ".config/chromium",
    ".mozilla",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".m2/settings.xml",
    ".gradle/gradle.properties",
    ".terraform.d/credentials.tfrc.json",
    ".vault-token",
    ".password-store",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".pgpass",
    ".my.cnf",
    ".s3cfg",
    ".boto",
    ".oci",
    ".databrickscfg",
    ".pulumi",
    ".cache/huggingface/token",
    ".minikube",
    ".var/app",
    "snap/firefox",
    ".Xauthority",
    ".config/systemd/user",
    ".local/share/systemd/user",
];

/// Variables whose values are files or folders with credentials, or lists of them.
const VARIABLES: &[&str] = &[
    "SSH_AUTH_SOCK",
    "XAUTHORITY",
    "KRB5CCNAME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CLOUDSDK_CONFIG",
    "AZURE_CONFIG_DIR",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "KUBECONFIG",
    "NETRC",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "REGISTRY_AUTH_FILE",
    "NPM_CONFIG_USERCONFIG",
    "GH_CONFIG_DIR",
    "PGPASSFILE",
    "GNUPGHOME",
    "PASSWORD_STORE_DIR",
    "SOPS_AGE_KEY_FILE",
    "TF_CLI_CONFIG_FILE",
    "CREDENTIALS_DIRECTORY",
    // unix:///run/user/1000/docker.sock
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "BUILDKIT_HOST",
];

/// Folders that may lie elsewhere than below the home folder.
const ELSEWHERE: [(&str, &str); 2] = [("XDG_CONFIG_HOME", ".config"), ("XDG_DATA_HOME", ".local/share")];

/// All of them, whether they are there or not.
pub(super) fn paths(home: Option<&Path>) -> Vec<PathBuf> {
    // HOME may be set to another folder, and the command may know better.
    let real = User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
    let homes = home.map(Path::to_owned).into_iter().chain(real);
    let mut found: Vec<PathBuf> =
        homes.flat_map(|home| CREDENTIALS.iter().map(move |name| home.join(name))).collect();
    for (variable, usual) in ELSEWHERE {
        let Some(at) = folder(variable) else { continue };
        let below = CREDENTIALS.iter().filter_map(|name| Path::new(name).strip_prefix(usual).ok());
        found.extend(below.map(|name| at.join(name)));
    }
    for value in VARIABLES.iter().filter_map(std::env::var_os) {
        found.extend(named(&value.to_string_lossy()));
    }
    found
}

/// The paths of a variable's value: some hold several, some a kind before them, as `unix:///path` and `FILE:/path` do.
fn named(value: &str) -> Vec<PathBuf> {
    let parts = value.split(':').map(|part| part.strip_prefix("//").map_or(part, |path| path));
    parts.map(PathBuf::from).filter(|path| path.is_absolute() && path.parent().is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::named;
    use std::path::PathBuf;

    #[test]
    fn a_value_may_hold_several_paths_and_a_kind_before_them() {
        let is = |value: &str, paths: &[&str]| {
            assert_eq!(named(value), paths.iter().map(PathBuf::from).collect::<Vec<_>>(), "{value}");
        };
        is("/a/kubeconfig:/b", &["/a/kubeconfig", "/b"]);
        is("unix:///srv/engine.sock", &["/srv/engine.sock"]);
        is("FILE:/tmp/krb5cc", &["/tmp/krb5cc"]);
        is("tcp://10.0.0.1:2375", &[]);
        is("/", &[]);
    }
}
