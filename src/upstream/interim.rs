//! Interim answers (RFC 9110 section 15.2): what one request may cause of them, by either protocol. They come with no
//! body and are handed on as they come; whoever takes them may hold them all, so both their number and their size have
//! a bound.

use super::UpstreamError;
use http::{HeaderMap, Response, StatusCode};

/// Interim answers that one request may cause.
const MOST: usize = 16;

/// What an interim answer is given to, as soon as it is there.
pub type OnInterim<'a> = &'a mut (dyn FnMut(Response<()>) + Send);

/// The interim answers to one request, however often it is sent.
pub(super) struct Interims<'a> {
    pass: OnInterim<'a>,
    left: usize,
    /// Bytes of fields that may still come: all heads together are no larger than one may be.
    room: usize,
}

impl<'a> Interims<'a> {
    pub(super) fn new(pass: OnInterim<'a>, room: usize) -> Self {
        Self { pass, left: MOST, room }
    }

    /// Whether one has come: the request was looked at and is not sent once more.
    pub(super) fn any(&self) -> bool {
        self.left < MOST
    }

    /// Takes the next one. `100` answers what we do ourselves; `101` is no interim answer where it was not asked for.
    pub(super) fn take(&mut self, interim: Response<()>) -> Result<(), UpstreamError> {
        let refused = |words: &str| Err(UpstreamError::Protocol(words.to_owned()));
        if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
            return refused("101 Switching Protocols that nobody asked for");
        }
        let (Some(left), Some(room)) =
            (self.left.checked_sub(1), self.room.checked_sub(size(interim.headers())))
        else {
            return refused("too many interim answers");
        };
        (self.left, self.room) = (left, room);
        if interim.status() != StatusCode::CONTINUE {
            (self.pass)(interim);
        }
        Ok(())
    }
}

/// As HTTP/1 writes them: each with a colon, a space and the end of its line.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interim(status: u16, link: &str) -> Response<()> {
        Response::builder().status(status).header("link", link).body(()).unwrap()
    }

    #[test]
    fn rs_06_interim_answers_have_a_bound_in_number_and_in_bytes() {
        let mut passed = 0;
        let mut pass = |_| passed += 1;
        let mut interims = Interims::new(&mut pass, 1000);
        assert!(!interims.any());
        for status in (100..116).map(|status| if status == 101 { 199 } else { status }) {
            assert!(interims.take(interim(status, "</a>")).is_ok(), "{status}");
        }
        assert!(interims.any());
        assert!(interims.take(interim(103, "")).is_err(), "the seventeenth");
        assert_eq!(passed, 15, "all but 100, which is ours to give");

        let mut pass = |_| {};
        let mut interims = Interims::new(&mut pass, 1000);
        assert!(interims.take(interim(103, &"a".repeat(600))).is_ok());
        assert!(interims.take(interim(103, &"a".repeat(600))).is_err(), "more bytes than one head may have");
        assert!(interims.take(interim(101, "")).is_err());
    }
}
