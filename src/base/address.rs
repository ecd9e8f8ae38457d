//! The address guard: what kind of place an address is, whatever form it is written in; and one type for each role
//! that a socket address plays.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who connected to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// Where the client's packets were addressed before the redirect. Never dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// An address that the guard passed for one dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamAddr(pub SocketAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OriginalDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the guard says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// Globally routable unicast.
    Public,
    /// May be opened by an explicit grant of range and port: RFC 1918, CGNAT (RFC 6598), ULA (RFC 4193).
    Grantable,
    /// Never: loopback, link-local and metadata, multicast, broadcast, reserved, documentation, translated forms.
    Never,
}

/// Cloud metadata services that live outside link-local space.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

impl AddressClass {
    /// Classifies by the IANA special-purpose registries (RFC 6890 and updates).
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => class_v4(v4),
            IpAddr::V6(v6) => class_v6(v6),
        }
    }
}

fn class_v4(a: Ipv4Addr) -> AddressClass {
    let [b0, b1, b2, _] = a.octets();
    if METADATA_V4.contains(&a) {
        return AddressClass::Never;
    }
    match (b0, b1, b2) {
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => AddressClass::Grantable,
        (0 | 127, ..) | (169, 254, _) => AddressClass::Never,
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => {
            AddressClass::Never
        }
        (224..=255, ..) => AddressClass::Never,
        _ => AddressClass::Public,
    }
}

fn class_v6(a: Ipv6Addr) -> AddressClass {
    let s = a.segments();
    if a == METADATA_V6 {
        return AddressClass::Never;
    }
    match s {
        [0xfc00..=0xfdff, ..] => AddressClass::Grantable,
        // Documentation, ORCHID, Teredo and the other protocol assignments; 6to4; the newer documentation block.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => AddressClass::Never,
        // All that is not global unicast 2000::/3 is local, reserved, mapped or translated (RFC 4291, RFC 6052).
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => AddressClass::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> AddressClass {
        AddressClass::of(text.parse().unwrap())
    }

    #[test]
    fn by_17_special_ranges_are_never_public() {
        for a in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:93.184.216.34",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fd00:ec2::254",
            "fec0::1",
            "::127.0.0.1",
            "3fff::1",
            "100::1",
            "4000::1",
        ] {
            assert_eq!(class(a), AddressClass::Never, "{a}");
        }
        for a in
            ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "fd12::1"]
        {
            assert_eq!(class(a), AddressClass::Grantable, "{a}");
        }
        for a in [
            "93.184.216.34",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1",
            "2001:4860:4860::8888",
            "198.20.0.1",
        ] {
            assert_eq!(class(a), AddressClass::Public, "{a}");
        }
    }
}
