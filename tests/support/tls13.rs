//! Records of TLS 1.3 that no library would send: sealed by hand under the secrets that a client's library told of
//! (RFC 8446 sections 5.2, 7.2 and 7.3), for one suite and whatever stands in them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::{ClientConnection, KeyLog, RootCertStore};

use super::wire::{End, Tls, Wire};

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

const NEW_SESSION_TICKET: u8 = 4;
pub const KEY_UPDATE: u8 = 24;
pub const CLOSE_NOTIFY: [u8; 2] = [1, 0];

const TAG: usize = 16;

/// A record as it stands on the wire, sealed or not.
pub fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// A handshake message.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind][..], &length[1..], body].concat()
}

/// The messages of one record.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [_, high, middle, low, ..] = *bytes {
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let (one, rest) = bytes.split_at(4 + length);
        all.push(one.to_vec());
        bytes = rest;
    }
    all
}

/// What protects one direction, and the number of its next record.
#[derive(Clone)]
pub struct Keys {
    secret: Vec<u8>,
    number: u64,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let info = [&(length as u16).to_be_bytes()[..], &[label.len() as u8], label.as_bytes(), &[0]].concat();
    let mut out = vec![0; length];
    Prk::new_less_safe(HKDF_SHA256, secret).expand(&[&info], Length(length)).unwrap().fill(&mut out).unwrap();
    out
}

impl Keys {
    fn of(secret: &[u8]) -> Self {
        Self { secret: secret.to_vec(), number: 0 }
    }

    /// The key, and the nonce of the next record.
    fn next(&mut self) -> (LessSafeKey, Nonce) {
        let key = UnboundKey::new(&AES_128_GCM, &expand(&self.secret, "key", 16)).unwrap();
        let mut nonce: [u8; 12] = expand(&self.secret, "iv", 12).try_into().unwrap();
        for (byte, count) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= count;
        }
        self.number += 1;
        (LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce))
    }

    pub fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.seal_inner(&[content, &[kind]].concat())
    }

    /// Seals content, type and padding as they are given.
    pub fn seal_inner(&mut self, inner: &[u8]) -> Vec<u8> {
        let (key, nonce) = self.next();
        let mut header = record(DATA, &[]);
        header[3..].copy_from_slice(&((inner.len() + TAG) as u16).to_be_bytes());
        let mut sealed = inner.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed).unwrap();
        [header, sealed].concat()
    }

    fn open(&mut self, header: &[u8], mut body: Vec<u8>) -> (u8, Vec<u8>) {
        let (key, nonce) = self.next();
        let mut inner = key.open_in_place(nonce, Aad::from(header), &mut body).expect("its keys").to_vec();
        while inner.last() == Some(&0) {
            inner.pop();
        }
        let kind = inner.pop().expect("a type");
        (kind, inner)
    }

    /// What comes after a KeyUpdate.
    pub fn update(&mut self) {
        *self = Self::of(&expand(&self.secret, "traffic upd", 32));
    }
}

#[derive(Debug, Default)]
struct Told(Mutex<HashMap<String, Vec<u8>>>);

impl Told {
    fn keys(&self, label: &str) -> Keys {
        Keys::of(&self.0.lock().unwrap()[label])
    }
}

impl KeyLog for Told {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().insert(label.to_owned(), secret.to_vec());
    }
}

/// A session whose client has everything that it needs to end the handshake, and has not sent that yet.
pub struct Session {
    pub wire: Wire,
    /// Of the client's part of the handshake.
    pub handshake: Keys,
    /// Of what the client says behind it.
    pub data: Keys,
    server: Keys,
    /// Its change of cipher spec and its Finished.
    flight: Vec<u8>,
}

/// All that a server said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub data: String,
    pub alert: Option<u8>,
    pub tickets: Vec<Vec<u8>>,
    pub end: End,
}

impl Session {
    pub fn begin(mut wire: Wire, tls: &Tls) -> Self {
        let mut provider = default_provider();
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(tls.roots.iter().cloned());
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let told = Arc::<Told>::default();
        config.key_log = told.clone();
        config.alpn_protocols = tls.alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), tls.server_name()).unwrap();
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        wire.send(&flight);
        while client.is_handshaking() {
            let mut bytes = wire.exactly(5).expect("a record");
            bytes.extend(wire.exactly(usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))).unwrap());
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        flight.clear();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let keys = |label: &str| told.keys(label);
        Self {
            wire,
            handshake: keys("CLIENT_HANDSHAKE_TRAFFIC_SECRET"),
            data: keys("CLIENT_TRAFFIC_SECRET_0"),
            server: keys("SERVER_TRAFFIC_SECRET_0"),
            flight,
        }
    }

    /// A session whose handshake is over.
    pub fn open(wire: Wire, tls: &Tls) -> Self {
        let mut session = Self::begin(wire, tls);
        session.wire.send(&session.flight);
        session
    }

    /// The client's Finished, as a message.
    pub fn finished(&self) -> Vec<u8> {
        let change = record(CHANGE_CIPHER_SPEC, &[1]);
        let sealed = self.flight.strip_prefix(&change[..]).expect("the change comes first");
        let (kind, finished) = Keys::of(&self.handshake.secret).open(&sealed[..5], sealed[5..].to_vec());
        assert_eq!((kind, finished.len()), (HANDSHAKE, 36));
        finished
    }

    pub fn say(&mut self, kind: u8, content: impl AsRef<[u8]>) -> &mut Self {
        let sealed = self.data.seal(kind, content.as_ref());
        self.wire.send(sealed);
        self
    }

    /// Everything that still comes.
    pub fn rest(&mut self) -> Said {
        let mut data = Vec::new();
        let (mut alert, mut tickets) = (None, Vec::new());
        let body_of = |wire: &mut Wire, header: &[u8]| {
            wire.exactly(usize::from(u16::from_be_bytes([header[3], header[4]])))
        };
        while let Some(header) = self.wire.exactly(5) {
            let Some(body) = body_of(&mut self.wire, &header) else { break };
            let (kind, content) = match header[0] {
                DATA => self.server.open(&header, body),
                kind => (kind, body),
            };
            match (kind, content.first()) {
                (DATA, _) => data.extend(content),
                (ALERT, _) => alert = Some(content[1]),
                (HANDSHAKE, Some(&NEW_SESSION_TICKET)) => tickets.extend(messages(&content)),
                (HANDSHAKE, Some(&KEY_UPDATE)) => self.server.update(),
                other => panic!("the server says {other:?}"),
            }
        }
        let end = self.wire.rest().1;
        Said { data: String::from_utf8_lossy(&data).into_owned(), alert, tickets, end }
    }
}
