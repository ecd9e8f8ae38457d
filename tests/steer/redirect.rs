//! What reaches the doors, and what the gate then knows of it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use outgate::steer::Settings;

use crate::door::Door;
use crate::world::{Attempt, PATIENCE, World, eventually};
use crate::{fenced, start_helper};

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

#[test]
fn a_redirected_flow_goes_on_while_the_tables_are_replaced() {
    let world = World::new();
    let mut helper = fenced(&world);
    let listener = world.gate.inside(|| TcpListener::bind("0.0.0.0:15001").unwrap());
    let mut client = world.agent.inside(|| TcpStream::connect("93.184.216.34:443").unwrap());
    let (mut served, _) = listener.accept().unwrap();
    for stream in [&client, &served] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for n in 0..10 {
        let settings = Settings { redirect_tcp_ports: vec![80, 443, 2000 + n], ..World::settings() };
        helper.apply(&settings).unwrap();
        let mut heard = [0; 4];
        client.write_all(b"ping").unwrap();
        served.read_exact(&mut heard).unwrap();
        served.write_all(b"pong").unwrap();
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"pong");
    }
}
