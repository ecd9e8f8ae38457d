//! Gauntlet TL-05, TL-09, TL-11, TL-18 and TL-22: hellos that no library of ours sends, and what follows a handshake.

use std::sync::Arc;

use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::{default_provider, hpke};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore};

use crate::support::hello::*;
use crate::support::tls13::{ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, record};
use crate::support::*;

#[test]
fn tl_09_grease_for_encrypted_hellos_changes_nothing() {
    let bed = Bed::new(P1);
    let suite = hpke::ALL_SUPPORTED_SUITES[0];
    let (public, _) = suite.generate_key_pair().unwrap();
    let grease = EchMode::Grease(EchGreaseConfig::new(suite, public));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bed.roots());
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_ech(grease)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let open = |name: &str| {
        let tls = bed.tls(name);
        bed.tcp(PUB1, 443).secure_as(ClientConnection::new(config.clone(), tls.server_name()).unwrap())
    };
    let answer = open("api.good.test").unwrap().ask(get("api.good.test", "/")).unwrap();
    assert_eq!(answer.status, 200);
    let mark = bed.mark();
    assert_denied(open("evil.test"), get("evil.test", "/"));
    bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_rule"]);
}

#[test]
fn tl_09_a_malformed_encrypted_hello_is_judged_by_its_visible_name() {
    let bed = Bed::new(P1);
    let outer = |length: usize| {
        [&[0, 0, 1, 0, 1, 7][..], &pair(32), &[5; 32], &pair(length), &vec![6; length]].concat()
    };
    let forms = [
        ("empty", vec![]),
        ("inner", vec![1]),
        ("unknown type", vec![9, 9, 9]),
        ("outer", outer(128)),
        ("short outer", outer(128)[..20].to_vec()),
    ];
    for (form, content) in forms {
        // Taken for what it shows, or refused: never another name, never a crash.
        let allowed = says(&bed, &Hello::of("api.good.test").with(ECH, content.clone()).record());
        let refused = [AlertDescription::DecodeError, AlertDescription::IllegalParameter].map(alert);
        assert!(allowed == Says::ServerHello || refused.contains(&allowed), "{form}: {allowed:?}");
        let mark = bed.mark();
        says(&bed, &Hello::of("evil.test").with(ECH, content).record());
        bed.since(mark, 1).nothing_upstream().no_query();
        bed.control();
    }
    assert_eq!(says(&bed, &Hello::of("api.good.test").record()), Says::ServerHello, "without it");
}

#[test]
fn tl_11_a_renegotiation_is_refused_and_ends_the_session() {
    let bed = Bed::new(P1);
    let drive = r#"
import subprocess, sys
line = "openssl s_client -connect api.good.test:443 -servername api.good.test -tls1_2".split()
peer = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
said = b""
while b"Verify return code" not in said:
    said += peer.stdout.read1()
peer.stdin.write(sys.argv[1].encode().replace(b"/", b"\n"))
peer.stdin.flush()
print(peer.communicate()[0].decode() if len(sys.argv) > 2 else peer.stdout.read().decode())
"#;
    std::fs::write(bed.gate.dir.join("drive.py"), drive).unwrap();
    let mark = bed.mark();
    let said = bed.succeed("python3 drive.py R/");
    assert!(said.contains("RENEGOTIATING") && !said.contains("Verify return code"), "{said}");
    bed.since(mark, 0).nothing_upstream();
    let once = bed.succeed("curl -sS -m 20 --tls-max 1.2 https://api.good.test/ https://api.good.test/");
    assert_eq!(
        once,
        "hello from api.good.test\n".repeat(2),
        "a session of that version that is left as it is"
    );
}

#[test]
fn tl_18_behind_a_tunnel_is_the_origins_own_certificate_and_nothing_is_read() {
    let tunnel = "[[rule]]\nname = \"pinned\"\nhosts = [\"pinned.good.test\"]\naction = \"tunnel\"\n";
    let bed = Bed::new(&format!("{P1}\n{tunnel}"));
    let mut origin = bed.tls("pinned.good.test");
    origin.roots = bed.origin_roots();
    let mark = bed.mark();
    let mut wire = bed.tcp(PUB1, 443).secure(&origin).expect("the origin's certificate");
    let body = format!("key={}", *K1);
    assert_eq!(wire.ask(post("pinned.good.test", "/", "", &body)).map(|answer| answer.status), Some(200));
    let leaf = wire.leaf();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert!(leaf.issuer().to_string().contains("Test Internet CA"), "{}", leaf.issuer());
    drop(wire);
    let taps = bed.since(mark, 1);
    let decision = taps.decided("tunnel", &[]);
    assert_eq!((decision.text("rule"), decision.text("sni")), ("pinned", "pinned.good.test"));
    assert!(decision.0.get("findings").is_none() && decision.0.get("path").is_none(), "{}", decision.0);
    let id = decision.text("id").to_owned();
    let end = bed.gate.wait_for_record("the tunnel's end", |record| {
        record.text("id") == id && record.text("kind") == "end"
    });
    let bytes = |name: &str| end.0[name].as_u64().unwrap();
    assert!(bytes("bytes_up") > body.len() as u64 && bytes("bytes_down") > 0, "{}", end.0);
    assert!(end.0.get("findings").is_none(), "{}", end.0);
    // The same key where the gate reads.
    let mark = bed.mark();
    let read = bed.fetch("api.good.test", post("api.good.test", "/", "", &body));
    assert_eq!(read.map(|answer| answer.status), Some(403));
    drop(bed.since(mark, 1));
    let distrusting = bed.tcp(PUB1, 443).secure(&bed.tls("pinned.good.test")).err();
    assert!(
        matches!(distrusting, Some(End::Other(_))),
        "the gate's CA vouches for nothing there: {distrusting:?}"
    );
}

#[test]
fn tl_22_no_version_suite_or_compression_of_old_is_agreed_to() {
    let bed = Bed::new(P1);
    let hello = Hello::of("api.good.test");
    let old = hello.with(VERSIONS, vec![2, 3, 3]);
    let with_suites = |suites: &[u16]| Hello { suites: suites.to_vec(), ..old.clone() }.record();
    // NULL, export, anonymous, RC4, DES, 3DES, CBC and key exchange without forward secrecy.
    for suite in [
        0x0000, 0x0001, 0x0003, 0x0005, 0x0009, 0x000a, 0x0018, 0x002f, 0x0035, 0x009c, 0x009d, 0xc009,
        0xc013, 0xc014, 0xc018,
    ] {
        let said = says(&bed, &with_suites(&[suite]));
        assert_eq!(said, alert(AlertDescription::HandshakeFailure), "{suite:#06x}");
    }
    assert_eq!(says(&bed, &with_suites(&[0xc02b])), Says::ServerHello, "ECDHE with an AEAD");
    let version = alert(AlertDescription::ProtocolVersion);
    for versions in [&[2, 3, 2][..], &[2, 3, 1], &[2, 3, 0], &[4, 3, 1, 3, 2], &[2, 0x7f, 0x1c]] {
        assert_eq!(says(&bed, &hello.with(VERSIONS, versions).record()), version, "{versions:?}");
    }
    let compressed = Hello { compression: vec![1], ..old.clone() };
    assert!(matches!(says(&bed, &compressed.record()), Says::Alert(_)), "compression alone");
    // A fallback that was forced from outside (RFC 7507).
    let fallback = with_suites(&[0xc02b, 0x5600]);
    assert!(
        matches!(says(&bed, &fallback), Says::Alert(86) | Says::ServerHello),
        "TLS 1.2 with the fallback signal"
    );
    bed.control();
}

#[test]
fn tl_22_a_hello_that_contradicts_itself_gets_an_alert_and_an_end() {
    let limits = "hello_timeout = \"1s\"";
    let bed = Bed::with(&Setup { policy: P1.to_owned(), limits, ..Setup::default() });
    let hello = Hello::of("api.good.test");
    let extension = |kind: u16| hello.extensions.iter().find(|(own, _)| *own == kind).unwrap().clone();
    let mut twice = hello.clone();
    twice.extensions.push(extension(SERVER_NAME));
    let mut none = hello.clone();
    none.extensions.retain(|(kind, _)| *kind != KEY_SHARE);
    let mut no_signatures = hello.clone();
    no_signatures.extensions.retain(|(kind, _)| *kind != SIGNATURES);
    let mut two_names = extension(SERVER_NAME).1;
    let entry = two_names[2..].to_vec();
    two_names.extend(entry);
    let length = pair(two_names.len() - 2);
    two_names[..2].copy_from_slice(&length);
    let mut long = hello.record();
    long[5 + 3] = long[5 + 3].wrapping_sub(9);
    let between = |kind: u8, body: &[u8]| {
        let whole = hello.record();
        let halves = whole[5..].split_at(60);
        [record(HANDSHAKE, halves.0), record(kind, body), record(HANDSHAKE, halves.1)].concat()
    };
    let zero = list(&[&X25519.to_be_bytes()[..], &list(&[0; 32])].concat());
    let cases: [(&str, Vec<u8>); 14] = [
        ("a change of cipher spec between its halves", between(CHANGE_CIPHER_SPEC, &[1])),
        ("an alert between its halves", between(ALERT, &[1, 90])),
        ("nothing between its halves", between(HANDSHAKE, &[])),
        ("a share that is the point zero", hello.with(KEY_SHARE, zero).record()),
        ("an extension twice", twice.record()),
        ("two names", hello.with(SERVER_NAME, two_names).record()),
        ("an empty list of names", hello.with(SERVER_NAME, vec![0, 0]).record()),
        ("a name with a NUL", Hello::of("api.good.test\0.evil.test").record()),
        ("no key share", none.record()),
        ("no signature schemes", no_signatures.record()),
        ("an empty list of versions", hello.with(VERSIONS, vec![0]).record()),
        ("no suites", Hello { suites: vec![], ..hello.clone() }.record()),
        ("a length that lies", long),
        (
            "a second message behind it",
            [&hello.record()[..], &[20, 3, 3, 0, 1, 1, 22, 3, 3, 0, 4, 2, 0, 0, 0]].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let mut wire = bed.tcp(PUB1, 443);
        wire.send(&bytes);
        let (answer, end) = wire.rest();
        assert!(matches!(end, End::Closed | End::Reset), "{what}: {end:?}");
        // Whatever came first, an alert of the fatal level is the last word that is not encrypted.
        assert!(answer.is_empty() || matches!(answer[0], 21 | 22), "{what}: {answer:?}");
    }
    assert!(bed.world.origin.requests().is_empty());
    bed.control();
}
