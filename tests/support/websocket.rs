//! A WebSocket of few words: the frames of RFC 6455 section 5.2, an echo for the origin, a client for the agent.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::wire::Wire;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;

/// Sends every frame back unmasked until the peer closes.
pub async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let kind = stream.read_u8().await? & 15;
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
        stream.write_all(&frame(kind, &payload, None)).await?;
        stream.flush().await?;
        if kind == CLOSE {
            return stream.shutdown().await;
        }
    }
}

pub fn frame(kind: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 128 } else { 0 };
    let mut out = vec![128 | kind];
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
    let head = wire.exactly(2)?;
    let length = match head[1] & 127 {
        126 => wire.exactly(2)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        127 => wire.exactly(8)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        short => usize::from(short),
    };
    Some((head[0] & 15, wire.exactly(length)?))
}
