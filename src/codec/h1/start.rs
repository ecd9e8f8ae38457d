//! Whether bytes can begin a request at all: told as early as they show it, so that nobody waits for the rest of a head
//! that will never be one. The sniffer of connections asks too, so that every door says the same of the same bytes.

use super::HeadError;
use super::lines::leading_blank;

/// The longest method that is read. The longest that is registered has 17 bytes.
const METHOD_BYTES: usize = 64;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// A method and a space: a request, whatever is wrong with it.
    Request,
    /// No HTTP/1: another protocol, the preface of HTTP/2, or noise.
    NotHttp,
    NeedMore,
}

/// What the first bytes of a connection are, which may be the empty lines that a reader skips.
pub fn beginning(bytes: &[u8]) -> Beginning {
    of_line(bytes.get(leading_blank(bytes)..).unwrap_or_default())
}

/// Looks for a method (RFC 9110 section 9.1, a token) and its space.
pub(super) fn of_line(bytes: &[u8]) -> Beginning {
    if matches!(bytes, b"" | b"\r") {
        return Beginning::NeedMore;
    }
    // The banner of ssh begins with a token, and has a space where a comment follows.
    if bytes.starts_with(b"SSH-") || bytes.starts_with(b"PRI * HTTP/2") {
        return Beginning::NotHttp;
    }
    match bytes.iter().take(METHOD_BYTES + 1).position(|byte| !is_token(*byte)) {
        Some(at) if at > 0 && bytes.get(at) == Some(&b' ') => {
            // Long enough to tell the preface from a request.
            if b"PRI * HTTP/2".starts_with(bytes) { Beginning::NeedMore } else { Beginning::Request }
        }
        Some(_) => Beginning::NotHttp,
        None if bytes.len() > METHOD_BYTES => Beginning::NotHttp,
        None => Beginning::NeedMore,
    }
}

/// A byte of a token (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Refuses the beginning of a head, of which the first `seen` bytes were looked at before, where nothing that follows
/// could make it one.
pub(super) fn check(head: &[u8], seen: usize) -> Result<(), HeadError> {
    if let Some(fault) = fault(head) {
        return Err(fault);
    }
    let from = seen.saturating_sub(1);
    let rest = head.get(from..).unwrap_or_default();
    let is_stray = |at: usize| rest.get(at + 1).is_some_and(|next| *next != b'\n');
    if memchr::memchr_iter(b'\r', rest).any(is_stray) {
        return Err(HeadError::Syntax("a carriage return without a line feed"));
    }
    match memchr::memchr(b'\n', head) {
        Some(end) if end >= seen => first_line(head.get(..=end).unwrap_or_default()),
        _ => Ok(()),
    }
}

/// That what could not be read as a head is no HTTP/1 at all.
pub(super) fn fault(head: &[u8]) -> Option<HeadError> {
    let is_http = match of_line(head) {
        Beginning::NotHttp => false,
        Beginning::NeedMore => true,
        // A line without a version is one of HTTP/0.9, of SMTP, or of whatever else speaks in lines.
        Beginning::Request => {
            whole_line(head).is_none_or(|line| memchr::memmem::find(line, b" HTTP/").is_some())
        }
    };
    (!is_http).then_some(HeadError::NotHttp)
}

/// The first line, where it came to a proper end: a fault within it shows before that.
fn whole_line(head: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b'\r', head)?;
    (head.get(end + 1) == Some(&b'\n')).then(|| head.get(..end))?.filter(|line| !line.contains(&b'\n'))
}

fn first_line(line: &[u8]) -> Result<(), HeadError> {
    httparse::Request::new(&mut []).parse(line).map(|_| ()).map_err(super::head::syntax)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fr_20_fr_22_what_cannot_begin_a_request_is_told_at_its_first_wrong_byte() {
        for (bytes, early) in [
            (&b"\x04\x01\x01\xbb"[..], 1),
            (b"\x05\x01\0", 1),
            (b"\x16\x03\x01", 1),
            (b"\x80\xff", 1),
            (b"SSH-2.0-x y\r\n", 4),
            (b"PRI * HTTP/2.0\r\n", 12),
            (b"EHLO\r\n", 5),
            (b"GET\t/ HTTP/1.1\r\n", 4),
            (b"\r\n", 2),
            (b"EHLO x\r\n", 8),
            (b"GET /\r\n", 7),
        ] {
            for upto in 0..bytes.len() {
                let told = check(&bytes[..upto], upto.saturating_sub(1)).is_err();
                assert_eq!(told, upto >= early, "{:?}", &bytes[..upto]);
            }
            assert_eq!(check(bytes, 0), Err(HeadError::NotHttp), "{bytes:?}");
        }
        assert_eq!(beginning(b"\r\n\r\n\r"), Beginning::NeedMore);
        assert_eq!(beginning(b"\r\n\r\n\r\n"), Beginning::NotHttp);
        assert_eq!(beginning(&[b'a'; METHOD_BYTES + 1]), Beginning::NotHttp);
        assert_eq!(beginning(&[b'a'; METHOD_BYTES]), Beginning::NeedMore);
    }

    #[test]
    fn fr_22_a_malformed_line_is_told_when_it_is_complete_however_it_arrives() {
        for head in [
            &b"GET / HTTP/2.0\r\n"[..],
            b"GET  / HTTP/1.1\r\n",
            b"GET / HTTP/1.1 \r\n",
            b"GET / HTTP/1.1\rHost: a",
            b"GET / HTTP/1.1\r\nHost: a\r\rb",
        ] {
            let wrong =
                |(from, to): (usize, usize)| matches!(check(&head[..to], from), Err(HeadError::Syntax(_)));
            assert!(wrong((0, head.len())), "{head:?}");
            assert!((1..=head.len()).map(|to| (to - 1, to)).any(wrong), "{head:?}");
        }
        for good in [&b"M1!#$ / HTTP/1.1\r\n"[..], b"GET / HTTP/1.0\r\nhost: a\r", b"PRI"] {
            for upto in 0..=good.len() {
                assert_eq!(check(&good[..upto], upto.saturating_sub(1)), Ok(()), "{good:?}");
            }
        }
    }
}
