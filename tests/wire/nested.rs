//! Docker behind the gate and inside the agent: real engines in the test's namespaces, containers and builds that know
//! of no proxy. Nothing is pulled: the image is made of files of this machine.

use std::path::Path;

use super::attach::{DIRECT, Pod, WAIT, bed, done};
use super::attach_interfaces::behind;
use crate::support::docker::{Docker, tree};
use crate::support::ns::Namespace;
use crate::support::*;

/// What answers on every port of 53 is the gate.
const RESOLVER: &str = "93.184.216.66";
const IMAGE: &str = "outgate-test";
const FETCH: &str = "curl -sS --max-time 20 http://plain.good.test/";

fn engine<'a>(host: &'a Namespace, dir: &Path) -> Docker<'a> {
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    with_image(Docker::bridged(host, dir, RESOLVER), dir)
}

fn with_image<'a>(docker: Docker<'a>, dir: &Path) -> Docker<'a> {
    let folder = dir.join("image");
    tree(&folder, &[("busybox", "bin/busybox"), ("curl", "usr/bin/curl")]);
    for name in ["sh", "sleep", "env", "grep"] {
        std::os::unix::fs::symlink("/bin/busybox", folder.join("bin").join(name)).unwrap();
    }
    docker.import(&folder, IMAGE);
    docker
}

/// A folder of its own for each engine, beside the gate's.
fn scratch(bed: &Bed) -> std::path::PathBuf {
    let dir = bed.gate.dir.join("engine");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Containers and builds of both builders reach the gate as `client`, and nothing else.
fn containers_reach_the_gate_alone(bed: &Bed, docker: &Docker<'_>, dir: &Path, client: &str) {
    let mark = bed.mark();
    let hello = "hello from plain.good.test\n";
    assert_eq!(docker.docker(&["run", "--rm", IMAGE, "sh", "-c", FETCH]), hello);
    let ca = format!("{}:/ca.pem:ro", bed.ca_file().display());
    let https =
        ["run", "--rm", "-v", &ca, IMAGE, "curl", "-sS", "--cacert", "/ca.pem", "https://api.good.test/"];
    assert_eq!(docker.docker(&https), "hello from api.good.test\n");
    let other = format!("! curl -sS --max-time 5 http://93.184.216.10:{DIRECT}/ && ! env | grep -i proxy");
    docker.docker(&["run", "--rm", IMAGE, "sh", "-c", &other]);
    std::fs::write(dir.join("Dockerfile"), format!("FROM {IMAGE}\nRUN {FETCH} && {other}\n")).unwrap();
    let context = dir.join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::rename(dir.join("Dockerfile"), context.join("Dockerfile")).unwrap();
    let context = context.to_str().unwrap();
    for builder in ["0", "1"] {
        let build = ["build", "--no-cache", context];
        docker.run("docker", &build, &[("DOCKER_BUILDKIT", builder)]);
    }
    let taps = bed.since(mark, 4);
    for record in &taps.decisions {
        assert_eq!((record.text("verdict"), record.text("client")), ("allow", client), "{}", record.0);
    }
}

#[test]
fn by_30_docker_inside_an_attached_namespace_reaches_the_gate_alone() {
    let bed = bed();
    let (pod, dir) = (Pod::new(), scratch(&bed));
    done(&bed, &["attach", "--client", "red", "--pid", &pod.pid()]);
    let before = pod.leaked();
    let docker = engine(&pod.inside, &dir);
    containers_reach_the_gate_alone(&bed, &docker, &dir, "red");
    // Also on a network that was made after the attachment.
    docker.docker(&["network", "create", "later"]);
    docker.docker(&["run", "--rm", "--network", "later", IMAGE, "sh", "-c", FETCH]);
    assert_eq!(pod.leaked(), before, "packets went past the gate");
}

#[test]
fn by_30_docker_behind_an_attached_interface_reaches_the_gate_alone() {
    let bed = bed();
    let (workload, dir) = (behind(&bed, "veth9", 9), scratch(&bed));
    done(&bed, &["attach", "--client", "red", "--interface", "veth9"]);
    let docker = engine(&workload, &dir);
    containers_reach_the_gate_alone(&bed, &docker, &dir, "red");
}

#[test]
fn a_container_is_attached_by_its_pid_and_keeps_no_capability() {
    let bed = bed();
    let (host, dir) = (Pod::new(), scratch(&bed));
    let direct = host.outside.listen(at(PUB1, DIRECT));
    host.inside.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    let docker = with_image(Docker::start(&host.inside, &dir, RESOLVER), &dir);
    // On a network of its own a container has Docker's resolver, which asks on its behalf.
    docker.docker(&["network", "create", "net1"]);
    let run = ["run", "-d", "--network=net1", "--cap-drop=ALL", "--user=1000"];
    for name in ["one", "two"] {
        docker.docker(&[&run[..], &["--name", name, IMAGE, "sleep", "600"]].concat());
    }
    // The server there says nothing: who reaches it waits (28), who is refused does not (7). See curl(1).
    let ends = |code: u8| format!("curl -s --max-time 1 http://93.184.216.10:{DIRECT}/; [ $? = {code} ]");
    let (out, refused) = (ends(28), ends(7));
    docker.docker(&["exec", "one", "sh", "-c", &out]);
    let pid = docker.docker(&["inspect", "-f", "{{.State.Pid}}", "one"]).trim().to_owned();
    let said = done(&bed, &["attach", "--client", "red", "--pid", &pid]);
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(docker.docker(&["exec", "one", "sh", "-c", FETCH]), "hello from plain.good.test\n");
    bed.gate.wait_for_record("red's", |record| record.is_decision() && record.text("client") == "red");
    docker.docker(&["exec", "one", "sh", "-c", &refused]);
    // Its neighbour is no business of ours.
    docker.docker(&["exec", "two", "sh", "-c", &out]);
    assert!(host.inside.connect(at(PUB1, DIRECT), WAIT).is_ok());
    drop(direct);
    docker.docker(&["rm", "-f", "one", "two"]);
    bed.gate.wait_for_record("the end", |record| record.text("event") == "attachment_gone");
}
