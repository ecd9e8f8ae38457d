//! Canonical host names and authorities. One spelling for each identity: lower case, A-labels, no trailing dot.

use super::Scheme;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A canonical DNS name: lower case, A-labels, no trailing dot, 1 to 253 bytes, labels of 1 to 63 bytes out of
/// `a-z 0-9 - _`. Never an address in any of the spellings that resolvers accept (`127.1`, `0x7f.1`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than 253 bytes")]
    TooLong,
    #[error("a label is empty or longer than 63 bytes")]
    Label,
    #[error("a byte that no host name may hold")]
    Byte,
    #[error("the name ends in a number, so some resolvers read it as an address")]
    Numeric,
    #[error("the internationalised name has no A-label form")]
    Idna,
}

impl HostName {
    /// Reads a name as a peer sends it (SNI, Host, CONNECT). One trailing dot is taken off; raw UTF-8 is refused.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostNameError::Empty);
        }
        if text.len() > 253 {
            return Err(HostNameError::TooLong);
        }
        let (mut label, mut upper) = (0, false);
        for byte in text.bytes() {
            match byte {
                b'.' if label == 0 || label > 63 => return Err(HostNameError::Label),
                b'.' => label = 0,
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
                b'A'..=b'Z' => (label, upper) = (label + 1, true),
                _ => return Err(HostNameError::Byte),
            }
        }
        if label == 0 || label > 63 {
            return Err(HostNameError::Label);
        }
        if text.as_bytes().rsplit(|byte| *byte == b'.').next().is_some_and(is_number) {
            return Err(HostNameError::Numeric);
        }
        Ok(Self(if upper { text.to_ascii_lowercase().into() } else { text.into() }))
    }

    /// Reads a name as an operator writes it: like [`HostName::parse`], and U-labels become A-labels (UTS 46).
    pub fn from_operator(text: &str) -> Result<Self, HostNameError> {
        if text.is_ascii() {
            return Self::parse(text);
        }
        Self::parse(&idna::domain_to_ascii(text).map_err(|_| HostNameError::Idna)?)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names that a wildcard for this one would stand under: `a.b.c` gives `b.c`, then `c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        let mut rest = Some(self.as_str());
        std::iter::from_fn(move || {
            rest = rest.and_then(|r| r.split_once('.')).map(|(_, parent)| parent);
            rest
        })
    }
}

/// The WHATWG "ends in a number" test on one label: decimal digits, or `0x` and hex digits.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::borrow::Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Where something wants to go: a name, or a literal address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    Name(HostName),
    Ip(IpAddr),
}

impl Host {
    /// A host as a peer writes it: a name, dotted-quad IPv4, or IPv6 in brackets. An IPv4-mapped IPv6 literal is
    /// its IPv4 address, so that one destination has one identity.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let v6: Ipv6Addr = inner.parse().map_err(|_| HostNameError::Byte)?;
            return Ok(Self::Ip(IpAddr::V6(v6).to_canonical()));
        }
        if text.starts_with(|c: char| c.is_ascii_digit())
            && let Ok(v4) = text.parse::<Ipv4Addr>()
        {
            return Ok(Self::Ip(v4.into()));
        }
        HostName::parse(text).map(Self::Name)
    }

    /// What is sent as `Host` or `:authority`: no port where it is the scheme's own.
    pub fn authority(&self, scheme: Scheme, port: u16) -> Arc<str> {
        match self {
            Self::Name(name) if scheme.default_port() == Some(port) => name.0.clone(),
            _ if scheme.default_port() == Some(port) => self.to_string().into(),
            _ => format!("{self}:{port}").into(),
        }
    }

    pub fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }

    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl From<HostName> for Host {
    fn from(name: HostName) -> Self {
        Self::Name(name)
    }
}

/// `host` or `host:port` (RFC 3986 authority without userinfo).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("the authority is empty")]
    Empty,
    #[error("the authority holds user information")]
    UserInfo,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("the host is not valid: {0}")]
    Host(#[from] HostNameError),
}

impl Authority {
    /// Strict: no userinfo, no spaces or commas, no signed port. An empty port is none (RFC 3986 section 3.2.3).
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.is_empty() {
            return Err(AuthorityError::Empty);
        }
        if text.contains('@') {
            return Err(AuthorityError::UserInfo);
        }
        let host_end = if text.starts_with('[') { text.find(']').map(|i| i + 1) } else { text.find(':') };
        let (host, rest) = text.split_at(host_end.unwrap_or(text.len()));
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return Err(AuthorityError::Port),
            Some("") => None,
            Some(digits) => Some(port(digits)?),
        };
        Ok(Self { host: Host::parse(host)?, port })
    }
}

fn port(digits: &str) -> Result<u16, AuthorityError> {
    if digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    match digits.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(AuthorityError::Port),
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_trailing_dot_do_not_make_another_identity() {
        assert_eq!(HostName::parse("API.Good.TEST.").unwrap(), HostName::parse("api.good.test").unwrap());
    }

    #[test]
    fn numbers_that_resolvers_read_as_addresses_are_no_names() {
        for text in
            ["127.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "0", "a.0x7F", "1.2.3.4.5"]
        {
            assert_eq!(HostName::parse(text), Err(HostNameError::Numeric), "{text}");
        }
        assert_eq!(Host::parse("[::ffff:127.0.0.1]").unwrap(), Host::Ip("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn odd_bytes_are_refused() {
        for text in ["", ".", "a..b", "a b", "a,b", "b\u{fc}cher.test", "a/b", "a%2eb", "a\0b", "*.a"] {
            assert!(HostName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn authorities_are_strict() {
        for text in
            ["", ":", "a@b", "a::", "a:0", "a:+1", "a:65536", "a:1:2", "[::1]x", "[::1", "a:443@b:443", "::1"]
        {
            assert!(Authority::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Authority::parse("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert_eq!(Authority::parse("a:").unwrap().to_string(), "a");
        assert_eq!(Authority::parse("[::1]:").unwrap().to_string(), "[::1]");
    }

    #[test]
    fn parents_walk_up() {
        let name = HostName::parse("a.b.c").unwrap();
        assert_eq!(name.parents().collect::<Vec<_>>(), ["b.c", "c"]);
    }
}
