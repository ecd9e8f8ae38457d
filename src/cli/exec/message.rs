//! What the three processes say to each other, over the socketpair that is the standard input of the inner two.

use super::masks::Plan;
use crate::steer::pass;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// From inside.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The listeners come along: for each address family TCP, then UDP and TCP of DNS.
    Ready,
    Started,
    Ended {
        code: u8,
    },
    Failed {
        code: u8,
        why: String,
    },
    /// The last word: how many packets the table refused.
    Refused(u64),
}

/// To the inside. After `Enter` come two raw messages: our certificate, and the bundle.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Enter(Plan),
    /// The command's standard input comes along.
    Go,
    Signal(i32),
}

pub(super) fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    pass::send(stream, &serde_json::to_vec(message)?, files)
}

pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some((bytes, files)) = pass::receive(stream)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&bytes)?, files)))
}
