//! Hostile bytes, sizes, EDNS, connections and floods.

use crate::gate::*;
use crate::peers::*;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::serialize::binary::BinEncodable;
use outgate::dns::DoorSettings;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn dn_25_malformed_messages_do_no_harm() {
    let gate = Gate::start(public).await;
    let good = query(fqdn("api.good.test"), RecordType::A, Some(1232)).to_bytes().unwrap();
    let mut two = good.clone();
    two[5] = 2;
    let garbage = [&good[..], b"garbage"].concat();
    for bytes in [&two[..], &garbage, &good[..20]] {
        let reply = exchange(gate.door, "127.0.0.1", bytes).await;
        assert_eq!(reply[3] & 0x0f, 1, "FORMERR");
    }
    // Every cut and every flipped byte: some answer or none, and the door still stands.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for at in 0..good.len() {
        socket.send_to(&good[..at], gate.door).await.unwrap();
        let mut flipped = good.clone();
        flipped[at] ^= 0xff;
        socket.send_to(&flipped, gate.door).await.unwrap();
    }
    assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
}

#[tokio::test]
async fn dn_28_pipelined_questions_are_all_answered() {
    let gate = Gate::start(public).await;
    let mut stream = connect(gate.door).await;
    for _ in 0..100 {
        let message = query(fqdn("api.good.test"), RecordType::A, None);
        write_framed(&mut stream, &message.to_bytes().unwrap()).await;
    }
    for _ in 0..100 {
        let reply = timeout(PATIENCE, read_framed(&mut stream)).await.unwrap().unwrap();
        assert_eq!(ips(&Message::from_vec(&reply).unwrap()), [PUBLIC]);
    }
}

#[tokio::test]
async fn dn_28_idle_slow_and_too_many_connections_are_closed() {
    let settings = DoorSettings {
        connections_per_source: 4,
        idle_timeout: Duration::from_millis(200),
        message_timeout: Duration::from_millis(200),
        ..DoorSettings::default()
    };
    let gate = Gate::with(public, settings, |_| {}).await;
    let closed = async |mut stream: tokio::net::TcpStream| {
        let end = timeout(PATIENCE, stream.read_u8()).await.expect("closed in time");
        assert!(end.is_err(), "nothing was said");
    };
    let mut empty = connect(gate.door).await;
    empty.write_all(b"\x00\x00").await.unwrap();
    closed(empty).await;
    let mut held = Vec::new();
    for sent in [&b""[..], b"\x00", b"\x00\x40", b"\x00\x40short"] {
        let mut stream = connect(gate.door).await;
        stream.write_all(sent).await.unwrap();
        held.push(stream);
    }
    closed(connect(gate.door).await).await;
    assert_eq!(gate.counters.connections_refused.load(Ordering::Relaxed), 1);
    assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC], "UDP is served meanwhile");
    for stream in held {
        closed(stream).await;
    }
    let reply = ask_tcp(gate.door, &query(fqdn("api.good.test"), RecordType::A, None)).await;
    assert_eq!(ips(&reply), [PUBLIC], "their places came back");
}

#[tokio::test]
async fn dn_29_answers_keep_to_the_size_that_the_client_takes() {
    let gate = Gate::start(|name, _, _| {
        let many: Vec<String> = (0..60).map(|n| format!("93.184.216.{n}")).collect();
        Script::Records(addresses(name, 60, &many.iter().map(String::as_str).collect::<Vec<_>>()))
    })
    .await;
    for (size, fits) in
        [(None, false), (Some(0), false), (Some(512), false), (Some(1232), true), (Some(65_535), true)]
    {
        let bytes = query(fqdn("api.good.test"), RecordType::A, size).to_bytes().unwrap();
        let raw = exchange(gate.door, "127.0.0.1", &bytes).await;
        let reply = Message::from_vec(&raw).unwrap();
        assert_eq!(reply.metadata.truncation, !fits, "{size:?}");
        assert_eq!(reply.answers.len(), if fits { 60 } else { 0 }, "{size:?}");
        assert_eq!(reply.edns.is_some(), size.is_some(), "{size:?}");
        assert!(raw.len() <= if fits { 1232 } else { 512 });
    }
    let whole = ask_tcp(gate.door, &query(fqdn("api.good.test"), RecordType::A, None)).await;
    assert_eq!(whole.answers.len(), 60);
}

#[tokio::test]
async fn dn_29_edns_versions_flags_and_options() {
    let gate = Gate::start(public).await;
    let mut message = query(fqdn("api.good.test"), RecordType::A, Some(1232));
    message.metadata.authentic_data = true;
    let edns = message.edns.as_mut().unwrap();
    edns.set_dnssec_ok(true);
    edns.options_mut().insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(100, vec![1, 2, 3]));
    let reply = ask(gate.door, &message).await;
    assert_eq!(ips(&reply), [PUBLIC]);
    assert!(!reply.metadata.authentic_data);
    let said = reply.edns.unwrap();
    assert_eq!((said.version(), said.max_payload(), said.flags().dnssec_ok), (0, 1232, true));
    assert!(said.option(EdnsCode::Unknown(100)).is_none());
    message.edns.as_mut().unwrap().set_version(1);
    let reply = ask(gate.door, &message).await;
    assert_eq!(u16::from(reply.metadata.response_code), 16, "BADVERS");
    assert_eq!(reply.edns.unwrap().version(), 0);
}

#[tokio::test]
async fn dn_40_a_flood_is_dropped_counted_and_not_recorded() {
    let settings = DoorSettings { rate: 1, burst: 10, ..DoorSettings::default() };
    let gate = Gate::with(public, settings, |_| {}).await;
    let bytes = query(fqdn("evil.test"), RecordType::A, None).to_bytes().unwrap();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..100 {
        socket.send_to(&bytes, gate.door).await.unwrap();
    }
    // Another source is served after them, in order.
    exchange(gate.door, "127.0.0.2", &bytes).await;
    assert!(gate.counters.rate_dropped.load(Ordering::Relaxed) >= 85);
    assert!(gate.lines().len() <= 16);
}
