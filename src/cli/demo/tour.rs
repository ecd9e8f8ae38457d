//! The steps of the tour. Each does one thing as the agent would and proves what came of it by what the internet saw.

use super::client::{Answer, Client, REFUSED};
use super::gate::{Gate, PLACEHOLDER, TOKEN_VARIABLE};
use super::names;
use super::origin::Arrived;
use super::scratch::random_text;
use super::screen::Screen;
use super::world::{self, API, GATE, OTHER, OTHER_PORT, PAGES, WEB, World};
use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::ResponseCode;
use http::Version;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A refusal that takes longer than this was a time-out.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Each of the steps 1 to 5, 7 and 8 asks for at least one request, and names are asked for besides.
const DECISIONS: usize = 8;

#[derive(Debug)]
pub(super) struct Tour<'a> {
    world: &'a World,
    gate: Gate<'a>,
    certificate: PathBuf,
    /// A token of a known provider's pattern that nobody ever issued.
    leak: String,
    summary: Summary,
}

/// What the records hold at the end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Summary {
    pub(super) lines: usize,
    pub(super) decisions: usize,
}

/// How the tour ended.
#[derive(Debug)]
pub(super) enum Ending {
    AsExpected(Summary),
    Failed { steps: usize },
}

type Step<'a> = (&'static str, fn(&mut Tour<'a>) -> Result<String>);

impl<'a> Tour<'a> {
    pub(super) fn new(world: &'a World, gate: Gate<'a>) -> Result<Self> {
        let certificate = gate.certificate();
        let leak = format!("glpat-{}", random_text(20)?);
        Ok(Self { world, gate, certificate, leak, summary: Summary::default() })
    }

    /// Walks all steps, also past one that fails; only a daemon that does not start ends it early.
    pub(super) fn walk(mut self, screen: &Screen, interrupted: &AtomicBool) -> Result<Ending> {
        let steps: [Step<'a>; 11] = [
            ("a page over HTTP", Self::page_over_http),
            ("a page over HTTPS, HTTP/1.1", Self::page_over_h1),
            ("a page over HTTPS, HTTP/2", Self::page_over_h2),
            ("a host no rule names", Self::denied_host),
            ("a path no rule names", Self::denied_path),
            ("a name that is not resolved", Self::refused_name),
            ("a token the agent never sees", Self::swapped_token),
            ("a leak, stopped", Self::stopped_leak),
            ("another port, dialled directly", Self::other_port),
            ("the daemon killed (SIGKILL)", Self::killed_daemon),
            ("the records", Self::kept_records),
        ];
        let road = self.open_road();
        screen.step(None, "before the gate stands", &road);
        let started = self.gate.start(interrupted).and_then(|took| self.unprivileged(took));
        screen.step(None, "the gate starts", &started);
        let mut failures = usize::from(road.is_err()) + usize::from(started.is_err());
        if started.is_err() {
            return Ok(Ending::Failed { steps: failures });
        }
        for (number, (title, step)) in (1..).zip(steps) {
            let proof = step(&mut self);
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            failures += usize::from(proof.is_err());
            screen.step(Some(number), title, &proof);
        }
        Ok(if failures == 0 { Ending::AsExpected(self.summary) } else { Ending::Failed { steps: failures } })
    }

    /// The control: what is refused below is refused by the gate and by nothing else.
    fn open_road(&mut self) -> Result<String> {
        let open = world::reaches(&self.world.agent, SocketAddr::new(WEB.into(), OTHER_PORT))?;
        ensure!(open, "the agent does not reach the internet even without a gate");
        Ok(format!("the agent reaches port {OTHER_PORT} of the internet"))
    }

    fn unprivileged(&mut self, took: Duration) -> Result<String> {
        let user = self.gate.status("Uid")?.split_whitespace().next().unwrap_or_default().to_owned();
        let capabilities = self.gate.status("CapEff")?;
        ensure!(
            capabilities.bytes().all(|digit| digit == b'0'),
            "the daemon kept capabilities: {capabilities}"
        );
        Ok(format!("ready after {} ms, user {user}, no capability", took.as_millis()))
    }

    fn page_over_http(&mut self) -> Result<String> {
        self.allowed_page(&[&format!("http://{PAGES}/public/")], "1.1", Version::HTTP_11)
    }

    fn page_over_h1(&mut self) -> Result<String> {
        self.allowed_page(&["--http1.1", &format!("https://{PAGES}/public/")], "1.1", Version::HTTP_11)
    }

    fn page_over_h2(&mut self) -> Result<String> {
        self.allowed_page(&["--http2", &format!("https://{PAGES}/public/")], "2", Version::HTTP_2)
    }

    /// `version` is the protocol in curl's words and in ours: the gate speaks to the origin what the agent speaks.
    fn allowed_page(&self, arguments: &[&str], spoken: &str, version: Version) -> Result<String> {
        let (answer, arrived) = self.watched(|client| client.curl(arguments))?;
        ensure!(answer.exit == 0 && answer.status == "200", "{}", answer.short());
        ensure!(answer.version == spoken, "the agent got HTTP/{}", answer.version);
        let [request] = arrived.as_slice() else { bail!("the origin saw {} requests", arrived.len()) };
        ensure!(request.host == PAGES && request.path == "/public/", "the origin saw {request:?}");
        ensure!(request.version == version, "the origin was asked over {:?}", request.version);
        Ok(format!("200; the origin answered over {version:?}"))
    }

    /// The agent knows the address and goes there; the refusal comes inside TLS, under the gate's certificate.
    fn denied_host(&mut self) -> Result<String> {
        let before = self.world.origin.connections();
        let known = format!("{OTHER}:443:{WEB}");
        let answer = self.client().curl(&["--resolve", &known, &format!("https://{OTHER}/")])?;
        ensure!(answer.exit == 0 && answer.status == "403", "{}", answer.short());
        self.untouched_since(before)?;
        Ok("403 inside TLS; the origin saw no connection".into())
    }

    fn denied_path(&mut self) -> Result<String> {
        let (answer, arrived) = self.watched(|client| client.curl(&[&format!("https://{PAGES}/private")]))?;
        ensure!(answer.exit == 0 && answer.status == "403", "{}", answer.short());
        ensure!(arrived.is_empty(), "the origin saw {arrived:?}");
        Ok("403; the origin saw no request".into())
    }

    fn refused_name(&mut self) -> Result<String> {
        ensure!(!self.client().finds(OTHER)?, "getent found an address");
        let code = names::ask(&self.world.agent, SocketAddr::new(GATE.into(), 53), OTHER)?;
        ensure!(code == ResponseCode::NXDomain, "the gate answered {code}");
        let times = self.world.asked.times(OTHER);
        ensure!(times == 0, "the internet's name server was asked {times} times");
        ensure!(self.world.asked.times(PAGES) > 0, "nor was it ever asked for an allowed name");
        Ok("NXDOMAIN; the internet's DNS was never asked".into())
    }

    fn swapped_token(&mut self) -> Result<String> {
        let environment = self.client().sees()?;
        ensure!(environment.contains(PLACEHOLDER), "the agent has no placeholder");
        ensure!(!environment.contains(self.gate.token()), "the agent's environment holds the token");
        let held = format!("authorization: Bearer {PLACEHOLDER}");
        let (answer, arrived) =
            self.watched(|client| client.curl(&["-H", &held, &format!("https://{API}/echo")]))?;
        ensure!(answer.status == "200", "{}", answer.short());
        let [request] = arrived.as_slice() else { bail!("the origin saw {} requests", arrived.len()) };
        let real = format!("Bearer {}", self.gate.token());
        ensure!(request.authorization == real, "the origin did not get the token");
        ensure!(answer.body.starts_with("authorization: "), "the echo is {:?}", answer.body);
        ensure!(!answer.body.contains(self.gate.token()), "the echo brought the token to the agent");
        Ok("swapped in for the origin, masked in its echo".into())
    }

    fn stopped_leak(&mut self) -> Result<String> {
        let body = format!("note=please keep {} for me", self.leak);
        let (answer, arrived) =
            self.watched(|client| client.curl(&["--data", &body, &format!("https://{API}/notes")]))?;
        ensure!(answer.status == "403", "{}", answer.short());
        let leaked = |request: &Arrived| request.body.windows(6).any(|bytes| bytes == b"glpat-");
        ensure!(!arrived.iter().any(leaked), "the origin got a part of the token");
        Ok("403; no byte of the token reached the origin".into())
    }

    fn other_port(&mut self) -> Result<String> {
        let before = self.world.origin.connections();
        let answer = self.client().curl(&[&format!("http://{WEB}:{OTHER_PORT}/")])?;
        self.refused_at_once(&answer)?;
        self.untouched_since(before)?;
        Ok(format!("refused in {} ms; the origin saw no SYN", answer.took.as_millis()))
    }

    fn killed_daemon(&mut self) -> Result<String> {
        let before = self.world.origin.connections();
        self.gate.kill()?;
        for (scheme, port) in [("http", 80), ("https", 443), ("http", OTHER_PORT)] {
            let known = format!("{PAGES}:{port}:{WEB}");
            let answer =
                self.client().curl(&["--resolve", &known, &format!("{scheme}://{PAGES}:{port}/public/")])?;
            self.refused_at_once(&answer).with_context(|| format!("port {port}"))?;
        }
        ensure!(!self.client().finds(PAGES)?, "names are still resolved");
        self.untouched_since(before)?;
        Ok("refused on 53, 80, 443 and 8443; nothing left".into())
    }

    fn kept_records(&mut self) -> Result<String> {
        let text = std::fs::read_to_string(self.gate.records())?;
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).context("a record that is no JSON")?;
            self.summary.lines += 1;
            self.summary.decisions += usize::from(record.get("kind").is_some_and(|kind| kind == "decision"));
        }
        ensure!(
            self.summary.decisions >= DECISIONS,
            "only {} decisions are recorded",
            self.summary.decisions
        );
        ensure!(!text.contains(self.gate.token()), "the records hold the token");
        ensure!(!text.contains(&self.leak), "the records hold what was to be leaked");
        Ok(format!("{} decisions, no secret among them", self.summary.decisions))
    }

    fn client(&self) -> Client<'_> {
        Client {
            namespace: &self.world.agent,
            trusts: &self.certificate,
            environment: vec![(TOKEN_VARIABLE, PLACEHOLDER.to_owned())],
        }
    }

    /// What the agent got, and the requests that arrived meanwhile.
    fn watched(&self, act: impl FnOnce(&Client<'_>) -> Result<Answer>) -> Result<(Answer, Vec<Arrived>)> {
        let before = self.world.origin.requests().len();
        let answer = act(&self.client())?;
        Ok((answer, self.world.origin.requests().split_off(before)))
    }

    fn untouched_since(&self, before: usize) -> Result<()> {
        let new = self.world.origin.connections() - before;
        ensure!(new == 0, "the origin saw {new} connections");
        Ok(())
    }

    fn refused_at_once(&self, answer: &Answer) -> Result<()> {
        ensure!(answer.exit == REFUSED, "{}", answer.short());
        ensure!(answer.took < AT_ONCE, "refused only after {} ms", answer.took.as_millis());
        Ok(())
    }
}
