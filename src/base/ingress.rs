//! Where a flow came in, as far as the kernel vouches for it: what a client is known by beside its source address.

use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ingress {
    /// An interface of the gate. `None` where that cannot be told for sure: a client that is named by interface does
    /// not match then.
    Interface(Option<Arc<str>>),
    /// A workload that was attached while the gate ran: everything that comes in there is this client's.
    Attached { name: Arc<str>, client: Arc<str> },
    /// A workload that was detached and is still fenced: nobody's.
    Detached,
}

impl Ingress {
    /// For logs.
    pub fn shown(&self) -> String {
        match self {
            Self::Interface(Some(name)) => name.to_string(),
            Self::Interface(None) => "an unknown interface".to_owned(),
            Self::Attached { name, client } => {
                format!("attachment {name}, and no client {client:?} is attached = true")
            }
            Self::Detached => "a detached interface".to_owned(),
        }
    }
}
