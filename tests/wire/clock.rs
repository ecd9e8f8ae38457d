//! Gauntlet FT-15: the daemon's clock is wrong, or jumps. libfaketime (package faketime) turns it for the daemon alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::gate::{Gate, wait_until};
use crate::support::message::get;
use crate::support::*;

/// Where Debian's multiarch folders have the library.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found =
        folders.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("libfaketime, from the package faketime")
}

/// The daemon's command under the clock that the file says; timers stay those of the kernel.
fn environment(file: &Path) -> [(&'static str, String); 4] {
    [
        ("LD_PRELOAD", library().to_str().unwrap().to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap().to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

fn under_the_clock_of(bed: &mut Bed, file: &Path) {
    bed.gate.kill();
    let next = Gate::run(&bed.world.gate, bed.world.dir.path(), &environment(file));
    drop(std::mem::replace(&mut bed.gate, next));
}

fn set(file: &Path, time: &str) {
    let fresh = file.with_extension("fresh");
    std::fs::write(&fresh, format!("{time}\n")).unwrap();
    std::fs::rename(fresh, file).unwrap();
}

fn status(bed: &Bed) -> Result<Option<u16>, End> {
    Ok(bed.https(PUB1, "api.good.test")?.ask(get("api.good.test", "/")).map(|answer| answer.status))
}

#[test]
fn ft_15_a_wrong_clock_is_never_a_panic_and_never_a_check_less() {
    let mut bed = Bed::new(P1);
    let file = bed.gate.dir.join("clock");
    // An authority that was made long ago, when the clock was right.
    std::fs::remove_dir_all(bed.gate.dir.join("certs")).unwrap();
    std::fs::create_dir(bed.gate.dir.join("certs")).unwrap();
    set(&file, "-30d");
    under_the_clock_of(&mut bed, &file);
    // Its leaves last a week, so that clients with the right time take those of a gate that is two days late.
    set(&file, "-2d");
    under_the_clock_of(&mut bed, &file);
    assert_eq!(status(&bed), Ok(Some(200)));
    // Two days early is more than the 12 hours that a leaf reaches back: the client refuses, and nothing passes.
    set(&file, "+2d");
    under_the_clock_of(&mut bed, &file);
    let mark = bed.mark();
    assert!(status(&bed).is_err());
    bed.since(mark, 0).nothing_upstream();
    // In 1970 there was no authority: no start, and a word that says why.
    set(&file, "@1970-01-01 00:01:00");
    bed.gate.kill();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outgate"));
    command.args(["run", "-c"]).arg(bed.gate.dir.join("outgate.toml")).envs(environment(&file));
    let mut refused = Gate::launch(&bed.world.gate, &bed.gate.dir, command);
    assert_eq!(refused.wait_for_exit(), Some(1));
    refused.wait_for_words("is the clock right?");
    assert!(bed.try_tcp(PUB1, 443).is_err());
}

#[test]
fn ft_15_a_clock_that_steps_while_the_daemon_runs_stops_nothing() {
    let mut bed =
        Bed::with(&Setup { policy: P1.into(), limits: "idle_timeout = \"30s\"", ..Setup::default() });
    let file = bed.gate.dir.join("clock");
    set(&file, "+0");
    under_the_clock_of(&mut bed, &file);
    let mut kept = bed.https(PUB1, "api.good.test").unwrap();
    for time in ["-1d", "+0", "+6h", "-6h"] {
        set(&file, time);
        assert_eq!(kept.ask(get("api.good.test", "/")).map(|answer| answer.status), Some(200), "{time}");
        assert_eq!(
            bed.fetch_plain(get("plain.good.test", "/")).map(|answer| answer.status),
            Some(200),
            "{time}"
        );
        let known = bed.resolve("plain.good.test", dns::A);
        assert!(!known.addresses.is_empty(), "{time}");
    }
    // No server's certificate was valid then; clear text asks for none.
    set(&file, "@1970-01-01 00:01:00");
    assert!(
        !matches!(bed.fetch("files.good.test", get("files.good.test", "/")), Some(answer) if answer.status == 200)
    );
    assert_eq!(bed.fetch_plain(get("plain.good.test", "/")).map(|answer| answer.status), Some(200));
    assert!(bed.gate.records().iter().any(|record| record.text("time").starts_with("1970-01-01T")));
    set(&file, "+0");
    let served = || (status(&bed) == Ok(Some(200))).then_some(());
    assert!(wait_until(Duration::from_secs(5), served).is_some());
}
