//! What a client needs to trust the gate: one combined bundle and the environment variables that point at it.
//!
//! Most tools replace their roots by what a variable names (ATTACHMENT 3g), so the bundle holds the roots of the
//! system or image as well as ours. Used by `outgate ca bundle|env|export`, `exec` and `init`. Certificates only:
//! no function here can reach a key.

use super::client::Anchors;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use std::path::Path;

/// A variable that makes some tools trust what a PEM file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// The tool adds the file to its own roots: it gets our CA alone. All others get the combined bundle.
    pub adds: bool,
    pub who: &'static str,
}

const fn replaces(name: &'static str, who: &'static str) -> Variable {
    Variable { name, adds: false, who }
}

/// Every variable that `env` sets.
pub const VARIABLES: &[Variable] = &[
    replaces("SSL_CERT_FILE", "OpenSSL, Go, Python ssl and httpx, Ruby, PHP, .NET, uv, rustls-native-certs"),
    replaces("CURL_CA_BUNDLE", "curl, python requests"),
    replaces("REQUESTS_CA_BUNDLE", "python requests, conda, poetry, Azure CLI"),
    replaces("PIP_CERT", "pip"),
    replaces("GIT_SSL_CAINFO", "git"),
    replaces("CARGO_HTTP_CAINFO", "cargo"),
    Variable { name: "NODE_EXTRA_CA_CERTS", adds: true, who: "node, npm, bun, Electron" },
    Variable { name: "DENO_CERT", adds: true, who: "deno" },
    replaces("AWS_CA_BUNDLE", "AWS CLI, boto"),
    replaces("NIX_SSL_CERT_FILE", "nix"),
    replaces("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "gRPC core (Python, C++, Ruby, PHP)"),
    replaces("HTTPLIB2_CA_CERTS", "httplib2"),
    replaces("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "gcloud"),
    replaces("BUNDLE_SSL_CA_CERT", "bundler"),
    replaces("PERL_LWP_SSL_CA_FILE", "Perl LWP"),
    replaces("YARN_HTTPS_CA_FILE_PATH", "yarn 2 and later"),
    replaces("HEX_CACERTS_PATH", "Elixir and Erlang hex"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvStyle {
    /// `export NAME='value'`, for `eval` in a POSIX shell.
    Shell,
    /// `NAME=value` verbatim, for `docker --env-file`, systemd's `EnvironmentFile` and a GitHub runner's `.env`.
    EnvFile,
}

/// The roots of `anchors` and then `ours` (see `trusted`), in PEM, none twice.
pub fn bundle(anchors: &Anchors, ours: &[CertificateDer<'_>]) -> String {
    let own = ours.iter().filter(|our| !anchors.certificates().iter().any(|a| a.as_ref() == our.as_ref()));
    let all = anchors.certificates().iter().map(AsRef::as_ref).chain(own.map(AsRef::as_ref));
    all.map(|der: &[u8]| to_pem(der)).collect()
}

/// The lines for all of [`VARIABLES`]. `combined` is where [`bundle`]'s text lies as the client sees it, `ca` where
/// our CA alone does. `None` when a path has a character that the style cannot carry.
pub fn env_lines(style: EnvStyle, combined: &Path, ca: &Path) -> Option<String> {
    let mut lines = String::new();
    for variable in VARIABLES {
        let path = if variable.adds { ca } else { combined }.to_str()?;
        if path.contains(['\n', '\r', '\0']) {
            return None;
        }
        let line = match style {
            EnvStyle::Shell => format!("export {}='{}'\n", variable.name, path.replace('\'', r"'\''")),
            EnvStyle::EnvFile => format!("{}={path}\n", variable.name),
        };
        lines.push_str(&line);
    }
    Some(lines)
}

/// A certificate in PEM (RFC 7468): 64 characters a line.
pub fn to_pem(der: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    // 48 bytes give 64 characters and no padding before the last line.
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::authority::Authority;
    use crate::tls::ca::tests::settings;
    use crate::tls::client::Roots;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn a_bundle_holds_the_roots_and_ours_and_none_twice() {
        let ((_a, ours), (_b, public)) = (settings(), settings());
        let (ours, _) = Authority::load_or_create(&ours).unwrap();
        let (root, _) = Authority::load_or_create(&public).unwrap();
        let anchors = Anchors::load(&Roots::File(public.certificate)).unwrap();
        let mine = [ours.certificate_der().clone(), root.certificate_der().clone()];
        let text = bundle(&anchors, &mine);
        let found: Vec<_> =
            CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(found, [root.certificate_der().clone(), ours.certificate_der().clone()]);
        assert!(text.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn env_lines_survive_a_shell_and_never_break_a_file() {
        let odd = Path::new("/a b/it's.pem");
        let shell = env_lines(EnvStyle::Shell, odd, Path::new("/ca.pem")).unwrap();
        assert!(shell.contains("export SSL_CERT_FILE='/a b/it'\\''s.pem'\n"));
        assert!(shell.contains("export NODE_EXTRA_CA_CERTS='/ca.pem'\n"));
        let file = env_lines(EnvStyle::EnvFile, odd, Path::new("/ca.pem")).unwrap();
        assert!(file.contains("\nREQUESTS_CA_BUNDLE=/a b/it's.pem\n"));
        assert_eq!(file.lines().count(), VARIABLES.len());
        assert_eq!(env_lines(EnvStyle::EnvFile, Path::new("/a\nPATH=/evil"), odd), None);
    }
}
