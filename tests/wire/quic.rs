//! Gauntlet BY-01: QUIC leaves nothing and costs nothing. What opens a connection is told at once to take TCP; all else
//! on UDP port 443 is met with silence.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, EndpointConfig, TokioRuntime};

use crate::support::*;

fn open() -> Bed {
    Bed::with(&Setup { policy: P1.into(), forwarding: true, ..Setup::default() })
}

/// What opens a connection: a long header of this version, padded.
fn initial(kind: u8, version: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xc0 | kind << 4];
    bytes.extend(version.to_be_bytes());
    bytes.extend(b"\x08the-dest\x03src");
    bytes.resize(length, 0x55);
    bytes
}

fn socket(bed: &Bed, ip: IpAddr) -> UdpSocket {
    let any = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    bed.world.agent.udp(any.parse().unwrap())
}

/// What comes back for a datagram, as if from where it was sent.
fn told(bed: &Bed, ip: IpAddr, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = socket(bed, ip);
    socket.connect(at(ip, 443)).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(bytes).unwrap();
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).ok()?;
    Some(answer[..length].to_vec())
}

#[test]
fn by_01_what_opens_a_connection_is_told_to_take_tcp_and_the_wan_is_quiet() {
    let bed = open();
    let mark = bed.mark();
    const LONG: Duration = Duration::from_secs(5);
    for ip in [PUB1, PUB1_V6, EVIL] {
        for (what, bytes) in [
            ("an Initial", initial(0, 1, 1200)),
            ("0-RTT", initial(1, 1, 1252)),
            ("version 2", initial(1, 0x6b33_43cf, 1350)),
            ("a version of nobody", initial(0, 0x0a0a_0a0a, 1200)),
        ] {
            let answer = told(&bed, ip, &bytes, LONG).unwrap_or_else(|| panic!("{what} to {ip}: no answer"));
            assert!(answer[0] & 0x80 != 0 && answer[1..5] == [0; 4], "{what}: Version Negotiation");
            assert_eq!(&answer[5..18], b"\x03src\x08the-dest", "{what}: the IDs, swapped");
            assert!(answer.len() < bytes.len(), "{what}: smaller than its cause");
        }
    }
    for (what, bytes) in [
        ("1199 bytes", initial(0, 1, 1199)),
        ("a short header", vec![0x43; 1200]),
        ("Version Negotiation", initial(0, 0, 1200)),
        ("text", vec![b'x'; 1200]),
    ] {
        assert_eq!(told(&bed, PUB1, &bytes, Duration::from_millis(150)), None, "{what}");
    }
    let record = bed.gate.wait_for_record("the first", |record| record.text("door") == "quic");
    assert_eq!(
        (record.text("verdict"), record.text("reason"), record.text("client")),
        ("deny", "protocol", "agent")
    );
    bed.since(mark, 1).nothing_upstream().quiet_wan();
    bed.control();
}

#[test]
fn by_01_a_flood_of_initials_has_its_rate_and_costs_one_record() {
    let bed = open();
    let socket = socket(&bed, PUB1);
    let bytes = initial(0, 1, 1200);
    for _ in 0..2000 {
        socket.send_to(&bytes, at(PUB1, 443)).unwrap();
    }
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (mut answers, mut buffer) = (0, [0; 2048]);
    while socket.recv(&mut buffer).is_ok() {
        answers += 1;
    }
    assert!((1..=400).contains(&answers), "{answers} answers to 2000 Initials");
    bed.control();
    let records = bed.gate.records().into_iter().filter(|r| r.text("door") == "quic").count();
    assert_eq!(records, 1, "one a minute for a client");
}

/// A real client, from its first datagram to the moment it gives up.
fn quinn_gives_up(bed: &Bed, ip: IpAddr) -> (ConnectionError, Duration) {
    let socket = socket(bed, ip);
    let tls = bed.tls("api.good.test");
    let mut config = rustls::ClientConfig::clone(&tls.config());
    config.alpn_protocols = vec![b"h3".to_vec()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        socket.set_nonblocking(true).unwrap();
        let mut endpoint =
            Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap();
        let config = QuicClientConfig::try_from(config).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
        let begun = Instant::now();
        let connecting = endpoint.connect(at(ip, 443), "api.good.test").unwrap();
        let error = connecting.await.expect_err("there is no QUIC behind the gate");
        (error, begun.elapsed())
    })
}

#[test]
fn by_01_a_real_quic_client_gives_up_within_50_ms_and_takes_tcp() {
    let bed = open();
    let mark = bed.mark();
    for ip in [PUB1, PUB1_V6] {
        // The best of three: what is measured is the gate, not who else has the processor.
        let tries: Vec<_> = (0..3).map(|_| quinn_gives_up(&bed, ip)).collect();
        assert!(
            tries.iter().all(|(error, _)| matches!(error, ConnectionError::VersionMismatch)),
            "{tries:?}"
        );
        let least = tries.iter().map(|(_, time)| *time).min().unwrap();
        println!("quinn gives up at {ip} after {tries:?}");
        assert!(least < Duration::from_millis(50), "{least:?}");
    }
    bed.since(mark, 1).quiet_wan();
    bed.control();
}
