//! Sockets at the doors: listeners, original destinations, our own addresses, real resets.
//!
//! Binding surfaces every start-up error before traffic flows: *bind, tell the addresses, run*. Nothing here spawns a
//! task, judges a flow or dials; `daemon` binds, `flow` and `dns` use what is bound, `upstream/dial` asks
//! [`OwnAddresses`] and takes its socket from [`outbound`].

mod holder;
mod incoming;
mod listen;
mod original;
mod own;
mod stream;

pub use listen::{
    Accepted, BindError, BoundDns, BoundTcp, BoundUdp, Delivery, Listener, adopt_tcp, adopt_udp, bind_dns,
    bind_tcp, bind_transparent, bind_udp,
};
pub use original::{OriginalDstError, original_dst};
pub use own::{OwnAddresses, addresses_of};
pub use stream::{outbound, poll_write_pieces, reset};
