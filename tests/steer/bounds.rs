//! What one source may have and do, and that a change of the sets forgets none of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outgate::steer::Settings;

use crate::start_helper;
use crate::world::{Attempt, Namespace, PATIENCE, World, eventually};

fn connect(from: &Namespace, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    from.inside(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap())
}

/// Ends a connection so that the kernel forgets it at once.
fn end(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_source_has_so_many_connections_and_others_have_theirs() {
    let world = World::new();
    let mut helper = start_helper(&world.gate);
    helper.apply(&Settings { flows_per_source: 5, ..World::settings() }).unwrap();
    let _listeners =
        ["0.0.0.0:3128", "[fd77:1::1]:3128"].map(|at| world.gate.inside(|| TcpListener::bind(at).unwrap()));
    for (door, door_of_other) in
        [("10.77.1.1:3128", "10.77.2.1:3128"), ("[fd77:1::1]:3128", "10.77.2.1:3128")]
    {
        let mut held: Vec<_> = (0..5).map(|_| connect(&world.agent, door)).collect();
        for _ in 0..3 {
            assert_eq!(world.agent.try_tcp(door), Attempt::Refused, "{door}");
        }
        assert_eq!(world.other.try_tcp(door_of_other), Attempt::Connected);
        end(held.pop().unwrap());
        eventually("a place is free again", || world.agent.try_tcp(door) == Attempt::Connected);
        held.into_iter().for_each(end);
    }
}

#[test]
fn all_addresses_of_an_ipv6_prefix_are_one_source() {
    let world = World::new();
    let mut helper = start_helper(&world.gate);
    helper.apply(&Settings { flows_per_source: 2, ..World::settings() }).unwrap();
    let _listener = world.gate.inside(|| TcpListener::bind("[fd77:1::1]:3128").unwrap());
    world.agent.ip("addr add fd77:1::99/64 dev eth0 nodad");
    let from = |source: &str| {
        let source: SocketAddr = source.parse().unwrap();
        world.agent.inside(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.bind(&source.into()).unwrap();
            let to: SocketAddr = "[fd77:1::1]:3128".parse().unwrap();
            socket
                .connect_timeout(&to.into(), PATIENCE)
                .map(|()| TcpStream::from(socket))
                .map_err(|e| e.kind())
        })
    };
    let _held = [from("[fd77:1::2]:0").unwrap(), from("[fd77:1::99]:0").unwrap()];
    for source in ["[fd77:1::2]:0", "[fd77:1::99]:0"] {
        assert_eq!(from(source).unwrap_err(), std::io::ErrorKind::ConnectionRefused, "{source}");
    }
}

/// The packets that the rules with these words have counted, in a chain of the fence.
fn counted(world: &World, chain: &str, words: &str) -> u64 {
    let (_, text) = world.gate.exec(&["nft", "list", "chain", "inet", "outgate_fence", chain]);
    let packets = |line: &str| line.split_once("counter packets ")?.1.split(' ').next()?.parse::<u64>().ok();
    text.lines().filter(|line| line.contains(words)).filter_map(packets).sum::<u64>()
}

#[test]
fn a_source_opens_so_many_connections_in_a_second_and_others_do_not_feel_it() {
    for far in ["93.184.216.34:9999", "[2606:2800:220:1::34]:9999"] {
        let world = World::new();
        let mut helper = start_helper(&world.gate);
        helper.apply(&Settings { syns_per_second: 4, ..World::settings() }).unwrap();
        let far: SocketAddr = far.parse().unwrap();
        let flood: Vec<_> = world.agent.inside(|| {
            let open = |_| {
                let socket =
                    socket2::Socket::new(socket2::Domain::for_address(far), socket2::Type::STREAM, None)
                        .unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&far.into());
                socket
            };
            (0..200).map(open).collect()
        });
        // Eight at once, four more in each second that this took.
        let over = counted(&world, "raw_pre", "opens connections too fast");
        assert!((150..=192).contains(&over), "{far}: {over}");
        drop(flood);
        assert_eq!(
            world.other.try_tcp(&far.to_string()),
            Attempt::Refused,
            "the fence's own answer, at once"
        );
        eventually("the source may open again", || world.agent.try_tcp(&far.to_string()) == Attempt::Refused);
        assert_eq!(world.leaked(), 0);
    }
}

#[test]
fn sets_change_while_flows_run_and_nothing_is_forgotten_or_open_meanwhile() {
    let world = World::new();
    let served = world.serve_tcp(&world.internet, "93.184.216.34:9999", "leak");
    let base = Settings { flows_per_source: 3, ..World::settings() };
    let mut helper = start_helper(&world.gate);
    helper.apply(&base).unwrap();
    let listener = world.gate.inside(|| TcpListener::bind("0.0.0.0:3128").unwrap());
    let mut held: Vec<_> = (0..3).map(|_| connect(&world.agent, "10.77.1.1:3128")).collect();
    let (mut there, _) = listener.accept().unwrap();
    there.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(world.other.try_tcp("93.184.216.34:9999"), Attempt::Refused);
    // By the fence, or by the cap, which remembers a refused one for a moment too.
    let refused = |world: &World| {
        ["forw", "cap"].map(|chain| counted(world, chain, "reject with tcp reset")).iter().sum::<u64>()
    };
    let before = refused(&world);
    assert!(before > 0);
    let changing = AtomicBool::new(true);
    let tried = std::thread::scope(|scope| {
        let trying = scope.spawn(|| {
            let mut tried = 0;
            while changing.load(Ordering::Relaxed) {
                assert_eq!(world.other.try_tcp("93.184.216.34:9999"), Attempt::Refused);
                tried += 1;
            }
            tried
        });
        for n in 0..30 {
            let mut settings = base.clone();
            settings.interfaces.push(format!("agent{}", n + 2));
            settings.networks.push(format!("10.88.{n}.0/24").parse().unwrap());
            settings.networks.push(format!("fd88:{n}::/64").parse().unwrap());
            helper.apply(&settings).unwrap();
            // A flow that was open goes on.
            held[0].write_all(b"on").unwrap();
            there.read_exact(&mut [0; 2]).unwrap();
            // And the three are still counted: a table made anew would let three more in.
            if n % 10 == 0 {
                assert_eq!(world.agent.try_tcp("10.77.1.1:3128"), Attempt::Refused, "after change {n}");
            }
        }
        changing.store(false, Ordering::Relaxed);
        trying.join().unwrap()
    });
    assert!(tried > 10, "{tried}");
    assert!(refused(&world) >= before + tried, "the counters went on too");
    assert_eq!((served.load(Ordering::Relaxed), world.leaked()), (0, 0));
    let report = helper.verify().unwrap();
    assert!(report.intact && report.reasserted == 0, "{report:?}");
    let (_, sets) = world.gate.exec(&["nft", "list", "table", "inet", "outgate_fence"]);
    for element in ["agent31", "10.88.29.0/24", "fd88:29::/64"] {
        assert!(sets.contains(element), "{element} not in {sets}");
    }
    assert!(!sets.contains("10.88.28.0/24"), "what went is gone");
}
