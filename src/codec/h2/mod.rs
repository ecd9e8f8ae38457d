//! HTTP/2 (RFC 9113) beside the `h2` crate, which owns the protocol: what that crate does not count, does not show, or
//! leaves to whoever drives it.
//!
//! `seam` stands between TLS and the crate on the client's side and has `connection` read frame headers as they pass,
//! both ways:
//!
//! - `frames` splits the bytes into frames; `budget` counts those that carry no work (SETTINGS, PING, PRIORITY,
//!   WINDOW_UPDATE, unknown types, empty DATA), against what the connection has done and the time it took, and the
//!   streams that a client resets before their end. Over a budget nothing more is read.
//! - `assembly` puts header blocks together, and `blocks` finds in them what is lost on the way through the crates: a
//!   fragment in `:path`, which `http` cuts off without a word, so that a request would be judged and sent as another
//!   one than was asked for; and pseudo-header fields in trailers, which `h2` drops. It follows HPACK (RFC 7541) just
//!   far enough to know which fields are which: the sizes of the dynamic table's entries, not their text; `huffman` is
//!   for those. A whole second decoder would cost a microsecond and an allocation a field. It is no pair of parsers that
//!   could be played against each other: what it says only refuses, nothing it reads is judged or sent, and where it
//!   cannot follow, the connection ends.
//! - what the crate refuses by itself (a malformed head, a stream too many) is told to the driver by stream and code, so
//!   that each has its record. A stream has one owner at each time, and only the owner records it: the watch from its
//!   head until the crate refuses it or its request is handed over, whoever took the request from then on. What the
//!   watch sees later is noted in the [`Conduct`](super::Conduct) that it handed over.
//!
//! What waits to be sent to a client that reads nothing is bounded by the crate: it reads no frame before the answer to
//! the last PING and SETTINGS has gone to the socket.
//!
//! `answers` does the same on the other side of the gate, for what a host may not send: it counts frames without work by
//! the same budget, and finds pseudo-header fields that no answer has.
//!
//! `body` carries bodies between the crate's streams and [`Body`](super::Body), and `fields` checks field blocks, for
//! both sides of the gate. Called by `flow` (client side) and `upstream` (the other).

mod answers;
mod assembly;
mod blocks;
mod body;
mod budget;
mod connection;
mod fields;
mod frames;
mod huffman;
mod seam;

pub use answers::{Answers, Breach, answers};
pub use body::{Received, Unsent, pour, stated_length};
pub use fields::check_fields;
pub use seam::{Fault, Noted, RefusedStream, Taken, Watch, Watched, watched};
