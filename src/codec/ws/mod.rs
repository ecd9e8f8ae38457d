//! WebSocket messages (RFC 6455), read strictly and written anew, for both sides of the gate. Pure: no I/O and no clock;
//! `flow` moves the bytes, `pipeline` judges what is in them.
//!
//! Frames are ours and not a crate's, because a gate has to pass on the beginning of a message before it has its end: the
//! crates that are well kept (tungstenite, fastwebsockets, tokio-websockets, soketto) hold each frame or message whole,
//! and a frame may be 2^63 bytes long. Extensions are never agreed on, so reserved bits are always a fault.

mod decoder;
mod encoder;
mod frame;
#[cfg(test)]
mod tests;
mod utf8;

pub use decoder::{Close, Decoder, Event, Violation};
pub use encoder::{Encoder, NoMask};

/// Which end sends the frames: a client masks every one of them, a server none (section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// What a message says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// Bytes that the payload of a ping, pong or close has at most (section 5.5).
pub const CONTROL_MOST: usize = 125;

/// Why a connection is closed (section 7.4 and the registry of IANA).
pub mod code {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL: u16 = 1002;
    /// Never on the wire: the close frame had no code.
    pub const NONE: u16 = 1005;
    /// Never on the wire: there was no close frame.
    pub const ABNORMAL: u16 = 1006;
    pub const NOT_TEXT: u16 = 1007;
    pub const POLICY: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
    pub const INTERNAL: u16 = 1011;
}
