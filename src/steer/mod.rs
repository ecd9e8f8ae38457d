//! Steering: the nftables fence and redirect, the privileged helper that owns them, and the dropping of privileges.
//!
//! Two tables, so that any single failure ends in a refused connection. The *fence* says what can never leave; the
//! *redirect* hands the rest to the daemon. Both outlive the daemon. What they hold is written once, in `rules`, and
//! printed twice: as nft text for people and as one netlink batch for the kernel.
//!
//! ```text
//! rules (data) -> text    `outgate fence show`
//!              -> batch -> netlink, inside Tables, inside the helper process, behind Helper
//! ```
//!
//! Nothing here accepts or dials a connection. `daemon` and `cli` call it.

mod batch;
mod dump;
mod handle;
pub mod helper;
mod message;
mod netlink;
pub mod privilege;
mod raw;
mod rules;
mod settings;
mod tables;
mod text;

pub use handle::{AsyncHelper, Helper, HelperError};
pub use message::Report;
pub use privilege::RunAs;
pub use settings::{Settings, SettingsError};
pub use tables::{Presence, SteerError, Tables};
pub use text::render;
