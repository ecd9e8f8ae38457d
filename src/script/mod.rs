//! Rhai hooks with hard limits.
