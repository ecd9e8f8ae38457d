//! Disks that are full and pipes that nobody reads.

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
    let mut reader = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
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
