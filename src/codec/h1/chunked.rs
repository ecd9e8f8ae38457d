//! The chunked coding (RFC 9112 section 7.1), read strictly: hexadecimal sizes and CRLF only, extensions dropped and
//! bounded, trailers parsed as fields.

use super::HeadError;
use super::head::MAX_FIELDS;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A size line, extensions included, and the trailer section are bounded each.
const MAX_SIZE_LINE: usize = 4 * 1024;
const MAX_EXTENSIONS: usize = 16 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    extensions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// One step of decoding.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    /// The end of the message, with its trailer fields.
    End(HeaderMap),
    NeedMore,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self { state: State::Size, extensions: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn next(&mut self, buf: &mut BytesMut) -> Result<Piece, HeadError> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = line(buf, MAX_SIZE_LINE)? else { return Ok(Piece::NeedMore) };
                    let (size, extension) = size(&line)?;
                    self.extensions += extension;
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(HeadError::Framing("too many bytes of chunk extensions"));
                    }
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    if buf.is_empty() {
                        return Ok(Piece::NeedMore);
                    }
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                    let left = left - n as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Piece::Data(buf.split_to(n).freeze()));
                }
                State::DataEnd => match buf.as_ref() {
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Piece::NeedMore),
                    _ => return Err(HeadError::Framing("a chunk is longer than it says")),
                },
                State::Trailers => {
                    let Some(trailers) = trailers(buf)? else { return Ok(Piece::NeedMore) };
                    self.state = State::Done;
                    return Ok(Piece::End(trailers));
                }
                State::Done => return Ok(Piece::End(HeaderMap::new())),
            }
        }
    }
}

/// Takes one line with its CRLF off the buffer and gives it without.
fn line(buf: &mut BytesMut, limit: usize) -> Result<Option<BytesMut>, HeadError> {
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return if buf.len() > limit { Err(HeadError::Framing("a line is too long")) } else { Ok(None) };
    };
    let mut line = buf.split_to(end + 1);
    if end > limit || !line.ends_with(b"\r\n") {
        return Err(HeadError::Framing("a line does not end in CRLF"));
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// The size, and how many bytes of extension follow it.
fn size(line: &[u8]) -> Result<(u64, usize), HeadError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (number, rest) = line.split_at(digits);
    if digits == 0 || digits > 15 {
        return Err(HeadError::Framing("a chunk size that is no hexadecimal number"));
    }
    if !matches!(rest.trim_ascii_start().first(), None | Some(b';')) || rest.contains(&b'\r') {
        return Err(HeadError::Framing("a chunk size that is no hexadecimal number"));
    }
    if !rest.is_empty() && rest.trim_ascii().is_empty() {
        return Err(HeadError::Framing("space behind a chunk size"));
    }
    let value = number.iter().fold(0u64, |n, d| n << 4 | u64::from(char::from(*d).to_digit(16).unwrap_or(0)));
    Ok((value, rest.len()))
}

fn trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, HeadError> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let end =
        super::lines::head_end(buf, 0).map_err(|_| HeadError::Framing("a trailer line is not valid"))?;
    let Some(end) = end else {
        return if buf.len() > MAX_TRAILERS { Err(HeadError::TooLarge) } else { Ok(None) };
    };
    if end > MAX_TRAILERS {
        return Err(HeadError::TooLarge);
    }
    let raw = buf.split_to(end);
    let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(&raw, &mut slots) else {
        return Err(HeadError::Framing("a trailer field is not valid"));
    };
    let mut map = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let invalid = HeadError::Framing("a trailer field is not valid");
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| invalid)?;
        map.append(name, HeaderValue::from_bytes(field.value).map_err(|_| invalid)?);
    }
    Ok(Some(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &[u8], step: usize) -> Result<(Vec<u8>, HeaderMap, usize), HeadError> {
        let (mut chunked, mut buf, mut out) = (Chunked::new(), BytesMut::new(), Vec::new());
        let mut input = text.chunks(step);
        loop {
            match chunked.next(&mut buf)? {
                Piece::Data(data) => out.extend_from_slice(&data),
                Piece::End(trailers) => return Ok((out, trailers, buf.len())),
                Piece::NeedMore => match input.next() {
                    Some(more) => buf.extend_from_slice(more),
                    None => return Err(HeadError::Framing("truncated")),
                },
            }
        }
    }

    #[test]
    fn the_result_does_not_depend_on_where_reads_end() {
        let text = b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nx-sum: 1\r\n\r\nrest";
        for step in 1..=text.len() {
            let (out, trailers, _) = decode(text, step).unwrap();
            assert_eq!((out.as_slice(), trailers["x-sum"].as_bytes()), (&b"hello!"[..], &b"1"[..]));
        }
    }

    #[test]
    fn sm_15_odd_sizes_are_refused() {
        for text in [
            "0x5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "0_5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "\r\nhello\r\n",
            "00000000000000005\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\na b: c\r\n\r\n",
            "5;\r\r\nhello",
        ] {
            assert!(decode(format!("{text}0\r\n\r\n").as_bytes(), 64).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sm_18_extensions_are_bounded() {
        let line = format!("1;{}\r\nx\r\n", "e".repeat(4000));
        let text = line.repeat(5) + "0\r\n\r\n";
        assert!(decode(text.as_bytes(), 4096).is_err());
    }
}
