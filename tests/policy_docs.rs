//! The examples of `docs/policy.md` and the shipped policies do what they say.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/policy.rs"]
#[allow(dead_code)]
mod policy;

use outgate::policy::{LoadOptions, Snapshot};
use policy::file;
use std::path::Path;
use std::sync::Arc;

fn without_secrets() -> LoadOptions<'static> {
    LoadOptions { without_secrets: true, ..LoadOptions::default() }
}

fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(label) = line.strip_prefix("```toml") {
            let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
            blocks.push((label.trim().to_owned(), body.join("\n")));
        }
    }
    blocks
}

#[test]
fn every_example_of_the_reference_does_what_it_says() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md")).unwrap();
    let mut last: Option<Arc<Snapshot>> = None;
    let (mut loaded, mut refused, mut cases) = (0, 0, 0);
    for (label, body) in blocks(&text) {
        let policy =
            if body.contains("[[client]]") { body.clone() } else { format!("{body}\n{}", policy::CLIENT) };
        match label.as_str() {
            "" => {
                let snapshot = Snapshot::parse(&[file("example.toml", &policy)], &without_secrets());
                last = Some(Arc::new(snapshot.unwrap_or_else(|problems| panic!("{problems}\n{body}"))));
                loaded += 1;
            }
            "refused" => {
                let words = body.lines().next().unwrap().trim_start_matches("# ").to_owned();
                let problems =
                    Snapshot::parse(&[file("example.toml", &policy)], &without_secrets()).unwrap_err();
                assert!(problems.to_string().contains(&words), "{words:?} is not in:\n{problems}");
                refused += 1;
            }
            "cases" => {
                let report = last.as_ref().unwrap().run_case_files(&[file("example.cases.toml", &body)]);
                let report = report.unwrap_or_else(|problems| panic!("{problems}"));
                assert!(report.failures.is_empty(), "{:#?}", report.failures);
                cases += report.passed;
            }
            other => panic!("no such kind of block: {other}"),
        }
    }
    assert!(loaded >= 4 && refused >= 5 && cases >= 10, "{loaded} {refused} {cases}");
}

#[test]
fn the_shipped_policy_loads_without_any_secret_and_passes_its_cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let snapshot =
        Snapshot::load(&folder, &LoadOptions::default()).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(snapshot.warnings().is_empty(), "{:?}", snapshot.warnings());
    let report = Arc::new(snapshot).run_cases(&folder).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(report.failures.is_empty() && report.passed >= 15, "{:#?}", report.failures);
}

#[test]
fn the_examples_with_credentials_load_where_their_values_are_not_asked_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/examples");
    assert!(Snapshot::load(&folder, &LoadOptions::default()).is_err());
    let snapshot =
        Snapshot::load(&folder, &without_secrets()).unwrap_or_else(|problems| panic!("{problems}"));
    let report = Arc::new(snapshot).run_cases(&folder).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(report.failures.is_empty() && report.passed >= 4, "{:#?}", report.failures);
}
