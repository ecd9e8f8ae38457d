//! The nftables fence and redirect, and the privileged helper that owns them.
