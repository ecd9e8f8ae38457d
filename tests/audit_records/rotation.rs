//! Files that are renamed or truncated while records are written.

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
