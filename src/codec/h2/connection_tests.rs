//! Raw frames: `read` and `wrote` take what a connection would bring, and say what the driver is told.

use super::super::seam::watched;
use super::*;
use std::time::Duration;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request's head, whole: END_STREAM and END_HEADERS.
fn get(stream: u32, path: &str) -> Vec<u8> {
    let block = [&[0x82, 0x87, 0x04, u8::try_from(path.len()).unwrap()][..], path.as_bytes()].concat();
    frame(frames::HEADERS, 0x5, stream, &block)
}

/// A state whose preface has come.
fn state() -> Connection {
    let mut state = Connection::new();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(frames::SETTINGS, 0, 0, &[])].concat();
    assert_eq!(state.read(&preface), preface.len());
    state.idle = Budget::new(budget::IDLE_FRAMES);
    state
}

/// How many of these frames are let through, one read each.
fn passed(state: &mut Connection, frame: &[u8], times: usize) -> usize {
    (0..times).take_while(|_| state.read(frame) == frame.len()).count()
}

#[tokio::test(start_paused = true)]
async fn ht_04_each_kind_of_frame_without_work_is_bounded_and_named() {
    let floods = [
        (frame(frames::SETTINGS, 0, 0, &[]), "SETTINGS"),
        (frame(frames::SETTINGS, 1, 0, &[]), "SETTINGS"),
        (frame(frames::PING, 0, 0, &[0; 8]), "PING"),
        (frame(frames::PRIORITY, 0, 1, &[0; 5]), "PRIORITY"),
        (frame(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), "WINDOW_UPDATE"),
        (frame(0xee, 0, 0, b"?"), "unknown"),
        (frame(frames::DATA, 0, 1, &[]), "empty DATA"),
        (frame(frames::CONTINUATION, 0, 1, &[]), "CONTINUATION"),
        (frame(frames::HEADERS, 0x4, 1, &[]), "HEADERS"),
    ];
    for (frame, name) in floods {
        let mut state = state();
        state.read(&get(1, "/"));
        assert_eq!(passed(&mut state, &frame, 200_000), 4000, "{name}");
        assert_eq!(state.fault, Some((Fault::Flood(name), Noted::Nowhere)));
    }
    let mut large = state();
    assert_eq!(passed(&mut large, &frame(0xee, 0, 0, &[0; 16 * 1024]), 1000), 4000 / 65, "by size as well");
}

#[tokio::test(start_paused = true)]
async fn ht_04_the_bytes_before_a_fault_pass_and_none_behind_it() {
    let mut state = state();
    let flood = frame(frames::PING, 0, 0, &[0; 8]).repeat(5000);
    assert_eq!(state.read(&flood), 4000 * 17);
}

#[tokio::test(start_paused = true)]
async fn ht_04_work_either_way_grants_more_of_it() {
    let mut state = state();
    let update = frame(frames::WINDOW_UPDATE, 0, 1, &[0, 0, 0x40, 0]);
    for n in 0..100_000 {
        state.wrote(&frame(frames::DATA, 0, 1, &[0; 1024]));
        assert_eq!(passed(&mut state, &update, 2), 2, "a download, frame {n}");
        assert_eq!(passed(&mut state, &frame(frames::DATA, 0, 1, &[0; 300]), 1), 1);
        assert_eq!(passed(&mut state, &frame(frames::PING, 0, 0, &[0; 8]), 1), 1, "an upload, frame {n}");
    }
    for n in 0..100_000 {
        state.read(&get(3 + 2 * n, "/"));
        state.take(3 + 2 * n);
        assert_eq!(passed(&mut state, &update, 8), 8, "requests, number {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn ht_01_resets_are_bounded_and_streams_that_end_in_order_grant_more() {
    let reset = |stream| frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let mut state = state();
    let flood = (0..20_000).take_while(|n| {
        let both = [get(2 * n + 1, "/"), reset(2 * n + 1)].concat();
        state.read(&both) == both.len()
    });
    assert_eq!(flood.count(), 200);
    assert_eq!(state.fault, Some((Fault::Resets, Noted::Nowhere)));

    let mut state = self::state();
    for n in 0..20_000 {
        assert_eq!(passed(&mut state, &[get(2 * n + 1, "/"), reset(2 * n + 1)].concat(), 1), 1, "{n}");
        state.wrote(&frame(frames::DATA, 1, 2 * n + 1, b"end"));
    }
}

#[tokio::test(start_paused = true)]
async fn pm_14_a_fragment_is_told_with_its_stream_however_the_head_comes() {
    let bad = [0x82, 0x87, 0x44, 3, b'/', b'a', b'#'];
    let continued = |pieces: usize| {
        let mut out = Vec::new();
        let last = bad.chunks(pieces).count() - 1;
        for (n, piece) in bad.chunks(pieces).enumerate() {
            let ends = if n == last { 0x4 } else { 0 };
            match n {
                0 => out.extend(frame(
                    frames::HEADERS,
                    0x1 | 0x8 | 0x20 | ends,
                    3,
                    &[&[2, 0, 0, 0, 0, 9][..], piece, &[0, 0]].concat(),
                )),
                _ => out.extend(frame(frames::CONTINUATION, ends, 3, piece)),
            }
        }
        out
    };
    for size in 1..=bad.len() {
        for step in [1, 2, 7, 1000] {
            let mut state = state();
            state.read(&get(1, "/good"));
            for bytes in continued(size).chunks(step) {
                assert_eq!(state.read(bytes), bytes.len());
            }
            assert!(state.since.is_none(), "the head is whole");
            assert!(state.take(3).unwrap().fragment, "frames of {size}, reads of {step}");
            assert!(!state.take(1).unwrap().fragment);
            let again = frame(frames::HEADERS, 0x5, 5, &[0x82, 0x87, 0x80 | 62]);
            state.read(&again);
            assert!(state.take(5).unwrap().fragment, "out of the table");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ht_12_a_head_that_does_not_end_is_timed_from_its_first_byte() {
    let mut state = state();
    assert!(state.since.is_none());
    state.read(&frame(frames::HEADERS, 0, 1, &[0x82]));
    let begun = state.since.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    state.read(&frame(frames::CONTINUATION, 0, 1, &[0x87]));
    assert_eq!(state.since, Some(begun));
    state.read(&frame(frames::CONTINUATION, 0x4, 1, &[0x84]));
    assert!(state.since.is_none());
}

#[tokio::test(start_paused = true)]
async fn ht_02_a_block_without_end_is_bounded() {
    let mut state = state();
    state.read(&frame(frames::HEADERS, 0, 1, &[]));
    let taken = passed(&mut state, &frame(frames::CONTINUATION, 0, 1, &[0; 16 * 1024]), 10_000);
    assert_eq!((taken, state.fault), (8, Some((Fault::Block, Noted::Nowhere))));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_crate_refuses_is_told_and_one_that_was_taken_is_not() {
    let mut state = state();
    state.read(&[get(1, "/"), get(3, "/"), get(5, "/"), get(7, "/")].concat());
    let _taken = state.take(1);
    let reset = |stream, code| frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, code]);
    // What goes out comes in any pieces, with an answer of the crate's own before the last.
    let out = [
        frame(frames::SETTINGS, 1, 0, &[]),
        reset(1, 2),
        reset(3, 1),
        reset(5, 7),
        frame(frames::HEADERS, 0x4, 7, &[0x48]),
        reset(7, 1),
    ];
    out.concat().chunks(5).for_each(|bytes| state.wrote(bytes));
    let refused = [
        RefusedStream::Reset(Reason::PROTOCOL_ERROR),
        RefusedStream::Reset(Reason::REFUSED_STREAM),
        RefusedStream::Answered,
    ];
    assert_eq!(state.refused, refused);
    assert!(state.begun.is_empty());
    assert!(state.take(3).is_none(), "its record is written");
    assert!(!state.said.gave_up);
    state.wrote(&frame(frames::GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 0]));
    assert!(!state.said.gave_up, "an end in order");
    state.wrote(&frame(frames::GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11, b'w', b'h', b'y']));
    assert!(state.said.gave_up);
}

/// The crate's encoder and the seam see the same table: indexed paths of all lengths come through, none is refused.
#[tokio::test]
async fn heads_of_the_crates_own_encoder_are_followed_to_the_end() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (io, watch) = watched(far);
    let tasks = crate::rt::Tasks::new();
    tasks.spawn("server", async move {
        let mut server = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, mut respond))) = server.accept().await {
            assert!(!watch.take(respond.stream_id().as_u32()).unwrap().fragment);
            let told = watch.told();
            assert!(told.fault.is_none() && told.refused.is_empty(), "{told:?}");
            respond.send_response(http::Response::new(()), true).unwrap();
        }
    });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    tasks.spawn("client", async move { drop(connection.await) });
    let mut client = client.ready().await.unwrap();
    for n in 0..2000_usize {
        let long = "a-Z09 ~%#é".repeat(n * 7 % 97);
        let request = http::Request::get(format!("https://a.test/{}/{n}", "p".repeat(n * 31 % 331)))
            .header(format!("x-{}", n % 53), http::HeaderValue::from_str(&long).unwrap())
            .header("x-path", format!("/a#{}", n % 5))
            .body(())
            .unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200, "request {n}");
    }
}

/// Trailers of a stream that was taken.
fn trailers(state: &mut Connection, fields: &[u8]) -> Taken {
    state.read(&frame(frames::HEADERS, 0x4, 1, &[0x83, 0x87, 0x84]));
    let taken = state.take(1).unwrap();
    state.read(&frame(frames::HEADERS, 0x5, 1, fields));
    taken
}

#[tokio::test(start_paused = true)]
async fn gi1_what_a_taken_stream_does_is_noted_with_it_alone() {
    let mut good = state();
    assert_eq!(trailers(&mut good, b"\x10\x03x-t\x01a").conduct.breach(), None);
    assert_eq!(good.fault, None);
    let mut pseudo = state();
    assert!(trailers(&mut pseudo, &[0x84]).conduct.breach().is_some());
    assert_eq!(pseudo.fault, None, "an error of the stream");
    for fields in [&b"\x10\x03X-T\x01a"[..], b"\x10\x03x-t\x03a\r\n", &[0x80]] {
        let mut odd = state();
        assert!(trailers(&mut odd, fields).conduct.breach().is_some());
        assert!(matches!(odd.fault, Some((_, Noted::WithStream))), "{:?}", odd.fault);
        let mut over = state();
        drop(trailers(&mut over, b"\x10\x03x-t\x01a"));
        over.read(&frame(frames::HEADERS, 0x5, 1, fields));
        assert!(matches!(over.fault, Some((_, Noted::Nowhere))), "nobody is left to tell it");
    }
    let mut early = state();
    early.read(
        &[frame(frames::HEADERS, 0x4, 1, &[0x83, 0x87, 0x84]), frame(frames::HEADERS, 5, 1, &[0x84])]
            .concat(),
    );
    assert!(early.take(1).unwrap().conduct.breach().is_some(), "also before it is taken");
    let mut late = state();
    late.read(&frame(frames::HEADERS, 0x4, 1, &[0x83, 0x87, 0x84]));
    let taken = late.take(1).unwrap();
    late.read(&frame(frames::HEADERS, 0x1, 3, &[0x83]));
    assert_eq!(late.note_block("late"), Noted::Nowhere, "another stream's head");
    let mut late = state();
    let reset = frame(frames::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    late.read(&frame(frames::HEADERS, 0x4, 1, &[0x83, 0x87, 0x84]));
    let other = late.take(1).unwrap();
    late.read(&[frame(frames::HEADERS, 0x1, 1, &[0x84])].concat());
    assert_eq!(late.note_block("late"), Noted::WithStream);
    assert_eq!((taken.conduct.breach(), other.conduct.breach()), (None, Some("late")));
    assert!(!other.conduct.has_left());
    late.read(&reset);
    assert!(other.conduct.has_left());
}

#[tokio::test(start_paused = true)]
async fn ht_09_the_first_frame_is_settings_and_sizes_and_windows_are_right() {
    let mut none = Connection::new();
    let first = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &get(1, "/")].concat();
    assert_eq!((none.read(&first), none.fault), (24, Some((Fault::First, Noted::Nowhere))));
    let mut size = state();
    let good = get(1, "/");
    let bad = [&good[..], &frame(frames::PING, 0, 0, &[0; 7])].concat();
    assert_eq!(
        (size.read(&bad), size.fault.map(|(fault, _)| fault)),
        (good.len(), Some(Fault::Size("PING")))
    );
    let mut window = state();
    window.read(&frame(frames::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]));
    assert_eq!(window.fault.map(|(fault, _)| fault), Some(Fault::Window));
}
