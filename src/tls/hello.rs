//! The facts of a ClientHello: what it names and offers, or why it is none. Pure: yes, no, or need more.
//!
//! `flow::sniff` reads the first bytes into one bounded buffer and hands the whole buffer to [`Pending::feed`] each
//! time it grew. The buffer stays the caller's, so a tunnel can replay it; an interception goes on from the
//! [`Opening`] with `terminate`. Nothing is sent, minted or looked up here.

use super::alert::Alert;
use super::wire;
use crate::base::HostName;
use rustls::server::{Accepted, Acceptor, ClientHello};
use std::net::IpAddr;

/// The most bytes a hello may take on the wire, record headers included. Real ones are 0.3 to 4 KB; the room above
/// is for absurdly small records. It is also under what rustls buffers, so that it never refuses a whole feed.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// What a complete ClientHello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub sni: Sni,
    pub alpn: AlpnOffer,
}

/// The `server_name` of a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sni {
    Name(HostName),
    /// An address literal, which RFC 6066 forbids and some clients send.
    Address(IpAddr),
    Absent,
    /// A text that is no host name.
    Invalid,
}

/// The application protocols of a hello, as far as the gate speaks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlpnOffer {
    pub h2: bool,
    /// Or HTTP/1.0.
    pub http11: bool,
    /// Something else is offered too.
    pub other: bool,
}

impl AlpnOffer {
    /// Something is offered, and nothing of it is `h2` or a version of HTTP/1: answered `no_application_protocol`.
    pub fn is_foreign(self) -> bool {
        self.other && !self.h2 && !self.http11
    }
}

/// A hello that can be answered with a handshake.
#[derive(Debug)]
pub struct Opening {
    pub hello: Hello,
    /// Holds every byte that was fed; goes to `terminate` with the bare socket.
    pub accepted: Accepted,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HelloError {
    #[error("the bytes are not TLS")]
    NotTls,
    #[error("the client offers nothing newer than version {offered:#06x}, TLS 1.2 is the oldest spoken")]
    OldVersion { offered: u16 },
    #[error("the ClientHello is malformed: {reason}")]
    Malformed { reason: rustls::Error, alert: Vec<u8> },
    #[error("the ClientHello takes more than {MAX_HELLO_BYTES} bytes")]
    TooLarge,
}

impl HelloError {
    /// The record to write before closing; `None` where the peer speaks no TLS.
    pub fn alert(&self) -> Option<Vec<u8>> {
        match self {
            Self::NotTls => None,
            Self::OldVersion { offered } => Some(Alert::ProtocolVersion.record_for(*offered).to_vec()),
            Self::Malformed { alert, .. } if alert.is_empty() => Some(Alert::DecodeError.record().to_vec()),
            Self::Malformed { alert, .. } => Some(alert.clone()),
            Self::TooLarge => Some(Alert::DecodeError.record().to_vec()),
        }
    }
}

/// A hello on its way in.
#[derive(Default)]
pub struct Pending {
    acceptor: Acceptor,
    fed: usize,
}

impl Pending {
    /// `buffer` holds everything since the first byte of the connection. `None`: more bytes are needed.
    /// After an answer other than `None` this is used up.
    pub fn feed(&mut self, buffer: &[u8]) -> Result<Option<Opening>, HelloError> {
        match first_bytes(buffer) {
            FirstBytes::Tls => {}
            FirstBytes::Short => return Ok(None),
            FirstBytes::Sslv2 { offered } => return Err(HelloError::OldVersion { offered }),
            FirstBytes::Other => return Err(HelloError::NotTls),
        }
        if buffer.len() > MAX_HELLO_BYTES {
            return Err(HelloError::TooLarge);
        }
        let mut fresh = buffer.get(self.fed..).unwrap_or_default();
        self.fed = buffer.len();
        while !fresh.is_empty() {
            if !matches!(self.acceptor.read_tls(&mut fresh), Ok(1..)) {
                return Err(HelloError::TooLarge);
            }
        }
        match self.acceptor.accept() {
            Ok(Some(accepted)) => opening(accepted, buffer).map(Some),
            Ok(None) if buffer.len() == MAX_HELLO_BYTES => Err(HelloError::TooLarge),
            Ok(None) => Ok(None),
            Err((reason, mut alert)) => Err(match wire::facts(buffer) {
                Some(facts) if facts.version < 0x0303 => HelloError::OldVersion { offered: facts.version },
                _ => {
                    let mut bytes = Vec::new();
                    // Writing to a Vec cannot fail; an empty alert is replaced in `alert()`.
                    let _ = alert.write_all(&mut bytes);
                    HelloError::Malformed { reason, alert: bytes }
                }
            }),
        }
    }
}

/// Are these bytes for [`Pending`]: a TLS record with a ClientHello in it, or the SSL 2.0 form, which it refuses in
/// the protocol's own words? `None`: too few to tell.
pub fn looks_like_tls(bytes: &[u8]) -> Option<bool> {
    match first_bytes(bytes) {
        FirstBytes::Tls | FirstBytes::Sslv2 { .. } => Some(true),
        FirstBytes::Other => Some(false),
        FirstBytes::Short => None,
    }
}

enum FirstBytes {
    Tls,
    Sslv2 { offered: u16 },
    Other,
    Short,
}

fn first_bytes(bytes: &[u8]) -> FirstBytes {
    let starts = |shape: &[fn(u8) -> bool]| bytes.iter().zip(shape).all(|(byte, fits)| fits(*byte));
    // Content type handshake, version 3.x, two bytes of length, message type client_hello.
    let tls = starts(&[|b| b == 22, |b| b == 3, |_| true, |_| true, |_| true, |b| b == 1]);
    // RFC 5246 appendix E.2: length with the high bit set, message type 1, version 0.2 or 3.x.
    let sslv2 = starts(&[|b| b & 0x80 != 0, |_| true, |b| b == 1, |b| b == 0 || b == 3, |_| true]);
    match bytes {
        [_, _, _, _, _, _, ..] if tls => FirstBytes::Tls,
        [_, _, _, major, minor, ..] if sslv2 => {
            FirstBytes::Sslv2 { offered: u16::from_be_bytes([*major, *minor]) }
        }
        _ if tls || sslv2 => FirstBytes::Short,
        _ => FirstBytes::Other,
    }
}

fn opening(accepted: Accepted, buffer: &[u8]) -> Result<Opening, HelloError> {
    let facts = wire::facts(buffer);
    if let Some(facts) = &facts
        && facts.version < 0x0303
    {
        return Err(HelloError::OldVersion { offered: facts.version });
    }
    let hello = accepted.client_hello();
    let sni = match (hello.server_name(), facts.and_then(|f| f.address)) {
        (Some(name), _) => HostName::parse(name).map_or(Sni::Invalid, Sni::Name),
        (None, Some(address)) => Sni::Address(address),
        (None, None) => Sni::Absent,
    };
    let hello = Hello { sni, alpn: offer(&hello) };
    Ok(Opening { hello, accepted })
}

fn offer(hello: &ClientHello<'_>) -> AlpnOffer {
    let mut offer = AlpnOffer::default();
    for protocol in hello.alpn().into_iter().flatten() {
        match protocol {
            b"h2" => offer.h2 = true,
            // Clients that are told to speak HTTP/1.0 offer nothing else; what follows is served all the same.
            b"http/1.1" | b"http/1.0" => offer.http11 = true,
            _ => offer.other = true,
        }
    }
    offer
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use std::sync::Arc;

    /// What a rustls client sends first.
    fn real_hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    /// A hello made by hand, with a suite and signature algorithms that every version knows.
    fn crafted(version: u16, extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
        let mut list = Vec::new();
        for (kind, content) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend((content.len() as u16).to_be_bytes());
            list.extend(*content);
        }
        body.extend((list.len() as u16).to_be_bytes());
        body.extend(list);
        let mut message = vec![1, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        records(&message, 16_000, 1)
    }

    const SIGNATURES: (u16, &[u8]) = (13, &[0, 2, 4, 3]);

    fn server_name(name: &str) -> Vec<u8> {
        let length = name.len() as u8;
        [&[0, length + 3, 0, 0, length], name.as_bytes()].concat()
    }

    fn records(message: &[u8], size: usize, minor: u8) -> Vec<u8> {
        let record = |part: &[u8]| {
            let mut bytes = vec![22, 3, minor];
            bytes.extend((part.len() as u16).to_be_bytes());
            bytes.extend(part);
            bytes
        };
        message.chunks(size).flat_map(record).collect()
    }

    /// Fed one byte more each time: the answer, and after how many bytes it came.
    fn trickle(bytes: &[u8]) -> (Result<Option<Hello>, HelloError>, usize) {
        let mut pending = Pending::default();
        for end in 1..=bytes.len() {
            match pending.feed(&bytes[..end]) {
                Ok(None) => {}
                Ok(Some(opening)) => return (Ok(Some(opening.hello)), end),
                Err(error) => return (Err(error), end),
            }
        }
        (Ok(None), bytes.len())
    }

    fn whole(bytes: &[u8]) -> Result<Hello, HelloError> {
        Pending::default().feed(bytes).map(|opening| opening.unwrap().hello)
    }

    #[test]
    fn tl_02_how_a_hello_is_cut_does_not_change_its_facts() {
        let plain = real_hello("API.Good.test", &["h2", "http/1.1"]);
        let facts = whole(&plain).unwrap();
        assert_eq!(facts.sni, Sni::Name(HostName::parse("api.good.test").unwrap()));
        assert_eq!(facts.alpn, AlpnOffer { h2: true, http11: true, other: false });
        for size in [1, 7, 80, 16_000] {
            let cut = records(&plain[5..], size, 1);
            assert_eq!(whole(&cut).unwrap(), facts, "records of {size}");
            let (answer, at) = trickle(&cut);
            assert_eq!(answer.unwrap().unwrap(), facts, "records of {size}, byte by byte");
            assert_eq!(at, cut.len());
        }
    }

    #[test]
    fn tl_07_versions_before_tls_1_2_are_told_so() {
        let list_of_old: (u16, &[u8]) = (43, &[4, 3, 2, 3, 1]);
        for (hello, offered) in [
            (crafted(0x0300, &[]), 0x0300),
            (crafted(0x0301, &[]), 0x0301),
            (crafted(0x0302, &[SIGNATURES]), 0x0302),
            (crafted(0x0303, &[SIGNATURES, list_of_old]), 0x0302),
            (vec![0x80, 46, 1, 0, 2, 0, 21], 0x0002),
            (vec![0x80, 46, 1, 3, 1, 0, 21], 0x0301),
        ] {
            let error = trickle(&hello).0.unwrap_err();
            assert_eq!(error, HelloError::OldVersion { offered });
            let record_version = offered.max(0x0300).to_be_bytes();
            assert_eq!(error.alert().unwrap(), [21, record_version[0], record_version[1], 0, 2, 2, 70]);
        }
        assert!(whole(&crafted(0x0303, &[SIGNATURES])).is_ok(), "TLS 1.2 is spoken");
    }

    #[test]
    fn tl_08_foreign_protocols_are_seen() {
        let offer = |alpn: &[&str]| whole(&real_hello("a.test", alpn)).unwrap().alpn;
        assert_eq!(offer(&[]), AlpnOffer::default());
        assert!(!offer(&[]).is_foreign());
        assert!(!offer(&["h3", "http/1.1"]).is_foreign());
        assert!(!offer(&["http/1.0"]).is_foreign(), "an old version of what is spoken");
        for only in ["foo", "dot", "h3", "imap", "acme-tls/1"] {
            assert!(offer(&[only]).is_foreign(), "{only}");
        }
    }

    #[test]
    fn every_kind_of_server_name_is_told_apart() {
        let sni = |name: &str| whole(&crafted(0x0303, &[SIGNATURES, (0, &server_name(name))]));
        assert_eq!(whole(&crafted(0x0303, &[SIGNATURES])).unwrap().sni, Sni::Absent);
        assert_eq!(sni("192.0.2.7").unwrap().sni, Sni::Address([192, 0, 2, 7].into()));
        assert_eq!(sni("::ffff:192.0.2.7").unwrap().sni, Sni::Address([192, 0, 2, 7].into()));
        let expected = Sni::Name(HostName::parse("my_bucket.wild.test").unwrap());
        assert_eq!(sni("my_bucket.wild.test.").unwrap().sni, expected);
        for odd in ["127.1", "0x7f000001", "a.0x1", "a..b", "*.a.test", "a b", "a\0b"] {
            match sni(odd) {
                Ok(hello) => assert_eq!(hello.sni, Sni::Invalid, "{odd}"),
                Err(error) => assert!(matches!(error, HelloError::Malformed { .. }), "{odd}: {error}"),
            }
        }
    }

    #[test]
    fn what_is_not_tls_is_known_by_its_first_bytes_and_gets_no_alert() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0", &[0, 1, 2], &[22, 2, 0]]
        {
            let error = trickle(bytes).0.unwrap_err();
            assert_eq!((error.alert(), error), (None, HelloError::NotTls));
            assert_eq!(looks_like_tls(bytes), Some(false));
        }
        assert_eq!(looks_like_tls(&[22, 3, 1, 2, 0]), None);
        assert_eq!(looks_like_tls(&real_hello("a.test", &[])), Some(true));
    }

    #[test]
    fn a_hello_that_never_ends_is_cut_off_at_the_bound() {
        let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xf0, 0];
        endless.resize(MAX_HELLO_BYTES + 1, 0);
        let mut pending = Pending::default();
        assert!(pending.feed(&endless[..MAX_HELLO_BYTES - 1]).unwrap().is_none());
        assert_eq!(pending.feed(&endless[..MAX_HELLO_BYTES]).unwrap_err(), HelloError::TooLarge);
        assert_eq!(Pending::default().feed(&endless).unwrap_err(), HelloError::TooLarge);
    }

    #[test]
    fn no_damaged_byte_makes_it_panic_and_every_refusal_has_an_answer() {
        let good = real_hello("api.good.test", &["h2"]);
        for at in 0..good.len() {
            for bit in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                if let Err(error) = Pending::default().feed(&bad) {
                    let alert = error.alert();
                    assert!(error == HelloError::NotTls || alert.is_some_and(|a| a[0] == 21), "{at}");
                }
            }
        }
    }
}
