//! The way out of a workload's namespace: to the gate and nowhere else, in both families.
//!
//! Either as the default route of the main table, or (`policy`) in a table of its own that is asked before it, so that a
//! platform that configures the interface later changes nothing. Without a gateway for IPv6 there is no IPv6.

use super::address::{self, Interface};
use super::rules::{FR_ACT_TO_TBL, FRA_PRIORITY, FRA_TABLE};
use super::{ShimError, kernel, rules};
use crate::steer::netlink::{attributes, u32_at};
use crate::steer::rtnetlink::{Rtnetlink, family, octets, put};
use nix::libc;
use std::io;
use std::net::IpAddr;

/// struct rtmsg and struct fib_rule_hdr are of one size.
pub(super) const MESSAGE: usize = 12;
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

// linux/rtnetlink.h and linux/fib_rules.h; libc has not all of them.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTNH_F_ONLINK: u32 = 4;

/// How often routes through others are taken away before we say that somebody puts them back.
const ATTEMPTS: usize = 3;

#[derive(Debug)]
pub struct Route {
    /// One of a family at most.
    pub gateways: Vec<IpAddr>,
    /// `None`: the only one that is up.
    pub interface: Option<String>,
    /// The gateway is reached whatever the addresses say, and the own addresses become /32 and /128.
    pub on_link: bool,
    pub policy: Option<PolicyRoute>,
}

/// A table of our own, and the preference of the rule that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRoute {
    pub table: u32,
    pub priority: u32,
}

impl Default for PolicyRoute {
    fn default() -> Self {
        Self { table: 100, priority: 100 }
    }
}

/// What a default route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Gateway(IpAddr),
    /// IPv6 leads nowhere.
    Nowhere,
}

impl Route {
    pub(super) fn establish(&self, tell: &mut dyn FnMut(&str)) -> Result<(), ShimError> {
        let interface = Interface::find(self.interface.as_deref())?;
        let mut netlink = Rtnetlink::open()
            .map_err(|source| ShimError::Kernel { what: "open rtnetlink".into(), source })?;
        interface.bring_up(&mut netlink)?;
        let name = interface.name.as_str();
        let all = ["all", "default", name];
        let v6 = self.gateways.iter().any(IpAddr::is_ipv6);
        if !kernel::set("ipv4", &all, "accept_redirects", "0") {
            tell(
                "ICMP redirects stay accepted, since /proc/sys is read-only: a neighbour could take the gate's place for single hosts (--on-link, or sysctl net.ipv4.conf.all.accept_redirects=0)",
            );
        }
        // Whether routes of others for IPv6 (router advertisements) can still come.
        let settled = match (kernel::has_ipv6(), v6) {
            (false, _) => true,
            (true, true) => {
                ["accept_ra", "accept_redirects"].iter().all(|key| kernel::set("ipv6", &all, key, "0"))
            }
            (true, false) => kernel::set("ipv6", &["default", name], "disable_ipv6", "1"),
        };
        rules::require_none_before(&mut netlink, libc::AF_INET, self.policy)?;
        if kernel::has_ipv6() && (v6 || !settled || self.policy.is_some()) {
            let policy = if settled { self.policy } else { Some(self.policy.unwrap_or_default()) };
            rules::require_none_before(&mut netlink, libc::AF_INET6, policy)?;
        }
        for gateway in &self.gateways {
            self.lead(&mut netlink, &interface, Target::Gateway(*gateway), self.policy)?;
        }
        if kernel::has_ipv6() && !settled {
            // A table that is asked first makes what the kernel may still learn meaningless.
            let table = self.policy.unwrap_or_default();
            let v6 = self.gateways.iter().find(|ip| ip.is_ipv6());
            let target = v6.map_or(Target::Nowhere, |ip| Target::Gateway(*ip));
            self.lead(&mut netlink, &interface, target, Some(table))?;
        } else if self.policy.is_some() && !v6 && kernel::has_ipv6() {
            self.lead(&mut netlink, &interface, Target::Nowhere, self.policy)?;
        }
        if self.on_link {
            interface.narrow(&mut netlink)?;
            if v6 {
                forget_link_network(&mut netlink, &interface)?;
            }
        }
        if self.policy.is_none() {
            for gateway in &self.gateways {
                self.be_the_only_one(&mut netlink, &interface, *gateway)?;
            }
        }
        let others = address::others(name)?;
        if !others.is_empty() {
            tell(&format!(
                "{} up as well: each further interface is a way round the gate (any program may bind to it); attach the workload to one network",
                others.join(", ") + if others.len() == 1 { " is" } else { " are" }
            ));
        }
        Ok(())
    }

    /// Puts the default route into its table, in place of the one there, and the rule that leads to that table.
    fn lead(
        &self,
        netlink: &mut Rtnetlink,
        interface: &Interface,
        target: Target,
        policy: Option<PolicyRoute>,
    ) -> Result<(), ShimError> {
        let on_link = self.on_link || policy.is_some();
        let table = policy.map_or(MAIN, |policy| policy.table);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        netlink
            .change(libc::RTM_NEWROUTE, flags, &default_route(target, interface.index, table, on_link))
            .map_err(|source| match target {
                Target::Gateway(gateway) => {
                    let help = match source.raw_os_error() {
                        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL) if !on_link => {
                            " (no address of this namespace is in its network: --on-link)"
                        }
                        Some(libc::EACCES) => " (IPv6 is switched off there: net.ipv6.conf.*.disable_ipv6)",
                        _ => "",
                    };
                    let what = format!("lead the default route to {gateway} on {}{help}", interface.name);
                    ShimError::Kernel { what, source }
                }
                Target::Nowhere => ShimError::Kernel { what: "close IPv6".into(), source },
            })?;
        let Some(policy) = policy else { return Ok(()) };
        let family = match target {
            Target::Gateway(gateway) => family(gateway),
            Target::Nowhere => libc::AF_INET6 as u8,
        };
        match netlink.change(libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &rule(family, policy))
        {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            done => done.map_err(|source| {
                let what = format!("add the rule that leads to table {}", policy.table);
                ShimError::Kernel { what, source }
            }),
        }
    }

    /// Takes every way of the gateway's family that leads through somebody else out of the main table.
    fn be_the_only_one(
        &self,
        netlink: &mut Rtnetlink,
        interface: &Interface,
        gateway: IpAddr,
    ) -> Result<(), ShimError> {
        let refused =
            |source| ShimError::Kernel { what: "take routes through others away".to_owned(), source };
        let mut question = vec![0; MESSAGE];
        if let Some(first) = question.first_mut() {
            *first = family(gateway);
        }
        for _ in 0..ATTEMPTS {
            let dump = netlink.dump(libc::RTM_GETROUTE, &question).map_err(refused)?;
            let ways = dump.iter().filter_map(|body| Way::read(body));
            let others: Vec<Way> = ways
                .filter(|way| way.gateway != octets(gateway) || way.interface != Some(interface.index))
                .collect();
            if others.is_empty() {
                return Ok(());
            }
            for other in others {
                match netlink.change(libc::RTM_DELROUTE, 0, &other.message) {
                    // Gone by itself.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    done => done.map_err(refused)?,
                }
            }
        }
        Err(refused(io::Error::other("somebody puts them back")))
    }
}

/// A route of the main table that leads to everywhere, or through a gateway to somewhere, as a dump shows it.
struct Way {
    gateway: Vec<u8>,
    interface: Option<u32>,
    /// What names it in a request to delete it.
    message: Vec<u8>,
}

impl Way {
    fn read(body: &[u8]) -> Option<Self> {
        let header: [u8; MESSAGE] = body.get(..MESSAGE)?.try_into().ok()?;
        let [_, destination, _, _, table, _, _, kind, ..] = header;
        let all: Vec<_> = attributes(body.get(MESSAGE..)?).collect();
        let value = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        let table = value(RTA_TABLE).and_then(|v| u32_at(v, 0)).unwrap_or(table.into());
        let through = [RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA].iter().any(|kind| value(*kind).is_some());
        // What leads nowhere (an unreachable default) is no way out, and an on-link network is no way far.
        if table != MAIN || kind != libc::RTN_UNICAST || (destination != 0 && !through) {
            return None;
        }
        let mut message = header.to_vec();
        for kind in [RTA_DST, RTA_TABLE, RTA_GATEWAY, RTA_OIF, RTA_PRIORITY] {
            if let Some(value) = value(kind) {
                put(&mut message, kind, value);
            }
        }
        let interface = value(RTA_OIF).and_then(|v| u32_at(v, 0));
        Some(Self { gateway: value(RTA_GATEWAY).unwrap_or_default().to_vec(), interface, message })
    }
}

/// struct rtmsg and its attributes for a route to everywhere.
fn default_route(target: Target, interface: u32, table: u32, on_link: bool) -> Vec<u8> {
    let (family, kind) = match target {
        Target::Gateway(gateway) => (family(gateway), libc::RTN_UNICAST),
        Target::Nowhere => (libc::AF_INET6 as u8, libc::RTN_UNREACHABLE),
    };
    // Family, two prefix lengths, TOS, table (below as an attribute), protocol, scope, type.
    let mut body = vec![family, 0, 0, 0, 0, libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, kind];
    let flags = if on_link && target != Target::Nowhere { RTNH_F_ONLINK } else { 0 };
    body.extend_from_slice(&flags.to_ne_bytes());
    put(&mut body, RTA_TABLE, &table.to_ne_bytes());
    if let Target::Gateway(gateway) = target {
        put(&mut body, RTA_GATEWAY, &octets(gateway));
        put(&mut body, RTA_OIF, &interface.to_ne_bytes());
    }
    body
}

/// struct fib_rule_hdr and its attributes: everything asks this table.
fn rule(family: u8, policy: PolicyRoute) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    put(&mut body, FRA_TABLE, &policy.table.to_ne_bytes());
    put(&mut body, FRA_PRIORITY, &policy.priority.to_ne_bytes());
    body
}

/// Takes the route to all link-local neighbours away. The addresses stay, for neighbour discovery.
fn forget_link_network(netlink: &mut Rtnetlink, interface: &Interface) -> Result<(), ShimError> {
    let mut body = vec![libc::AF_INET6 as u8, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    put(&mut body, RTA_DST, &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put(&mut body, RTA_OIF, &interface.index.to_ne_bytes());
    put(&mut body, RTA_TABLE, &MAIN.to_ne_bytes());
    match netlink.change(libc::RTM_DELROUTE, 0, &body) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        done => done
            .map_err(|source| ShimError::Kernel { what: "take the link-local network away".into(), source }),
    }
}

/// Asks for a change of routes, which the kernel must refuse now. It looks at the right before it looks at the
/// request, and the request is one that changes nothing: nobody has such a route.
pub(super) fn require_refusal() -> Result<(), ShimError> {
    let mut body = vec![libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    put(&mut body, RTA_DST, &[192, 0, 2, 255]);
    put(&mut body, RTA_TABLE, &MAIN.to_ne_bytes());
    let asked = Rtnetlink::open().and_then(|mut netlink| netlink.change(libc::RTM_DELROUTE, 0, &body));
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        Err(error) => Err(ShimError::StillMayRoute(error.to_string())),
        Ok(()) => Err(ShimError::StillMayRoute("it did".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_leads_nowhere_or_only_on_link_is_no_way_out() {
        let gateway: IpAddr = "10.77.1.1".parse().unwrap();
        let ours = default_route(Target::Gateway(gateway), 7, MAIN, true);
        let found = Way::read(&ours).unwrap();
        assert_eq!((found.gateway, found.interface), (octets(gateway), Some(7)));
        assert!(Way::read(&default_route(Target::Nowhere, 7, MAIN, true)).is_none());
        assert!(Way::read(&default_route(Target::Gateway(gateway), 7, 100, true)).is_none());
        let mut on_link = vec![2, 24, 0, 0, 254, 2, 253, 1, 0, 0, 0, 0];
        put(&mut on_link, RTA_OIF, &7u32.to_ne_bytes());
        assert!(Way::read(&on_link).is_none());
        put(&mut on_link, RTA_GATEWAY, &[10, 77, 1, 9]);
        assert!(Way::read(&on_link).is_some());
        for cut in 0..MESSAGE {
            assert!(Way::read(&ours[..cut]).is_none());
        }
    }
}
