//! Gauntlet CL-07: streams of events, as language models answer, with the credential of the rule masked in them. No
//! event is sent before its forerunner was read, so that an event that is kept back stops the whole.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::gate::wait_until;
use crate::support::origin::Conversation;
use crate::support::*;

fn p4() -> Bed {
    Bed::with(&Setup { policy: P4.into(), environment: p4_environment(), ..Setup::default() })
}

/// Whether a text tells so much of the credential that the rest can be guessed.
fn tells(text: &str) -> bool {
    K5.as_bytes().windows(8).any(|part| text.contains(std::str::from_utf8(part).unwrap()))
}

#[test]
fn cl_07_a_credential_is_masked_wherever_chunks_and_tls_records_cut_it() {
    let bed = p4();
    let (next, cuts) = channel::<Option<usize>>();
    let cuts = Mutex::new(cuts);
    let events = move |peer: &mut Conversation| {
        if peer.head().is_none() {
            return;
        }
        peer.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        let cuts = cuts.lock().unwrap();
        while let Ok(Some(cut)) = cuts.recv() {
            let event = format!("data: <{}>\n\n", *K5);
            let (one, two) = event.split_at("data: <".len() + cut);
            // Every `say` is a TLS record: the border is once that of a chunk too, once in the middle of one.
            if cut % 2 == 0 {
                peer.say(format!("{:x}\r\n{one}\r\n", one.len()));
                peer.say(format!("{:x}\r\n{two}\r\n", two.len()));
            } else {
                peer.say(format!("{:x}\r\n{one}", event.len()));
                peer.say(format!("{two}\r\n"));
            }
        }
        peer.say("0\r\n\r\n");
    };
    bed.world.origin.script((PUB1, 443), events);
    bed.world.dns.set("api.good.test", &[PUB1]);
    let mut wire = bed.https(PUB1, "api.good.test").unwrap();
    wire.send(get("api.good.test", "/events"));
    assert_eq!(wire.head().unwrap().header("content-type"), Some("text/event-stream"));
    let whole = format!("data: <{}>\n\n", *K5).len();
    for cut in 0..=K5.len() {
        next.send(Some(cut)).unwrap();
        let mut event = String::new();
        while !event.ends_with("\n\n") {
            let part = wire.chunk().unwrap_or_else(|| panic!("cut at {cut}: ended after {event:?}"));
            event += std::str::from_utf8(&part).unwrap();
        }
        assert!(event.starts_with("data: <") && event.ends_with(">\n\n"), "cut at {cut}: {event:?}");
        assert_eq!(event.len(), whole, "cut at {cut}: masked with the same length: {event:?}");
        assert!(!tells(&event), "cut at {cut}: {event:?}");
    }
    next.send(None).unwrap();
    assert_eq!(wire.chunk(), Some(Vec::new()), "the stream ends as a stream");
    assert!(wire.until(b"\r\n").is_some());
}

/// Each library acknowledges an event, by a request beside the stream, as soon as it has it.
const PYTHON: &str = r#"
import httpx
with httpx.Client(http2=True, timeout=30) as client, client.stream("GET", "https://api.good.test/sse") as stream:
    assert stream.http_version == "HTTP/2"
    for line in stream.iter_lines():
        if line.startswith("data: "):
            number = line.split()[1]
            print(line.strip())
            client.get("https://files.good.test/seen/" + number)
"#;

const NODE: &str = r#"
(async () => {
  const answer = await fetch('https://api.good.test/sse');
  let text = '';
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      const line = text.slice(0, end);
      console.log(line);
      await (await fetch('https://files.good.test/seen/' + line.split(' ')[1])).text();
    }
  }
})();
"#;

const CURL: &str = "curl -sS -N -m 50 https://api.good.test/sse | while read -r word number rest; do \
                    if test -n \"$number\"; then echo \"$word $number $rest\"; \
                    curl -sS -m 20 -o /dev/null https://files.good.test/seen/$number; fi; done";

#[test]
fn cl_07_real_clients_get_each_event_before_the_next_one_is_sent() {
    const EVENTS: usize = 30;
    let bed = p4();
    std::fs::write(bed.gate.dir.join("events.py"), PYTHON).unwrap();
    std::fs::write(bed.gate.dir.join("events.js"), NODE).unwrap();
    let mut seen = 0;
    for line in ["/usr/bin/python3 events.py", "node events.js", CURL] {
        let said = std::thread::scope(|scope| {
            let client = scope.spawn(|| bed.succeed(line));
            let asked = |part: &str| {
                bed.world.origin.requests().iter().filter(|request| request.target.starts_with(part)).count()
            };
            let patience = Duration::from_secs(20);
            let open = || (bed.world.origin.pages.streams() > 0).then_some(());
            assert!(wait_until(patience, open).is_some(), "{line}: no stream was opened");
            for number in 0..EVENTS {
                bed.world.origin.pages.event(&format!("{number} text {}", *K5));
                seen += 1;
                let came = wait_until(patience, || (asked("/seen/") == seen).then_some(()));
                assert!(came.is_some(), "{line}: event {number} was kept back");
            }
            bed.world.origin.pages.end_events();
            client.join().unwrap()
        });
        assert_eq!(said.lines().count(), EVENTS, "{line}: {said}");
        for (number, event) in said.lines().enumerate() {
            assert!(event.starts_with(&format!("data: {number} text ")) && !tells(event), "{line}: {event}");
            assert_eq!(
                event.trim_end().len(),
                format!("data: {number} text {}", *K5).len(),
                "{line}: {event}"
            );
        }
    }
}
