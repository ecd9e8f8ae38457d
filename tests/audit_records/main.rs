//! The audit log on real files and pipes: nothing lost, nothing torn, nothing passes unrecorded.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod chain;
mod failing_sink;
mod rotation;

use outgate::audit::{AuditError, Decision, End, Event, FlowId, Log, OpenError, Settings, Sink, verify};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Longer than anything here takes, so that a failure is an answer and not a hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn temp_dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn file_in(dir: &TempDir) -> PathBuf {
    dir.path().join("log").join("audit.jsonl")
}

fn start(settings: Settings) -> (Log, JoinHandle<()>) {
    let (log, writer) = Log::open(settings).unwrap();
    (log, spawn(writer.run()))
}

#[expect(clippy::disallowed_methods, reason = "the test is the runtime here")]
fn spawn<F: Future<Output: Send> + Send + 'static>(future: F) -> JoinHandle<F::Output> {
    tokio::spawn(future)
}

async fn stop(log: Log, writer: JoinHandle<()>) {
    log.close();
    tokio::time::timeout(PATIENCE, writer).await.unwrap().unwrap();
}

fn allow(flow: u64) -> Decision<'static> {
    Decision {
        id: FlowId { flow, exchange: 1 },
        verdict: "allow",
        path: Some("/a?token=K5".into()),
        ..Decision::default()
    }
}

fn end(flow: u64) -> End<'static> {
    End { id: FlowId { flow, exchange: 1 }, outcome: "done", ..End::default() }
}

fn records(paths: &[&Path]) -> Vec<Value> {
    paths
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'));
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        })
        .collect()
}

fn count(records: &[Value], kind: &str) -> usize {
    records.iter().filter(|r| r["kind"] == kind).count()
}

fn assert_contiguous(records: &[Value]) {
    for pair in records.windows(2) {
        assert_eq!(pair[1]["seq"].as_u64().unwrap(), pair[0]["seq"].as_u64().unwrap() + 1, "{pair:?}");
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            looks.tick().await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

mod record {
    use super::*;

    #[tokio::test]
    async fn au_07_a_decision_is_in_the_file_when_decide_returns() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let (log, writer) = start(Settings::new(Sink::File(path.clone())));
        for flow in 1..=20 {
            log.decide(&allow(flow)).await.unwrap();
            let found = records(&[&path]);
            assert_eq!(found.last().unwrap()["id"], format!("f-{flow:06}-1"));
        }
        assert!(!fs::read_to_string(&path).unwrap().contains("K5"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        stop(log, writer).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn au_03_concurrent_flows_give_one_decision_and_one_end_each_without_gaps() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let (log, writer) = start(Settings::new(Sink::File(path.clone())));
        let tasks: Vec<_> = (0..50)
            .map(|task| {
                let log = log.clone();
                spawn(async move {
                    for n in 0..200 {
                        let flow = task * 200 + n + 1;
                        match n % 4 {
                            0 => log.decide_nowait(&Decision { verdict: "deny", ..allow(flow) }).unwrap(),
                            _ => log.decide(&allow(flow)).await.unwrap(),
                        }
                        log.end(&end(flow));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        log.note(&Event { event: "stop", ..Event::default() });
        stop(log, writer).await;
        let found = records(&[&path]);
        assert_eq!(
            (count(&found, "decision"), count(&found, "end"), count(&found, "event")),
            (10_000, 10_000, 2)
        );
        assert_contiguous(&found);
        let ids: HashSet<_> =
            found.iter().filter(|r| r["kind"] == "end").map(|r| r["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 10_000);
        let report = verify(&path).unwrap();
        assert!(report.is_whole() && report.records == 20_002, "{report:?}");
    }

    #[tokio::test]
    async fn an_end_does_not_wait_for_another_decision() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let (log, writer) = start(Settings::new(Sink::File(path.clone())));
        for flow in 1..=3 {
            log.end(&end(flow));
            until("the end is written", || count(&records(&[&path]), "end") == flow as usize).await;
        }
        stop(log, writer).await;
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_lets_nothing_pass() {
        let dir = temp_dir();
        let (log, writer) = Log::open(Settings::new(Sink::File(file_in(&dir)))).unwrap();
        let waiting = log.decide(&allow(1));
        drop(writer);
        assert_eq!(waiting.await, Err(AuditError::NotWritten));
        assert_eq!(log.decide(&allow(2)).await, Err(AuditError::Closed));
    }

    #[tokio::test]
    async fn with_fsync_records_are_the_same() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let (log, writer) = start(Settings { fsync: true, ..Settings::new(Sink::File(path.clone())) });
        log.decide(&allow(1)).await.unwrap();
        assert_eq!(count(&records(&[&path]), "decision"), 1);
        stop(log, writer).await;
    }
}
