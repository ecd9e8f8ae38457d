//! A WebSocket of few words: the frames of RFC 6455 section 5.2, an echo for the origin, a client for the agent.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::origin::Conversation;
use super::pages::accept_key;
use super::wire::Wire;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The key of every handshake here.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A handshake for `/ws`, with further lines of its head.
pub fn handshake(host: &str, more: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

/// A scripted origin's side of the handshake: reads a request and switches.
pub fn accept(peer: &mut Conversation) -> Option<String> {
    let head = peer.head()?;
    let accept = accept_key(KEY.as_bytes());
    peer.say(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ));
    Some(head)
}

/// Sends every message back in the frames that it came in, unmasked, answers pings, until the peer closes.
pub async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let first = stream.read_u8().await?;
        let second = stream.read_u8().await?;
        let length = match second & 127 {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut mask = [0_u8; 4];
        if second & 128 != 0 {
            stream.read_exact(&mut mask).await?;
        }
        let mut payload = vec![0_u8; length as usize];
        stream.read_exact(&mut payload).await?;
        payload.iter_mut().enumerate().for_each(|(place, byte)| *byte ^= mask[place % 4]);
        let first = if first & 15 == PING { 128 | PONG } else { first };
        stream.write_all(&raw_frame(first, &payload, None)).await?;
        stream.flush().await?;
        if first & 15 == CLOSE {
            return stream.shutdown().await;
        }
    }
}

/// A whole message, or a control frame.
pub fn frame(kind: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    raw_frame(128 | kind, payload, mask)
}

/// A frame with any first byte: without 128 a fragment that is not the last.
pub fn raw_frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 128 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(masked | short as u8),
        middle @ 126..=65_535 => {
            out.push(masked | 126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(masked | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| out.extend(mask)).unwrap_or_default();
    out.extend(payload.iter().enumerate().map(|(place, byte)| byte ^ mask[place % 4]));
    out
}

/// The next frame that a client receives: its kind and its payload.
pub fn receive(wire: &mut Wire) -> Option<(u8, Vec<u8>)> {
    let (first, payload) = next(wire)?;
    Some((first & 15, payload))
}

/// The next message that a client receives, its fragments joined, or the next control frame. Those inside it are lost.
pub fn message(wire: &mut Wire) -> Option<(u8, Vec<u8>)> {
    let (mut first, mut whole) = next(wire)?;
    let kind = first & 15;
    while first & 128 == 0 {
        let (more, payload) = next(wire)?;
        if more & 15 == CONTINUATION {
            whole.extend(payload);
            first = more;
        }
        assert!(more & 8 == 8 || more & 15 == CONTINUATION, "another message inside this one");
    }
    Some((kind, whole))
}

fn next(wire: &mut Wire) -> Option<(u8, Vec<u8>)> {
    let head = wire.exactly(2)?;
    assert_eq!(head[1] & 128, 0, "a server does not mask");
    let length = match head[1] & 127 {
        126 => wire.exactly(2)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        127 => wire.exactly(8)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        short => usize::from(short),
    };
    Some((head[0], wire.exactly(length)?))
}

/// A frame as an origin saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub is_last: bool,
    pub kind: u8,
    pub mask: [u8; 4],
    pub payload: Vec<u8>,
}

/// The frames behind the head of a handshake, in the bytes that an origin saw. All of them must be masked.
pub fn frames(bytes: &[u8]) -> Vec<Seen> {
    let begin = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |end| end + 4);
    let (mut rest, mut seen) = (&bytes[begin..], Vec::new());
    while let [first, second, more @ ..] = rest {
        assert_eq!(second & 128, 128, "a client masks");
        let wide = match second & 127 {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if more.len() < wide + 4 {
            break;
        }
        let length = match wide {
            0 => usize::from(second & 127),
            _ => more[..wide].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        };
        let mask = [more[wide], more[wide + 1], more[wide + 2], more[wide + 3]];
        let Some(masked) = more.get(wide + 4..wide + 4 + length) else { break };
        let payload = masked.iter().enumerate().map(|(place, byte)| byte ^ mask[place % 4]).collect();
        seen.push(Seen { is_last: first & 128 != 0, kind: first & 15, mask, payload });
        rest = &more[wide + 4 + length..];
    }
    seen
}
