//! Names and addresses: the DNS door that clients ask, the resolver that the door and dialling share, the leases that
//! remember which client was told what, and the address guard.
//!
//! It decides nothing about names: a [`Judge`] does, who stands above and asks the policy. It writes no records: a
//! [`Recorder`] does. Nothing here dials anything but the resolver's own upstreams.
//!
//! * `door` has the sockets and their bounds, `message` reads hostile bytes, `desk` is the path of one question,
//!   `reply` writes the answer.
//! * `resolver` has cache, single flight and time limits, `ask` the upstream servers behind it.
//!   `system` is the host's own resolver configuration, `walk` the way through aliases.
//! * `leases`, `limit` and `guard` are tables and pure functions; `synthetic` and `epoch` are virtual answers.

mod ask;
mod desk;
mod door;
mod epoch;
mod guard;
mod leases;
mod limit;
mod message;
mod reply;
mod resolver;
mod seam;
mod synthetic;
mod system;
mod udp;
mod walk;

pub use ask::{Followed, Upstreams, UpstreamsError, Zone};
pub use door::{Bound, DoorSettings, Parts, Spawn};
pub use epoch::{Epoch, EpochError};
pub use guard::usable;
pub use leases::{LeaseSettings, Leases};
pub use limit::{Counters, Rate, Slot, Slots};
pub use message::{Incoming, Malformed, read as read_message};
pub use resolver::{Addresses, Answer, Family, ResolveError, Resolver, ResolverSettings};
pub use seam::{Answered, Asked, Decision, Judge, Judged, Outcome, Recorder, Transport};
pub use synthetic::{Leased, SyntheticSettings, V4_PREFIXES, V6_PREFIXES};
pub use system::SystemError;
