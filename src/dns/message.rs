//! Reads one DNS message of a client, strictly and without I/O. What is not one plain question is answered by its
//! header alone, or not at all; a fuzzer may own this file. The DNS library parses the records; what it lets pass
//! (several questions, compressed questions, bytes behind the message, counts that only cost memory) is refused here.

use super::Transport;
use crate::base::HostName;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use std::fmt::Write;
use std::net::SocketAddr;

/// What came in.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "taken apart at once; a box would be an allocation for each question"
)]
pub enum Incoming {
    /// Too short to answer, or itself an answer.
    Silence,
    /// Answered with a header that only carries a code.
    Reject { reply: [u8; HEADER], why: Malformed },
    /// Exactly one question.
    Question(Request),
}

/// Why a message was not taken as a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the operation is not a query")]
    Operation,
    #[error("there is not exactly one question, or there are more records than a question carries")]
    Counts,
    #[error("the message cannot be parsed")]
    Syntax,
    #[error("bytes follow the message")]
    Trailing,
}

const HEADER: usize = 12;
/// Of an OPT and a TSIG; the authority section holds the SOA of an IXFR (RFC 1995).
const ADDITIONALS: u16 = 2;
const AUTHORITIES: u16 = 1;

/// Reads one whole message.
pub fn read(bytes: &[u8], source: SocketAddr, transport: Transport) -> Incoming {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else { return Incoming::Silence };
    let [_, _, flags, _, qd0, qd1, an0, an1, ns0, ns1, ar0, ar1] = *header;
    if flags & 0x80 != 0 {
        return Incoming::Silence;
    }
    if flags & 0x78 != 0 {
        return reject(header, ResponseCode::NotImp, Malformed::Operation);
    }
    let [questions, answers] = [[qd0, qd1], [an0, an1]].map(u16::from_be_bytes);
    let [authorities, additionals] = [[ns0, ns1], [ar0, ar1]].map(u16::from_be_bytes);
    if questions != 1 || answers != 0 || authorities > AUTHORITIES || additionals > ADDITIONALS {
        return reject(header, ResponseCode::FormErr, Malformed::Counts);
    }
    let protocol = match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let Ok(request) = Request::from_bytes(bytes.to_vec(), source, protocol) else {
        return reject(header, ResponseCode::FormErr, Malformed::Syntax);
    };
    match question_end(&request).and_then(|end| end_of_records(bytes, end, authorities + additionals)) {
        Some(end) if end == bytes.len() => Incoming::Question(request),
        Some(_) => reject(header, ResponseCode::FormErr, Malformed::Trailing),
        None => reject(header, ResponseCode::FormErr, Malformed::Syntax),
    }
}

/// The header of `request` turned into an answer that carries only `code`.
fn reject(request: &[u8; HEADER], code: ResponseCode, why: Malformed) -> Incoming {
    let [id0, id1, flags, ..] = *request;
    // Answer bit set; operation and "recursion desired" as they came; "recursion available" set.
    let reply = [id0, id1, 0x80 | (flags & 0x79), 0x80 | (code.low() & 0x0f), 0, 0, 0, 0, 0, 0, 0, 0];
    Incoming::Reject { reply, why }
}

/// Where the question ends; `None` where its name was compressed, which no honest client does.
fn question_end(request: &Request) -> Option<usize> {
    let wire = request.queries.as_bytes().len();
    let name = request.queries.queries().first()?.original().name();
    let plain = name.iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4;
    (plain == wire).then_some(HEADER + wire)
}

/// Steps over `count` records.
fn end_of_records(bytes: &[u8], start: usize, count: u16) -> Option<usize> {
    let mut decoder = BinDecoder::new(bytes);
    decoder.read_slice(start).ok()?;
    for _ in 0..count {
        Name::read(&mut decoder).ok()?;
        decoder.read_slice(8).ok()?;
        let length = decoder.read_u16().ok()?.unverified();
        decoder.read_slice(length.into()).ok()?;
    }
    Some(decoder.index())
}

/// The canonical name, label by label: a label that holds a dot is no two labels.
pub(super) fn host_name(name: &Name) -> Option<HostName> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|b| char::from(*b)));
    }
    HostName::parse(&text).ok()
}

/// A name as text that holds only printable ASCII: other bytes, quotes, backslashes and dots inside a label are
/// written `\DDD` (RFC 1035 section 5.1), so that different names never look the same.
pub(super) fn name_text(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            match byte {
                b'\\' | b'.' | b'"' | ..=b' ' | 0x7f.. => write!(text, "\\{byte:03}").unwrap_or_default(),
                plain => text.push(char::from(plain.to_ascii_lowercase())),
            }
        }
    }
    if text.is_empty() { ".".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_udp(bytes: &[u8]) -> Incoming {
        read(bytes, "192.0.2.7:5353".parse().unwrap(), Transport::Udp)
    }

    fn query(name: &[u8], tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 1, 0, 1]);
        bytes.extend_from_slice(tail);
        bytes
    }

    fn rejected(bytes: &[u8]) -> (u8, Malformed) {
        match read_udp(bytes) {
            Incoming::Reject { reply, why } => {
                assert_eq!(reply[..2], bytes[..2], "the id comes back");
                assert_eq!(reply[2] & 0x80, 0x80);
                (reply[3] & 0x0f, why)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn dn_25_malformed_messages_get_formerr_or_silence() {
        assert!(matches!(read_udp(&[0; 11]), Incoming::Silence));
        assert!(matches!(read_udp(&query(b"\x01a\0", b"")), Incoming::Question(_)));
        let counts = |qd: u8, an: u8, ns: u8, ar: u8| {
            let mut bytes = query(b"\x01a\0", b"");
            (bytes[5], bytes[7], bytes[9], bytes[11]) = (qd, an, ns, ar);
            rejected(&bytes)
        };
        assert_eq!(counts(0, 0, 0, 0), (1, Malformed::Counts));
        assert_eq!(counts(2, 0, 0, 0), (1, Malformed::Counts));
        assert_eq!(counts(255, 255, 255, 255), (1, Malformed::Counts));
        assert_eq!(counts(1, 0, 0, 1), (1, Malformed::Syntax), "an additional that is not there");
        let long_name = [&[63u8; 64][..]; 4].concat();
        for name in [
            &b"\x40aaaa\0"[..],
            b"\xc0\x0c",
            b"\xc0\xff",
            b"\x01a\xc0\x0c",
            b"\x01a\xc0\x00",
            b"\xc0\x00",
            b"\x80",
            b"\x05ab",
            &[&long_name[..], b"\0"].concat(),
        ] {
            assert_eq!(rejected(&query(name, b"")).0, 1, "{name:?}");
        }
        assert_eq!(rejected(&query(b"\x01a\0", b"garbage")), (1, Malformed::Trailing));
        let whole = query(b"\x01a\0", b"");
        for end in 12..whole.len() {
            assert_eq!(rejected(&whole[..end]).0, 1);
        }
    }

    #[test]
    fn dn_38_other_operations_are_not_implemented() {
        for opcode in [1u8, 2, 4, 5, 6, 15] {
            let mut bytes = query(b"\x01a\0", b"");
            bytes[2] = opcode << 3;
            assert_eq!(rejected(&bytes), (4, Malformed::Operation));
        }
    }

    #[test]
    fn answers_are_never_answered() {
        let mut bytes = query(b"\x01a\0", b"");
        bytes[2] |= 0x80;
        assert!(matches!(read_udp(&bytes), Incoming::Silence));
    }

    #[test]
    fn a_dot_inside_a_label_is_another_name() {
        let dotted = Name::from_labels([&b"a.b"[..], b"test"]).unwrap();
        assert_eq!(host_name(&dotted), None);
        assert_eq!(name_text(&dotted), "a\\046b.test");
        let plain = Name::from_labels([&b"A"[..], b"b", b"test"]).unwrap();
        assert_eq!(host_name(&plain).unwrap().as_str(), "a.b.test");
    }

    #[test]
    fn dn_43_odd_bytes_are_escaped() {
        let odd = Name::from_labels([&b"a\n\x1b\"\0\xff\\"[..], b"test"]).unwrap();
        assert_eq!(name_text(&odd), "a\\010\\027\\034\\000\\255\\092.test");
        assert_eq!(host_name(&odd), None);
        assert_eq!(name_text(&Name::root()), ".");
    }
}
