//! Doors that a service manager holds (sd_listen_fds(3)): their sockets were open before the daemon and stay open when
//! it ends, so that who connects while it restarts waits instead of being refused. The name of a socket says which door
//! it is, its address must be one that `[listen]` has for that door. Doors that were not handed over are opened as usual.

use super::Doors;
use super::prepare::{Bind, for_others};
use crate::base::Door;
use crate::config::Config;
use crate::net::{self, BoundDns, BoundTcp, BoundUdp, Delivery};
use crate::steer::Intercept;
use anyhow::{Context, bail};
use listenfd::ListenFd;
use socket2::SockRef;
use std::net::SocketAddr;

/// The first descriptor that is handed over (sd_listen_fds(3)).
const FIRST: usize = 3;

/// All doors, if any of their sockets was handed to this process. To be called before there is a second thread: what
/// announces the sockets is taken out of the environment.
pub fn handed(config: &Config) -> anyhow::Result<Option<Doors>> {
    let names = std::env::var_os("LISTEN_FDNAMES").unwrap_or_default().to_string_lossy().into_owned();
    let mut names = names.split(':').map(str::to_owned);
    let mut sockets = ListenFd::from_env();
    if sockets.len() == 0 {
        return Ok(None);
    }
    let mut pool = Pool::default();
    for index in 0..sockets.len() {
        let name = names.next().unwrap_or_default();
        pool.take(config, &mut sockets, index, &name)
            .with_context(|| format!("socket {} was handed over as {name:?}", FIRST + index))?;
    }
    pool.into_doors(config).map(Some)
}

#[derive(Default)]
struct Pool {
    tcp: Vec<(Door, BoundTcp)>,
    /// Of the DNS door; no other has any.
    udp: Vec<BoundUdp>,
}

impl Pool {
    fn take(
        &mut self,
        config: &Config,
        sockets: &mut ListenFd,
        index: usize,
        name: &str,
    ) -> anyhow::Result<()> {
        let (door, addresses) = match name {
            "transparent" => (Door::Transparent, &config.transparent),
            "explicit" => (Door::Explicit, &config.explicit),
            "dns" => (Door::Dns, &config.dns),
            _ => bail!(
                "this is the name of no door; use transparent, explicit or dns (FileDescriptorName= of the socket unit)"
            ),
        };
        if let Ok(Some(socket)) = sockets.take_tcp_listener(index) {
            one_family(&socket)?;
            let bound = net::adopt_tcp(socket.into(), None)?;
            fits(door, addresses, bound.address())?;
            if door == Door::Transparent {
                delivers(config.intercept, bound.delivery())?;
            }
            if self.tcp.iter().any(|(known, other)| *known == door && other.address() == bound.address()) {
                bail!("another socket is the same door already");
            }
            self.tcp.push((door, bound));
            return Ok(());
        }
        let Ok(Some(socket)) = sockets.take_udp_socket(index) else { bail!("it is neither TCP nor UDP") };
        if door != Door::Dns {
            bail!("it is UDP, and only the DNS door speaks that; use ListenStream=");
        }
        one_family(&socket)?;
        let bound = net::adopt_udp(socket.into(), None)?;
        fits(door, addresses, bound.address())?;
        if self.udp.iter().any(|other| other.address() == bound.address()) {
            bail!("another socket is the same door already");
        }
        self.udp.push(bound);
        Ok(())
    }

    fn into_doors(mut self, config: &Config) -> anyhow::Result<Doors> {
        let mut doors = Doors::default();
        for address in &config.transparent {
            doors.transparent.push(self.tcp(Door::Transparent, *address, for_others(config.intercept))?);
        }
        for address in &config.explicit {
            doors.explicit.push(self.tcp(Door::Explicit, *address, net::bind_tcp)?);
        }
        for address in &config.dns {
            let tcp = self.tcp(Door::Dns, *address, net::bind_tcp)?;
            let udp = match self.udp.iter().position(|bound| bound.address() == *address) {
                Some(place) => self.udp.swap_remove(place),
                None => net::bind_udp(tcp.address(), None)?,
            };
            doors.dns.push(BoundDns { udp, tcp });
        }
        for address in &config.quic {
            doors.quic.push(net::bind_udp(*address, None)?);
        }
        Ok(doors)
    }

    fn tcp(&mut self, door: Door, address: SocketAddr, bind: Bind) -> Result<BoundTcp, net::BindError> {
        let place = self.tcp.iter().position(|(of, bound)| *of == door && bound.address() == address);
        match place {
            Some(place) => Ok(self.tcp.swap_remove(place).1),
            None => bind(address, None),
        }
    }
}

fn fits(door: Door, addresses: &[SocketAddr], address: SocketAddr) -> anyhow::Result<()> {
    if addresses.contains(&address) {
        return Ok(());
    }
    let known: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
    bail!("it listens on {address}, but [listen] {} has {known}; make them the same", door.as_str())
}

/// By TPROXY nothing comes to a socket without `IP_TRANSPARENT`, and one with it takes a redirected connection for one
/// to the gate itself.
fn delivers(intercept: Intercept, delivery: Delivery) -> anyhow::Result<()> {
    match (intercept, delivery) {
        (Intercept::Redirect, Delivery::Redirected) | (Intercept::Tproxy, Delivery::AsItWas) => Ok(()),
        (Intercept::Tproxy, Delivery::Redirected) => bail!(
            "[steer] intercept is \"tproxy\", which needs IP_TRANSPARENT: set Transparent=yes in the socket unit"
        ),
        (Intercept::Redirect, Delivery::AsItWas) => bail!(
            "it has IP_TRANSPARENT, which [steer] intercept = \"redirect\" cannot use: take Transparent=yes out of the socket unit"
        ),
    }
}

/// An IPv4 client that arrives in IPv6 clothes would be another client.
fn one_family<S: std::os::fd::AsFd>(socket: &S) -> anyhow::Result<()> {
    let socket = SockRef::from(socket);
    let is_v6 = socket.local_addr()?.is_ipv6();
    if is_v6 && !socket.only_v6()? {
        bail!("it takes IPv4 as well; set BindIPv6Only=ipv6-only, and give IPv4 a socket of its own");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_the_interception_cannot_use_is_refused_with_the_units_setting() {
        assert!(delivers(Intercept::Redirect, Delivery::Redirected).is_ok());
        assert!(delivers(Intercept::Tproxy, Delivery::AsItWas).is_ok());
        for (intercept, delivery) in
            [(Intercept::Tproxy, Delivery::Redirected), (Intercept::Redirect, Delivery::AsItWas)]
        {
            let why = delivers(intercept, delivery).unwrap_err().to_string();
            assert!(why.contains("Transparent=yes"), "{why}");
        }
    }
}
