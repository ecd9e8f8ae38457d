//! Gauntlet CL-01, CL-10 and CL-11: what curl does every day, by every door, and that nothing of an answer is changed.

use std::io::Write;

use crate::support::files::MODIFIED;
use crate::support::origin::Conversation;
use crate::support::pages::{pattern, sha256};
use crate::support::*;

const LARGE: usize = 64 << 20;

/// A door as curl is told of it: what stands before the path, and the options.
const DOORS: [(&str, &str); 6] = [
    ("http://plain.good.test", ""),
    ("https://api.good.test", "--http1.1"),
    ("https://api.good.test", "--http2"),
    ("http://plain.good.test", "-x http://10.77.1.1:3128"),
    ("https://api.good.test", "-x http://10.77.1.1:3128 --http1.1"),
    ("https://api.good.test", "-x http://10.77.1.1:3128 --http2"),
];

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn cl_01_curl_follows_resumes_decodes_and_speaks_http_1_0_by_every_door() {
    let bed = Bed::new(P1);
    let pages = &bed.world.origin.pages;
    let file = pattern(300_000);
    pages.serve_file("/file", "application/octet-stream", file.clone());
    let coded = gzipped(&file);
    let described = [("content-type", "application/octet-stream"), ("content-encoding", "gzip")];
    pages.serve_with("/coded", &described, coded.clone());
    for (base, options) in DOORS {
        let host = base.split("//").nth(1).unwrap();
        let line = format!(
            "curl='curl -sS -m 20 --fail {options}'; $curl -L -w '%{{num_redirects}}\\n' '{base}/redirect?/redirect?/after'; \
             rm -f part; $curl -r 0-99999 -o part {base}/file; $curl -C - -o part -w '%{{http_code}}\\n' {base}/file; \
             sha256sum < part; $curl --compressed {base}/coded | sha256sum; $curl {base}/coded | sha256sum; \
             curl -sS -m 20 {} --http1.0 {base}/trailers; ",
            options
                .split(" --")
                .next()
                .unwrap()
                .trim_start_matches("--http1.1")
                .trim_start_matches("--http2")
        );
        let hash = |bytes: &[u8]| format!("{}  -\n", sha256(bytes));
        let expected = format!(
            "hello from {host}\n2\n206\n{}{}{}body before trailers\n",
            hash(&file),
            hash(&file),
            hash(&coded)
        );
        assert_eq!(bed.succeed(&line), expected, "{base} {options}");
    }
}

#[test]
fn cl_01_a_redirect_to_another_host_is_judged_like_any_request() {
    let bed = Bed::new(P1);
    let follow = |options: &str, to: &str| {
        bed.program(&format!("curl -sS -m 20 {options} -L 'https://api.good.test/redirect?{to}'"))
    };
    for options in ["", "-x http://10.77.1.1:3128"] {
        let allowed = follow(options, "https://files.good.test/");
        assert_eq!(String::from_utf8_lossy(&allowed.stdout), "hello from files.good.test\n", "{allowed:?}");
        let denied = follow(options, "https://evil.test/");
        // The name does not resolve, or the proxy says no.
        let code = if options.is_empty() { 6 } else { 56 };
        assert_eq!(denied.status.code(), Some(code), "{denied:?}");
    }
}

#[test]
fn cl_10_sixty_four_megabytes_are_the_same_both_ways_over_h2() {
    let bed = Bed::new(P1);
    let body = pattern(LARGE);
    let hash = sha256(&body);
    std::fs::write(bed.gate.dir.join("large"), &body).unwrap();
    let down =
        bed.succeed(&format!("curl -sS -m 50 --http2 https://api.good.test/bytes/{LARGE} | sha256sum"));
    assert_eq!(down, format!("{hash}  -\n"));
    let up = bed.succeed("curl -sS -m 50 --http2 -T large https://api.good.test/upload");
    assert_eq!(up, format!("{LARGE} {hash}\n"));
    assert!(bed.world.origin.connections().iter().all(|seen| seen.is_h2()));
}

#[test]
fn cl_10_curl_is_told_to_continue_before_it_sends_its_body() {
    let bed = Bed::new(P1);
    let line = "head -c 3000000 /dev/zero > zeros; exec 2>&1; curl -sS -v -m 20 --http1.1 --expect100-timeout 30 \
                -H 'Expect: 100-continue' -T zeros https://api.good.test/upload";
    let said = bed.succeed(line);
    let (interim, last) = (said.find("< HTTP/1.1 100 "), said.find("< HTTP/1.1 200 "));
    assert!(interim.is_some() && interim < last, "{said}");
    assert!(said.contains(&format!("3000000 {}", sha256(&vec![0; 3_000_000]))), "{said}");
}

/// The head that curl was shown, one field a line, in lower case as h2 has it, and the body behind it.
fn shown(bed: &Bed, version: &str, options: &str, path: &str) -> (Vec<String>, Vec<u8>) {
    let line = format!("curl -sS -i -m 20 {version} {options} https://api.good.test{path}");
    let done = bed.program(&line);
    assert!(done.status.success(), "{line}: {done:?}");
    let end = done.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&done.stdout[..end]).into_owned();
    let field = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}", name.to_lowercase()),
        None => line.split(' ').nth(1).unwrap_or_default().to_owned(),
    };
    (head.lines().map(field).collect(), done.stdout[end + 4..].to_vec())
}

#[test]
fn cl_10_parts_conditions_cookies_and_codings_come_through_as_they_were() {
    let bed = Bed::new(P1);
    let body = gzipped(&pattern(50_000));
    let cookies: Vec<String> =
        (0..40).map(|number| format!("c{number}=a, b; Expires={MODIFIED}; Path=/")).collect();
    let mut fields = vec![("content-type", "text/plain; charset=utf-8"), ("content-encoding", "gzip")];
    fields.extend(cookies.iter().map(|cookie| ("set-cookie", cookie.as_str())));
    fields.extend([("link", "</a>; rel=next"), ("link", "</b>; rel=prev"), ("vary", "accept-encoding")]);
    bed.world.origin.pages.serve_with("/page", &fields, body.clone());
    let tag = bed.world.origin.pages.tag("/page");
    for version in ["--http1.1", "--http2"] {
        let (head, got) = shown(&bed, version, "", "/page");
        assert_eq!((head[0].as_str(), &got), ("200", &body), "{version}");
        let of = |wanted: &str| -> Vec<String> {
            head.iter()
                .filter_map(|line| Some(line.strip_prefix(wanted)?.strip_prefix(": ")?.to_owned()))
                .collect()
        };
        assert_eq!(of("set-cookie"), cookies, "{version}: each a field of its own, in order");
        assert_eq!(of("link"), ["</a>; rel=next", "</b>; rel=prev"]);
        assert_eq!((of("content-encoding"), of("etag")), (vec!["gzip".to_owned()], vec![tag.clone()]));
        assert_eq!(of("content-length"), [body.len().to_string()]);

        let (head, got) = shown(&bed, version, "--head", "/page");
        assert!(head[0] == "200" && got.is_empty(), "{head:?}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{version}: of a HEAD: {head:?}");

        let part = |condition: &str| {
            shown(&bed, version, &format!("-r 100-199 -H 'If-Range: {condition}'"), "/page")
        };
        let (head, got) = part(&tag);
        assert_eq!((head[0].as_str(), got.as_slice()), ("206", &body[100..200]), "{version}");
        assert!(head.contains(&format!("content-range: bytes 100-199/{}", body.len())), "{head:?}");
        let (head, got) = part("\"another\"");
        assert_eq!(
            (head[0].as_str(), &got),
            ("200", &body),
            "{version}: a part of another one is no part of this"
        );
        let (head, _) = shown(&bed, version, "-r 9999999-", "/page");
        assert!(
            head[0] == "416" && head.contains(&format!("content-range: bytes */{}", body.len())),
            "{head:?}"
        );

        let (head, got) = shown(&bed, version, &format!("-H 'If-None-Match: {tag}'"), "/page");
        assert!(head[0] == "304" && got.is_empty() && head.contains(&format!("etag: {tag}")), "{head:?}");
        let (head, got) = shown(&bed, version, "", "/status/204");
        assert!(head[0] == "204" && got.is_empty(), "{head:?}");
        assert!(
            !head.iter().any(|line| line.starts_with("content-length")),
            "RFC 9110 section 8.6: {head:?}"
        );
    }
}

#[test]
fn cl_10_hints_before_an_answer_do_not_disturb_it() {
    let bed = Bed::new(P1);
    let hinting = |peer: &mut Conversation| {
        while peer.head().is_some() {
            peer.say("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n");
            peer.say("HTTP/1.1 102 Processing\r\n\r\n");
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    };
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), hinting);
    }
    for version in ["--http1.1", "--http2"] {
        // Twice on one connection, so that what came before an answer cannot be taken for the next one.
        let url = "https://api.good.test/";
        let said = bed.succeed(&format!("curl -sS -m 20 {version} -w ' %{{http_code}} ' {url} {url}"));
        assert_eq!(said, "hello 200 hello 200 ", "{version}");
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
