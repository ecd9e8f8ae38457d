//! What stays when the daemon, the helper or another root process does something.

use std::sync::atomic::{AtomicBool, Ordering};

use outgate::steer::Settings;

use crate::door::Door;
use crate::world::{Attempt, World};
use crate::{fenced, sigkill};

fn everything_is_refused(world: &World) {
    for port in [80, 443, 9999, 53] {
        assert_eq!(world.agent.try_tcp(&format!("93.184.216.34:{port}")), Attempt::Refused, "{port}");
        assert_eq!(world.agent.try_tcp(&format!("[2606:2800:220:1::34]:{port}")), Attempt::Refused, "{port}");
    }
    assert!(world.agent.try_udp("0.0.0.0:0", "93.184.216.34:53").is_err());
}

#[test]
fn by_23_both_tables_outlive_a_killed_daemon_and_helper() {
    let world = World::new();
    for port in [80, 443, 9999] {
        world.serve_tcp(&world.internet, &format!("93.184.216.34:{port}"), "leak");
    }
    let helper = fenced(&world);
    let door = Door::open(&world.gate, 15001, None);
    assert!(world.agent.hear("93.184.216.34:80").starts_with("93.184.216.34:80 "));
    sigkill(&helper);
    drop(door);
    helper.finish().unwrap();
    everything_is_refused(&world);
    // The next one takes them over, and they are owned again.
    let mut next = fenced(&world);
    assert!(next.verify().unwrap().intact);
    assert!(!world.gate.exec(&["nft", "delete", "table", "inet", "outgate_fence"]).0);
    everything_is_refused(&world);
    assert_eq!(world.leaked(), 0);
}

#[test]
fn a_helper_whose_daemon_is_gone_ends_and_leaves_the_tables() {
    let world = World::new();
    let helper = fenced(&world);
    helper.finish().unwrap();
    everything_is_refused(&world);
    assert_eq!(world.leaked(), 0);
}

#[test]
fn without_the_redirect_the_fence_refuses_all() {
    let world = World::new();
    let mut helper = fenced(&world);
    let _door = Door::open(&world.gate, 15001, None);
    helper.remove_redirect().unwrap();
    everything_is_refused(&world);
    let report = helper.verify().unwrap();
    assert!(report.fence && !report.redirect && report.intact, "{report:?}");
    assert_eq!(world.leaked(), 0);
}

#[test]
fn other_root_processes_do_not_remove_or_change_the_tables() {
    let world = World::new();
    let mut helper = fenced(&world);
    world.gate.nft("flush ruleset");
    for change in [
        vec!["delete", "table", "inet", "outgate_fence"],
        vec!["flush", "chain", "inet", "outgate_fence", "forw"],
        vec!["insert", "rule", "inet", "outgate_fence", "forw", "accept"],
        vec!["add", "element", "inet", "outgate_redirect", "agent_net4", "{ 93.184.216.0/24 }"],
    ] {
        let (done, _) = world.gate.exec(&[&["nft"], change.as_slice()].concat());
        assert!(!done, "{change:?}");
    }
    let report = helper.verify().unwrap();
    assert!(report.fence && report.redirect && report.intact, "{report:?}");
    assert_eq!(report.reasserted, 0);
    everything_is_refused(&world);
    assert_eq!(world.leaked(), 0);
}

#[test]
fn there_is_no_moment_without_the_fence_while_it_is_replaced() {
    let world = World::new();
    let served = world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
    let mut helper = fenced(&world);
    let replacing = AtomicBool::new(true);
    let tried = std::thread::scope(|scope| {
        let trying = scope.spawn(|| {
            let mut tried = 0;
            while replacing.load(Ordering::Relaxed) {
                assert_eq!(world.agent.try_tcp("93.184.216.34:9999"), Attempt::Refused);
                tried += 1;
            }
            tried
        });
        for n in 0..100 {
            let settings = Settings { redirect_tcp_ports: vec![80, 443, 1000 + n], ..World::settings() };
            helper.apply(&settings).unwrap();
        }
        replacing.store(false, Ordering::Relaxed);
        trying.join().unwrap()
    });
    assert!(tried > 10, "{tried}");
    assert_eq!((served.load(Ordering::Relaxed), world.leaked()), (0, 0));
}
