//! Workloads that are attached while the gate runs: namespaces with the gate's listeners in them.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::dns::{A, NXDOMAIN, ask};
use crate::support::gate::{Gate, write_files};
use crate::support::ns::Namespace;
use crate::support::*;

pub const WAIT: Duration = Duration::from_secs(3);
/// A port that no rule opens, where the host beyond a pod's own uplink listens.
pub const DIRECT: u16 = 8080;

pub const TWO: &str = concat!(
    r#"
[[client]]
name = "red"
attached = true

[[client]]
name = "blue"
attached = true

[[rule]]
name = "red's"
clients = ["red"]
hosts = ["api.good.test"]
action = "allow"

[[rule]]
name = "blue's"
clients = ["blue"]
hosts = ["files.good.test"]
action = "allow"
"#,
    plain!()
);

pub fn bed() -> Bed {
    let setup = Setup { policy: TWO.into(), steer: "attach = true\n", forwarding: true, ..Setup::default() };
    Bed::with(&setup)
}

/// Runs the program as root beside the gate: whether it succeeded, and what it said.
pub fn outgate(bed: &Bed, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outgate"));
    command.args(words).arg("-c").arg(bed.gate.dir.join("outgate.toml"));
    let done = bed.world.gate.run(move || command.output()).unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

pub fn done(bed: &Bed, words: &[&str]) -> String {
    let (good, said) = outgate(bed, words);
    assert!(good, "outgate {words:?}: {said}");
    said
}

/// A namespace with an uplink of its own that leads past the gate. All pods have the same addresses.
pub struct Pod {
    pub inside: Namespace,
    pub outside: Namespace,
    /// A process that lives in it, as a container's first.
    process: Option<Child>,
}

impl Pod {
    pub fn new() -> Self {
        let [inside, outside] = ["pod", "outside"].map(Namespace::new);
        outside.ip(&format!(
            "link set lo up\naddr add {PUB1}/32 dev lo\naddr add {PUB1_V6}/128 dev lo\n\
             link add pod0 type veth peer name eth0 netns {}\n\
             addr add 10.88.0.1/24 dev pod0\naddr add fd88::1/64 dev pod0 nodad\nlink set pod0 up",
            inside.path()
        ));
        inside.ip(
            "link set lo up\naddr add 10.88.0.2/24 dev eth0\naddr add fd88::2/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 10.88.0.1\nroute add default via fd88::1",
        );
        outside.sh(
            "nft -f - <<'RULES'\ntable inet watch { counter leaked { }\n chain pre { type filter hook prerouting \
             priority raw; iifname \"lo\" return; icmpv6 type { 130-137, 143 } return; counter name leaked; }\n}\nRULES",
        );
        let mut sleep = Command::new("sleep");
        sleep.arg("600").stdin(Stdio::null());
        let process = inside.run(move || sleep.spawn()).unwrap();
        Self { inside, outside, process: Some(process) }
    }

    pub fn pid(&self) -> String {
        self.process.as_ref().unwrap().id().to_string()
    }

    /// Packets that went past the gate.
    pub fn leaked(&self) -> u64 {
        let text = self.outside.sh("nft list counter inet watch leaked");
        text.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse().unwrap()
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }

    fn https(&self, bed: &Bed, ip: IpAddr, name: &str) -> Result<Wire, End> {
        Wire::plain(self.inside.connect(at(ip, 443), WAIT)?).secure(&bed.tls(name))
    }

    fn fetches(&self, bed: &Bed, ip: IpAddr, name: &str) -> bool {
        let answer = self.https(bed, ip, name).ok().and_then(|mut wire| wire.ask(get(name, "/")));
        answer.is_some_and(|answer| answer.status == 200)
    }

    fn fetches_plain(&self) -> bool {
        let wire = self.inside.connect(at(PUB1, 80), WAIT).ok().map(Wire::plain);
        wire.and_then(|mut wire| wire.ask(get("plain.good.test", "/")))
            .is_some_and(|answer| answer.status == 200)
    }

    fn resolves(&self, name: &str) -> bool {
        let reply = ask(&self.inside, at(EVIL, 53), name, A, false).unwrap();
        assert!(reply.code == NXDOMAIN || !reply.addresses.is_empty(), "{name}: {}", reply.code);
        reply.code != NXDOMAIN
    }

    /// Tries all that is no business of the gate, and expects that none of it gets anywhere.
    pub fn nothing_leaves(&self) {
        let before = self.leaked();
        for to in [at(PUB1, DIRECT), at(PUB1_V6, DIRECT), at(PUB1, 22), at(EVIL, 853)] {
            let begun = std::time::Instant::now();
            assert!(self.inside.connect(to, WAIT).is_err(), "{to}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{to}: a refusal, not a time-out");
        }
        for (from, to) in [("0.0.0.0:0", at(PUB1, 4433)), ("[::]:0", at(PUB1_V6, 4433))] {
            self.inside.udp(from.parse().unwrap()).send_to(b"a datagram", to).ok();
        }
        assert_eq!(self.leaked(), before, "packets went past the gate");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.end();
    }
}

/// The client of the configuration is who it was.
pub fn agent_is_served(bed: &Bed) {
    assert_eq!(bed.tcp(PUB1, 80).ask(get("plain.good.test", "/")).unwrap().status, 200);
    bed.gate.wait_for_record("the agent's", |record| record.text("client") == "agent");
}

fn decisions_of(bed: &Bed, client: &str) -> usize {
    bed.gate.records().iter().filter(|record| record.is_decision() && record.text("client") == client).count()
}

#[test]
fn pl_09_by_18_namespaces_with_the_same_addresses_have_each_their_own_client() {
    let bed = bed();
    let (red, blue) = (Pod::new(), Pod::new());
    let direct = red.outside.listen(at(PUB1, DIRECT));
    let mut open =
        red.inside.connect(at(PUB1, DIRECT), WAIT).expect("without the gate nothing stands in the way");
    let said = done(&bed, &["attach", "--client", "red", "--pid", &red.pid()]);
    assert!(said.contains("as client red") && said.contains("warning"), "{said}");
    // What was open before has no exception.
    let before = red.leaked();
    std::io::Write::write_all(&mut open, b"late").ok();
    assert_eq!(red.leaked(), before);
    drop((open, direct));
    done(&bed, &["attach", "--client", "blue", "--netns", &blue.inside.path()]);
    let mark = bed.mark();
    assert!(red.fetches(&bed, PUB1, "api.good.test") && red.fetches(&bed, PUB1_V6, "api.good.test"));
    assert!(blue.fetches(&bed, PUB2, "files.good.test") && blue.fetches(&bed, PUB2_V6, "files.good.test"));
    assert!(!red.fetches(&bed, PUB2, "files.good.test"), "blue's");
    assert!(!blue.fetches(&bed, PUB1, "api.good.test"), "red's");
    assert!(red.fetches_plain() && blue.fetches_plain());
    let taps = bed.since(mark, 8);
    for (record, client) in
        taps.decisions.iter().zip(["red", "red", "blue", "blue", "red", "blue", "red", "blue"])
    {
        assert_eq!(record.text("client"), client, "{}", record.0);
        assert!(record.text("source").contains("88::2") || record.text("source").starts_with("10.88.0.2:"));
    }
    // The pool keeps them apart: the same host, the same rule, and a connection each.
    let plain =
        taps.connections.iter().filter(|seen| seen.bytes().starts_with(b"GET / HTTP/1.1\r\nhost: plain"));
    let all: Vec<_> = taps.connections.iter().map(|seen| seen.text()).collect();
    assert_eq!(plain.count().max(all.iter().filter(|t| t.contains("plain.good.test")).count()), 2, "{all:?}");
    // Each is told its own names, by any server it asks.
    assert!(red.resolves("api.good.test") && !red.resolves("files.good.test"));
    assert!(blue.resolves("files.good.test") && !blue.resolves("api.good.test"));
    assert_eq!(ask(&red.inside, at(EVIL, 53), "api.good.test", A, true).unwrap().addresses, [PUB1]);
    red.nothing_leaves();
    blue.nothing_leaves();
    agent_is_served(&bed);
}

#[test]
fn rs_01_the_connections_of_one_attached_client_do_not_count_against_another() {
    let setup = Setup {
        policy: TWO.into(),
        steer: "attach = true\n",
        limits: "flows_per_client = 2",
        ..Setup::default()
    };
    let bed = Bed::with(&setup);
    let (red, blue) = (Pod::new(), Pod::new());
    for (pod, client) in [(&red, "red"), (&blue, "blue")] {
        done(&bed, &["attach", "--client", client, "--pid", &pod.pid()]);
    }
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::plain(red.inside.connect(at(PUB1, 80), WAIT).unwrap());
        assert_eq!(wire.ask(get("plain.good.test", "/")).unwrap().status, 200);
        held.push(wire);
    }
    assert!(!red.fetches_plain(), "a third connection");
    assert!(blue.fetches_plain());
}

#[test]
fn a_detached_namespace_reaches_nothing_until_it_is_set_free() {
    let bed = bed();
    let pod = Pod::new();
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    let mut open = pod.https(&bed, PUB1, "api.good.test").unwrap();
    assert_eq!(open.ask(get("api.good.test", "/")).unwrap().status, 200);
    assert!(done(&bed, &["detach", "red"]).contains("still fenced in"));
    assert!(open.ask(get("api.good.test", "/")).is_none(), "a flow that was open has ended");
    assert!(!pod.fetches(&bed, PUB1, "api.good.test") && !pod.fetches_plain());
    pod.nothing_leaves();
    assert!(done(&bed, &["attach", "--list"]).contains("detached"));
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    assert!(pod.fetches(&bed, PUB1, "api.good.test"));
    assert!(done(&bed, &["detach", "--free", "red"]).contains("FREE"));
    let _direct = pod.outside.listen(at(PUB1, DIRECT));
    assert!(pod.inside.connect(at(PUB1, DIRECT), WAIT).is_ok());
    let (good, said) = outgate(&bed, &["detach", "red"]);
    assert!(!good && said.contains("nothing of the name"), "{said}");
    for event in ["attach", "detach", "free"] {
        bed.gate.wait_for_record(event, |record| {
            record.text("event") == event && record.text("attachment") == "red"
        });
    }
}

#[test]
fn what_must_not_be_attached_is_refused_with_a_way_out() {
    let bed = bed();
    let pod = Pod::new();
    let pid = pod.pid();
    let refused = |words: &[&str], why: &str| {
        let (good, said) = outgate(&bed, words);
        assert!(!good && said.contains(why), "{words:?}: {said}");
    };
    refused(&["attach", "--client", "agent", "--pid", &pid], "no client \"agent\" with attached = true");
    refused(&["attach", "--client", "red", "--pid", &bed.gate.pid().to_string()], "the gate's own namespace");
    refused(&["attach", "--client", "red", "--pid", "4194304"], "there is no process");
    refused(&["attach", "--client", "red", "--netns", "/run/netns/none"], "cannot be opened");
    refused(&["attach", "--client", "red", "--interface", "none0"], "there is no interface none0");
    refused(&["attach", "--client", "red", "--interface", "agent0"], "stands in [steer] interfaces already");
    done(&bed, &["attach", "--client", "red", "--pid", &pid]);
    refused(&["attach", "--client", "red", "--pid", &pid], "attached already");
    // One namespace belongs to one client.
    refused(&["attach", "--client", "blue", "--pid", &pid], "belongs to the attachment \"red\"");
    assert!(pod.fetches(&bed, PUB1, "api.good.test") && decisions_of(&bed, "blue") == 0);
    // The name of one that is fenced in is not given to another.
    let other = Pod::new();
    done(&bed, &["detach", "red"]);
    refused(&["attach", "--client", "blue", "--pid", &pid], "belongs to the attachment \"red\"");
    refused(
        &["attach", "--client", "red", "--pid", &other.pid()],
        "free it first: outgate detach --free red",
    );
    pod.nothing_leaves();
    done(&bed, &["attach", "--client", "red", "--pid", &pid]);
    assert!(pod.fetches(&bed, PUB1, "api.good.test"));
    let without = Bed::new(P1);
    let (good, said) = outgate(&without, &["attach", "--client", "red", "--pid", &pid]);
    assert!(!good && said.contains("set attach = true in [steer]"), "{said}");
}

#[test]
fn a_restarted_gate_takes_up_what_was_attached_and_nothing_leaves_meanwhile() {
    let mut bed = bed();
    let (pod, mut gone, held) = (Pod::new(), Pod::new(), Pod::new());
    done(&bed, &["attach", "--client", "blue", "--name", "held", "--pid", &held.pid()]);
    done(&bed, &["detach", "held"]);
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    done(&bed, &["attach", "--client", "blue", "--pid", &gone.pid()]);
    bed.gate.kill();
    assert!(!pod.fetches(&bed, PUB1, "api.good.test") && !pod.fetches_plain());
    pod.nothing_leaves();
    gone.end();
    bed.gate = Gate::run(&bed.world.gate, &bed.gate.dir, &[]);
    assert!(pod.fetches(&bed, PUB1, "api.good.test") && pod.resolves("api.good.test"));
    pod.nothing_leaves();
    gone.nothing_leaves();
    assert!(bed.gate.stderr().contains("attachment blue is not taken up again"), "{}", bed.gate.stderr());
    let list = done(&bed, &["attach", "--list"]);
    assert_eq!((list.matches("red").count(), list.matches("blue").count()), (2, 1), "{list}");
    assert!(list.contains("held") && list.contains("detached"), "{list}");
    // What was detached is fenced still, and can be set free still.
    assert!(!held.fetches_plain());
    held.nothing_leaves();
    done(&bed, &["detach", "--free", "held"]);
    let _direct = held.outside.listen(at(PUB1, DIRECT));
    assert!(held.inside.connect(at(PUB1, DIRECT), WAIT).is_ok());
}

#[test]
fn an_attachment_ends_with_its_process_and_its_name_is_free_again() {
    let bed = bed();
    let (mut pod, other) = (Pod::new(), Pod::new());
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    pod.end();
    bed.gate.wait_for_record("the end", |record| record.text("event") == "attachment_gone");
    // Who is left in there still reaches nothing.
    assert!(!pod.fetches_plain());
    pod.nothing_leaves();
    done(&bed, &["attach", "--client", "red", "--pid", &other.pid()]);
    assert!(other.fetches(&bed, PUB1, "api.good.test"));
}

#[test]
fn a_reload_reaches_attached_namespaces_their_ports_and_their_clients() {
    let bed = bed();
    let pod = Pod::new();
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    let ports = || pod.inside.sh("nft list set inet outgate_inside redirect_ports");
    assert!(!ports().contains("2222"));
    let raw = "[[rule]]\nname = \"raw\"\nhosts = [\"api.good.test\"]\nscheme = \"tcp\"\nports = [2222]\naction = \"tunnel\"\n";
    bed.gate.write_policy(&format!("{TWO}\n{raw}"));
    done(&bed, &["reload"]);
    assert!(ports().contains("2222"), "{}", ports());
    assert!(pod.fetches_plain());
    // A client that is no longer to be attached is nobody.
    bed.gate.write_policy(&TWO.replacen("attached = true", "source = [\"10.88.0.2\"]", 1));
    done(&bed, &["reload"]);
    assert!(!pod.fetches_plain());
    bed.gate.wait_for_record("nobody's", |record| record.text("reason") == "unknown_client");
    bed.gate.write_policy(TWO);
    done(&bed, &["reload"]);
    assert!(pod.fetches_plain());
}

#[test]
fn an_attachment_by_path_ends_when_the_path_leads_elsewhere() {
    let bed = bed();
    let pod = Pod::new();
    bed.world.gate.sh(format!(
        "mount --make-rprivate /; mount -t tmpfs -o mode=755 none /mnt; : > /mnt/pod; mount --bind {} /mnt/pod",
        pod.inside.path()
    ));
    done(&bed, &["attach", "--client", "red", "--netns", "/mnt/pod"]);
    assert!(pod.fetches_plain());
    bed.world.gate.sh("umount /mnt/pod");
    bed.gate.wait_for_record("the end", |record| record.text("event") == "attachment_gone");
    assert!(!pod.fetches_plain());
    pod.nothing_leaves();
}

#[test]
fn a_gate_with_no_door_of_its_own_serves_attached_namespaces() {
    let world = World::new();
    let dir = world.dir.path();
    write_files(dir, &Setup { policy: TWO.into(), ..Setup::default() });
    let config = "policies = \"policies\"\n[resolver]\nupstreams = [\"93.184.216.53\"]\n\
                  [upstream]\nroots = \"origin-ca.pem\"\n[steer]\nattach = true\n";
    std::fs::write(dir.join("outgate.toml"), config).unwrap();
    let gate = Gate::run(&world.gate, dir, &[]);
    let bed = Bed { gate, world };
    let pod = Pod::new();
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    assert!(pod.fetches(&bed, PUB1, "api.good.test") && pod.fetches_plain());
    pod.nothing_leaves();
    assert!(
        !bed.world.gate.sh("nft list tables").contains("outgate"),
        "the gate's own namespace is as it was"
    );
}

#[test]
fn root_inside_cannot_take_the_table_away_while_the_gate_runs() {
    let bed = bed();
    let pod = Pod::new();
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    pod.inside.sh("! nft delete table inet outgate_inside 2>/dev/null; nft flush ruleset || true");
    pod.nothing_leaves();
    assert!(pod.fetches(&bed, PUB1, "api.good.test"));
    // A second network, as `docker network connect` brings it, opens no way out.
    pod.outside.ip(&format!(
        "link add pod1 type veth peer name eth1 netns {}\naddr add 10.89.0.1/24 dev pod1\nlink set pod1 up",
        pod.inside.path()
    ));
    pod.inside
        .ip("addr add 10.89.0.2/24 dev eth1\nlink set eth1 up\nroute replace default via 10.89.0.1 dev eth1");
    pod.nothing_leaves();
}

#[test]
fn attaching_gives_no_process_a_capability() {
    let bed = bed();
    let pod = Pod::new();
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    let status = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let none = "0000000000000000";
    let daemon = status(bed.gate.pid());
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh"] {
        assert!(daemon.contains(&format!("{set}:\t{none}")), "{daemon}");
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", bed.gate.pid())).unwrap();
    let helper: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
    let helper = status(helper);
    // CAP_NET_ADMIN alone.
    assert!(
        helper.contains("CapEff:\t0000000000001000") && helper.contains("CapBnd:\t0000000000000000"),
        "{helper}"
    );
    // And the workload has what it had.
    assert_eq!(status(pod.process.as_ref().unwrap().id() as i32).matches("NoNewPrivs:\t0").count(), 1);
}
