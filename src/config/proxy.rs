//! `[upstream.proxy]`: the proxy between the gate and the network. The one section that a reload reads again.

use super::raw::{RawProxy, SecretFrom, Source};
use crate::policy::Problem;
use crate::secrets;
use crate::upstream::{Bypass, ProxyKind, ProxySettings, ProxyUrl, ProxyUrlError};
use std::path::Path;
use toml::Spanned;

/// Entries of `no_proxy`.
const MAX_BYPASSES: usize = 1_000;

pub(super) fn settings(
    source: &Source<'_>,
    raw: &RawProxy,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Option<ProxySettings> {
    let url = match ProxyUrl::parse(raw.url.as_ref()) {
        Ok(url) => Some(url),
        Err(error) => {
            problems.push(source.at(&raw.url, error.to_string()).help(url_help(error)));
            None
        }
    };
    if let (Some(url), Some(_)) = (&url, &raw.roots)
        && url.kind != ProxyKind::Https
    {
        let message = "roots are for a proxy that is spoken to in TLS";
        problems.push(source.at(&raw.url, message).help("write https://, or leave roots out"));
    }
    let credential = match (&raw.username, &raw.password) {
        (None, None) => None,
        (Some(user), Some(from)) => {
            if user.as_ref().is_empty() || user.as_ref().contains([':', '\r', '\n', '\0']) {
                problems.push(source.at(user, "a user name is neither empty nor has colons or line breaks"));
            }
            origin(source, from, base, problems).map(|from| (user.as_ref().clone(), from))
        }
        (Some(user), None) => {
            let help = "add password = { env = \"NAME\" }, or file, credential, command";
            problems.push(source.at(user, "a user name without a password").help(help));
            None
        }
        (None, Some(from)) => {
            problems.push(source.at(from, "a password without a user name").help("add username = \"...\""));
            None
        }
    };
    if let Some(entry) = raw.no_proxy.get(MAX_BYPASSES) {
        problems.push(source.at(entry, format!("no_proxy has more than {MAX_BYPASSES} entries")));
    }
    let no_proxy = raw.no_proxy.iter().take(MAX_BYPASSES).filter_map(|entry| {
        let parsed = Bypass::parse(entry.as_ref());
        if let Err(error) = parsed {
            let help =
                "write \"corp.test\", \".corp.test\", \"10.0.0.0/8\", each with or without :PORT, or \"*:PORT\"";
            problems.push(source.at(entry, error.to_string()).help(help));
        }
        parsed.ok()
    });
    let no_proxy = no_proxy.collect();
    Some(ProxySettings {
        url: url?,
        credential,
        no_proxy,
        danger_proxy_resolves: raw.danger_proxy_resolves,
        roots: raw.roots.as_deref().map(|path| base.join(path)),
    })
}

fn url_help(error: ProxyUrlError) -> &'static str {
    match error {
        ProxyUrlError::Scheme => {
            "write \"http://proxy.corp.test:3128\"; whether names are resolved here or by the proxy is no matter of \
             the scheme but of danger_proxy_resolves"
        }
        ProxyUrlError::UserInfo => {
            "take them out: username = \"...\" and password = { env = \"NAME\" } stand beside the url"
        }
        ProxyUrlError::Place => "write \"http://proxy.corp.test:3128\", an IPv6 address in brackets",
    }
}

fn origin(
    source: &Source<'_>,
    from: &Spanned<SecretFrom>,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Option<secrets::Source> {
    let SecretFrom { env, file, credential, command } = from.as_ref();
    let mut given = Vec::new();
    given.extend(env.clone().map(secrets::Source::Env));
    given.extend(file.as_deref().map(|path| secrets::Source::File(base.join(path))));
    given.extend(credential.clone().map(secrets::Source::Credential));
    given.extend(command.clone().map(secrets::Source::Command));
    if given.len() == 1 {
        return given.pop();
    }
    problems.push(source.at(from, "a password comes from exactly one of: env, file, credential, command"));
    None
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn load(section: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("outgate.toml");
        let text = format!("mode = \"regular\"\n[listen]\nexplicit = [\"127.0.0.1:3128\"]\n{section}\n");
        std::fs::write(&file, text).unwrap();
        Config::load(&file, None).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_whole_section_is_read() {
        let config = load(
            "[upstream.proxy]\nurl = \"https://proxy.corp.test:8443\"\nusername = \"gate\"\n\
             password = { env = \"PROXY_PASSWORD\" }\nno_proxy = [\"corp.test\", \"10.0.0.0/8:443\", \"*:22\"]\n\
             roots = \"corp-ca.pem\"\ndanger_proxy_resolves = true\n",
        )
        .unwrap();
        assert_eq!(config.proxy.as_ref().and_then(|proxy| proxy.environment_name()), Some("PROXY_PASSWORD"));
        let proxy = config.proxy.unwrap();
        assert_eq!(
            (proxy.url.to_string().as_str(), proxy.no_proxy.len()),
            ("https://proxy.corp.test:8443", 3)
        );
        assert!(proxy.danger_proxy_resolves && proxy.roots.unwrap().ends_with("corp-ca.pem"));
        assert!(load("").unwrap().proxy.is_none());
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_a_way_out() {
        let url = "url = \"http://proxy.test:3128\"\n";
        for (section, words) in [
            ("url = \"http://gate:word@proxy.test:3128\"".to_owned(), "beside the url"),
            ("url = \"socks5h://proxy.test:1080\"".to_owned(), "danger_proxy_resolves"),
            ("url = \"http://proxy.test\"".to_owned(), "host and a port"),
            (format!("{url}username = \"gate\""), "add password"),
            (format!("{url}password = {{ env = \"A\" }}"), "add username"),
            (format!("{url}username = \"a:b\"\npassword = {{ env = \"A\" }}"), "colons"),
            (format!("{url}username = \"a\"\npassword = {{ env = \"A\", file = \"b\" }}"), "exactly one"),
            (format!("{url}no_proxy = [\"ok.test\", \"not ok\"]"), "10.0.0.0/8"),
            (format!("{url}roots = \"ca.pem\""), "write https://"),
            (format!("{url}fallback = \"direct\""), "unknown field"),
        ] {
            let error = load(&format!("[upstream.proxy]\n{section}")).unwrap_err();
            assert!(error.contains(words), "{section}: {error}");
            assert!(error.contains("outgate.toml:"), "{section}: {error}");
            assert!(!error.contains("word@"), "{section}: {error}");
        }
    }
}
