//! The address guard as a question: may this address be handed out or dialled? Pure; asked by the DNS door for each
//! answer and by dialling at the moment of dialling.

use crate::base::AddressClass;
use std::net::IpAddr;

/// Public addresses are usable, private ones where `granted` says so, all others never, and never one of our `own`.
pub fn usable(address: IpAddr, own: &[IpAddr], granted: impl FnOnce(IpAddr) -> bool) -> bool {
    if own.contains(&address) {
        return false;
    }
    match AddressClass::of(address) {
        AddressClass::Public => true,
        AddressClass::Grantable => granted(address),
        AddressClass::Never => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn dn_23_a_grant_opens_private_ranges_and_nothing_else() {
        let all = |_| true;
        assert!(usable(ip("10.99.0.5"), &[], all));
        assert!(!usable(ip("10.98.0.5"), &[], |_| false));
        for never in ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:10.99.0.5", "224.0.0.1"] {
            assert!(!usable(ip(never), &[], all), "{never}");
        }
    }

    #[test]
    fn our_own_addresses_are_never_usable() {
        assert!(usable(ip("93.184.216.34"), &[], |_| false));
        assert!(!usable(ip("93.184.216.34"), &[ip("93.184.216.34")], |_| true));
    }
}
