//! The buffer that a head, and a short body behind it, are written in. Each thread keeps one, so that most messages
//! allocate nothing for it and connections hold none.

use bytes::BytesMut;
use std::cell::Cell;

/// A buffer that one large head grew is not kept.
const KEPT: usize = 16 * 1024;

thread_local! {
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// An empty buffer.
pub fn head_buffer() -> BytesMut {
    SPARE.take().unwrap_or_default()
}

/// Keeps the buffer for the thread's next head.
pub(super) fn give_back(mut buffer: BytesMut) {
    if buffer.capacity() <= KEPT {
        buffer.clear();
        SPARE.set(Some(buffer));
    }
}
