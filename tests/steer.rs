//! The fence and the redirect in real network namespaces, with real packets. Needs root, iproute2 and nft (the latter
//! only to look and to play the other root process).

#[path = "steer/door.rs"]
mod door;
#[path = "steer/world.rs"]
mod world;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use door::Door;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use outgate::steer::{Helper, HelperError, RunAs, Settings, SteerError, Tables, helper, privilege, render};
use world::{Attempt, Namespace, PATIENCE, World, eventually};

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

fn fenced(world: &World) -> Helper {
    let mut helper = start_helper(&world.gate);
    helper.apply(&World::settings()).unwrap();
    helper
}

fn sigkill(helper: &Helper) {
    kill(Pid::from_raw(helper.id() as i32), Signal::SIGKILL).unwrap();
}

mod rules {
    use super::*;
    use serde_json::{Value, json};

    /// The ruleset as nft understands it, without handles, owners and counts, and with the elements of sets in order.
    fn listed(namespace: &Namespace) -> (Value, Vec<String>) {
        let (good, text) = namespace.exec(&["nft", "-j", "list", "ruleset"]);
        assert!(good, "{text}");
        let mut ruleset: Value = serde_json::from_str(&text).unwrap();
        settle(&mut ruleset);
        // The bytecode of the kernel: text that looks alike may hide another width or register.
        let (_, text) = namespace.exec(&["nft", "--debug=netlink", "list", "ruleset"]);
        let code = text.lines().filter(|line| line.starts_with("  [")).map(str::to_owned).collect();
        (ruleset, code)
    }

    fn settle(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                ["handle", "packets", "bytes"].iter().for_each(|field| drop(fields.remove(*field)));
                // `persist` is a word that nft does not know yet.
                if fields.get("flags") == Some(&json!(["owner", "unknown"])) {
                    fields.remove("flags");
                }
                if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                    elements.sort_by_key(Value::to_string);
                }
                fields.values_mut().for_each(settle);
            }
            Value::Array(items) => items.iter_mut().for_each(settle),
            _ => {}
        }
    }

    fn same_through_netlink_and_nft(settings: &Settings) {
        let (ours, theirs) = (Namespace::new("ours"), Namespace::new("theirs"));
        let _tables = ours.inside(|| {
            let mut tables = Tables::open().unwrap();
            tables.apply(settings).unwrap();
            assert!(tables.intact().unwrap());
            tables
        });
        theirs.nft(&render(settings));
        assert_eq!(listed(&ours), listed(&theirs));
    }

    #[test]
    fn the_kernel_holds_what_fence_show_prints() {
        same_through_netlink_and_nft(&World::settings());
    }

    #[test]
    fn the_kernel_holds_what_fence_show_prints_without_doors_and_with_odd_networks() {
        let settings = Settings {
            interfaces: vec!["fifteen-letters".into()],
            networks: ["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/25", "255.255.255.0/24", "192.0.2.1/32"]
                .map(|net| net.parse().unwrap())
                .into(),
            transparent_port: None,
            dns_port: None,
            explicit_ports: vec![],
            redirect_tcp_ports: vec![],
            quic_port: None,
        };
        same_through_netlink_and_nft(&settings);
    }

    #[test]
    fn the_largest_settings_fit_into_one_batch() {
        let namespace = Namespace::new("large");
        let settings = Settings {
            interfaces: (0..64).map(|n| format!("tap{n}")).collect(),
            networks: (0..512u32).map(|n| format!("10.{}.{}.0/24", n / 128, n % 128 * 2).parse().unwrap()).collect(),
            redirect_tcp_ports: (1000..1512).collect(),
            ..World::settings()
        };
        namespace.inside(|| {
            let mut tables = Tables::open().unwrap();
            tables.apply(&settings).unwrap();
            assert!(tables.intact().unwrap());
        });
        let (_, text) = namespace.exec(&["nft", "list", "set", "inet", "outgate_fence", "agent_net4"]);
        assert!(text.contains("10.0.0.0/24") && text.contains("10.3.254.0/24"), "{text}");
    }

    #[test]
    fn a_second_owner_is_told_who_is_in_the_way() {
        let namespace = Namespace::new("two");
        namespace.inside(|| {
            let mut first = Tables::open().unwrap();
            first.apply(&World::settings()).unwrap();
            let error = Tables::open().unwrap().apply(&World::settings()).unwrap_err();
            assert!(matches!(error, SteerError::OwnedByAnother("outgate_fence")), "{error}");
            assert!(first.intact().unwrap());
        });
    }

    #[test]
    fn plain_tables_of_older_kernels_are_mended() {
        let namespace = Namespace::new("plain");
        let mut tables = namespace.inside(|| Tables::open().unwrap().plain());
        tables.apply(&World::settings()).unwrap();
        for change in [
            "add rule inet outgate_fence forw accept",
            "delete table inet outgate_redirect",
            "flush ruleset",
            "delete element inet outgate_fence agent_if { \"agent0\" }",
            "add table inet outgate_fence { flags dormant; }",
        ] {
            assert!(tables.intact().unwrap());
            let before = listed(&namespace);
            namespace.nft(change);
            assert!(!tables.intact().unwrap(), "not seen: {change}");
            assert!(tables.mend().unwrap());
            assert_eq!(listed(&namespace), before);
        }
        assert!(!tables.mend().unwrap());
    }

    #[test]
    fn rules_that_an_operator_loaded_as_text_are_taken_over() {
        let namespace = Namespace::new("text");
        namespace.nft(&render(&World::settings()));
        namespace.inside(|| {
            let mut tables = Tables::open().unwrap();
            tables.apply(&World::settings()).unwrap();
            assert!(!namespace.exec(&["nft", "delete", "table", "inet", "outgate_fence"]).0);
            tables.remove_all().unwrap();
            let presence = tables.presence().unwrap();
            assert!(!presence.fence && !presence.redirect);
        });
    }

    #[test]
    fn settings_that_are_wrong_change_nothing() {
        let namespace = Namespace::new("wrong");
        namespace.inside(|| {
            let mut tables = Tables::open().unwrap();
            tables.apply(&World::settings()).unwrap();
            let wrong = Settings { interfaces: vec!["lo".into()], ..World::settings() };
            assert!(matches!(tables.apply(&wrong), Err(SteerError::Settings(_))));
            assert!(tables.intact().unwrap());
        });
    }
}

mod redirect {
    use super::*;

    #[test]
    fn web_ports_reach_the_door_with_their_original_destination() {
        let world = World::new();
        let _helper = fenced(&world);
        let _door = Door::open(&world.gate, 15001, None);
        assert_eq!(world.agent.hear("93.184.216.34:80"), "93.184.216.34:80 from 10.77.1.2 on agent0");
        assert_eq!(world.agent.hear("8.8.8.8:443"), "8.8.8.8:443 from 10.77.1.2 on agent0");
        assert_eq!(world.other.hear("93.184.216.34:443"), "93.184.216.34:443 from 10.77.2.2 on agent1");
        assert_eq!(world.leaked(), 0);
    }

    #[test]
    fn by_04_web_ports_over_ipv6_reach_the_door_too() {
        let world = World::new();
        let _helper = fenced(&world);
        let _door = Door::open(&world.gate, 15001, None);
        let heard = world.agent.hear("[2606:2800:220:1::34]:443");
        assert_eq!(heard, "[2606:2800:220:1::34]:443 from fd77:1::2 on agent0");
        assert_eq!(world.leaked(), 0);
    }

    #[test]
    fn a_door_of_one_interface_hears_that_interface_alone() {
        let world = World::new();
        let _helper = fenced(&world);
        let _door = Door::open(&world.gate, 15001, Some("agent1"));
        assert_eq!(world.other.hear("93.184.216.34:80"), "93.184.216.34:80 from 10.77.2.2 on agent1");
        assert_eq!(world.agent.try_tcp("93.184.216.34:80"), Attempt::Refused);
    }

    #[test]
    fn port_53_to_anyone_reaches_the_dns_door() {
        let world = World::new();
        let mut helper = start_helper(&world.gate);
        helper.apply(&Settings { dns_port: Some(5353), ..World::settings() }).unwrap();
        world.serve_udp(&world.gate, "0.0.0.0:5353", "dns");
        world.serve_udp(&world.gate, "[fd77:1::1]:5353", "dns6");
        world.serve_tcp(&world.gate, "0.0.0.0:5353", "dns over tcp");
        for server in ["10.77.1.1:53", "8.8.8.8:53", "93.184.216.34:53", "93.184.216.2:53"] {
            assert_eq!(world.agent.try_udp("0.0.0.0:0", server).unwrap(), "dns", "{server}");
            assert_eq!(world.agent.hear(server), "dns over tcp", "{server}");
        }
        assert_eq!(world.agent.try_udp("[::]:0", "[2606:2800:220:1::34]:53").unwrap(), "dns6");
        assert_eq!(world.leaked(), 0);
    }

    #[test]
    fn udp_443_reaches_the_quic_responder_or_is_refused() {
        let world = World::new();
        let mut helper = fenced(&world);
        world.serve_udp(&world.gate, "0.0.0.0:15443", "vn");
        world.serve_udp(&world.internet, "93.184.216.34:443", "quic");
        assert_eq!(world.agent.try_udp("0.0.0.0:0", "93.184.216.34:443").unwrap(), "vn");
        helper.apply(&Settings { quic_port: None, ..World::settings() }).unwrap();
        let error = world.agent.try_udp("0.0.0.0:0", "93.184.216.34:443").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EHOSTUNREACH), "{error}");
        assert_eq!(world.leaked(), 0);
    }

    #[test]
    fn by_15_a_direct_dial_of_the_door_is_refused() {
        let world = World::new();
        let door = Door::open(&world.gate, 15001, None);
        // Without the fence the door itself sees the loop.
        for own in ["10.77.1.1:15001", "93.184.216.2:15001", "[fd77:1::1]:15001"] {
            let heard = world.agent.inside(|| {
                let mut stream = TcpStream::connect_timeout(&own.parse().unwrap(), PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.read(&mut [0])
            });
            // The reset may be there before the connect has returned.
            assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{own}");
        }
        eventually("three refusals", || door.refused().len() == 3);
        // With it nothing comes so far.
        let _helper = fenced(&world);
        for own in ["10.77.1.1:15001", "[fd77:1::1]:15001"] {
            assert_eq!(world.agent.try_tcp(own), Attempt::Refused, "{own}");
        }
        assert_eq!(world.agent.try_tcp("93.184.216.2:15001"), Attempt::TimedOut);
        assert_eq!(door.refused().len(), 3);
    }

    #[test]
    fn by_14_a_redirected_flow_to_one_of_our_own_addresses_is_a_loop() {
        let world = World::new();
        let _helper = fenced(&world);
        let door = Door::open(&world.gate, 15001, None);
        let _ = world.agent.try_tcp("93.184.216.2:80");
        eventually("the refusal", || door.refused() == ["the original destination 93.184.216.2:80 is this host"]);
    }
}

mod fence {
    use super::*;

    #[test]
    fn by_02_other_ports_are_reset_and_nothing_reaches_the_internet() {
        let world = World::new();
        let served = world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
        // Were there no fence, it would arrive: the world is one that can leak.
        assert_eq!(world.agent.hear("93.184.216.34:9999"), "leak");
        let before = world.leaked();
        assert!(before > 0);
        let _helper = fenced(&world);
        for port in [22, 25, 853, 3128, 4444, 8080, 8443, 9999] {
            assert_eq!(world.agent.try_tcp(&format!("93.184.216.34:{port}")), Attempt::Refused, "{port}");
            assert_eq!(world.agent.try_tcp(&format!("[2606:2800:220:1::34]:{port}")), Attempt::Refused, "{port}");
        }
        assert_eq!(world.leaked(), before);
        assert_eq!(served.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_flow_that_was_open_before_the_fence_does_not_go_on() {
        let world = World::new();
        world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
        let mut flow = world.agent.inside(|| TcpStream::connect("93.184.216.34:9999").unwrap());
        flow.set_read_timeout(Some(PATIENCE)).unwrap();
        let _helper = fenced(&world);
        let before = world.leaked();
        let _ = flow.write_all(b"more");
        let mut rest = Vec::new();
        let _ = flow.read_to_end(&mut rest);
        eventually("the reset", || flow.write_all(b"still more").is_err());
        assert_eq!(world.leaked(), before);
    }

    #[test]
    fn by_04_and_by_06_icmp_and_other_udp_are_refused_but_the_gate_answers_echo() {
        let world = World::new();
        let far = ["93.184.216.34", "93.184.216.2", "10.77.2.2", "2606:2800:220:1::34", "fd77:2::2"];
        let near = ["10.77.1.1", "fd77:1::1"];
        let echo = |to: &str| world.agent.echo(if to.contains(':') { "fd77:1::2" } else { "10.77.1.2" }, to);
        assert!(far.iter().chain(&near).all(|to| echo(to)), "without the fence all answer");
        let before = world.leaked();
        let _helper = fenced(&world);
        for (to, answered) in far.map(|to| (to, false)).into_iter().chain(near.map(|to| (to, true))) {
            assert_eq!(echo(to), answered, "{to}");
        }
        for (from, to) in [("0.0.0.0:0", "93.184.216.34:123"), ("[::]:0", "[2606:2800:220:1::34]:123")] {
            let error = world.agent.try_udp(from, to).unwrap_err();
            assert!(error.raw_os_error().is_some_and(|e| e != nix::libc::EAGAIN), "{to}: {error}");
        }
        assert_eq!(world.leaked(), before);
    }

    #[test]
    fn by_10_a_source_of_another_interface_is_dropped() {
        let world = World::new();
        let _helper = fenced(&world);
        let door = Door::open(&world.gate, 15001, None);
        world.serve_udp(&world.gate, "10.77.1.1:53", "dns");
        for stolen in ["10.77.2.9", "93.184.216.77", "203.0.113.5"] {
            world.agent.ip(&format!("addr add {stolen}/32 dev lo"));
            let error = world.agent.try_udp(&format!("{stolen}:0"), "10.77.1.1:53").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{stolen}: {error}");
        }
        world.agent.ip("addr add fd77:2::9/128 dev lo nodad");
        assert!(!world.agent.echo("fd77:2::9", "fd77:1::1"));
        let (_, text) = world.gate.exec(&["nft", "list", "chain", "inet", "outgate_fence", "raw_pre"]);
        let dropped = text.lines().find(|line| line.contains("oif missing")).unwrap();
        assert!(!dropped.contains("packets 0 "), "{dropped}");
        // The agent's own source still works.
        assert_eq!(world.agent.try_udp("10.77.1.2:0", "10.77.1.1:53").unwrap(), "dns");
        assert!(door.refused().is_empty());
        assert_eq!(world.leaked(), 0);
    }

    #[test]
    fn by_13_only_the_doors_of_the_gate_are_open_to_an_agent() {
        let world = World::new();
        let _helper = fenced(&world);
        for port in [22, 53, 3128, 9090] {
            world.serve_tcp(&world.gate, &format!("0.0.0.0:{port}"), "gate");
        }
        assert_eq!(world.agent.hear("10.77.1.1:53"), "gate");
        assert_eq!(world.agent.hear("10.77.1.1:3128"), "gate");
        for port in [22, 9090] {
            assert_eq!(world.agent.try_tcp(&format!("10.77.1.1:{port}")), Attempt::Refused, "{port}");
        }
        let elsewhere = world.agent.try_each(&["93.184.216.2:3128", "10.77.2.1:3128"]);
        assert_eq!(elsewhere, [Attempt::TimedOut, Attempt::TimedOut]);
        // Others of the gate's neighbours are not our business.
        assert_eq!(world.internet.hear("93.184.216.2:22"), "gate");
    }

    #[test]
    fn by_18_agents_do_not_reach_each_other() {
        let world = World::new();
        world.serve_tcp(&world.other, "0.0.0.0:8080", "other");
        assert_eq!(world.agent.hear("10.77.2.2:8080"), "other");
        let _helper = fenced(&world);
        assert_eq!(world.agent.try_tcp("10.77.2.2:8080"), Attempt::Refused);
        assert_eq!(world.agent.try_tcp("[fd77:2::2]:8080"), Attempt::Refused);
    }

    #[test]
    fn by_20_and_by_21_a_neighbour_on_the_uplink_reaches_neither_agents_nor_doors() {
        let world = World::new();
        let _door = Door::open(&world.gate, 15001, None);
        world.serve_tcp(&world.agent, "0.0.0.0:8080", "agent");
        world.serve_tcp(&world.gate, "10.77.1.1:53", "dns");
        world.serve_tcp(&world.gate, "10.77.1.1:3128", "proxy");
        world.serve_udp(&world.gate, "10.77.1.1:53", "dns");
        // Binding to the host-only address is no fence: Linux answers on any interface.
        assert_eq!(world.internet.hear("10.77.1.1:53"), "dns");
        assert_eq!(world.internet.hear("10.77.1.2:8080"), "agent");
        let _helper = fenced(&world);
        let targets = ["10.77.1.1:53", "10.77.1.1:15001", "10.77.1.1:3128", "10.77.1.2:8080", "[fd77:1::1]:15001"];
        for (attempt, target) in world.internet.try_each(&targets).into_iter().zip(targets) {
            assert_eq!(attempt, Attempt::TimedOut, "{target}");
        }
        assert!(world.internet.try_udp("0.0.0.0:0", "10.77.1.1:53").is_err());
        assert_eq!(world.internet.try_tcp("93.184.216.2:15001"), Attempt::Refused);
    }
}

mod lifetime {
    use super::*;

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
}

mod processes {
    use super::*;

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
}
