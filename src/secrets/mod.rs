//! Credentials: where they come from, placeholders, redaction.
