//! Text that a peer chose, made fit for one line of JSON: printable ASCII only, bounded, secrets masked.
//!
//! Pure functions over bytes. `record` calls them for every field that is not one of our own words.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

/// How much of one text is written, counted as written (after escaping).
pub const TEXT_LIMIT: usize = 1024;

/// A parameter name longer than this is taken for a value.
const NAME_LIMIT: usize = 64;

/// Text out of a peer's hands (or quoting it): escaped and cut before it is written. May be anything, UTF-8 or not.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Text<'a>(pub(super) &'a [u8]);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for Text<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> From<&'a String> for Text<'a> {
    fn from(text: &'a String) -> Self {
        Self(text.as_bytes())
    }
}

/// Not the text: it is not masked yet.
impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
    }
}

/// Appends `text` as a JSON string of printable ASCII. False when the string does not say exactly what was sent,
/// because it was cut or had bytes that are not UTF-8 (written as `\xNN`).
pub(super) fn quote(out: &mut Vec<u8>, text: &[u8]) -> bool {
    out.push(b'"');
    let exact = if text.len() <= TEXT_LIMIT && text.iter().all(|&b| is_plain(b)) {
        out.extend_from_slice(text);
        true
    } else {
        escape(out, text)
    };
    out.push(b'"');
    exact
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'
}

fn escape(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let limit = out.len() + TEXT_LIMIT;
    let mut exact = true;
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if out.len() >= limit {
                return cut(out, text.len());
            }
            escape_char(out, c);
        }
        for byte in chunk.invalid() {
            if out.len() >= limit {
                return cut(out, text.len());
            }
            // Writing to a Vec cannot fail.
            let _ = write!(out, "\\\\x{byte:02x}");
            exact = false;
        }
    }
    exact
}

fn escape_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        ' '..='~' => out.push(c as u8),
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
}

/// The marker of a cut text says how long it was.
fn cut(out: &mut Vec<u8>, length: usize) -> bool {
    let _ = write!(out, "...[{length} bytes]");
    false
}

/// A request target with every value that may be a credential as `*`: userinfo, the values of query parameters and of
/// path parameters (`;name=value`), the fragment. Names stay, so that a rule can still be written from it.
pub(super) fn mask_target(target: &[u8]) -> Cow<'_, [u8]> {
    if target.first() == Some(&b'/') && !target.iter().any(|b| matches!(b, b'?' | b';' | b'#')) {
        return Cow::Borrowed(target);
    }
    let mut out = Vec::with_capacity(target.len());
    let (path, query, fragment) = split_target(target);
    if path.first() == Some(&b'/') {
        mask_path(&mut out, path);
    } else {
        let (scheme, rest) = split_scheme(path);
        out.extend_from_slice(scheme);
        mask_path(&mut out, &mask_userinfo(rest));
    }
    if let Some(query) = query {
        out.push(b'?');
        mask_items(&mut out, query, |b| matches!(b, b'&' | b';'));
    }
    if fragment.is_some() {
        out.extend_from_slice(b"#*");
    }
    Cow::Owned(out)
}

/// An authority without its userinfo. Whatever stands before the last `@` is taken for userinfo, also where a strict
/// parser would have refused it: this is for the record of exactly such requests.
pub(super) fn mask_userinfo(authority: &[u8]) -> Cow<'_, [u8]> {
    match authority.iter().rposition(|&b| b == b'@').and_then(|at| authority.get(at..)) {
        Some(host) => {
            let mut out = Vec::with_capacity(host.len() + 1);
            out.push(b'*');
            out.extend_from_slice(host);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(authority),
    }
}

/// Path, query and fragment; the marks `?` and `#` belong to none of them.
fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>, Option<&[u8]>) {
    let (rest, fragment) = split_at_byte(target, b'#');
    let (path, query) = split_at_byte(rest, b'?');
    (path, query, fragment)
}

fn split_at_byte(bytes: &[u8], mark: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |&b| b == mark);
    (parts.next().unwrap_or_default(), parts.next())
}

/// `http://` and what follows; no scheme gives an empty first part.
fn split_scheme(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.windows(3).position(|w| w == b"://").map_or(0, |at| at + 3);
    path.split_at_checked(end).unwrap_or((&[], path))
}

fn mask_path(out: &mut Vec<u8>, path: &[u8]) {
    for (at, segment) in path.split(|&b| b == b'/').enumerate() {
        if at > 0 {
            out.push(b'/');
        }
        let (name, parameters) = split_at_byte(segment, b';');
        out.extend_from_slice(name);
        if let Some(parameters) = parameters {
            out.push(b';');
            mask_items(out, parameters, |b| b == b';');
        }
    }
}

/// `name=value` becomes `name=*`; an item without a name is all value.
fn mask_items(out: &mut Vec<u8>, items: &[u8], separates: impl Fn(u8) -> bool) {
    for item in items.split_inclusive(|&b| separates(b)) {
        let (item, separator) = match item.split_last() {
            Some((&last, rest)) if separates(last) => (rest, Some(last)),
            _ => (item, None),
        };
        match split_at_byte(item, b'=') {
            (name, Some(_)) if name.len() <= NAME_LIMIT => {
                out.extend_from_slice(name);
                out.extend_from_slice(b"=*");
            }
            (b"", None) => {}
            _ => out.push(b'*'),
        }
        out.extend(separator);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8]) -> (String, bool) {
        let mut out = Vec::new();
        let exact = quote(&mut out, text);
        (String::from_utf8(out).unwrap(), exact)
    }

    fn masked(target: &str) -> String {
        String::from_utf8(mask_target(target.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn au_02_every_byte_becomes_printable_ascii_that_json_reads_back() {
        let hostile = "a\r\n\u{1b}[2J\0\"\\\u{2028}\u{202e}\u{7f}\u{9b}é𝄞\t";
        let (json, exact) = quoted(hostile.as_bytes());
        assert!(json.bytes().all(|b| (0x20..0x7f).contains(&b)), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
        assert!(exact);
    }

    #[test]
    fn au_02_bytes_that_are_not_utf8_are_shown_and_reported() {
        let (json, exact) = quoted(b"a\xff\xc3(");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "a\\xff\\xc3(");
        assert!(!exact);
    }

    #[test]
    fn au_02_a_long_text_is_cut_with_a_marker_whatever_it_consists_of() {
        for unit in ["a", "\u{0}", "é", "𝄞", "\""] {
            let long = unit.repeat(64 * 1024);
            let (json, exact) = quoted(long.as_bytes());
            assert!(!exact);
            assert!(json.len() < TEXT_LIMIT + 40, "{}", json.len());
            let text: String = serde_json::from_str(&json).unwrap();
            assert!(text.ends_with(&format!("...[{} bytes]", long.len())));
        }
        assert!(quoted(&[b'a'; TEXT_LIMIT]).1);
    }

    #[test]
    fn au_04_values_are_masked_and_names_stay() {
        assert_eq!(masked("/a/b"), "/a/b");
        assert_eq!(masked("/a?access_token=K5&page=2&&bare"), "/a?access_token=*&page=*&&*");
        assert_eq!(masked("/a;jsessionid=K5/b;v=1;w?x;token=K5"), "/a;jsessionid=*/b;v=*;*?*;token=*");
        assert_eq!(masked("/a?x=1#access_token=K5"), "/a?x=*#*");
        assert_eq!(masked("/a?"), "/a?");
        assert_eq!(masked("*"), "*");
        assert_eq!(masked(&format!("/a?{}=1", "K".repeat(65))), "/a?*");
    }

    #[test]
    fn au_04_userinfo_is_masked_in_every_form_of_target() {
        assert_eq!(masked("http://user:K5@host/p?q=1"), "http://*@host/p?q=*");
        assert_eq!(masked("http://user:K5/K6@host/p"), "http://*@host/p");
        assert_eq!(masked("user:K5@host:443"), "*@host:443");
        assert_eq!(mask_userinfo(b"user:K5@host:443").as_ref(), b"*@host:443");
        assert_eq!(mask_userinfo(b"host:443").as_ref(), b"host:443");
    }
}
