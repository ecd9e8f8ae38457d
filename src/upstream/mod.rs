//! Dialling what was permitted, TLS to it, and the pool of connections.
