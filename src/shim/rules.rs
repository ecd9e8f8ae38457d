//! Rules that are asked before ours (ip-rule(8)): one that leads to another table makes our route meaningless.

use super::ShimError;
use super::route::{MESSAGE, PolicyRoute};
use crate::steer::netlink::{attributes, u32_at};
use crate::steer::rtnetlink::Rtnetlink;
use nix::libc;
use std::io;

// linux/fib_rules.h
pub(super) const FRA_PRIORITY: u16 = 6;
pub(super) const FRA_TABLE: u16 = 15;
pub(super) const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_GOTO: u8 = 2;

const LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;
const DEFAULT: u32 = libc::RT_TABLE_DEFAULT as u32;
/// What the kernel gives the rule that leads to the main table.
const MAIN_PRIORITY: u32 = 32_766;

struct Rule {
    priority: u32,
    action: u8,
    table: u32,
}

impl Rule {
    fn read(body: &[u8]) -> Option<Self> {
        // Family, two prefix lengths, TOS, table, two reserved, action, flags.
        let [_, _, _, _, table, _, _, action] = *body.first_chunk::<8>()?;
        let all: Vec<_> = attributes(body.get(MESSAGE..)?).collect();
        let value = |wanted: u16| {
            all.iter().find(|(kind, _)| *kind == wanted).and_then(|(_, value)| u32_at(value, 0))
        };
        let table = value(FRA_TABLE).unwrap_or(table.into());
        Some(Self { priority: value(FRA_PRIORITY).unwrap_or(0), action, table })
    }

    /// What refuses is no way out; what jumps may jump over ours.
    fn leads_past(&self, ours: Option<PolicyRoute>) -> bool {
        let leads = match (self.action, ours) {
            (FR_ACT_GOTO, _) => true,
            (FR_ACT_TO_TBL, None) => ![LOCAL, MAIN, DEFAULT].contains(&self.table),
            // The main table is not ours then.
            (FR_ACT_TO_TBL, Some(ours)) => self.table != LOCAL && self.table != ours.table,
            _ => false,
        };
        leads && self.priority <= ours.map_or(MAIN_PRIORITY, |ours| ours.priority)
    }
}

fn all(netlink: &mut Rtnetlink, family: i32) -> io::Result<Vec<Rule>> {
    let mut question = vec![0; MESSAGE];
    if let Some(first) = question.first_mut() {
        *first = family as u8;
    }
    Ok(netlink.dump(libc::RTM_GETRULE, &question)?.iter().filter_map(|body| Rule::read(body)).collect())
}

/// Nothing may be asked before our table, or before the main one where the route is in there.
pub(super) fn require_none_before(
    netlink: &mut Rtnetlink,
    family: i32,
    ours: Option<PolicyRoute>,
) -> Result<(), ShimError> {
    let rules = all(netlink, family)
        .map_err(|source| ShimError::Kernel { what: "list the rules of routing".into(), source })?;
    // For IPv6 an earlier start may have left its own, where it had no other way; it leads to the gate or nowhere.
    let left = |rule: &Rule| family == libc::AF_INET6 && rule.is(PolicyRoute::default());
    match rules.iter().find(|rule| rule.leads_past(ours) && !left(rule)) {
        None => Ok(()),
        Some(rule) => {
            let v6 = if family == libc::AF_INET6 { "ip -6" } else { "ip" };
            let words = format!("{v6} rule, preference {}, table {}", rule.priority, rule.table);
            Err(ShimError::LedElsewhere(words))
        }
    }
}

impl Rule {
    fn is(&self, policy: PolicyRoute) -> bool {
        self.action == FR_ACT_TO_TBL && self.table == policy.table && self.priority == policy.priority
    }
}

/// Is there a rule that leads to a table which is asked before the usual ones, as a policy route is? What `init` makes for
/// IPv6 by itself does not count. For `doctor`.
pub fn is_led_by_rule() -> bool {
    let Ok(mut netlink) = Rtnetlink::open() else { return false };
    [libc::AF_INET, libc::AF_INET6].into_iter().any(|family| {
        let rules = all(&mut netlink, family).unwrap_or_default();
        let own = |rule: &Rule| family == libc::AF_INET6 && rule.is(PolicyRoute::default());
        rules.iter().any(|rule| rule.leads_past(None) && !own(rule))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rule_asked_earlier_that_leads_elsewhere_leads_past() {
        let rule = |priority, action, table| Rule { priority, action, table };
        let ours = Some(PolicyRoute::default());
        for (rule, of_main, of_ours) in [
            (rule(0, FR_ACT_TO_TBL, LOCAL), false, false),
            (rule(50, FR_ACT_TO_TBL, 7), true, true),
            (rule(50, FR_ACT_TO_TBL, MAIN), false, true),
            (rule(50, FR_ACT_GOTO, 0), true, true),
            (rule(50, 6, 0), false, false),
            (rule(100, FR_ACT_TO_TBL, 100), true, false),
            (rule(200, FR_ACT_TO_TBL, 7), true, false),
            (rule(32_766, FR_ACT_TO_TBL, MAIN), false, false),
            (rule(40_000, FR_ACT_TO_TBL, 7), false, false),
        ] {
            assert_eq!(
                (rule.leads_past(None), rule.leads_past(ours)),
                (of_main, of_ours),
                "{}",
                rule.priority
            );
        }
    }
}
