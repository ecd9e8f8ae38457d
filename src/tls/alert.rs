//! The fatal alerts that `flow` writes on a raw socket when it refuses before a TLS session exists.
//!
//! Only the bytes; who is refused and why is decided elsewhere.

/// TLS alert descriptions that a refusal uses (RFC 8446 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// The hello names a host that this client may not reach.
    AccessDenied,
    /// The hello names no host, or one that contradicts the connection.
    UnrecognizedName,
    /// Only versions before TLS 1.2 are offered.
    ProtocolVersion,
    /// Application protocols are offered, none of them `h2` or a version of HTTP/1.
    NoApplicationProtocol,
    /// The hello cannot be read.
    DecodeError,
    /// The gate failed (minting, resources); nothing is wrong with the hello.
    InternalError,
}

impl Alert {
    /// The description byte of the alert.
    pub fn code(self) -> u8 {
        match self {
            Self::AccessDenied => 49,
            Self::UnrecognizedName => 112,
            Self::ProtocolVersion => 70,
            Self::NoApplicationProtocol => 120,
            Self::DecodeError => 50,
            Self::InternalError => 80,
        }
    }

    /// The fatal alert as a whole record, as every TLS 1.2 and 1.3 client reads it before keys are agreed.
    pub fn record(self) -> [u8; 7] {
        self.record_for(0x0303)
    }

    /// The fatal alert in a record of the version that the client speaks: old clients refuse to read another.
    pub fn record_for(self, version: u16) -> [u8; 7] {
        let [major, minor] = version.clamp(0x0300, 0x0303).to_be_bytes();
        [21, major, minor, 0, 2, 2, self.code()]
    }
}
