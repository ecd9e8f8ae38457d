//! Names of network interfaces, and patterns of them: a name, or the beginning of names with a `*` behind it.
//!
//! They come from operators and end in packet rules, so what they may be is said here once.

use std::fmt;

/// `IFNAMSIZ` less the closing zero (linux/if.h).
pub(super) const MAX_INTERFACE_NAME: usize = 15;
/// Far more bridges than a pattern each needs.
const MAX_PATTERNS: usize = 64;

pub(super) fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@:".contains(&b))
}

/// One interface, or all whose names begin so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pattern {
    padded: [u8; MAX_INTERFACE_NAME + 1],
    length: usize,
    prefix: bool,
}

impl Pattern {
    pub fn parse(text: &str) -> Option<Self> {
        let (name, prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if !is_interface_name(name) || text == "lo" {
            return None;
        }
        let mut padded = [0; MAX_INTERFACE_NAME + 1];
        padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Some(Self { padded, length: name.len(), prefix })
    }

    /// What the kernel compares the beginning of a padded name with.
    pub fn bytes(&self) -> &[u8] {
        let compared = if self.prefix { self.length } else { self.padded.len() };
        self.padded.get(..compared).unwrap_or_default()
    }

    pub fn fits(&self, interface: &str) -> bool {
        let name = self.padded.get(..self.length).unwrap_or_default();
        let interface = interface.as_bytes();
        if self.prefix { interface.starts_with(name) } else { interface == name }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = String::from_utf8_lossy(self.padded.get(..self.length).unwrap_or_default());
        write!(f, "\"{name}{}\"", if self.prefix { "*" } else { "" })
    }
}

/// Tells all that is wrong with a list of patterns.
pub(super) fn check(patterns: &[String], problems: &mut Vec<String>) {
    if patterns.len() > MAX_PATTERNS {
        problems.push(format!("more than {MAX_PATTERNS} bridges to guard"));
    }
    for text in patterns.iter().filter(|text| Pattern::parse(text).is_none()) {
        problems.push(format!(
            "{text:?} is no bridge to guard: name an interface as docker0, or the beginning of several as br-*"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_ending_and_nothing_else_does() {
        let bridges = Pattern::parse("br-*").unwrap();
        assert!(bridges.fits("br-0123456789ab") && bridges.fits("br-") && !bridges.fits("br0"));
        assert_eq!((bridges.bytes(), bridges.to_string().as_str()), (&b"br-"[..], "\"br-*\""));
        let one = Pattern::parse("docker0").unwrap();
        assert!(one.fits("docker0") && !one.fits("docker01"));
        assert_eq!(one.bytes(), b"docker0\0\0\0\0\0\0\0\0\0");
        for wrong in ["", "*", "lo", "b*r", "br **", "br\"-*", "muchtoolongname0*"] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}
