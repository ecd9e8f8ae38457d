//! The certificate authority, leaves minted on the fly, server and client configurations.
