//! What the tables depend on: which interfaces and networks are the agents', and which ports are the doors'.
//!
//! Says nothing of policy. `config` fills it, the helper carries it, `rules` reads it.

use std::collections::HashSet;
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::pattern::{self, MAX_INTERFACE_NAME, is_interface_name};

/// Bounds that keep one batch far below the kernel's netlink message limits.
pub(super) const MAX_INTERFACES: usize = 64;
const MAX_NETWORKS: usize = 512;
pub(super) const MAX_PORTS: usize = 512;

/// How connections come to the transparent door.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intercept {
    /// Their destination is rewritten; connection tracking knows what it was.
    #[default]
    Redirect,
    /// They are delivered as they are: the door's own address is their destination, and they are not tracked.
    Tproxy,
}

/// Twice what the daemon lets a client have by default.
const FLOWS_PER_SOURCE: u32 = 4096;

/// The bounds of `[limits]` that the tables keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections that one source may open in a second; twice as many at once.
    pub syns_per_second: u32,
}

impl Default for Limits {
    /// Ten times what a parallel install opens, and a fraction of what a core can refuse.
    fn default() -> Self {
        Self { syns_per_second: 5000 }
    }
}

/// Where the agents are and where the doors stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Interfaces behind which only agents live. They need not exist yet.
    pub interfaces: Vec<String>,
    /// The agents' networks, which hold the host-only addresses of the gate too.
    pub networks: Vec<IpNet>,
    /// The transparent door; `None` redirects no TCP but DNS.
    pub transparent_port: Option<u16>,
    /// The DNS door; `None` refuses port 53.
    pub dns_port: Option<u16>,
    /// The explicit doors, reachable without a redirect.
    pub explicit_ports: Vec<u16>,
    /// Destination ports that go to the transparent door: 80, 443 and what raw-TCP rules open.
    pub redirect_tcp_ports: Vec<u16>,
    /// The QUIC Version Negotiation responder; `None` rejects UDP 443 like all other UDP.
    pub quic_port: Option<u16>,
    pub intercept: Intercept,
    /// TCP connections of one source (an IPv6 /64) that the kernel lets through; in the way of floods, behind the
    /// daemon's own bound. Connections that TPROXY takes are not tracked and so not counted here.
    pub flows_per_source: u32,
    /// TCP connections that one source may open in a second; twice as many at once.
    pub syns_per_second: u32,
    /// Bridges of containers that neighbours must not reach but through published ports, as `docker0` or `br-*`.
    pub guard: Vec<String>,
}

impl Default for Settings {
    /// No doors and nobody behind them, which is not valid: a beginning for what is filled in.
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            networks: Vec::new(),
            transparent_port: None,
            dns_port: None,
            explicit_ports: Vec::new(),
            redirect_tcp_ports: Vec::new(),
            quic_port: None,
            intercept: Intercept::Redirect,
            flows_per_source: FLOWS_PER_SOURCE,
            syns_per_second: Limits::default().syns_per_second,
            guard: Vec::new(),
        }
    }
}

/// Every problem of the settings at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Settings {
    /// # Errors
    /// All that is wrong, each with a way out.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let mut problems = Vec::new();
        self.check_interfaces(&mut problems);
        self.check_networks(&mut problems);
        self.check_ports(&mut problems);
        pattern::check(&self.guard, &mut problems);
        if self.flows_per_source == 0 || self.syns_per_second == 0 || self.syns_per_second > u32::MAX / 2 {
            problems.push("the flow cap and the SYN rate must be above 0 and below 2^31".into());
        }
        if problems.is_empty() { Ok(()) } else { Err(SettingsError(problems)) }
    }

    /// The transparent door, where packets are rewritten to it.
    pub(super) fn redirect_port(&self) -> Option<u16> {
        self.transparent_port.filter(|_| self.intercept == Intercept::Redirect)
    }

    /// The transparent door, where packets are handed to it as they are.
    pub(super) fn tproxy_port(&self) -> Option<u16> {
        self.transparent_port.filter(|_| self.intercept == Intercept::Tproxy)
    }

    fn check_interfaces(&self, problems: &mut Vec<String>) {
        // Without both the tables fence nobody yet: the first workload is to be attached later.
        if self.interfaces.is_empty() && !self.networks.is_empty() {
            problems.push("no agent interface is named: the tables would fence nobody".into());
        }
        if self.interfaces.len() > MAX_INTERFACES {
            problems.push(format!("more than {MAX_INTERFACES} agent interfaces"));
        }
        for name in &self.interfaces {
            if name == "lo" {
                problems.push("`lo` cannot be an agent interface: the host itself would be fenced in".into());
            } else if !is_interface_name(name) {
                problems.push(format!(
                    "{name:?} is no interface name: 1 to {MAX_INTERFACE_NAME} letters, digits or . _ - @ :"
                ));
            }
        }
    }

    fn check_networks(&self, problems: &mut Vec<String>) {
        if self.networks.is_empty() && !self.interfaces.is_empty() {
            problems
                .push("no agent network is named: LAN neighbours could reach the host-only addresses".into());
        }
        if self.networks.len() > MAX_NETWORKS {
            problems.push(format!("more than {MAX_NETWORKS} agent networks"));
        }
        for net in &self.networks {
            let special = net.addr().is_loopback() || net.addr().is_multicast() || net.prefix_len() == 0;
            if special {
                problems.push(format!(
                    "{net} cannot be an agent network: name the subnet that the agents are in"
                ));
            }
        }
    }

    fn check_ports(&self, problems: &mut Vec<String>) {
        let tcp_doors = self.transparent_port.iter().chain(&self.dns_port).chain(&self.explicit_ports);
        let mut seen = HashSet::new();
        for &port in tcp_doors {
            if port == 0 {
                problems.push("a door has port 0: bind it first and name the port it got".into());
            } else if !seen.insert(port) {
                problems.push(format!("two doors share TCP port {port}"));
            }
        }
        if self.quic_port == Some(0) || self.redirect_tcp_ports.contains(&0) {
            problems.push("0 is no port".into());
        }
        if self.quic_port.is_some() && self.quic_port == self.dns_port {
            problems.push("the QUIC responder and the DNS door share a UDP port".into());
        }
        if self.explicit_ports.len() > MAX_PORTS || self.redirect_tcp_ports.len() > MAX_PORTS {
            problems.push(format!("more than {MAX_PORTS} ports in one list"));
        }
        if self.transparent_port.is_none() && !self.redirect_tcp_ports.is_empty() {
            problems.push("TCP ports are to be redirected, but there is no transparent door".into());
        }
        if self.dns_port.is_some() && self.redirect_tcp_ports.contains(&53) {
            problems.push("TCP port 53 belongs to the DNS door: take it out of the redirected ports".into());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::steer) fn example() -> Settings {
        Settings {
            interfaces: vec!["agent0".into()],
            networks: vec!["10.77.1.0/24".parse().unwrap(), "fd77:1::/64".parse().unwrap()],
            transparent_port: Some(15001),
            dns_port: Some(53),
            explicit_ports: vec![3128],
            redirect_tcp_ports: vec![80, 443],
            quic_port: Some(15443),
            ..Settings::default()
        }
    }

    #[test]
    fn the_example_is_valid() {
        assert_eq!(example().validate(), Ok(()));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let bad = Settings {
            interfaces: vec![
                "lo".into(),
                "a b".into(),
                "x\" drop".into(),
                "muchtoolongname0".into(),
                String::new(),
            ],
            networks: vec!["0.0.0.0/0".parse().unwrap(), "127.0.0.0/8".parse().unwrap()],
            transparent_port: Some(3128),
            redirect_tcp_ports: vec![0, 53],
            guard: vec!["*".into(), "lo".into(), "br *".into(), "br-*".into()],
            syns_per_second: 0,
            ..example()
        };
        assert_eq!(bad.validate().unwrap_err().0.len(), 14);
    }
}
