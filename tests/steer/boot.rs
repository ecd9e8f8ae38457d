//! `outgate fence`: before any daemon runs, when one cannot start, and what `show --live` says of it all.

use std::path::Path;
use std::process::Command;

use outgate::config::Config;

use crate::world::{Attempt, World};
use crate::{outgate, sigkill, start_helper};

const DAEMON: &str = r#"
[listen]
transparent = ["0.0.0.0:15001", "[::]:15001"]
dns = ["10.77.1.1:53"]

[steer]
interfaces = ["agent0", "agent1"]
networks = ["10.77.1.0/24", "10.77.2.0/24", "fd77:1::/64", "fd77:2::/64"]
"#;

const POLICY: &str = r#"
[[client]]
name = "agent"
interface = "agent0"

[[rule]]
name = "ssh"
hosts = ["git.test"]
action = "tunnel"
scheme = "tcp"
ports = [22]
"#;

fn files(folder: &Path, steer: &str, policy: &str) -> String {
    std::fs::create_dir_all(folder.join("policies")).unwrap();
    std::fs::write(folder.join("policies/agent.toml"), policy).unwrap();
    let file = folder.join("outgate.toml");
    std::fs::write(&file, format!("{DAEMON}{steer}")).unwrap();
    file.display().to_string()
}

#[test]
fn by_25_nothing_leaves_before_the_daemon_starts_or_when_it_cannot() {
    let world = World::new();
    world.serve_tcp(&world.internet, "0.0.0.0:80", "leak");
    world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
    let folder = tempfile::tempdir().unwrap();
    let file = files(folder.path(), "", "this is no policy");
    let refused = || {
        for to in ["93.184.216.34:80", "93.184.216.34:9999", "[2606:2800:220:1::34]:443"] {
            assert_eq!(world.agent.try_tcp(to), Attempt::Refused, "{to}");
        }
        assert!(world.agent.try_udp("0.0.0.0:0", "93.184.216.34:53").is_err());
        assert!(!world.agent.echo("10.77.1.2", "93.184.216.34"));
    };
    let (code, said) = outgate(&world.gate, &["fence", "up", "-c", &file]);
    assert_eq!(code, Some(0), "{said}");
    refused();
    let (code, said) = outgate(&world.gate, &["run", "-c", &file]);
    assert!(code == Some(1) && said.contains("agent.toml"), "{code:?} {said}");
    refused();
    // Loading it again leaves no gap and asks for nothing.
    assert_eq!(outgate(&world.gate, &["fence", "up", "-c", &file]).0, Some(0));
    refused();
    assert_eq!(world.leaked(), 0);
    assert_eq!(outgate(&world.gate, &["fence", "down"]).0, Some(0));
    assert_eq!(world.agent.hear("93.184.216.34:9999"), "leak");
}

#[test]
fn systemd_takes_the_units_of_the_fence_and_the_guard() {
    let folder = tempfile::tempdir().unwrap();
    for unit in ["outgate-fence.service", "outgate-guard.service"] {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway/systemd").join(unit);
        let text = std::fs::read_to_string(shipped).unwrap();
        // Before any interface is up, whatever else the machine starts.
        assert!(text.contains("Before=network-pre.target") && text.contains("WantedBy=sysinit.target"));
        let file = folder.path().join(unit);
        std::fs::write(&file, text.replace("/usr/local/bin/outgate", env!("CARGO_BIN_EXE_outgate"))).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
        assert!(output.status.success(), "{unit}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_the_kernel_has_is_told_apart_from_what_it_should_have() {
    for steer in ["", "intercept = \"tproxy\"\nguard = [\"docker0\"]\n"] {
        let world = World::new();
        let folder = tempfile::tempdir().unwrap();
        let file = files(folder.path(), steer, POLICY);
        let live = || outgate(&world.gate, &["fence", "show", "--live", "-c", &file]);
        let says = |code: i32, words: &str| {
            let (found, said) = live();
            assert!(found == Some(code) && said.contains(words), "{words}: {found:?} {said}");
        };
        says(1, "outgate_fence: MISSING");
        assert_eq!(outgate(&world.gate, &["fence", "up", "-c", &file]).0, Some(0));
        says(1, "outgate_fence: as configured\ntable outgate_redirect: MISSING");
        if !steer.is_empty() {
            says(1, "outgate_guard: as configured\nrouting rules for TPROXY: MISSING");
        }
        let (code, shown) = outgate(&world.gate, &["fence", "show", "-c", &file]);
        assert!(code == Some(0) && shown.contains("{ 22, 80, 443 }"), "the ports of the policy: {shown}");
        // What a daemon would do.
        let mut settings = Config::load(file.as_ref(), None).unwrap().steer.unwrap();
        settings.redirect_tcp_ports.push(22);
        let mut helper = start_helper(&world.gate);
        helper.apply(&settings).unwrap();
        says(0, "outgate_redirect: as configured");
        world.gate.nft(
            "table ip thief {
                chain p { type nat hook prerouting priority -150; tcp dport 80 redirect; }
            }",
        );
        says(1, "chain ip thief p: takes connections");
        world.gate.nft("delete table ip thief");
        says(0, "outgate_fence: as configured");
        sigkill(&helper);
        helper.finish().unwrap();
        says(0, "outgate_fence: as configured");
        world.gate.nft("insert rule inet outgate_fence forw accept");
        says(1, "outgate_fence: DIFFERENT");
    }
}
