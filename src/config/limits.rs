//! `[limits]`: every bound of the daemon under one name. The defaults and their reasons stand with each module's
//! settings; `docs/limits.md` is the table of them, kept by a test.

use super::LimitSettings;
use super::raw::Source;
use crate::policy::Problem;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Spanned;

/// Every key of `[limits]` with the setting it changes.
pub type Limits = LimitSettings;

/// One setting that a key stands for.
enum Target<'a> {
    Time(&'a mut Duration),
    Count(&'a mut usize),
    Count32(&'a mut u32),
    Count64(&'a mut u64),
}

/// The largest value of any limit: beyond it a typing error is more likely than a wish.
const MOST: i64 = 1 << 40;

impl Limits {
    /// The defaults with the file's values put over them.
    pub(super) fn apply(
        source: &Source<'_>,
        raw: &BTreeMap<String, Spanned<toml::Value>>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut limits = Self::default();
        for (key, value) in raw {
            let Some(target) = limits.target(key) else {
                problems.push(
                    source
                        .at(value, format!("there is no limit {key:?}"))
                        .help("docs/limits.md has them all"),
                );
                continue;
            };
            if let Err(message) = set(target, value.as_ref()) {
                problems.push(source.at(value, format!("{key}: {message}")));
            }
        }
        limits
    }

    /// The keys with their present values, as the documentation shows them.
    pub fn table() -> Vec<(&'static str, String)> {
        let mut limits = Self::default();
        KEYS.iter()
            .filter_map(|key| {
                let shown = match limits.target(key)? {
                    Target::Time(time) => format!("{}s", time.as_secs_f64()),
                    Target::Count(n) => n.to_string(),
                    Target::Count32(n) => n.to_string(),
                    Target::Count64(n) => n.to_string(),
                };
                Some((*key, shown))
            })
            .collect()
    }

    fn target(&mut self, key: &str) -> Option<Target<'_>> {
        use Target::{Count, Count32, Count64, Time};
        let Self { flow, pipeline, upstream, dns, leases: _, scripts, steer } = self;
        Some(match key {
            "hello_timeout" => Time(&mut flow.hello),
            "head_timeout" => Time(&mut flow.head),
            "idle_timeout" => Time(&mut flow.idle),
            "body_patience" => Time(&mut flow.body_patience),
            "body_bytes_per_second" => Count32(&mut flow.body_rate),
            "response_write_timeout" => Time(&mut flow.write_stall),
            "drain_timeout" => Time(&mut flow.drain_time),
            "head_bytes" => Count(&mut flow.head_limits.bytes),
            "head_fields" => Count(&mut flow.head_limits.fields),
            "flows_per_client" => Count(&mut flow.flows_per_client),
            "flows_total" => Count(&mut flow.flows_total),
            "leaves_per_second" => Count32(&mut flow.leaves_per_second),
            "leaves_burst" => Count32(&mut flow.leaves_burst),
            "h2_streams" => Count32(&mut flow.h2_streams),
            "h2_stream_window_bytes" => Count32(&mut flow.h2_stream_window),
            "h2_connection_window_bytes" => Count32(&mut flow.h2_connection_window),
            "tunnel_idle_timeout" => Time(&mut flow.tunnel_idle),
            "stop_timeout" => Time(&mut flow.stop),
            "dlp_quiet_time" => Time(&mut pipeline.quiet),
            "dlp_decoded_bytes" => Count64(&mut pipeline.decoded_bytes),
            "connect_timeout" => Time(&mut upstream.connect),
            "upstream_handshake_timeout" => Time(&mut upstream.handshake),
            "request_write_timeout" => Time(&mut upstream.write_stall),
            "response_head_timeout" => Time(&mut upstream.response_head),
            "response_silence_timeout" => Time(&mut upstream.response_silence),
            "dials_per_host" => Count(&mut upstream.dials_per_host),
            "upstream_idle_timeout" => Time(&mut upstream.idle),
            "upstream_idle_per_key" => Count(&mut upstream.idle_per_key),
            "upstream_idle_total" => Count(&mut upstream.idle_total),
            "response_head_bytes" => Count(&mut upstream.head.bytes),
            "response_head_fields" => Count(&mut upstream.head.fields),
            "dns_queries_per_second" => Count32(&mut dns.rate),
            "dns_burst" => Count32(&mut dns.burst),
            "dns_wildcard_names" => Count(&mut dns.wildcard_names),
            "dns_connections" => Count(&mut dns.connections),
            "syns_per_second" => Count32(&mut steer.syns_per_second),
            "script_operations" => Count64(&mut scripts.operations),
            "script_wall_time" => Time(&mut scripts.wall_time),
            _ => return None,
        })
    }
}

/// The keys in the order of the documentation.
const KEYS: [&str; 38] = [
    "hello_timeout",
    "head_timeout",
    "idle_timeout",
    "body_patience",
    "body_bytes_per_second",
    "response_write_timeout",
    "drain_timeout",
    "head_bytes",
    "head_fields",
    "flows_per_client",
    "flows_total",
    "leaves_per_second",
    "leaves_burst",
    "h2_streams",
    "h2_stream_window_bytes",
    "h2_connection_window_bytes",
    "tunnel_idle_timeout",
    "stop_timeout",
    "dlp_quiet_time",
    "dlp_decoded_bytes",
    "connect_timeout",
    "upstream_handshake_timeout",
    "request_write_timeout",
    "response_head_timeout",
    "response_silence_timeout",
    "dials_per_host",
    "upstream_idle_timeout",
    "upstream_idle_per_key",
    "upstream_idle_total",
    "response_head_bytes",
    "response_head_fields",
    "dns_queries_per_second",
    "dns_burst",
    "dns_wildcard_names",
    "dns_connections",
    "syns_per_second",
    "script_operations",
    "script_wall_time",
];

fn set(target: Target<'_>, value: &toml::Value) -> Result<(), String> {
    if let Target::Time(time) = target {
        *time = duration(value)?;
        return Ok(());
    }
    let number = match value.as_integer() {
        Some(n) if (1..=MOST).contains(&n) => n,
        _ => return Err(format!("a whole number from 1 to {MOST} is needed")),
    };
    let too_large = |_| "the number is too large".to_owned();
    match target {
        Target::Time(_) => {}
        Target::Count(n) => *n = usize::try_from(number).map_err(too_large)?,
        Target::Count32(n) => *n = u32::try_from(number).map_err(too_large)?,
        Target::Count64(n) => *n = u64::try_from(number).map_err(too_large)?,
    }
    Ok(())
}

/// `"30s"`, `"20ms"`, `"10m"`: a time always says its unit.
fn duration(value: &toml::Value) -> Result<Duration, String> {
    let wrong = || "a time with its unit is needed, as \"30s\", \"20ms\" or \"10m\"".to_owned();
    let time = humantime::parse_duration(value.as_str().ok_or_else(wrong)?).map_err(|_| wrong())?;
    if time.is_zero() || time > Duration::from_secs(30 * 24 * 60 * 60) {
        return Err("a time from a millisecond to thirty days is needed".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_changes_a_setting() {
        assert_eq!(Limits::table().len(), KEYS.len());
    }
}
