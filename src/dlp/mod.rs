//! Streaming detection of secrets in what leaves.
