//! UDP port 443: tells QUIC clients in one datagram that there is nothing here for them, so that they take TCP at once
//! instead of waiting out their time-outs. Stateless: it holds no connection, decrypts nothing and forwards nothing.
//!
//! * `packet` reads hostile bytes and writes the one answer that there is; it is pure.
//! * `door` has the socket, the rate of each source, and the seam to whoever knows the clients.

mod door;
mod packet;

pub use door::{Bounds, Judge, Responder, Settings};
pub use packet::{Long, Parsed, SHORTEST, answer, parse};
