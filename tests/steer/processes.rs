//! What privileges the processes keep.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use outgate::steer::{HelperError, Settings};

use crate::world::World;
use crate::{fenced, start_helper, this_binary};

#[test]
fn the_helper_keeps_one_capability_and_no_environment() {
    let world = World::new();
    let helper = fenced(&world);
    let status = std::fs::read_to_string(format!("/proc/{}/status", helper.id())).unwrap();
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000001000",
        "CapEff:\t0000000000001000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
    ] {
        assert!(status.contains(line), "{line} not in\n{status}");
    }
    assert_eq!(std::fs::read(format!("/proc/{}/environ", helper.id())).unwrap(), b"");
}

#[test]
fn privileges_are_dropped_for_good_and_the_lack_of_them_is_told() {
    let output = this_binary("as-unprivileged").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_signal_for_the_daemon_does_not_end_the_helper() {
    let world = World::new();
    let mut helper = fenced(&world);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(helper.id() as i32), signal).unwrap();
    }
    assert!(helper.verify().unwrap().intact);
}

#[tokio::test]
async fn inside_the_runtime_a_dead_helper_is_an_error_and_not_a_wait() {
    let world = World::new();
    let mut helper = start_helper(&world.gate).into_async().unwrap();
    helper.apply(&World::settings()).await.unwrap();
    assert!(helper.verify().await.unwrap().intact);
    let wrong = Settings { interfaces: vec![], ..World::settings() };
    let error = helper.apply(&wrong).await.unwrap_err();
    assert!(matches!(&error, HelperError::Refused(why) if why.contains("no agent interface")), "{error}");
    helper.remove_redirect().await.unwrap();
    assert!(!helper.verify().await.unwrap().redirect);
    kill(Pid::from_raw(helper.id() as i32), Signal::SIGKILL).unwrap();
    assert!(matches!(helper.verify().await.unwrap_err(), HelperError::Gone));
}
