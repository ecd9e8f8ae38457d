//! The watch over raw frames: `read` and `wrote` take what a connection would bring, and say how it broke.

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const STREAM: u8 = 0x1;
const HEAD: u8 = 0x4;

/// A state whose preface has come and gone.
fn state() -> State {
    let mut state = State::new();
    state.wrote(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(state.read(&frame(frames::SETTINGS, 0, 0, &[])), Ok(()));
    state
}

fn ok(stream: u32) -> Vec<u8> {
    frame(frames::HEADERS, HEAD, stream, &[0x88])
}

#[tokio::test(start_paused = true)]
async fn ht_04_each_kind_of_frame_without_work_is_bounded_and_named() {
    let floods = [
        (frame(frames::SETTINGS, 1, 0, &[]), "SETTINGS"),
        (frame(frames::PING, 1, 0, &[0; 8]), "PING"),
        (frame(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), "WINDOW_UPDATE"),
        (frame(frames::RST_STREAM, 0, 1, &[0; 4]), "RST_STREAM"),
        (frame(frames::GOAWAY, 0, 0, &[0; 8]), "GOAWAY"),
        (frame(frames::DATA, 0, 1, &[]), "empty DATA"),
        (frame(frames::CONTINUATION, 0, 1, &[]), "CONTINUATION"),
        (frame(0xee, 0, 0, b"?"), "unknown"),
    ];
    for (frame, name) in floods {
        let mut state = state();
        // The preface was one of them.
        let all = frame.repeat(5000);
        assert_eq!(state.read(&all), Err((3999 * frame.len(), Breach::Flood(name))));
    }
    let ping = frame(frames::PING, 1, 0, &[0; 8]);
    let mut state = state();
    for stream in (1..20_000).step_by(2) {
        state.wrote(&frame(frames::HEADERS, HEAD | STREAM, stream, &[0x82]));
        let answer = [ping.repeat(15), ok(stream), frame(frames::DATA, STREAM, stream, b"hello")].concat();
        assert_eq!(state.read(&answer), Ok(()), "stream {stream}");
    }
}

#[test]
fn sm_36_a_breach_is_the_same_however_its_bytes_come_and_what_came_before_it_passes() {
    let early = frame(frames::HEADERS, HEAD, 1, &[0x08, 3, b'1', b'0', b'3']);
    let data = frame(frames::DATA, 0, 1, b"hello");
    let good = [early, ok(1), data].concat();
    let trailers = |block: &[u8]| frame(frames::HEADERS, HEAD | STREAM, 1, block);
    let bad = [
        (trailers(&[0x88]), Breach::Trailers),
        (trailers(&[0x84]), Breach::Trailers),
        (trailers(&[0, 1, b'x', 2, b'v', b' ']), Breach::Trailers),
        (frame(frames::HEADERS, HEAD, 3, &[0x88, 0x84]), Breach::Pseudo),
        (frame(frames::HEADERS, HEAD, 3, &[0xff, 0xff, 0xff, 0xff, 0xff]), Breach::Unreadable),
        (frame(frames::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9, 0, 2, 0, 0, 0, 1]), Breach::Push),
    ];
    for (bad, breach) in bad {
        let all = [&good[..], &bad, &good].concat();
        for size in [1, 2, 5, 9, 10, 13, all.len()] {
            let (mut state, mut passed, mut found) = (state(), 0, None);
            for piece in all.chunks(size) {
                match state.read(piece) {
                    Ok(()) => passed += piece.len(),
                    Err((more, breach)) => {
                        (passed, found) = (passed + more, Some(breach));
                        break;
                    }
                }
            }
            assert_eq!(found, Some(breach), "pieces of {size}");
            assert!(passed >= good.len() && passed < good.len() + bad.len(), "{breach}: {passed}");
        }
    }
    let mut honest = state();
    let end = trailers(&[0, 1, b'x', 1, b'v']);
    assert_eq!(honest.read(&[good, end].concat()), Ok(()));
}

#[test]
fn ht_02_a_block_without_end_is_bounded() {
    let mut state = state();
    assert_eq!(state.read(&frame(frames::HEADERS, 0, 1, &[])), Ok(()));
    let more = frame(frames::CONTINUATION, 0, 1, &[0; 16 * 1024]);
    let taken = (0..1000).take_while(|_| state.read(&more).is_ok()).count();
    assert_eq!((taken, state.read(&more).err().map(|(_, breach)| breach)), (8, Some(Breach::Block)));
}

#[test]
fn no_more_is_remembered_than_the_answers_that_are_under_way() {
    let mut state = state();
    let ends = |stream| {
        [
            frame(frames::DATA, STREAM, stream, b"x"),
            frame(frames::HEADERS, HEAD | STREAM, stream, &[0, 1, b'x', 1, b'v']),
            frame(frames::RST_STREAM, 0, stream, &[0; 4]),
        ]
    };
    for way in 0..3 {
        state.read(&ok(1)).unwrap();
        assert_eq!(state.answered, [1]);
        state.read(&ends(1)[way]).unwrap();
        assert!(state.answered.is_empty(), "{way}");
    }
    state.read(&ok(1)).unwrap();
    state.wrote(&ends(1)[2]);
    assert!(state.answered.is_empty(), "our own reset");
    for stream in (1..10_000).step_by(2) {
        state.read(&ok(stream)).unwrap();
    }
    assert_eq!(state.answered.len(), ANSWERED);
}

/// The crate's encoder and the watch see the same table: heads and trailers of all lengths come through.
#[tokio::test]
async fn answers_of_the_crates_own_encoder_are_followed_to_the_end() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (io, told) = answers(near);
    let tasks = crate::rt::Tasks::new();
    tasks.spawn("server", async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        let mut n = 0_usize;
        while let Some(Ok((_, mut respond))) = server.accept().await {
            n += 1;
            let long = "a-Z09 ~%#é".repeat(n * 7 % 97);
            let field = http::HeaderValue::from_str(long.trim()).unwrap();
            let status = [200, 204, 302, 404, 503][n % 5];
            let early = http::Response::builder().status(103).header("link", field.clone()).body(()).unwrap();
            respond.send_informational(early).unwrap();
            let head =
                http::Response::builder().status(status).header(format!("x-{}", n % 53), field.clone());
            let mut stream = respond.send_response(head.body(()).unwrap(), n.is_multiple_of(7)).unwrap();
            if !n.is_multiple_of(7) {
                let trailers = [(http::HeaderName::from_static("grpc-status"), field)];
                stream.send_trailers(trailers.into_iter().collect()).unwrap();
            }
        }
    });
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    tasks.spawn("client", async move { drop(connection.await) });
    let mut client = client.ready().await.unwrap();
    for n in 0..2000_usize {
        let request = http::Request::get("https://a.test/").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert!(body.data().await.is_none(), "answer {n}");
        assert_eq!(body.trailers().await.unwrap().is_some(), !(n + 1).is_multiple_of(7), "answer {n}");
        assert_eq!(told.get(), None);
    }
}
