//! Gauntlet HC and FR, the forms: how an authority may be written, and what is no request for a host at all.

use crate::support::h2::H2;
use crate::support::wire::{End, Tls};
use crate::support::*;

/// The answer to raw bytes in clear text, and that nothing of it went anywhere.
fn refused_plain(bed: &Bed, request: &str, status: u16, reasons: &[&str]) {
    let mark = bed.mark();
    let mut wire = bed.tcp(PUB1, 80);
    assert_eq!(wire.ask(request).map(|answer| answer.status), Some(status), "{request:?}");
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", reasons);
}

fn refused_explicit(bed: &Bed, request: &str, status: u16, reasons: &[&str]) {
    let mark = bed.mark();
    let answer = bed.explicit().ask(request);
    assert_eq!(answer.map(|answer| answer.status), Some(status), "{request:?}");
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", reasons);
}

const BAD: &[&str] = &["bad_request", "authority_mismatch"];

#[test]
fn hc_09_the_authority_of_a_connect_is_the_identity_where_a_hello_names_none() {
    let bed = Bed::new(P1);
    let silent = Tls { send_name: false, ..bed.tls("api.good.test") };
    let mut wire = bed.tunnel("api.good.test:443").unwrap().secure(&silent).unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
    let seen = bed.world.origin.connections();
    let names: Vec<_> = seen.iter().filter_map(|seen| seen.tls.as_ref()?.name.clone()).collect();
    assert_eq!(names, ["api.good.test"], "the SNI that went upstream");
    assert_eq!(wire.ask(get("files.good.test", "/")).unwrap().status, 421, "and binds what is asked inside");
}

#[test]
fn hc_11_a_host_that_is_not_the_uris_never_leaves() {
    let bed = Bed::new(P1);
    refused_explicit(&bed, "GET http://plain.good.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400, BAD);
    refused_explicit(&bed, "CONNECT api.good.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", 400, BAD);
    let same = "GET http://plain.good.test/ HTTP/1.1\r\nHost: plain.good.test:80\r\n\r\n";
    assert_eq!(bed.explicit().ask(same).unwrap().status, 200, "the scheme's own port says nothing new");
    assert!(!bed.world.origin.connections().iter().any(|seen| seen.text().contains("evil.test")));
}

#[test]
fn hc_13_16_18_a_host_is_one_name_and_there() {
    let bed = Bed::new(P1);
    for request in [
        "GET / HTTP/1.1\r\nHost: plain.good.test@evil.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.test@plain.good.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user:word@plain.good.test\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: plain.good.test, evil.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: plain.good.test/\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: plain.good.test:\r\nHost: plain.good.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\u{fc}cher.test\r\n\r\n",
    ] {
        refused_plain(&bed, request, 400, BAD);
    }
    assert_eq!(bed.fetch_plain(get("plain.good.test", "/")).unwrap().status, 200);
}

#[test]
fn hc_18_an_empty_host_inside_a_connect_is_none() {
    let bed = Bed::new(P1);
    let mut wire = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    let mark = bed.mark();
    assert_eq!(wire.ask("GET / HTTP/1.1\r\nHost:\r\n\r\n").unwrap().status, 400);
    bed.since(mark, 1).nothing_upstream().decided("deny", BAD);
}

#[test]
fn hc_20_22_a_dot_at_the_end_and_case_change_neither_verdict_nor_what_is_sent() {
    let bed = Bed::new(P10);
    for (sni, host) in [
        ("api.good.test", "api.good.test."),
        ("api.good.test", "API.Good.TEST"),
        ("api.good.test", "Api.Good.Test.:443"),
    ] {
        let mut wire = bed.https(PUB1, sni).unwrap();
        assert_eq!(wire.ask(get(host, "/")).map(|answer| answer.status), Some(200), "{host}");
    }
    let mut inside = bed.tunnel("API.good.TEST.:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    assert_eq!(inside.ask(get("api.good.test", "/")).unwrap().status, 200);
    assert_eq!(bed.fetch_plain(get("Plain.Good.Test.", "/")).unwrap().status, 200);
    for host in ["deny.test", "deny.test.", "DENY.Test", "Deny.Test.:80"] {
        assert_eq!(bed.fetch_plain(get(host, "/")).map(|answer| answer.status), Some(403), "{host}");
    }
    for request in bed.world.origin.requests() {
        assert!(["api.good.test", "plain.good.test"].contains(&&*request.authority), "{}", request.authority);
    }
    for seen in bed.world.origin.connections() {
        if let Some(hello) = &seen.tls {
            assert_eq!(hello.name.as_deref(), Some("api.good.test"));
        }
    }
}

#[test]
fn hc_23_a_port_in_host_is_the_connections_or_a_contradiction() {
    let bed = Bed::new(P1);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    assert_eq!(wire.ask(get("api.good.test:443", "/")).unwrap().status, 200);
    assert_eq!(bed.world.origin.requests()[0].authority, "api.good.test", "as it is sent");
    let mark = bed.mark();
    assert_eq!(wire.ask(get("api.good.test:8443", "/")).unwrap().status, 421);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["authority_mismatch"]);
}

#[test]
fn hc_29_34_39_names_in_every_script_and_literal_addresses() {
    let policy = "[[rule]]\nname = \"books\"\nhosts = [\"b\u{fc}cher.test\", \"*.wild.test\"]\naction = \"allow\"\n\
                  scheme = \"http\"\nports = [80]\n\
                  [[rule]]\nname = \"one address\"\naddresses = [\"93.184.216.20/32\"]\naction = \"allow\"\n";
    let bed = Bed::new(policy);
    bed.world.dns.set("xn--bcher-kva.test", &[PUB1]);
    bed.world.dns.set("my_bucket.wild.test", &[PUB1]);
    assert_eq!(bed.fetch_plain(get("xn--bcher-kva.test", "/")).unwrap().status, 200);
    assert_eq!(bed.fetch_plain(get("my_bucket.wild.test", "/")).unwrap().status, 200);
    refused_plain(&bed, "GET / HTTP/1.1\r\nHost: b\u{fc}cher.test\r\n\r\n", 400, BAD);
    refused_plain(&bed, "GET / HTTP/1.1\r\nHost: 93.184.216.10\r\n\r\n", 403, &["no_rule"]);
    let literal = Tls { send_name: false, ..bed.tls("93.184.216.20") };
    let mut wire = bed.tcp(PUB2, 443).secure(&literal).unwrap();
    let answer = wire.ask(get("93.184.216.20", "/"));
    assert!(
        answer.is_some_and(|answer| answer.status != 403),
        "an address rule opens it; its leaf has the address"
    );
}

#[test]
fn hc_44_a_scheme_of_another_kind_is_no_request_of_this_connection() {
    let bed = Bed::with(&Setup { policy: P4.into(), environment: p4_environment(), ..Setup::default() });
    for scheme in ["http", "ftp"] {
        let mark = bed.mark();
        let h2 = H2::connect(&bed, PUB1, "api.good.test");
        let answer = h2.get(&format!("{scheme}://api.good.test/"));
        assert!(
            answer.as_ref().is_err() || answer.as_ref().is_ok_and(|(page, _)| page.status() == 400),
            "{scheme}: {answer:?}"
        );
        bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
        assert_eq!(h2.get("https://api.good.test/").unwrap().0.status(), 200);
    }
}

#[test]
fn hc_49_https_is_not_fetched_for_a_client_that_asks_in_clear_text() {
    let bed = Bed::with(&Setup { policy: P4.into(), environment: p4_environment(), ..Setup::default() });
    refused_explicit(&bed, "GET https://api.good.test/ HTTP/1.1\r\nHost: api.good.test\r\n\r\n", 400, BAD);
    refused_explicit(&bed, "GET ftp://api.good.test/ HTTP/1.1\r\nHost: api.good.test\r\n\r\n", 400, BAD);
    refused_explicit(&bed, "GET / HTTP/1.1\r\nHost: plain.good.test\r\n\r\n", 400, BAD);
    let mut wire = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
}

#[test]
fn hc_51_the_absolute_form_on_the_transparent_door_names_what_host_names() {
    let bed = Bed::new(P1);
    let mut wire = bed.tcp(PUB1, 80);
    let same = "GET http://plain.good.test/a?b HTTP/1.1\r\nHost: plain.good.test\r\n\r\n";
    assert_eq!(wire.ask(same).unwrap().status, 200);
    let seen = bed.world.origin.connections();
    assert!(
        seen[0].text().starts_with("GET /a?b HTTP/1.1\r\n"),
        "the origin form leaves: {}",
        seen[0].text()
    );
    refused_plain(&bed, "GET http://evil.test/ HTTP/1.1\r\nHost: plain.good.test\r\n\r\n", 400, BAD);
    refused_plain(&bed, "GET http://plain.good.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400, BAD);
}

#[test]
fn every_port_that_a_rule_opens_leads_to_the_transparent_door_and_no_other_does() {
    let policy = "[[rule]]\nname = \"another port\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\nports = [8443]\n\
                  [[rule]]\nname = \"closed\"\nhosts = [\"api.good.test\"]\naction = \"deny\"\nports = [22]\n";
    let bed = Bed::new(policy);
    let connect = |port| bed.tcp(PUB1, port).secure(&bed.tls("api.good.test"));
    assert_eq!(connect(8443).unwrap().ask(get("api.good.test:8443", "/")).unwrap().status, 200);
    assert_eq!(bed.world.origin.connections()[0].local.port(), 8443);
    let mark = bed.mark();
    assert_eq!(
        connect(8443).unwrap().ask(get("api.good.test", "/admin")).unwrap().status,
        200,
        "the port binds"
    );
    bed.since(mark, 1).decided("allow", &[]);
    for port in [22, 8444] {
        assert!(bed.try_tcp(PUB1, port).is_err(), "{port}");
    }
}

#[test]
fn fr_10_a_proxy_behind_the_gate_is_not_asked_for_another_tunnel() {
    let bed = Bed::new(P1);
    let connect = "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n";
    let mut wire = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    let mark = bed.mark();
    assert_eq!(wire.ask(connect).unwrap().status, 405);
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["connect"]);
    // In clear text inside a CONNECT, where a relay in the sandbox would put it.
    let mut clear = bed.tunnel("plain.good.test:80").unwrap();
    assert_eq!(clear.ask(get("plain.good.test", "/")).unwrap().status, 200);
    let mark = bed.mark();
    assert_eq!(clear.ask(connect).unwrap().status, 405);
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["connect"]);
}

/// What begins no request, however much may follow; and what begins one that is wrong.
const NO_HTTP: [&[u8]; 10] = [
    b"\x04\x01\x01\xbb\x5d\xb8\xd8\x0auser\0",
    b"\x04\x01\x01\xbb\x00\x00\x00\x01user\0api.good.test\0",
    b"\x05\x01\x00",
    b"GET /\r\n",
    b"EHLO evil.test\r\n",
    b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00\x01\x00\x08\x21\x12\xa4\x42abcdefghijkl",
    b"\x80\xff\xfe\n\xa0",
    b"{\"jsonrpc\": \"2.0\"}",
];
const MALFORMED: [&[u8]; 4] = [
    b"GET / HTTP/1.1\rHost: api.good.test\r\r",
    b"GET / HTTP/1.1\r\nHost: api.good.test\r\rGET",
    b"GET / HTTP/3.0\r\n",
    b"GET  / HTTP/1.1\r\n",
];

/// Bytes that nothing follows are answered at once: the client waits, and says no more.
fn refused_at_once(bed: &Bed, open: impl Fn() -> Wire, resets: bool) {
    let malformed = MALFORMED.map(|bytes| (bytes, "bad_request"));
    for (bytes, reason) in NO_HTTP.map(|bytes| (bytes, "protocol")).into_iter().chain(malformed) {
        let mut wire = open();
        let mark = bed.mark();
        wire.send(bytes);
        let (said, end) = wire.rest();
        let told = said.starts_with(b"HTTP/1.1 400 ") && end == End::Closed;
        let was_reset = said.is_empty() && end == End::Reset;
        assert!(told || (resets && was_reset), "{bytes:?}: {said:?} {end:?}");
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &[reason]);
    }
    bed.control();
}

#[test]
fn fr_20_other_proxy_protocols_on_the_explicit_door_are_none_and_are_told_at_once() {
    let bed = Bed::new(P1);
    refused_at_once(&bed, || bed.explicit(), false);
}

#[test]
fn fr_22_what_follows_the_handshake_is_http_or_nothing_and_is_told_at_once() {
    let bed = Bed::new(P1);
    refused_at_once(&bed, || bed.https(PUB1, "api.good.test").unwrap(), false);
    let stun: &[u8] = b"\x16\x03\x01\x00\x05hello\r\n\r\n";
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    let mark = bed.mark();
    assert_eq!(wire.ask(stun).unwrap().status, 400);
    bed.since(mark, 1).nothing_upstream().decided("deny", &["protocol"]);
}

#[test]
fn fr_22_bytes_that_are_no_http_are_told_at_once_in_clear_text_too() {
    let bed = Bed::new(P1);
    refused_at_once(&bed, || bed.tcp(PUB1, 80), true);
    refused_at_once(&bed, || bed.tunnel("plain.good.test:80").unwrap(), true);
}

#[test]
fn pm_23_a_method_of_any_token_is_judged_and_answered_in_http() {
    let rule =
        plain!().replace("ports = [80]", "ports = [80]\n  [[rule.match]]\n  methods = [\"MY1\", \"GET\"]");
    let bed = Bed::new(&rule);
    let ways: [fn(&Bed) -> Wire; 2] =
        [|bed| bed.tcp(PUB1, 80), |bed| bed.tunnel("plain.good.test:80").unwrap()];
    for open in ways {
        let ask = |method: &str| {
            open(&bed).ask(get("plain.good.test", "/").replace("GET", method)).map(|answer| answer.status)
        };
        assert_eq!((ask("MY1"), ask("MY2"), ask("M!#$%&'*+-.^_`|~1")), (Some(200), Some(403), Some(403)));
        assert_eq!(bed.world.origin.requests().pop().unwrap().method, "MY1");
    }
}

#[test]
fn fr_23_other_upgrades_and_capsules_open_nothing() {
    let bed = Bed::new(P1);
    for upgrade in ["connect-udp", "connect-ip", "tls/1.0", "TLS/1.2, HTTP/1.1", "h2", "spdy/3"] {
        let mark = bed.mark();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: api.good.test\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nCapsule-Protocol: ?1\r\n\r\n"
        );
        let status = bed.fetch("api.good.test", request).map(|answer| answer.status);
        if status == Some(200) {
            // Taken off: an ordinary request is left, which the rule allows.
            let sent = bed.since(mark, 1).upstream_text().to_lowercase();
            assert!(!sent.contains("upgrade") && !sent.contains("capsule"), "{upgrade}: {sent}");
        } else {
            assert_eq!(status, Some(403), "{upgrade}");
            bed.since(mark, 1).nothing_upstream().decided("deny", &["protocol"]);
        }
    }
}

#[test]
fn a_record_tells_the_sni_also_where_the_connection_had_records_before_its_hello() {
    let bed = Bed::new(P1);
    let mut wire = bed.explicit();
    let mark = bed.mark();
    let before = wire.ask("GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n").unwrap();
    assert_eq!(before.status, 403);
    wire.send("CONNECT api.good.test:443 HTTP/1.1\r\nHost: api.good.test:443\r\n\r\n");
    assert_eq!(wire.head().unwrap().status, 200);
    let mut inside = wire.secure(&bed.tls("api.good.test")).unwrap();
    assert_eq!(inside.ask(get("api.good.test", "/")).unwrap().status, 200);
    let taps = bed.since(mark, 2);
    let told: Vec<_> =
        taps.decisions.iter().map(|decision| (decision.text("verdict"), decision.text("sni"))).collect();
    assert_eq!(told, [("deny", ""), ("allow", "api.good.test")]);
}
