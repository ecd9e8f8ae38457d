//! Gauntlet FT-03, 05, 17 and 18: servers and resolvers that are slow, dead, early or stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::dns::Answer;
use crate::support::gate::wait_until;
use crate::support::message::get;
use crate::support::origin::Conversation;
use crate::support::*;

const SHORT: &str = r#"
connect_timeout = "300ms"
upstream_handshake_timeout = "1s"
response_head_timeout = "500ms"
response_silence_timeout = "500ms"
"#;

fn status(bed: &Bed, path: &str) -> Option<u16> {
    bed.fetch_plain(get("plain.good.test", path)).map(|answer| answer.status)
}

#[test]
fn ft_03_black_holes_and_silence_end_at_their_limits() {
    let bed = Bed::with(&Setup { policy: P1.into(), limits: SHORT, ..Setup::default() });
    bed.world.origin.script((PUB1, 80), |peer: &mut Conversation| {
        let head = peer.head().unwrap_or_default();
        if head.starts_with("GET /stall ") {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it");
        }
        peer.rest();
    });
    let begun = Instant::now();
    assert_eq!(status(&bed, "/silence"), Some(504));
    let stalled = bed.fetch_plain(get("plain.good.test", "/stall")).unwrap();
    assert!(stalled.status == 200 && !stalled.complete, "{stalled:?}");
    // Nobody has this address: no SYN is answered.
    bed.world.dns.set("plain.good.test", &["93.184.216.99".parse().unwrap()]);
    let dead = || (status(&bed, "/dead") == Some(504)).then_some(());
    assert!(wait_until(Duration::from_secs(20), dead).is_some(), "the old address stays known for 5 s");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn ft_03_a_host_that_vanishes_behind_an_open_connection_is_noticed_before_its_answer_is_due() {
    let limits = "connect_timeout = \"300ms\"\nrequest_write_timeout = \"1s\"";
    let bed = Bed::with(&Setup { policy: P1.into(), limits, ..Setup::default() });
    bed.world.dns.set("plain.good.test", &[PUB1]);
    assert_eq!(status(&bed, "/"), Some(200));
    bed.world.net.sh(format!(
        "nft 'add table ip gone; add chain ip gone in {{ type filter hook input priority 0; }}; \
         add rule ip gone in ip daddr {PUB1} drop'"
    ));
    // The connection is kept, the request goes out on it, and nothing says that it came: only the kernel's own
    // limit ends that wait, long before the ten minutes that an answer may take.
    assert_eq!(status(&bed, "/again"), Some(504));
    bed.world.net.sh("nft delete table ip gone");
    assert_eq!(status(&bed, "/back"), Some(200));
}

#[test]
fn ft_01_a_server_that_refuses_or_hangs_up_is_502() {
    let bed = Bed::new(P1);
    bed.world.origin.script((PUB1, 80), |peer: &mut Conversation| {
        peer.head();
    });
    assert_eq!(bed.fetch_plain(post("plain.good.test", "/", "", "x")).map(|answer| answer.status), Some(502));
    // A host that is there and has no such port.
    bed.world.dns.set("api.good.test", &["93.184.216.77".parse().unwrap()]);
    let refused = bed.fetch("api.good.test", get("api.good.test", "/"));
    assert_eq!(refused.map(|answer| answer.status), Some(502));
    let end = bed.gate.wait_for_record("the refusal", |record| {
        record.is_end() && record.text("reason") == "upstream_connect"
    });
    assert_eq!(end.text("outcome"), "failed");
}

#[test]
fn ft_05_a_resolver_that_comes_back_is_used_within_five_seconds() {
    let bed = Bed::new(P1);
    bed.world.dns.answer("plain.good.test", Answer::Silence);
    assert_eq!(status(&bed, "/"), Some(502));
    bed.world.dns.set("plain.good.test", &[PUB1, PUB1_V6]);
    let back = Instant::now();
    let served = || (status(&bed, "/") == Some(200)).then_some(());
    assert!(wait_until(Duration::from_secs(10), served).is_some());
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
}

#[test]
fn ft_05_a_dead_address_is_passed_over_and_one_without_a_route_is_502() {
    let bed = Bed::new(P1);
    let dead = ["93.184.216.97", "93.184.216.98"].map(|ip| ip.parse().unwrap());
    bed.world.dns.set("plain.good.test", &[dead[0], PUB1, dead[1]]);
    let begun = Instant::now();
    assert_eq!(status(&bed, "/"), Some(200));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // Only an address of a family that this gate has no way to.
    bed.world.gate.sh("ip -6 route del default; ip addr del 2606:2800:220:1::1/64 dev wan0");
    bed.world.dns.set("api.good.test", &[PUB1_V6]);
    let mark = bed.mark();
    let answer = bed.fetch("api.good.test", get("api.good.test", "/"));
    assert_eq!(answer.map(|answer| answer.status), Some(502));
    bed.since(mark, 1).nothing_upstream();
}

#[test]
fn ft_17_an_answer_before_the_end_of_the_upload_is_passed_on_and_its_connection_not_used_again() {
    let bed = Bed::new(P1);
    let early = |peer: &mut Conversation| {
        while let Some(head) = peer.head() {
            if head.starts_with("POST") {
                peer.say("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nno\n");
                continue;
            }
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 80), early);
    }
    let mut wire = bed.tcp(PUB1, 80);
    wire.send(
        "POST /big HTTP/1.1\r\nHost: plain.good.test\r\nContent-Length: 100000000\r\n\r\nonly the beginning",
    );
    let answer = wire.response().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "no\n"));
    drop(wire);
    let before = bed.world.origin.connections().len();
    assert_eq!(status(&bed, "/after"), Some(200));
    assert_eq!(bed.world.origin.connections().len(), before + 1, "on a connection of its own");
    // A client that closes its half behind the head still gets its answer.
    let half = bed.try_tcp(PUB1, 80).unwrap();
    let mut wire = Wire::plain(half.try_clone().unwrap());
    wire.send(get("plain.good.test", "/half"));
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(wire.response().unwrap().status, 200);
}

#[test]
fn ft_18_a_stale_connection_is_tried_once_more_for_get_and_never_for_post() {
    let bed = Bed::new(P1);
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&posts);
    // Answers one request, keeps the connection, and closes it when the next one arrives.
    let closes_at_reuse = move |peer: &mut Conversation| {
        for turn in 0..2 {
            let Some(head) = peer.head() else { return };
            counted.fetch_add(usize::from(head.starts_with("POST")), Ordering::Relaxed);
            if turn == 0 {
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 80), closes_at_reuse.clone());
    }
    let connections = || bed.world.origin.connections().len();
    assert_eq!((status(&bed, "/first"), connections()), (Some(200), 1));
    assert_eq!((status(&bed, "/again"), connections()), (Some(200), 2), "once more, on a fresh connection");
    let posted = bed.fetch_plain(post("plain.good.test", "/post", "", "x")).map(|answer| answer.status);
    assert_eq!((posted, connections()), (Some(502), 2), "on the kept connection, and not repeated");
    assert_eq!(posts.load(Ordering::Relaxed), 1);
}
