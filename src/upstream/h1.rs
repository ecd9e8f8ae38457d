//! One HTTP/1 exchange with an upstream host. The request is written and the answer read by the same task; only an
//! upload that goes on after the answer began gets a task of its own.

use super::dial::{Dialled, Reached};
use super::interim::Interims;
use super::pool::{Lane, Pool};
use super::wire::{Fault, refused};
use super::{Answer, Upstream, UpstreamError, UpstreamRequest, Wire};
use crate::codec::h1::{
    Framing, HeadLimits, Left, MessageBody, Persistence, Reader, ResponseHead, Slot, WriteError,
    encode_request, framing_of, head_buffer, write_head, write_message,
};
use crate::codec::{Body, BodyError, Pace};
use bytes::Bytes;
use http::{Method, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::{Instant, Sleep, sleep};

pub(super) struct Connection {
    reader: Reader<ReadHalf<Wire>>,
    writer: WriteHalf<Wire>,
    reached: Reached,
    fault: Fault,
    /// For the wait for an answer; kept with the connection, since a new one for each request costs more.
    clock: Pin<Box<Sleep>>,
    reused: bool,
}

impl Connection {
    pub(super) fn new(dialled: Dialled) -> Self {
        let fault = dialled.wire.fault();
        let (read, writer) = tokio::io::split(dialled.wire);
        let clock = Box::pin(sleep(Duration::ZERO));
        Self { reader: Reader::new(read), writer, reached: dialled.reached, fault, clock, reused: false }
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        self.reader.is_quiet()
    }
}

type Uploading = Pin<Box<dyn Future<Output = (WriteHalf<Wire>, Result<(), WriteError>)> + Send>>;

pub(super) async fn exchange(
    connection: Connection,
    request: &mut UpstreamRequest,
    upstream: &Upstream,
    interims: &mut Interims<'_>,
) -> Result<Answer, UpstreamError> {
    let Connection { mut reader, writer, reached, fault, mut clock, reused } = connection;
    let failed = |error| stale(reused, refused(&fault, error));
    let framing = framing_of(&request.body);
    let mut head = head_buffer();
    encode_request(
        &mut head,
        &request.method,
        request.target.as_str(),
        &request.authority(),
        &request.headers,
        framing,
    );
    // A server that does not read the body of such a request takes it for the next one; there is none.
    let is_last =
        framing != Framing::None && !matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    // The head ends in its empty line; these fields go before it.
    if request.websocket {
        head.truncate(head.len() - 2);
        head.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n");
    } else if is_last {
        head.truncate(head.len() - 2);
        head.extend_from_slice(b"connection: close\r\n\r\n");
    }
    let stall = upstream.settings.write_stall;
    let (writer, upload) = if framing == Framing::None {
        let mut writer = writer;
        let sent = write_head(&mut writer, head, stall).await;
        sent.map_err(|e| failed(e.into()))?;
        (Some(writer), None)
    } else {
        let (mut writer, mut body) = (writer, std::mem::take(&mut request.body));
        let upload: Uploading = Box::pin(async move {
            let result = write_message(&mut writer, head, &mut body, framing, stall).await;
            (writer, result)
        });
        (None, Some(upload))
    };
    let limits = &upstream.settings.head;
    let answered = {
        // Pinned here: a future that is handed over by value has its place twice.
        let reading = pin!(final_head(&mut reader, &request.method, limits, request.websocket, interims));
        answer(reading, upload, upstream, clock.as_mut()).await
    };
    let (head, finished, still_uploading) = answered.map_err(failed)?;
    if let Some(upload) = still_uploading {
        let drain = upstream.tasks.drain_signal();
        upstream.tasks.spawn("upload", finish_upload(upload, drain));
    }
    let connection = Parts { reader, writer: writer.or(finished).filter(|_| !is_last), reached, clock };
    Ok(into_answer(head, connection, request, upstream))
}

/// An upload that outlives the head of its answer; its connection is not used again.
async fn finish_upload(upload: Uploading, mut drain: crate::rt::Drain) {
    tokio::select! {
        // Half a message must not look like a whole one: the connection ends with it. Behind a whole one it stays open
        // for the rest of the answer, which many origins give up when their client says that it has finished.
        (mut writer, sent) = upload => {
            if sent.is_err() {
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
            }
        }
        () = drain.over() => {}
    }
}

type Answered = (ResponseHead, Option<WriteHalf<Wire>>, Option<Uploading>);

/// Writes what is left of the request and waits for the final head, whichever comes first.
async fn answer(
    mut reading: Pin<&mut impl Future<Output = Result<ResponseHead, UpstreamError>>>,
    upload: Option<Uploading>,
    upstream: &Upstream,
    mut clock: Pin<&mut Sleep>,
) -> Result<Answered, UpstreamError> {
    let settings = &upstream.settings;
    let mut writer = None;
    if let Some(mut sending) = upload {
        tokio::select! {
            biased;
            (half, result) = &mut sending => match result {
                Ok(()) => writer = Some(half),
                // The origin may have answered before it closed; its answer is worth more than our error.
                Err(WriteError::Io(error)) => {
                    return match tokio::time::timeout(settings.connect, reading).await {
                        Ok(Ok(head)) => Ok((head, None, None)),
                        _ => Err(error.into()),
                    };
                }
                Err(other) => return Err(other.into()),
            },
            head = &mut reading => return Ok((head?, None, Some(sending))),
        }
    }
    clock.as_mut().reset(Instant::now() + settings.response_head);
    tokio::select! {
        biased;
        head = reading => Ok((head?, writer, None)),
        () = clock => Err(UpstreamError::HeadTimeout),
    }
}

/// Hands interim answers on as they come; `101` is final where we asked for it.
async fn final_head(
    reader: &mut Reader<ReadHalf<Wire>>,
    method: &Method,
    limits: &HeadLimits,
    websocket: bool,
    interims: &mut Interims<'_>,
) -> Result<ResponseHead, UpstreamError> {
    loop {
        let head = reader.response(method, limits).await?;
        let switched = head.status == StatusCode::SWITCHING_PROTOCOLS && websocket;
        if switched || !head.status.is_informational() {
            return Ok(head);
        }
        let mut interim = Response::new(());
        *interim.status_mut() = head.status;
        *interim.headers_mut() = head.headers;
        interims.take(interim)?;
    }
}

/// A pooled connection may have been closed while our request was on its way.
fn stale(reused: bool, error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::Closed | UpstreamError::Io(_) if reused => UpstreamError::Stale,
        other => other,
    }
}

struct Parts {
    reader: Reader<ReadHalf<Wire>>,
    /// Absent where the connection ends with this answer: an upload still uses it, or failed.
    writer: Option<WriteHalf<Wire>>,
    reached: Reached,
    clock: Pin<Box<Sleep>>,
}

fn into_answer(head: ResponseHead, parts: Parts, request: &UpstreamRequest, upstream: &Upstream) -> Answer {
    let Parts { mut reader, writer, reached, clock } = parts;
    let ResponseHead { status, headers, framing, stated_length, persistence } = head;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let mut answer = Answer {
        response,
        from: reached.clone(),
        version: Version::HTTP_11,
        stated_length: None,
        switched: None,
    };
    if status == StatusCode::SWITCHING_PROTOCOLS {
        answer.switched = writer.map(|writer| {
            let (ahead, read) = reader.into_parts();
            (ahead, read.unsplit(writer))
        });
        return answer;
    }
    if request.method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        answer.stated_length = stated_length;
    }
    let home = (persistence == Persistence::KeepAlive && framing != Framing::UntilClose)
        .then(|| {
            writer.map(|writer| Home {
                pool: upstream.pool.clone(),
                lane: request.lane.clone(),
                writer,
                reached,
                clock,
            })
        })
        .flatten();
    // A short answer often comes whole with its head: then there is nothing to wait for.
    let whole = match framing {
        Framing::None => Some(Body::Empty),
        Framing::Length(length) => reader.take_read(length).map(Body::Full),
        Framing::Chunked | Framing::UntilClose => None,
    };
    if let Some(body) = whole {
        *answer.response.body_mut() = body;
        if let Some(home) = home {
            home.take_back(reader);
        }
        return answer;
    }
    let pace = Pace { patience: upstream.settings.response_silence, bytes_per_second: 0 };
    let (message, slot) = MessageBody::new(reader, framing, pace, None);
    *answer.response.body_mut() = Body::stream(Returning { message: Some(message), slot, home });
    answer
}

/// Where a connection goes after its answer was read to the end.
struct Home {
    pool: Arc<Pool>,
    lane: Lane,
    writer: WriteHalf<Wire>,
    reached: Reached,
    clock: Pin<Box<Sleep>>,
}

impl Home {
    fn take_back(self, reader: Reader<ReadHalf<Wire>>) {
        let Self { pool, lane, writer, reached, clock } = self;
        let fault = Fault::default();
        let mut connection = Connection { reader, writer, reached, fault, clock, reused: true };
        // Bytes behind the answer belong to no request of ours: such a connection is not used again.
        if connection.is_quiet() {
            pool.put_h1(&lane, connection);
        }
    }
}

/// An answer's body that gives its connection back when it was read to the end.
struct Returning {
    message: Option<MessageBody<ReadHalf<Wire>>>,
    slot: Slot<ReadHalf<Wire>>,
    home: Option<Home>,
}

impl Returning {
    /// As early as possible: the client's next request often arrives before this body is dropped.
    fn return_if_done(&mut self) {
        if self.message.as_ref().is_some_and(HttpBody::is_end_stream) {
            self.message = None;
            if let (Some(home), Some(Left { reader, finished: true })) = (self.home.take(), self.slot.take())
            {
                home.take_back(reader);
            }
        }
    }
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(message) = self.message.as_mut() else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(message).poll_frame(cx));
        self.return_if_done();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.message.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.message.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
