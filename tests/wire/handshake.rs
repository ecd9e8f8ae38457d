//! Gauntlet TL: what a ClientHello may look like, and what upstream's certificate must look like.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::{AlertDescription, ClientConfig, ClientConnection};

use crate::support::wire::Tls;
use crate::support::*;

/// The ClientHello of a connection that has sent nothing yet: one TLS record.
fn hello(connection: &mut ClientConnection) -> Vec<u8> {
    let mut record = Vec::new();
    connection.write_tls(&mut record).unwrap();
    record
}

/// The same handshake message in records of at most `size` bytes.
fn in_records(record: &[u8], size: usize) -> Vec<u8> {
    let pieces = record[5..].chunks(size);
    pieces.flat_map(|piece| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat()).collect()
}

#[test]
fn tl_02_a_hello_in_many_records_is_judged_as_in_one() {
    let bed = Bed::new(P1);
    for size in [1, 7, 80] {
        let mut allowed = bed.tls("api.good.test").connection();
        let mut wire = bed.tcp(PUB1, 443);
        wire.send(in_records(&hello(&mut allowed), size));
        let mut wire = wire.secure_as(allowed).unwrap_or_else(|end| panic!("records of {size}: {end:?}"));
        assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);

        let mark = bed.mark();
        let mut denied = bed.tls("evil.test").connection();
        let mut wire = bed.tcp(PUB1, 443);
        wire.send(in_records(&hello(&mut denied), size));
        assert_denied(wire.secure_as(denied), get("evil.test", "/"));
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["no_rule"]);
    }
}

#[test]
fn tl_01_a_hello_byte_by_byte_is_judged_as_in_one_piece() {
    let bed = Bed::new(P1);
    let mut connection = bed.tls("api.good.test").connection();
    let mut wire = bed.tcp(PUB1, 443);
    wire.dribble(&hello(&mut connection));
    let mut wire = wire.secure_as(connection).unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
}

#[test]
fn tl_05_a_post_quantum_hello_in_two_segments_is_understood() {
    let bed = Bed::new(P1);
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    let tls = bed.tls("api.good.test");
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::new(rustls::RootCertStore { roots: roots(&tls) }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut connection = ClientConnection::new(Arc::new(config), tls.server_name()).unwrap();
    let hello = hello(&mut connection);
    assert!(hello.len() > 1200, "as long as a browser's");
    let mut wire = bed.tcp(PUB1, 443);
    wire.send(&hello[..1200]).send(&hello[1200..]);
    let mut wire = wire.secure_as(connection).unwrap();
    assert_eq!(wire.ask(get("api.good.test", "/")).unwrap().status, 200);
}

fn roots(tls: &Tls) -> Vec<rustls::pki_types::TrustAnchor<'static>> {
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(tls.roots.iter().cloned());
    store.roots
}

/// A ClientHello of an old version, with an SNI, by hand: no library of today makes one.
fn old_hello(minor: u8) -> Vec<u8> {
    let name = b"api.good.test";
    let length = name.len() as u16;
    let mut sni = vec![0, 0];
    sni.extend((length + 5).to_be_bytes());
    sni.extend((length + 3).to_be_bytes());
    sni.push(0);
    sni.extend(length.to_be_bytes());
    sni.extend(name);
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0x00, 0x2f, 0x00, 0x35]);
    body.extend([1, 0]);
    body.extend((sni.len() as u16).to_be_bytes());
    body.extend(sni);
    let mut record = vec![22, 3, minor.min(1)];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

#[test]
fn tl_07_old_versions_are_told_so() {
    let bed = Bed::new(P1);
    for minor in [0, 1, 2] {
        let mark = bed.mark();
        let mut wire = bed.tcp(PUB1, 443);
        wire.send(old_hello(minor));
        let (answer, end) = wire.rest();
        assert!(matches!(end, End::Closed | End::Reset), "3.{minor}: {end:?}");
        let protocol_version = u8::from(AlertDescription::ProtocolVersion);
        assert!(
            answer.len() == 7 && answer[0] == 21 && answer[6] == protocol_version,
            "3.{minor}: {answer:?}"
        );
        bed.since(mark, 1).nothing_upstream().no_query().decided("deny", &["tls_version"]);
    }
    let version_two = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80];
    let mark = bed.mark();
    let mut wire = bed.tcp(PUB1, 443);
    wire.send([&version_two[..], &[0; 40]].concat());
    assert!(matches!(wire.rest().1, End::Closed | End::Reset));
    bed.since(mark, 1).nothing_upstream().decided("deny", &["tls_version", "protocol"]);
}

#[test]
fn tl_08_an_unknown_alpn_is_no_tunnel() {
    let bed = Bed::new(P1);
    let with = |alpn: Vec<&'static str>| bed.tcp(PUB1, 443).secure(&Tls { alpn, ..bed.tls("api.good.test") });
    let mut none = with(vec![]).unwrap();
    assert_eq!(none.alpn(), None);
    assert_eq!(none.ask(get("api.good.test", "/")).unwrap().status, 200);
    assert_eq!(with(vec!["h2", "http/1.1"]).unwrap().alpn().as_deref(), Some("h2"));
    assert_eq!(with(vec!["foo", "http/1.1"]).unwrap().alpn().as_deref(), Some("http/1.1"));
    for alpn in ["foo", "dot", "h3", "imap", "acme-tls/1"] {
        let mark = bed.mark();
        let end = with(vec![alpn]).err();
        assert_eq!(end, Some(End::Alert(AlertDescription::NoApplicationProtocol)), "{alpn}");
        bed.since(mark, 1).nothing_upstream().decided("deny", &["alpn"]);
    }
}

#[test]
fn tl_14_what_is_not_tls_on_443_and_not_http_on_80_is_closed() {
    let bed = Bed::new(P1);
    let random = "\u{7}\u{1b}\u{2}garbage\u{3}that nobody speaks\u{4}\u{5}\u{6}0123456789";
    let clear = get("api.good.test", "/");
    let cases: [(u16, Vec<u8>); 5] = [
        (443, clear.clone().into_bytes()),
        (443, b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        (443, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        (443, random.as_bytes().to_vec()),
        (80, hello(&mut bed.tls("api.good.test").connection())),
    ];
    for (port, bytes) in cases {
        let mark = bed.mark();
        let mut wire = bed.tcp(PUB1, port);
        wire.send(&bytes);
        let (_, end) = wire.rest();
        assert!(matches!(end, End::Closed | End::Reset), "port {port}, {bytes:?}: {end:?}");
        bed.since(mark, 1)
            .nothing_upstream()
            .no_query()
            .decided("deny", &["protocol", "scheme_denied", "port_denied"]);
    }
    bed.control();
}

#[test]
fn tl_15_a_minted_leaf_names_exactly_its_host() {
    let bed = Bed::new(P1);
    let wire = bed.https(PUB1, "api.good.test").unwrap();
    let leaf = wire.leaf();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [x509_parser::extensions::GeneralName::DNSName("api.good.test")]);
    assert!(!leaf.is_ca() && leaf.raw_serial().len() >= 8);
    assert!(leaf.extended_key_usage().unwrap().unwrap().value.server_auth);
    let again = bed.https(PUB1, "files.good.test").unwrap().leaf();
    let (_, again) = x509_parser::parse_x509_certificate(&again).unwrap();
    assert_ne!(leaf.raw_serial(), again.raw_serial());
}

#[test]
fn tl_19_an_upstream_that_cannot_prove_its_name_gets_no_http_byte() {
    let names = ["expired.good.test", "selfsigned.good.test", "wronghost.good.test", "unknownroot.good.test"];
    let bed = Bed::new("[[rule]]\nname = \"all\"\nhosts = [\"*.good.test\"]\naction = \"allow\"\n");
    for name in names {
        let mark = bed.mark();
        assert_eq!(bed.fetch(name, get(name, "/")).map(|answer| answer.status), Some(502), "{name}");
        let taps = bed.since(mark, 1);
        assert_eq!(taps.upstream_text(), "", "{name}");
        assert!(!taps.syns().any(|packet| packet.to.port() == 80), "no fall-back to clear text");
        let id = taps.decisions[0].text("id").to_owned();
        let says_why = |record: &Record| record.text("id") == id && record.mentions("upstream_cert");
        bed.gate.wait_for_record("upstream_cert, for this id", says_why);
    }
    bed.control();
}
