//! One connection from accept to close. Each step has a file and hands its result to the next by value:
//!
//! ```text
//! target     where it wanted to go, and which client it is      -> Targeted
//! sniff      what the first bytes are                           -> Sniffed
//! decide     the name, and what the policy says of it           -> Decided
//! refuse | tunnel | intercept
//! ```
//!
//! `intercept` ends TLS and serves requests (`h1`, `h2`); `claim` reconciles what each request says of its destination;
//! `explicit` is the other door, whose CONNECT joins the same path. Requests go through `pipeline`.

mod ahead;
pub mod claim;
mod decide;
mod explicit;
mod h1;
mod h2;
mod idle;
mod intercept;
mod refuse;
mod registry;
mod settings;
mod sniff;
mod target;
mod tunnel;
mod websocket;

pub use registry::{FlowInfo, Registry};
pub use settings::Settings;

use crate::base::Door;
use crate::dns::{Leases, Rate};
use crate::net::{Accepted, OwnAddresses};
use crate::pipeline::Shared;
use crate::rt::Tasks;
use crate::tls::Minter;
use decide::Decided;
use std::sync::Arc;

/// Everything that flows share.
pub struct Gate {
    pub shared: Arc<Shared>,
    pub minter: Arc<Minter>,
    pub own: Arc<OwnAddresses>,
    pub leases: Arc<Leases>,
    pub registry: Arc<Registry>,
    /// New names that each client may have certificates minted for, by its number.
    pub mints: Rate<u16>,
    pub tasks: Tasks,
    pub settings: Settings,
}

/// The whole path of a connection that came in through one of the TCP doors.
pub async fn serve(gate: Arc<Gate>, accepted: Accepted, door: Door) {
    let number = gate.registry.next_number();
    match door {
        Door::Transparent => {
            let Some(decided) = Box::pin(first_steps(&gate, accepted, number)).await else { return };
            carry_out(&gate, Some(decided)).await;
        }
        Door::Explicit => {
            let Some(identified) = target::explicit(&gate, accepted, number).await else { return };
            Box::pin(explicit::serve(&gate, identified)).await;
        }
        // Datagrams are not connections; `dns` and `quic` answer them.
        Door::Dns | Door::Quic => {}
    }
}

/// A transparent connection up to its decision.
async fn first_steps(gate: &Arc<Gate>, accepted: Accepted, number: u64) -> Option<Decided> {
    let targeted = target::transparent(gate, accepted, number).await?;
    let sniffed = sniff::first_bytes(gate, targeted).await?;
    decide::connection(gate, sniffed).await
}

/// Does what was decided for a connection; CONNECT comes here too, from inside the explicit door. Each way is boxed, so
/// that a connection holds the state of its own way only.
async fn carry_out(gate: &Arc<Gate>, decided: Option<Decided>) {
    match decided {
        Some(Decided::Plain(plain)) => Box::pin(h1::serve_plain(gate, plain)).await,
        Some(Decided::Intercept(intercepted)) => Box::pin(intercept::serve(gate, intercepted)).await,
        Some(Decided::Tunnel(tunnelled)) => Box::pin(tunnel::serve(gate, tunnelled)).await,
        Some(Decided::Refused(refused)) => Box::pin(refuse::serve(gate, refused)).await,
        None => {}
    }
}
