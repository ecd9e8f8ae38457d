//! The fence and the redirect in real network namespaces, with real packets. Needs root, iproute2 and nft (the latter
//! only to look and to play the other root process).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests"
)]

#[path = "steer/boot.rs"]
mod boot;
#[path = "steer/bounds.rs"]
mod bounds;
#[path = "steer/docker.rs"]
mod docker;
#[path = "steer/door.rs"]
mod door;
#[path = "steer/fence.rs"]
mod fence;
#[path = "steer/guard.rs"]
mod guard;
#[path = "steer/inside.rs"]
mod inside;
#[path = "steer/lifetime.rs"]
mod lifetime;
#[path = "steer/others.rs"]
mod others;
#[path = "steer/processes.rs"]
mod processes;
#[path = "steer/redirect.rs"]
mod redirect;
#[path = "steer/rules.rs"]
mod rules;
#[path = "steer/tproxy.rs"]
mod tproxy;
#[path = "steer/world.rs"]
mod world;

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use outgate::steer::{Helper, RunAs, Tables, helper, privilege};
use world::{Namespace, World};

const NOBODY: RunAs = RunAs { uid: 65534, gid: 65534 };

/// This test binary again, as the process that `before_the_harness` makes of it.
fn this_binary(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(role);
    command
}

/// The test harness has threads, and privileges can be dropped in a process without any only. So this binary looks at
/// its argument before the harness starts.
#[used]
#[unsafe(link_section = ".init_array")]
#[allow(unsafe_code, reason = "a plain function pointer in the table of what runs before main")]
static BEFORE_THE_HARNESS: extern "C" fn() = before_the_harness;

extern "C" fn before_the_harness() {
    let role: fn() = match std::env::args().nth(1).as_deref() {
        Some("as-helper") => || helper::serve_stdin(Some(NOBODY)).unwrap(),
        Some("as-plain-helper") => || helper::serve_stdin_plain(Some(NOBODY)).unwrap(),
        Some("as-unprivileged") => be_unprivileged,
        _ => return,
    };
    let good = std::panic::catch_unwind(role).is_ok();
    #[expect(clippy::disallowed_methods, reason = "this process must never become a test run")]
    std::process::exit(i32::from(!good));
}

fn be_unprivileged() {
    let files = privilege::harden().unwrap();
    assert!(files >= 1024);
    privilege::drop_all(Some(NOBODY)).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    let error = Tables::open().err().expect("an unprivileged process must not reach the tables").to_string();
    assert!(error.contains("CAP_NET_ADMIN") && error.contains("steer.manage = false"), "{error}");
    assert!(nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_err());
}

fn start_helper(gate: &Namespace) -> Helper {
    gate.inside(|| Helper::spawn(this_binary("as-helper")).unwrap())
}

/// The program itself, in a namespace: its exit code and what it says.
fn outgate(namespace: &Namespace, arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        namespace.inside(|| Command::new(env!("CARGO_BIN_EXE_outgate")).args(arguments).output().unwrap());
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn fenced(world: &World) -> Helper {
    let mut helper = start_helper(&world.gate);
    helper.apply(&World::settings()).unwrap();
    helper
}

fn sigkill(helper: &Helper) {
    kill(Pid::from_raw(helper.id() as i32), Signal::SIGKILL).unwrap();
}
