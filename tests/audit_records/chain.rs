//! The chain across restarts, crashes and meddling.

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
async fn au_08_the_documented_program_sees_what_verify_sees() {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/records.md")).unwrap();
    let program = docs.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = temp_dir();
    let path = file_in(&dir);
    write_some(&path, 3).await;
    write_some(&path, 3).await;
    let whole = || Command::new("python3").args(["-c", program]).arg(&path).output().unwrap();
    let said = whole();
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).contains(&verify(&path).unwrap().last_hash));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"allow\"", "\"deny\"", 1)).unwrap();
    assert!(!whole().status.success());
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
