//! What may leave: pure and synchronous judging.
