//! The listeners of the doors. Binding happens before privileges are dropped and before the runtime starts, so what is
//! bound is a plain socket; inside the runtime it becomes a [`Listener`].

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpStream;

use super::holder::holder;
use super::incoming;
use super::own::OwnAddresses;
use crate::base::{ClientAddr, Ingress};

/// Connections that may wait for `accept`; the kernel takes the smaller of this and `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Bytes of waiting DNS queries; some hundred milliseconds of a burst.
const UDP_BUFFER: usize = 1 << 20;
/// After `accept` found no file descriptor or memory left: time for some to come back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Port 0 for two sockets at once may need some tries.
const PAIR_ATTEMPTS: usize = 16;

/// Which address could not be had, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub struct BindError {
    pub address: SocketAddr,
    pub protocol: &'static str,
    pub interface: Option<Arc<str>>,
    /// The process that has the address already, where /proc tells.
    pub holder: Option<String>,
    #[source]
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, protocol, .. } = self;
        write!(f, "cannot listen on {protocol} {address}")?;
        if let Some(interface) = &self.interface {
            write!(f, " of interface {interface}")?;
        }
        match self.source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EADDRINUSE) => match &self.holder {
                Some(holder) => write!(f, ": it is held by {holder}"),
                None => f.write_str(": it is held by another process"),
            },
            Some(Errno::EADDRNOTAVAIL) => f.write_str(": no interface of this host has that address"),
            Some(Errno::EACCES) => f.write_str(
                ": a port below net.ipv4.ip_unprivileged_port_start needs CAP_NET_BIND_SERVICE, or take a higher one",
            ),
            Some(Errno::EPERM) => f.write_str(
                ": a door that TPROXY delivers to needs CAP_NET_ADMIN at the start, or take `steer.intercept = \"redirect\"`",
            ),
            Some(Errno::ENODEV) => f.write_str(": there is no such interface"),
            Some(Errno::EAFNOSUPPORT) => f.write_str(": this host has no such address family (is IPv6 switched off?)"),
            _ => write!(f, ": {}", self.source),
        }
    }
}

/// How connections that were meant for others come to a listener: its one meaning of "original destination".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Rewritten to the listener's address, or sent to it in the first place.
    Redirected,
    /// As they were, by TPROXY, to a socket with `IP_TRANSPARENT`.
    AsItWas,
}

/// A TCP listener that nobody accepts from yet; the kernel already queues connections.
pub struct BoundTcp {
    listener: TcpListener,
    address: SocketAddr,
    interface: Option<Arc<str>>,
    delivery: Delivery,
}

/// A UDP socket that nobody reads yet.
pub struct BoundUdp {
    socket: UdpSocket,
    address: SocketAddr,
    interface: Option<Arc<str>>,
}

/// Both halves of the DNS door, on one port.
pub struct BoundDns {
    pub udp: BoundUdp,
    pub tcp: BoundTcp,
}

/// Binds a TCP door. `interface` ties it to one interface (no privilege needed since Linux 5.7): then nothing from
/// another interface reaches it, and what it accepts is known to have come in there. Give it where several interfaces
/// have the same address; without it the local address tells (see [`OwnAddresses::interface_of`]), and the listener
/// outlives an interface that is made anew.
pub fn bind_tcp(address: SocketAddr, interface: Option<&str>) -> Result<BoundTcp, BindError> {
    bind_listener(address, interface, Delivery::Redirected)
}

/// Binds a TCP door that TPROXY delivers to: as [`bind_tcp`], but it takes connections to any address. Needs
/// CAP_NET_ADMIN at this moment only.
pub fn bind_transparent(address: SocketAddr, interface: Option<&str>) -> Result<BoundTcp, BindError> {
    bind_listener(address, interface, Delivery::AsItWas)
}

fn bind_listener(
    address: SocketAddr,
    interface: Option<&str>,
    delivery: Delivery,
) -> Result<BoundTcp, BindError> {
    let bound = || {
        let socket = bound(address, interface, Type::STREAM, Protocol::TCP)?;
        if delivery == Delivery::AsItWas {
            if address.is_ipv6() {
                socket.set_ip_transparent_v6(true)
            } else {
                socket.set_ip_transparent_v4(true)
            }?;
        }
        // Accepted connections inherit this, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(BoundTcp { listener, address, interface: interface.map(Arc::from), delivery })
    };
    bound().map_err(|source| bind_error(address, "TCP", interface, source))
}

/// Binds a UDP socket; `interface` as for [`bind_tcp`].
pub fn bind_udp(address: SocketAddr, interface: Option<&str>) -> Result<BoundUdp, BindError> {
    let bound = || {
        let socket = bound(address, interface, Type::DGRAM, Protocol::UDP)?;
        // The kernel's maximum may be lower; then that must do.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
        let socket = UdpSocket::from(socket);
        let address = socket.local_addr()?;
        Ok(BoundUdp { socket, address, interface: interface.map(Arc::from) })
    };
    bound().map_err(|source| bind_error(address, "UDP", interface, source))
}

/// Binds the DNS door: TCP and UDP on the same port, also where the port is 0.
pub fn bind_dns(address: SocketAddr, interface: Option<&str>) -> Result<BoundDns, BindError> {
    let mut attempts = if address.port() == 0 { PAIR_ATTEMPTS } else { 1 };
    loop {
        let tcp = bind_tcp(address, interface)?;
        match bind_udp(tcp.address, interface) {
            Ok(udp) => return Ok(BoundDns { udp, tcp }),
            Err(error) if attempts <= 1 => return Err(error),
            Err(_) => attempts -= 1,
        }
    }
}

/// A TCP door from a listening socket that somebody else made: a service manager, or a process in another namespace.
///
/// # Errors
/// It is no listening TCP socket.
pub fn adopt_tcp(socket: OwnedFd, interface: Option<&str>) -> io::Result<BoundTcp> {
    let socket = Socket::from(socket);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening TCP socket"));
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Who made it has said what it is for: with this, and only with this, TPROXY delivers to it.
    let v6 = socket.domain()? == Domain::IPV6;
    let transparent = if v6 { socket.ip_transparent_v6()? } else { socket.ip_transparent_v4()? };
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    let delivery = if transparent { Delivery::AsItWas } else { Delivery::Redirected };
    Ok(BoundTcp { listener, address, interface: interface.map(Arc::from), delivery })
}

/// A UDP socket that somebody else bound; as [`adopt_tcp`].
///
/// # Errors
/// It is no bound UDP socket.
pub fn adopt_udp(socket: OwnedFd, interface: Option<&str>) -> io::Result<BoundUdp> {
    let socket = Socket::from(socket);
    if socket.r#type()? != Type::DGRAM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a UDP socket"));
    }
    socket.set_nonblocking(true)?;
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let socket = UdpSocket::from(socket);
    let address = socket.local_addr()?;
    Ok(BoundUdp { socket, address, interface: interface.map(Arc::from) })
}

fn bound(address: SocketAddr, interface: Option<&str>, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // One family a socket: an IPv4 client never wears IPv6 clothes.
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier run in TIME_WAIT must not stop this one. On UDP it would let another process in.
        socket.set_reuse_address(true)?;
    }
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn bind_error(
    address: SocketAddr,
    protocol: &'static str,
    interface: Option<&str>,
    source: io::Error,
) -> BindError {
    let in_use = source.raw_os_error() == Some(Errno::EADDRINUSE as i32);
    let holder = if in_use { holder(address, protocol) } else { None };
    BindError { address, protocol, interface: interface.map(Arc::from), holder, source }
}

impl From<BoundTcp> for OwnedFd {
    /// To be passed to another process, which adopts it.
    fn from(bound: BoundTcp) -> Self {
        bound.listener.into()
    }
}

impl From<BoundUdp> for OwnedFd {
    fn from(bound: BoundUdp) -> Self {
        bound.socket.into()
    }
}

impl BoundTcp {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// Gives the socket to the tokio runtime that this is called in.
    pub fn listen(self, own: Arc<OwnAddresses>) -> io::Result<Listener> {
        let inner = tokio::net::TcpListener::from_std(self.listener)?;
        let ingress = self.interface.map(|name| Ingress::Interface(Some(name)));
        Ok(Listener { inner, address: self.address, ingress, delivery: self.delivery, own })
    }

    /// The same for a socket that only one workload reaches: all that comes in there is this.
    pub fn listen_for(self, ingress: Ingress, own: Arc<OwnAddresses>) -> io::Result<Listener> {
        Ok(Listener { ingress: Some(ingress), ..self.listen(own)? })
    }
}

impl BoundTcp {
    /// The bare listener, for a door with an accept loop of its own. To be called inside the tokio runtime.
    pub fn open(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener)
    }
}

impl BoundUdp {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where all its datagrams come in: it is bound to an interface, or to its address. Whose that interface is at a
    /// moment says [`OwnAddresses::ingress_now`].
    pub fn ingress(&self, own: &OwnAddresses) -> Ingress {
        Ingress::Interface(self.interface.clone().or_else(|| own.interface_of(self.address)))
    }

    /// Gives the socket to the tokio runtime that this is called in.
    pub fn open(self) -> io::Result<tokio::net::UdpSocket> {
        tokio::net::UdpSocket::from_std(self.socket)
    }
}

/// An open door.
pub struct Listener {
    inner: tokio::net::TcpListener,
    address: SocketAddr,
    /// Of all its connections, where that is known beforehand.
    ingress: Option<Ingress>,
    delivery: Delivery,
    own: Arc<OwnAddresses>,
}

/// One connection, and where it came in. Small writes leave at once (`TCP_NODELAY`).
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub client: ClientAddr,
    pub ingress: Ingress,
    /// How it came to the listener, which says where its original destination stands.
    pub delivery: Delivery,
}

impl Listener {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Those that died while they waited are skipped.
    ///
    /// # Errors
    /// No file descriptors or memory are left. It has waited a little by then; log, count, and call again.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            let (stream, peer) = match self.inner.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_exhaustion(&error) => {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    return Err(error);
                }
                // accept(2): errors of the connection, not of the listener.
                Err(_) => continue,
            };
            let ingress = match &self.ingress {
                Some(ingress) => ingress.clone(),
                // The local address is the destination, and says nothing of us.
                None if self.delivery == Delivery::AsItWas => {
                    self.own.ingress_on(incoming::interface(&stream, peer.is_ipv6()))
                }
                None => {
                    stream.local_addr().map_or(Ingress::Interface(None), |local| self.own.ingress_of(local))
                }
            };
            return Ok(Accepted { stream, client: ClientAddr(peer), ingress, delivery: self.delivery });
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    // What is no error of the network is one of ours: to spin on it would burn a core.
    !matches!(
        errno,
        Some(
            Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::EPROTO
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENONET
                | Errno::EOPNOTSUPP
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_names_its_holder() {
        let first = bind_tcp("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let error = bind_tcp(first.address(), None).err().unwrap().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        let first = bind_udp("[::1]:0".parse().unwrap(), None).unwrap();
        let error = bind_udp(first.address(), None).err().unwrap().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    }

    #[test]
    fn a_foreign_address_and_a_missing_interface_are_told_apart() {
        let error = bind_tcp("93.184.216.34:0".parse().unwrap(), None).err().unwrap().to_string();
        assert!(error.ends_with("no interface of this host has that address"), "{error}");
        let error = bind_tcp("127.0.0.1:0".parse().unwrap(), Some("nosuchif0")).err().unwrap().to_string();
        assert!(error.ends_with("there is no such interface"), "{error}");
    }

    #[test]
    fn a_socket_of_the_wrong_kind_is_not_adopted() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(adopt_tcp(udp.try_clone().unwrap().into(), None).is_err());
        assert_eq!(
            adopt_udp(udp.try_clone().unwrap().into(), None).unwrap().address(),
            udp.local_addr().unwrap()
        );
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(adopt_udp(tcp.try_clone().unwrap().into(), None).is_err());
        assert_eq!(
            adopt_tcp(tcp.try_clone().unwrap().into(), None).unwrap().address(),
            tcp.local_addr().unwrap()
        );
    }

    #[test]
    fn both_halves_of_the_dns_door_have_one_port() {
        let door = bind_dns("127.0.0.1:0".parse().unwrap(), None).unwrap();
        assert_eq!(door.udp.address(), door.tcp.address());
    }

    #[tokio::test]
    async fn accepted_connections_do_not_delay_small_writes_and_know_their_interface() {
        let own = Arc::new(OwnAddresses::read().unwrap());
        let door = bind_tcp("127.0.0.1:0".parse().unwrap(), None).unwrap().listen(own).unwrap();
        let client = crate::net::outbound(door.address()).unwrap().connect(door.address()).await.unwrap();
        let accepted = door.accept().await.unwrap();
        assert!(accepted.stream.nodelay().unwrap() && client.nodelay().unwrap());
        assert_eq!(accepted.client.0, client.local_addr().unwrap());
        assert_eq!(accepted.ingress, Ingress::Interface(Some("lo".into())));
    }

    #[tokio::test]
    async fn a_reset_is_a_real_one() {
        let own = Arc::new(OwnAddresses::read().unwrap());
        let door = bind_tcp("127.0.0.1:0".parse().unwrap(), None).unwrap().listen(own).unwrap();
        let client = crate::net::outbound(door.address()).unwrap().connect(door.address()).await.unwrap();
        crate::net::reset(door.accept().await.unwrap().stream);
        client.readable().await.unwrap();
        assert_eq!(client.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn by_27_a_connection_that_nothing_redirected_has_no_destination() {
        let own = Arc::new(OwnAddresses::read().unwrap());
        let door = bind_tcp("127.0.0.1:0".parse().unwrap(), None).unwrap().listen(own.clone()).unwrap();
        let _client = crate::net::outbound(door.address()).unwrap().connect(door.address()).await.unwrap();
        let accepted = door.accept().await.unwrap();
        assert!(crate::net::original_dst(&accepted.stream, accepted.delivery, &own).is_err());
    }
}
