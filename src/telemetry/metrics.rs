//! Prometheus metrics. Every label value is one of our own words, so that no peer can grow the number of series.
//!
//! What happens for each request is a counter made beforehand: one atomic addition. Families, which look labels up, are
//! for what is rare: refusals, reloads.

use crate::base::Door;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    door: &'static str,
    verdict: &'static str,
    /// Empty where nothing was refused.
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabels {
    version: String,
}

/// All metrics of the daemon; shared behind an `Arc`. The public fields are counted and set by whoever they belong to.
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    allowed: [Counter; 3],
    policy: Family<VersionLabels, Gauge>,
    reload_ok: Gauge,
    reload_time: Gauge<u64, AtomicU64>,
    reloads_failed: Counter,
    /// Client connections since the start, and open now.
    pub flows_accepted: Counter,
    pub flows_open: Gauge,
    /// Payload from clients to the outside, and back.
    pub bytes_up: Counter,
    pub bytes_down: Counter,
    pub upstream_idle: Gauge,
    /// Datagrams on UDP port 443: answered, over the rate of their source, and all others.
    pub quic_answered: Counter,
    pub quic_limited: Counter,
    pub quic_ignored: Counter,
    pub leaves_minted: Gauge,
    pub leaves_cached: Gauge,
    /// Set before scraping, from `audit::Log::stats`.
    pub audit_queue_bytes: Gauge,
    pub audit_stalled: Gauge,
    pub audit_lost: Gauge,
    pub audit_written: Gauge,
    /// Set before scraping, from `dns::Counters`.
    pub dns_messages: Gauge,
    pub dns_dropped: Gauge,
    pub dns_connections_refused: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let decisions = Family::<DecisionLabels, Counter>::default();
        let allowed = [Door::Transparent, Door::Explicit, Door::Dns].map(|door| {
            let labels = DecisionLabels { door: door.as_str(), verdict: "allow", reason: "" };
            decisions.get_or_create_owned(&labels)
        });
        let mut metrics = Self {
            registry: Registry::with_prefix("outgate"),
            decisions,
            allowed,
            policy: Family::default(),
            reload_ok: Gauge::default(),
            reload_time: Gauge::default(),
            reloads_failed: Counter::default(),
            flows_accepted: Counter::default(),
            flows_open: Gauge::default(),
            bytes_up: Counter::default(),
            bytes_down: Counter::default(),
            upstream_idle: Gauge::default(),
            quic_answered: Counter::default(),
            quic_limited: Counter::default(),
            quic_ignored: Counter::default(),
            leaves_minted: Gauge::default(),
            leaves_cached: Gauge::default(),
            audit_queue_bytes: Gauge::default(),
            audit_stalled: Gauge::default(),
            audit_lost: Gauge::default(),
            audit_written: Gauge::default(),
            dns_messages: Gauge::default(),
            dns_dropped: Gauge::default(),
            dns_connections_refused: Gauge::default(),
        };
        metrics.register_traffic();
        metrics.register_state();
        metrics
    }

    fn register_traffic(&mut self) {
        let r = &mut self.registry;
        r.register("decisions", "Decisions by door, verdict and reason", self.decisions.clone());
        r.register("flows_accepted", "Client connections accepted", self.flows_accepted.clone());
        r.register("flows_open", "Client connections open", self.flows_open.clone());
        r.register_with_unit("up", "Payload from clients", Unit::Bytes, self.bytes_up.clone());
        r.register_with_unit("down", "Payload to clients", Unit::Bytes, self.bytes_down.clone());
        r.register(
            "upstream_idle",
            "Upstream connections kept for another request",
            self.upstream_idle.clone(),
        );
        let quic = [
            ("quic_answered", "QUIC connections told to take TCP", &self.quic_answered),
            ("quic_limited", "The same, over the rate of their source", &self.quic_limited),
            ("quic_ignored", "Other datagrams on UDP port 443", &self.quic_ignored),
        ];
        for (name, help, counter) in quic {
            r.register(name, help, counter.clone());
        }
        r.register("leaves_minted", "Certificates minted", self.leaves_minted.clone());
        r.register("leaves_cached", "Certificates in the cache", self.leaves_cached.clone());
    }

    fn register_state(&mut self) {
        let r = &mut self.registry;
        r.register("policy_info", "The policy in force", self.policy.clone());
        r.register(
            "policy_reload_ok",
            "Whether the last load of the policy succeeded",
            self.reload_ok.clone(),
        );
        r.register("policy_reloads_failed", "Loads of the policy that failed", self.reloads_failed.clone());
        let time = self.reload_time.clone();
        r.register_with_unit(
            "policy_reload_success_timestamp",
            "The last good load of the policy",
            Unit::Seconds,
            time,
        );
        let queue = self.audit_queue_bytes.clone();
        r.register_with_unit("audit_queue", "Records that wait to be written", Unit::Bytes, queue);
        r.register(
            "audit_stalled",
            "Whether records cannot be written, and all is refused",
            self.audit_stalled.clone(),
        );
        r.register("audit_lost", "Records refused or dropped since the start", self.audit_lost.clone());
        r.register("audit_written", "Records written since the start", self.audit_written.clone());
        r.register("dns_messages", "DNS messages received since the start", self.dns_messages.clone());
        r.register(
            "dns_dropped",
            "DNS messages over the rate of their source, neither answered nor recorded",
            self.dns_dropped.clone(),
        );
        r.register(
            "dns_connections_refused",
            "TCP connections to the DNS door over the limit",
            self.dns_connections_refused.clone(),
        );
    }

    /// Counts a decision. Plain allows are cheap; anything else is looked up.
    pub fn decision(&self, door: Door, verdict: &'static str, reason: Option<&'static str>) {
        if verdict == "allow" && reason.is_none() {
            let [transparent, explicit, dns] = &self.allowed;
            let counter = match door {
                Door::Transparent => Some(transparent),
                Door::Explicit => Some(explicit),
                Door::Dns => Some(dns),
                // It allows nothing.
                Door::Quic => None,
            };
            if let Some(counter) = counter {
                counter.inc();
                return;
            }
        }
        let labels = DecisionLabels { door: door.as_str(), verdict, reason: reason.unwrap_or_default() };
        self.decisions.get_or_create(&labels).inc();
    }

    /// A policy came into force, at this Unix time.
    pub fn policy_loaded(&self, version: &str, unix_seconds: u64) {
        self.policy.clear();
        self.policy.get_or_create(&VersionLabels { version: version.to_owned() }).set(1);
        self.reload_ok.set(1);
        self.reload_time.set(unix_seconds);
    }

    /// A load failed, and the old policy stays.
    pub fn policy_refused(&self) {
        self.reload_ok.set(0);
        self.reloads_failed.inc();
    }

    /// The text that Prometheus scrapes (OpenMetrics).
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        // Writing to a String cannot fail, and no value of ours fails to encode.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_counted_by_door_verdict_and_reason() {
        let metrics = Metrics::new();
        metrics.decision(Door::Explicit, "allow", None);
        metrics.decision(Door::Explicit, "allow", None);
        metrics.decision(Door::Dns, "deny", Some("dns_denied"));
        let text = metrics.encode();
        let line = r#"outgate_decisions_total{door="explicit",verdict="allow",reason=""} 2"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains(r#"outgate_decisions_total{door="dns",verdict="deny",reason="dns_denied"} 1"#));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn only_the_policy_in_force_is_named() {
        let metrics = Metrics::new();
        metrics.policy_loaded("aaaa", 100);
        metrics.policy_refused();
        metrics.policy_loaded("bbbb", 200);
        metrics.policy_refused();
        let text = metrics.encode();
        assert!(
            text.contains(r#"outgate_policy_info{version="bbbb"} 1"#) && !text.contains("aaaa"),
            "{text}"
        );
        assert!(text.contains("outgate_policy_reload_ok 0"));
        assert!(text.contains("outgate_policy_reloads_failed_total 2"));
        assert!(text.contains("outgate_policy_reload_success_timestamp_seconds 200"));
    }
}
