//! Gauntlet CL-01, CL-07, CL-10 and CL-11: what an origin says arrives as it was said.

use crate::support::origin::Conversation;
use crate::support::pages::sha256;
use crate::support::*;

const FILE: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// An origin that knows ranges, validators, early hints, and answers without a body.
fn careful(peer: &mut Conversation) {
    while let Some(head) = peer.head() {
        let head = head.to_ascii_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let length = FILE.len();
        let has = |field: &str| head.contains(&format!("\r\n{field}\r\n"));
        match path {
            "/file" if has("if-none-match: \"v1\"") => peer.say("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n"),
            "/file" if head.starts_with("head ") => {
                peer.say(format!("HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: {length}\r\n\r\n"));
            }
            "/file" if head.contains("range: bytes=10-") && !has("if-range: \"v0\"") => {
                let rest = &FILE[10..];
                peer.say(format!(
                    "HTTP/1.1 206 Partial Content\r\nETag: \"v1\"\r\nContent-Range: bytes 10-{}/{length}\r\nContent-Length: {}\r\n\r\n",
                    length - 1,
                    rest.len()
                ));
                peer.say(rest);
            }
            "/file" => {
                peer.say(format!(
                    "HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\nContent-Length: {length}\r\n\r\n"
                ));
                peer.say(FILE);
            }
            "/hints" => peer.say(
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n\
                 HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhinted",
            ),
            "/none" => peer.say("HTTP/1.1 204 No Content\r\nX-Kept: 1\r\n\r\n"),
            "/cookies" => peer.say(
                "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2, still b; Secure\r\nSet-Cookie: c=3\r\n\
                 Content-Length: 2\r\n\r\nok",
            ),
            "/coded" => {
                peer.say(format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", coded().len()));
                peer.say(coded());
            }
            "/moved" => peer.say("HTTP/1.1 302 Found\r\nLocation: /file\r\nContent-Length: 0\r\n\r\n"),
            _ => peer.say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        }
    }
}

fn coded() -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(FILE).unwrap();
    encoder.finish().unwrap()
}

fn bed() -> Bed {
    let bed = Bed::new(P1);
    bed.world.origin.script((PUB1, 443), careful);
    bed
}

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

#[test]
fn cl_01_curl_follows_resumes_decodes_and_speaks_http_1_0() {
    let bed = bed();
    let file = String::from_utf8(FILE.to_vec()).unwrap();
    for version in VERSIONS {
        let curl = format!("curl -sS -m 20 {version}");
        assert_eq!(bed.succeed(&format!("{curl} -L https://api.good.test/moved")), file);
        let resumed =
            format!("printf 0123456789 > part && {curl} -C - -o part https://api.good.test/file && cat part");
        assert_eq!(bed.succeed(&resumed), file, "{version}");
        assert_eq!(bed.succeed(&format!("{curl} --compressed https://api.good.test/coded")), file);
    }
    assert_eq!(bed.succeed("curl -sS -m 20 --http1.0 https://api.good.test/file"), file);
}

#[test]
fn cl_10_ranges_validators_hints_and_answers_without_a_body_arrive_as_they_were() {
    let bed = bed();
    for version in VERSIONS {
        let ask = |more: &str| {
            bed.succeed(&format!("curl -sS -m 20 {version} -w ' %{{http_code}}' https://api.good.test{more}"))
        };
        assert_eq!(
            ask("/file -r 10- -H 'If-Range: \"v1\"'"),
            format!("{} 206", std::str::from_utf8(&FILE[10..]).unwrap())
        );
        assert_eq!(
            ask("/file -r 10- -H 'If-Range: \"v0\"'"),
            format!("{} 200", std::str::from_utf8(FILE).unwrap())
        );
        assert_eq!(ask("/file -H 'If-None-Match: \"v1\"'"), " 304");
        assert!(ask("/hints").ends_with("hinted 200"));
        assert_eq!(ask("/none"), " 204");
        let head = ask("/file -I").to_ascii_lowercase();
        assert!(head.contains("content-length: 36") && head.contains("etag: \"v1\""), "{version}: {head}");
        let cookies = ask("/cookies -D -").to_ascii_lowercase();
        let lines: Vec<_> =
            cookies.lines().filter(|line| line.starts_with("set-cookie: ")).map(str::trim).collect();
        let expected = ["set-cookie: a=1; path=/", "set-cookie: b=2, still b; secure", "set-cookie: c=3"];
        assert_eq!(lines, expected, "{version}");
        let bytes = format!("curl -sS -m 20 {version} https://api.good.test/coded | sha256sum");
        assert!(bed.succeed(&bytes).starts_with(&sha256(&coded())), "{version}: the coded bytes themselves");
    }
}

#[test]
fn cl_11_a_client_that_holds_another_address_of_the_name_is_served() {
    let bed = Bed::new(&P1.replace("\"files.good.test\"", "\"files.good.test\", \"cdn.good.test\""));
    assert_eq!(bed.resolve("cdn.good.test", crate::support::dns::A).addresses, [CDN]);
    let mark = bed.mark();
    // The name moved on; the client keeps what it was told first.
    bed.world.dns.set("files.good.test", &[PUB1, PUB2]);
    for held in [CDN, PUB2] {
        let answer = bed.https(held, "files.good.test").unwrap().ask(get("files.good.test", "/")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello from files.good.test\n"));
    }
    let taps = bed.since(mark, 2);
    assert!(
        taps.connections.iter().all(|seen| [PUB1, PUB2].contains(&seen.local.ip())),
        "resolved by the gate itself"
    );
    assert_eq!(taps.decisions[0].0["dst_mismatch"], serde_json::json!(true), "{}", taps.decisions[0].0);
    assert!(taps.decisions.iter().all(|record| record.text("verdict") == "allow"));
}

#[test]
fn cl_07_events_flow_one_by_one_with_redaction_on_and_a_credential_is_masked_across_chunks() {
    let bed = Bed::with(&Setup { policy: P4.to_owned(), environment: p4_environment(), ..Setup::default() });
    let (told, next) = std::sync::mpsc::channel::<String>();
    let next = std::sync::Mutex::new(next);
    bed.world.origin.script((PUB1, 443), move |peer| {
        let Some(_) = peer.head() else { return };
        peer.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Each piece is a chunk, and a TLS record, of its own.
        while let Ok(piece) = next.lock().unwrap().recv() {
            peer.say(format!("{:x}\r\n{piece}\r\n", piece.len()));
        }
        peer.say("0\r\n\r\n");
    });
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/events"));
    assert_eq!(wire.head().unwrap().status, 200);
    for number in 0..20 {
        told.send(format!("data: event {number}\n\n")).unwrap();
        let seen = wire.until(format!("event {number}\n\n").as_bytes());
        assert!(seen.is_some(), "event {number} came before the next was made");
    }
    for cut in [1, 7, K5.len() / 2, K5.len() - 1] {
        let (one, two) = K5.split_at(cut);
        told.send(format!("data: {one}")).unwrap();
        told.send(format!("{two}\n\ndata: end {cut}\n\n")).unwrap();
        let seen = wire.until(format!("data: end {cut}\n\n").as_bytes()).unwrap();
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(!seen.contains(&**K5), "cut at {cut}: {seen}");
        assert!(!seen.contains(&K5[cut.min(8)..]) || cut < 8, "cut at {cut}: {seen}");
    }
    drop(told);
    assert!(wire.until(b"0\r\n\r\n").is_some(), "the stream ends as a stream");
}
