//! What a field block must be beyond what the `h2` crate sees to. That crate refuses names in upper case, fields that
//! belong to a connection and the bytes that no value holds; it lets white space around a value pass, and names that
//! are no tokens.

use http::HeaderMap;

/// Checks the regular fields of one block, a head's or trailers', of a request or of an answer: names are tokens (RFC
/// 9110 section 5.1), and no value begins or ends with a space or a tab (RFC 9113 section 8.2.1). The error says what is
/// malformed. Whoever judges or passes on what came over HTTP/2 asks this of each block first: a value that is judged
/// with its white space and read without it has two readings.
pub fn check_fields(fields: &HeaderMap) -> Result<(), &'static str> {
    for (name, value) in fields {
        if !name.as_str().bytes().all(is_token) {
            return Err("a field name that is no token");
        }
        let value = value.as_bytes();
        if [value.first(), value.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t')) {
            return Err("a field value with white space around it");
        }
    }
    Ok(())
}

/// `tchar` (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::COOKIE;
    use http::{HeaderName, HeaderValue};

    fn is_good(name: &str, value: &[u8]) -> bool {
        let name = HeaderName::from_lowercase(name.as_bytes()).unwrap();
        let fields = [(name, HeaderValue::from_bytes(value).unwrap())];
        check_fields(&fields.into_iter().collect()).is_ok()
    }

    #[test]
    fn sm_36_a_value_has_no_white_space_around_it() {
        for value in [&b" admin"[..], b"admin ", b"\tadmin", b"admin\t", b" ", b"\t"] {
            assert!(!is_good("x-mode", value), "{value:?}");
        }
        for value in [&b"admin"[..], b"a b", b"a\tb", b"", b"\xe9"] {
            assert!(is_good("x-mode", value), "{value:?}");
        }
        let cookies = ["a=1", "b=2", " c=3"].map(|cookie| (COOKIE, HeaderValue::from_static(cookie)));
        assert!(check_fields(&cookies.into_iter().collect()).is_err(), "each of its lines is looked at");
    }

    #[test]
    fn sm_36_a_name_is_a_token() {
        let tokens = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for byte in 0..=u8::MAX {
            assert_eq!(is_token(byte), tokens.contains(&byte), "{byte:#x}");
        }
        assert!(!is_good("x\"y", b"a"));
        assert!(is_good("x-y", b"a"));
    }
}
