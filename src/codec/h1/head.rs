//! Request and response heads: one strict parse, framing taken out, nothing repaired.

use super::framing::{self, Framing, Persistence};
use super::lines;
use super::start;
use bytes::BytesMut;
use http::header::{TRAILER, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use std::mem::MaybeUninit;

/// How much head is read at most; the same figures hold for HTTP/2.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub bytes: usize,
    /// Header fields; at most [`MAX_FIELDS`].
    pub fields: usize,
}

/// The parser's own table; a larger [`HeadLimits::fields`] is cut to it.
pub const MAX_FIELDS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the first bytes begin no request of HTTP/1")]
    NotHttp,
    #[error("{0}")]
    Syntax(&'static str),
    #[error("{0}")]
    Framing(&'static str),
    #[error("the head is larger than its limit")]
    TooLarge,
    #[error("an expectation other than 100-continue")]
    Expectation,
}

/// A request head that has exactly one reading. Framing fields, `Expect` and `Trailer` are taken out of `headers`.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    /// Exactly as it stands in the request line.
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub framing: Framing,
    pub persistence: Persistence,
    pub expects_continue: bool,
}

#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The length that the fields stated, where they did.
    pub stated_length: Option<u64>,
    pub persistence: Persistence,
}

/// Reads one request head off the front of `buf`, of which the first `seen` bytes were looked at before.
/// `Ok(None)` asks for more bytes.
pub fn parse_request(
    buf: &mut BytesMut,
    seen: usize,
    limits: &HeadLimits,
) -> Result<Option<RequestHead>, HeadError> {
    let blank = lines::leading_blank(buf);
    let raw = match take_head(buf, blank, seen, limits) {
        Ok(Some(raw)) => raw,
        Ok(None) => {
            start::check(buf.get(blank..).unwrap_or_default(), seen.saturating_sub(blank))?;
            return Ok(None);
        }
        Err(error) => return Err(start::fault(buf.get(blank..).unwrap_or_default()).unwrap_or(error)),
    };
    // What is refused while it comes is refused when it comes at once.
    if start::of_line(&raw) == start::Beginning::NotHttp {
        return Err(HeadError::NotHttp);
    }
    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    parsed
        .parse_with_uninit_headers(&raw, &mut slots)
        .map_err(|error| start::fault(&raw).unwrap_or_else(|| syntax(error)))?;
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HeadError::Syntax("the request line is incomplete"));
    };
    let version = if minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Syntax("not a method"))?;
    let target = target.to_owned();
    let mut headers = fields(&raw, parsed.headers, limits)?;
    let framing = framing::of_request(version, &mut headers)?;
    let expects_continue = take_expect(&mut headers)?;
    headers.remove(TRAILER);
    let persistence = framing::persistence(version, &headers);
    // HTTP/1.0 cannot be left for another protocol (RFC 9110 section 7.8).
    if version == Version::HTTP_10 {
        headers.remove(UPGRADE);
    }
    Ok(Some(RequestHead { method, target, version, headers, framing, persistence, expects_continue }))
}

/// Reads one response head off the front of `buf`; `method` is the request's.
pub fn parse_response(
    buf: &mut BytesMut,
    seen: usize,
    method: &Method,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead>, HeadError> {
    if buf.len() >= 5 && !buf.starts_with(b"HTTP/") {
        return Err(HeadError::Syntax("the answer is not HTTP"));
    }
    let Some(raw) = take_head(buf, 0, seen, limits)? else { return Ok(None) };
    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, &raw, &mut slots)
        .map_err(syntax)?;
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::Syntax("the status line is incomplete"));
    };
    let version = if minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Syntax("not a status code"))?;
    if code >= 600 {
        return Err(HeadError::Syntax("not a status code"));
    }
    let mut headers = fields(&raw, parsed.headers, limits)?;
    let (framing, stated_length) = framing::of_response(version, method, status, &mut headers)?;
    let persistence = framing::persistence(version, &headers);
    Ok(Some(ResponseHead { status, headers, framing, stated_length, persistence }))
}

/// Splits a whole head off the buffer.
fn take_head(
    buf: &mut BytesMut,
    blank: usize,
    seen: usize,
    limits: &HeadLimits,
) -> Result<Option<bytes::Bytes>, HeadError> {
    let found = lines::head_end(buf.get(blank..).unwrap_or_default(), seen.saturating_sub(blank))
        .map_err(|_| HeadError::Syntax("a line ends without a carriage return"))?;
    match found {
        Some(end) if end > limits.bytes => Err(HeadError::TooLarge),
        Some(end) => {
            let mut head = buf.split_to(blank + end);
            let _ = head.split_to(blank);
            Ok(Some(head.freeze()))
        }
        None if buf.len() > limits.bytes => Err(HeadError::TooLarge),
        None => Ok(None),
    }
}

/// Copies nothing: each value is a slice of the head's own bytes.
fn fields(
    raw: &bytes::Bytes,
    parsed: &[httparse::Header<'_>],
    limits: &HeadLimits,
) -> Result<HeaderMap, HeadError> {
    if parsed.len() > limits.fields {
        return Err(HeadError::TooLarge);
    }
    let mut headers = HeaderMap::with_capacity(parsed.len() + 2);
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| HeadError::Syntax("a header name holds a byte it must not"))?;
        let value = HeaderValue::from_maybe_shared(raw.slice_ref(field.value))
            .map_err(|_| HeadError::Syntax("a header value holds a byte it must not"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Whether the client waits to be told that its body is wanted (RFC 9110 section 10.1.1). Takes `Expect` out.
pub fn take_expect(headers: &mut HeaderMap) -> Result<bool, HeadError> {
    let http::header::Entry::Occupied(entry) = headers.entry(http::header::EXPECT) else { return Ok(false) };
    let (_, mut values) = entry.remove_entry_mult();
    let one = values.next().is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if values.next().is_some() || !one {
        return Err(HeadError::Expectation);
    }
    Ok(true)
}

pub(super) fn syntax(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::HeaderName => HeadError::Syntax("a header name holds a byte it must not"),
        httparse::Error::HeaderValue => HeadError::Syntax("a header value holds a byte it must not"),
        httparse::Error::Version => HeadError::Syntax("an HTTP version other than 1.0 and 1.1"),
        httparse::Error::Token => HeadError::Syntax("the request line holds a byte it must not"),
        httparse::Error::Status => HeadError::Syntax("the status line is not valid"),
        httparse::Error::NewLine => HeadError::Syntax("a line end is not valid"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 100 };

    fn request(text: &str) -> Result<Option<RequestHead>, HeadError> {
        parse_request(&mut BytesMut::from(text.as_bytes()), 0, &LIMITS)
    }

    fn response(text: &str) -> Result<Option<ResponseHead>, HeadError> {
        parse_response(&mut BytesMut::from(text.as_bytes()), 0, &Method::GET, &LIMITS)
    }

    #[test]
    fn an_ordinary_head_is_taken_and_the_rest_stays() {
        let mut buf =
            BytesMut::from("POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET".as_bytes());
        let head = parse_request(&mut buf, 0, &LIMITS).unwrap().unwrap();
        assert_eq!((head.target.as_str(), head.framing), ("/a?b", Framing::Length(3)));
        assert_eq!(&buf[..], b"abcGET");
        assert!(!head.headers.contains_key("content-length"));
    }

    #[test]
    fn fr_22_a_head_is_refused_alike_whole_and_in_pieces() {
        let long = format!("{} / HTTP/1.1", "M".repeat(65));
        for line in [
            "\r\n\r\n\r\nGET / HTTP/1.1",
            "GET /",
            "SSH-1 / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "{} / HTTP/1.1",
            "EHLO x",
            &long,
        ] {
            let text = format!("{line}\r\nhost: a\r\n\r\n");
            assert_eq!(request(&text).err(), Some(HeadError::NotHttp), "{line}");
            let early = (0..text.len() - 2).find_map(|upto| request(&text[..upto]).err());
            assert_eq!(early, Some(HeadError::NotHttp), "{line}");
        }
    }

    #[test]
    fn sm_21_what_becomes_of_a_head_does_not_depend_on_where_reads_end() {
        let parts = ["GET / HTTP/1.1", "GET ", "/", "\r", "\n", "\r\n", "a: b", "\u{e9}", " "];
        let (mut taken, mut refused) = (0, 0);
        for number in 0..parts.len().pow(6) {
            let (mut text, mut rest) = (String::new(), number);
            for _ in 0..6 {
                text.push_str(parts[rest % parts.len()]);
                rest /= parts.len();
            }
            let mut buf = BytesMut::new();
            let mut pieces = Ok(None);
            for (seen, byte) in text.bytes().enumerate() {
                buf.extend_from_slice(&[byte]);
                pieces = parse_request(&mut buf, seen, &LIMITS);
                if !matches!(pieces, Ok(None)) {
                    break;
                }
            }
            match (request(&text), pieces) {
                (Ok(Some(_)), Ok(Some(_))) => taken += 1,
                (Ok(None), Ok(None)) => {}
                (Err(HeadError::Syntax(_)), Err(HeadError::Syntax(_))) => refused += 1,
                (Err(whole), Err(pieces)) if whole == pieces => refused += 1,
                (whole, pieces) => panic!("{text:?}: at once {whole:?}, byte by byte {pieces:?}"),
            }
        }
        assert!(taken > 0 && refused > 100_000, "{taken} {refused}");
    }

    #[test]
    fn every_prefix_asks_for_more() {
        let whole = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for n in 0..whole.len() {
            assert!(request(&whole[..n]).unwrap().is_none(), "{n}");
        }
    }

    #[test]
    fn sm_01_to_14_a_request_with_more_than_one_reading_is_refused() {
        for fields in [
            "content-length: 4\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: chunked, identity\r\n",
            "transfer-encoding: identity\r\ncontent-length: 1\r\n",
            "transfer-encoding: ,chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding: \x0bchunked\r\n",
            "transfer-encoding:\r\n",
            "transfer-encoding : chunked\r\n",
            "x: y\r\n transfer-encoding: chunked\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: 0x5\r\n",
            "content-length:\r\n",
            "content-length: 18446744073709551621\r\n",
            "content-length: 18446744073709551615\r\n",
            "expect: 200-foo\r\n",
            "expect: 100-continue\r\nexpect: 100-continue\r\n",
            "a\0b: c\r\n",
            "a: b\rc\r\n",
            "a: b\0c\r\n",
            ": x\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
            assert!(request(&text).is_err(), "{fields:?}");
        }
        assert!(request("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        let twin =
            request("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n").unwrap().unwrap();
        assert_eq!(twin.framing, Framing::Chunked);
        let padded = request("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 010\r\n\r\n").unwrap().unwrap();
        assert_eq!(padded.framing, Framing::Length(10));
    }

    #[test]
    fn sm_31_a_response_with_more_than_one_reading_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c: d\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\0\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "HTTP/1.1 700 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "hello world",
        ] {
            assert!(response(text).is_err(), "{text:?}");
        }
        let twin = response("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n").unwrap().unwrap();
        assert_eq!(twin.framing, Framing::Length(1));
    }

    #[test]
    fn sm_40_the_head_has_limits() {
        let many: String = (0..101).map(|i| format!("x-{i}: a\r\n")).collect();
        assert_eq!(request(&format!("GET / HTTP/1.1\r\n{many}\r\n")).err(), Some(HeadError::TooLarge));
        let long = "a".repeat(65 * 1024);
        assert_eq!(request(&format!("GET / HTTP/1.1\r\nx: {long}")).err(), Some(HeadError::TooLarge));
    }
}
