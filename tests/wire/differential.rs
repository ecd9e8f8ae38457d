//! What the gate sent, as nginx, Node, Python, Go and Java read it: the same requests with the same ends, the same
//! authority, path, query and body, which are those that the record tells and that were judged.
//!
//! `streams` makes what a client sends, `reading` is our own strict reading of what came out at the other side, and the
//! servers are real ones (`support::parsers`). Fast here; `tools/differential` runs it for long and with all servers.

mod reading;
mod shapes;
mod streams;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reading::{Placed, Reading};
use streams::{Door, Random, Stream};

use crate::support::gate::wait_until;
use crate::support::origin::Conversation;
use crate::support::parsers::{self, Parser, Seen};
use crate::support::*;

/// Clear text to names with and without an underscore, on two ports.
const CLEAR: &str = r#"
[[rule]]
name = "clear text"
hosts = ["plain.good.test", "files.good.test", "*.wild.test"]
action = "allow"
scheme = "http"
ports = [80, 8443]
"#;

/// A hundred requests of one connection are enough to see whether they run into each other.
const REQUESTS_A_CONNECTION: usize = 100;

struct Ground {
    bed: Bed,
    /// What the upstream host understood while it answered, in order, over all its connections.
    answered: Arc<Mutex<Vec<Result<Reading, String>>>>,
}

impl Ground {
    fn new() -> Self {
        let bed = Bed::new(CLEAR);
        let answered = Arc::<Mutex<Vec<Result<Reading, String>>>>::default();
        for ip in [PUB1, PUB1_V6, PUB2, PUB2_V6] {
            for port in [80, 8443] {
                let answered = Arc::clone(&answered);
                bed.world.origin.script((ip, port), move |peer| answer(peer, &answered));
            }
        }
        Self { bed, answered }
    }

    /// Sends a stream, reads all its answers and gives their status codes.
    fn send(&self, stream: &Stream) -> Vec<u16> {
        let mut wire = match stream.door {
            Door::V4 => self.bed.tcp(PUB1, 80),
            Door::V6 => self.bed.tcp(PUB1_V6, 80),
            Door::Explicit | Door::Port => self.bed.explicit(),
        };
        if stream.dribbled {
            wire.dribble(&stream.bytes);
        } else {
            wire.send(&stream.bytes);
        }
        let (answers, end) = wire.end_of_sending().rest();
        assert!(matches!(end, End::Closed | End::Reset), "{end:?} after {}", show(&stream.bytes));
        let text = String::from_utf8_lossy(&answers).into_owned();
        // The bodies of the host's answers are empty, and our pages hold no status line.
        let lines =
            text.split("HTTP/1.1 ").skip(1).map(|rest| rest.get(..3).and_then(|code| code.parse().ok()));
        lines.map(|code| code.unwrap_or_else(|| panic!("{text:?} to {}", show(&stream.bytes)))).collect()
    }

    fn upstream(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    /// What each upstream connection brought: whole requests, and the bytes.
    fn connections(&self) -> Vec<Sent> {
        let all = self.bed.world.origin.connections();
        let clear = all.iter().filter(|seen| seen.local.ip() != CDN);
        clear.map(|seen| Sent::read(seen.bytes())).collect()
    }

    /// The requests that the records call done are those that arrived: in the same order, for the same name and path.
    fn records_agree(&self) {
        let answered: Vec<Reading> = self
            .answered
            .lock()
            .unwrap()
            .iter()
            .map(|read| read.clone().unwrap_or_else(|words| panic!("not canonical: {words}")))
            .collect();
        let done = || -> Vec<Record> {
            let records = self.bed.gate.records();
            let is_done = |id: &str| {
                let mut ends = records.iter().filter(|record| record.is_end() && record.text("id") == id);
                ends.any(|end| end.text("outcome") == "done" && end.number("status") == Some(200))
            };
            let allowed = records.iter().filter(|r| r.is_decision() && r.text("verdict") == "allow");
            allowed.filter(|record| is_done(record.text("id"))).cloned().collect()
        };
        wait_until(Duration::from_secs(5), || (done().len() >= answered.len()).then_some(()));
        let records = done();
        assert_eq!(records.len(), answered.len(), "a record for each request, a request for each record");
        for (record, reading) in records.iter().zip(&answered) {
            let recorded = (record.text("method"), record.text("authority"), unmasked(record.text("path")));
            let read = (reading.method.as_str(), reading.host.as_str(), unmasked(&reading.target));
            assert_eq!(recorded, read, "{}", record.0);
        }
    }
}

/// A path without the values that a record masks.
fn unmasked(target: &str) -> Vec<&str> {
    let path = target.split('?').next().unwrap();
    path.split('/').map(|segment| segment.split(';').next().unwrap()).collect()
}

/// The upstream host: answers each request that it has read whole, and ends where the gate or the number says so.
fn answer(peer: &mut Conversation, answered: &Mutex<Vec<Result<Reading, String>>>) {
    for number in 1.. {
        let next = peer.next(|bytes| match reading::first(bytes) {
            Ok(found) => found.map(|(length, reading)| (length, Ok(reading))),
            Err(words) => Some((bytes.len(), Err(words))),
        });
        let Some(request) = next else { return };
        let last = number == REQUESTS_A_CONNECTION || request.as_ref().map_or(true, |reading| reading.last);
        answered.lock().unwrap().push(request);
        let close = if last { "Connection: close\r\n" } else { "" };
        peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{close}\r\n"));
        if last {
            return;
        }
    }
}

/// The bytes of one upstream connection.
struct Sent {
    bytes: Vec<u8>,
    requests: Vec<Placed>,
    /// What the gate gave up in the middle, because its client did.
    cut: usize,
}

impl Sent {
    fn read(bytes: Vec<u8>) -> Self {
        let (requests, cut) =
            reading::all(&bytes).unwrap_or_else(|words| panic!("not canonical: {words}: {}", show(&bytes)));
        Self { bytes, requests, cut }
    }

    /// Lets the server read this, and notes where it reads otherwise than we do.
    fn judge(&self, parser: &Parser, bed: &Bed, found: &mut Findings) {
        let mut from = 0;
        while from < self.requests.len() || (self.cut > 0 && from == self.requests.len()) {
            let mut pieces: Vec<&[u8]> =
                self.requests[from..].iter().map(|(place, _)| &self.bytes[place.clone()]).collect();
            let whole = pieces.len();
            if self.cut > 0 {
                pieces.push(&self.bytes[self.bytes.len() - self.cut..]);
            }
            let (told, end) = parser.replay(&bed.world, &pieces);
            let read = &self.requests[from..];
            let agreed = told
                .iter()
                .zip(read)
                .take_while(|(told, (_, ours))| found.same(told.seen.as_ref(), ours))
                .count();
            if agreed == whole {
                // Behind the last whole request a server may only say that something was cut.
                let more = told.get(whole..).unwrap_or_default();
                if more.iter().any(|told| told.status == 200 || self.cut == 0) {
                    writeln!(
                        found.words,
                        "{} found more: {more:?} in {}",
                        parser.name,
                        show(&pieces.concat())
                    )
                    .unwrap();
                }
                return;
            }
            let (place, ours) = &read[agreed];
            let refusal = told.get(agreed).filter(|told| told.status != 200);
            match refusal.filter(|_| may_refuse(parser.name, ours)) {
                Some(_) => found.unserved += 1,
                None => {
                    let (theirs, bytes) = (told.get(agreed), show(&self.bytes[place.clone()]));
                    writeln!(found.words, "{}: {theirs:?} ({end:?}), not {ours:?}, of {bytes}", parser.name)
                        .unwrap();
                }
            }
            from += agreed + 1;
        }
    }
}

#[derive(Default)]
struct Findings {
    /// Disagreements, with the bytes.
    words: String,
    /// Requests that a server does not serve.
    unserved: usize,
    /// Targets, and what a server made of their paths where that is not what they say.
    paths: BTreeSet<(String, String)>,
}

impl Findings {
    /// All but the path that the server comes to, which is noted.
    fn same(&mut self, seen: Option<&Seen>, ours: &Reading) -> bool {
        let Some(seen) = seen else { return false };
        if let Some(path) = seen.path.as_ref().filter(|path| *path != ours.path()) {
            self.paths.insert((ours.target.clone(), path.clone()));
        }
        let (method, host, target) = (&seen.method, &seen.host, &seen.target);
        (method, host, target) == (&ours.method, &ours.host, &ours.target)
            && (seen.length, &seen.digest) == (ours.length, &ours.digest)
    }
}

/// What a server does not serve at all, and says so: that is no other reading. Everything else it must take.
fn may_refuse(server: &str, ours: &Reading) -> bool {
    let known =
        ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "PROPFIND", "REPORT", "M-SEARCH"];
    let is_known = known.contains(&ours.method.as_str());
    match server {
        "node" => !is_known,
        // Letters and the dash; and paths that stay below the root however they are read.
        "nginx" => !is_known && ours.method != "BREW" || reading::climbs(ours.path()),
        // Only what RFC 3986 lets stand in a URI, and no authority in front of the path.
        "HttpServer" => {
            ours.target.contains(['[', ']', '{', '}', '|', '^', '`', '\\']) || ours.target.starts_with("//")
        }
        _ => false,
    }
}

/// Whether a wrong reading of ours would be noticed: of a path, a name, a body, and of where a request ends.
fn finds_a_difference(parser: &Parser, bed: &Bed) -> bool {
    let bytes = b"POST /a HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi\
                  GET /b HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let right = || Sent::read(bytes.to_vec());
    let is_found = |change: &dyn Fn(&mut Sent)| {
        let (mut sent, mut found) = (right(), Findings::default());
        change(&mut sent);
        sent.judge(parser, bed, &mut found);
        !found.words.is_empty()
    };
    !is_found(&|_| {})
        && is_found(&|sent| sent.requests[1].1.target = "/c".to_owned())
        && is_found(&|sent| sent.requests[0].1.host = "b.test".to_owned())
        && is_found(&|sent| sent.requests[0].1.digest = sent.requests[1].1.digest.clone())
        && is_found(&|sent| {
            let behind = sent.requests.pop().unwrap();
            sent.requests[0].0.end = behind.0.end;
        })
}

fn show(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn asked_for(variable: &str) -> Option<u64> {
    let text = std::env::var_os(variable).and_then(|text| text.into_string().ok())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn sm_43_a_published_shape_is_refused_or_becomes_canonical_requests_and_hurts_nobody_else() {
    let ground = Ground::new();
    let shapes = streams::published();
    assert!(shapes.len() >= 70);
    for shape in &shapes {
        let before = ground.upstream();
        let answers = ground.send(shape);
        let (refused, served): (Vec<u16>, Vec<u16>) = answers.iter().partition(|status| **status >= 400);
        assert!(
            refused.len() <= 1 && (refused.is_empty() || answers.last() == refused.first()),
            "{answers:?}"
        );
        assert_eq!(ground.upstream() - before, served.iter().filter(|status| **status == 200).count());
        let control = ground.bed.fetch_plain(get("plain.good.test", "/control")).map(|answer| answer.status);
        assert_eq!(control, Some(200), "after {}", show(&shape.bytes));
    }
    ground.records_agree();
}

#[test]
fn pm_18_sm_26_sm_28_every_server_reads_what_the_gate_sent_as_it_was_judged() {
    let (seed, count) = (asked_for("OUTGATE_DIFFERENTIAL_SEED"), asked_for("OUTGATE_DIFFERENTIAL_STREAMS"));
    let (seed, count) = (seed.unwrap_or(1), count.unwrap_or(300));
    println!("seed {seed}, {count} streams");
    let ground = Ground::new();
    let parsers = parsers::start(&ground.bed.world, asked_for("OUTGATE_DIFFERENTIAL_ALL").is_some());
    let mut random = Random::new(seed);
    let mut refused = 0;
    for _ in 0..count {
        let stream = streams::random(&mut random);
        refused += ground.send(&stream).iter().filter(|status| **status >= 400).count();
    }
    let sent = ground.upstream();
    println!("{sent} requests went upstream, {refused} were refused");
    // Both must be many, or nothing was shown.
    assert!(sent as u64 > count / 2 && refused as u64 > count / 4, "{sent} sent, {refused} refused");
    ground.records_agree();

    let connections = ground.connections();
    assert_eq!(connections.iter().map(|sent| sent.requests.len()).sum::<usize>(), sent);
    let mut found = Findings::default();
    for parser in &parsers {
        found.unserved = 0;
        for sent in &connections {
            sent.judge(parser, &ground.bed, &mut found);
        }
        println!(
            "{}: {} connections, {} requests not served",
            parser.name,
            connections.len(),
            found.unserved
        );
    }
    assert!(found.words.is_empty(), "seed {seed}:\n{}", found.words);
    for parser in &parsers {
        assert!(finds_a_difference(parser, &ground.bed), "{} agrees with everything", parser.name);
    }
    let paths: Vec<(String, String)> = found.paths.into_iter().collect();
    println!("{} paths that a server reads as another", paths.len());
    // So many rules a policy, or loading it would take most of the time.
    let unjudged: Vec<_> = paths.chunks(200).flat_map(reading::unjudged).collect();
    assert!(unjudged.is_empty(), "seed {seed}: targets and paths that were not judged: {unjudged:#?}");
}
