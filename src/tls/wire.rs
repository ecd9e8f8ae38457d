//! Two facts of a ClientHello that rustls' acceptor does not tell: the offered versions, and an address in SNI.
//!
//! rustls reads the hello and decides what it means; this walk runs beside it on the same bytes, answers only what
//! rustls leaves out, and is used by `hello` alone. Whatever it cannot walk is `None`.

use std::borrow::Cow;
use std::net::IpAddr;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXT_SERVER_NAME: u16 = 0;
const EXT_SUPPORTED_VERSIONS: u16 = 43;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The highest version offered; of TLS 1.3 when `supported_versions` has it.
    pub version: u16,
    /// The `server_name` extension holds an address literal (RFC 6066 forbids it; rustls takes it for absent).
    pub address: Option<IpAddr>,
}

/// Walks the records at the start of `bytes`. `None` when the hello is incomplete or out of shape.
pub(super) fn facts(bytes: &[u8]) -> Option<Facts> {
    let message = message(bytes)?;
    let mut hello = Reader(&message);
    let legacy = hello.u16()?;
    hello.take(32)?;
    hello.vec8()?;
    hello.vec16()?;
    hello.vec8()?;
    let mut facts = Facts { version: legacy.min(0x0303), address: None };
    let mut extensions = Reader(hello.vec16().unwrap_or_default());
    while let (Some(kind), Some(body)) = (extensions.u16(), extensions.vec16()) {
        match kind {
            EXT_SUPPORTED_VERSIONS => facts.version = highest_known(body).unwrap_or(0),
            EXT_SERVER_NAME => facts.address = address(body),
            _ => {}
        }
    }
    Some(facts)
}

/// The body of the ClientHello message, joined when it spans records.
fn message(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut records = Reader(bytes);
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let mut reader = Reader(&joined);
        if let (Some(kind), Some(length)) = (reader.u8(), reader.u24()) {
            if kind != CLIENT_HELLO {
                return None;
            }
            if joined.len() >= 4 + length {
                return Some(match joined {
                    Cow::Borrowed(all) => Cow::Borrowed(all.get(4..4 + length)?),
                    Cow::Owned(all) => Cow::Owned(all.get(4..4 + length)?.to_vec()),
                });
            }
        }
        if records.u8()? != HANDSHAKE {
            return None;
        }
        // As strict as rustls, which refuses such a record by its header, before the message is whole.
        if records.u8()? != 3 {
            return None;
        }
        records.u8()?;
        let fragment = records.vec16()?;
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment);
        } else {
            joined.to_mut().extend_from_slice(fragment);
        }
    }
}

/// Of the listed versions the highest that exists; GREASE and drafts do not count.
fn highest_known(body: &[u8]) -> Option<u16> {
    let mut list = Reader(Reader(body).vec8()?);
    std::iter::from_fn(|| list.u16()).filter(|v| (0x0300..=0x0304).contains(v)).max()
}

fn address(body: &[u8]) -> Option<IpAddr> {
    let mut list = Reader(Reader(body).vec16()?);
    if list.u8()? != 0 {
        return None;
    }
    std::str::from_utf8(list.vec16()?).ok()?.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)))
    }

    fn u8(&mut self) -> Option<u8> {
        self.number(1).and_then(|n| n.try_into().ok())
    }

    fn u16(&mut self) -> Option<u16> {
        self.number(2).and_then(|n| n.try_into().ok())
    }

    fn u24(&mut self) -> Option<usize> {
        self.number(3)
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.number(1)?;
        self.take(length)
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.number(2)?;
        self.take(length)
    }
}
