//! The canonical request target (DESIGN section 2, rule 5). Dot segments are removed; all else is sent as it came.
//! `readings` has the ways in which a server may read it.

use super::Malformed;
use http::uri::PathAndQuery;
use std::borrow::Cow;

/// The longest target that `http` can carry.
const MAX_TARGET_BYTES: usize = 65_534;

/// A target in the form that is judged and sent.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) path_and_query: PathAndQuery,
    /// The path has one reading: its own bytes.
    pub(super) plain: bool,
}

/// Makes a target canonical: `""` and `"?q"` get their slash (RFC 9112 section 3.2.1), dot segments go (RFC 3986
/// section 5.2.4, escaped dots too). Doing it twice changes nothing more.
pub(super) fn canonical(target: &str) -> Result<Target, Malformed> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(Malformed::TooLong);
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if let Some(query) = query {
        check_query(query)?;
    }
    let path = if path.is_empty() { "/" } else { path };
    let shape = scan(path)?;
    if shape == Shape::Plain && path.len() == query.map_or(target.len(), |q| target.len() - q.len() - 1) {
        return finish(target, true);
    }
    let path = match shape {
        Shape::Plain => Cow::Borrowed(path),
        Shape::Odd => {
            check_escapes(path.as_bytes(), path_escape)?;
            without_dot_segments(path)?
        }
    };
    let plain = scan(&path)? == Shape::Plain;
    match query {
        Some(query) => finish(&format!("{path}?{query}"), plain),
        None => finish(&path, plain),
    }
}

fn finish(target: &str, plain: bool) -> Result<Target, Malformed> {
    let path_and_query = PathAndQuery::try_from(target).map_err(|_| Malformed::Byte)?;
    Ok(Target { path_and_query, plain })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Plain,
    /// Escapes, parameters, doubled slashes or a segment that starts with a dot.
    Odd,
}

/// One pass over the bytes of a path; most paths are plain and end here.
fn scan(path: &str) -> Result<Shape, Malformed> {
    let mut shape = Shape::Plain;
    let mut before = b'x';
    for byte in path.bytes() {
        match byte {
            b'/' | b'.' if before == b'/' => shape = Shape::Odd,
            b'%' | b';' => shape = Shape::Odd,
            b'\\' => return Err(Malformed::Backslash),
            b'#' => return Err(Malformed::Fragment),
            0..=0x1f | 0x7f => return Err(Malformed::Control),
            b' ' | b'"' | b'<' | b'>' | b'`' | 0x80.. => return Err(Malformed::Byte),
            _ => {}
        }
        before = byte;
    }
    if path.starts_with('/') { Ok(shape) } else { Err(Malformed::Form) }
}

/// Escaped line ends and tabs are honest in a form's query; raw controls and NUL are not.
fn check_query(query: &str) -> Result<(), Malformed> {
    let mut escaped = false;
    for byte in query.bytes() {
        match byte {
            b'%' => escaped = true,
            b'#' => return Err(Malformed::Fragment),
            0..=0x1f | 0x7f => return Err(Malformed::Control),
            b' ' | b'"' | b'<' | b'>' | 0x80.. => return Err(Malformed::Byte),
            _ => {}
        }
    }
    if !escaped {
        return Ok(());
    }
    check_escapes(query.as_bytes(), |value| if value == 0 { Err(Malformed::Control) } else { Ok(()) })
}

pub(super) fn path_escape(value: u8) -> Result<(), Malformed> {
    match value {
        0..=0x1f | 0x7f => Err(Malformed::Control),
        b'\\' => Err(Malformed::Backslash),
        _ => Ok(()),
    }
}

pub(super) fn check_escapes(
    mut rest: &[u8],
    allowed: impl Fn(u8) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while let Some(at) = memchr::memchr(b'%', rest) {
        let after = rest.get(at + 1..).unwrap_or_default();
        allowed(escape(after).ok_or(Malformed::Escape)?)?;
        rest = after;
    }
    Ok(())
}

/// The value of the two hex digits that follow a percent sign.
pub(super) fn escape(after: &[u8]) -> Option<u8> {
    let (&high, &low) = (after.first()?, after.get(1)?);
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn without_dot_segments(path: &str) -> Result<Cow<'_, str>, Malformed> {
    let mut dots = false;
    for segment in path.split('/') {
        if let Some(kind) = dot_segment(segment.as_bytes()) {
            if kind.parameters {
                return Err(Malformed::DotParameter);
            }
            dots = true;
        }
    }
    if !dots {
        return Ok(Cow::Borrowed(path));
    }
    let kept = resolve_dots(path.as_bytes(), dot_segment);
    String::from_utf8(kept).map(Cow::Owned).map_err(|_| Malformed::Byte)
}

/// A `.` or `..` segment, its dots raw or escaped, perhaps with `;parameters` (the semicolon too) that some servers cut
/// off first.
pub(super) struct DotSegment {
    parent: bool,
    parameters: bool,
}

pub(super) fn dot_segment(segment: &[u8]) -> Option<DotSegment> {
    let (mut rest, mut dots) = (segment, 0);
    loop {
        rest = match rest {
            [b'.', tail @ ..] => tail,
            [b'%', b'2', b'e' | b'E', tail @ ..] => tail,
            _ => break,
        };
        dots += 1;
    }
    let parameters = matches!(rest, [b';', ..] | [b'%', b'3', b'b' | b'B', ..]);
    let whole = matches!(dots, 1 | 2) && (rest.is_empty() || parameters);
    whole.then_some(DotSegment { parent: dots == 2, parameters })
}

/// A dot segment as one finds it who takes nothing for an escape or a parameter.
pub(super) fn bare_dots(segment: &[u8]) -> Option<DotSegment> {
    matches!(segment, b"." | b"..").then_some(DotSegment { parent: segment.len() == 2, parameters: false })
}

/// Removes dot segments and what they cancel. A path that ends in one ends in a slash.
pub(super) fn resolve_dots(path: &[u8], dots: fn(&[u8]) -> Option<DotSegment>) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.split(|&b| b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            None => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
            Some(dot) => {
                if dot.parent {
                    let parent = memchr::memrchr(b'/', &out).unwrap_or(0);
                    out.truncate(parent);
                }
                if last {
                    out.push(b'/');
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(target: &str) -> String {
        canonical(target).unwrap().path_and_query.as_str().to_owned()
    }

    #[test]
    fn pm_01_02_dot_segments_are_removed_in_every_spelling() {
        for (from, to) in [
            ("/public/../admin", "/admin"),
            ("/public/./../admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/.%2E/admin", "/admin"),
            ("/public/%2e/x", "/public/x"),
            ("/../../a", "/a"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a//../b", "/a/b"),
            ("/.hidden/...", "/.hidden/..."),
            ("/a/..?x=/../y", "/?x=/../y"),
        ] {
            assert_eq!(sent(from), to, "{from}");
        }
    }

    #[test]
    fn pm_06_12_14_what_has_no_canonical_form_is_refused() {
        for (target, why) in [
            ("/public/..\\admin", Malformed::Backslash),
            ("/public%5c..%5cadmin", Malformed::Backslash),
            ("\\admin", Malformed::Backslash),
            ("/%zz", Malformed::Escape),
            ("/%", Malformed::Escape),
            ("/%2", Malformed::Escape),
            ("/%u002e%u002e", Malformed::Escape),
            ("/%2%65", Malformed::Escape),
            ("/%00", Malformed::Control),
            ("/%0d%0aHost:%20evil.test", Malformed::Control),
            ("/a\tb", Malformed::Control),
            ("/a\u{1}", Malformed::Control),
            ("/a\u{7f}", Malformed::Control),
            ("/%7f", Malformed::Control),
            ("/public/a#/../../admin", Malformed::Fragment),
            ("/a?x#y", Malformed::Fragment),
            ("/a?x=%", Malformed::Escape),
            ("/a?x=%00", Malformed::Control),
            ("/b\u{fc}cher", Malformed::Byte),
            ("/a b", Malformed::Byte),
            ("/public/..;/admin", Malformed::DotParameter),
            ("/public/%2e.;a=b/admin", Malformed::DotParameter),
            ("/public/..%3b/admin", Malformed::DotParameter),
            ("/public/.%2E%3Ba=b/admin", Malformed::DotParameter),
            ("admin", Malformed::Form),
            ("*", Malformed::Form),
            ("http://x/", Malformed::Form),
        ] {
            assert_eq!(canonical(target).unwrap_err(), why, "{target:?}");
        }
    }

    #[test]
    fn pm_13_an_empty_path_is_the_root() {
        assert_eq!(sent(""), "/");
        assert_eq!(sent("?x=/public/a"), "/?x=/public/a");
    }

    #[test]
    fn pm_18_a_legal_odd_path_is_untouched() {
        for target in [
            "/a%20b%C3%A9+c,~!$&'()*;=:@/%7E",
            "/@scope%2fname",
            "//a//b",
            "/a?b=c%0d%0a&filter[x]=`{|}^\\",
            "/a?",
        ] {
            assert_eq!(sent(target), target);
        }
    }

    #[test]
    fn pm_27_targets_have_a_longest() {
        assert!(canonical(&format!("/{}", "a".repeat(60_000))).is_ok());
        assert_eq!(canonical(&format!("/{}", "a".repeat(70_000))).unwrap_err(), Malformed::TooLong);
    }

    #[test]
    fn canonicalising_is_idempotent_over_every_short_path_of_hostile_parts() {
        let parts = ["/", ".", "..", "%2e", "%2F", "%252e", "a", ";", "%3b", "?", "%41"];
        let mut checked = 0;
        for number in 0..parts.len().pow(5) {
            let mut target = String::from("/");
            let mut rest = number;
            for _ in 0..5 {
                target.push_str(parts[rest % parts.len()]);
                rest /= parts.len();
            }
            if let Ok(once) = canonical(&target) {
                let once = once.path_and_query.as_str().to_owned();
                assert_eq!(sent(&once), once, "{target}");
                checked += 1;
            }
        }
        assert!(checked > 20_000);
    }
}
