//! Runs one connection: takes its streams, sees to it that the client is there, and ends it where the watch finds a fault.

use super::super::h1::Service;
use super::super::{Gate, claim};
use super::leftover::{Leftover, lend};
use super::stream::Offered;
use super::stream::{self, Busy, Streams};
use crate::base::Proto;
use crate::codec::h2::{Fault, Noted, Received, RefusedStream, Watch, Watched};
use crate::codec::{Body, Pace, Paced};
use crate::pipeline::{self, Rejected};
use crate::policy::{Reason, Refusal};
use crate::rt::boxed;
use crate::tls::Records;
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::{Request, StatusCode};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, Sleep};
use tokio_rustls::server::TlsStream;

/// A client of which nothing is heard for this long is asked, and gone when it is silent for as long again.
const PING: Duration = Duration::from_secs(30);

pub(super) struct Driver {
    connection: Connection<Watched<TlsStream<Records<TcpStream>>>, Bytes>,
    watch: Watch,
    gate: Arc<Gate>,
    service: Arc<Service>,
    streams: Arc<Streams>,
    record: Record,
    pings: Option<PingPong>,
    looks: Interval,
    /// A ping was sent, and nothing came since.
    asked: bool,
    /// When the head that is under way must have come.
    head: Option<(Instant, Pin<Box<Sleep>>)>,
    /// The client was told that this is the end.
    told: bool,
}

impl Driver {
    pub(super) fn new(
        mut connection: Connection<Watched<TlsStream<Records<TcpStream>>>, Bytes>,
        watch: Watch,
        gate: Arc<Gate>,
        service: Arc<Service>,
        streams: Arc<Streams>,
    ) -> Self {
        let record = Record::new(&gate, &service);
        let pings = connection.ping_pong();
        let looks = tokio::time::interval_at(Instant::now() + PING, PING);
        Self {
            connection,
            watch,
            gate,
            service,
            streams,
            record,
            pings,
            looks,
            asked: false,
            head: None,
            told: false,
        }
    }

    /// Takes no more streams, and ends with those that are open.
    pub(super) fn end(mut self: Pin<&mut Self>) {
        self.connection.graceful_shutdown();
    }

    fn begin(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let settings = &self.gate.settings;
        let Some(taken) = self.watch.take(respond.stream_id().as_u32()) else { return };
        let busy = Busy::begin(&self.streams);
        let (parts, received) = request.into_parts();
        let fields = settings.head_limits.fields;
        let claimed = claim::h2(parts, &taken, &self.service.connection, fields);
        let conduct = taken.conduct;
        let (body, leftover, wanted) = if received.is_end_stream() {
            (Body::Empty, Leftover::default(), None)
        } else {
            let pace = Pace { patience: settings.body_patience, bytes_per_second: settings.body_rate };
            let wanted = claimed.expects_continue.then(|| Arc::new(Notify::new()));
            let received = Received::new(received, claimed.length, ());
            let (body, leftover) = lend(received, conduct.clone(), wanted.clone(), settings.drain_time);
            (Body::stream(Paced::new(body, pace)), leftover, wanted)
        };
        let offered = Offered { claimed: claimed.request, body, leftover, wanted, conduct };
        // Boxed: it is moved several times on its way into a task.
        let answer = boxed(|| stream::answer(self.service.clone(), offered, respond, busy));
        self.gate.tasks.spawn("stream", answer);
    }

    /// Looks at what the watch has seen; whether the connection was ended for it.
    fn watch(&mut self, cx: &mut Context<'_>) -> bool {
        let told = self.watch.told();
        for refused in told.refused {
            self.streams.moved();
            self.record.stream(refused);
        }
        if self.told {
            return false;
        }
        if let Some((fault, noted)) = told.fault {
            if noted == Noted::Nowhere {
                self.record.fault(fault);
            }
            self.stop(fault.code());
            return true;
        }
        if self.poll_late(told.head_since, cx).is_ready() {
            if self.watch.is_late() == Noted::Nowhere {
                self.record.refusal(Reason::Timeout, super::NOTHING_ASKED);
            }
            self.stop(h2::Reason::NO_ERROR);
            return true;
        }
        false
    }

    /// No stream was begun in time.
    pub(super) fn nothing_asked(mut self: Pin<&mut Self>) {
        // A head that is under way is late at the same moment.
        if !std::mem::replace(&mut self.told, true) {
            self.record.refusal(Reason::Timeout, super::NOTHING_ASKED);
        }
    }

    /// Ready when a head has been under way for too long.
    fn poll_late(&mut self, since: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = since else {
            self.head = None;
            return Poll::Pending;
        };
        let until = since + self.gate.settings.head;
        if self.head.as_ref().is_none_or(|(timed, _)| *timed != since) {
            self.head = Some((since, Box::pin(tokio::time::sleep_until(until))));
        }
        self.head.as_mut().map_or(Poll::Pending, |(_, sleep)| sleep.as_mut().poll(cx))
    }

    fn stop(&mut self, code: h2::Reason) {
        self.told = true;
        self.connection.abrupt_shutdown(code);
        // Bounds the time in which the client may take it.
        self.streams.over.notify_one();
    }

    /// Whether the client has gone without a word.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        while self.looks.poll_tick(cx).is_ready() {
            if self.watch.heard() {
                self.asked = false;
            } else if self.asked {
                return true;
            } else if let Some(pings) = &mut self.pings {
                // One that is still under way is as good; the watch hears its answer.
                let _ = pings.poll_pong(cx);
                self.asked = pings.send_ping(Ping::opaque()).is_ok();
            }
        }
        false
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match this.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => this.begin(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    this.watch(cx);
                    if !this.told {
                        this.record.error(&error);
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(None) => {
                    this.watch(cx);
                    return Poll::Ready(());
                }
                Poll::Pending if this.watch(cx) => {}
                Poll::Pending if this.is_gone(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Writes the records of what was refused before it was a request.
pub(super) struct Record {
    gate: Arc<Gate>,
    service: Arc<Service>,
}

impl Record {
    pub(super) fn new(gate: &Arc<Gate>, service: &Arc<Service>) -> Self {
        Self { gate: gate.clone(), service: service.clone() }
    }

    /// The `h2` crate ended the connection for what the client did, or the client did.
    pub(super) fn error(&self, error: &h2::Error) {
        tracing::debug!(%error, "a client's HTTP/2 connection ended");
        match error.reason() {
            Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_library() => {
                self.refusal(Reason::Limit, error.to_string());
            }
            Some(_) if error.is_library() => self.refusal(Reason::BadRequest, error.to_string()),
            _ => {}
        }
    }

    fn fault(&self, fault: Fault) {
        let reason = match fault {
            Fault::Flood(_) | Fault::Resets => Reason::Limit,
            Fault::Block => Reason::TooLarge,
            Fault::Unreadable | Fault::Trailers | Fault::First | Fault::Size(_) | Fault::Window => {
                Reason::BadRequest
            }
        };
        self.refusal(reason, fault.to_string());
    }

    fn stream(&self, refused: RefusedStream) {
        match refused {
            RefusedStream::Answered => self.refusal(Reason::TooLarge, "the head is larger than its limit"),
            RefusedStream::Reset(h2::Reason::REFUSED_STREAM) => {
                self.refusal(Reason::Limit, "more streams at one time than the limit");
            }
            RefusedStream::Reset(code) => {
                self.refusal(Reason::BadRequest, format!("a malformed stream: {code}"));
            }
        }
    }

    pub(super) fn refusal(&self, reason: Reason, detail: impl Into<String>) {
        // A connection that is refused has its record already.
        if self.service.page.is_some() {
            return;
        }
        let connection = &self.service.connection;
        let rejected = Rejected {
            refusal: Refusal::new(reason, detail),
            status: StatusCode::BAD_REQUEST,
            authority: connection.host.as_ref().map(ToString::to_string).unwrap_or_default(),
            method: None,
            target: String::new(),
            scheme: connection.scheme,
            proto: Proto::H2,
        };
        let service = self.service.clone();
        self.gate.tasks.spawn("refusal", async move {
            // The page has no stream that it could be shown on.
            drop(pipeline::reject(&service.flow, rejected, false).await);
        });
    }
}
