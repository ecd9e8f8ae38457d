//! From inside a workload: everything that it might try, tried.
//!
//! Destinations that are not given are documentation addresses, which nobody has: a gate that holds refuses them like
//! any other, and one that does not sends them nowhere. Only a destination that really answers (`targets`) tells a lost
//! packet from a dropped one.

use super::{Report, ask, ground, names, neighbours, reach, rights, sockets, trust};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 5737 and RFC 3849.
pub(super) const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(super) const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const NO_RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));

/// What the operator may know better.
#[derive(Debug, Default)]
pub struct Inside {
    /// The gate; the gateway of the default route without it.
    pub gateway: Option<IpAddr>,
    /// Hosts outside that would answer if anything came to them.
    pub targets: Vec<IpAddr>,
    /// Hosts on this link or beside it: the machine that runs the container, siblings.
    pub neighbours: Vec<IpAddr>,
    /// A resolver other than the configured one.
    pub resolver: Option<IpAddr>,
    /// A page that the policy allows, for one request by each runtime.
    pub url: Option<String>,
    /// A name that no rule could allow.
    pub denied: Option<String>,
}

/// All checks from inside.
pub fn inside(options: &Inside) -> Report {
    let gateway = options.gateway.or_else(ground::gateway);
    let sure = !options.targets.is_empty();
    let targets = if sure { options.targets.clone() } else { vec![NOBODY, NOBODY_V6] };
    let denied = options.denied.clone().unwrap_or_else(|| "outgate-doctor.invalid".to_owned());
    let resolver = options.resolver.unwrap_or(NO_RESOLVER);
    // They wait for different peers, so all at a time.
    let checks = std::thread::scope(|scope| {
        let work: [Box<dyn FnOnce() -> Vec<super::Check> + Send + '_>; 7] = [
            Box::new(rights::checks),
            Box::new(|| reach::checks(&targets, sure)),
            Box::new(|| neighbours::checks(gateway, &options.neighbours)),
            Box::new(|| names::checks(&denied, resolver, options.resolver.is_some())),
            Box::new(|| ask::door(targets.first().copied().unwrap_or(NOBODY), &denied)),
            Box::new(sockets::checks),
            Box::new(|| {
                trust::checks(options.url.as_deref(), targets.first().copied().unwrap_or(NOBODY), &denied)
            }),
        ];
        let running: Vec<_> = work.into_iter().map(|work| scope.spawn(work)).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    Report { checks }
}
