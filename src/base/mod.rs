//! Words every module shares: names, addresses, doors, secrets. No I/O, no policy; everything above uses it.

mod address;
mod door;
mod host;
mod ingress;
mod secret;
mod words;

pub use address::{AddressClass, ClientAddr, OriginalDst, UpstreamAddr};
pub use door::{Door, Proto, Scheme};
pub use host::{Authority, AuthorityError, Host, HostName, HostNameError};
pub use ingress::Ingress;
pub use secret::{Secret, SecretBytes};
pub use words::IoWords;
