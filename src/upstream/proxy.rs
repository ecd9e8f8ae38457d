//! The proxy that stands between the gate and the network, where there is one: what it is, what goes past it, and how it
//! is loaded. `config` fills [`ProxySettings`], `daemon` loads a [`Proxy`] at start and at each reload, `dial` goes
//! through it. Its credential is a secret like others: in no record, no log, and in nothing that reaches an origin.

use crate::base::{Authority, Host, HostName, SecretBytes};
use crate::secrets::{Environment, LoadError, Secrets, Source, Spec};
use crate::tls::{Alpn, Anchors, ClientError, Profile, ProfileSettings, Roots};
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is spoken to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// CONNECT in clear text.
    Http,
    /// CONNECT inside TLS, the proxy verified by its name.
    Https,
    /// RFC 1928, with the user name and password of RFC 1929.
    Socks5,
}

impl ProxyKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
        }
    }
}

/// Which proxy, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    pub kind: ProxyKind,
    pub host: Host,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySettings {
    pub url: ProxyUrl,
    /// Who the gate says it is, and where its password is kept.
    pub credential: Option<(String, Source)>,
    /// What is dialled directly.
    pub no_proxy: Vec<Bypass>,
    /// Names go to the proxy as they are, and it resolves them: the address guard judges only what the gate's own
    /// resolver knows, so a name that only the proxy can resolve may lead anywhere that the proxy can reach.
    pub danger_proxy_resolves: bool,
    /// Trusted for the proxy's own certificate, besides the roots for upstream hosts.
    pub roots: Option<PathBuf>,
}

impl ProxySettings {
    /// The environment variable that the password stands in.
    pub fn environment_name(&self) -> Option<&str> {
        match &self.credential {
            Some((_, Source::Env(name))) => Some(name),
            _ => None,
        }
    }

    /// The file that the password stands in.
    pub fn secret_file(&self) -> Option<&Path> {
        match &self.credential {
            Some((_, Source::File(path))) => Some(path),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    #[error("a proxy begins with http://, https:// or socks5://")]
    Scheme,
    #[error("user and password do not belong into the URL")]
    UserInfo,
    #[error("a proxy has a host and a port, and nothing behind them")]
    Place,
}

impl ProxyUrl {
    pub fn parse(text: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(ProxyUrlError::Scheme)?;
        let kind = match scheme {
            "http" => ProxyKind::Http,
            "https" => ProxyKind::Https,
            "socks5" => ProxyKind::Socks5,
            _ => return Err(ProxyUrlError::Scheme),
        };
        if rest.contains('@') {
            return Err(ProxyUrlError::UserInfo);
        }
        let authority = Authority::parse(rest.strip_suffix('/').unwrap_or(rest));
        let Ok(Authority { host, port: Some(port) }) = authority else { return Err(ProxyUrlError::Place) };
        Ok(Self { kind, host, port })
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.kind.as_str(), self.host, self.port)
    }
}

/// One entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bypass {
    place: Place,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The name and everything under it.
    Suffix(HostName),
    /// Everything under the name.
    Under(HostName),
    Network(IpNet),
    Anywhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name, an address or a network, each with or without a port")]
pub struct BypassError;

impl Bypass {
    /// `corp.test` (and what is under it), `.corp.test` (only that), `10.0.0.0/8`, `fd00::/8`, each also with `:PORT`
    /// (a network of IPv6 in brackets then), and `*:PORT`.
    pub fn parse(text: &str) -> Result<Self, BypassError> {
        if let Some(network) = network(text) {
            return Ok(Self { place: Place::Network(network), port: None });
        }
        let (place, port) = match text.rsplit_once(':') {
            Some((place, port)) => (place, Some(port.parse().ok().filter(|p| *p > 0).ok_or(BypassError)?)),
            None => (text, None),
        };
        let bare = place.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(place);
        let place = if let Some(network) = network(bare) {
            Place::Network(network)
        } else if place == "*" && port.is_some() {
            Place::Anywhere
        } else if let Some(parent) = place.strip_prefix("*.").or_else(|| place.strip_prefix('.')) {
            Place::Under(HostName::from_operator(parent).map_err(|_| BypassError)?)
        } else {
            Place::Suffix(HostName::from_operator(place).map_err(|_| BypassError)?)
        };
        Ok(Self { place, port })
    }

    fn has_name(&self, host: &Host, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        let under =
            |suffix: &HostName, name: &HostName| name.parents().any(|parent| parent == suffix.as_str());
        match (&self.place, host) {
            (Place::Anywhere, _) => true,
            (Place::Suffix(suffix), Host::Name(name)) => name == suffix || under(suffix, name),
            (Place::Under(suffix), Host::Name(name)) => under(suffix, name),
            (Place::Network(_), _) | (Place::Suffix(_) | Place::Under(_), Host::Ip(_)) => false,
        }
    }

    fn has_address(&self, address: IpAddr, port: u16) -> bool {
        let here = matches!(&self.place, Place::Network(network) if network.contains(&address));
        here && self.port.is_none_or(|only| only == port)
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A proxy with what it takes to be used.
pub struct Proxy {
    settings: ProxySettings,
    password: Option<SecretBytes>,
    roots: Vec<CertificateDer<'static>>,
    tls: Option<Arc<ClientConfig>>,
    /// How records name it.
    shown: Arc<str>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyLoadError {
    #[error("{0}; {help}", help = .0.help())]
    Password(LoadError),
    #[error(transparent)]
    Tls(#[from] ClientError),
}

impl Proxy {
    /// Reads the password and the roots. Blocks as secrets do: call it off the runtime's own threads.
    pub fn load(
        settings: ProxySettings,
        environment: &Environment,
        anchors: &Anchors,
    ) -> Result<Self, ProxyLoadError> {
        let password = match &settings.credential {
            Some((_, source)) => Some(password(source.clone(), environment)?),
            None => None,
        };
        let roots = match &settings.roots {
            Some(path) => Anchors::load(&Roots::File(path.clone()))?.certificates().to_vec(),
            None => Vec::new(),
        };
        let tls = if settings.url.kind == ProxyKind::Https {
            let own = ProfileSettings { extra_roots: roots.clone(), ..ProfileSettings::default() };
            Some(Profile::new(anchors, &own)?.config(Alpn::Http1))
        } else {
            None
        };
        let shown = settings.url.to_string().into();
        Ok(Self { settings, password, roots, tls, shown })
    }

    /// Whether a reload found the same proxy, so that connections through it may be used on.
    pub fn is_same(&self, other: &Self) -> bool {
        let value = |proxy: &Self| proxy.password.as_ref().map(|p| p.expose().to_vec());
        self.settings == other.settings && self.roots == other.roots && value(self) == value(other)
    }

    pub fn settings(&self) -> &ProxySettings {
        &self.settings
    }

    pub(super) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    pub(super) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    pub(super) fn credential(&self) -> Option<(&str, &[u8])> {
        let (user, _) = self.settings.credential.as_ref()?;
        Some((user, self.password.as_ref()?.expose()))
    }

    /// Whether `no_proxy` has this name, or this port of everything.
    pub(super) fn passes_by(&self, host: &Host, port: u16) -> bool {
        self.settings.no_proxy.iter().any(|bypass| bypass.has_name(host, port))
    }

    /// Whether `no_proxy` has this address.
    pub(super) fn passes_by_address(&self, address: IpAddr, port: u16) -> bool {
        self.settings.no_proxy.iter().any(|bypass| bypass.has_address(address, port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The name under which messages speak of the password.
const PASSWORD: &str = "upstream.proxy";

fn password(source: Source, environment: &Environment) -> Result<SecretBytes, ProxyLoadError> {
    let spec = Spec { name: PASSWORD.into(), source, placeholder: None };
    let mut failed = match Secrets::load(&[spec], environment) {
        Ok(set) => {
            let value = set.iter().map(|entry| entry.value.clone()).next();
            return Ok(value.unwrap_or_else(|| SecretBytes::new(Vec::new())));
        }
        Err(errors) => errors,
    };
    // One secret was asked for, and one error says why it is not there.
    Err(ProxyLoadError::Password(failed.swap_remove(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_url_names_kind_host_and_port_and_nothing_else() {
        let url = ProxyUrl::parse("http://Proxy.Corp.TEST:3128/").unwrap();
        assert_eq!(url.to_string(), "http://proxy.corp.test:3128");
        assert_eq!(ProxyUrl::parse("socks5://[::1]:1080").unwrap().kind, ProxyKind::Socks5);
        for (text, error) in [
            ("proxy:3128", ProxyUrlError::Scheme),
            ("socks5h://proxy:1080", ProxyUrlError::Scheme),
            ("http://user:word@proxy:3128", ProxyUrlError::UserInfo),
            ("http://proxy", ProxyUrlError::Place),
            ("http://proxy:3128/path", ProxyUrlError::Place),
            ("http://:3128", ProxyUrlError::Place),
        ] {
            assert_eq!(ProxyUrl::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_goes_past_the_proxy_is_named_by_suffix_network_and_port() {
        let past = |entry: &str, to: &str, port| Bypass::parse(entry).unwrap().has_name(&host(to), port);
        assert!(past("corp.test", "corp.test", 443) && past("corp.test", "a.b.corp.test", 443));
        assert!(!past("corp.test", "evilcorp.test", 443), "labels, not letters");
        assert!(past(".corp.test", "a.corp.test", 443) && !past(".corp.test", "corp.test", 443));
        assert!(
            past("*.corp.test:8443", "a.corp.test", 8443) && !past("*.corp.test:8443", "a.corp.test", 443)
        );
        assert!(past("*:22", "anything.test", 22) && !past("*:22", "anything.test", 443));
        let address = |entry: &str, to: &str, port| {
            Bypass::parse(entry).unwrap().has_address(to.parse().unwrap(), port)
        };
        assert!(address("10.0.0.0/8", "10.1.2.3", 1) && !address("10.0.0.0/8", "11.1.2.3", 1));
        assert!(address("10.0.0.0/8:443", "10.1.2.3", 443) && !address("10.0.0.0/8:443", "10.1.2.3", 80));
        assert!(address("fd00::/8", "fd12::1", 1) && address("[fd00::/8]:443", "fd12::1", 443));
        assert!(address("192.0.2.7", "192.0.2.7", 1) && address("::1", "::1", 1));
        assert!(!past("10.0.0.0/8", "10.1.2.3", 1), "an address is judged as one");
        for text in ["", "*", "corp.test:0", "corp.test:http", "a b", "10.0.0.0/33", "[corp.test", "**.test"]
        {
            assert_eq!(Bypass::parse(text), Err(BypassError), "{text}");
        }
    }

    #[test]
    fn nothing_that_is_printed_holds_the_password() {
        let value = SecretBytes::new(b"a-proxy-password".to_vec());
        let environment = Environment::new([("PROXY_PASSWORD".to_owned(), value)], None);
        let settings = ProxySettings {
            url: ProxyUrl::parse("http://proxy.test:3128").unwrap(),
            credential: Some(("gate".into(), Source::Env("PROXY_PASSWORD".into()))),
            no_proxy: Vec::new(),
            danger_proxy_resolves: false,
            roots: None,
        };
        let password = password(Source::Env("PROXY_PASSWORD".into()), &environment).unwrap();
        let shown = settings.url.to_string().into();
        let proxy = Proxy { settings, password: Some(password), roots: Vec::new(), tls: None, shown };
        assert_eq!(proxy.credential().unwrap(), ("gate", &b"a-proxy-password"[..]));
        assert!(!format!("{proxy:?} {}", proxy.shown()).contains("a-proxy-password"));
        let absent = super::password(Source::Env("ABSENT".into()), &environment).unwrap_err().to_string();
        assert!(absent.contains("ABSENT") && absent.contains("start the daemon again"), "{absent}");
    }
}
