//! Whether a request is a DNS question inside HTTPS (RFC 8484, and the JSON form of the large public resolvers). Such
//! a question would ask for names that nobody judged, so an allow needs `doh = true` for it.
//!
//! Looks at what the request says of itself and at its path and query. A question that is hidden in the body of
//! something else is not found here.

use super::CanonicalRequest;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use std::borrow::Cow;

/// Media types of DNS messages: RFC 8484 and its drafts, RFC 9230, RFC 8427 and what resolvers call their own JSON.
const TYPES: [&str; 5] = [
    "application/dns-message",
    "application/dns-udpwireformat",
    "application/oblivious-dns-message",
    "application/dns+json",
    "application/dns-json",
];
/// The first segment of the path that nearly every server has.
const SEGMENT: &str = "dns-query";
/// A header and the shortest question.
const SHORTEST: usize = 12 + 5;

pub(super) fn is_question(request: &CanonicalRequest) -> bool {
    names_type(request.headers()) || has_path(request.path()) || request.query().is_some_and(has_message)
}

fn names_type(headers: &HeaderMap) -> bool {
    let stated = headers.get_all(CONTENT_TYPE).iter().chain(headers.get_all(ACCEPT));
    stated.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split([',', ';'])).any(|word| {
        let word = word.trim();
        word.len() > "application/dns".len() && TYPES.iter().any(|known| word.eq_ignore_ascii_case(known))
    })
}

fn has_path(path: &str) -> bool {
    let path = match path.contains('%') {
        true => percent_encoding::percent_decode_str(path).decode_utf8_lossy(),
        false => Cow::Borrowed(path),
    };
    let segments = path.split('/').filter_map(|segment| segment.split(';').next());
    segments
        .into_iter()
        .find(|segment| !segment.is_empty())
        .is_some_and(|first| first.eq_ignore_ascii_case(SEGMENT))
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// `?dns=` with a message of one question (RFC 8484 section 4.1.1), whatever the path.
fn has_message(query: &str) -> bool {
    let pairs = query.split('&').map(|pair| percent_encoding::percent_decode_str(pair).decode_utf8_lossy());
    pairs.filter_map(|pair| pair.strip_prefix("dns=").map(str::to_owned)).any(|mut value| {
        // What lenient decoders make of it: either alphabet, any padding, line ends.
        value.retain(|c| !matches!(c, '=' | '\r' | '\n'));
        let message = LENIENT.decode(value.replace('+', "-").replace('/', "_")).unwrap_or_default();
        // Flags of a query, one question, no answer (RFC 1035 section 4.1.1).
        message.len() >= SHORTEST && matches!(message.as_slice(), [_, _, 0..=7, _, 0, 1, 0, 0, ..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Host, Scheme};
    use http::{HeaderName, HeaderValue, Method};

    fn asks(target: &str, fields: &[(&str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let host = Host::parse("api.good.test").unwrap();
        let made = CanonicalRequest::new(Scheme::Https, host, 443, Method::POST, target, headers);
        is_question(&made.unwrap())
    }

    #[test]
    fn a_question_that_is_spelled_otherwise_is_one() {
        let question = "AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";
        assert!(asks(&format!("/abcdef?dns={question}"), &[]));
        assert!(asks(&format!("/abcdef?%64ns={question}"), &[]));
        assert!(asks(&format!("/abcdef?dns=%41{}", &question[1..]), &[]));
        assert!(asks(&format!("/abcdef?dns={question}%0A%3D%3D"), &[]));
        assert!(!asks("/abcdef?dns=cloud", &[]));
    }

    #[test]
    fn dn_35_questions_are_known_by_type_path_or_message() {
        for (target, fields) in [
            ("/x", &[("content-type", "application/dns-message")][..]),
            ("/x", &[("accept", "text/html, Application/DNS-Message;q=0.9")]),
            ("/x", &[("accept", "*/*"), ("accept", "application/dns-json")]),
            ("/resolve?name=evil.test", &[("accept", "application/dns+json")]),
            ("/dns-query", &[]),
            ("/;/dns-query;a=b", &[]),
            ("//DNS-query/id?x", &[]),
            ("/%64ns-query;a=b", &[]),
            ("/x?a=b&dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB", &[]),
            ("/x?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB==", &[]),
        ] {
            assert!(asks(target, fields), "{target} {fields:?}");
        }
    }

    #[test]
    fn dn_35_ordinary_requests_are_no_questions() {
        for (target, fields) in [
            ("/docs/dns-query", &[("accept", "text/html")][..]),
            ("/dns-queries", &[("content-type", "application/json")]),
            ("/x?dns=192.0.2.53", &[]),
            ("/x?dns=YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo", &[]),
            ("/zones/dns", &[("accept", "application/dns-something")]),
        ] {
            assert!(!asks(target, fields), "{target} {fields:?}");
        }
    }
}
