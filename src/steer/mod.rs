//! Steering: the nftables fence and redirect, the privileged helper that owns them, and the dropping of privileges.
//!
//! Two tables, so that any single failure ends in a refused connection. The *fence* says what can never leave; the
//! *redirect* hands the rest to the daemon. Both outlive the daemon. What they hold is written once, in `rules`, and
//! printed twice: as nft text for people and as one netlink batch for the kernel. A workload's own namespace gets one
//! table that does both (`inside`), with the routes that lead nowhere else (`route`) and sockets that are passed out of
//! it (`pass`).
//!
//! ```text
//! rules (data) -> text    `outgate fence show`
//!              -> batch -> netlink, inside Tables, inside the helper process, behind Helper
//! ```
//!
//! A third table, the *guard*, is for hosts of containers and has nothing to do with the gate.
//!
//! Nothing here accepts or dials a connection. `daemon` and `cli` call it.

mod batch;
mod dump;
mod expressions;
pub mod guard;
mod handle;
pub mod helper;
pub mod inside;
pub mod live;
mod marked;
mod message;
pub(crate) mod netlink;
pub mod pass;
mod pattern;
pub mod place;
pub mod privilege;
mod raw;
pub mod route;
pub(crate) mod rtnetlink;
mod rules;
mod settings;
mod tables;
mod text;

pub use handle::{AsyncHelper, Helper, HelperError};
pub use message::Report;
pub use privilege::RunAs;
pub use settings::{Intercept, Limits, Settings, SettingsError};
pub use tables::{Presence, SteerError, Tables};
pub use text::render;
