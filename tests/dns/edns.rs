//! Gauntlet DN-29: the eighteen checks of RFC 8906 section 8, each under its number there.

use crate::gate::*;
use crate::peers::*;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinEncodable;

/// A question for an allowed name; with an OPT record of this version, flags and options where one is given.
fn question(qtype: u16, opt: Option<(u8, u16, &[u8])>) -> Vec<u8> {
    let mut bytes = query(fqdn("api.good.test"), RecordType::from(qtype), None).to_bytes().unwrap();
    if let Some((version, flags, options)) = opt {
        bytes[11] += 1;
        bytes.extend([0, 0, 41, 4, 208, 0, version]);
        bytes.extend(flags.to_be_bytes());
        bytes.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        bytes.extend(options);
    }
    bytes
}

/// The reply's bytes and what they say; it must be an answer to that question with the flags that are always off.
async fn reply(gate: &Gate, bytes: &[u8]) -> (Vec<u8>, Message) {
    let raw = exchange(gate.door, "127.0.0.1", bytes).await;
    assert_eq!((&raw[..2], raw[2] & 0x80), (&bytes[..2], 0x80));
    assert_eq!(raw[3] & 0x60, 0, "neither the reserved bit nor AD");
    let message = Message::from_vec(&raw).unwrap();
    (raw, message)
}

fn code(message: &Message) -> u16 {
    message.metadata.response_code.into()
}

const DO: u16 = 0x8000;
/// Option 100, three bytes.
const UNKNOWN: &[u8] = &[0, 100, 0, 3, 1, 2, 3];
/// NSID, a client subnet, a cookie.
const SEVERAL: &[u8] = &[0, 3, 0, 0, 0, 8, 0, 4, 0, 1, 0, 0, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];

#[tokio::test]
async fn dn_29_questions_without_edns() {
    let gate = Gate::start(public).await;
    let a = question(1, None);
    for (check, qtype) in [("8.1.1 SOA", 6), ("8.1.2 unknown type", 1000)] {
        let (_, message) = reply(&gate, &question(qtype, None)).await;
        assert_eq!(code(&message), 0, "{check}");
        assert!(message.answers.is_empty() && message.edns.is_none(), "{check}");
    }
    for (check, at, bit) in [
        ("8.1.3.1 CD", 3, 0x10),
        ("8.1.3.2 AD", 3, 0x20),
        ("8.1.3.3 reserved", 3, 0x40),
        ("8.1.3.4 RD off", 2, 0),
    ] {
        let mut asked = a.clone();
        asked[at] |= bit;
        if bit == 0 {
            asked[2] &= !1;
        }
        let (raw, message) = reply(&gate, &asked).await;
        assert_eq!((code(&message), ips(&message)), (0, vec![PUBLIC.to_owned()]), "{check}");
        assert_eq!(raw[2] & 1, asked[2] & 1, "{check}");
        assert_ne!(raw[3] & 0x80, 0, "{check}: recursion is there");
    }
    let mut unknown = a.clone();
    unknown[2] = 15 << 3;
    let raw = exchange(gate.door, "127.0.0.1", &unknown).await;
    assert_eq!((raw[3] & 0x0f, raw[2] & 0x78), (4, 15 << 3), "8.1.4: NOTIMP under the same opcode");
    let over_tcp = ask_tcp(gate.door, &Message::from_vec(&a).unwrap()).await;
    assert_eq!(ips(&over_tcp), [PUBLIC], "8.1.5");
}

#[tokio::test]
async fn dn_29_questions_with_edns() {
    let gate = Gate::start(public).await;
    for (check, version, flags, options, dnssec) in [
        ("8.2.1 version 0", 0, 0, &b""[..], false),
        ("8.2.2 unknown version", 100, 0, b"", false),
        ("8.2.3 unknown option", 0, 0, UNKNOWN, false),
        ("8.2.4 unknown flags", 0, 0x0040, b"", false),
        ("8.2.5 version 1, unknown flags", 1, 0x0040, b"", false),
        ("8.2.6 version 1, unknown option", 1, 0, UNKNOWN, false),
        ("8.2.8 DO", 0, DO, b"", true),
        ("8.2.9 version 1, DO", 1, DO, b"", true),
        ("8.2.10 several options", 0, 0, SEVERAL, false),
    ] {
        let (raw, message) = reply(&gate, &question(1, Some((version, flags, options)))).await;
        let said = message.edns.as_ref().unwrap_or_else(|| panic!("{check}: no OPT"));
        assert_eq!((said.version(), said.max_payload()), (0, 1232), "{check}");
        assert_eq!(said.flags().dnssec_ok, dnssec, "{check}");
        assert_eq!(said.flags().z, 0, "{check}: an unknown flag does not come back");
        assert!(said.options().as_ref().is_empty(), "{check}: an unknown option does not come back");
        if version == 0 {
            assert_eq!((code(&message), ips(&message)), (0, vec![PUBLIC.to_owned()]), "{check}");
        } else {
            assert_eq!(code(&message), 16, "{check}: BADVERS");
            assert!(message.answers.is_empty(), "{check}");
        }
        assert!(raw.len() <= 1232);
    }
    let two = {
        let mut bytes = question(1, Some((0, 0, b"")));
        bytes[11] += 1;
        bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        bytes
    };
    let raw = exchange(gate.door, "127.0.0.1", &two).await;
    assert_eq!(raw[3] & 0x0f, 1, "two OPT records are FORMERR (RFC 6891)");
}

#[tokio::test]
async fn dn_29_8_2_7_an_answer_that_is_cut_says_so_and_keeps_its_edns() {
    let gate = Gate::start(|name, _, _| {
        let many: Vec<String> = (0..60).map(|n| format!("93.184.216.{n}")).collect();
        Script::Records(addresses(name, 60, &many.iter().map(String::as_str).collect::<Vec<_>>()))
    })
    .await;
    let mut small = question(1, Some((0, DO, b"")));
    let size = small.len() - 8;
    small[size..size + 2].copy_from_slice(&512_u16.to_be_bytes());
    let (raw, message) = reply(&gate, &small).await;
    assert!(message.metadata.truncation && message.answers.is_empty() && raw.len() <= 512);
    assert!(message.edns.is_some());
    let whole = ask_tcp(gate.door, &query(fqdn("api.good.test"), RecordType::A, Some(1232))).await;
    assert_eq!(whole.answers.len(), 60);
}
