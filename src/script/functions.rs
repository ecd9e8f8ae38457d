//! The functions on texts, lists and numbers that scripts have. Each does work linear in its input, which the engine
//! limits to a few kilobytes; `matches` is bounded by text times pattern, so the pattern is short.

use super::run::refuse;
use ipnet::IpNet;
use rhai::{Array, Engine, EvalAltResult, ImmutableString, Map};
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};

type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// Every name that a script may call; `check` refuses others at load.
pub(super) const NAMES: &[&str] = &[
    // decisions
    "pass",
    "allow",
    "deny",
    "tunnel",
    // texts, lists, maps
    "len",
    "is_empty",
    "contains",
    "starts_with",
    "ends_with",
    "to_lower",
    "trim",
    "matches",
    "to_string",
    "to_int",
    // addresses and paths
    "cidr_contains",
    "path_under",
    // heads
    "header",
    "headers",
    "has_header",
    "header_names",
    "set_header",
    "remove_header",
    // messages
    "byte",
    // built into Rhai
    "type_of",
];

const GLOB_MOST: usize = 256;

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("len", |text: ImmutableString| text.len() as i64);
    engine.register_fn("len", |list: &mut Array| list.len() as i64);
    engine.register_fn("len", |map: &mut Map| map.len() as i64);
    engine.register_fn("is_empty", |text: ImmutableString| text.is_empty());
    engine.register_fn("is_empty", |list: &mut Array| list.is_empty());
    engine
        .register_fn("contains", |text: ImmutableString, part: ImmutableString| text.contains(part.as_str()));
    engine.register_fn("contains", |list: &mut Array, item: ImmutableString| {
        list.iter().any(|entry| entry.as_immutable_string_ref().is_ok_and(|text| *text == item))
    });
    engine.register_fn("contains", |list: &mut Array, item: i64| {
        list.iter().any(|entry| entry.as_int().is_ok_and(|number| number == item))
    });
    engine.register_fn("contains", |map: &mut Map, key: ImmutableString| map.contains_key(key.as_str()));
    engine.register_fn("starts_with", |text: ImmutableString, part: ImmutableString| {
        text.starts_with(part.as_str())
    });
    engine.register_fn("ends_with", |text: ImmutableString, part: ImmutableString| {
        text.ends_with(part.as_str())
    });
    // ASCII only: what heads are compared by, and never longer than before.
    engine.register_fn("to_lower", |text: ImmutableString| ImmutableString::from(text.to_ascii_lowercase()));
    engine.register_fn("trim", |text: ImmutableString| ImmutableString::from(text.trim()));
    engine.register_fn("to_string", |number: i64| ImmutableString::from(number.to_string()));
    engine
        .register_fn("to_string", |truth: bool| ImmutableString::from(if truth { "true" } else { "false" }));
    engine.register_fn("to_int", |text: ImmutableString| -> Fallible<i64> {
        text.parse().map_err(|_| refuse("to_int: the text is not a whole number"))
    });
    engine.register_fn("matches", matches);
    engine.register_fn("cidr_contains", cidr_contains);
    engine.register_fn("path_under", path_under);
    engine.register_iterator::<Array>();
    engine.register_iterator::<Range<i64>>();
    engine.register_iterator::<RangeInclusive<i64>>();
}

/// Whether the whole text fits a pattern in which `*` is any run of characters (also `/`) and `?` any one.
fn matches(text: ImmutableString, pattern: ImmutableString) -> Fallible<bool> {
    if pattern.len() > GLOB_MOST {
        return Err(refuse(format!("matches: the pattern is longer than {GLOB_MOST} bytes")));
    }
    Ok(glob(text.as_bytes(), pattern.as_bytes()))
}

/// Goes back to the last star only, so the work is at most text times pattern.
fn glob(text: &[u8], pattern: &[u8]) -> bool {
    let (mut t, mut p) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                t += 1;
                p += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (t, p) = (from + 1, after);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|b| *b == b'*')
}

/// Whether a range such as `10.0.0.0/8` holds an address. A host that is a name is in no range.
fn cidr_contains(range: ImmutableString, address: ImmutableString) -> Fallible<bool> {
    let range: IpNet =
        range.parse().map_err(|_| refuse("cidr_contains: the first text is not a range like 10.0.0.0/8"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok(address.parse::<IpAddr>().is_ok_and(|address| range.contains(&address.to_canonical())))
}

/// Whether a path is the given one or below it, by whole segments: `/repos/acme` is not above `/repos/acme-evil`.
fn path_under(path: ImmutableString, parent: ImmutableString) -> bool {
    match path.strip_prefix(parent.trim_end_matches('/')) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_whole_texts() {
        for (text, pattern, fits) in [
            ("/repos/acme/x", "/repos/*/x", true),
            ("/repos/acme/y/x", "/repos/*/x", true),
            ("/repos/acme/x/", "/repos/*/x", false),
            ("abc", "a?c", true),
            ("ac", "a?c", false),
            ("", "*", true),
            ("", "", true),
            ("a", "", false),
            ("aXbXc", "a*b*c", true),
            ("mississippi", "m*iss*ip*i", true),
            ("mississippi", "m*iss*ip*x", false),
        ] {
            assert_eq!(glob(text.as_bytes(), pattern.as_bytes()), fits, "{text} {pattern}");
        }
    }

    #[test]
    fn paths_are_compared_by_segments() {
        let under = |path: &str, parent: &str| path_under(path.into(), parent.into());
        assert!(under("/repos/acme", "/repos/acme") && under("/repos/acme/x", "/repos/acme"));
        assert!(under("/repos/acme/x", "/repos/acme/") && under("/anything", "/"));
        assert!(!under("/repos/acme-evil", "/repos/acme") && !under("/repos", "/repos/acme"));
    }

    #[test]
    fn ranges_hold_addresses_in_every_spelling_and_no_names() {
        let holds = |range: &str, address: &str| cidr_contains(range.into(), address.into());
        assert!(holds("10.0.0.0/8", "10.1.2.3").unwrap());
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3").unwrap());
        assert!(holds("fd00::/8", "[fd00::1]").unwrap());
        assert!(!holds("10.0.0.0/8", "ten.example.com").unwrap());
        assert!(holds("10.0.0.0", "10.0.0.0").is_err());
    }
}
