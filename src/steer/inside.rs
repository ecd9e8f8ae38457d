//! The table of a workload's own network namespace: what leaves it goes to the gate's listeners there, or nowhere.
//!
//! The gate's sockets are made inside and served by a daemon that need not live there. One table holds redirect and
//! refusal, so that it comes and goes as a whole; a dead listener behind it answers with a reset. It binds whoever has
//! no CAP_NET_ADMIN in the namespace: a privileged workload must be fenced outside. `exec` and `attach` use it.
//!
//! ```text
//! process inside    -> nat_out  redirect ------------------> listener
//!                   -> out      refuse what still would leave
//! container inside  -> nat_pre  redirect to the bridge's address
//!                   -> forw     refuse what still would leave
//! neighbour outside -> inp      the listeners are not for him
//! ```

use serde::{Deserialize, Serialize};

use super::pattern::{MAX_INTERFACE_NAME, is_interface_name};
use super::rules::{
    Base, Chain, Clause::*, Elements, Icmp, Interface, Proto, Rule, Set, TAKEN, Table, UPLINK, rule, sorted,
};
use super::settings::{MAX_INTERFACES, MAX_PORTS, SettingsError};

pub(super) const INSIDE: &str = "outgate_inside";

/// What the table depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The interfaces that lead out of the namespace; `lo` where the default route leads nowhere at all. They need not
    /// exist yet. What is neither among them nor a bridge is refused: an interface that is added later opens no way out.
    pub uplinks: Vec<String>,
    /// The transparent listener, on the wildcard addresses: containers inside meet it on their bridge's address.
    pub transparent_port: Option<u16>,
    /// The DNS listener, likewise. Another port than 53, so that a question to the listener itself is told from a
    /// redirected one; `None` refuses port 53. Its UDP sockets belong on 127.0.0.1, ::1 and each bridge's address: one
    /// on a wildcard address answers from another address than the redirect sent the question to.
    pub dns_port: Option<u16>,
    /// The QUIC Version Negotiation responder; `None` refuses UDP 443 like all other UDP.
    pub quic_port: Option<u16>,
    /// Destination ports that go to the transparent listener: 80, 443 and what raw-TCP rules open.
    pub redirect_tcp_ports: Vec<u16>,
    /// The daemon's user where the daemon itself lives in this namespace and dials from it. No process of the workload
    /// may be that user. Nobody is exempt where the daemon lives elsewhere.
    pub exempt_uid: Option<u32>,
}

impl Settings {
    /// # Errors
    /// All that is wrong.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let mut problems = Vec::new();
        if self.uplinks.is_empty() || self.uplinks.len() > MAX_INTERFACES {
            problems.push(format!("name the namespace's uplinks: 1 to {MAX_INTERFACES} interfaces"));
        }
        for name in self.uplinks.iter().filter(|name| !is_interface_name(name)) {
            problems.push(format!(
                "{name:?} is no interface name: 1 to {MAX_INTERFACE_NAME} letters, digits or . _ - @ :"
            ));
        }
        let doors = [self.transparent_port, self.dns_port, self.quic_port];
        if doors.contains(&Some(0)) || self.redirect_tcp_ports.contains(&0) {
            problems.push("0 is no port: bind a listener first and name the port it got".into());
        }
        let shared = |a: Option<u16>, b| a.is_some() && a == b;
        if shared(self.transparent_port, self.dns_port) || shared(self.dns_port, self.quic_port) {
            problems.push("two listeners share a port".into());
        }
        if self.dns_port == Some(53) {
            problems.push("the DNS listener inside a namespace needs another port than 53".into());
        }
        if self.redirect_tcp_ports.len() > MAX_PORTS {
            problems.push(format!("more than {MAX_PORTS} ports are to be redirected"));
        }
        if self.exempt_uid == Some(0) {
            problems.push("root cannot be exempt: the workload may be root as well".into());
        }
        if problems.is_empty() { Ok(()) } else { Err(SettingsError(problems)) }
    }
}

/// The table as a file that `nft -f` takes. Valid settings are the caller's duty.
pub fn render(settings: &Settings) -> String {
    table(settings).to_string()
}

pub(super) fn table(settings: &Settings) -> Table {
    let mut uplinks = settings.uplinks.clone();
    uplinks.sort();
    uplinks.dedup();
    let mut sets = vec![Set { name: UPLINK, elements: Elements::Interfaces(uplinks) }];
    if settings.transparent_port.is_some() {
        sets.push(Set { name: TAKEN, elements: Elements::Ports(sorted(&settings.redirect_tcp_ports)) });
    }
    let chain = |name, base, rules| Chain { name, base, rules };
    let chains = vec![
        chain("nat_out", Base::NatOutput, from_processes(settings)),
        chain("out", Base::Output, output(settings)),
        chain("nat_pre", Base::NatPrerouting, from_containers(settings)),
        chain("forw", Base::Forward, forwarded()),
        chain("inp", Base::Input, input(settings)),
    ];
    Table { name: INSIDE, sets, chains }
}

fn from_processes(settings: &Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(uid) = settings.exempt_uid {
        rules.push(rule(&[FromUser(uid), Return]));
    }
    // Questions to local addresses too: a resolver that listens there would ask from somewhere else.
    rules.extend(questions(settings));
    // By address and not by interface: where the default route is on `lo`, everything goes through `lo`.
    rules.push(rule(&[ToHere, Return]));
    rules.push(rule(&[NotToUplink, Return]));
    rules.extend(taken(settings));
    rules
}

fn from_containers(settings: &Settings) -> Vec<Rule> {
    let mut rules = vec![rule(&[FromUplink, Return])];
    rules.extend(questions(settings));
    // Containers on one bridge come past here where br_netfilter is on; what stays inside is not ours to take.
    let elsewhere = settings.uplinks.iter().map(|name| RoutedElsewhere(Interface::new(name)));
    rules.push(rule(&elsewhere.chain([Return]).collect::<Vec<_>>()));
    rules.extend(taken(settings));
    rules
}

fn questions(settings: &Settings) -> Vec<Rule> {
    let both = |port| [rule(&[UdpPort(53), RedirectTo(port)]), rule(&[TcpPort(53), RedirectTo(port)])];
    settings.dns_port.map(both).into_iter().flatten().collect()
}

fn taken(settings: &Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(port) = settings.transparent_port {
        rules.push(rule(&[TcpPortIn(TAKEN), RedirectTo(port)]));
    }
    if let Some(port) = settings.quic_port {
        rules.push(rule(&[UdpPort(443), RedirectTo(port)]));
    }
    rules
}

/// Comes after the redirect, so what went to a listener is addressed to this namespace by now. So are the kernel's
/// own refusals, which must not be refused in turn.
fn output(settings: &Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(uid) = settings.exempt_uid {
        rules.push(rule(&[FromUser(uid), Accept]));
        // The daemon finds its router by these; nobody's process sends them.
        for neighbour in [Icmp::NeighborSolicit, Icmp::NeighborAdvert, Icmp::RouterSolicit] {
            rules.push(rule(&[IcmpType(neighbour), Accept]));
        }
    }
    rules.push(rule(&[ToHere, Accept]));
    rules.push(rule(&[NotToUplink, ToBridge, Accept]));
    rules.extend(refused());
    rules
}

/// On purpose without an `established accept`: a flow that was open before the table must not go on.
fn forwarded() -> Vec<Rule> {
    let mut rules = vec![
        rule(&[FromUplink, Counter, Drop]),
        // Containers among themselves.
        rule(&[NotToUplink, FromBridge, ToBridge, Accept]),
    ];
    rules.extend(refused());
    rules
}

fn input(settings: &Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    for port in settings.transparent_port.into_iter().chain(settings.dns_port) {
        rules.push(rule(&[FromUplink, TcpPort(port), NotRedirected, Counter, Reset]));
    }
    for port in settings.dns_port.into_iter().chain(settings.quic_port) {
        rules.push(rule(&[FromUplink, UdpPort(port), NotRedirected, Counter, Drop]));
    }
    rules
}

fn refused() -> [Rule; 2] {
    [rule(&[Carries(Proto::Tcp), Counter, Reset]), rule(&[Counter, Prohibit])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Settings {
        Settings {
            uplinks: vec!["lo".into()],
            transparent_port: Some(15001),
            dns_port: Some(15053),
            quic_port: None,
            redirect_tcp_ports: vec![80, 443],
            exempt_uid: None,
        }
    }

    #[test]
    fn nobody_is_exempt_unless_named_and_nothing_established_is_let_out() {
        let text = render(&example());
        assert!(!text.contains("skuid") && !text.contains("established"), "{text}");
        let text = render(&Settings { exempt_uid: Some(990), ..example() });
        assert_eq!(text.matches("meta skuid 990").count(), 2, "{text}");
    }

    #[test]
    fn every_problem_is_told_at_once() {
        assert_eq!(example().validate(), Ok(()));
        let bad = Settings {
            uplinks: vec!["a b".into()],
            transparent_port: Some(53),
            dns_port: Some(53),
            redirect_tcp_ports: vec![0],
            exempt_uid: Some(0),
            ..example()
        };
        assert_eq!(bad.validate().unwrap_err().0.len(), 5);
    }
}
