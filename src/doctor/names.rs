//! DNS as a workload sees it: what the resolver says of a name that no rule allows, and who answers for others' servers.

use super::Check;
use super::reach::{End, WAIT, answer_to, failed, tcp};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

const DNS: u16 = 53;
const DNS_OVER_TLS: u16 = 853;
/// RFC 8914: "Blocked", which the gate says with each denial.
const BLOCKED: [u8; 2] = [0, 15];
const NAME_ERROR: u8 = 3;

pub(super) fn checks(denied: &str, other: IpAddr, sure: bool) -> Vec<Check> {
    std::thread::scope(|scope| {
        let resolver = scope.spawn(|| configured(denied));
        let over_udp = scope.spawn(|| elsewhere("another resolver", ask_udp(other, denied), other, sure));
        let over_tcp =
            scope.spawn(|| elsewhere("another resolver, TCP", ask_tcp(other, denied), other, sure));
        let tls = scope.spawn(|| dns_over_tls(other, sure));
        let all = [resolver.join(), over_udp.join(), over_tcp.join(), tls.join()];
        all.into_iter().flatten().collect()
    })
}

/// What an answer says.
struct Answer {
    code: u8,
    /// In the gate's own words.
    blocked: bool,
}

fn configured(denied: &str) -> Check {
    let check = "resolver";
    let remedy = "nameserver in /etc/resolv.conf should be the gate: outgate init --dns";
    let Some(server) = nameserver() else {
        return Check::warn(check, "/etc/resolv.conf names none", remedy);
    };
    let told = |answer: &Answer| match answer.code {
        0 => "an answer".to_owned(),
        NAME_ERROR => "NXDOMAIN".to_owned(),
        code => format!("code {code}"),
    };
    match ask_udp(server, denied) {
        Err(error) => Check::bad(check, format!("{server} does not answer: {error}"), remedy),
        Ok(answer) if answer.code == NAME_ERROR && answer.blocked => {
            Check::good(check, format!("{server} is the gate: NXDOMAIN for {denied}, which no rule allows"))
        }
        Ok(answer) if answer.code == 0 => {
            let fact = format!("{server} gives {} for {denied}, which no rule should allow", told(&answer));
            Check::bad(
                check,
                fact,
                "names leave by it: make the gate the resolver, or look for a rule that allows too much",
            )
        }
        Ok(answer) if server.is_loopback() => {
            let fact =
                format!("{server} gives {}, a resolver in between that asks whom it likes", told(&answer));
            Check::warn(check, fact, "make the gate the resolver of the container itself (docker: --dns)")
        }
        Ok(answer) => {
            let fact = format!("{server} gives {} for {denied}, but not in the gate's words", told(&answer));
            Check::bad(check, fact, remedy)
        }
    }
}

/// Who answers what was sent to a server that is not the gate's.
fn elsewhere(check: &'static str, asked: std::io::Result<Answer>, server: IpAddr, sure: bool) -> Check {
    match asked {
        Ok(answer) if answer.blocked => {
            Check::good(check, format!("a question to {server} is answered by the gate"))
        }
        Ok(_) => {
            let fact = format!("{server} answered, or somebody who is not the gate");
            Check::bad(
                check,
                fact,
                "port 53 is not redirected: start the daemon with a [listen] dns door and its tables",
            )
        }
        Err(error) => match failed(&error) {
            End::Refused(words) => Check::good(check, format!("a question to {server} is refused: {words}")),
            _ => super::reach::unanswered(check, format!("a question to {server} is not answered"), sure),
        },
    }
}

fn dns_over_tls(server: IpAddr, sure: bool) -> Check {
    let check = "DNS over TLS";
    match tcp(SocketAddr::new(server, DNS_OVER_TLS)) {
        End::Reached(how) => {
            let fact = format!("{server} port {DNS_OVER_TLS}: {how}");
            Check::bad(
                check,
                fact,
                "the fence does not cover this interface: outgate doctor on the gate says why",
            )
        }
        End::Silent => super::reach::unanswered(check, format!("{server} does not answer"), sure),
        End::Closed => Check::good(check, format!("{server}: closed at once")),
        End::Refused(words) => Check::good(check, format!("{server}: {words}")),
    }
}

fn nameserver() -> Option<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    text.lines().find_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
}

fn ask_udp(server: IpAddr, name: &str) -> std::io::Result<Answer> {
    read(&answer_to(SocketAddr::new(server, DNS), &question(name))?)
}

fn ask_tcp(server: IpAddr, name: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, DNS), WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    let question = question(name);
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&question);
    stream.write_all(&framed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    read(&answer)
}

/// RFC 1035 with an OPT record (RFC 6891), which asks for the reason of a denial.
fn question(name: &str) -> Vec<u8> {
    let mut out = vec![0x4f, 0x47, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.trim_end_matches('.').split('.') {
        out.push(label.len().min(63) as u8);
        out.extend(label.bytes().take(63));
    }
    // The root, type A, class IN; then OPT: the root, type 41, 1232 bytes, no flags, no options.
    out.extend_from_slice(&[0, 0, 1, 0, 1, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    out
}

fn read(message: &[u8]) -> std::io::Result<Answer> {
    let [b'O', b'G', flags, code, ..] = message else { return Err(std::io::ErrorKind::InvalidData.into()) };
    if flags & 0x80 == 0 {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(Answer { code: code & 0xf, blocked: is_blocked(message) })
}

/// Looks for the OPT record of the answer and in it for the extended error.
fn is_blocked(message: &[u8]) -> bool {
    let opt = message.windows(3).rposition(|three| three == [0, 0, 41]);
    let Some(mut options) = opt.and_then(|place| message.get(place + 11..)) else { return false };
    while let [code_high, code, length_high, length, rest @ ..] = options {
        let length = usize::from(u16::from_be_bytes([*length_high, *length]));
        let Some(value) = rest.get(..length) else { return false };
        // Option 15 is the extended error (RFC 8914).
        if [*code_high, *code] == [0, 15] && value.starts_with(&BLOCKED) {
            return true;
        }
        options = rest.get(length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gates_denial_is_told_from_anothers() {
        let mut answer = question("outgate-doctor.invalid");
        answer[2] |= 0x80;
        answer[3] = 0x80 | NAME_ERROR;
        assert!(matches!(read(&answer), Ok(Answer { code: NAME_ERROR, blocked: false })));
        let end = answer.len();
        answer[end - 1] = 6;
        answer.extend([0, 15, 0, 2, 0, 15]);
        assert!(matches!(read(&answer), Ok(Answer { code: NAME_ERROR, blocked: true })));
        for cut in 0..answer.len() {
            assert!(!read(&answer[..cut]).is_ok_and(|answer| answer.blocked), "{cut}");
        }
    }
}
