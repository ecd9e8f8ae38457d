//! The way from a name to its addresses through aliases, pure: one checked answer of an upstream after the other.

use super::ask::Failure;
use super::resolver::{Answer, Family, ResolveError};
use crate::base::HostName;
use hickory_proto::op::{DnsResponse, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Aliases followed before the chain counts as broken (GAUNTLET DN-22).
const CHAIN_LIMIT: usize = 16;

/// The way from the name that was asked to its addresses. Records beside that way are ignored.
pub(super) struct Walk {
    family: Family,
    pub(super) at: Name,
    passed: Vec<Name>,
    ttl: u32,
}

impl Walk {
    /// Starts at the name with its final dot, so that no search list can apply.
    pub(super) fn from(name: &HostName, family: Family) -> Option<Self> {
        let mut at = Name::from_ascii(name.as_str()).ok()?;
        at.set_fqdn(true);
        Some(Self { family, at, passed: Vec::new(), ttl: u32::MAX })
    }

    /// Goes as far as this response leads: to addresses, to a "no", or to the next name to ask for. What it says of
    /// names that are not `known` to the servers that sent it is not believed: others have to be asked.
    pub(super) fn step(
        &mut self,
        response: &DnsResponse,
        known: impl Fn(&Name) -> bool,
    ) -> Result<Option<(Answer, Duration)>, Failure> {
        let broken = Err(Failure::of(ResolveError::ServFail));
        let passed_before = self.passed.len();
        while let Some((target, ttl)) = alias(&self.at, &response.answers) {
            let both = addresses(&self.at, &response.answers, self.family).next().is_some();
            if both || self.passed.len() >= CHAIN_LIMIT || *target == self.at || self.passed.contains(target)
            {
                return broken;
            }
            self.ttl = self.ttl.min(ttl);
            self.passed.push(std::mem::replace(&mut self.at, target.clone()));
            if !known(&self.at) {
                return Ok(None);
            }
        }
        let mut found: Vec<IpAddr> = Vec::new();
        for (address, ttl) in addresses(&self.at, &response.answers, self.family) {
            self.ttl = self.ttl.min(ttl);
            if !found.contains(&address) {
                found.push(address);
            }
        }
        if !found.is_empty() {
            let answer = Answer { addresses: found, chain: self.chain(), valid_until: Instant::now() };
            return Ok(Some((answer, Duration::from_secs(self.ttl.into()))));
        }
        let negative_ttl = response.negative_ttl().map(|ttl| Duration::from_secs(ttl.into()));
        match response.metadata.response_code {
            ResponseCode::NXDomain => Err(Failure { error: ResolveError::NxDomain, negative_ttl }),
            _ if negative_ttl.is_some() => Err(Failure { error: ResolveError::NoData, negative_ttl }),
            _ if self.passed.len() > passed_before => Ok(None),
            _ => broken,
        }
    }

    fn chain(&self) -> Vec<Arc<str>> {
        let below = self.passed.iter().skip(1);
        let last = (!self.passed.is_empty()).then_some(&self.at);
        below.chain(last).map(|name| super::message::name_text(name).into()).collect()
    }
}

fn alias<'a>(at: &Name, records: &'a [Record]) -> Option<(&'a Name, u32)> {
    records.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *at => Some((&target.0, record.ttl)),
        _ => None,
    })
}

fn addresses<'a>(
    at: &'a Name,
    records: &'a [Record],
    family: Family,
) -> impl Iterator<Item = (IpAddr, u32)> + 'a {
    records.iter().filter(move |record| record.name == *at).filter_map(move |record| {
        match (&record.data, family) {
            (RData::A(a), Family::V4) => Some((IpAddr::V4(a.0), record.ttl)),
            (RData::AAAA(a), Family::V6) => Some((IpAddr::V6(a.0), record.ttl)),
            _ => None,
        }
    })
}
