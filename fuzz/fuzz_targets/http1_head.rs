//! Property: a request head has one reading. Read byte by byte or at once it gives the same head or is refused both
//! times, the same bytes are left, and the head that is written anew from what was understood reads the same again.
#![no_main]

use bytes::BytesMut;
use http::header::HOST;
use libfuzzer_sys::fuzz_target;
use outgate::codec::h1::{HeadError, HeadLimits, RequestHead, encode_request, parse_request};

const LIMITS: HeadLimits = HeadLimits { bytes: 2048, fields: 32 };

type Reading = Result<Option<(RequestHead, usize)>, HeadError>;

/// The head, and how many bytes of the input it took.
fn at_once(bytes: &[u8]) -> Reading {
    let mut buf = BytesMut::from(bytes);
    let head = parse_request(&mut buf, 0, &LIMITS)?;
    Ok(head.map(|head| (head, bytes.len() - buf.len())))
}

fn byte_by_byte(bytes: &[u8]) -> Reading {
    let mut buf = BytesMut::new();
    for (seen, byte) in bytes.iter().enumerate() {
        buf.extend_from_slice(&[*byte]);
        if let Some(head) = parse_request(&mut buf, seen, &LIMITS)? {
            assert!(buf.is_empty(), "the head ended before its last byte came");
            return Ok(Some((head, seen + 1)));
        }
    }
    Ok(None)
}

fn same(one: &RequestHead, other: &RequestHead) -> bool {
    one.method == other.method
        && one.target == other.target
        && one.headers == other.headers
        && one.framing == other.framing
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > 2 * LIMITS.bytes {
        return;
    }
    let (whole, pieces) = (at_once(bytes), byte_by_byte(bytes));
    let Ok(Some((head, length))) = whole else {
        match (whole, pieces) {
            // Of several faults the pieces show the first, and above the limit the two may stop at different ones.
            (Err(HeadError::Syntax(_)), Err(HeadError::Syntax(_))) => {}
            (Err(whole), Err(pieces)) => assert!(whole == pieces || bytes.len() > LIMITS.bytes),
            (Ok(None), Ok(None)) => {}
            (whole, pieces) => panic!("at once {whole:?}, byte by byte {pieces:?}"),
        }
        return;
    };
    let Ok(Some((piece_head, piece_length))) = pieces else { panic!("only at once: {head:?}") };
    assert!(same(&head, &piece_head), "{head:?} is not {piece_head:?}");
    assert_eq!(length, piece_length);
    assert_eq!(
        (head.version, head.persistence, head.expects_continue),
        (piece_head.version, piece_head.persistence, piece_head.expects_continue)
    );

    let mut fields = head.headers.clone();
    fields.remove(HOST);
    let mut written = BytesMut::new();
    encode_request(&mut written, &head.method, &head.target, "host.test", &fields, head.framing);
    // What is written may be larger than what came (`a:b` becomes `a: b`).
    let limits = HeadLimits { bytes: 4 * LIMITS.bytes, fields: 2 * LIMITS.fields };
    let again = parse_request(&mut written, 0, &limits);
    let Ok(Some(mut again)) = again else { panic!("what was written is refused: {again:?}") };
    assert!(written.is_empty(), "what was written holds more than one head");
    assert_eq!(again.headers.remove(HOST).as_ref().map(|host| host.as_bytes()), Some(&b"host.test"[..]));
    let original = RequestHead { headers: fields, ..head };
    assert!(same(&original, &again), "{original:?} became {again:?}");
});
