//! What a service manager hears, and the units that it is given.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::gate::{Gate, wait_until, write_files};
use crate::support::holder::{Ear, Holder};
use crate::support::orphans::scratch;
use crate::support::*;

const SOON: Duration = Duration::from_secs(10);

/// A bed whose daemon tells `Ear`, with a watchdog of 600 ms where one is wanted.
fn supervised(watchdog: bool) -> (Bed, Ear) {
    let world = World::new();
    let ear = Ear::new(world.dir.path());
    write_files(
        world.dir.path(),
        &Setup { policy: P1.into(), limits: "stop_timeout = \"1s\"", ..Setup::default() },
    );
    let mut environment = vec![("NOTIFY_SOCKET", ear.path.to_str().unwrap().to_owned())];
    if watchdog {
        environment.push(("WATCHDOG_USEC", "600000".into()));
    }
    let gate = Gate::run(&world.gate, world.dir.path(), &environment);
    (Bed { gate, world }, ear)
}

#[test]
fn the_service_manager_hears_ready_reloading_and_stopping() {
    let (mut bed, ear) = supervised(false);
    let ready = ear.hear("READY=1", SOON).unwrap();
    assert!(ready.contains("STATUS=policy ") && ready.contains("open flows: 0"), "{ready}");
    bed.gate.signal(Signal::SIGHUP);
    let reloading = ear.hear("RELOADING=1", SOON).unwrap();
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(ear.hear("READY=1", SOON).is_some(), "and ready again");
    bed.gate.write_policy("nonsense");
    assert!(
        ear.hear("RELOADING=1", SOON).is_some() && ear.hear("READY=1", SOON).is_some(),
        "also when it fails"
    );
    bed.gate.signal(Signal::SIGTERM);
    assert!(ear.hear("STOPPING=1", SOON).is_some());
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
    assert!(ear.hear("WATCHDOG=1", Duration::from_millis(50)).is_none(), "nobody asked for one");
}

#[test]
fn the_watchdog_is_fed_while_the_daemon_works_and_not_while_it_hangs() {
    let (bed, ear) = supervised(true);
    for _ in 0..3 {
        assert!(ear.hear("WATCHDOG=1", SOON).is_some());
    }
    bed.gate.stop();
    ear.forget();
    assert!(ear.hear("WATCHDOG=1", Duration::from_millis(1200)).is_none(), "a stopped daemon feeds it");
    bed.gate.signal(Signal::SIGCONT);
    assert!(ear.hear("WATCHDOG=1", SOON).is_some());
    bed.control();
}

/// The example's units in a folder of their own, with a program and a configuration that are there.
fn units(dir: &Path) -> Vec<PathBuf> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway/systemd");
    let copy = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let to = dir.join(entry.file_name());
        std::fs::write(&to, text.replace("/usr/local/bin/outgate", env!("CARGO_BIN_EXE_outgate"))).unwrap();
        to
    };
    let mut units: Vec<_> = std::fs::read_dir(examples).unwrap().map(|entry| copy(entry.unwrap())).collect();
    units.sort();
    units
}

#[test]
fn the_units_are_what_systemd_understands_and_leave_the_daemon_little() {
    let dir = scratch();
    let units = units(dir.path());
    assert_eq!(units.len(), 5, "{units:?}");
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // Other units of this machine are not ours to judge.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("outgate")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{said}");
    let exposed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
        .arg(dir.path().join("outgate.service"))
        .output()
        .unwrap();
    assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
}

#[test]
fn the_sockets_of_the_units_are_the_doors_of_the_example() {
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway");
    let config = outgate::config::Config::load(&gateway.join("outgate.toml"), None).unwrap();
    for (door, addresses) in [("transparent", config.transparent), ("dns", config.dns)] {
        let unit = std::fs::read_to_string(gateway.join(format!("systemd/outgate-{door}.socket"))).unwrap();
        let has = |line: &str| unit.lines().any(|l| l == line);
        assert!(has(&format!("FileDescriptorName={door}")) && has("BindIPv6Only=ipv6-only"), "{door}");
        for address in addresses {
            assert!(has(&format!("ListenStream={address}")), "{address}");
            assert!(door != "dns" || has(&format!("ListenDatagram={address}")), "{address}");
        }
    }
}

#[test]
fn a_daemon_that_serves_has_no_capability_and_its_helper_one() {
    let bed = Bed::new(P1);
    let status = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let daemon = status(bed.gate.pid());
    for line in ["CapInh:\t0", "CapPrm:\t0", "CapEff:\t0", "CapBnd:\t0", "CapAmb:\t0"] {
        assert!(daemon.contains(&format!("{line}000000000000000\n")), "{line} not in\n{daemon}");
    }
    assert!(
        daemon.contains("NoNewPrivs:\t1") && daemon.contains("Uid:\t65534\t65534\t65534\t65534"),
        "{daemon}"
    );
    let [helper] = children(bed.gate.pid())[..] else { panic!("the daemon has one child") };
    // CAP_NET_ADMIN is bit 12.
    assert!(status(helper).contains("CapEff:\t0000000000001000\n"), "{}", status(helper));
}

#[test]
fn as_process_1_it_passes_signals_on_buries_orphans_and_ends_as_the_daemon_does() {
    let world = World::new();
    write_files(world.dir.path(), &Setup { policy: P1.into(), ..Setup::default() });
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_outgate"), "run", "-c"]);
    command.arg(world.dir.path().join("outgate.toml")).env("A_SECRET_OF_THE_CONTAINER", "not to be seen");
    // A socket for process 1 is one for the daemon.
    Holder::new(&world.gate, &[("explicit", "10.77.1.1:3128")]).hand_to(command.env("LISTEN_PID", "1"));
    let gate = Gate::launch(&world.gate, world.dir.path(), command);
    gate.wait_for_words("outgate is ready");
    let mut bed = Bed { gate, world };
    bed.control();
    assert!(bed.tunnel("api.good.test:443").is_ok());
    let [first] = children(bed.gate.pid())[..] else { panic!("unshare has one child") };
    let [daemon] = children(first)[..] else { panic!("process 1 has one child") };
    assert_eq!(std::fs::read(format!("/proc/{first}/environ")).unwrap(), b"");
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000\n") && status.contains("Uid:\t65534"), "{status}");
    // The shell's child outlives it, and process 1 inherits it.
    let orphaned = format!("nsenter --target {first} --pid --mount sh -c 'sleep 0.3 &'");
    assert!(Command::new("sh").args(["-c", &orphaned]).status().unwrap().success());
    let family = |wanted: usize| (children(first).len() == wanted).then_some(());
    assert!(wait_until(SOON, || family(2)).is_some(), "{:?}", children(first));
    assert!(wait_until(SOON, || family(1)).is_some(), "it stays as a zombie: {:?}", children(first));
    let tell = |signal| kill(Pid::from_raw(first), signal).unwrap();
    tell(Signal::SIGHUP);
    bed.gate.wait_for_record("the reload", |record| record.text("event") == "reload");
    assert_eq!(children(first), [daemon]);
    tell(Signal::SIGTERM);
    bed.gate.wait_for_words("outgate stops");
    assert_eq!(bed.gate.wait_for_exit(), Some(0));
}

fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
