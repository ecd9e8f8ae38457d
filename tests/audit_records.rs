//! The audit log on real files and pipes: nothing lost, nothing torn, nothing passes unrecorded.

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
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
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

mod chain {
    use super::*;

    async fn write_some(path: &Path, flows: u64) {
        let (log, writer) = start(Settings::new(Sink::File(path.to_owned())));
        for flow in 1..=flows {
            log.decide(&allow(flow)).await.unwrap();
        }
        stop(log, writer).await;
    }

    #[tokio::test]
    async fn a_restart_continues_sequence_and_chain() {
        let dir = temp_dir();
        let path = file_in(&dir);
        write_some(&path, 3).await;
        write_some(&path, 3).await;
        let found = records(&[&path]);
        assert_contiguous(&found);
        assert_eq!(found[4]["why"], "restart");
        assert_eq!(found[4]["prev"], found[3]["hash"]);
        assert_ne!(found[4]["run"], found[3]["run"]);
        assert!(verify(&path).unwrap().is_whole());
    }

    #[tokio::test]
    async fn au_08_an_edited_or_removed_record_is_found() {
        let dir = temp_dir();
        let path = file_in(&dir);
        write_some(&path, 5).await;
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"allow\"", "\"deny\"", 1)).unwrap();
        assert_eq!(verify(&path).unwrap().problems[0].line, 2);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(&path, [&lines[..2], &lines[3..]].concat().concat()).unwrap();
        assert_eq!(verify(&path).unwrap().problems[0].line, 3);
        fs::write(&path, lines[1..].concat()).unwrap();
        assert_eq!(verify(&path).unwrap().problems[0].line, 1);
    }

    #[tokio::test]
    async fn ft_13_a_torn_last_line_is_taken_off_and_told() {
        let dir = temp_dir();
        let path = file_in(&dir);
        write_some(&path, 3).await;
        let whole = fs::read(&path).unwrap();
        for cut in [1, 2, 80, 200] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert!(verify(&path).unwrap().torn);
            write_some(&path, 1).await;
            let found = records(&[&path]);
            assert_contiguous(&found);
            assert_eq!(found[3]["event"], "open");
            assert!(found[3]["torn"].as_str().unwrap().starts_with("{\"v\":1,"));
            assert!(verify(&path).unwrap().is_whole());
        }
    }

    #[tokio::test]
    async fn ft_13_garbage_that_a_power_cut_left_does_not_stop_the_start() {
        let dir = temp_dir();
        let path = file_in(&dir);
        for garbage in [vec![0; 5000], vec![0; 600_000], b"\0\0\n".to_vec(), b"{}\nx".to_vec()] {
            let _ = fs::remove_file(&path);
            write_some(&path, 2).await;
            OpenOptions::new().append(true).open(&path).unwrap().write_all(&garbage).unwrap();
            write_some(&path, 1).await;
            let bytes = fs::read(&path).unwrap();
            let lines: Vec<_> = bytes.split(|&b| b == b'\n').filter(|l| l.starts_with(b"{\"v\"")).collect();
            let open: Value = serde_json::from_slice(lines[3]).unwrap();
            assert_eq!(open["event"], "open");
            assert_eq!(lines.len(), 5);
        }
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let dir = temp_dir();
        let path = dir.path().join("precious");
        fs::write(&path, "root:x:0:0\n").unwrap();
        let error = Log::open(Settings::new(Sink::File(path.clone()))).err().unwrap();
        assert!(matches!(error, OpenError::NotRecords { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "root:x:0:0\n");
        let error = Log::open(Settings::new(Sink::File(dir.path().to_owned()))).err().unwrap();
        assert!(error.to_string().contains("give [audit]"), "{error}");
    }

    #[test]
    fn two_daemons_cannot_share_a_file() {
        let dir = temp_dir();
        let _first = Log::open(Settings::new(Sink::File(file_in(&dir)))).unwrap();
        let error = Log::open(Settings::new(Sink::File(file_in(&dir)))).err().unwrap();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }
}

mod rotation {
    use super::*;

    /// Writes decisions from four tasks until told to stop; gives how many.
    fn load(log: &Log, stop: &std::sync::Arc<std::sync::atomic::AtomicBool>) -> Vec<JoinHandle<u64>> {
        (0..4)
            .map(|_| {
                let (log, stop) = (log.clone(), stop.clone());
                spawn(async move {
                    let mut done = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        log.decide(&allow(1)).await.unwrap();
                        done += 1;
                    }
                    done
                })
            })
            .collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rs_15_renaming_under_load_loses_and_tears_nothing() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let (log, writer) = start(Settings::new(Sink::File(path.clone())));
        let over = std::sync::Arc::default();
        let tasks = load(&log, &over);
        let rotated: Vec<PathBuf> = (0..3).map(|n| path.with_extension(n.to_string())).collect();
        for to in &rotated {
            until("the file has records", || path.metadata().is_ok_and(|m| m.len() > 10_000)).await;
            fs::rename(&path, to).unwrap();
        }
        until("a new file is there", || path.exists()).await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut sent = 0;
        for task in tasks {
            sent += task.await.unwrap();
        }
        stop(log, writer).await;
        let all: Vec<&Path> = rotated.iter().chain([&path]).map(PathBuf::as_path).collect();
        let found = records(&all);
        assert_eq!(count(&found, "decision") as u64, sent);
        assert_contiguous(&found);
        let reports: Vec<_> = all.iter().map(|path| verify(path).unwrap()).collect();
        assert!(reports.iter().all(outgate::audit::Report::is_whole), "{reports:?}");
        for pair in reports.windows(2) {
            assert_eq!(pair[1].prev.as_ref(), Some(&pair[0].last_hash));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rs_15_truncating_under_load_tears_nothing_and_shows_what_was_cut() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let (log, writer) = start(Settings::new(Sink::File(path.clone())));
        let over = std::sync::Arc::default();
        let tasks = load(&log, &over);
        for _ in 0..3 {
            until("the file has records", || path.metadata().unwrap().len() > 10_000).await;
            OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
            let opened = || fs::read_to_string(&path).unwrap().contains("\"why\":\"truncated\"");
            until("a new stretch begins", opened).await;
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut sent = 0;
        for task in tasks {
            sent += task.await.unwrap();
        }
        stop(log, writer).await;
        let found = records(&[&path]);
        assert_contiguous(&found);
        // One `open` when the file was made, one for each truncation: all other numbers are decisions.
        assert_eq!(found.last().unwrap()["seq"].as_u64().unwrap(), sent + 4);
    }

    #[tokio::test]
    async fn rs_15_truncating_between_records_keeps_the_count() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let (log, writer) = start(Settings::new(Sink::File(path.clone())));
        let mut found = Vec::new();
        for flow in 1..=5 {
            log.decide(&allow(flow)).await.unwrap();
            found.extend(records(&[&path]));
            OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        }
        stop(log, writer).await;
        assert_eq!(count(&found, "decision"), 5);
        assert_contiguous(&found);
    }
}

mod failing_sink {
    use super::*;

    fn impatient(sink: Sink) -> Settings {
        Settings { patience: Duration::from_millis(50), ..Settings::new(sink) }
    }

    /// Sends until the sink takes no more; gives how many decisions it took.
    async fn fill(log: &Log) -> u64 {
        for flow in 1..1_000_000 {
            let decided = tokio::time::timeout(PATIENCE, log.decide(&allow(flow))).await.unwrap();
            if decided.is_err() {
                return flow - 1;
            }
            log.end(&end(flow));
        }
        panic!("the sink is never full");
    }

    #[test]
    fn a_sink_that_takes_nothing_is_an_error_at_the_start() {
        let error = Log::open(Settings::new(Sink::File("/dev/full".into()))).err().unwrap();
        assert!(error.to_string().contains("make room"), "{error}");
    }

    #[tokio::test]
    async fn rs_14_a_stopped_pipe_reader_refuses_flows_until_it_reads_again() {
        let dir = temp_dir();
        let path = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut reader =
            OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
        let (log, writer) = start(impatient(Sink::File(path)));
        let taken = fill(&log).await;
        until("the stall shows", || log.stats().stalled).await;
        for _ in 0..1000 {
            assert_eq!(log.decide(&allow(9)).await, Err(AuditError::Stalled));
        }
        log.end(&end(taken));
        let mut text = Vec::new();
        let mut drain = |text: &mut Vec<u8>| {
            let _ = reader.read_to_end(text);
            !log.stats().stalled
        };
        until("records are taken again", || drain(&mut text)).await;
        log.decide(&allow(10)).await.unwrap();
        until("all is read", || {
            drain(&mut text);
            text.ends_with(b"\n") && String::from_utf8_lossy(&text).contains("f-000010-1\",\"verdict")
        })
        .await;
        stop(log, writer).await;
        let _ = reader.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_contiguous(&found);
        let gap = found.iter().find(|r| r["event"] == "gap").unwrap();
        let lost: u64 = gap["lost_decisions"].as_str().unwrap().parse().unwrap();
        assert!((1000..=1001).contains(&lost), "{gap}");
        assert_eq!(count(&found, "decision") as u64 + lost, taken + 1 + 1000 + 1);
        assert_eq!(count(&found, "end") as u64, taken + 1);
    }

    /// Runs as a child whose files may not grow (`ulimit -f`): to a program, a full disk.
    #[tokio::test]
    #[ignore = "the child of rs_14_a_full_disk_refuses_flows_until_there_is_room"]
    async fn with_a_file_size_limit() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let path = PathBuf::from(std::env::args().next_back().unwrap().strip_prefix("path=").unwrap());
        let (log, writer) = start(Settings::new(Sink::File(path.clone())));
        let taken = fill(&log).await;
        until("the stall shows", || log.stats().stalled).await;
        assert_eq!(log.decide(&allow(9)).await, Err(AuditError::Stalled));
        // What did not fit as a whole is not there at all.
        assert_contiguous(&records(&[&path]));
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        until("records are taken again", || !log.stats().stalled).await;
        log.decide(&allow(10)).await.unwrap();
        stop(log, writer).await;
        let found = records(&[&path]);
        assert_contiguous(&found);
        assert!(verify(&path).unwrap().is_whole());
        assert_eq!(count(&found, "decision") as u64, taken + 1);
        assert_eq!(count(&found, "end") as u64, taken);
        let gap = found.iter().find(|r| r["event"] == "gap").unwrap();
        assert_eq!(gap["lost_decisions"], "2");
    }

    #[test]
    fn rs_14_a_full_disk_refuses_flows_until_there_is_room() {
        let dir = temp_dir();
        let path = file_in(&dir);
        let script = "trap '' XFSZ; ulimit -S -f 64; exec \"$0\" --exact failing_sink::with_a_file_size_limit --ignored \"path=$1\"";
        let output = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[tokio::test]
    async fn rs_14_the_queue_is_bounded_while_nothing_is_written() {
        let dir = temp_dir();
        let settings = Settings { queue_bytes: 10_000, ..Settings::new(Sink::File(file_in(&dir))) };
        let (log, _writer) = Log::open(settings).unwrap();
        for flow in 0..1000 {
            let _ = log.decide_nowait(&allow(flow));
            log.end(&end(flow));
        }
        let stats = log.stats();
        assert!(stats.queued_bytes <= 10_000 && stats.lost > 1900, "{stats:?}");
        assert_eq!(log.decide(&allow(1)).await, Err(AuditError::Full));
    }
}
