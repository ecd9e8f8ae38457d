//! What a failed handshake means, in words that a record, a metric and an error page can use.
//!
//! Pure mapping from rustls' errors. The variants' text is for people; `label` is bounded and stable, for metrics.

use rustls::{AlertDescription, CertificateError, Error};

/// Finds the TLS error under I/O and HTTP errors: TLS 1.3 servers refuse a missing client certificate only after the
/// handshake, when it surfaces in the middle of hyper.
pub fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    // Errors nest a few levels; the bound is against a cycle in a foreign `source`.
    for _ in 0..16 {
        let current = next?;
        if let Some(found) = current.downcast_ref::<Error>() {
            return Some(found);
        }
        next = match current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}

/// Why the client and the gate have no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    #[error("the client does not trust our CA (TLS alert {})", alert_name(*.0))]
    DistrustsCa(AlertDescription),
    #[error("the client refuses the leaf (TLS alert {}): compare the clocks of client and gate", alert_name(*.0))]
    RefusesLeaf(AlertDescription),
    #[error("the client broke off with TLS alert {}", alert_name(*.0))]
    Alert(AlertDescription),
    #[error("the client offers no application protocol that the gate speaks")]
    NoApplicationProtocol,
    #[error("the client and the gate have no TLS version, cipher suite or group in common")]
    Incompatible,
    #[error("the client broke the TLS protocol")]
    Protocol,
    /// No alert. Some clients close like this when they do not trust the CA.
    #[error("the client closed the connection during the TLS handshake")]
    Gone,
}

impl ClientFault {
    pub fn of(error: &Error) -> Self {
        use AlertDescription as A;
        match error {
            // 48, and what others send for the same: 42 (Go, GnuTLS), 46 (Java, Chromium).
            Error::AlertReceived(alert @ (A::UnknownCA | A::BadCertificate | A::CertificateUnknown)) => {
                Self::DistrustsCa(*alert)
            }
            Error::AlertReceived(
                alert @ (A::CertificateExpired | A::CertificateRevoked | A::UnsupportedCertificate),
            ) => Self::RefusesLeaf(*alert),
            Error::AlertReceived(alert) => Self::Alert(*alert),
            Error::NoApplicationProtocol => Self::NoApplicationProtocol,
            Error::PeerIncompatible(_) => Self::Incompatible,
            _ => Self::Protocol,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::DistrustsCa(_) => "client_distrusts_ca",
            Self::RefusesLeaf(_) => "client_refuses_leaf",
            Self::Alert(_) => "client_alert",
            Self::NoApplicationProtocol => "client_alpn",
            Self::Incompatible => "client_incompatible",
            Self::Protocol => "client_protocol",
            Self::Gone => "client_gone",
        }
    }
}

/// Why the upstream is not served over TLS. The first group is the certificate's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamFault {
    #[error("the server's certificate has expired")]
    Expired,
    #[error("the server's certificate is not valid yet")]
    NotYetValid,
    #[error("the server's certificate is for another name")]
    WrongName,
    #[error("the server's certificate comes from an issuer that is not trusted here, or is self-signed")]
    UnknownIssuer,
    #[error("the server's certificate has been revoked")]
    Revoked,
    #[error("the server's certificate is not acceptable")]
    BadCertificate,
    #[error("the server wants a client certificate, and the rule has none that it accepts")]
    WantsClientCertificate,
    #[error("the server speaks none of the application protocols asked for")]
    NoApplicationProtocol,
    #[error("the server does not know the name it was asked for")]
    UnrecognizedName,
    #[error("the server and the gate have no TLS version, cipher suite or group in common")]
    Incompatible,
    #[error("the server broke off with TLS alert {}", alert_name(*.0))]
    Alert(AlertDescription),
    #[error("the server broke the TLS protocol, or speaks none")]
    Protocol,
}

impl UpstreamFault {
    pub fn of(error: &Error) -> Self {
        use AlertDescription as A;
        match error {
            Error::InvalidCertificate(certificate) => Self::of_certificate(certificate),
            Error::NoCertificatesPresented => Self::BadCertificate,
            Error::AlertReceived(A::CertificateRequired | A::NoCertificate) => Self::WantsClientCertificate,
            // What servers say of a certificate can only be about ours: none, or the one of the rule.
            Error::AlertReceived(
                A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA,
            ) => Self::WantsClientCertificate,
            Error::AlertReceived(A::NoApplicationProtocol) | Error::NoApplicationProtocol => {
                Self::NoApplicationProtocol
            }
            Error::AlertReceived(A::UnrecognisedName) => Self::UnrecognizedName,
            Error::AlertReceived(A::ProtocolVersion | A::InsufficientSecurity)
            | Error::PeerIncompatible(_) => Self::Incompatible,
            Error::AlertReceived(alert) => Self::Alert(*alert),
            _ => Self::Protocol,
        }
    }

    /// The fault of a certificate, theirs or ours (`upstream_cert` in a record), not of the protocol.
    pub fn is_certificate(self) -> bool {
        matches!(
            self,
            Self::Expired
                | Self::NotYetValid
                | Self::WrongName
                | Self::UnknownIssuer
                | Self::Revoked
                | Self::BadCertificate
                | Self::WantsClientCertificate
        )
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongName => "wrong_name",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Revoked => "revoked",
            Self::BadCertificate => "bad_certificate",
            Self::WantsClientCertificate => "wants_client_certificate",
            Self::NoApplicationProtocol => "no_application_protocol",
            Self::UnrecognizedName => "unrecognized_name",
            Self::Incompatible => "incompatible",
            Self::Alert(_) => "alert",
            Self::Protocol => "protocol",
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongName
            }
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Revoked => Self::Revoked,
            _ => Self::BadCertificate,
        }
    }
}

/// The registry's name (RFC 8446 section 6) of the alerts that are met, the number of all others.
fn alert_name(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let name = match alert {
        A::UnknownCA => "unknown_ca",
        A::BadCertificate => "bad_certificate",
        A::CertificateUnknown => "certificate_unknown",
        A::CertificateExpired => "certificate_expired",
        A::CertificateRevoked => "certificate_revoked",
        A::UnsupportedCertificate => "unsupported_certificate",
        A::HandshakeFailure => "handshake_failure",
        A::ProtocolVersion => "protocol_version",
        A::InternalError => "internal_error",
        A::AccessDenied => "access_denied",
        A::DecryptError => "decrypt_error",
        A::UserCanceled => "user_canceled",
        other => return u8::from(other).to_string(),
    };
    format!("{name}, {}", u8::from(alert))
}
