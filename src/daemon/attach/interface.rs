//! Attaching an interface or a bridge of the gate's own namespace: its addresses, the doors on them, its networks.

use super::Attachments;
use crate::base::Ingress;
use crate::config::Config;
use crate::daemon::prepare::for_others;
use crate::net::{self, OwnAddresses};
use crate::rt::Tasks;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

impl Attachments {
    /// `networks` are those of the interface's addresses where the operator named none.
    pub(super) async fn open_interface(
        &self,
        number: u32,
        interface: &str,
        networks: &mut Vec<IpNet>,
        doors: &Tasks,
        ingress: &Ingress,
        detached: bool,
    ) -> Result<Option<OwnedFd>, String> {
        let config = &self.config;
        let Some(steer) = &config.steer else {
            return Err("this daemon has no door for interfaces: [listen] transparent names it".to_owned());
        };
        if steer.interfaces.iter().any(|own| own == interface) {
            return Err(format!("{interface} stands in [steer] interfaces already"));
        }
        let (own, mut assigned) = (&self.running.gate.own, std::collections::HashMap::new());
        assigned.insert(interface.into(), ingress.clone());
        if !detached {
            let addresses = addresses_of(interface, own)?;
            if networks.is_empty() {
                networks.extend(addresses.iter().map(IpNet::trunc));
            }
            self.open_doors_on(&addresses, doors, ingress)?;
            // Before the tables lead anything here: from its first flow on it is this client's.
            own.assign_more(assigned);
        }
        let widened = self.steering.widen(number, interface.to_owned(), networks.clone()).await;
        widened.map_err(|error| error.to_string())?;
        Ok(None)
    }

    /// The redirect leads to the interface's own address. Doors on wildcard addresses are there already.
    fn open_doors_on(&self, addresses: &[IpNet], doors: &Tasks, ingress: &Ingress) -> Result<(), String> {
        let Config { transparent, dns, quic, .. } = &*self.config;
        let covers = |door: &SocketAddr, ip: IpAddr| {
            door.ip() == ip || (door.ip().is_unspecified() && door.is_ipv4() == ip.is_ipv4())
        };
        for ip in addresses.iter().map(IpNet::addr) {
            if let Some(first) = transparent.first().filter(|_| !transparent.iter().any(|d| covers(d, ip))) {
                let bind = for_others(self.config.intercept);
                let bound = bind(SocketAddr::new(ip, first.port()), None);
                self.serve_tcp(bound.map_err(|error| error.to_string())?, doors, ingress)?;
            }
            if let Some(first) = dns.first().filter(|_| !dns.iter().any(|d| covers(d, ip))) {
                let bound = net::bind_dns(SocketAddr::new(ip, first.port()), None);
                self.serve_dns(bound.map_err(|error| error.to_string())?, doors, ingress)?;
            }
            if let Some(first) = quic.first().filter(|_| !quic.iter().any(|d| covers(d, ip))) {
                let bound = net::bind_udp(SocketAddr::new(ip, first.port()), None);
                self.serve_quic(bound.map_err(|error| error.to_string())?, doors, ingress)?;
            }
        }
        Ok(())
    }
}

/// Its addresses with their networks, without link-local ones. What comes in is told by the address it came to, so
/// no other interface may have it too.
fn addresses_of(interface: &str, own: &OwnAddresses) -> Result<Vec<IpNet>, String> {
    if nix::net::if_::if_nametoindex(interface).is_err() {
        return Err(format!("there is no interface {interface}"));
    }
    own.refresh();
    let addresses = net::addresses_of(interface).map_err(|error| error.to_string())?;
    if addresses.is_empty() {
        return Err(format!("{interface} has no address: the workloads behind it need one to send to"));
    }
    match addresses
        .iter()
        .find(|net| own.interface_of(SocketAddr::new(net.addr(), 0)).as_deref() != Some(interface))
    {
        Some(shared) => Err(format!(
            "another interface has the address {} too, and flows are told apart by it; attach the namespace behind it",
            shared.addr()
        )),
        None => Ok(addresses),
    }
}
