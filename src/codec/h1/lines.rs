//! Finds the end of a head and refuses line endings that another parser could read otherwise.

/// Looks for the empty line that ends a head, in bytes of which the first `seen` were looked at before and held none.
/// Gives the length of the head with its empty line. `Err` for a line feed without a carriage return before it, which
/// RFC 9112 lets a recipient take for a line end, and which parsers disagree on.
pub(super) fn head_end(buf: &[u8], seen: usize) -> Result<Option<usize>, BareLineFeed> {
    // Step back over a line end that may have been cut.
    let from = seen.saturating_sub(3);
    let tail = buf.get(from..).unwrap_or_default();
    for at in memchr::memchr_iter(b'\n', tail) {
        let end = from + at;
        match buf.get(..end) {
            Some([.., b'\r']) => {}
            _ => return Err(BareLineFeed),
        }
        if matches!(buf.get(..end), Some([.., b'\r', b'\n', b'\r'])) {
            return Ok(Some(end + 1));
        }
    }
    Ok(None)
}

/// How many bytes of empty lines stand before the first line (RFC 9112 section 2.2 asks to skip one or two).
pub(super) fn leading_blank(buf: &[u8]) -> usize {
    match buf {
        [b'\r', b'\n', b'\r', b'\n', ..] => 4,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BareLineFeed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nrest";
        for seen in 0..head.len() - 5 {
            for upto in seen..=head.len() {
                let want = (upto >= head.len() - 4).then_some(head.len() - 4);
                assert_eq!(head_end(&head[..upto], seen.min(upto)), Ok(want), "{seen} {upto}");
            }
        }
    }

    #[test]
    fn sm_21_a_bare_line_feed_is_refused_at_once() {
        assert_eq!(head_end(b"GET / HTTP/1.1\n", 0), Err(BareLineFeed));
        assert_eq!(head_end(b"GET / HTTP/1.1\r\na: b\n\n", 0), Err(BareLineFeed));
    }
}
