//! HTTP/1.1 (RFC 9112), read strictly and written canonically, for both sides of the gate.
//!
//! `start`, `head` and `chunked` are pure parsers with three answers (yes, no, need more); `reader` and `writer` move bytes.

mod chunked;
mod framing;
mod head;
mod lines;
mod message;
mod reader;
mod spare;
mod start;
mod writer;

pub use framing::{Framing, Persistence};
pub use head::{
    HeadError, HeadLimits, MAX_FIELDS, RequestHead, ResponseHead, parse_request, parse_response, take_expect,
};
pub use message::{Left, MessageBody, Slot};
pub use reader::{ReadError, Reader};
pub use spare::head_buffer;
pub use start::{Beginning, beginning};
pub use writer::{
    Phrase, WriteError, encode_request, encode_response, framing_of, write_answer, write_head, write_message,
};
