//! Wire formats. HTTP/1 is read and written here, strictly and once: what is judged is regenerated from what was
//! understood, so no second parser exists that could understand it otherwise. HTTP/2 is the `h2` crate's; what stands
//! around it is here. Called by `flow` (client side) and `upstream` (server side).

pub mod body;
mod conduct;
pub mod h1;
pub mod h2;
mod pace;
mod recorded;
pub mod ws;

pub use body::{Body, BodyError};
pub use conduct::Conduct;
pub use pace::{Pace, Paced};
pub use recorded::Recorded;
