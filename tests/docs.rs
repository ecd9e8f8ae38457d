//! `docs/limits.md` says what the code does, and every configuration that is shipped loads.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use outgate::config::{Config, LimitSettings};
use outgate::policy::{LoadOptions, Snapshot};
use outgate::{audit, dlp, dns, pipeline, quic, script, tls, upstream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The first two cells of every row whose both begin with a word in backticks.
fn rows() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let word =
        |cell: &str| cell.trim().strip_prefix('`').and_then(|c| c.split_once('`')).map(|c| c.0.to_owned());
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let mut cells = line.split('|').skip(1);
        let (Some(key), Some(value)) = (cells.next().and_then(word), cells.next().and_then(word)) else {
            continue;
        };
        assert_eq!(rows.insert(key.clone(), value), None, "{key} has two rows");
    }
    rows
}

/// A number, or a time in seconds.
fn read(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| {
        humantime::parse_duration(text).unwrap_or_else(|_| panic!("{text:?}")).as_secs_f64()
    })
}

trait Shown {
    fn shown(&self) -> f64;
}

impl Shown for Duration {
    fn shown(&self) -> f64 {
        self.as_secs_f64()
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => { $(impl Shown for $kind { fn shown(&self) -> f64 { *self as f64 } })* };
}
numbers!(u32, u64, usize);

/// Names the settings of one module; a field that is added there does not compile here until it has a row.
macro_rules! settings {
    ($into:ident, $module:literal, $type:path { $($field:ident),* } except $($other:ident),* ; $value:expr) => {
        let $type { $($field,)* $($other: _,)* } = $value;
        $($into.push((format!(concat!($module, ".{}"), stringify!($field)), $field.shown()));)*
    };
}

fn fixed() -> Vec<(String, f64)> {
    let mut all = Vec::new();
    settings!(all, "dns", dns::DoorSettings {
        sources, waiting, waiting_per_client, wildcard_window, remembered_names, negative_ttl,
        connections_per_source, idle_timeout, message_timeout
    } except rate, burst, wildcard_names, connections; dns::DoorSettings::default());
    settings!(all, "resolver", dns::ResolverSettings {
        timeout, attempts, deadline, cache_entries, min_ttl, max_ttl, negative_ttl, failure_ttl, family_grace, in_flight
    } except upstreams, zones, own, synthetic, ipv6; dns::ResolverSettings::default());
    settings!(all, "leases", dns::LeaseSettings { per_client, grace } except synthetic; dns::LeaseSettings::default());
    settings!(all, "virtual", dns::SyntheticSettings { ttl, hold, rest, per_client } except v4, v6;
        dns::SyntheticSettings::default());
    settings!(all, "upstream", upstream::Settings { h2_stream_window, h2_connection_window }
        except connect, handshake, write_stall, response_head, response_silence, idle, idle_per_key, idle_total, head, dials_per_host;
        upstream::Settings::default());
    settings!(all, "script", script::Settings { call_levels, string_bytes, array_items, map_entries, message_bytes, variables }
        except operations, wall_time; script::Settings::default());
    settings!(all, "audit", audit::Settings { queue_bytes, flush_after, patience }
        except sink, fsync; audit::Settings::new(audit::Sink::Stdout));
    settings!(all, "tls", tls::MinterSettings { names, leaf_lifetime, leaf_backdate }
        except danger_key_log; tls::MinterSettings::default());
    settings!(all, "quic", quic::Settings { rate, burst, sources, record_every } except; quic::Settings::default());
    settings!(all, "dlp", dlp::Limits { ratio, free } except decoded; dlp::Limits::default());
    // What the decoder's own limit would be is replaced by a key.
    settings!(all, "pipeline", pipeline::Settings {} except quiet, decoded_bytes; pipeline::Settings::default());
    all
}

#[test]
fn every_limit_stands_in_the_table_with_its_default() {
    let mut rows = rows();
    let settable = LimitSettings::table().into_iter().map(|(key, value)| (key.to_owned(), read(&value)));
    for (key, value) in settable.chain(fixed()) {
        let shown = rows.remove(&key).unwrap_or_else(|| panic!("{key} has no row"));
        assert_eq!(read(&shown), value, "{key}");
    }
    assert!(rows.is_empty(), "rows without a setting: {rows:?}");
}

#[test]
fn the_reference_of_the_configuration_names_every_section_that_there_is() {
    // The parser tells what it knows when it meets what it does not.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outgate.toml");
    std::fs::write(&file, "nonsense = 1\n").unwrap();
    let error = Config::load(&file, None).unwrap_err().to_string();
    let known = error.split_once("expected one of ").unwrap().1;
    let reference = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let names: Vec<_> = known.lines().next().unwrap().split('`').skip(1).step_by(2).collect();
    assert!(names.len() > 5, "{error}");
    for name in names {
        let told = reference.contains(&format!("`{name}`")) || reference.contains(&format!("[{name}]"));
        assert!(told, "docs/configuration.md does not say what {name} is");
    }
}

fn outgate(arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_outgate")).args(arguments).current_dir(root()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn every_shipped_configuration_checks_and_its_cases_pass() {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("outgate.toml"))
        .filter(|file| file.exists())
        .collect();
    found.sort();
    assert!(found.len() >= 2, "{found:?}");
    for file in found {
        let file = file.to_str().unwrap();
        let (good, said) = outgate(&["check", "--without-secrets", "-c", file]);
        assert!(good, "{file}: {said}");
        let (good, said) = outgate(&["test", "-c", file]);
        assert!(good && !said.contains("there are no cases"), "{file}: {said}");
    }
}

/// The blocks of a page that are marked as TOML.
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    text.split("```toml\n").skip(1).map(|block| block.split_once("```").unwrap().0.to_owned()).collect()
}

#[test]
fn every_configuration_and_policy_on_these_pages_loads() {
    let mut blocks: Vec<String> = blocks("docs/configuration.md");
    assert!(blocks.len() >= 2);
    blocks.extend(self::blocks("README.md"));
    let (mut configurations, mut policies) = (0, 0);
    for body in blocks {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("outgate.toml");
        std::fs::write(&file, &body).unwrap();
        if body.contains("[[client]]") {
            let options = LoadOptions { without_secrets: true, ..LoadOptions::default() };
            Snapshot::load(folder.path(), &options).unwrap_or_else(|problems| panic!("{body}\n{problems}"));
            policies += 1;
        } else {
            Config::load(&file, None).unwrap_or_else(|problems| panic!("{body}\n{problems}"));
            configurations += 1;
        }
    }
    assert!(configurations >= 3 && policies >= 1);
}

#[test]
fn every_verb_of_the_readme_exists() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let verbs = text.lines().filter_map(|line| line.strip_prefix("| `outgate ")?.split(['`', ' ']).next());
    let (good, help) = outgate(&["--help"]);
    assert!(good);
    let known: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    let mut named: Vec<&str> = verbs.collect();
    named.dedup();
    let sorted = |mut words: Vec<&str>| {
        words.sort_unstable();
        words.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(sorted(named), sorted(known));
}
