//! The internet's name server with its query log (tap T4), and a small client that says exactly what it is told.
//!
//! Messages are made by hand so that the product's own DNS library does not judge itself.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ns::Namespace;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const MX: u16 = 15;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
pub const HTTPS: u16 = 65;

pub const SERVFAIL: u8 = 2;
pub const NXDOMAIN: u8 = 3;
pub const REFUSED: u8 = 5;

/// What the name server says about a name.
#[derive(Debug, Clone)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    Alias(String),
    /// The answers in turn, the last one for ever, each with a TTL of zero: rebinding.
    Turns(Vec<Vec<IpAddr>>),
    Fail(u8),
    Silence,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub name: String,
    pub kind: u16,
}

#[derive(Default)]
struct Zone {
    names: HashMap<String, Answer>,
    turns: HashMap<(String, u16), usize>,
    log: Vec<Query>,
}

pub struct NameServer {
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    pub fn start(net: &Namespace, at: SocketAddr) -> Self {
        let (udp, tcp) = (net.udp(at), net.listen(at));
        let (zone, stop) = (Arc::<Mutex<Zone>>::default(), Arc::new(AtomicBool::new(false)));
        let over_udp = {
            let (zone, stop) = (zone.clone(), stop.clone());
            move || serve_udp(&udp, &zone, &stop)
        };
        let over_tcp = {
            let (zone, stop) = (zone.clone(), stop.clone());
            move || serve_tcp(&tcp, &zone, &stop)
        };
        let threads = vec![std::thread::spawn(over_udp), std::thread::spawn(over_tcp)];
        Self { zone, stop, threads }
    }

    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        self.answer(name, Answer::Addresses(addresses.to_vec()));
    }

    pub fn answer(&self, name: &str, answer: Answer) {
        self.zone.lock().unwrap().names.insert(name.to_owned(), answer);
    }

    pub fn queries(&self) -> Vec<Query> {
        self.zone.lock().unwrap().log.clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn serve_udp(socket: &UdpSocket, zone: &Mutex<Zone>, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut message = [0_u8; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut message) else { continue };
        if let Some(reply) = reply(&message[..length], zone) {
            socket.send_to(&reply, from).ok();
        }
    }
}

fn serve_tcp(listener: &TcpListener, zone: &Mutex<Zone>, stop: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::park_timeout(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut size = [0_u8; 2];
        while stream.read_exact(&mut size).is_ok() {
            let mut message = vec![0_u8; usize::from(u16::from_be_bytes(size))];
            if stream.read_exact(&mut message).is_err() {
                break;
            }
            let Some(reply) = reply(&message, zone) else { break };
            let sized = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
            if stream.write_all(&sized).is_err() {
                break;
            }
        }
    }
}

fn reply(message: &[u8], zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    let (name, after) = read_name(message, 12)?;
    let kind = u16::from_be_bytes([*message.get(after)?, *message.get(after + 1)?]);
    let mut zone = zone.lock().unwrap();
    zone.log.push(Query { name: name.clone(), kind });
    let mut answers = Vec::new();
    let mut code = 0;
    let mut owner = name;
    for _ in 0..16 {
        match zone.names.get(&owner).cloned() {
            None => code = NXDOMAIN,
            Some(Answer::Silence) => return None,
            Some(Answer::Fail(failure)) => code = failure,
            Some(Answer::Alias(target)) => {
                answers.push(resource(&owner, CNAME, 60, &wire_name(&target)));
                owner = target;
                continue;
            }
            Some(Answer::Addresses(addresses)) => answers.extend(of_kind(&owner, kind, 60, &addresses)),
            Some(Answer::Turns(turns)) => {
                let turn = zone.turns.entry((owner.clone(), kind)).or_default();
                let now = (*turn).min(turns.len() - 1);
                *turn += 1;
                answers.extend(of_kind(&owner, kind, 0, &turns[now]));
            }
        }
        break;
    }
    let question = message.get(12..after + 4)?;
    let mut out = message.get(..2)?.to_vec();
    out.extend([0x81 | 0x04, 0x80 | code]);
    for count in [1_u16, answers.len() as u16, 0, 0] {
        out.extend(count.to_be_bytes());
    }
    out.extend(question);
    out.extend(answers.concat());
    Some(out)
}

fn of_kind(owner: &str, kind: u16, ttl: u32, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let matching = addresses.iter().filter_map(|address| match (address, kind) {
        (IpAddr::V4(v4), A) => Some(v4.octets().to_vec()),
        (IpAddr::V6(v6), AAAA) => Some(v6.octets().to_vec()),
        _ => None,
    });
    matching.map(|data| resource(owner, kind, ttl, &data)).collect()
}

fn resource(owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut out = wire_name(owner);
    out.extend(kind.to_be_bytes());
    out.extend(1_u16.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
    out
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

/// A name in lower case and the place behind it. Pointers lead backwards only, so this ends.
fn read_name(message: &[u8], mut place: usize) -> Option<(String, usize)> {
    let mut labels: Vec<String> = Vec::new();
    let mut end = None;
    loop {
        let length = usize::from(*message.get(place)?);
        if length >= 0xc0 {
            let target = (length & 0x3f) << 8 | usize::from(*message.get(place + 1)?);
            end.get_or_insert(place + 2);
            if target >= place {
                return None;
            }
            place = target;
        } else if length == 0 {
            return Some((labels.join(".").to_ascii_lowercase(), end.unwrap_or(place + 1)));
        } else {
            let label = message.get(place + 1..place + 1 + length)?;
            labels.push(String::from_utf8_lossy(label).into_owned());
            place += 1 + length;
        }
    }
}

/// What a client was told.
#[derive(Debug, Clone)]
pub struct Reply {
    pub code: u8,
    pub addresses: Vec<IpAddr>,
    pub aliases: Vec<String>,
}

impl Reply {
    /// DNS-DENY of the gauntlet: REFUSED or NXDOMAIN, and nothing else in it.
    pub fn is_denied(&self) -> bool {
        matches!(self.code, REFUSED | NXDOMAIN) && self.addresses.is_empty()
    }
}

pub fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0x4f, 0x47, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    out.extend(wire_name(name));
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

/// Asks once over UDP, or over TCP. No answer within five seconds is an error.
pub fn ask(from: &Namespace, server: SocketAddr, name: &str, kind: u16, tcp: bool) -> std::io::Result<Reply> {
    let message = question(name, kind);
    let wait = Duration::from_secs(5);
    let answer = if tcp {
        let mut stream = from.connect(server, wait)?;
        stream.set_read_timeout(Some(wait))?;
        stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat())?;
        let mut size = [0_u8; 2];
        stream.read_exact(&mut size)?;
        let mut answer = vec![0_u8; usize::from(u16::from_be_bytes(size))];
        stream.read_exact(&mut answer)?;
        answer
    } else {
        let any = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = from.udp(any.parse().unwrap());
        socket.connect(server)?;
        socket.set_read_timeout(Some(wait))?;
        socket.send(&message)?;
        let mut answer = vec![0_u8; 4096];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        answer
    };
    read_reply(&answer).ok_or_else(|| std::io::Error::other(format!("no DNS message: {answer:02x?}")))
}

fn read_reply(message: &[u8]) -> Option<Reply> {
    let count = usize::from(u16::from_be_bytes([*message.get(6)?, *message.get(7)?]));
    let mut reply = Reply { code: *message.get(3)? & 15, addresses: Vec::new(), aliases: Vec::new() };
    let mut place = read_name(message, 12)?.1 + 4;
    for _ in 0..count {
        place = read_name(message, place)?.1;
        let kind = u16::from_be_bytes([*message.get(place)?, *message.get(place + 1)?]);
        let length = usize::from(u16::from_be_bytes([*message.get(place + 8)?, *message.get(place + 9)?]));
        let data = message.get(place + 10..place + 10 + length)?;
        match kind {
            A => reply.addresses.push(<[u8; 4]>::try_from(data).ok()?.into()),
            AAAA => reply.addresses.push(<[u8; 16]>::try_from(data).ok()?.into()),
            CNAME => reply.aliases.push(read_name(message, place + 10)?.0),
            _ => {}
        }
        place += 10 + length;
    }
    Some(reply)
}
