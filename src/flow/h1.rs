//! HTTP/1 towards the client: heads one at a time, the next only after the exchange before it has ended.

use super::claim::{self, Connection};
use super::decide::Plain;
use super::idle::{Next, idle};
use super::registry::Ticket;
use super::{Gate, ahead, websocket};
use crate::base::Proto;
use crate::codec::h1::{
    Framing, HeadError, Left, MessageBody, Persistence, ReadError, Reader, RequestHead, Slot,
    encode_response, framing_of, head_buffer, write_answer, write_head,
};
use crate::codec::{Body, Pace, Recorded};
use crate::dns::Leases;
use crate::pipeline::{self, Asked, Flow, Interims, Outcome, Rejected, Reply, Switched};
use crate::policy::{Reason, Refusal};
use crate::rt::boxed;
use crate::tls::Records;
use bytes::BytesMut;
use http::{StatusCode, Version};
use http_body::Body as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

/// What answers the requests of one connection.
pub(super) struct Service {
    pub(super) flow: Arc<Flow>,
    pub(super) _ticket: Ticket,
    pub(super) connection: Connection,
    /// A refusal that is already recorded: its page answers everything.
    pub(super) page: Option<Refusal>,
    pub(super) leases: Arc<Leases>,
    pub(super) client_number: u16,
}

impl Service {
    pub(super) fn new(
        gate: &Gate,
        flow: Flow,
        ticket: Ticket,
        connection: Connection,
        page: Option<Refusal>,
    ) -> Self {
        let client_number = gate.registry.client_number(&flow.client_name);
        Self {
            flow: Arc::new(flow),
            _ticket: ticket,
            connection,
            page,
            leases: gate.leases.clone(),
            client_number,
        }
    }

    /// Whether the client's packets went to an address that it was not told for the name it asks for: a CDN that
    /// rotates, another resolver, or a lie. Told in the record; what is dialled is what we resolve.
    fn went_elsewhere(&self, asked: &Asked) -> bool {
        match (asked.host.name(), self.flow.orig_dst) {
            (Some(name), Some(target)) => {
                !self.leases.told(self.client_number, target.ip().to_canonical(), name)
            }
            _ => false,
        }
    }

    pub(super) async fn answer(
        &self,
        claimed: Result<Box<Asked>, Box<Rejected>>,
        body: Body,
        interims: &Interims,
    ) -> Reply {
        let unread = !body.is_end_stream();
        if let Some(refusal) = &self.page {
            let mut reply = pipeline::refusal_page(refusal, &claimed, unread);
            reply.close = true;
            return reply;
        }
        match claimed {
            Ok(mut asked) => {
                asked.dst_mismatch = self.went_elsewhere(&asked);
                pipeline::exchange(&self.flow, asked, body, interims).await
            }
            Err(rejected) => Box::pin(pipeline::reject(&self.flow, *rejected, unread)).await,
        }
    }
}

pub(super) async fn serve_plain(gate: &Arc<Gate>, plain: Plain) {
    let Plain { stream, ahead, flow, ticket, connection } = plain;
    let service = Arc::new(Service::new(gate, flow, ticket, connection, None));
    serve(gate, Recorded::new(ahead, stream), &service, false).await;
}

pub(super) async fn serve_tls(
    gate: &Arc<Gate>,
    stream: TlsStream<Records<TcpStream>>,
    service: Arc<Service>,
) {
    serve(gate, stream, &service, true).await;
}

async fn serve<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    gate: &Arc<Gate>,
    io: IO,
    service: &Arc<Service>,
    eof_is_the_end: bool,
) {
    let (read, writer) = tokio::io::split(io);
    let mut connection = Client { reader: Reader::new(read), writer, eof_is_the_end };
    let mut idle = idle(gate);
    loop {
        match idle.next_head(gate, &mut connection.reader).await {
            Next::Head(head) => {
                // Boxed for the time of the exchange, so that an idle connection stays small.
                let turn = boxed(|| claimed_turn(gate, connection, head, service)).await;
                match turn {
                    Some(kept) => connection = kept,
                    None => return,
                }
            }
            Next::Bad(error) => {
                let rejected = bad_head(&error, &service.connection);
                return Box::pin(answer_unread(gate, connection, service, rejected)).await;
            }
            Next::Late => {
                let rejected = late_head(&service.connection);
                return Box::pin(answer_unread(gate, connection, service, rejected)).await;
            }
            Next::End => {
                // Nothing is lost when the peer does not take our goodbye.
                let _ = tokio::time::timeout(Duration::from_secs(1), connection.writer.shutdown()).await;
                return;
            }
        }
    }
}

async fn claimed_turn<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    gate: &Arc<Gate>,
    connection: Client<IO>,
    head: RequestHead,
    service: &Arc<Service>,
) -> Option<Client<IO>> {
    let shape = Shape::of(&head);
    let interims = &shape.interims();
    let claimed = claim::h1(head, &service.connection);
    let answer = |claimed, body| service.answer(claimed, body, interims);
    turn(gate, connection, shape, claimed, interims, answer).await
}

/// A client's side of one HTTP/1 connection, between messages.
pub(super) struct Client<IO> {
    pub(super) reader: Reader<ReadHalf<IO>>,
    pub(super) writer: WriteHalf<IO>,
    /// In TLS a close means that the client is gone; in clear text it may only have finished asking.
    pub(super) eof_is_the_end: bool,
}

/// What of a head belongs to the connection and not to the exchange.
pub(super) struct Shape {
    framing: Framing,
    persistence: Persistence,
    expects_continue: bool,
    version: Version,
}

impl Shape {
    /// For an answer to something that was no request.
    pub(super) fn closing() -> Self {
        Self {
            framing: Framing::None,
            persistence: Persistence::Close,
            expects_continue: false,
            version: Version::HTTP_11,
        }
    }

    pub(super) fn of(head: &RequestHead) -> Self {
        Self {
            framing: head.framing,
            persistence: head.persistence,
            // HTTP/1.0 knows no interim answers (RFC 9110 section 10.1.1).
            expects_continue: head.expects_continue && head.version >= Version::HTTP_11,
            version: head.version,
        }
    }

    /// For the interim answers that the client may be given.
    pub(super) fn interims(&self) -> Interims {
        Interims::new(self.version >= Version::HTTP_11)
    }
}

/// One exchange on a connection. Gives the connection back when it can carry another.
pub(super) async fn turn<IO, Answering>(
    gate: &Arc<Gate>,
    connection: Client<IO>,
    shape: Shape,
    claimed: Result<Box<Asked>, Box<Rejected>>,
    interims: &Interims,
    answer: impl FnOnce(Result<Box<Asked>, Box<Rejected>>, Body) -> Answering,
) -> Option<Client<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Answering: Future<Output = Reply>,
{
    let settings = &gate.settings;
    let Client { reader, mut writer, eof_is_the_end } = connection;
    let head_only = claimed.as_ref().is_ok_and(|asked| asked.method == http::Method::HEAD);
    let (body, holder, wanted) = match shape.framing {
        Framing::None => (Body::Empty, Holder::Reader(reader), None),
        framing => {
            let pace = Pace { patience: settings.body_patience, bytes_per_second: settings.body_rate };
            let wanted = shape.expects_continue.then(|| Arc::new(Notify::new()));
            let (message, slot) = MessageBody::new(reader, framing, pace, wanted.clone());
            (Body::stream(message), Holder::Slot(slot), wanted)
        }
    };
    let (mut holder, mut unsent) = (holder, BytesMut::new());
    let reply = tokio::select! {
        biased;
        reply = answer(claimed, body) => reply,
        () = ahead::say(wanted, interims, &mut unsent, &mut writer) => return None,
        () = holder.client_gone(eof_is_the_end) => return None,
    };
    let Reply { response, stated_length, close, switched } = reply;
    let (parts, mut body) = response.into_parts();
    ahead::put(interims, &mut unsent);
    if let Some(switched) = switched {
        return Box::pin(switch(gate, holder, (writer, unsent), &parts, *switched)).await;
    }
    let mut close = close || shape.persistence == Persistence::Close || gate.tasks.is_draining();
    // An answer before the end of its request: the client may go on with the body, or not. Nothing can follow it.
    close |= holder.is_unfinished();
    let mut framing = if head_only { Framing::None } else { framing_of(&body) };
    if framing == Framing::Chunked && shape.version < Version::HTTP_11 {
        framing = Framing::UntilClose;
        close = true;
    }
    let keep_alive_10 = shape.version < Version::HTTP_11 && !close;
    // An answer to HEAD that states no length must not be given one.
    let told = if head_only && stated_length.is_none() { Framing::UntilClose } else { framing };
    let mut head = if unsent.is_empty() { head_buffer() } else { unsent };
    let phrase = parts.extensions.get();
    encode_response(&mut head, parts.status, phrase, &parts.headers, told, stated_length, close);
    if keep_alive_10 {
        head.truncate(head.len() - 2);
        head.extend_from_slice(b"connection: keep-alive\r\n\r\n");
    }
    if write_answer(&mut writer, head, &mut body, framing, settings.write_stall).await.is_err() {
        // Visibly cut: no last chunk, or fewer bytes than the head says.
        return None;
    }
    drop(body);
    holder.settle(gate, writer, close, eof_is_the_end).await
}

/// Who has the reader while an exchange runs.
enum Holder<R> {
    Reader(Reader<R>),
    Slot(Slot<R>),
    /// Back from a body that was not read to its end.
    Left(Left<R>),
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> Holder<ReadHalf<IO>> {
    /// Ends when the client has closed while we work for it, so that nobody works on for nobody.
    async fn client_gone(&mut self, eof_is_the_end: bool) {
        if let Self::Slot(slot) = self {
            let left = slot.returned().await;
            *self = match left {
                Left { reader, finished: true } => Self::Reader(reader),
                left => Self::Left(left),
            };
        }
        if let Self::Reader(reader) = self {
            match reader.wait_for_data().await {
                Ok(false) if eof_is_the_end => return,
                Err(_) => return,
                // The next request is here already, or the client has finished asking; both wait for this one.
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    /// Whether the body of the request was not, or not yet, read to its end.
    fn is_unfinished(&mut self) -> bool {
        let Self::Slot(slot) = self else { return matches!(self, Self::Left(_)) };
        match slot.take() {
            None => true,
            Some(Left { reader, finished: true }) => {
                *self = Self::Reader(reader);
                false
            }
            Some(left) => {
                *self = Self::Left(left);
                true
            }
        }
    }

    /// Takes the reader back after the answer; at the end of the connection throws away what nobody read.
    async fn settle(
        self,
        gate: &Gate,
        mut writer: WriteHalf<IO>,
        close: bool,
        eof_is_the_end: bool,
    ) -> Option<Client<IO>> {
        let settings = &gate.settings;
        if close {
            let _ = tokio::time::timeout(settings.drain_time, writer.shutdown()).await;
        }
        let mut reader = match self {
            Self::Reader(reader) => reader,
            Self::Left(left) => left.reader,
            Self::Slot(slot) => tokio::time::timeout(settings.drain_time, slot.returned()).await.ok()?.reader,
        };
        if !close {
            return Some(Client { reader, writer, eof_is_the_end });
        }
        // An answer that is followed by a reset is lost in most clients: the rest is read away.
        let away = async { while reader.discard().await.is_ok_and(|n| n > 0) {} };
        let _ = tokio::time::timeout(settings.drain_time, away).await;
        None
    }
}

/// After `101`: what the client sent behind its handshake is the beginning of its messages.
async fn switch<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    gate: &Arc<Gate>,
    mut holder: Holder<ReadHalf<IO>>,
    (mut writer, mut head): (WriteHalf<IO>, BytesMut),
    parts: &http::response::Parts,
    switched: Switched,
) -> Option<Client<IO>> {
    holder.is_unfinished();
    let Holder::Reader(reader) = holder else {
        switched.ending.finish(Outcome::Failed, Some(Reason::BadRequest), None);
        return None;
    };
    encode_response(&mut head, parts.status, None, &parts.headers, Framing::None, None, false);
    if write_head(&mut writer, head, gate.settings.write_stall).await.is_err() {
        return None;
    }
    let (ahead, read) = reader.into_parts();
    websocket::relay(gate, read.unsplit(writer), ahead, switched).await;
    None
}

/// A head that cannot be read, or did not come: recorded, answered, closed.
async fn answer_unread<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    gate: &Arc<Gate>,
    connection: Client<IO>,
    service: &Arc<Service>,
    rejected: Box<Rejected>,
) {
    let shape = Shape::closing();
    let interims = &shape.interims();
    let answer = |claimed, body| service.answer(claimed, body, interims);
    turn(gate, connection, shape, Err(rejected), interims, answer).await;
}

pub(super) fn bad_head(error: &ReadError, connection: &Connection) -> Box<Rejected> {
    let (reason, status) = match error {
        ReadError::Head(HeadError::NotHttp) => (Reason::Protocol, StatusCode::BAD_REQUEST),
        ReadError::Head(HeadError::Syntax(_)) => (Reason::BadRequest, StatusCode::BAD_REQUEST),
        ReadError::Head(HeadError::Framing(_)) => (Reason::BadFraming, StatusCode::BAD_REQUEST),
        ReadError::Head(HeadError::TooLarge) => {
            (Reason::TooLarge, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        }
        ReadError::Head(HeadError::Expectation) => (Reason::BadRequest, StatusCode::EXPECTATION_FAILED),
        ReadError::Truncated | ReadError::Io(_) => (Reason::BadRequest, StatusCode::BAD_REQUEST),
    };
    unread(Refusal::new(reason, error.to_string()), status, connection)
}

pub(super) fn late_head(connection: &Connection) -> Box<Rejected> {
    let refusal = Refusal::new(Reason::Timeout, "the head of a request did not come in time");
    unread(refusal, StatusCode::REQUEST_TIMEOUT, connection)
}

/// A request of which nothing can be said but what its connection says.
pub(super) fn unread(refusal: Refusal, status: StatusCode, connection: &Connection) -> Box<Rejected> {
    Box::new(Rejected {
        refusal,
        status,
        authority: connection.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        method: None,
        target: String::new(),
        scheme: connection.scheme,
        proto: Proto::H1,
    })
}
