//! A workload's own namespace with the listeners in it: what leaves goes to them or nowhere, for processes there and for
//! containers inside, and no neighbour reaches them.

use nix::libc;
use outgate::steer::inside::{Settings, render};
use outgate::steer::route::Routes;
use outgate::steer::{SteerError, Tables};

use crate::door::Door;
use crate::rules::same_in_the_kernel;
use crate::world::{Attempt, Namespace, World, eventually};

fn settings(uplink: &str) -> Settings {
    Settings {
        uplinks: vec![uplink.into()],
        transparent_port: Some(15001),
        dns_port: Some(15053),
        quic_port: Some(15443),
        redirect_tcp_ports: vec![80, 443],
        exempt_uid: None,
    }
}

fn apply(namespace: &Namespace, settings: &Settings) {
    namespace.inside(|| Tables::open().unwrap().apply_inside(settings).unwrap());
}

/// A namespace without any way out: the default route leads to itself.
fn nowhere(role: &str) -> Namespace {
    let namespace = Namespace::new(role);
    namespace.inside(|| {
        let mut routes = Routes::open().unwrap();
        routes.up("lo").unwrap();
        for net in ["192.0.2.1/32", "fd00:1::1/128"] {
            routes.add_address("lo", net.parse().unwrap()).unwrap();
        }
        for source in ["192.0.2.1", "fd00:1::1"] {
            routes.default_through("lo", source.parse().unwrap()).unwrap();
        }
    });
    namespace
}

#[test]
fn the_kernel_holds_what_the_inside_table_prints() {
    let all = Settings { exempt_uid: Some(990), ..settings("eth0") };
    let none = Settings {
        transparent_port: None,
        dns_port: None,
        quic_port: None,
        redirect_tcp_ports: vec![],
        ..settings("lo")
    };
    for settings in [all, none] {
        same_in_the_kernel(&render(&settings), |tables| tables.apply_inside(&settings).unwrap());
    }
}

#[test]
fn the_inside_table_is_replaced_and_removed_as_a_whole() {
    let namespace = Namespace::new("removed");
    namespace.inside(|| {
        let mut tables = Tables::open().unwrap();
        tables.apply_inside(&settings("eth0")).unwrap();
        tables.apply_inside(&settings("lo")).unwrap();
        assert!(tables.intact().unwrap());
        tables.remove_inside().unwrap();
        assert!(!tables.intact().unwrap());
        let wrong = Settings { dns_port: Some(53), ..settings("lo") };
        assert!(matches!(tables.apply_inside(&wrong), Err(SteerError::Settings(_))));
    });
    assert!(!namespace.exec(&["nft", "list", "table", "inet", "outgate_inside"]).0);
}

#[test]
fn by_02_a_namespace_without_a_way_out_speaks_to_its_listeners_alone() {
    let world = World::new();
    let jail = nowhere("jail");
    apply(&jail, &settings("lo"));
    let _door = Door::open(&jail, 15001, Some("lo"));
    for bound in ["127.0.0.1", "[::1]"] {
        world.serve_udp(&jail, &format!("{bound}:15053"), "dns");
        world.serve_tcp(&jail, &format!("{bound}:15053"), "dns over tcp");
        world.serve_udp(&jail, &format!("{bound}:15443"), "vn");
    }
    assert_eq!(jail.hear("93.184.216.34:80"), "93.184.216.34:80 from 192.0.2.1 on lo");
    assert_eq!(jail.hear("[2606:2800:220:1::34]:443"), "[2606:2800:220:1::34]:443 from fd00:1::1 on lo");
    for server in ["8.8.8.8:53", "127.0.0.53:53", "192.0.2.1:53"] {
        assert_eq!(jail.try_udp("0.0.0.0:0", server).unwrap(), "dns", "{server}");
        assert_eq!(jail.hear(server), "dns over tcp", "{server}");
    }
    assert_eq!(jail.try_udp("[::]:0", "[2606:2800:220:1::53]:53").unwrap(), "dns");
    assert_eq!(jail.try_udp("0.0.0.0:0", "93.184.216.34:443").unwrap(), "vn");
    // A server of the workload's own is its own business.
    world.serve_tcp(&jail, "127.0.0.1:8080", "local");
    assert_eq!(jail.hear("127.0.0.1:8080"), "local");
    // One by one: a last packet of a connection that has ended is refused too, whenever it comes.
    let counted = || jail.inside(|| Tables::open().unwrap().refused_inside().unwrap());
    let refuses = |to: &str, attempt: &dyn Fn()| {
        let (before, begun) = (counted(), std::time::Instant::now());
        attempt();
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{to}: a refusal, not a time-out");
        assert!(counted() > before, "{to}: the refusal is counted");
    };
    for to in ["93.184.216.34:22", "[2606:2800:220:1::34]:22", "169.254.169.254:8080", "127.0.0.1:15001"] {
        refuses(to, &|| assert_eq!(jail.try_tcp(to), Attempt::Refused, "{to}"));
    }
    for (from, to) in [("0.0.0.0:0", "93.184.216.34:123"), ("[::]:0", "[2606:2800:220:1::34]:123")] {
        refuses(to, &|| {
            let error = jail.try_udp(from, to).unwrap_err();
            let known = [libc::EHOSTUNREACH, libc::EACCES, libc::EPERM];
            assert!(known.contains(&error.raw_os_error().unwrap()), "{to}: {error}");
        });
    }
    assert_eq!(world.leaked(), 0);
}

#[test]
fn by_23_dead_listeners_are_a_refusal() {
    let jail = nowhere("dead");
    apply(&jail, &settings("lo"));
    assert_eq!(jail.try_tcp("93.184.216.34:80"), Attempt::Refused);
    let error = jail.try_udp("0.0.0.0:0", "8.8.8.8:53").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
}

/// The agent of the world as a pod that holds a container: `cni0` is its bridge to `inner`.
fn container_in(world: &World) -> Namespace {
    let inner = Namespace::new("inner");
    let (pod, name) = (&world.agent, inner.path().replace("/run/netns/", ""));
    pod.ip("link add cni0 type bridge");
    pod.ip(&format!("link add inner0 type veth peer name eth0 netns {name}"));
    pod.ip("link set inner0 master cni0 up");
    pod.ip("addr add 10.77.1.129/25 dev cni0");
    pod.ip("-6 addr add fd77:1:0:0:1::1/80 dev cni0 nodad");
    pod.ip("link set cni0 up");
    pod.sysctl("net/ipv4/ip_forward", "1");
    pod.sysctl("net/ipv6/conf/all/forwarding", "1");
    inner.ip("addr add 10.77.1.130/25 dev eth0");
    inner.ip("-6 addr add fd77:1:0:0:1::2/80 dev eth0 nodad");
    inner.ip("link set eth0 up");
    inner.ip("route add default via 10.77.1.129");
    inner.ip("-6 route add default via fd77:1:0:0:1::1");
    world.gate.ip("route add 10.77.1.128/25 via 10.77.1.2");
    world.gate.ip("-6 route add fd77:1:0:0:1::/80 via fd77:1::2");
    inner
}

#[test]
fn containers_inside_a_namespace_are_taken_as_well() {
    let world = World::new();
    let inner = container_in(&world);
    world.serve_tcp(&world.internet, "93.184.216.34:80", "internet");
    world.serve_tcp(&world.internet, "93.184.216.34:22", "internet");
    assert_eq!(inner.hear("93.184.216.34:80"), "internet", "without the table nothing stands in the way");
    let before = world.leaked();
    apply(&world.agent, &settings("eth0"));
    let _door = Door::open(&world.agent, 15001, None);
    world.serve_udp(&world.agent, "10.77.1.129:15053", "dns");
    assert_eq!(inner.hear("93.184.216.34:80"), "93.184.216.34:80 from 10.77.1.130 on cni0");
    assert_eq!(
        inner.hear("[2606:2800:220:1::34]:443"),
        "[2606:2800:220:1::34]:443 from fd77:1::1:0:0:2 on cni0"
    );
    assert_eq!(world.agent.hear("93.184.216.34:80"), "93.184.216.34:80 from 10.77.1.2 on lo");
    assert_eq!(inner.try_udp("0.0.0.0:0", "8.8.8.8:53").unwrap(), "dns");
    for who in [&inner, &world.agent] {
        assert_eq!(
            who.try_each(&["93.184.216.34:22", "[2606:2800:220:1::34]:22"]),
            [const { Attempt::Refused }; 2]
        );
        assert!(who.try_udp("0.0.0.0:0", "93.184.216.34:123").is_err());
    }
    // What stays inside is the workload's own business.
    world.serve_tcp(&inner, "0.0.0.0:80", "inner");
    assert_eq!(world.agent.hear("10.77.1.130:80"), "inner");
    assert_eq!(world.leaked(), before);
}

#[test]
fn by_21_a_neighbour_does_not_reach_the_listeners_inside() {
    let world = World::new();
    apply(&world.agent, &settings("eth0"));
    let _door = Door::open(&world.agent, 15001, None);
    world.serve_udp(&world.agent, "127.0.0.1:15053", "dns");
    world.serve_udp(&world.agent, "10.77.1.2:15053", "dns");
    world.serve_tcp(&world.agent, "0.0.0.0:15053", "dns");
    assert_ne!(world.gate.try_tcp("10.77.1.2:15001"), Attempt::Connected);
    assert_ne!(world.gate.try_tcp("10.77.1.2:15053"), Attempt::Connected);
    assert!(world.gate.try_udp("0.0.0.0:0", "10.77.1.2:15053").is_err());
    assert_eq!(world.agent.try_udp("0.0.0.0:0", "10.77.1.2:53").unwrap(), "dns");
}

#[test]
fn only_the_daemons_user_is_exempt_where_the_daemon_lives_inside() {
    let world = World::new();
    let served = world.serve_tcp(&world.internet, "93.184.216.34:22", "internet");
    let dial = |uid: &str| {
        let dial = "exec 3<>/dev/tcp/93.184.216.34/22 && read -t 2 -u 3 word; echo $word";
        let command = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "bash", "-c", dial];
        world.agent.exec(&command).1.contains("internet")
    };
    apply(&world.agent, &settings("eth0"));
    assert!(!dial("990"));
    apply(&world.agent, &Settings { exempt_uid: Some(990), ..settings("eth0") });
    assert!(dial("990"));
    assert!(!dial("991") && !dial("0"));
    eventually("only the exempt one arrived", || served.load(std::sync::atomic::Ordering::Relaxed) == 1);
}
