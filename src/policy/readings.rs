//! The ways in which a server may read a path: escapes decoded once, slashes merged and unmerged, `%2f` as slash and as
//! data, two slashes at the front as the start of an authority, and `;parameters` as data and as nothing (RFC 3986 section
//! 3.3 leaves that to the server; those of Java cut them off, some before they decode and some after). Says nothing of
//! rules; `matching` does.

use super::Malformed;
use super::path::{Target, bare_dots, check_escapes, dot_segment, escape, path_escape, resolve_dots};
use std::borrow::Cow;

/// Every way in which a server may read one path. Rules judge all of them.
#[derive(Debug)]
pub(super) struct Readings<'a> {
    paths: Vec<Cow<'a, [u8]>>,
    /// How many of them stand before those in which parameters were cut off.
    with_parameters: usize,
    /// Holds an encoded slash, a second level of encoding, or bytes that are no UTF-8: a path rule refuses it
    /// unless it says `encoded_slash = "allow"`.
    pub(super) obscure: bool,
}

impl Target {
    /// The path's own bytes, where that is its only reading.
    pub(super) fn plain_path(&self) -> Option<&[u8]> {
        self.plain.then(|| self.path_and_query.path().as_bytes())
    }

    pub(super) fn readings(&self) -> Readings<'_> {
        let path = self.path_and_query.path().as_bytes();
        if self.plain {
            return Readings { paths: vec![Cow::Borrowed(path)], with_parameters: 1, obscure: false };
        }
        let data = decode(path, EncodedSlash::Data);
        let encoded_slash = has_escape_of(b'/', path);
        let obscure = encoded_slash || is_double_encoded(&data) || std::str::from_utf8(&data).is_err();
        let mut paths: Vec<Cow<'_, [u8]>> = Vec::new();
        put_readings(path, encoded_slash, Parameters::Data, &mut paths);
        let with_parameters = paths.len();
        if path.contains(&b';') {
            put_readings(&without_parameters(path), encoded_slash, Parameters::Data, &mut paths);
        }
        if path.contains(&b';') || has_escape_of(b';', path) {
            put_readings(path, encoded_slash, Parameters::Nothing, &mut paths);
        }
        Readings { paths, with_parameters, obscure }
    }
}

impl Readings<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.paths.iter().map(AsRef::as_ref)
    }

    /// Those that leave parameters where they are.
    pub(super) fn with_parameters(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().take(self.with_parameters)
    }
}

/// What becomes of parameters once a path is decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parameters {
    Data,
    Nothing,
}

fn put_readings(path: &[u8], encoded_slash: bool, parameters: Parameters, paths: &mut Vec<Cow<'_, [u8]>>) {
    let mut add = |reading: Vec<u8>| {
        if !paths.iter().any(|known| **known == *reading) {
            paths.push(Cow::Owned(reading));
        }
    };
    let decoded = |path: &[u8], slash| {
        let decoded = decode(path, slash);
        if parameters == Parameters::Nothing { without_parameters(&decoded) } else { decoded }
    };
    for path in std::iter::once(path.to_vec()).chain(behind_slashes(path)) {
        let mut all = vec![decoded(&path, EncodedSlash::Data)];
        if encoded_slash {
            let slash = decoded(&path, EncodedSlash::Slash);
            for slash in [merged(&slash), slash] {
                // What is escaped still is data to most servers, and dots to those that decode again.
                all.extend([bare_dots, dot_segment].map(|dots| resolve_dots(&slash, dots)));
            }
        }
        for reading in all {
            for reading in behind_authority(&reading).into_iter().chain([reading]) {
                add(merged(&reading));
                add(reading);
            }
        }
    }
}

/// Cuts each segment at its first semicolon.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut inside = false;
    for &byte in path {
        inside = byte != b'/' && (inside || byte == b';');
        if !inside {
            out.push(byte);
        }
    }
    out
}

/// Puts the path of a rule into the form that readings have.
pub(super) fn decode_rule_path(text: &str) -> Result<Vec<u8>, Malformed> {
    if !text.starts_with('/') {
        return Err(Malformed::Form);
    }
    check_escapes(text.as_bytes(), path_escape)?;
    Ok(decode(text.as_bytes(), EncodedSlash::Data))
}

/// What Python's server makes of a path that begins with several slashes: one, and the others stay as they are.
fn behind_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(b"//")?;
    let end = rest.iter().position(|&byte| byte != b'/').unwrap_or(rest.len());
    Some([b"/", rest.get(end..)?].concat())
}

/// What URL libraries leave of a path that begins with two slashes: they take its first segment for an authority (RFC
/// 3986 section 4.2), and those of WHATWG any slashes before it too. Servers use them on the target.
fn behind_authority(path: &[u8]) -> Option<Vec<u8>> {
    let rest = behind_slashes(path)?;
    let path = memchr::memchr_iter(b'/', &rest).nth(1).and_then(|at| rest.get(at..));
    Some(path.unwrap_or(b"/").to_vec())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EncodedSlash {
    /// Stays `%2F`, which is no slash.
    Data,
    Slash,
}

fn decode(text: &[u8], slash: EncodedSlash) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, escape(tail)) {
            (b'%', Some(b'/')) if slash == EncodedSlash::Data => out.extend_from_slice(b"%2F"),
            (b'%', Some(value)) => out.push(value),
            _ => {
                out.push(byte);
                rest = tail;
                continue;
            }
        }
        rest = tail.get(2..).unwrap_or_default();
    }
    out
}

fn has_escape_of(byte: u8, path: &[u8]) -> bool {
    memchr::memchr_iter(b'%', path).any(|at| escape(path.get(at + 1..).unwrap_or_default()) == Some(byte))
}

/// After one decoding there is still an escape of `.`, `/`, `\` or `%` (an encoded slash itself was kept as `%2F`
/// and is counted by its own test).
fn is_double_encoded(data: &[u8]) -> bool {
    memchr::memchr_iter(b'%', data)
        .any(|at| matches!(escape(data.get(at + 1..).unwrap_or_default()), Some(b'.' | b'/' | b'\\' | b'%')))
}

fn merged(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    for &byte in path {
        if byte != b'/' || out.last() != Some(&b'/') {
            out.push(byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::policy::path::canonical;

    fn readings(target: &str) -> Vec<String> {
        let target = canonical(target).unwrap();
        target.readings().iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect()
    }

    #[test]
    fn readings_show_what_servers_may_see() {
        assert_eq!(readings("/a/b"), ["/a/b"]);
        assert_eq!(readings("/a%20b"), ["/a b"]);
        assert_eq!(readings("//a//b"), ["/b", "//b", "/a/b", "//a//b", "/a//b"]);
        assert_eq!(readings("///a/b"), ["/b", "/a/b", "///a/b"]);
        assert_eq!(readings("/x/..%2fadmin"), ["/x/..%2Fadmin", "/admin"]);
        let twice = readings("/a%2fb/%252e%252e/c");
        assert!(
            ["/a%2Fb/%2e%2e/c", "/a/b/%2e%2e/c", "/a/c"].iter().all(|path| twice.iter().any(|r| r == path))
        );
        assert!(canonical("/a%252fb").unwrap().readings().obscure);
        assert!(canonical("/a%25%32%65b").unwrap().readings().obscure);
        assert!(canonical("/%c0%ae%c0%ae/x").unwrap().readings().obscure);
        assert!(!canonical("/a%25b").unwrap().readings().obscure);
    }

    #[test]
    fn pm_18_parameters_are_read_as_data_and_as_nothing() {
        assert_eq!(readings("/a;x/b"), ["/a;x/b", "/a/b"]);
        assert_eq!(readings("/a%3Bx/b;y"), ["/a;x/b;y", "/a;x/b", "/a/b"]);
        assert_eq!(readings("/a;x%3by/b"), ["/a;x;y/b", "/a/b"]);
        assert_eq!(readings("/%61;x"), ["/a;x", "/a"]);
        assert_eq!(readings("/;/a"), ["/;/a", "/", "/a", "//a"]);
        let slash = readings("/a;x%2fb/c");
        assert!(
            ["/a;x/b/c", "/a/c", "/a/b/c"].iter().all(|path| slash.iter().any(|r| r == path)),
            "{slash:?}"
        );
        let target = canonical("/a;x").unwrap();
        assert_eq!(target.readings().with_parameters().collect::<Vec<_>>(), [b"/a;x"]);
    }
}
