//! HTTP/2 to an upstream host: one connection in a lane, many streams. The `h2` crate owns the protocol; it is driven
//! here without a client on top of it, whose task for each request would cost more than the request.

use super::dial::{Dialled, Reached};
use super::interim::Interims;
use super::wire::{Fault, refused};
use super::{Answer, Upstream, UpstreamError, UpstreamRequest};
use crate::base::Scheme;
use crate::codec::h1::{HeadLimits, MAX_FIELDS};
use crate::codec::h2::{Breach, Received, Unsent, answers, check_fields, pour, stated_length};
use crate::codec::{Body, Pace, Paced};
use crate::rt::Lazily;
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use http_body::Body as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Bytes of requests that one connection may hold before the socket takes them.
const SEND_BUFFER: usize = 256 * 1024;

#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    reached: Reached,
    fault: Fault,
    breach: Arc<OnceLock<Breach>>,
    /// Counts the answers that are still being read, for idleness.
    users: Arc<()>,
    /// Takes no more requests: it is over, or will be with the streams that are open.
    ended: Arc<AtomicBool>,
    /// Streams whose unread answers the connection's window has room for: more, and slow readers would stop the others.
    most: usize,
}

impl Connection {
    pub(super) async fn open(dialled: Dialled, upstream: &Upstream) -> Result<Self, UpstreamError> {
        let settings = &upstream.settings;
        let (reached, fault) = (dialled.reached, dialled.wire.fault());
        let (watched, breach) = answers(dialled.wire);
        let (sender, driver) = Builder::new()
            .enable_push(false)
            .initial_window_size(settings.h2_stream_window)
            .initial_connection_window_size(settings.h2_connection_window)
            .max_header_list_size(u32::try_from(settings.head.bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .handshake(watched)
            .await
            .map_err(|e| UpstreamError::Protocol(e.to_string()))?;
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        upstream.tasks.spawn_aside(async move {
            if let Err(error) = Lazily::new(driver).await {
                tracing::debug!(%error, "an upstream HTTP/2 connection ended");
            }
            told.store(true, Ordering::Release);
        });
        let most = (settings.h2_connection_window / settings.h2_stream_window.max(1)).max(1) as usize;
        Ok(Self { sender, reached, fault, breach, users: Arc::new(()), ended, most })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    /// Whether it may carry another stream: as many as our window and the peer's setting allow.
    pub(super) fn has_room(&self) -> bool {
        Arc::strong_count(&self.users) - 1 < self.most.min(self.sender.current_max_send_streams())
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.users, &other.users)
    }

    /// Waits until a request can be sent; `None` where the peer takes no more.
    pub(super) async fn ready(mut self) -> Option<Self> {
        self.sender = self.sender.ready().await.ok()?;
        Some(self)
    }

    /// No exchange holds a copy of this connection.
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.users) == 1
    }
}

pub(super) async fn exchange(
    connection: Connection,
    request: &mut UpstreamRequest,
    upstream: &Upstream,
    interims: &mut Interims<'_>,
) -> Result<Answer, UpstreamError> {
    let (fault, breach) = (connection.fault.clone(), connection.breach.clone());
    let answered = exchange_on(connection, request, upstream, interims).await;
    answered.map_err(|error| match breach.get() {
        Some(breach) => UpstreamError::Protocol(breach.to_string()),
        None => refused(&fault, error),
    })
}

async fn exchange_on(
    connection: Connection,
    request: &mut UpstreamRequest,
    upstream: &Upstream,
    interims: &mut Interims<'_>,
) -> Result<Answer, UpstreamError> {
    let Connection { mut sender, reached, users, ended, .. } = connection;
    let message = message(request)?;
    let is_head = message.method() == Method::HEAD;
    let body = std::mem::take(&mut request.body);
    let bodiless = matches!(body, Body::Empty);
    let (mut heads, stream) = sender.send_request(message, bodiless).map_err(|e| not_begun(&e))?;
    let limits = &upstream.settings.head;
    let mut answer = poll_fn(|cx| poll_head(&mut heads, interims, limits, &ended, cx));
    if !bodiless {
        let mut upload: Upload = Box::pin(send(body, stream, upstream.settings.write_stall));
        tokio::select! {
            biased;
            sent = &mut upload => match sent {
                Ok(()) => {}
                Err(error @ UpstreamError::RequestBody(_)) => return Err(error),
                // The origin may have answered before it stopped reading; its answer is worth more than our error.
                Err(error) => {
                    let early = tokio::time::timeout(upstream.settings.connect, &mut answer).await;
                    let Ok(Ok(answer)) = early else { return Err(error) };
                    return into_answer(answer, is_head, reached, users, upstream);
                }
            },
            early = &mut answer => {
                upstream.tasks.spawn("upload", finish_upload(upload, upstream.tasks.drain_signal()));
                return into_answer(early?, is_head, reached, users, upstream);
            }
        }
    }
    let answer = tokio::time::timeout(upstream.settings.response_head, answer).await;
    into_answer(answer.unwrap_or(Err(UpstreamError::HeadTimeout))?, is_head, reached, users, upstream)
}

/// Hands interim answers on as they come. A peer that does not keep to their bounds is asked for nothing more.
fn poll_head(
    heads: &mut ResponseFuture,
    interims: &mut Interims<'_>,
    limits: &HeadLimits,
    ended: &AtomicBool,
    cx: &mut Context<'_>,
) -> Poll<Result<http::Response<RecvStream>, UpstreamError>> {
    // The crate drops those that are there when it is asked for the final head, so that is asked for only once it is
    // known to be next.
    while let Some(interim) = ready!(heads.poll_informational(cx)) {
        let interim = interim.map_err(|e| failure(&e))?;
        let taken = check(interim.headers(), limits).and_then(|()| interims.take(interim));
        taken.inspect_err(|_| ended.store(true, Ordering::Release))?;
    }
    let answer = ready!(Pin::new(heads).poll(cx)).map_err(|e| failure(&e))?;
    check(answer.headers(), limits)?;
    Poll::Ready(Ok(answer))
}

/// What HTTP/1 lets no head have, and the crate lets pass. It sees to their bytes.
fn check(fields: &HeaderMap, limits: &HeadLimits) -> Result<(), UpstreamError> {
    if fields.len() > limits.fields.min(MAX_FIELDS) {
        return Err(UpstreamError::Protocol("the head is larger than its limit".to_owned()));
    }
    check_fields(fields).map_err(|wrong| UpstreamError::Protocol(wrong.to_owned()))
}

/// The message in HTTP/2's form. What may be sent once more stays in `request` as well.
fn message(request: &mut UpstreamRequest) -> Result<Request<()>, UpstreamError> {
    let authority = request.authority();
    let scheme = if request.lane.right().scheme() == Scheme::Https { "https" } else { "http" };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(&*authority)
        .path_and_query(request.target.clone())
        .build()
        .map_err(|e| UpstreamError::Protocol(format!("the target has no HTTP/2 form: {e}")))?;
    let mut message = Request::new(());
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = uri;
    *message.version_mut() = Version::HTTP_2;
    *message.headers_mut() = HeaderMap::clone(&request.headers);
    let states_nothing = !matches!(*message.method(), Method::POST | Method::PUT | Method::PATCH);
    match request.body.size_hint().exact() {
        None => {}
        Some(0) if states_nothing => {}
        Some(length) => drop(message.headers_mut().insert(CONTENT_LENGTH, length.into())),
    }
    Ok(message)
}

type Upload = Pin<Box<dyn Future<Output = Result<(), UpstreamError>> + Send>>;

/// An upload that outlives the head of its answer; bounded by the pace of its body and by what its peer takes.
async fn finish_upload(upload: Upload, mut drain: crate::rt::Drain) {
    tokio::select! {
        _ = upload => {}
        () = drain.over() => {}
    }
}

/// A body that is not sent to its end ends the stream, so that half a message never looks like a whole one.
async fn send(body: Body, mut stream: SendStream<Bytes>, stall: Duration) -> Result<(), UpstreamError> {
    let unsent = match pour(body, &mut stream, Some(stall)).await {
        Ok(()) => return Ok(()),
        Err(unsent) => unsent,
    };
    stream.send_reset(Reason::CANCEL);
    Err(match unsent {
        Unsent::Body(error) => UpstreamError::RequestBody(error),
        Unsent::Stalled => std::io::Error::from(std::io::ErrorKind::TimedOut).into(),
        Unsent::Ended(error) => failure(&error),
        Unsent::Closed => UpstreamError::Closed,
    })
}

fn into_answer(
    response: http::Response<RecvStream>,
    is_head: bool,
    reached: Reached,
    users: Arc<()>,
    upstream: &Upstream,
) -> Result<Answer, UpstreamError> {
    let (mut parts, stream) = response.into_parts();
    // As over HTTP/1: the length is framing and no field, and an answer that has no body by its nature has none.
    let length = stated_length(&parts.headers).map_err(|wrong| UpstreamError::Protocol(wrong.to_owned()))?;
    parts.headers.remove(CONTENT_LENGTH);
    let no_content = parts.status == StatusCode::NO_CONTENT;
    let bodiless = is_head || no_content || parts.status == StatusCode::NOT_MODIFIED;
    let body = if bodiless || stream.is_end_stream() {
        Body::Empty
    } else {
        let pace = Pace { patience: upstream.settings.response_silence, bytes_per_second: 0 };
        // Its connection does not count as idle while it is read.
        Body::stream(Paced::new(Received::new(stream, length, users), pace))
    };
    let mut response = http::Response::new(body);
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    let stated_length = length.filter(|_| bodiless && !no_content);
    Ok(Answer { response, from: reached, version: Version::HTTP_2, stated_length, switched: None })
}

/// Whether a request that could not be sent may be sent over another connection.
fn not_begun(error: &h2::Error) -> UpstreamError {
    if error.is_io() || error.is_go_away() { UpstreamError::Stale } else { failure(error) }
}

/// A refused stream, or one above the last that a GOAWAY names, was not looked at (RFC 9113 section 8.7). Of a
/// connection that ended without a word nothing is known: what may be repeated anyway is.
fn failure(error: &h2::Error) -> UpstreamError {
    let unseen = error.is_remote() && (error.is_go_away() || error.is_reset());
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if unseen => UpstreamError::Stale,
        Some(Reason::NO_ERROR) if unseen && error.is_go_away() => UpstreamError::Stale,
        _ if error.is_io() => UpstreamError::Stale,
        _ => UpstreamError::Protocol(error.to_string()),
    }
}
