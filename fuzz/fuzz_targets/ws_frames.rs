//! Properties of WebSocket frames: what is understood does not depend on where reads end, a text is UTF-8, and what is
//! written of it is understood as the same again. The first three bytes choose the sender and the pieces.
#![no_main]

#[path = "../pieces.rs"]
mod pieces;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use outgate::codec::ws::{Decoder, Encoder, Event, Kind, Sender, Violation};
use pieces::cut;

/// A message with its fragments joined, or a control frame.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// `None`: not complete yet.
    Message(Kind, Vec<u8>, Option<()>),
    Control(Event),
}

fn read<'a>(sender: Sender, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Said>, Option<Violation>) {
    let mut decoder = Decoder::new(sender);
    let mut data = BytesMut::new();
    let mut said = Vec::new();
    for piece in pieces {
        data.extend_from_slice(piece);
        loop {
            let open = |said: &mut Vec<Said>| {
                said.iter().rposition(|one| matches!(one, Said::Message(..))).expect("a message has begun")
            };
            match decoder.next(&mut data) {
                Err(violation) => return (said, Some(violation)),
                Ok(None) => break,
                Ok(Some(Event::Begin(kind))) => said.push(Said::Message(kind, Vec::new(), None)),
                Ok(Some(Event::Fragment)) => {}
                Ok(Some(Event::Data(more))) => {
                    assert!(!more.is_empty(), "data without bytes");
                    let at = open(&mut said);
                    if let Said::Message(_, whole, None) = &mut said[at] {
                        whole.extend_from_slice(&more);
                    } else {
                        panic!("data behind the end of a message");
                    }
                }
                Ok(Some(Event::End)) => {
                    let at = open(&mut said);
                    if let Said::Message(kind, whole, end) = &mut said[at] {
                        assert!(
                            *kind == Kind::Binary || std::str::from_utf8(whole).is_ok(),
                            "a text is text"
                        );
                        assert!(end.replace(()).is_none(), "a message ends once");
                    }
                }
                Ok(Some(control)) => said.push(Said::Control(control)),
            }
        }
    }
    (said, None)
}

fuzz_target!(|input: &[u8]| {
    let [sender, most, seed, stream @ ..] = input else { return };
    let sender = if sender % 2 == 0 { Sender::Client } else { Sender::Server };
    let pieces = cut(stream, 1 + usize::from(*most), u32::from(*seed));
    let (said, violation) = read(sender, pieces.into_iter());
    let (whole, whole_violation) = read(sender, std::iter::once(stream));
    assert_eq!(violation, whole_violation, "another end in pieces");
    if violation.is_none() {
        assert_eq!(said, whole, "something else in pieces");
    }

    let (mut out, mut encoder) = (BytesMut::new(), Encoder::new(sender));
    let complete: Vec<Said> =
        whole.into_iter().filter(|one| !matches!(one, Said::Message(.., None))).collect();
    for one in &complete {
        let written = match one {
            Said::Message(kind, payload, _) => {
                let (first, rest) = payload.split_at(payload.len() / 2);
                encoder.data(&mut out, *kind, first, false).and(encoder.data(&mut out, *kind, rest, true))
            }
            Said::Control(Event::Ping(payload)) => encoder.ping(&mut out, payload),
            Said::Control(Event::Pong(payload)) => encoder.pong(&mut out, payload),
            Said::Control(Event::Close(close)) => encoder.close(&mut out, close),
            Said::Control(other) => panic!("{other:?}"),
        };
        written.expect("random numbers");
    }
    assert_eq!(read(sender, std::iter::once(&out[..])), (complete, None), "what is written reads otherwise");
});
