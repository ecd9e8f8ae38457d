//! Tap T3: every packet that crosses the gate's WAN interface, seen by a packet socket before any rule can touch it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::ns::Namespace;
use super::world::{GATE_WAN, at};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

#[derive(Debug, Clone)]
pub struct Packet {
    /// From the gate to the internet.
    pub outgoing: bool,
    pub protocol: u8,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// SYN without ACK: somebody opens a connection.
    pub syn: bool,
    /// The first byte behind the IP header: for ICMP its type.
    pub first: u8,
}

impl Packet {
    pub fn is_echo_request(&self) -> bool {
        matches!((self.protocol, self.first), (ICMP, 8) | (ICMP6, 128))
    }
}

pub struct Capture {
    seen: Arc<(Mutex<Vec<Packet>>, Condvar)>,
    marker: UdpSocket,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Listens on `interface` of `gate`; `net` is where the markers of `settle` come from.
    pub fn start(gate: &Namespace, interface: &'static str, net: &Namespace) -> Self {
        let (fd, index) = gate.run(move || {
            let fd =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
            let index = std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{interface}")).ok();
            (fd.expect("a packet socket"), index)
        });
        let index = index
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<usize>().ok())
            .expect("the number of the WAN interface");
        setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
        setsockopt(&fd, RcvBuf, &(8 << 20)).ok();
        let marker = net.udp(at(super::world::DNS, 0));
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (to, end) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || listen(&fd, index, &to, &end));
        Self { seen, marker, stop, thread: Some(thread) }
    }

    /// Every packet up to now: a marker is sent from the internet and waited for, since packets keep their order.
    pub fn packets(&self) -> Vec<Packet> {
        let mine = self.marker.local_addr().unwrap();
        let is_marker = |packet: &Packet| packet.from == mine && packet.to.port() == 9;
        let before = self.seen.0.lock().unwrap().iter().filter(|packet| is_marker(packet)).count();
        self.marker.send_to(b"marker", at(GATE_WAN, 9)).unwrap();
        let (seen, news) = &*self.seen;
        let (seen, timeout) = news
            .wait_timeout_while(seen.lock().unwrap(), Duration::from_secs(5), |seen| {
                seen.iter().filter(|packet| is_marker(packet)).count() == before
            })
            .unwrap();
        assert!(!timeout.timed_out(), "the packet capture lost its marker");
        seen.iter().filter(|packet| !is_marker(packet)).cloned().collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn listen(fd: &OwnedFd, index: usize, seen: &(Mutex<Vec<Packet>>, Condvar), stop: &AtomicBool) {
    const OUTGOING: u8 = 4;
    let mut frame = [0_u8; 256];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut frame) else { continue };
        let Some(link) = from.filter(|link| link.ifindex() == index) else { continue };
        let length = length.min(frame.len());
        if let Some(packet) = parse(&frame[..length], link.pkttype() == OUTGOING) {
            seen.0.lock().unwrap().push(packet);
            seen.1.notify_all();
        }
    }
}

pub fn parse(frame: &[u8], outgoing: bool) -> Option<Packet> {
    let (from, to, protocol, payload): (IpAddr, IpAddr, u8, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let ip = frame.get(14..)?;
            let header = usize::from(ip.first()? & 15) * 4;
            let from: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            let to: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
            (from.into(), to.into(), *ip.get(9)?, ip.get(header..)?)
        }
        [0x86, 0xdd] => {
            let ip = frame.get(14..)?;
            let from: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let to: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
            (from.into(), to.into(), *ip.get(6)?, ip.get(40..)?)
        }
        _ => return None,
    };
    let port = |offset: usize| match protocol {
        TCP | UDP => payload.get(offset..offset + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]])),
        _ => 0,
    };
    let flags = payload.get(13).copied().unwrap_or(0);
    Some(Packet {
        outgoing,
        protocol,
        from: SocketAddr::new(from, port(0)),
        to: SocketAddr::new(to, port(2)),
        syn: protocol == TCP && flags & 0x12 == 0x02,
        first: payload.first().copied().unwrap_or(0),
    })
}
