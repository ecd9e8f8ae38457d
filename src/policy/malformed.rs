//! Why a request has no canonical form. Such a request is never judged: doors answer it at once.

use super::Reason;

/// Why a target, a method or a handshake has no canonical form. The texts are for records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the target does not start with a slash")]
    Form,
    #[error("the target is longer than 65,534 bytes")]
    TooLong,
    #[error("the target holds a percent sign that no two hex digits follow")]
    Escape,
    #[error("the target holds a control byte, raw or escaped")]
    Control,
    #[error("the target holds a raw byte that no URI may hold")]
    Byte,
    #[error("the path holds a backslash, raw or escaped")]
    Backslash,
    #[error("the target holds a fragment")]
    Fragment,
    #[error("the path holds a dot segment with parameters")]
    DotParameter,
    #[error("CONNECT inside a connection that is already judged")]
    Connect,
    #[error("TRACE would echo credentials")]
    Trace,
}

impl Malformed {
    /// The class for records. CONNECT is answered 405, TRACE 403, the rest 400.
    pub fn reason(self) -> Reason {
        match self {
            Self::Connect | Self::Trace => Reason::MethodDenied,
            Self::TooLong => Reason::TooLarge,
            Self::Form
            | Self::Escape
            | Self::Control
            | Self::Byte
            | Self::Backslash
            | Self::Fragment
            | Self::DotParameter => Reason::BadRequest,
        }
    }
}
