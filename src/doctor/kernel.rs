//! Settings of the gateway's kernel that decide what happens to a packet that no door takes.

use super::Check;
use super::ground::{addresses, number, setting};
use super::tables::Fence;
use crate::config::Config;
use ipnet::IpNet;

/// Percent of the connection table in use.
const CONNTRACK_WARN: u64 = 70;
const CONNTRACK_BAD: u64 = 90;

pub(super) fn checks(config: &Config, fence: Fence, checks: &mut Vec<Check>) {
    let interfaces = config.steer.as_ref().map(|steer| steer.interfaces.clone()).unwrap_or_default();
    checks.push(forwarding("forwarding", "IPv4", "ipv4/ip_forward", fence));
    checks.push(forwarding("forwarding v6", "IPv6", "ipv6/conf/all/forwarding", fence));
    if let Some(steer) = &config.steer {
        checks.push(networks(&steer.interfaces, &steer.networks));
        checks.push(reverse_path(&interfaces, fence));
        checks.push(advertisements(&interfaces, fence));
    }
    checks.push(conntrack());
}

fn forwarding(check: &'static str, family: &str, path: &str, fence: Fence) -> Check {
    let off = format!("set net.{} = 0, or outgate fence up", path.replace('/', "."));
    match (number(path), fence) {
        (None, _) => Check::good(check, format!("this kernel has no {family}")),
        (Some(0), _) => Check::good(check, format!("{family} is not forwarded")),
        (Some(_), Fence::Stands) => Check::good(
            check,
            format!("{family} is forwarded, and the fence refuses what comes from workloads"),
        ),
        (Some(_), Fence::Down) => Check::bad(
            check,
            format!("{family} is forwarded and nothing fences the workloads: they go past the gate"),
            off,
        ),
        (Some(_), Fence::Unknown) => Check::warn(check, format!("{family} is forwarded"), off),
    }
}

/// Every address on an agent's interface is host-only; the fence keeps neighbours from those it is told of.
fn networks(interfaces: &[String], networks: &[IpNet]) -> Check {
    let missing: Vec<String> = interfaces
        .iter()
        .filter(|name| number(&format!("ipv4/conf/{name}/forwarding")).is_none())
        .cloned()
        .collect();
    let open: Vec<String> = addresses()
        .into_iter()
        .filter(|address| interfaces.contains(&address.interface) && !is_link_local(&address.net))
        .filter(|address| !networks.iter().any(|network| network.contains(&address.net.addr())))
        .map(|address| format!("{} on {}", address.net.addr(), address.interface))
        .collect();
    if !open.is_empty() {
        let fact =
            format!("in none of [steer] networks: {}; neighbours on the uplink reach it", open.join(", "));
        return Check::bad("networks", fact, "add its network to [steer] networks");
    }
    if !missing.is_empty() {
        let fact = format!("not there now: {}", missing.join(", "));
        return Check::warn(
            "networks",
            fact,
            "fine before workloads are attached; else mend [steer] interfaces",
        );
    }
    Check::good("networks", "every address of the agents' interfaces is in [steer] networks")
}

fn is_link_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}

/// The fence looks at each packet's source itself; without it the kernel's own filter has to.
fn reverse_path(interfaces: &[String], fence: Fence) -> Check {
    if fence == Fence::Stands {
        return Check::good(
            "reverse path",
            "the fence drops what comes from the wrong side, in both families",
        );
    }
    let all = number("ipv4/conf/all/rp_filter").unwrap_or(0);
    let loose = |name: &&String| number(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0).max(all) != 1;
    let open: Vec<&str> = interfaces.iter().filter(loose).map(String::as_str).collect();
    let remedy = "outgate fence up; it checks sources in both families, which net.ipv4.conf.IF.rp_filter = 1 does for IPv4 alone";
    if open.is_empty() {
        Check::warn(
            "reverse path",
            "only the kernel's own filter looks at sources, and for IPv4 alone",
            remedy,
        )
    } else {
        let fact = format!(
            "a workload on {} may send as anybody: rp_filter is not strict and no fence looks",
            open.join(", ")
        );
        Check::bad("reverse path", fact, remedy)
    }
}

/// A workload that advertises itself as a router would take the gate's own IPv6 traffic.
fn advertisements(interfaces: &[String], fence: Fence) -> Check {
    if fence == Fence::Stands {
        return Check::good("router advertisements", "the fence refuses them from workloads");
    }
    let forwards = number("ipv6/conf/all/forwarding") == Some(1);
    let takes = |name: &&String| match setting(&format!("ipv6/conf/{name}/accept_ra")).as_deref() {
        Some("0") | None => false,
        Some("1") => !forwards,
        Some(_) => true,
    };
    let open: Vec<&str> = interfaces.iter().filter(takes).map(String::as_str).collect();
    if open.is_empty() {
        Check::good("router advertisements", "the kernel takes none from workloads")
    } else {
        let fact = format!("taken on {}: a workload could become the gate's router", open.join(", "));
        Check::bad("router advertisements", fact, "outgate fence up, or net.ipv6.conf.IF.accept_ra = 0")
    }
}

fn conntrack() -> Check {
    let (count, most) = (number("netfilter/nf_conntrack_count"), number("netfilter/nf_conntrack_max"));
    let (Some(count), Some(most)) = (count, most) else {
        return Check::good("connection table", "this kernel tracks no connections now");
    };
    let percent = count.saturating_mul(100) / most.max(1);
    let fact = format!("{count} of {most} places are taken");
    let remedy = "raise net.netfilter.nf_conntrack_max; a full table refuses new connections";
    match percent {
        CONNTRACK_BAD.. => Check::bad("connection table", fact, remedy),
        CONNTRACK_WARN.. => Check::warn("connection table", fact, remedy),
        _ => Check::good("connection table", fact),
    }
}
