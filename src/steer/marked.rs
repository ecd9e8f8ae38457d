//! The routing that TPROXY needs: what carries our mark is delivered here, whatever its destination.
//!
//! One rule and one route for each address family, in a table of their own. `tables` makes them with the rules that set the mark, looks after them, and takes them
//! away. Where they are missing a marked packet is forwarded, and the fence refuses it.

use std::io;

use nix::libc;

use super::netlink::attributes;
use super::rtnetlink::{Rtnetlink, put};
use super::rules::MARK;

/// The routing table that holds the one route, and the place of the rule that leads to it. (The number is "og".)
const TABLE: u32 = 0x6f67;
const PREFERENCE: u32 = 100;

// linux/rtnetlink.h and linux/fib_rules.h; libc has not all of them.
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
/// struct rtmsg and struct fib_rule_hdr are of one size.
const BODY: usize = 12;

const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// The same for people, as comments behind the tables.
pub(super) const WORDS: &str = "
# And, so that what carries the mark stays on this host:
#   ip rule add pref 100 fwmark 0x6f676174 lookup 28519; ip route add local default dev lo table 28519
#   ip -6 rule add pref 100 fwmark 0x6f676174 lookup 28519; ip -6 route add local default dev lo table 28519
";

pub(super) struct Routes(Rtnetlink);

impl Routes {
    pub fn open() -> io::Result<Self> {
        Rtnetlink::open().map(Self)
    }

    /// Makes what is missing; tells whether anything was.
    pub fn make(&mut self) -> io::Result<bool> {
        let mut made = false;
        for family in families() {
            if !self.has_route(family)? {
                self.change(libc::RTM_NEWROUTE, &route(family))?;
                made = true;
            }
            if !self.has_rule(family)? {
                self.change(libc::RTM_NEWRULE, &rule(family))?;
                made = true;
            }
        }
        Ok(made)
    }

    pub fn stand(&mut self) -> io::Result<bool> {
        for family in families() {
            if !self.has_route(family)? || !self.has_rule(family)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn remove(&mut self) -> io::Result<()> {
        for family in families() {
            if self.has_rule(family)? {
                self.change(libc::RTM_DELRULE, &rule(family))?;
            }
            if self.has_route(family)? {
                self.change(libc::RTM_DELROUTE, &route(family))?;
            }
        }
        Ok(())
    }

    fn has_rule(&mut self, family: u8) -> io::Result<bool> {
        let wanted =
            [(FRA_PRIORITY, PREFERENCE), (FRA_FWMARK, MARK), (FRA_FWMASK, u32::MAX), (FRA_TABLE, TABLE)];
        self.any(libc::RTM_GETRULE, family, |body, has| {
            body.get(7) == Some(&FR_ACT_TO_TBL) && wanted.iter().all(|&(kind, value)| has(kind, value))
        })
    }

    fn has_route(&mut self, family: u8) -> io::Result<bool> {
        self.any(libc::RTM_GETROUTE, family, |body, has| {
            let everything = body.get(1) == Some(&0) && body.get(7) == Some(&libc::RTN_LOCAL);
            everything && has(RTA_TABLE, TABLE) && has(RTA_OIF, loopback())
        })
    }

    /// Is there one in the dump of this family that is wanted, by its fixed part and its numbers?
    fn any(
        &mut self,
        kind: u16,
        family: u8,
        wanted: impl Fn(&[u8], &dyn Fn(u16, u32) -> bool) -> bool,
    ) -> io::Result<bool> {
        let mut asked = [0; BODY];
        asked[0] = family;
        let mut found = false;
        self.0.each(kind, &asked, &mut |body| {
            let list = body.get(BODY..).unwrap_or_default();
            let has = |kind, value: u32| {
                attributes(list).any(|(k, v)| k == kind && v == value.to_ne_bytes().as_slice())
            };
            found |= body.first() == Some(&family) && wanted(body, &has);
        })?;
        Ok(found)
    }

    /// What somebody else has done by now is done.
    fn change(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        let new = if matches!(kind, libc::RTM_NEWROUTE | libc::RTM_NEWRULE) {
            libc::NLM_F_CREATE | libc::NLM_F_EXCL
        } else {
            0
        };
        match self.0.change(kind, new, body) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOENT | libc::ESRCH)) => {
                Ok(())
            }
            other => other,
        }
    }
}

/// Without IPv6 on the loopback interface there is nothing to make for it, and nothing that could pass.
fn families() -> impl Iterator<Item = u8> {
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    let has_v6 = off.is_ok_and(|off| off.trim() == "0");
    FAMILIES.into_iter().filter(move |family| has_v6 || *family == libc::AF_INET as u8)
}

/// The index of `lo`, which is the first interface of every namespace.
fn loopback() -> u32 {
    nix::net::if_::if_nametoindex("lo").unwrap_or(1)
}

fn route(family: u8) -> Vec<u8> {
    let mut body =
        vec![family, 0, 0, 0, 0, libc::RTPROT_STATIC, libc::RT_SCOPE_HOST, libc::RTN_LOCAL, 0, 0, 0, 0];
    number(&mut body, RTA_TABLE, TABLE);
    number(&mut body, RTA_OIF, loopback());
    body
}

fn rule(family: u8) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    number(&mut body, FRA_PRIORITY, PREFERENCE);
    number(&mut body, FRA_FWMARK, MARK);
    number(&mut body, FRA_FWMASK, u32::MAX);
    number(&mut body, FRA_TABLE, TABLE);
    body
}

fn number(body: &mut Vec<u8>, kind: u16, value: u32) {
    put(body, kind, &value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_the_numbers_that_the_kernel_is() {
        let rule = format!("ip rule add pref {PREFERENCE} fwmark {MARK:#x} lookup {TABLE};");
        assert!(WORDS.contains(&rule) && WORDS.contains(&format!("dev lo table {TABLE}\n")), "{WORDS}");
    }
}
