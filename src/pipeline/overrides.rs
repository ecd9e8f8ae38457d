//! `_method=DELETE`: a form field or query parameter that makes some servers take a request for another method than the one
//! that was judged. It may as well be an honest form's own, so it is not refused: where a rule goes by methods, its record
//! tells it. The header fields of the same kind are taken off (`policy::fields`).

use super::{Ending, Facts};
use crate::codec::{Body, BodyError};
use crate::policy::Permit;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The finding in records.
pub(super) const METHOD_OVERRIDE: &str = "method-override";

/// The parameter's name to Rails, Laravel, Symfony, Spring and what is modelled on them.
const NAME: &[u8] = b"_method";

/// How much of a form is looked at. Forms that people fill in are shorter, and have this field first.
const LOOKED_AT: usize = 64 * 1024;

pub(super) fn in_query(permit: &Permit, facts: &mut Facts) {
    let query = permit.request().query().filter(|_| permit.rule().names_methods());
    if query.is_some_and(|query| Keys::default().find(query.as_bytes())) {
        facts.findings.push((METHOD_OVERRIDE.to_owned(), "query", String::new()));
    }
}

/// The body, looked at as it passes where it is a form under a rule that goes by methods.
pub(super) fn in_body(permit: &Permit, body: Body, ending: &Arc<Ending>) -> Body {
    if !permit.rule().names_methods() || !is_form(permit.request().headers()) {
        return body;
    }
    Body::stream(Watched { body, keys: Keys::default(), left: LOOKED_AT, ending: ending.clone() })
}

fn is_form(headers: &HeaderMap) -> bool {
    let types = headers
        .get_all(CONTENT_TYPE)
        .iter()
        .filter_map(|value| value.as_bytes().split(|b| *b == b';').next());
    types.into_iter().any(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded"))
}

/// Looks for the name among the keys of `key=value` pairs, however they are cut into pieces: escapes decoded, without case,
/// behind spaces.
struct Keys {
    /// How much of the name the key at hand agrees with; `None` from where it does not.
    agreed: Option<usize>,
    escape: Escape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    High,
    Low(u8),
}

impl Default for Keys {
    fn default() -> Self {
        Self { agreed: Some(0), escape: Escape::None }
    }
}

impl Keys {
    fn find(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| self.ends_the_name(*byte))
    }

    fn ends_the_name(&mut self, byte: u8) -> bool {
        if matches!(byte, b'&' | b';') {
            *self = Self::default();
            return false;
        }
        let Some(agreed) = self.agreed else { return false };
        let digit = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (self.escape, byte, digit) {
            (Escape::None, b'=', _) => {
                self.agreed = None;
                return agreed == NAME.len();
            }
            (Escape::None, b'%', _) => self.escape = Escape::High,
            (Escape::None, b'+', _) => self.agree(agreed, b' '),
            (Escape::None, byte, _) => self.agree(agreed, byte),
            (Escape::High, _, Some(digit)) => self.escape = Escape::Low(digit << 4),
            (Escape::Low(high), _, Some(digit)) => {
                self.escape = Escape::None;
                self.agree(agreed, high | digit);
            }
            (Escape::High | Escape::Low(_), _, None) => self.agreed = None,
        }
        false
    }

    fn agree(&mut self, agreed: usize, byte: u8) {
        self.agreed = match NAME.get(agreed) {
            Some(_) if agreed == 0 && byte == b' ' => Some(0),
            // PHP makes an underscore of a dot.
            Some(b'_') if byte == b'.' => Some(agreed + 1),
            Some(own) if byte.eq_ignore_ascii_case(own) => Some(agreed + 1),
            Some(_) | None => None,
        };
    }
}

struct Watched {
    body: Body,
    keys: Keys,
    /// How much is still looked at.
    left: usize,
    ending: Arc<Ending>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(data) = frame.iter().flatten().find_map(Frame::data_ref).filter(|_| this.left > 0) {
            let looked_at = data.get(..this.left).unwrap_or(data);
            this.left -= looked_at.len();
            if this.keys.find(looked_at) {
                this.ending.found(METHOD_OVERRIDE, "body", "");
                this.left = 0;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pm_21_the_field_is_found_in_every_spelling_and_in_pieces() {
        for (text, found) in [
            ("_method=DELETE", true),
            ("a=b&_method=put", true),
            ("a=b;_METHOD=put", true),
            ("%5Fmet%68od=x", true),
            ("+%20_method=x", true),
            (".method=x", true),
            ("_method=", true),
            ("", false),
            ("_method", false),
            ("_method&a=b", false),
            ("a=_method=x", false),
            ("_methods=x", false),
            ("x_method=x", false),
            ("_meth%6=x", false),
            ("_method%=x", false),
        ] {
            assert_eq!(Keys::default().find(text.as_bytes()), found, "{text}");
            let mut keys = Keys::default();
            assert_eq!(text.bytes().any(|byte| keys.find(&[byte])), found, "{text} byte by byte");
        }
    }
}
