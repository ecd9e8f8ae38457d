//! Gauntlet CL-10, RS-06 and FR-14: interim answers (RFC 9110, section 15.2) reach the client at once, by either
//! protocol on either side, with no more in them than an answer's head may have.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use http::Request;

use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, Raw, SETTINGS, block, frame, head as head_of, request,
};
use crate::support::gate::wait_until;
use crate::support::h2::H2;
use crate::support::origin::Conversation;
use crate::support::pages::accept_key;
use crate::support::websocket::{KEY, handshake};
use crate::support::wire::PATIENCE;
use crate::support::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    H1,
    H2,
}

use Version::{H1, H2 as Two};

type Fields = Vec<(String, String)>;

/// The origin's side of one exchange.
struct Host<'a> {
    peer: &'a mut Conversation,
    /// Its stream, over HTTP/2.
    stream: Option<u32>,
    /// Whether the request had no body, or all of it was read.
    asked: bool,
}

impl Host<'_> {
    /// A head with no body; whether the peer was still there.
    fn head(&mut self, status: u16, fields: &[(&str, &str)]) -> bool {
        let status = status.to_string();
        match self.stream {
            Some(stream) => {
                let fields = [&[(":status", status.as_str())], fields].concat();
                self.peer.tell(head_of(stream, 0, &fields))
            }
            None => {
                let lines: String =
                    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                self.peer.tell(format!("HTTP/1.1 {status} Whatever\r\n{lines}\r\n"))
            }
        }
    }

    fn finish(&mut self) {
        match self.stream {
            Some(stream) => {
                self.peer.say(frame(HEADERS, END_HEADERS, stream, [0x88]));
                self.peer.say(frame(DATA, END_STREAM, stream, "hello"));
            }
            None => self.peer.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        }
    }

    /// Reads a body of five bytes.
    fn body(&mut self) {
        if self.stream.is_none() {
            self.peer.exactly(5);
        }
        while self.stream.is_some() && !self.asked {
            let Some((kind, flags, _)) = next_frame(self.peer) else { return };
            self.asked = kind == DATA && flags & END_STREAM != 0;
        }
    }
}

fn next_frame(peer: &mut Conversation) -> Option<(u8, u8, u32)> {
    let head = peer.exactly(9)?;
    peer.exactly(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize)?;
    Some((head[3], head[4], u32::from_be_bytes(head[5..9].try_into().unwrap())))
}

/// Has `api.good.test` speak one version of HTTP and answer each request so.
fn host(bed: &Bed, version: Version, answer: impl Fn(&mut Host) + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    for ip in [PUB1, PUB1_V6] {
        let answer = Arc::clone(&answer);
        match version {
            H1 => bed.world.origin.script((ip, 443), move |peer: &mut Conversation| {
                while peer.head().is_some() {
                    answer(&mut Host { peer, stream: None, asked: true });
                }
            }),
            Two => bed.world.origin.script_h2((ip, 443), move |peer: &mut Conversation| {
                peer.exactly(PREFACE.len());
                peer.say(frame(SETTINGS, 0, 0, []));
                while let Some((kind, flags, stream)) = next_frame(peer) {
                    match kind {
                        SETTINGS if flags & 1 == 0 => peer.say(frame(SETTINGS, 1, 0, [])),
                        HEADERS => {
                            let asked = flags & END_STREAM != 0;
                            answer(&mut Host { peer, stream: Some(stream), asked });
                        }
                        _ => {}
                    }
                }
            }),
        }
    }
}

/// One GET by a client of this version; `hear` is given each interim answer as it comes. The final status and body.
fn ask(bed: &Bed, version: Version, mut hear: impl FnMut(u16, Fields)) -> (u16, String) {
    match version {
        H1 => {
            let mut wire = bed.https(PUB1, "api.good.test").unwrap();
            wire.send(get("api.good.test", "/"));
            loop {
                let head = wire.head().expect("an answer");
                if head.status >= 200 {
                    let answer = wire.body_of(head);
                    return (answer.status, answer.text());
                }
                hear(head.status, head.headers);
            }
        }
        Two => {
            let client = H2::connect(bed, PUB1, "api.good.test");
            let request = Request::get("https://api.good.test/").body(()).unwrap();
            let answered = client.send_and_hear(request, None, |interim| {
                let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    (name.to_string(), value.to_str().unwrap().to_owned())
                };
                hear(interim.status().as_u16(), interim.headers().iter().map(field).collect());
            });
            let (answer, _) = answered.unwrap();
            (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
        }
    }
}

/// The statuses of a whole exchange.
fn statuses(bed: &Bed, version: Version) -> Vec<u16> {
    let mut heard = Vec::new();
    let (last, _) = ask(bed, version, |status, _| heard.push(status));
    heard.push(last);
    heard
}

/// An origin that goes on only when the client has heard what came before.
fn in_turn() -> (Sender<u16>, impl Fn(u16) -> bool) {
    let (heard, turns): (_, Receiver<u16>) = channel();
    let turns = Mutex::new(turns);
    (heard, move |status| turns.lock().unwrap().recv_timeout(PATIENCE) == Ok(status))
}

#[test]
fn cl_10_interim_answers_come_at_once_between_either_version_and_either() {
    for origin in [H1, Two] {
        let bed = Bed::new(P1);
        let (heard, has_heard) = in_turn();
        host(&bed, origin, move |host| {
            let hop: &[_] = match host.stream {
                None => {
                    &[("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "1"), ("content-length", "9")]
                }
                Some(_) => &[],
            };
            let links = [("link", "</a>; rel=preload"), ("link", "</b>"), ("alt-svc", "h3=\":443\"")];
            host.head(100, &[]);
            let all = host.head(102, &[])
                && has_heard(102)
                && host.head(103, &[&links, hop].concat())
                && has_heard(103)
                && host.head(199, &[("x-more", "1")])
                && has_heard(199);
            if all {
                host.finish();
            }
        });
        for client in [H1, Two] {
            let mark = bed.mark();
            let mut seen = Vec::new();
            let answer = ask(&bed, client, |status, fields| {
                seen.push((status, fields));
                heard.send(status).unwrap();
            });
            assert_eq!(answer, (200, "hello".to_owned()), "{client:?} to {origin:?}: {seen:?}");
            let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let expected = [
                (102, vec![]),
                (103, vec![field("link", "</a>; rel=preload"), field("link", "</b>")]),
                (199, vec![field("x-more", "1")]),
            ];
            assert_eq!(seen, expected, "{client:?} to {origin:?}");
            let id = bed.since(mark, 1).decided("allow", &[]).text("id").to_owned();
            let end = bed.gate.wait_for_record("its end", |r| r.is_end() && r.text("id") == id);
            assert_eq!(end.number("status"), Some(200), "the final one is recorded: {}", end.0);
        }
    }
}

#[test]
fn cl_10_an_interim_answer_comes_while_the_body_is_still_sent() {
    for origin in [H1, Two] {
        let bed = Bed::new(P1);
        host(&bed, origin, |host| {
            host.head(103, &[("link", "</a>")]);
            host.body();
            host.finish();
        });
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        for expect in ["", "Expect: 100-continue\r\n"] {
            wire.send(format!("POST / HTTP/1.1\r\nHost: api.good.test\r\n{expect}Content-Length: 5\r\n\r\n"));
            if expect.is_empty() {
                wire.send("he");
                assert_eq!(wire.head().map(|head| head.status), Some(103), "{origin:?}");
                wire.send("llo");
            } else {
                // Which of the two comes first is between the client's side and the origin.
                let mut both = [wire.head().unwrap().status, wire.head().unwrap().status];
                both.sort_unstable();
                assert_eq!(both, [100, 103], "{origin:?}");
                wire.send("hello");
            }
            let answer = wire.response().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{origin:?} {expect}");
        }
    }
}

#[test]
fn cl_10_a_client_of_http_1_0_is_given_no_interim_answer() {
    for origin in [H1, Two] {
        let bed = Bed::new(P1);
        host(&bed, origin, |host| {
            host.head(103, &[("link", "</a>")]);
            host.head(102, &[]);
            host.finish();
        });
        let mut wire = bed.https(PUB1, "api.good.test").unwrap();
        wire.send("GET / HTTP/1.0\r\nHost: api.good.test\r\n\r\n");
        let head = wire.head().unwrap();
        assert_eq!(head.status, 200, "{origin:?}");
        assert_eq!(wire.body_of(head).text(), "hello");
        assert_eq!(statuses(&bed, H1), [103, 102, 200], "{origin:?}: HTTP/1.1 has them");
    }
}

#[test]
fn cl_10_an_interim_answer_tells_no_credential_and_nothing_that_the_rule_strips() {
    let policy = P4.replacen(
        "\n\n[[rule]]\nname = \"without",
        "\n  [rule.response]\n  strip = [\"x-inner\"]\n\n[[rule]]\nname = \"without",
        1,
    );
    assert_ne!(policy, P4);
    for origin in [H1, Two] {
        let bed =
            Bed::with(&Setup { policy: policy.clone(), environment: p4_environment(), ..Setup::default() });
        host(&bed, origin, |host| {
            let echo = format!("</{}>", *K5);
            host.head(103, &[("link", &echo), ("x-inner", "1"), ("x-outer", "2")]);
            host.finish();
        });
        for client in [H1, Two] {
            let mark = bed.mark();
            let mut seen = Vec::new();
            let answer = ask(&bed, client, |status, fields| seen.push((status, fields)));
            assert_eq!(answer, (200, "hello".to_owned()), "{client:?} to {origin:?}");
            let [(103, fields)] = &seen[..] else { panic!("{seen:?}") };
            let [(link, masked), (outer, _)] = &fields[..] else { panic!("{fields:?}") };
            assert_eq!((link.as_str(), outer.as_str()), ("link", "x-outer"), "{client:?} to {origin:?}");
            assert_eq!(masked.len(), K5.len() + 3, "masked with its own length: {masked}");
            assert!(!masked.contains(&K5[..8]), "{masked}");
            let id = bed.since(mark, 1).decided("allow", &[]).text("id").to_owned();
            let end = bed.gate.wait_for_record("its end", |r| r.is_end() && r.text("id") == id);
            assert!(end.mentions("response header"), "what was masked is recorded: {}", end.0);
        }
    }
}

#[test]
fn cl_10_where_answers_are_judged_interim_ones_are_left_out_and_the_final_one_is_right() {
    let script =
        "fn response(req, resp) { if resp.status == 200 { pass() } else { deny(\"not asked for\") } }";
    for (what, section) in [
        ("a script", "  [rule.script]\n  file = \"hook.rhai\"\n"),
        ("inbound DLP", "  [rule.dlp]\n  inbound = [\"tokens\"]\n"),
    ] {
        let policy =
            format!("[[rule]]\nname = \"good\"\nhosts = [\"api.good.test\"]\naction = \"allow\"\n{section}");
        let beside = vec![("hook.rhai", script.to_owned())];
        let bed = Bed::with(&Setup { policy, beside, ..Setup::default() });
        host(&bed, H1, |host| {
            host.head(103, &[("link", &K2)]);
            host.finish();
        });
        for client in [H1, Two] {
            let answer = ask(&bed, client, |status, _| panic!("{what}, {client:?}: {status}"));
            assert_eq!(answer, (200, "hello".to_owned()), "{what}, {client:?}");
        }
    }
}

#[test]
fn cl_10_sixteen_interim_answers_pass_and_one_more_is_refused() {
    for origin in [H1, Two] {
        for (many, last) in [(16, 200), (17, 502)] {
            let bed = Bed::new(P1);
            host(&bed, origin, move |host| {
                // Those that are ours to give count too.
                let mut said =
                    (0..many).map(|n| host.head(if n == 3 { 100 } else { 103 }, &[("link", "</a>")]));
                if said.all(|said| said) && last == 200 {
                    host.finish();
                }
            });
            for client in [H1, Two] {
                let mark = bed.mark();
                let mut expected = vec![103; 15];
                expected.push(last);
                assert_eq!(statuses(&bed, client), expected, "{client:?} to {origin:?}, {many}");
                let id = bed.since(mark, 1).decided("allow", &[]).text("id").to_owned();
                let end = bed.gate.wait_for_record("its end", |r| r.is_end() && r.text("id") == id);
                assert_eq!(end.mentions("too many interim answers"), last == 502, "{}", end.0);
            }
        }
    }
}

#[test]
fn rs_06_interim_answers_take_no_more_room_than_one_head() {
    let bed = Bed::new(P1);
    host(&bed, H1, |host| {
        let long = "x".repeat(50_000);
        while host.head(103, &[("link", &long)]) {}
    });
    for client in [H1, Two] {
        assert_eq!(statuses(&bed, client), [103, 103, 502], "{client:?}");
    }
    // Nobody reads: what each request holds of them is bounded, and small.
    let (_clients, growth) = growth_during(&bed, || {
        let clients: Vec<Wire> = (0..32)
            .map(|_| {
                let mut wire = bed.https(PUB1, "api.good.test").unwrap();
                wire.send(get("api.good.test", "/"));
                wire
            })
            .collect();
        let mut raw = Raw::connect(&bed);
        for n in 0..64 {
            raw.send(head_of(2 * n + 1, END_STREAM, &request("GET", "/", &[])));
        }
        let refused = || bed.gate.records().iter().filter(|r| r.is_end() && r.mentions("interim")).count();
        assert!(wait_until(PATIENCE, || (refused() == 2 + 32 + 64).then_some(())).is_some(), "{}", refused());
        (clients, raw)
    });
    assert!(growth < 48 << 10, "{growth} KiB");
}

#[test]
fn rs_06_endless_interim_answers_over_h2_take_no_memory() {
    let bed = Bed::new(P1);
    host(&bed, Two, |host| while host.head(103, &[("link", "</a>")]) {});
    for client in [H1, Two] {
        let (heard, growth) = growth_during(&bed, || statuses(&bed, client));
        assert_eq!((heard.len(), heard.last()), (17, Some(&502)), "{client:?}: {heard:?}");
        assert!(growth < 16 << 10, "{client:?}: {growth} KiB");
    }
}

#[test]
fn fr_14_what_is_no_interim_answer_is_refused() {
    type Say = fn(&mut Host) -> bool;
    let odd: [(&str, Version, Say); 4] = [
        ("an unasked 101", H1, |host| host.head(101, &[("connection", "upgrade"), ("upgrade", "x")])),
        ("a field with no name", H1, |host| host.peer.tell("HTTP/1.1 103 Early Hints\r\n: x\r\n\r\n")),
        ("an unasked 101 over h2", Two, |host| host.head(101, &[])),
        ("one that ends its stream", Two, |host| {
            let fields = block(&[(":status", "103")]);
            host.peer.tell(frame(HEADERS, END_HEADERS | END_STREAM, host.stream.unwrap(), fields))
        }),
    ];
    for (what, version, say) in odd {
        let bed = Bed::new(P1);
        host(&bed, version, move |host| {
            say(host);
            host.finish();
        });
        for client in [H1, Two] {
            assert_eq!(statuses(&bed, client).last(), Some(&502), "{what}, {client:?}");
        }
    }
}

#[test]
fn cl_10_an_interim_answer_before_a_websocket_comes_before_its_101() {
    let bed = Bed::new(STREAMS);
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 443), |peer: &mut Conversation| {
            peer.head();
            peer.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            let accept = accept_key(KEY.as_bytes());
            peer.say(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            ));
            peer.head();
        });
    }
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(handshake("api.good.test", ""));
    assert_eq!(wire.head().map(|head| head.status), Some(103));
    assert_eq!(wire.head().map(|head| head.status), Some(101));
}

#[test]
fn cl_10_where_origins_share_a_connection_none_can_answer_for_another() {
    let policy =
        P1.replace("hosts = [\"plain.good.test\"]", "hosts = [\"plain.good.test\", \"files.good.test\"]");
    let bed = Bed::new(&policy);
    hints(&bed, H1);
    for ip in [PUB1, PUB1_V6] {
        bed.world.origin.script((ip, 80), |peer: &mut Conversation| {
            while peer.head().is_some() {
                peer.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            }
        });
    }
    let mut shared = bed.explicit();
    shared.send("GET http://plain.good.test/ HTTP/1.1\r\nHost: plain.good.test\r\n\r\n");
    let head = shared.head().unwrap();
    assert_eq!((head.status, shared.body_of(head).text().as_str()), (200, "hello"));
    std::fs::write(
        bed.gate.dir.join("client.py"),
        "import requests\nwith requests.Session() as session:\n    for name in ['plain', 'files']:\n        \
         answer = session.get(f'http://{name}.good.test/', proxies={'http': 'http://10.77.1.1:3128'})\n        \
         print(answer.status_code, answer.text.strip())\n",
    )
    .unwrap();
    let said = bed.succeed("/usr/bin/python3 client.py");
    assert_eq!(said, "200 hello\n200 hello from files.good.test\n");
    // A connection of one origin alone has them, by either door.
    let mut own = bed.tcp(PUB1, 80);
    own.send(get("plain.good.test", "/"));
    assert_eq!(own.head().map(|head| head.status), Some(103));
    let mut tunnel = bed.tunnel("api.good.test:443").unwrap().secure(&bed.tls("api.good.test")).unwrap();
    tunnel.send(get("api.good.test", "/"));
    assert_eq!(tunnel.head().map(|head| head.status), Some(102));
}

/// An origin of hints, for clients that must get their answers nevertheless, twice on a connection.
fn hints(bed: &Bed, version: Version) {
    host(bed, version, |host| {
        host.head(102, &[]);
        host.head(103, &[("link", "</style.css>; rel=preload")]);
        host.finish();
    });
}

#[test]
fn cl_10_curl_shows_interim_answers_and_then_its_own() {
    for origin in [H1, Two] {
        let bed = Bed::new(P1);
        hints(&bed, origin);
        let url = "https://api.good.test/";
        for (version, name) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
            let said = bed.succeed(&format!("curl -sS -i -m 20 {version} {url} {url}"));
            let lines: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
            let statuses: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').nth(1)).collect();
            assert_eq!(statuses, ["102", "103", "200", "102", "103", "200"], "{version}: {said}");
            assert_eq!(said.matches("link: </style.css>; rel=preload").count(), 2, "{said}");
            assert_eq!(said.matches("\r\n\r\nhello").count(), 2, "{said}");
            let old = bed.succeed(&format!("curl -sS -i -m 20 --http1.0 {url}"));
            assert!(old.starts_with("HTTP/1.1 200 ") && old.ends_with("\r\n\r\nhello"), "{old}");
        }
    }
}

const NODE: &str = r#"
const https = require('https'), http2 = require('http2');
const text = stream => new Promise((done, fail) => {
  let all = ''; stream.on('data', part => all += part).on('end', () => done(all)).on('error', fail);
});
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const overHttps = () => new Promise((done, fail) => {
  const heard = [];
  https.get('https://api.good.test/', { agent }, async answer => {
    done(['https', ...heard, answer.statusCode, await text(answer)]);
  }).on('information', one => heard.push(one.statusCode, one.headers.link)).on('error', fail);
});
const overHttp2 = () => new Promise((done, fail) => {
  const session = http2.connect('https://api.good.test').on('error', fail), heard = [];
  const stream = session.request({ ':path': '/' }).on('error', fail);
  stream.on('headers', one => heard.push(one[':status'], one.link));
  stream.on('response', async head => {
    const body = await text(stream);
    session.close();
    done(['http2', ...heard, head[':status'], body]);
  });
});
const byFetch = async () => {
  const answer = await fetch('https://api.good.test/');
  return ['fetch', answer.status, await answer.text()];
};
(async () => {
  for (const way of [overHttps, overHttps, overHttp2, byFetch, byFetch]) console.log((await way()).join(' '));
  agent.destroy();
})();
"#;

#[test]
fn cl_10_node_tells_its_program_of_interim_answers() {
    for origin in [H1, Two] {
        let bed = Bed::new(P1);
        hints(&bed, origin);
        std::fs::write(bed.gate.dir.join("client.js"), NODE).unwrap();
        let told = "102  103 </style.css>; rel=preload 200 hello";
        let expected =
            format!("https {told}\nhttps {told}\nhttp2 {told}\nfetch 200 hello\nfetch 200 hello\n");
        assert_eq!(bed.succeed("node client.js"), expected, "{origin:?}");
    }
}

const PYTHON: &str = r#"
import asyncio, aiohttp, httpx
URL = "https://api.good.test/"

def by_httpx(http2):
    with httpx.Client(http2=http2) as client:
        return [client.get(URL).text for _ in range(2)]

async def by_aiohttp():
    async with aiohttp.ClientSession() as session:
        return [await (await session.get(URL)).text() for _ in range(2)]

print(by_httpx(False), by_httpx(True), asyncio.run(by_aiohttp()))
"#;

/// Python's own `http.client` (so `requests` too) takes `103` for the answer, through the gate or not.
#[test]
fn cl_10_httpx_and_aiohttp_read_on_to_the_answer() {
    for origin in [H1, Two] {
        let bed = Bed::new(P1);
        hints(&bed, origin);
        std::fs::write(bed.gate.dir.join("client.py"), PYTHON).unwrap();
        let twice = "['hello', 'hello']";
        let said = bed.succeed("/usr/bin/python3 client.py");
        assert_eq!(said, format!("{twice} {twice} {twice}\n"), "{origin:?}");
    }
}

const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;

public class Client {
    public static void main(String[] arguments) throws Exception {
        System.setProperty("javax.net.ssl.trustStore", arguments[0]);
        var page = HttpRequest.newBuilder(URI.create("https://api.good.test/")).build();
        for (var version : HttpClient.Version.values()) {
            var client = HttpClient.newBuilder().version(version).build();
            for (int turn = 0; turn < 2; turn++) {
                var answer = client.send(page, HttpResponse.BodyHandlers.ofString());
                System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
            }
        }
    }
}
"#;

#[test]
fn cl_10_javas_client_reads_on_to_the_answer() {
    for origin in [H1, Two] {
        let bed = Bed::new(P1);
        hints(&bed, origin);
        std::fs::write(bed.gate.dir.join("trust.jks"), outgate::tls::java_store(&bed.roots())).unwrap();
        std::fs::write(bed.gate.dir.join("Client.java"), JAVA).unwrap();
        let said = bed.succeed("java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC Client.java trust.jks");
        let expected = "HTTP_1_1 200 hello\nHTTP_1_1 200 hello\nHTTP_2 200 hello\nHTTP_2 200 hello\n";
        assert_eq!(said, expected, "{origin:?}");
    }
}
