//! What a client needs to trust the gate: one combined bundle and the environment variables that point at it.
//!
//! Most tools replace their roots by what a variable names (ATTACHMENT 3g), so the bundle holds the roots of the
//! system or image as well as ours. Used by `outgate ca bundle|env|export`, `exec` and `init`. Certificates only:
//! no function here can reach a key.

use super::client::Anchors;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};

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

/// The files in which distributions keep all their roots: Debian, Alpine, Arch; Red Hat; SUSE; Alpine; Red Hat again.
const STORES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];
/// Real ones have a quarter of a megabyte.
const LARGEST_STORE: u64 = 8 * 1024 * 1024;

/// The roots of the image that this runs in, as they lie in its own file, and `ours` behind them; and which file that
/// was. Nothing is parsed: it is for the start of a workload, which must be quick.
pub fn image_bundle(ours: &[CertificateDer<'_>]) -> (String, Option<PathBuf>) {
    let found = STORES.iter().map(Path::new).find_map(|path| {
        let small = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST_STORE);
        let text = if small { std::fs::read_to_string(path).ok()? } else { return None };
        text.contains("-----BEGIN CERTIFICATE-----").then(|| (text, path.to_owned()))
    });
    let (mut text, store) = found.map_or_else(Default::default, |(text, path)| (text, Some(path)));
    for pem in ours.iter().map(|der| to_pem(der)) {
        if !text.contains(&pem) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&pem);
        }
    }
    (text, store)
}

/// Certificates as a Java key store of the old kind (JKS), which Java reads without being told a password. The format is
/// that of `sun.security.provider.JavaKeyStore`: big-endian numbers, and at the end a digest of all of it.
pub fn java_store(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    const MAGIC: u32 = 0xfeed_feed;
    const VERSION: u32 = 2;
    const TRUSTED: u32 = 2;
    let word = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    let mut store = Vec::new();
    for number in [MAGIC, VERSION, certificates.len() as u32] {
        store.extend_from_slice(&number.to_be_bytes());
    }
    for (place, der) in certificates.iter().enumerate() {
        store.extend_from_slice(&TRUSTED.to_be_bytes());
        word(&mut store, &format!("outgate{place}"));
        // When it was put in; nobody asks.
        store.extend_from_slice(&0u64.to_be_bytes());
        word(&mut store, "X.509");
        store.extend_from_slice(&(der.len() as u32).to_be_bytes());
        store.extend_from_slice(der);
    }
    // The customary password, in UTF-16, before the content. It keeps nothing secret: the digest is there for keytool.
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(&"changeit".encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
    hash.update(b"Mighty Aphrodite");
    hash.update(&store);
    store.extend_from_slice(hash.finish().as_ref());
    store
}

/// The certificates of a PEM file; whatever else it holds is left out.
pub fn certificates_in(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
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
    fn the_bundle_of_an_image_holds_its_roots_and_ours() {
        let (_a, ours) = settings();
        let (ours, _) = Authority::load_or_create(&ours).unwrap();
        let mine = [ours.certificate_der().clone()];
        let (text, store) = image_bundle(&mine);
        let found = certificates_in(text.as_bytes());
        assert_eq!(found.last(), mine.last());
        assert_eq!(found.len() > 1, store.is_some());
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
