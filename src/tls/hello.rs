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
    pub http11: bool,
    /// Something else is offered too.
    pub other: bool,
}

impl AlpnOffer {
    /// Something is offered, and nothing of it is `h2` or `http/1.1`: answered `no_application_protocol`.
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
            b"http/1.1" => offer.http11 = true,
            _ => offer.other = true,
        }
    }
    offer
}
