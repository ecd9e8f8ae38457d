//! Whether anything but what the gate takes gets out: TCP, UDP, QUIC and ICMP, in both families.

use super::Check;
use super::inside::{NOBODY, NOBODY_V6};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// A gate refuses within a millisecond, and a far host answers within this.
pub(super) const WAIT: Duration = Duration::from_millis(900);

const ATTEMPTS: usize = 3;

/// Ports that no redirect takes: ssh, smtp, DNS over TLS, proxies, databases, others' web servers.
const TCP: [u16; 8] = [22, 25, 853, 3128, 5432, 8080, 8443, 9999];
/// Services that answer a datagram, and tunnels.
const UDP: [u16; 5] = [123, 500, 853, 4433, 51820];

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Somebody answered.
    Reached(String),
    /// Connected, and closed at once without a byte: what a gate does with a port that some rule opens to others.
    Closed,
    Refused(String),
    Silent,
}

pub(super) fn checks(targets: &[IpAddr], sure: bool) -> Vec<Check> {
    std::thread::scope(|scope| {
        let each: Vec<_> = targets
            .iter()
            .map(|target| {
                scope.spawn(move || {
                    let v6 = target.is_ipv6();
                    let names: [&'static str; 4] = if v6 {
                        ["TCP over v6", "UDP over v6", "QUIC over v6", "ping over v6"]
                    } else {
                        ["TCP", "UDP", "QUIC", "ping"]
                    };
                    let [tcp_name, udp_name, quic_name, ping_name] = names;
                    // A refusal is the gate's only when it refuses so what leads to nobody; the target may refuse too.
                    let nobody = if v6 { NOBODY_V6 } else { NOBODY };
                    let twin = (nobody != *target).then(|| refusal(nobody));
                    let connect = |to: IpAddr| at_once(&TCP, |port| tcp(SocketAddr::new(to, port)));
                    let ends = connect(*target);
                    let tcp_twin = if twin.is_some() { connect(nobody) } else { ends.clone() };
                    let datagrams =
                        at_once(&UDP, |port| udp(SocketAddr::new(*target, port), b"outgate doctor"));
                    let udp_twin: Vec<_> = datagrams
                        .iter()
                        .map(|(port, end)| (*port, twin.clone().unwrap_or_else(|| end.clone())))
                        .collect();
                    vec![
                        several(tcp_name, *target, &ends, &tcp_twin, sure),
                        several(udp_name, *target, &datagrams, &udp_twin, sure),
                        quic(quic_name, *target, twin.as_ref()),
                        ping(ping_name, *target, twin.as_ref(), sure),
                    ]
                })
            })
            .collect();
        each.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

/// How a datagram to nobody is refused. Routers send few such words a second (icmp(7)), so it is asked first and again.
fn refusal(nobody: IpAddr) -> End {
    let ask = || udp(SocketAddr::new(nobody, 33_434), b"outgate doctor");
    (0..ATTEMPTS).map(|_| ask()).find(|end| *end != End::Silent).unwrap_or(End::Silent)
}

/// One thread an attempt, since each may wait for nothing.
pub(super) fn at_once(ports: &[u16], attempt: impl Fn(u16) -> End + Sync) -> Vec<(u16, End)> {
    let attempt = &attempt;
    std::thread::scope(|scope| {
        let running: Vec<_> = ports.iter().map(|port| (*port, scope.spawn(move || attempt(*port)))).collect();
        running.into_iter().map(|(port, thread)| (port, thread.join().unwrap_or(End::Silent))).collect()
    })
}

/// One check of several ports.
///
/// `twins`: how the same is refused to an address that nobody has.
fn several(
    check: &'static str,
    target: IpAddr,
    ends: &[(u16, End)],
    twins: &[(u16, End)],
    sure: bool,
) -> Check {
    let reached: Vec<String> = ends
        .iter()
        .filter_map(
            |(port, end)| if let End::Reached(how) = end { Some(format!("{port} ({how})")) } else { None },
        )
        .collect();
    let list = |wanted: &dyn Fn(&End) -> bool| {
        let ports: Vec<String> =
            ends.iter().filter(|(_, end)| wanted(end)).map(|(port, _)| port.to_string()).collect();
        ports.join(", ")
    };
    let silent = list(&|end| *end == End::Silent);
    if !reached.is_empty() {
        let remedy =
            "the fence is down or does not cover this interface: outgate doctor on the gate says which";
        return Check::bad(check, format!("{target} answers on {}", reached.join(", ")), remedy);
    }
    let own: Vec<String> = ends
        .iter()
        .zip(twins)
        .filter(|((_, end), (_, twin))| matches!(end, End::Refused(_)) && end != twin)
        .map(|((port, _), _)| port.to_string())
        .collect();
    if !own.is_empty() {
        return its_own(check, format!("{target} refuses {}", own.join(", ")));
    }
    if silent.is_empty() {
        let words = ends
            .iter()
            .find_map(|(_, end)| if let End::Refused(words) = end { Some(words.as_str()) } else { None });
        let ports = list(&|_| true);
        return Check::good(check, format!("{target}, ports {ports}: {}", words.unwrap_or("closed at once")));
    }
    unanswered(check, format!("{target} did not answer on {silent}"), sure)
}

/// It was refused, and what leads to nobody was not, or otherwise: so it may be the target that refused.
fn its_own(check: &'static str, fact: String) -> Check {
    let remedy =
        "name a --target that listens there: the gate did not refuse the same to an address that nobody has";
    Check::warn(check, fact, remedy)
}

/// Nobody answered: good where somebody would have, and else no proof.
pub(super) fn unanswered(check: &'static str, fact: String, sure: bool) -> Check {
    if sure {
        Check::good(check, fact)
    } else {
        let remedy = "this does not tell a dropped packet from a lost one: name a host that would answer with --target";
        Check::warn(check, fact, remedy)
    }
}

/// Connects and listens a moment.
pub(super) fn tcp(to: SocketAddr) -> End {
    let mut stream = match TcpStream::connect_timeout(&to, WAIT) {
        Ok(stream) => stream,
        Err(error) => return failed(&error),
    };
    let _ = stream.set_read_timeout(Some(WAIT));
    match stream.read(&mut [0; 1]) {
        Ok(0) => End::Closed,
        Ok(_) => End::Reached("it speaks".to_owned()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Closed,
        Err(_) => End::Reached("it holds the connection".to_owned()),
    }
}

/// Sends a datagram and waits for an answer or an error.
pub(super) fn udp(to: SocketAddr, datagram: &[u8]) -> End {
    match answer_to(to, datagram) {
        Ok(answer) => End::Reached(format!("{} bytes came back", answer.len())),
        Err(error) => failed(&error),
    }
}

pub(super) fn answer_to(to: SocketAddr, datagram: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.send(datagram)?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer.get(..length).unwrap_or_default().to_vec())
}

pub(super) fn failed(error: &std::io::Error) -> End {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => End::Silent,
        _ => End::Refused(error.to_string()),
    }
}

/// The first packet of QUIC version 1 (RFC 9000 section 17.2.2), whose content no server could decrypt. A gate answers
/// it with Version Negotiation, which no server of that version does.
fn quic(check: &'static str, target: IpAddr, twin: Option<&End>) -> Check {
    let mut initial = vec![0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 9, 10, 11, 12, 0, 0x44, 0x9e];
    initial.resize(1200, 0);
    let to = SocketAddr::new(target, 443);
    match answer_to(to, &initial) {
        Ok(answer) if is_version_negotiation(&answer) => {
            Check::good(check, "answered with Version Negotiation: clients turn to TCP at once")
        }
        Ok(answer) => {
            let fact = format!("{to} answered with {} bytes of something", answer.len());
            Check::bad(check, fact, "UDP 443 gets past the gate: outgate doctor on the gate says why")
        }
        Err(error) => match failed(&error) {
            End::Refused(words) => {
                let likewise = twin.is_none_or(|twin| *twin == End::Refused(words.clone()));
                let fact = format!("{to}: {words}");
                if likewise { Check::good(check, fact) } else { its_own(check, fact) }
            }
            _ => {
                Check::good(check, format!("{to}: no answer; clients may wait long before they turn to TCP"))
            }
        },
    }
}

/// RFC 9000 section 17.2.1: a long header with version 0.
fn is_version_negotiation(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0x80 != 0) && packet.get(1..5) == Some(&[0; 4])
}

fn ping(check: &'static str, target: IpAddr, twin: Option<&End>, sure: bool) -> Check {
    let end = match echo(target) {
        Ok(end) => end,
        Err(error) => {
            let remedy = "run doctor as a user whose group may ping (net.ipv4.ping_group_range)";
            return Check::warn(check, format!("no socket for it: {error}"), remedy);
        }
    };
    match end {
        End::Reached(_) => Check::bad(
            check,
            format!("{target} answers"),
            "ICMP is forwarded: outgate doctor on the gate says why",
        ),
        End::Refused(ref words) => {
            let likewise = twin.is_none_or(|twin| *twin == end);
            let fact = format!("{target}: {words}");
            if likewise { Check::good(check, fact) } else { its_own(check, fact) }
        }
        _ => unanswered(check, format!("{target} did not answer"), sure),
    }
}

/// One echo request. An error: there is no socket to send it with.
fn echo(target: IpAddr) -> std::io::Result<End> {
    let (domain, protocol, kind) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    // The kernel lets a range of groups ping without a right; it fills in identifier and checksum.
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(b"outgate doctor");
    let exchange = || {
        socket.connect(&SockAddr::from(SocketAddr::new(target, 0)))?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.send(&message)?;
        (&socket).read(&mut [0; 256])
    };
    Ok(match exchange() {
        Ok(_) => End::Reached("an echo".to_owned()),
        Err(error) => failed(&error),
    })
}
