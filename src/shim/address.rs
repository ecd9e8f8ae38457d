//! The interface to the gate and its addresses: found, brought up, and narrowed so that no neighbour is on link.

use super::ShimError;
use crate::steer::netlink::{attributes, u32_at};
use crate::steer::rtnetlink::{Rtnetlink, put};
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use std::collections::BTreeSet;
use std::io;

/// struct ifaddrmsg
const MESSAGE: usize = 8;

pub(super) struct Interface {
    pub name: String,
    pub index: u32,
}

impl Interface {
    /// The one that is named, or the only one beside the loopback that is up.
    pub(super) fn find(named: Option<&str>) -> Result<Self, ShimError> {
        let name = match named {
            Some(name) => name.to_owned(),
            None => {
                let up = others("")?;
                match (up.first(), up.len()) {
                    (Some(only), 1) => only.clone(),
                    (None, _) => return Err(ShimError::NoInterface),
                    _ => return Err(ShimError::Interfaces(up.join(", "))),
                }
            }
        };
        match if_nametoindex(name.as_str()) {
            Ok(index) => Ok(Self { name, index }),
            Err(_) => Err(ShimError::NotThere(name)),
        }
    }

    pub(super) fn bring_up(&self, netlink: &mut Rtnetlink) -> Result<(), ShimError> {
        // struct ifinfomsg: family, padding, type, index, flags, which flags to change.
        let mut body = vec![0; 4];
        body.extend_from_slice(&self.index.to_ne_bytes());
        body.extend_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
        body.extend_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
        let what = || format!("bring {} up", self.name);
        netlink
            .change(libc::RTM_NEWLINK, 0, &body)
            .map_err(|source| ShimError::Kernel { what: what(), source })
    }

    /// Gives each address the longest prefix: with its network go the routes to neighbours, and only the gateway is
    /// left, which an on-link route needs no network for.
    pub(super) fn narrow(&self, netlink: &mut Rtnetlink) -> Result<(), ShimError> {
        let refused =
            |source| ShimError::Kernel { what: format!("narrow an address of {}", self.name), source };
        let dump = netlink.dump(libc::RTM_GETADDR, &[0; MESSAGE]).map_err(refused)?;
        let wide: Vec<Address> =
            dump.iter().filter_map(|body| Address::read(body, self.index)).filter(Address::is_wide).collect();
        // IPv4 holds both at a time, and keeps its routes by that. IPv6 holds an address once, whatever its prefix.
        let (v4, v6): (Vec<_>, Vec<_>) =
            wide.into_iter().partition(|address| i32::from(address.family) == libc::AF_INET);
        v4.iter().try_for_each(|address| address.add_longest(netlink)).map_err(refused)?;
        for address in v4.iter().chain(&v6) {
            match netlink.change(libc::RTM_DELADDR, 0, &address.message(address.prefix)) {
                // A secondary address went with its primary.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                done => done.map_err(refused)?,
            }
        }
        v6.iter().try_for_each(|address| address.add_longest(netlink)).map_err(refused)?;
        Ok(())
    }
}

/// Interfaces that are up, without the loopback and `but`.
pub(super) fn others(but: &str) -> Result<Vec<String>, ShimError> {
    let refused = |errno: nix::errno::Errno| ShimError::Kernel {
        what: "list interfaces".to_owned(),
        source: io::Error::from(errno),
    };
    let up = getifaddrs().map_err(refused)?.filter(|entry| {
        entry.flags.contains(InterfaceFlags::IFF_UP) && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    });
    let names: BTreeSet<String> = up.map(|entry| entry.interface_name).filter(|name| name != but).collect();
    Ok(names.into_iter().collect())
}

struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    index: u32,
    octets: Vec<u8>,
}

impl Address {
    fn read(body: &[u8], index: u32) -> Option<Self> {
        let [family, prefix, _flags, scope] = body.get(..4)?.try_into().ok()?;
        let found = u32_at(body, 4)?;
        let all: Vec<_> = attributes(body.get(MESSAGE..)?).collect();
        // Where both are there, the other one is the peer's.
        let own = all.iter().find(|(kind, _)| *kind == libc::IFA_LOCAL);
        let (_, octets) = own.or_else(|| all.iter().find(|(kind, _)| *kind == libc::IFA_ADDRESS))?;
        let address = Self { family, prefix, scope, index: found, octets: octets.to_vec() };
        (found == index).then_some(address)
    }

    fn longest(&self) -> u8 {
        (self.octets.len() * 8) as u8
    }

    /// Link-local addresses stay: neighbour discovery uses them, and their network's route is taken away on its own.
    fn is_wide(&self) -> bool {
        self.scope != libc::RT_SCOPE_LINK && self.prefix < self.longest()
    }

    fn add_longest(&self, netlink: &mut Rtnetlink) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        netlink.change(libc::RTM_NEWADDR, flags, &self.message(self.longest()))
    }

    fn message(&self, prefix: u8) -> Vec<u8> {
        let mut body = vec![self.family, prefix, libc::IFA_F_NODAD as u8, self.scope];
        body.extend_from_slice(&self.index.to_ne_bytes());
        put(&mut body, libc::IFA_LOCAL, &self.octets);
        put(&mut body, libc::IFA_ADDRESS, &self.octets);
        body
    }
}
