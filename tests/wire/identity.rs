//! Gauntlet HC and FR: one name for policy, dialling, upstream SNI, `Host` and record; nothing changes it afterwards.

use std::net::IpAddr;
use std::time::Duration;

use crate::support::gate::wait_until;
use crate::support::h2::H2;
use crate::support::wire::Tls;
use crate::support::*;

fn at_pub1(ip: IpAddr) -> bool {
    ip == PUB1 || ip == PUB1_V6
}

fn p4() -> Bed {
    Bed::with(&Setup { policy: P4.into(), environment: p4_environment(), ..Setup::default() })
}

#[test]
fn hc_01_an_allowed_name_on_an_attackers_address_is_dialled_where_the_gate_resolves_it() {
    let bed = p4();
    let mark = bed.mark();
    let mut wire = bed.https(EVIL, "api.good.test").unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
    let taps = bed.since(mark, 1);
    taps.no_packet_to(EVIL).no_packet_to(EVIL_V6);
    assert!(taps.connections.iter().all(|seen| at_pub1(seen.local.ip())));
    let names: Vec<_> = taps.connections.iter().filter_map(|seen| seen.tls.clone()?.name).collect();
    assert_eq!(names, ["api.good.test"], "the upstream SNI is the one name");
    assert!(taps.upstream_text().contains(&*K5), "the credential reaches the right host");
    let record = taps.decided("allow", &[]);
    assert_eq!(record.text("orig_dst"), "93.184.216.66:443");
    assert_eq!(record.0["dst_mismatch"], true, "{}", record.0);

    assert!(bed.resolve("api.good.test", crate::support::dns::A).addresses.contains(&PUB1));
    let mark = bed.mark();
    assert_eq!(bed.fetch("api.good.test", get("api.good.test", "/")).unwrap().status, 200);
    let taps = bed.since(mark, 1);
    assert_ne!(taps.decisions[0].0["dst_mismatch"], true, "the address that the gate told it is no mismatch");
}

#[test]
fn hc_02_the_same_in_clear_text() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    assert_eq!(bed.tcp(EVIL, 80).ask(get("plain.good.test", "/")).unwrap().status, 200);
    let taps = bed.since(mark, 1);
    taps.no_packet_to(EVIL).no_packet_to(EVIL_V6);
    assert!(taps.connections.iter().all(|seen| at_pub1(seen.local.ip())));
    assert_eq!(taps.decided("allow", &[]).0["dst_mismatch"], true);
}

#[test]
fn hc_04_another_host_inside_the_session_is_misdirected() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let answer = bed.fetch("api.good.test", get("evil.test", "/")).unwrap();
    assert_eq!(answer.status, 421);
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["authority_mismatch"]);
    bed.control();
}

#[test]
fn hc_05_a_denied_sni_is_denied_whatever_the_host_says() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    assert_denied(bed.https(PUB1, "evil.test"), get("api.good.test", "/"));
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_rule", "authority_mismatch"]);
    bed.control();
}

#[test]
fn hc_06_an_sni_that_is_not_the_connect_authority_ends_the_tunnel() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let inside = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("evil.test"));
    assert!(matches!(inside, Err(End::Alert(_) | End::Closed | End::Reset)));
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["sni_mismatch"]);
    let mut twin = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    assert_eq!(twin.ask(get("api.good.test", "/")).unwrap().status, 200);
}

#[test]
fn hc_08_another_host_inside_a_connect_is_misdirected() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let mut wire = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    assert_eq!(wire.ask(get("evil.test", "/")).unwrap().status, 421);
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["authority_mismatch"]);
}

#[test]
fn hc_10_the_uri_of_a_proxy_request_is_not_overruled_by_its_host() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let answer =
        bed.explicit().ask("GET http://evil.test/ HTTP/1.1\r\nHost: plain.good.test\r\n\r\n").unwrap();
    assert_eq!(answer.status, 403);
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_rule"]);
    let twin =
        bed.explicit().ask("GET http://plain.good.test/ HTTP/1.1\r\nHost: plain.good.test\r\n\r\n").unwrap();
    assert_eq!(twin.status, 200);
}

#[test]
fn hc_14_two_hosts_have_no_canonical_form() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let mut wire = bed.tcp(PUB1, 80);
    let answer = wire.ask("GET / HTTP/1.1\r\nHost: plain.good.test\r\nHost: evil.test\r\n\r\n").unwrap();
    assert_eq!(answer.status, 400);
    assert!(matches!(wire.rest().1, End::Closed | End::Reset), "and close");
    bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request", "authority_mismatch"]);
    assert_eq!(bed.fetch_plain(get("plain.good.test", "/")).unwrap().status, 200);
}

#[test]
fn hc_20_an_empty_port_is_the_default_one() {
    let bed = Bed::new(P1);
    let plain = bed.fetch_plain(get("plain.good.test:", "/")).unwrap();
    let secure = bed.fetch("api.good.test", get("api.good.test:", "/")).unwrap();
    let absolute = "GET http://plain.good.test:/a HTTP/1.1\r\nHost: plain.good.test\r\n\r\n";
    let absolute = bed.explicit().ask(absolute).unwrap();
    assert_eq!((plain.status, secure.status, absolute.status), (200, 200, 200));
    let sent: Vec<_> = bed.world.origin.requests().iter().map(|seen| seen.header("host").concat()).collect();
    assert_eq!(sent, ["plain.good.test", "api.good.test", "plain.good.test"]);
    let mut raw = crate::support::frames::Raw::connect(&bed);
    let mut fields = crate::support::frames::request("GET", "/", &[]);
    fields[2].1 = "api.good.test:";
    raw.send(crate::support::frames::head(1, crate::support::frames::END_STREAM, &fields));
    assert_eq!(raw.outcome(1), crate::support::frames::Outcome::Status(200));
    let mark = bed.mark();
    assert_eq!(bed.tunnel("api.good.test:").err(), Some(End::Status(400)), "there is no default for CONNECT");
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["bad_request"]);
}

#[test]
fn hc_17_http_1_0_without_a_host_has_no_authority() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let answer = bed.fetch_plain("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(matches!(answer.status, 400 | 403), "{}", answer.status);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["no_authority"]);
    assert_eq!(bed.fetch_plain("GET / HTTP/1.0\r\nHost: plain.good.test\r\n\r\n").unwrap().status, 200);
}

#[test]
fn hc_25_a_rule_for_a_name_covers_no_longer_and_no_shorter_one() {
    let bed = Bed::new("[[rule]]\nname = \"code\"\nhosts = [\"github.com\"]\naction = \"allow\"\n");
    bed.world.dns.set("github.com", &[PUB1]);
    for name in
        ["evilgithub.com", "github.com.evil.net", "xgithub.com", "github.comevil.net", "a.github.com", "com"]
    {
        let mark = bed.mark();
        assert_denied(bed.https(PUB1, name), get(name, "/"));
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_rule"]);
    }
    assert_eq!(bed.fetch("github.com", get("github.com", "/")).unwrap().status, 200);
}

#[test]
fn hc_26_a_wildcard_is_one_or_more_labels_and_never_the_apex() {
    let bed = Bed::new(P2);
    for name in ["a.wild.test", "a.b.wild.test", "my_bucket.wild.test"] {
        assert_eq!(bed.fetch(name, get(name, "/")).map(|answer| answer.status), Some(200), "{name}");
    }
    let mark = bed.mark();
    assert_denied(bed.https(PUB1, "wild.test"), get("wild.test", "/"));
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_rule"]);
}

#[test]
fn hc_32_loopback_in_every_spelling_is_blocked() {
    let bed = Bed::new(P10);
    let plain = ["127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"];
    let odd = ["127.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "0"];
    for host in plain.iter().chain(&odd) {
        let reasons: &[&str] =
            if plain.contains(host) { &["addr_blocked"] } else { &["addr_blocked", "bad_request"] };
        let absolute = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let tunnel = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
        for (mut wire, request) in
            [(bed.explicit(), absolute), (bed.explicit(), tunnel), (bed.tcp(PUB1, 80), get(host, "/"))]
        {
            let mark = bed.mark();
            let answer = wire.ask(&request).unwrap_or_else(|| panic!("no answer to {request:?}"));
            assert!(matches!(answer.status, 400 | 403), "{request:?}: {}", answer.status);
            bed.since(mark, 1).nothing_upstream().no_query().decided("deny", reasons);
        }
    }
    bed.control();
}

#[test]
fn hc_36_no_name_at_all_is_refused_in_the_handshake() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let nameless = Tls { send_name: false, ..bed.tls("api.good.test") };
    let end = bed.tcp(PUB1, 443).secure(&nameless).err();
    assert!(matches!(end, Some(End::Alert(_))), "a fatal alert, not {end:?}");
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_authority", "no_rule"]);
    bed.control();
}

#[test]
fn hc_42_an_h2_authority_and_another_host_contradict_each_other() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let h2 = H2::connect(&bed, PUB1, "api.good.test");
    let request =
        ::http::Request::get("https://api.good.test/").header("host", "evil.test").body(()).unwrap();
    let status = h2.send(request, None).map(|(answer, _)| answer.status().as_u16());
    assert!(matches!(status, Err(_) | Ok(400)), "{status:?}");
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["bad_request", "authority_mismatch"]);
    assert_eq!(h2.get("https://api.good.test/").unwrap().0.status(), 200, "the connection lives on");
}

#[test]
fn hc_46_a_connect_authority_is_a_host_and_a_port_and_nothing_else() {
    let bed = Bed::new(P1);
    let bad = [
        "api.good.test:443@evil.test:443",
        "api.good.test",
        "http://api.good.test:443",
        "api.good.test:443/x",
    ];
    for authority in bad {
        let mark = bed.mark();
        assert_eq!(bed.tunnel(authority).err(), Some(End::Status(400)), "CONNECT {authority}");
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["bad_request"]);
    }
    assert!(bed.tunnel("api.good.test:443").is_ok());
}

#[test]
fn hc_48_connect_to_another_port_is_denied_before_dialling() {
    let bed = Bed::new(P1);
    for port in [22, 25, 853, 8443] {
        let mark = bed.mark();
        assert_eq!(bed.tunnel(&format!("api.good.test:{port}")).err(), Some(End::Status(403)), "port {port}");
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["port_denied"]);
    }
    assert!(bed.tunnel("api.good.test:443").is_ok());
}

#[test]
fn fr_01_a_stream_for_another_authority_is_misdirected_and_the_connection_lives() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let h2 = H2::connect(&bed, PUB1, "api.good.test");
    assert_eq!(h2.get("https://api.good.test/").unwrap().0.status(), 200);
    assert_eq!(h2.get("https://evil.test/").unwrap().0.status(), 421);
    let taps = bed.since(mark, 2);
    taps.no_packet_to(EVIL);
    let verdicts: Vec<&str> = taps.decisions.iter().map(|record| record.text("verdict")).collect();
    assert_eq!(verdicts, ["allow", "deny"]);
    assert_eq!(taps.decisions[1].text("reason"), "authority_mismatch");
    assert_eq!(bed.world.origin.requests().len(), 1);
    assert_eq!(h2.get("https://api.good.test/again").unwrap().0.status(), 200);
}

#[test]
fn fr_04_the_second_request_of_a_connection_is_judged_like_the_first() {
    let bed = Bed::new(P1);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
    let mark = bed.mark();
    assert_eq!(wire.ask(get("evil.test", "/")).unwrap().status, 421);
    assert!(matches!(wire.rest().1, End::Closed | End::Reset), "a misdirected session is closed");
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["authority_mismatch"]);

    let mut wire = bed.tcp(PUB1, 80);
    assert_eq!(wire.ask(get("plain.good.test", "/")).unwrap().status, 200);
    let mark = bed.mark();
    assert_eq!(wire.ask(get("evil.test", "/")).unwrap().status, 403);
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_rule"]);
    assert!(!bed.world.origin.connections().iter().any(|seen| seen.text().contains("evil.test")));
}

#[test]
fn fr_06_an_upgrade_to_h2c_is_taken_off() {
    let bed = Bed::new(P1);
    let upgrade =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let plain = format!("GET / HTTP/1.1\r\nHost: plain.good.test\r\n{upgrade}");
    assert_eq!(bed.fetch_plain(plain).unwrap().status, 200);
    let secure = format!("GET / HTTP/1.1\r\nHost: api.good.test\r\n{upgrade}");
    assert_eq!(bed.fetch("api.good.test", secure).unwrap().status, 200);
    let seen: String = bed.world.origin.connections().iter().map(|seen| seen.text().to_lowercase()).collect();
    assert!(!seen.contains("h2c") && !seen.contains("http2-settings"), "{seen}");
}

#[test]
fn fr_09_connect_inside_an_intercepted_session_is_refused() {
    let bed = Bed::new(P1);
    let connect = "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n";
    let mut first = bed.https(PUB1, "api.good.test").unwrap();
    let mark = bed.mark();
    assert_eq!(first.ask(connect).unwrap().status, 405);
    assert!(matches!(first.rest().1, End::Closed | End::Reset), "and close");
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["connect"]);

    let mut second = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(second.ask(get("api.good.test", "/")).unwrap().status, 200);
    let mark = bed.mark();
    assert_eq!(second.ask(connect).unwrap().status, 405);
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["connect"]);
    assert!(!bed.world.origin.connections().iter().any(|seen| seen.text().contains("CONNECT")));
}

#[test]
fn fr_13_a_websocket_that_no_rule_opens_is_refused_before_upstream() {
    let bed = Bed::new(P1);
    let mark = bed.mark();
    let handshake = "GET /ws HTTP/1.1\r\nHost: api.good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(bed.fetch("api.good.test", handshake).unwrap().status, 403);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["websocket_denied"]);
}

#[test]
fn fr_14_an_unsolicited_101_opens_no_tunnel() {
    let bed = Bed::new(P1);
    let page = |peer: &mut crate::support::origin::Conversation| {
        while let Some(head) = peer.head() {
            if head.contains("/switch") {
                peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nraw bytes");
            } else {
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    };
    bed.world.origin.script((PUB1, 443), page);
    bed.world.origin.script((PUB1_V6, 443), page);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/switch")).unwrap().status, 502);
    wire.send("bytes for a tunnel");
    let (rest, end) = wire.rest();
    assert!(!String::from_utf8_lossy(&rest).contains("raw bytes"));
    assert!(matches!(end, End::Closed | End::Reset), "{end:?}");
    let seen: String = bed.world.origin.connections().iter().map(|seen| seen.text()).collect();
    assert!(!seen.contains("bytes for a tunnel"));
    bed.control();
}

#[test]
fn the_page_of_a_refused_connection_ends_it_over_h2_too() {
    let bed = Bed::new(P1);
    let h2 = H2::connect(&bed, EVIL, "evil.test");
    let (page, _) = h2.get("https://evil.test/").unwrap();
    assert_eq!(page.status(), 403);
    let again = wait_until(Duration::from_secs(10), || h2.get("https://evil.test/").err());
    assert!(again.is_some(), "a connection that was refused carries nothing more");
}
