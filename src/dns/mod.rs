//! The DNS door, the resolver and the leases.
