//! Does plain HTTP to anywhere arrive at the gate? One request for a name that no rule allows, which it refuses itself.

use super::Check;
use super::reach::{End, WAIT, failed};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

const MOST: u64 = 16 * 1024;

pub(super) fn door(target: IpAddr, denied: &str) -> Vec<Check> {
    let check = "transparent door";
    let to = SocketAddr::new(target, 80);
    let remedy =
        "the redirect does not take this interface's connections: outgate doctor on the gate says why";
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {denied}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        // What came before an end that is not clean is enough.
        let _ = stream.take(MOST).read_to_end(&mut answer);
        Ok::<_, std::io::Error>(answer)
    };
    vec![match ask() {
        Ok(answer) => {
            let text = String::from_utf8_lossy(&answer);
            let status = text.split_whitespace().nth(1).unwrap_or("nothing").to_owned();
            if status == "403" && text.contains("outgate") {
                Check::good(check, format!("HTTP to {to} is answered by the gate, with a refusal"))
            } else {
                Check::bad(
                    check,
                    format!("HTTP to {to} for {denied} is answered with {status}, and not by the gate"),
                    remedy,
                )
            }
        }
        Err(error) => match failed(&error) {
            End::Refused(words) => {
                let fact = format!("HTTP to {to}: {words}; nothing leaves, and nothing works");
                Check::warn(check, fact, "fine with an explicit door alone; else is the daemon up?")
            }
            _ => Check::warn(check, format!("HTTP to {to} is not answered"), remedy),
        },
    }]
}
