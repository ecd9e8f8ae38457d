//! HTTP servers as people run them, for the question how each reads what the gate sent: nginx, Node, Python's
//! `http.server` and h11, and where asked for Go's `net/http` and the JDK's `HttpServer`.
//!
//! Each is started in the test internet and answers every request with what it made of it, in a field `X-Seen`. nginx
//! cannot look into a body: it passes it on to a host of the test internet that can (`Teller`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::NON_ALPHANUMERIC;
use serde::Deserialize;

use super::origin::Conversation;
use super::proxy::Program;
use super::wire::{End, Wire};
use super::world::{CDN, World, at};

/// Where nginx sends what it read.
const TELLER: (std::net::IpAddr, u16) = (CDN, 8443);

/// What a server made of one request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    pub method: String,
    /// Host as it came.
    pub host: String,
    /// Path and query as they came.
    pub target: String,
    /// The path as the server hands it to who writes a service, escaped; none where it has none to hand.
    pub path: Option<String>,
    pub length: usize,
    /// SHA-256 of the body, in hex.
    pub digest: String,
}

/// An answer of a server: its status, and what it saw where it is 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub status: u16,
    pub seen: Option<Seen>,
}

pub struct Parser {
    pub name: &'static str,
    port: u16,
    /// Takes requests that come before its last answer. The JDK's server waits for more bytes although it has read the
    /// next request already, so it is given one request at a time.
    pipelines: bool,
    _program: Program,
}

/// The servers of a distribution's small packages, or all of them.
pub fn start(world: &World, all: bool) -> Vec<Parser> {
    let dir = world.dir.path();
    world.origin.script(TELLER, tell);
    let nginx = include_str!("parsers/nginx.conf")
        .replace("{dir}", &dir.display().to_string())
        .replace("{at}", "127.0.0.1:9001")
        .replace("{teller}", &at(TELLER.0, TELLER.1).to_string());
    let nginx = put(dir, "nginx.conf", &nginx);
    let node = put(dir, "node.js", include_str!("parsers/node.js"));
    let python = put(dir, "http_server.py", include_str!("parsers/http_server.py"));
    let h11 = put(dir, "h11_server.py", include_str!("parsers/h11_server.py"));
    let nginx = format!("/usr/sbin/nginx -p {} -e stderr -c {}", dir.display(), nginx.display());
    let mut lines = vec![
        ("nginx", 9001, nginx),
        ("node", 9002, format!("node {} 9002", node.display())),
        ("http.server", 9003, format!("/usr/bin/python3 {} 9003", python.display())),
        ("h11", 9004, format!("/usr/bin/python3 {} 9004", h11.display())),
    ];
    if all {
        let go = put(dir, "net_http.go", include_str!("parsers/net_http.go"));
        let java = put(dir, "JdkServer.java", include_str!("parsers/JdkServer.java"));
        // Built before they are started, since that is what takes its time. Nothing is downloaded.
        world.net.sh(format!(
            "cd {0}; export HOME={0} GOPROXY=off GOTOOLCHAIN=local; go build -o net_http {1}; javac -d {0} {2}",
            dir.display(),
            go.display(),
            java.display()
        ));
        lines.push(("net/http", 9005, format!("{}/net_http 9005", dir.display())));
        lines.push(("HttpServer", 9006, format!("java -cp {} JdkServer 9006", dir.display())));
    }
    let start = |(name, port, line): (&'static str, u16, String)| {
        let program = Program::start(world, &line, at([127, 0, 0, 1].into(), port));
        Parser { name, port, pipelines: name != "HttpServer", _program: program }
    };
    lines.into_iter().map(start).collect()
}

fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

impl Parser {
    /// What the server answers to these bytes, which are those of `requests` one behind the other, and how it ends.
    pub fn replay(&self, world: &World, requests: &[&[u8]]) -> (Vec<Told>, End) {
        let at = at([127, 0, 0, 1].into(), self.port);
        let mut wire = Wire::plain(world.net.connect(at, Duration::from_secs(5)).unwrap());
        let mut told = Vec::new();
        if self.pipelines {
            wire.send(requests.concat());
        } else {
            for request in requests {
                match next(wire.send(request)) {
                    Some(answer) => told.push(answer),
                    None => break,
                }
            }
        }
        wire.end_of_sending();
        while let Some(answer) = next(&mut wire) {
            told.push(answer);
        }
        (told, wire.rest().1)
    }
}

/// The next answer. One that is not 200 ends the connection: what follows it is not read.
fn next(wire: &mut Wire) -> Option<Told> {
    loop {
        let head = wire.head()?;
        match head.status {
            100..200 => {}
            200 => {
                let seen =
                    head.header("x-seen").unwrap_or_else(|| panic!("an answer that tells nothing: {head:?}"));
                let seen = serde_json::from_str(seen).unwrap_or_else(|error| panic!("{error}: {seen}"));
                return Some(Told { status: 200, seen: Some(seen) });
            }
            status => {
                wire.end_of_sending().rest();
                return Some(Told { status, seen: None });
            }
        }
    }
}

/// The host behind nginx: says what nginx says of the request, and of the body that came with it.
fn tell(peer: &mut Conversation) {
    let head = |bytes: &[u8]| {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        Some((end, bytes[..end].to_vec()))
    };
    while let Some(head) = peer.next(head) {
        let field = |name: &str| -> Option<Vec<u8>> {
            let start = format!("\r\n{name}: ").into_bytes();
            let at = head.windows(start.len()).position(|part| part == start)? + start.len();
            Some(head[at..].iter().copied().take_while(|byte| *byte != b'\r').collect())
        };
        let text = |name: &str| String::from_utf8(field(name).unwrap_or_default()).unwrap();
        let length: u64 = text("Content-Length").parse().unwrap_or(0);
        let Some(digest) = peer.digest(length) else { return };
        // `$host` is nginx's own reading of the name, without its port; `$uri` is a path without escapes.
        let (host, name) = (text("X-Host"), text("X-Name"));
        let host =
            if host.split(':').next() == Some(&name) { host } else { format!("{host} read as {name}") };
        let path = percent_encoding::percent_encode(&field("X-Path").unwrap_or_default(), NON_ALPHANUMERIC)
            .to_string();
        let seen = serde_json::json!({
            "method": text("X-Method"), "host": host, "target": text("X-Target"), "path": path,
            "length": length, "digest": digest,
        });
        peer.say(format!("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nX-Seen: {seen}\r\n\r\n"));
    }
}
