//! Tasks that are named, counted and drained.
