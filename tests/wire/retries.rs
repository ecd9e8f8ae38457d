//! Gauntlet TL-22: the second hello of a handshake, and sessions that are gone on with: what was decided on the first
//! hello stays, and nothing is taken before a handshake has ended.

use rustls::AlertDescription;

use crate::support::hello::*;
use crate::support::tls13::{DATA, Session, record};
use crate::support::*;

/// The random that makes a ServerHello a HelloRetryRequest (RFC 8446 section 4.1.3).
const RETRY: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

/// What a server says to the second hello of a client whose first had no share of any key.
fn retried(mut wire: Wire, first: &Hello, second: &[u8]) -> Says {
    wire.send(first.with(KEY_SHARE, vec![0, 0]).record());
    let header = wire.exactly(5).expect("a wish for another hello");
    let body = wire.exactly(usize::from(u16::from_be_bytes([header[3], header[4]]))).unwrap();
    assert!(header[0] == 22 && body[0] == 2 && body[6..10] == RETRY, "{body:?}");
    assert_eq!(wire.exactly(6).as_deref(), Some(&[20, 3, 3, 0, 1, 1][..]));
    wire.send(second);
    answer(wire)
}

#[test]
fn tl_22_a_second_hello_that_is_not_the_first_again_gets_no_answer() {
    let bed = Bed::new(P1);
    let hello = Hello::of("api.good.test");
    let denied = Hello::of("evil.test");
    let without = |kind: u16| {
        let mut other = hello.clone();
        other.extensions.retain(|(own, _)| *own != kind);
        other
    };
    let direct = || bed.tcp(PUB1, 443);
    let mark = bed.mark();
    let other_share = list(&[&0x0017_u16.to_be_bytes()[..], &list(&[4; 65])].concat());
    let cases: [(&str, Hello); 8] = [
        ("another name", denied.clone()),
        ("another allowed name", Hello::of("files.good.test")),
        ("no name", without(SERVER_NAME)),
        ("no share again", hello.with(KEY_SHARE, vec![0, 0])),
        ("a share of another group", hello.with(KEY_SHARE, other_share)),
        ("an old version", hello.with(VERSIONS, vec![2, 3, 3])),
        ("other suites", Hello { suites: vec![0xc02b], ..hello.clone() }),
        ("early data", hello.with(EARLY_DATA, vec![])),
    ];
    for (what, second) in cases {
        let said = retried(direct(), &hello, &second.record());
        assert_ne!(said, Says::ServerHello, "{what}");
    }
    // A name that comes late, to a tunnel that was opened for another one.
    let tunnel = bed.tunnel("api.good.test:443").unwrap();
    assert_ne!(retried(tunnel, &without(SERVER_NAME), &denied.record()), Says::ServerHello);
    bed.since(mark, 0).nothing_upstream().no_query();
    assert_eq!(retried(direct(), &hello, &hello.record()), Says::ServerHello, "the same, with a share");
    bed.control();
}

/// An offer to go on with a session that nobody can prove to know.
fn unproven(ticket: &[u8]) -> Vec<u8> {
    let identity = [&list(ticket)[..], &[0; 4]].concat();
    [list(&identity), list(&[&[32][..], &[9; 32]].concat())].concat()
}

#[test]
fn tl_22_early_data_is_not_taken_and_a_ticket_must_be_proven() {
    let bed = Bed::new(P1);
    let mut session = Session::open(bed.tcp(PUB1, 443), &bed.tls("api.good.test"));
    let request = "GET /before HTTP/1.1\r\nHost: api.good.test\r\nConnection: close\r\n\r\n";
    let said = session.say(DATA, request).rest();
    assert!(said.data.starts_with("HTTP/1.1 200 "), "{said:?}");
    // Type and length, lifetime, age, nonce, the ticket, extensions (RFC 8446 section 4.6.1).
    let message = &said.tickets[0][..];
    let nonce = usize::from(message[12]);
    let (length, rest) = message[13 + nonce..].split_at(2);
    let (ticket, extensions) = rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
    assert_eq!(extensions, [0, 0], "it does not speak of early data");

    let hello = Hello::of("api.good.test").with(KEY_EXCHANGE_MODES, vec![1, 1]).with(EARLY_DATA, vec![]);
    let early = record(DATA, &[7; 200]).repeat(3);
    let offered = hello.with(PRE_SHARED_KEY, unproven(b"no ticket of anybody"));
    let mark = bed.mark();
    assert_eq!(says(&bed, &[offered.record(), early.clone()].concat()), Says::ServerHello, "a new session");
    let offered = hello.with(PRE_SHARED_KEY, unproven(ticket));
    assert_eq!(says(&bed, &[offered.record(), early].concat()), alert(AlertDescription::DecryptError));
    let not_last = offered.with(ECH, vec![]);
    assert!(
        matches!(says(&bed, &not_last.record()), Says::Alert(_)),
        "an offer that is not the last extension"
    );
    bed.since(mark, 1).nothing_upstream().decided("deny", &["bad_request"]);
    bed.control();
}

/// Says that a session of OpenSSL's may send early data, whatever its server said (its ASN.1 has that as [15]).
const ALLOW_EARLY_DATA: &str = r#"
import base64
lines = open("session.pem").read().split("-----")
der = base64.b64decode(lines[2])
def field(at):
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        start += length - 0x80
        length = int.from_bytes(der[at + 2:start], "big")
    return start, start + length
at, end = field(0)
while at < end and not 0xaf < der[at] < 0xc0:
    at = field(at)[1]
start = field(0)[0]
body = der[start:at] + bytes.fromhex("af0402024000") + der[at:end]
whole = bytes([0x30, 0x82]) + len(body).to_bytes(2, "big") + body
lines[2] = "\n" + base64.encodebytes(whole).decode()
open("eager.pem", "w").write("-----".join(lines))
"#;

#[test]
fn tl_22_early_data_of_a_client_that_holds_a_ticket_reaches_nobody() {
    let bed = Bed::new(P1);
    std::fs::write(bed.gate.dir.join("allow.py"), ALLOW_EARLY_DATA).unwrap();
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: api.good.test\r\nConnection: close\r\n\r\n");
    std::fs::write(bed.gate.dir.join("before"), request("/before")).unwrap();
    std::fs::write(bed.gate.dir.join("early"), request("/early")).unwrap();
    let line = "openssl s_client -connect api.good.test:443 -servername api.good.test -tls1_3 -ign_eof";
    let first = bed.succeed(&format!("{line} -sess_out session.pem < before 2>&1"));
    assert!(first.contains("hello from api.good.test"), "{first}");
    let mark = bed.mark();
    let eager =
        bed.succeed(&format!("python3 allow.py; {line} -sess_in eager.pem -early_data early < before 2>&1"));
    assert!(eager.contains("Reused, TLSv1.3") && eager.contains("Early data was rejected"), "{eager}");
    assert!(eager.contains("hello from api.good.test"), "the session goes on without it: {eager}");
    let taps = bed.since(mark, 1);
    let targets: Vec<&str> = taps.requests.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/before"]);
}
