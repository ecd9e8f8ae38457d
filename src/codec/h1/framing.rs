//! How long a message is (RFC 9112 section 6), where there is exactly one reading.

use super::HeadError;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};

/// Where the body of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body at all.
    None,
    Length(u64),
    Chunked,
    /// A response that ends with its connection.
    UntilClose,
}

/// Whether the connection can carry another message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    KeepAlive,
    Close,
}

/// Takes the framing fields out of a request's head.
pub(super) fn of_request(version: Version, headers: &mut HeaderMap) -> Result<Framing, HeadError> {
    let chunked = take_chunked(version, headers)?;
    let length = take_length(headers)?;
    match (chunked, length) {
        (true, Some(_)) => Err(HeadError::Framing("Transfer-Encoding and Content-Length in one message")),
        (true, None) => Ok(Framing::Chunked),
        (false, Some(0) | None) => Ok(Framing::None),
        (false, Some(n)) => Ok(Framing::Length(n)),
    }
}

/// Takes the framing fields out of a response's head. `method` is the request's. The second value is the length that
/// the fields stated, for answers to HEAD that state one without a body.
pub(super) fn of_response(
    version: Version,
    method: &Method,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<(Framing, Option<u64>), HeadError> {
    let chunked = take_chunked(version, headers)?;
    let length = take_length(headers)?;
    if chunked && length.is_some() {
        return Err(HeadError::Framing("Transfer-Encoding and Content-Length in one message"));
    }
    if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        return Ok((Framing::None, length));
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return Ok((Framing::None, None));
    }
    let framing = match (chunked, length) {
        (true, _) => Framing::Chunked,
        (false, Some(0)) => Framing::None,
        (false, Some(n)) => Framing::Length(n),
        (false, None) => Framing::UntilClose,
    };
    Ok((framing, length))
}

/// True for exactly one `Transfer-Encoding: chunked`. Any other coding, a list, a repetition or HTTP/1.0 is refused.
fn take_chunked(version: Version, headers: &mut HeaderMap) -> Result<bool, HeadError> {
    let http::header::Entry::Occupied(entry) = headers.entry(TRANSFER_ENCODING) else { return Ok(false) };
    let (_, mut values) = entry.remove_entry_mult();
    let one = values.next().is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if values.next().is_some() || !one {
        return Err(HeadError::Framing("a Transfer-Encoding other than one \"chunked\""));
    }
    if version < Version::HTTP_11 {
        return Err(HeadError::Framing("Transfer-Encoding in HTTP/1.0"));
    }
    Ok(true)
}

fn take_length(headers: &mut HeaderMap) -> Result<Option<u64>, HeadError> {
    let http::header::Entry::Occupied(entry) = headers.entry(CONTENT_LENGTH) else { return Ok(None) };
    let (_, mut values) = entry.remove_entry_mult();
    let value = values.next();
    if values.next().is_some() {
        return Err(HeadError::Framing("more than one Content-Length"));
    }
    let digits = value.as_ref().map(|v| v.as_bytes()).unwrap_or_default();
    decimal(digits).map(Some)
}

/// A decimal number up to 2^63 - 1.
fn decimal(digits: &[u8]) -> Result<u64, HeadError> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::Framing("a Content-Length that is no number"));
    }
    digits
        .iter()
        .try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))
        .filter(|n| *n <= i64::MAX as u64)
        .ok_or(HeadError::Framing("a Content-Length too large"))
}

/// What the version and the `Connection` field say of the connection after this message.
pub(super) fn persistence(version: Version, headers: &HeaderMap) -> Persistence {
    let said = |token: &str| {
        headers.get_all(CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|b| *b == b',')
                .any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    };
    let keep =
        if version >= Version::HTTP_11 { !said("close") } else { said("keep-alive") && !said("close") };
    if keep { Persistence::KeepAlive } else { Persistence::Close }
}
