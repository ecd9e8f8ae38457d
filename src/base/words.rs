//! I/O errors in words for records.

use std::fmt;
use std::io;

/// An error as a record tells it. A TLS library's words for a connection that ended without the session's end lead to its
/// documentation, which is for programmers.
#[derive(Debug, Clone, Copy)]
pub struct IoWords<'a>(pub &'a io::Error);

impl fmt::Display for IoWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.kind() == io::ErrorKind::UnexpectedEof {
            f.write_str("the peer closed its connection before the end of what it was sending")
        } else {
            self.0.fmt(f)
        }
    }
}
