//! A ClientHello by hand, part by part, and what a server says first to it.

use rustls::AlertDescription;

use super::bed::Bed;
use super::wire::{End, Wire};
use super::world::PUB1;

pub const SERVER_NAME: u16 = 0;
pub const GROUPS: u16 = 10;
pub const SIGNATURES: u16 = 13;
pub const ALPN: u16 = 16;
pub const VERSIONS: u16 = 43;
pub const KEY_SHARE: u16 = 51;
pub const PRE_SHARED_KEY: u16 = 41;
pub const EARLY_DATA: u16 = 42;
pub const KEY_EXCHANGE_MODES: u16 = 45;
pub const ECH: u16 = 0xfe0d;

pub const X25519: u16 = 0x001d;
pub const SUITES_13: [u16; 3] = [0x1301, 0x1302, 0x1303];

/// A length in two bytes.
pub fn pair(length: usize) -> [u8; 2] {
    (length as u16).to_be_bytes()
}

/// A list of bytes behind its length in two.
pub fn list(content: &[u8]) -> Vec<u8> {
    [&pair(content.len())[..], content].concat()
}

/// The hello of a TLS 1.3 client, part by part.
#[derive(Clone)]
pub struct Hello {
    pub suites: Vec<u16>,
    pub compression: Vec<u8>,
    pub session: usize,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    pub fn of(name: &str) -> Self {
        let entry = [&[0][..], &pair(name.len()), name.as_bytes()].concat();
        // A point of small order would be refused; nine is the base point itself.
        let share = [&[9][..], &[0; 31]].concat();
        let share = [&X25519.to_be_bytes()[..], &pair(share.len()), &share].concat();
        Self {
            suites: SUITES_13.to_vec(),
            compression: vec![0],
            session: 32,
            extensions: vec![
                (SERVER_NAME, [&pair(entry.len())[..], &entry].concat()),
                (GROUPS, [&pair(2)[..], &X25519.to_be_bytes()].concat()),
                (SIGNATURES, vec![0, 2, 4, 3]),
                (ALPN, b"\x00\x09\x08http/1.1".to_vec()),
                (VERSIONS, vec![2, 3, 4]),
                (KEY_SHARE, [&pair(share.len())[..], &share].concat()),
            ],
        }
    }

    pub fn with(&self, kind: u16, content: impl Into<Vec<u8>>) -> Self {
        let mut other = self.clone();
        other.extensions.retain(|(own, _)| *own != kind);
        other.extensions.push((kind, content.into()));
        other
    }

    fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(self.session as u8);
        body.extend(vec![8; self.session]);
        body.extend(pair(self.suites.len() * 2));
        body.extend(self.suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.push(self.compression.len() as u8);
        body.extend(&self.compression);
        let mut list = Vec::new();
        for (kind, content) in &self.extensions {
            list.extend(kind.to_be_bytes());
            list.extend(pair(content.len()));
            list.extend(content);
        }
        body.extend(pair(list.len()));
        body.extend(list);
        let mut message = vec![1, 0];
        message.extend(pair(body.len()));
        message.extend(body);
        message
    }

    pub fn record(&self) -> Vec<u8> {
        let message = self.message();
        [&[22, 3, 1][..], &pair(message.len()), &message].concat()
    }
}

/// What a server says first to these bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Says {
    ServerHello,
    Alert(u8),
    Nothing,
}

pub fn says(bed: &Bed, bytes: &[u8]) -> Says {
    let mut wire = bed.tcp(PUB1, 443);
    wire.send(bytes);
    answer(wire)
}

pub fn answer(mut wire: Wire) -> Says {
    let Some(header) = wire.exactly(5) else {
        assert!(matches!(wire.rest().1, End::Closed | End::Reset), "open, and says nothing");
        return Says::Nothing;
    };
    let body = wire.exactly(usize::from(u16::from_be_bytes([header[3], header[4]]))).unwrap_or_default();
    match (header[0], &body[..]) {
        (22, [2, ..]) => Says::ServerHello,
        (21, &[_, alert, ..]) => {
            assert!(matches!(wire.rest().1, End::Closed | End::Reset), "open after an alert");
            Says::Alert(alert)
        }
        _ => panic!("neither ServerHello nor alert: {header:?} {body:?}"),
    }
}

pub fn alert(description: AlertDescription) -> Says {
    Says::Alert(description.into())
}
