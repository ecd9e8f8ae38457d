//! The room as a whole: what is written is read, wherever the pieces end, and what is wrong is not.

use super::*;
use bytes::{Bytes, BytesMut};

/// Everything that a stream says, its data joined, when it comes in pieces of `size`.
fn read(sender: Sender, stream: &[u8], size: usize) -> (Vec<Event>, Option<Violation>) {
    let mut decoder = Decoder::new(sender);
    let (mut data, mut events) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(size.max(1)) {
        data.extend_from_slice(piece);
        loop {
            match decoder.next(&mut data) {
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
                Ok(Some(Event::Data(more))) => match events.last_mut() {
                    Some(Event::Data(known)) => *known = [&known[..], &more].concat().into(),
                    _ => events.push(Event::Data(more)),
                },
                Ok(Some(event)) => events.push(event),
            }
        }
    }
    (events, None)
}

fn every_cut(sender: Sender, stream: &[u8]) -> (Vec<Event>, Option<Violation>) {
    let whole = read(sender, stream, stream.len());
    for size in 1..stream.len() {
        let (events, violation) = read(sender, stream, size);
        assert_eq!(violation, whole.1, "in pieces of {size}");
        // Data before a fault may have been told already.
        if violation.is_none() {
            assert_eq!(events, whole.0, "in pieces of {size}");
        }
    }
    whole
}

#[test]
fn fr_12_messages_come_out_as_they_were_put_in() {
    for sender in [Sender::Client, Sender::Server] {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::new(sender);
        encoder.data(&mut out, Kind::Text, "hellö".as_bytes(), true).unwrap();
        encoder.data(&mut out, Kind::Binary, "llö".as_bytes(), false).unwrap();
        encoder.ping(&mut out, b"are you there").unwrap();
        encoder.data(&mut out, Kind::Binary, &[], false).unwrap();
        encoder.data(&mut out, Kind::Binary, b"he", true).unwrap();
        encoder.pong(&mut out, b"").unwrap();
        encoder.data(&mut out, Kind::Text, &[], true).unwrap();
        let close = Close { code: Some(code::NORMAL), reason: "bye".into() };
        encoder.close(&mut out, &close).unwrap();
        let wanted = vec![
            Event::Begin(Kind::Text),
            Event::Data("hellö".as_bytes().into()),
            Event::End,
            Event::Begin(Kind::Binary),
            Event::Data("llö".as_bytes().into()),
            Event::Fragment,
            Event::Ping(Bytes::from_static(b"are you there")),
            Event::Fragment,
            Event::Data(Bytes::from_static(b"he")),
            Event::End,
            Event::Pong(Bytes::new()),
            Event::Begin(Kind::Text),
            Event::End,
            Event::Close(close),
        ];
        assert_eq!(every_cut(sender, &out), (wanted, None));
    }
}

/// A frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8], payload].concat()
}

#[test]
fn fr_12_what_the_standard_forbids_between_frames_is_refused() {
    for (stream, code) in [
        ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002),
        (frame(0x80, b"goes on"), 1002),
        ([frame(0x81, b"a"), frame(0x00, b"b")].concat(), 1002),
        ([frame(0x01, b"\xE2\x82"), frame(0x80, b"x")].concat(), 1007),
        (frame(0x81, b"\xE2\x82"), 1007),
        (frame(0x88, &[3]), 1002),
        (frame(0x88, &1005_u16.to_be_bytes()), 1002),
        (frame(0x88, &999_u16.to_be_bytes()), 1002),
        (frame(0x88, &5000_u16.to_be_bytes()), 1002),
        (frame(0x88, b"\x03\xE8\xC0\xAF"), 1007),
    ] {
        let (_, violation) = every_cut(Sender::Server, &stream);
        assert_eq!(violation.map(Violation::code), Some(code), "{stream:?}");
    }
    let in_between = [frame(0x01, b"\xE2\x82"), frame(0x89, b"\xFF"), frame(0x80, b"\xAC")].concat();
    assert_eq!(every_cut(Sender::Server, &in_between).1, None, "a ping may stand inside a message");
}

#[test]
fn nothing_is_heard_after_a_close() {
    let (events, violation) = every_cut(Sender::Server, &[frame(0x88, b""), frame(0xFF, b"noise")].concat());
    assert_eq!((events, violation), (vec![Event::Close(Close::default())], None));
}

#[test]
fn a_client_masks_each_frame_anew() {
    let (mut out, mut encoder) = (BytesMut::new(), Encoder::new(Sender::Client));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..300 {
        out.clear();
        encoder.data(&mut out, Kind::Binary, &[0; 16], true).unwrap();
        seen.insert(out[2..6].to_vec());
        assert_eq!(out[6..10], out[2..6], "zeros show the mask itself");
    }
    assert!(seen.len() > 290, "{} masks of 300 differ", seen.len());
}

#[test]
fn the_beginning_of_a_huge_frame_is_told_before_its_end() {
    let mut decoder = Decoder::new(Sender::Server);
    let mut data = BytesMut::from(&[0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF][..]);
    assert_eq!(decoder.next(&mut data), Ok(Some(Event::Begin(Kind::Binary))));
    for _ in 0..3 {
        assert_eq!(decoder.next(&mut data), Ok(None));
        data.extend_from_slice(b"more");
        assert_eq!(decoder.next(&mut data), Ok(Some(Event::Data(Bytes::from_static(b"more")))));
    }
    assert!(decoder.is_inside_a_frame(&data));
}
