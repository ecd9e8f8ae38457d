//! Addresses and routes of the network namespace that this is called in (rtnetlink(7)), as far as a workload's namespace
//! needs them: an interface up, an address on it, a default route through it.
//!
//! Needs CAP_NET_ADMIN in the user namespace of the network namespace.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;

use super::rtnetlink::{Rtnetlink, family, octets, put};

/// The routing of one network namespace.
pub struct Routes(Rtnetlink);

impl Routes {
    pub fn open() -> io::Result<Self> {
        Rtnetlink::open().map(Self)
    }

    /// Brings an interface up.
    pub fn up(&mut self, interface: &str) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        // struct ifinfomsg: family and padding, type, index, flags, which flags to change
        let mut body = vec![0; 4];
        body.extend(index(interface)?.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        self.0.change(libc::RTM_NEWLINK, 0, &body)
    }

    /// Gives an interface an address; it may have it already.
    pub fn add_address(&mut self, interface: &str, address: IpNet) -> io::Result<()> {
        // Nobody else can have it: no need to look for a twin (duplicate address detection).
        let flags = libc::IFA_F_NODAD as u8;
        // struct ifaddrmsg: family, prefix, flags, scope, index
        let mut body = vec![family(address.addr()), address.prefix_len(), flags, 0];
        body.extend(index(interface)?.to_ne_bytes());
        let bytes = octets(address.addr());
        put(&mut body, libc::IFA_LOCAL, &bytes);
        put(&mut body, libc::IFA_ADDRESS, &bytes);
        self.0.change(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
    }

    /// A default route through an interface, for packets with this source address.
    pub fn default_through(&mut self, interface: &str, source: IpAddr) -> io::Result<()> {
        let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC);
        let (scope, kind) = (libc::RT_SCOPE_LINK, libc::RTN_UNICAST);
        // struct rtmsg: family, prefixes of destination and source, tos, table, protocol, scope, type, flags
        let mut body = vec![family(source), 0, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0];
        put(&mut body, libc::RTA_OIF, &index(interface)?.to_ne_bytes());
        put(&mut body, libc::RTA_PREFSRC, &octets(source));
        self.0.change(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
    }
}

fn index(interface: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(interface).map_err(Into::into)
}
