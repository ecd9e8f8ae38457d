//! What daemon and helper say to each other: JSON behind a four-byte length, over a socketpair.
//!
//! Only the encoding; `helper` answers, `handle` asks.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::inside;
use super::settings::Settings;

/// Far above the largest valid settings.
pub(super) const MAX_FRAME: usize = 256 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Apply(Settings),
    Verify,
    RemoveRedirect,
    /// The table of a workload's own namespace. The first time its two sockets come with it.
    Inside {
        place: u32,
        settings: inside::Settings,
    },
    /// No longer looks after that table; `free` takes it away.
    Leave {
        place: u32,
        free: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Report(Report),
    Failed(String),
}

/// How the tables stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub fence: bool,
    pub redirect: bool,
    /// They are, rule for rule, what was applied last.
    pub intact: bool,
    /// How often the helper had to make them again because somebody had changed them.
    pub reasserted: u64,
    /// Chains of others that take connections before the redirect does.
    pub rivals: Vec<String>,
    /// Why the last attempt to make them again failed, if it did.
    pub problem: Option<String>,
    /// The same for the tables in workloads' own namespaces.
    pub inside: Option<String>,
}

/// Length and JSON, as one buffer so that one write sends it.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message to the helper is too large"));
    }
    for (to, from) in frame.iter_mut().zip((length as u32).to_be_bytes()) {
        *to = from;
    }
    Ok(frame)
}

/// The length that a frame announces, if it is one we take.
pub(super) fn body_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of the helper is too large"));
    }
    Ok(length)
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(Into::into)
}

pub(super) fn send(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// `None`: the peer closed between two messages.
pub(super) fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut header = [0; 4];
    let (first, rest) = header.split_at_mut(1);
    loop {
        match stream.read(first) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    stream.read_exact(rest)?;
    let mut body = vec![0; body_length(header)?];
    stream.read_exact(&mut body)?;
    decode(&body).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::settings::tests::example;

    #[test]
    fn messages_come_back_and_cut_or_huge_ones_are_errors() {
        let frame = encode(&Request::Apply(example())).unwrap();
        let back: Option<Request> = receive(&mut frame.as_slice()).unwrap();
        assert!(matches!(back, Some(Request::Apply(settings)) if settings == example()));
        assert!(receive::<Request>(&mut [].as_slice()).unwrap().is_none());
        for cut in 1..frame.len() {
            assert!(receive::<Request>(&mut &frame[..cut]).is_err());
        }
        assert!(receive::<Request>(&mut [0xff; 8].as_slice()).is_err());
    }
}
