//! HTTP/2 towards the client. hyper owns the protocol; each stream is claimed and answered like any other request.

use super::claim;
use super::h1::Service;
use super::leftover::{Leftover, lend};
use super::{Gate, Settings};
use crate::codec::{Body, BodyError, Pace, Paced};
use crate::pipeline::{Asked, Rejected};
use crate::rt::Lazily;
use crate::tls::Records;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

/// A peer that does not answer a ping for this long is gone.
const PING: Duration = Duration::from_secs(30);
/// What hyper buffers of an answer for one stream.
const SEND_BUFFER: usize = 64 * 1024;

pub(super) async fn serve(gate: &Arc<Gate>, stream: TlsStream<Records<TcpStream>>, service: Arc<Service>) {
    let settings = &gate.settings;
    let streams = Arc::new(Streams::default());
    let fields = settings.head_limits.fields;
    let drain_time = settings.drain_time;
    let pace = Pace { patience: settings.body_patience, bytes_per_second: settings.body_rate };
    let answer = {
        let streams = streams.clone();
        service_fn(move |request: Request<Incoming>| {
            let busy = Busy::begin(&streams);
            let (parts, body) = request.into_parts();
            let is_empty = body.is_end_stream();
            let (body, leftover) = lend(body, drain_time);
            let body = if is_empty { Body::Empty } else { Body::stream(Paced::new(body, pace)) };
            let claimed = claim::h2(parts, &service.connection, fields);
            // Boxed: hyper moves this future several times on its way into a task.
            Box::pin(answer(service.clone(), claimed, body, leftover, busy))
        })
    };
    let connection = Builder::new(gate.tasks.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.h2_streams)
        .max_header_list_size(u32::try_from(settings.head_limits.bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(settings.h2_stream_window)
        .initial_connection_window_size(settings.h2_connection_window)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(Lazily::new(connection));
    let mut drain = gate.tasks.drain_signal();
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        () = drain.signalled() => {
            // Open streams have the time of the drain, which ends them.
            connection.as_mut().inner().graceful_shutdown();
            return log_end(connection.await);
        }
        () = streams.over.notified() => {}
        () = idle(settings, &streams) => {}
    }
    connection.as_mut().inner().graceful_shutdown();
    if let Ok(ended) = tokio::time::timeout(settings.drain_time, connection).await {
        log_end(ended);
    }
}

/// Ends when nothing has happened for too long: no first stream, no open stream, or none that waits for anybody but a
/// client that takes nothing.
async fn idle(settings: &Settings, streams: &Streams) {
    tokio::time::sleep(settings.head).await;
    if streams.moved.load(Ordering::Relaxed) == 0 {
        return;
    }
    let (mut seen, mut quiet) = (0, Duration::ZERO);
    loop {
        tokio::time::sleep(settings.idle).await;
        let moved = streams.moved.load(Ordering::Relaxed);
        quiet = if moved == seen { quiet + settings.idle } else { Duration::ZERO };
        seen = moved;
        let stalled = streams.waiting.load(Ordering::Relaxed) == 0 && quiet >= settings.write_stall;
        if stalled || (streams.open.load(Ordering::Relaxed) == 0 && !quiet.is_zero()) {
            return;
        }
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's HTTP/2 connection ended");
    }
}

/// What the streams of a connection are doing.
#[derive(Default)]
struct Streams {
    /// Grows with every head and every piece of an answer.
    moved: AtomicU64,
    open: AtomicU64,
    /// Of the open ones, those that wait for us or for the upstream side.
    waiting: AtomicU64,
    /// Told when the connection was refused and its page has been given.
    over: Notify,
}

/// Counts a stream as open from its head to the last of its answer.
struct Busy {
    streams: Arc<Streams>,
    waits: bool,
}

impl Busy {
    fn begin(streams: &Arc<Streams>) -> Self {
        streams.moved.fetch_add(1, Ordering::Relaxed);
        streams.open.fetch_add(1, Ordering::Relaxed);
        streams.waiting.fetch_add(1, Ordering::Relaxed);
        Self { streams: streams.clone(), waits: true }
    }

    fn waits(&mut self, waits: bool) {
        if waits != self.waits {
            let waiting = &self.streams.waiting;
            if waits {
                waiting.fetch_add(1, Ordering::Relaxed)
            } else {
                waiting.fetch_sub(1, Ordering::Relaxed)
            };
            self.waits = waits;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.waits(false);
        self.streams.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    service: Arc<Service>,
    claimed: Result<Box<Asked>, Box<Rejected>>,
    body: Body,
    mut leftover: Leftover,
    mut busy: Busy,
) -> Result<Response<Body>, Infallible> {
    let head_length = claimed.as_ref().is_ok_and(|asked| asked.method == http::Method::HEAD);
    let reply = service.answer(claimed, body).await;
    if service.page.is_some() {
        busy.streams.over.notify_one();
    }
    let mut response = reply.response;
    if let (true, Some(length)) = (head_length, reply.stated_length) {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    if response.body().is_end_stream() {
        leftover.discard().await;
    }
    busy.waits(false);
    Ok(response.map(|body| match body.is_end_stream() {
        true => body,
        false => Body::stream(Running { body, leftover, busy }),
    }))
}

/// An answer's body that counts its stream as open until it is dropped, with its last byte or the client's reset.
struct Running {
    body: Body,
    leftover: Leftover,
    busy: Busy,
}

impl http_body::Body for Running {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            frame = self.leftover.poll_discard(cx).map(|()| None);
        }
        self.busy.waits(frame.is_pending());
        if frame.is_ready() {
            self.busy.streams.moved.fetch_add(1, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.leftover.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ended(streams: &Streams, after: Duration) -> bool {
        tokio::time::timeout(after, idle(&Settings::default(), streams)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn ht_06_12_a_connection_ends_when_its_client_says_or_takes_nothing_and_only_then() {
        let settings = Settings::default();
        let streams = Arc::new(Streams::default());
        assert!(ended(&streams, settings.head * 2).await, "no stream was ever begun");
        let mut busy = Busy::begin(&streams);
        assert!(!ended(&streams, settings.write_stall * 10).await, "an answer that is awaited, or is silent");
        busy.waits(false);
        assert!(ended(&streams, settings.write_stall * 2).await, "a client that takes nothing");
        assert!(!ended(&streams, settings.write_stall / 2).await, "and only in time");
        drop(busy);
        assert!(ended(&streams, settings.idle * 3).await, "nothing is open");
    }
}
