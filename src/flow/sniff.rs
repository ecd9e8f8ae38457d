//! Second step: what the first bytes are. Read into a buffer that is bounded in bytes and time and given again to
//! whoever reads next; nothing has been sent, minted or dialled.

use super::target::Targeted;
use super::{Gate, refuse};
use crate::base::OriginalDst;
use crate::pipeline::Flow;
use crate::policy::{Reason, Refusal};
use crate::tls::{HelloError, MAX_HELLO_BYTES, Opening, Pending};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest method that is looked for, and the space behind it.
const METHOD_BYTES: usize = 24;

pub(super) struct Sniffed {
    pub(super) stream: TcpStream,
    pub(super) flow: Flow,
    pub(super) ticket: super::registry::Ticket,
    pub(super) target: OriginalDst,
    pub(super) first: FirstBytes,
    /// All that was read.
    pub(super) ahead: Bytes,
}

pub(super) enum FirstBytes {
    Tls(Box<Opening>),
    BadTls(HelloError),
    Http,
    /// Bytes of no protocol that is spoken here.
    Other,
    /// A rule opens this port for bytes that are not looked at.
    Unread,
}

pub(super) async fn first_bytes(gate: &Arc<Gate>, targeted: Targeted) -> Option<Sniffed> {
    let Targeted { stream, flow, ticket, target } = targeted;
    if is_raw(&flow, target.0.port()) {
        let (first, ahead) = (FirstBytes::Unread, Bytes::new());
        return Some(Sniffed { stream, flow, ticket, target, first, ahead });
    }
    let (stream, first, ahead) = in_time(gate, &flow, stream, BytesMut::new(), String::new()).await?;
    Some(Sniffed { stream, flow, ticket, target, first, ahead })
}

/// Whether a rule of the flow's client opens this port for bytes that are not looked at.
pub(super) fn is_raw(flow: &Flow, port: u16) -> bool {
    let snapshot = flow.shared.snapshot.load_full();
    // Who belongs to no client any more is refused at the next step.
    flow.client_in(&snapshot).is_ok_and(|client| snapshot.opens_tcp(client, port))
}

/// The first bytes, behind those in `ahead`. `None`: the connection is over, with a record where it asked for anything.
pub(super) async fn in_time(
    gate: &Gate,
    flow: &Flow,
    mut stream: TcpStream,
    mut ahead: BytesMut,
    authority: String,
) -> Option<(TcpStream, FirstBytes, Bytes)> {
    let mut drain = gate.tasks.drain_signal();
    let classified = tokio::select! {
        biased;
        classified = tokio::time::timeout(gate.settings.hello, classify(&mut stream, &mut ahead)) => classified,
        // A daemon that stops has nothing to say to somebody who said nothing.
        () = drain.last_call() => Ok(None),
    };
    match classified {
        Ok(Some(first)) => Some((stream, first, ahead.freeze())),
        // Closed without a word: a connection pool warming up, or a port probe. Nothing was asked, nothing is decided.
        Ok(None) if ahead.is_empty() => None,
        Ok(None) => Some((stream, FirstBytes::Other, ahead.freeze())),
        Err(_) => {
            let refusal = Refusal::new(Reason::Timeout, "the first bytes did not come in time");
            refuse::connection(flow, authority, "tcp", &refusal).await;
            refuse::reset(stream);
            None
        }
    }
}

/// Reads until it can tell. `None`: the peer closed before.
async fn classify(stream: &mut TcpStream, ahead: &mut BytesMut) -> Option<FirstBytes> {
    let mut hello = Pending::default();
    loop {
        match told(&mut hello, ahead) {
            Some(first) => return Some(first),
            None if ahead.len() >= MAX_HELLO_BYTES => return Some(FirstBytes::BadTls(HelloError::TooLarge)),
            None => {}
        }
        let room = (MAX_HELLO_BYTES - ahead.len()).min(4096);
        ahead.reserve(room);
        match (&mut *stream).take(room as u64).read_buf(ahead).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Yes, no, or need more, on all bytes so far.
fn told(hello: &mut Pending, bytes: &[u8]) -> Option<FirstBytes> {
    let first = bytes.first()?;
    if first.is_ascii_uppercase() || first.is_ascii_lowercase() || *first == b'\r' {
        return http_or_other(bytes);
    }
    match hello.feed(bytes) {
        Ok(Some(opening)) => Some(FirstBytes::Tls(Box::new(opening))),
        Ok(None) => None,
        Err(HelloError::NotTls) => Some(FirstBytes::Other),
        Err(error) => Some(FirstBytes::BadTls(error)),
    }
}

/// A method and a space begin a request, whatever the method: what is wrong with it is said in HTTP. The preface of
/// HTTP/2 in clear text is not spoken here.
fn http_or_other(bytes: &[u8]) -> Option<FirstBytes> {
    if bytes.starts_with(b"PRI * HTTP/2") || bytes.starts_with(b"SSH-") {
        return Some(FirstBytes::Other);
    }
    // The reader of heads skips as many.
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if matches!(bytes, b"" | b"\r") {
        return None;
    }
    match bytes.iter().position(|b| !b.is_ascii_alphabetic() && *b != b'-' && *b != b'_' && *b != b'*') {
        Some(0) => Some(FirstBytes::Other),
        Some(at) if at <= METHOD_BYTES && bytes.get(at) == Some(&b' ') => {
            // Long enough to tell the preface from a request.
            if bytes.starts_with(b"PRI ") && bytes.len() < 12 { None } else { Some(FirstBytes::Http) }
        }
        Some(_) => Some(FirstBytes::Other),
        None if bytes.len() > METHOD_BYTES => Some(FirstBytes::Other),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> Option<bool> {
        told(&mut Pending::default(), bytes).map(|first| matches!(first, FirstBytes::Http))
    }

    #[test]
    fn tl_14_what_is_neither_tls_nor_http_is_told_early() {
        for other in [
            &b"SSH-2.0-x\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\n",
            b"\x00\x01\x02",
            b"EHLO\r\n",
            b"{}",
            b"\x04\x01\0P",
            b"\r\n\r\n\r\n",
            b"\r\r",
        ] {
            assert_eq!(kind(other), Some(false), "{other:?}");
        }
        for http in [&b"GET / HTTP/1.1\r\n"[..], b"get / HTTP/1.1\r\n", b"PROPFIND /", b"\r\nGET /"] {
            assert_eq!(kind(http), Some(true), "{http:?}");
        }
        for short in [&b""[..], b"G", b"PRI * HTT", b"\x16\x03", b"\r", b"\r\n\r\n"] {
            assert_eq!(kind(short), None, "{short:?}");
        }
    }
}
