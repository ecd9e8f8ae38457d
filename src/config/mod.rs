//! Reads `outgate.toml` and turns it into each module's settings.
