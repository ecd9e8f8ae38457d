//! Property: any bytes get silence, a question or a refusal, over UDP and TCP alike, and never a panic. A refusal is a
//! message that a client can read: an answer with its id, a code and nothing else.
#![no_main]

use hickory_proto::op::{Message, MessageType, ResponseCode};
use libfuzzer_sys::fuzz_target;
use outgate::dns::{Incoming, Transport, read_message};

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > usize::from(u16::MAX) {
        return;
    }
    let source = ([10, 77, 1, 2], 40_000).into();
    let udp = read_message(bytes, source, Transport::Udp);
    let tcp = read_message(bytes, source, Transport::Tcp);
    match (&udp, &tcp) {
        (Incoming::Silence, Incoming::Silence) => {
            assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0, "a question got no answer");
        }
        (Incoming::Reject { reply, why }, Incoming::Reject { reply: tcp_reply, why: tcp_why }) => {
            assert_eq!((reply, why), (tcp_reply, tcp_why));
            assert_eq!(reply[..2], bytes[..2], "the id is another");
            let answer = Message::from_vec(reply).expect("a refusal that is no message");
            assert_eq!(answer.metadata.message_type, MessageType::Response);
            assert_ne!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.queries.is_empty() && answer.answers.is_empty());
        }
        (Incoming::Question(request), Incoming::Question(_)) => {
            assert_eq!(request.queries.queries().len(), 1, "a question with more than one name");
        }
        _ => panic!("UDP gave {udp:?}, TCP gave {tcp:?}"),
    }
});
