//! Second step: what the first bytes are. Read into a buffer that is bounded in bytes and time and given again to
//! whoever reads next; nothing has been sent, minted or dialled.

use super::target::Targeted;
use super::{Gate, refuse};
use crate::base::OriginalDst;
use crate::codec::h1::{Beginning, beginning};
use crate::pipeline::Flow;
use crate::policy::{Reason, Refusal};
use crate::tls::{HelloError, MAX_HELLO_BYTES, Opening, Pending};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

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

/// Yes, no, or need more, on all bytes so far. What is wrong with a request is said in HTTP; the preface of HTTP/2 in clear
/// text is not spoken here.
fn told(hello: &mut Pending, bytes: &[u8]) -> Option<FirstBytes> {
    match beginning(bytes) {
        Beginning::Request => return Some(FirstBytes::Http),
        Beginning::NeedMore => return None,
        Beginning::NotHttp => {}
    }
    match hello.feed(bytes) {
        Ok(Some(opening)) => Some(FirstBytes::Tls(Box::new(opening))),
        Ok(None) => None,
        Err(HelloError::NotTls) => Some(FirstBytes::Other),
        Err(error) => Some(FirstBytes::BadTls(error)),
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
        for http in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"get / HTTP/1.1\r\n",
            b"PROPFIND /",
            b"\r\nGET /",
            b"MY1 /",
            b"!$ /",
        ] {
            assert_eq!(kind(http), Some(true), "{http:?}");
        }
        for short in [&b""[..], b"G", b"PRI * HTT", b"\x16\x03", b"\r", b"\r\n\r\n"] {
            assert_eq!(kind(short), None, "{short:?}");
        }
    }
}
