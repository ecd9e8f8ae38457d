//! One exchange, step by step: judge, rewrite, scripts, DLP on the head, record, credentials, send, and the answer's
//! way back. Called by `flow` for every request of every door; nothing here knows how the bytes came in.

mod answer;
mod credentials;
mod ending;
mod hooks;
mod interim;
mod judge;
mod messages;
mod overrides;
mod page;
mod record;
mod scan;
mod settings;
mod standing;

pub use ending::{Ending, Outcome};
pub use hooks::on_tunnel;
pub use interim::Interims;
pub(crate) use judge::not_ourselves;
pub use messages::{Inspector, Stopped};
use page::status_of;
pub use page::{Form, Page};
pub use record::{Facts, decide, refuse};
pub use settings::Settings;
pub use standing::Standing;

use crate::audit::{Asker, FlowId, Log, Text};
use crate::base::{Door, Host, HostName, Ingress, Proto, Scheme};
use crate::codec::{Body, BodyError, Conduct};
use crate::policy::{ClientId, Reason, Refusal, Refused, Snapshot};
use crate::rt::Drain;
use crate::telemetry::Metrics;
use crate::upstream::{Answer, Upstream, UpstreamError, Wire};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// What every exchange of every flow uses.
pub struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    pub upstream: Upstream,
    pub log: Log,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    /// When what is under way has to end.
    pub drain: Drain,
}

/// What is known of the connection that a request came in on.
pub struct Flow {
    pub shared: Arc<Shared>,
    pub number: u64,
    pub exchanges: AtomicU32,
    /// The snapshot under which the connection was accepted, and its client there.
    pub snapshot: Arc<Snapshot>,
    pub client: ClientId,
    pub ingress: Ingress,
    pub client_name: Arc<str>,
    pub source: SocketAddr,
    pub door: Door,
    pub orig_dst: Option<SocketAddr>,
    pub(crate) sni: Option<HostName>,
    /// Made by the first record, and again by the first after a ClientHello.
    pub(crate) asker: OnceLock<Asker>,
}

impl Flow {
    /// Which client this is under another snapshot: found anew, since a reload may have moved or removed it.
    pub fn client_in(&self, snapshot: &Arc<Snapshot>) -> Result<ClientId, Refusal> {
        if Arc::ptr_eq(snapshot, &self.snapshot) {
            return Ok(self.client);
        }
        let found = snapshot.client_of(&self.ingress, self.source.ip());
        found.filter(|client| *snapshot.client_name(*client) == *self.client_name).ok_or_else(|| {
            Refusal::new(
                Reason::UnknownClient,
                "after a reload this connection belongs to no client, or another",
            )
        })
    }

    /// From here on the connection's records tell this name of its ClientHello.
    pub fn greeted(&mut self, name: HostName) {
        self.sni = Some(name);
        self.asker.take();
    }

    fn asker(&self) -> &Asker {
        self.asker.get_or_init(|| {
            let sni = self.sni.as_ref().map(|name| Text::from(name.as_str()));
            Asker::new(Some(&self.client_name), self.source, self.door).to(self.orig_dst).greeting(sni)
        })
    }

    /// The id of the flow's next decision.
    pub fn next_id(&self) -> FlowId {
        FlowId { flow: self.number, exchange: self.exchanges.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

/// One request, with everything its flow states about its destination reconciled into one name and port.
pub struct Asked {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    pub method: Method,
    /// Asker form: path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub proto: Proto,
    /// The client went to an address that we did not tell it for this name.
    pub dst_mismatch: bool,
    /// What is seen of the client while this runs.
    pub conduct: Conduct,
}

/// A request that could not be claimed: what it said of itself, for the record, and why not.
pub struct Rejected {
    pub refusal: Refusal,
    pub status: StatusCode,
    pub authority: String,
    pub method: Option<Method>,
    pub target: String,
    pub scheme: Scheme,
    pub proto: Proto,
}

/// What the client is told.
pub struct Reply {
    pub response: Response<Body>,
    /// The length that an answer without body speaks of (HEAD, 304).
    pub stated_length: Option<u64>,
    /// The connection must not carry another request.
    pub close: bool,
    /// After `101`: the upstream connection, the bytes it had sent already, and the end record of the exchange.
    pub switched: Option<Box<Switched>>,
}

pub struct Switched {
    pub ahead: Bytes,
    pub wire: Wire,
    pub ending: Arc<Ending>,
    pub standing: Box<Standing>,
    /// What is asked about messages from the client, and about those to it.
    pub up: Inspector,
    pub down: Inspector,
}

/// A stop: the refusal, and what is known of the request for its record.
pub(crate) struct Stop {
    pub(crate) refusal: Refusal,
    pub(crate) status: StatusCode,
    /// What the client is told instead of the reason's own sentence: of the network's public side only.
    pub(crate) told: Option<String>,
}

impl Stop {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self::from(Refusal::new(reason, detail))
    }
}

impl From<Box<Refused>> for Stop {
    fn from(refused: Box<Refused>) -> Self {
        refused.refusal.into()
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        let status = status_of(refusal.reason);
        Self { refusal, status, told: None }
    }
}

/// Runs one request through the whole path. Always gives an answer for the client; exactly one decision record and,
/// for what was let through, one end record come of it. Interim answers are put where the client's side looks for them
/// while this runs.
pub async fn exchange(flow: &Arc<Flow>, asked: Box<Asked>, body: Body, interims: &Interims) -> Reply {
    let snapshot = flow.shared.snapshot.load_full();
    let proto = asked.proto;
    let mut facts = Facts::of(&asked);
    let prepared = judge::prepare(flow, &snapshot, asked, body.size_hint().exact(), &mut facts).await;
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(stop) => return Box::pin(refused(flow, &snapshot, facts, stop, !body.is_end_stream())).await,
    };
    if let Some(breach) = facts.conduct.breach() {
        let stop = Stop::new(Reason::BadFraming, breach);
        return Box::pin(refused(flow, &snapshot, facts, stop, !body.is_end_stream())).await;
    }
    let ending = match record::allow(flow, &snapshot, &facts, prepared.permit()).await {
        Ok(ending) => ending,
        Err(stop) => return Page::of(&stop, &facts).reply(!body.is_end_stream()),
    };
    let upload = scan::outbound(flow, prepared.permit(), body, &ending);
    let upload = match upload {
        Ok(upload) => upload,
        Err(stop) => return fail(&ending, &facts, stop, None),
    };
    let scan::Upload { body, findings } = upload;
    let (request, permit) = match credentials::into_request(prepared, body) {
        Ok(sent) => sent,
        Err(stop) => return fail(&ending, &facts, stop, None),
    };
    let standing = Box::new(Standing::new(flow, permit));
    let mut pass = |interim| {
        if let Some(interim) = answer::interim(&standing.permit, interim, &ending) {
            interims.put(interim);
        }
    };
    let answered = tokio::select! {
        biased;
        answered = flow.shared.upstream.send(request, proto, &mut pass) => answered,
        reason = standing.lost() => return fail(&ending, &facts, standing::stop(reason), None),
    };
    match answered {
        Ok(answer) => relay(flow, standing, answer, ending, &facts),
        Err(error) => {
            let stop = findings.and_then(|findings| findings.stop()).unwrap_or_else(|| failure(&error));
            fail(&ending, &facts, stop, Some(&error))
        }
    }
}

/// The page of a refusal that was recorded when its connection was decided.
pub fn refusal_page(refusal: &Refusal, claimed: &Result<Box<Asked>, Box<Rejected>>, unread: bool) -> Reply {
    let facts = match claimed {
        Ok(asked) => Facts::of(asked),
        Err(rejected) => Facts::rejected(rejected),
    };
    Page::of(&refusal.clone().into(), &facts).reply(unread)
}

/// Answers a request that has no place in the path: malformed, or contradicting its connection.
pub async fn reject(flow: &Flow, rejected: Rejected, unread: bool) -> Reply {
    let snapshot = flow.shared.snapshot.load_full();
    let facts = Facts::rejected(&rejected);
    let stop = Stop { status: rejected.status, ..Stop::from(rejected.refusal) };
    let mut reply = Box::pin(refused(flow, &snapshot, facts, stop, unread)).await;
    reply.close = true;
    reply
}

async fn refused(flow: &Flow, snapshot: &Arc<Snapshot>, mut facts: Facts, stop: Stop, unread: bool) -> Reply {
    let page = Page::of(&stop, &facts);
    let mut refusal = stop.refusal;
    if scan::target(snapshot, &mut facts) {
        refusal.detail = "its target is not told, because of what was found in it".to_owned();
    }
    refuse(flow, snapshot, &facts, &refusal).await;
    page.reply(unread)
}

fn relay(flow: &Flow, standing: Box<Standing>, answer: Answer, ending: Arc<Ending>, facts: &Facts) -> Reply {
    ending.answered_by(answer.from.clone(), answer.version);
    let switched = answer.switched.is_some();
    match answer::relay(flow, standing, answer, &ending) {
        Ok(reply) => reply,
        Err(stop) => {
            let mut reply = fail(&ending, facts, stop, None);
            // What the client sends behind a handshake that failed may be frames.
            reply.close |= switched;
            reply
        }
    }
}

fn failure(error: &UpstreamError) -> Stop {
    let reason = match error {
        UpstreamError::RequestBody(upload) => cut_short(upload).1,
        other => other.reason(),
    };
    let status = match error {
        UpstreamError::RequestBody(BodyError::Stalled) => StatusCode::REQUEST_TIMEOUT,
        UpstreamError::HeadTimeout | UpstreamError::ConnectTimeout => StatusCode::GATEWAY_TIMEOUT,
        UpstreamError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        UpstreamError::Blocked(_) => StatusCode::FORBIDDEN,
        UpstreamError::RequestBody(_) => StatusCode::BAD_REQUEST,
        UpstreamError::Dns(_)
        | UpstreamError::Connect(_)
        | UpstreamError::Proxy(_)
        | UpstreamError::Handshake(_)
        | UpstreamError::Tls(_)
        | UpstreamError::NoCommonProtocol
        | UpstreamError::Protocol(_)
        | UpstreamError::Closed
        | UpstreamError::Stale
        | UpstreamError::Io(_) => StatusCode::BAD_GATEWAY,
    };
    Stop { refusal: Refusal::new(reason, error.to_string()), status, told: error.told() }
}

/// How an exchange comes out whose request's body did not come to its end.
fn cut_short(upload: &BodyError) -> (Outcome, Reason) {
    match upload {
        BodyError::Stalled => (Outcome::Abandoned, Reason::Timeout),
        BodyError::Truncated | BodyError::Io(_) => (Outcome::Abandoned, Reason::ClientGone),
        // What the library itself ended the stream for is a fault of its frames.
        BodyError::Http2(error) if error.is_io() || error.is_remote() => {
            (Outcome::Abandoned, Reason::ClientGone)
        }
        BodyError::Http2(_) | BodyError::Framing(_) | BodyError::Refused => {
            (Outcome::Blocked, Reason::BadFraming)
        }
    }
}

/// The answer to an exchange that was let through and came to nothing.
fn fail(ending: &Arc<Ending>, facts: &Facts, stop: Stop, error: Option<&UpstreamError>) -> Reply {
    let outcome = match error {
        Some(UpstreamError::RequestBody(upload)) => cut_short(upload).0,
        Some(_) if !stop.status.is_client_error() => Outcome::Failed,
        Some(_) | None => Outcome::Blocked,
    };
    ending.finish(outcome, Some(stop.refusal.reason), Some(stop.refusal.detail.clone()));
    let mut reply = Page::of(&stop, facts).reply(false);
    // Who is gone sees nothing of it.
    if stop.refusal.reason == Reason::ClientGone {
        return reply;
    }
    ending.status(stop.status);
    // After an answer that was no HTTP the client's connection ends too: nothing more is believed of this exchange.
    reply.close |= matches!(error, Some(UpstreamError::Protocol(_)));
    let body = std::mem::take(reply.response.body_mut());
    *reply.response.body_mut() = ending::counted_down(body, ending.clone(), None);
    reply
}
