//! Interfaces and bridges of the gate's own namespace that are attached while it runs.

use std::net::IpAddr;
use std::time::Duration;

use super::attach::{TWO, WAIT, agent_is_served, bed, done, outgate};
use crate::support::dns::{A, NXDOMAIN, ask};
use crate::support::gate::{Gate, tproxy_everywhere, wait_until};
use crate::support::ns::Namespace;
use crate::support::*;

const SOON: Duration = Duration::from_secs(10);

/// A workload behind an interface of the gate, which its configuration does not name.
pub fn behind(bed: &Bed, name: &str, subnet: u8) -> Namespace {
    let workload = Namespace::new("workload");
    bed.world.gate.ip(&format!(
        "link add {name} type veth peer name eth0 netns {}\naddr add 10.77.{subnet}.1/24 dev {name}\n\
         addr add fd77:{subnet}::1/64 dev {name} nodad\nlink set {name} up",
        workload.path()
    ));
    workload.ip(&format!(
        "link set lo up\naddr add 10.77.{subnet}.2/24 dev eth0\naddr add fd77:{subnet}::2/64 dev eth0 nodad\n\
         link set eth0 up\nroute add default via 10.77.{subnet}.1\nroute add default via fd77:{subnet}::1"
    ));
    workload
}

fn fetches(bed: &Bed, workload: &Namespace, ip: IpAddr) -> bool {
    let wire = workload.connect(at(ip, 443), WAIT).map(Wire::plain).map_err(End::from);
    let wire = wire.and_then(|wire| wire.secure(&bed.tls("api.good.test")));
    wire.ok()
        .and_then(|mut wire| wire.ask(get("api.good.test", "/")))
        .is_some_and(|answer| answer.status == 200)
}

/// What opens a QUIC connection is answered with versions that nobody speaks.
fn is_told_to_take_tcp(workload: &Namespace, ip: IpAddr) -> bool {
    let any = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = workload.udp(any.parse().unwrap());
    socket.connect(at(ip, 443)).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let mut initial = b"\xc0\0\0\0\x01\x08the-dest\x03src".to_vec();
    initial.resize(1200, 0x55);
    socket.send(&initial).unwrap();
    let mut answer = [0; 64];
    socket.recv(&mut answer).is_ok() && answer[1..5] == [0; 4]
}

#[test]
fn by_18_what_comes_from_an_attached_interface_by_tproxy_is_its_clients() {
    let setup = Setup {
        policy: TWO.into(),
        steer: "attach = true\n",
        tproxy: true,
        forwarding: true,
        ..Setup::default()
    };
    let bed = Bed::with(&setup);
    let workload = behind(&bed, "veth9", 9);
    done(&bed, &["attach", "--client", "red", "--interface", "veth9"]);
    assert!(fetches(&bed, &workload, PUB1) && fetches(&bed, &workload, PUB1_V6));
    bed.gate.wait_for_record("red's", |record| record.is_decision() && record.text("client") == "red");
    assert!(is_told_to_take_tcp(&workload, PUB1));
    assert!(workload.connect(at(EVIL, 8443), WAIT).is_err());
    agent_is_served(&bed);
    done(&bed, &["detach", "red"]);
    let mark = bed.mark();
    assert!(!fetches(&bed, &workload, PUB1) && !fetches(&bed, &workload, PUB1_V6));
    assert!(workload.connect(at(EVIL, 8443), WAIT).is_err());
    bed.since(mark, 2).quiet_wan();
}

#[test]
fn by_18_an_interface_is_attached_and_detached_while_flows_run() {
    let mut bed = bed();
    let workload = behind(&bed, "veth9", 9);
    let fetch = |bed: &Bed, ip: IpAddr| fetches(bed, &workload, ip);
    let reaches = |port: u16| workload.connect(at(EVIL, port), WAIT).is_ok();
    assert!(reaches(443), "what is not attached is not fenced: the gate's kernel carries its packets");
    let mut running = bed.tcp(PUB1, 80);
    assert_eq!(running.ask(get("plain.good.test", "/")).unwrap().status, 200);
    let said = done(&bed, &["attach", "--client", "red", "--interface", "veth9"]);
    assert!(said.contains("interface veth9"), "{said}");
    assert_eq!(running.ask(get("plain.good.test", "/")).unwrap().status, 200, "a flow that was open goes on");
    // Its exit code says that the kernel has what is configured and attached.
    done(&bed, &["fence", "show", "--live"]);
    assert!(fetch(&bed, PUB1) && fetch(&bed, PUB1_V6));
    assert!(is_told_to_take_tcp(&workload, PUB1) && is_told_to_take_tcp(&workload, PUB1_V6));
    assert_eq!(ask(&workload, at(EVIL, 53), "api.good.test", A, false).unwrap().addresses, [PUB1]);
    assert_eq!(ask(&workload, at(EVIL, 53), "files.good.test", A, false).unwrap().code, NXDOMAIN);
    let closed = |bed: &Bed| {
        let mark = bed.mark();
        for port in [22, 8443] {
            assert!(!reaches(port), "{port}");
        }
        workload.udp("0.0.0.0:0".parse().unwrap()).send_to(b"x", at(EVIL, 4433)).ok();
        bed.since(mark, 0).quiet_wan();
    };
    closed(&bed);
    bed.gate.wait_for_record("red's", |record| record.is_decision() && record.text("client") == "red");
    let neighbour = bed.world.agent.listen(at(AGENT, 8080));
    assert!(workload.connect(at(AGENT, 8080), WAIT).is_err(), "another client, directly");
    assert!(bed.world.agent.connect(at("10.77.9.2".parse().unwrap(), 8080), WAIT).is_err());
    let mut through = Wire::plain(workload.connect(at(PUB1, 80), WAIT).unwrap());
    assert_eq!(
        through.ask(get("10.77.1.2", "/")).map(|answer| answer.status),
        Some(403),
        "another, through the gate"
    );
    drop(neighbour);
    // The other clients are who they were.
    agent_is_served(&bed);
    bed.gate.kill();
    assert!(!fetch(&bed, PUB1));
    bed.gate = Gate::run(&bed.world.gate, &bed.gate.dir, &[]);
    assert!(fetch(&bed, PUB1), "taken up again");
    closed(&bed);
    done(&bed, &["detach", "red"]);
    assert!(!fetch(&bed, PUB1) && !fetch(&bed, PUB1_V6));
    closed(&bed);
    done(&bed, &["detach", "--free", "red"]);
    assert!(reaches(443));
    assert_eq!(bed.tcp(PUB1, 80).ask(get("plain.good.test", "/")).unwrap().status, 200);
}

#[test]
fn a_bridge_is_attached_with_all_that_is_behind_it() {
    let bed = bed();
    let [one, two] = ["one", "two"].map(Namespace::new);
    bed.world.gate.ip("link add br9 type bridge\naddr add 10.77.9.1/24 dev br9\nlink set br9 up");
    for (workload, last) in [(&one, 2), (&two, 3)] {
        bed.world.gate.ip(&format!(
            "link add port{last} type veth peer name eth0 netns {}\nlink set port{last} master br9 up",
            workload.path()
        ));
        workload.ip(&format!(
            "link set lo up\naddr add 10.77.9.{last}/24 dev eth0\nlink set eth0 up\nroute add default via 10.77.9.1"
        ));
    }
    if tproxy_everywhere() {
        bed.world.gate.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0");
    }
    done(&bed, &["attach", "--client", "red", "--name", "the bridge", "--bridge", "br9"]);
    for workload in [&one, &two] {
        let mut wire = Wire::plain(workload.connect(at(PUB1, 80), WAIT).unwrap());
        assert_eq!(wire.ask(get("plain.good.test", "/")).unwrap().status, 200);
        assert!(workload.connect(at(EVIL, 8443), WAIT).is_err());
    }
    // The bridge goes, and comes again: it is fenced, and nobody's.
    bed.world.gate.ip("link del br9");
    bed.gate.wait_for_record("the end", |record| record.text("event") == "attachment_gone");
    bed.world.gate.ip("link add br9 type bridge\naddr add 10.77.9.1/24 dev br9\nlink set br9 up\n\
         link set port2 master br9 up\nlink set port3 master br9 up");
    let refused = || one.connect(at(EVIL, 8443), WAIT).is_err() && one.connect(at(PUB1, 22), WAIT).is_err();
    assert!(wait_until(SOON, || refused().then_some(())).is_some());
    let mark = bed.mark();
    assert!(one.connect(at(EVIL, 8443), WAIT).is_err());
    bed.since(mark, 0).quiet_wan();
}

#[test]
fn a_gate_that_cannot_tell_what_is_attached_does_not_start_and_lets_nothing_out() {
    let mut bed = bed();
    let workload = behind(&bed, "veth9", 9);
    let reaches = || workload.connect(at(EVIL, 443), WAIT).is_ok();
    done(&bed, &["attach", "--client", "red", "--interface", "veth9"]);
    bed.gate.kill();
    let file = bed.gate.dir.join("attachments.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outgate"));
    command.args(["run", "-c"]).arg(bed.gate.dir.join("outgate.toml"));
    bed.gate = Gate::launch(&bed.world.gate, &bed.gate.dir, command);
    bed.gate.wait_for_words("repair it, or remove it once nothing attached is running");
    let (good, said) = outgate(&bed, &["fence", "show"]);
    assert!(!good && said.contains("repair it"), "{said}");
    assert!(!reaches());
    std::fs::write(&file, &whole).unwrap();
    bed.gate = Gate::run(&bed.world.gate, &bed.gate.dir, &[]);
    assert!(fetches(&bed, &workload, PUB1) && fetches(&bed, &workload, PUB1_V6));
}
