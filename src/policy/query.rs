//! The ways in which a server may read a query: parted at `&` alone or at `;` too, `+` as a space or not, keys in
//! any case, with `[]`, with leading spaces. A query condition must hold in every one of them.

use std::borrow::Cow;

/// One parameter under one reading.
#[derive(Debug)]
pub(super) struct Parameter {
    /// Exactly the key, decoded, and parted at `&`.
    key: Vec<u8>,
    /// What lenient servers make of the key.
    loose_key: Vec<u8>,
    /// The value's readings.
    values: Vec<Vec<u8>>,
    strict: bool,
}

/// More parameters than any honest request has; a longer query matches no query condition.
const MAX_PARAMETERS: usize = 1_024;

#[derive(Debug)]
pub(super) struct Query {
    parameters: Vec<Parameter>,
    too_many: bool,
}

impl Query {
    pub(super) fn read(query: &str) -> Self {
        let strict = query.split('&').map(|part| parameter(part, true));
        let lenient =
            query.split(['&', ';']).map(|part| parameter(part, false)).filter(|_| query.contains(';'));
        let parameters: Vec<_> = strict.chain(lenient).take(MAX_PARAMETERS + 1).collect();
        let too_many = parameters.len() > MAX_PARAMETERS;
        Self { parameters, too_many }
    }

    /// For an allow: the parameter is there under its exact name, and each parameter that any server could take for
    /// it has an accepted value in every reading.
    pub(super) fn surely(&self, name: &str, accepts: impl Fn(&[u8]) -> bool) -> bool {
        let loose = loose_key(name.as_bytes());
        let alike = || self.parameters.iter().filter(|p| p.loose_key == loose);
        !self.too_many
            && alike().any(|p| p.strict && p.key == name.as_bytes())
            && alike().all(|p| p.values.iter().all(|v| accepts(v)))
    }

    /// For a deny: some reading of some parameter that a server could take for it has the value.
    pub(super) fn perhaps(&self, name: &str, accepts: impl Fn(&[u8]) -> bool) -> bool {
        let loose = loose_key(name.as_bytes());
        self.too_many
            || self.parameters.iter().any(|p| p.loose_key == loose && p.values.iter().any(|v| accepts(v)))
    }
}

fn parameter(part: &str, strict: bool) -> Parameter {
    let (key, value) = part.split_once('=').unwrap_or((part, ""));
    let spaced: Cow<'_, str> = if key.contains('+') { key.replace('+', " ").into() } else { key.into() };
    let key: Vec<u8> = percent_encoding::percent_decode_str(&spaced).collect();
    let mut values = vec![percent_encoding::percent_decode_str(value).collect()];
    if value.contains('+') {
        values.push(percent_encoding::percent_decode_str(&value.replace('+', " ")).collect());
    }
    Parameter { loose_key: loose_key(&key), key, values, strict }
}

/// Case, leading spaces, `[...]`, and the letters that PHP turns into an underscore.
fn loose_key(key: &[u8]) -> Vec<u8> {
    let key = key.trim_ascii_start();
    let end = memchr::memchr(b'[', key).filter(|&at| at > 0).unwrap_or(key.len());
    let fold = |&b: &u8| if matches!(b, b' ' | b'.') { b'_' } else { b.to_ascii_lowercase() };
    key.iter().take(end).map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surely(query: &str) -> bool {
        Query::read(query).surely("repo", |v| v == b"ok")
    }

    #[test]
    fn pm_16_a_query_condition_holds_in_every_interpretation_or_not_at_all() {
        for good in [
            "repo=ok",
            "a=b&repo=ok",
            "repo=ok&a=b",
            "repo=ok&repo=ok",
            "%72epo=%6fk",
            "repo=ok&repository=x",
        ] {
            assert!(surely(good), "{good}");
        }
        for bad in [
            "",
            "repo",
            "repo=evil",
            "repo=ok&repo=evil",
            "repo=evil&repo=ok",
            "repo=ok;repo=evil",
            "a=b;repo=evil&repo=ok",
            "repo=ok&%72epo=evil",
            "repo=ok&REPO=evil",
            "repo=ok&repo[]=evil",
            "repo=ok&repo[0]=evil",
            "repo=ok&+repo=evil",
            "repo=ok&repo=",
            "REPO=ok",
            "repo=ok+",
        ] {
            assert!(!surely(bad), "{bad}");
            assert!(
                bad.is_empty() || !bad.contains("evil") || Query::read(bad).perhaps("repo", |v| v == b"evil")
            );
        }
    }

    #[test]
    fn a_query_of_too_many_parts_is_never_sure_and_always_suspect() {
        let long = format!("repo=ok{}", "&a=b".repeat(MAX_PARAMETERS));
        assert!(!surely(&long));
        assert!(Query::read(&long).perhaps("repo", |_| false));
    }
}
