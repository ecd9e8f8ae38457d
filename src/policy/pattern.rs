//! Host patterns of rules: an exact name, one leading `*.` (one or more labels, never the apex), or a bare `*`.
//! Which of them an allowing rule may hold is checked here too. Names are HostName's business.

use crate::base::{HostName, HostNameError};
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`: every name, but no literal address.
    Any,
    Exact(HostName),
    /// `*.name`: every name under it.
    Under(HostName),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("only a leading \"*.\" may stand for other names")]
    Glob,
    #[error("a host is a name without scheme, port or path")]
    NotAHost,
    #[error("an address does not belong in hosts")]
    Address,
    #[error("{0}")]
    Name(HostNameError),
}

impl PatternError {
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Glob => "list the hosts, or write \"*.example.com\" for every name under example.com",
            Self::NotAHost => "write \"example.com\"; ports and schemes have keys of their own",
            Self::Address => "put it under addresses = [\"192.0.2.1/32\"]",
            Self::Name(_) => "write a DNS name such as \"api.example.com\" or \"*.example.com\"",
        }
    }
}

/// How wide a wildcard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breadth {
    Fine,
    /// Everybody's: `*`.
    Everything,
    /// Under a public suffix of the ICANN part of the list (`*.com`).
    PublicSuffix,
    /// Under a suffix whose owner gives names to strangers (`*.github.io`).
    PrivateSuffix,
}

impl HostPattern {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (name, wild) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains(['*', '?', '[', ']', '{', '}']) {
            return Err(if text.starts_with('[') && text.contains(':') {
                PatternError::Address
            } else {
                PatternError::Glob
            });
        }
        if name.contains(['/', ':', '@', ' ']) {
            let literal = name.parse::<ipnet::IpNet>().is_ok() || name.parse::<std::net::IpAddr>().is_ok();
            return Err(if literal { PatternError::Address } else { PatternError::NotAHost });
        }
        match HostName::from_operator(name) {
            Ok(name) if wild => Ok(Self::Under(name)),
            Ok(name) => Ok(Self::Exact(name)),
            Err(HostNameError::Numeric) => Err(PatternError::Address),
            Err(error) => Err(PatternError::Name(error)),
        }
    }

    pub(super) fn breadth(&self) -> Breadth {
        match self {
            Self::Any => Breadth::Everything,
            Self::Exact(_) => Breadth::Fine,
            Self::Under(name) => match psl::suffix(name.as_str().as_bytes()) {
                Some(suffix) if suffix == name.as_str() => match suffix.typ() {
                    Some(psl::Type::Icann) => Breadth::PublicSuffix,
                    Some(psl::Type::Private) => Breadth::PrivateSuffix,
                    None => Breadth::Fine,
                },
                _ => Breadth::Fine,
            },
        }
    }

    pub(super) fn covers(&self, name: &HostName) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(own) => own == name,
            Self::Under(parent) => name.parents().any(|p| p == parent.as_str()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => name.fmt(f),
            Self::Under(name) => write!(f, "*.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, name: &str) -> bool {
        HostPattern::parse(pattern).unwrap().covers(&HostName::parse(name).unwrap())
    }

    #[test]
    fn hc_25_26_a_suffix_is_a_suffix_of_labels_and_a_wildcard_never_the_apex() {
        assert!(covers("github.com", "GitHub.com."));
        for name in
            ["evilgithub.com", "github.com.evil.net", "xgithub.com", "github.comevil.net", "www.github.com"]
        {
            assert!(!covers("github.com", name), "{name}");
        }
        assert!(covers("*.wild.test", "a.wild.test"));
        assert!(covers("*.wild.test", "a.b.wild.test"));
        assert!(covers("*.wild.test", "my_bucket.wild.test"));
        assert!(!covers("*.wild.test", "wild.test"));
        assert!(!covers("*.wild.test", "awild.test"));
    }

    #[test]
    fn hc_28_no_other_glob_is_a_pattern() {
        for text in [
            "**",
            "a*.wild.test",
            "[ab].wild.test",
            "?.wild.test",
            "wild.*",
            "*.*.test",
            "*wild.test",
            "{a,b}.test",
        ] {
            assert_eq!(HostPattern::parse(text), Err(PatternError::Glob), "{text}");
        }
        for (text, breadth) in [
            ("*", Breadth::Everything),
            ("*.com", Breadth::PublicSuffix),
            ("*.co.uk", Breadth::PublicSuffix),
            ("*.COM.", Breadth::PublicSuffix),
            ("*.github.io", Breadth::PrivateSuffix),
            ("*.s3.amazonaws.com", Breadth::PrivateSuffix),
            ("*.corp", Breadth::Fine),
            ("*.wild.test", Breadth::Fine),
            ("*.example.com", Breadth::Fine),
            ("com", Breadth::Fine),
        ] {
            assert_eq!(HostPattern::parse(text).unwrap().breadth(), breadth, "{text}");
        }
    }

    #[test]
    fn hc_29_an_operator_may_write_an_international_name() {
        assert!(covers("b\u{fc}cher.test", "xn--bcher-kva.test"));
    }

    #[test]
    fn what_is_no_host_is_told_apart() {
        assert_eq!(HostPattern::parse("127.0.0.1"), Err(PatternError::Address));
        assert_eq!(HostPattern::parse("[::1]"), Err(PatternError::Address));
        assert_eq!(HostPattern::parse("10.0.0.0/8"), Err(PatternError::Address));
        assert_eq!(HostPattern::parse("https://a.test/"), Err(PatternError::NotAHost));
        assert_eq!(HostPattern::parse("a.test:443"), Err(PatternError::NotAHost));
        assert!(matches!(HostPattern::parse(""), Err(PatternError::Name(_))));
    }
}
