//! HTTP/2 towards the client. hyper owns the protocol; each stream is claimed and answered like any other request.

use super::Gate;
use super::claim;
use super::h1::Service;
use crate::codec::{Body, BodyError};
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
use tokio_rustls::server::TlsStream;

/// A peer that does not answer a ping for this long is gone.
const PING: Duration = Duration::from_secs(30);
/// What hyper buffers of an answer for one stream.
const SEND_BUFFER: usize = 64 * 1024;

pub(super) async fn serve(gate: &Arc<Gate>, stream: TlsStream<TcpStream>, service: Arc<Service>) {
    let settings = &gate.settings;
    let activity = Arc::new(AtomicU64::new(0));
    let running = Arc::new(AtomicU64::new(0));
    let fields = settings.head_limits.fields;
    let answer = {
        let (activity, running) = (activity.clone(), running.clone());
        service_fn(move |request| {
            activity.fetch_add(1, Ordering::Relaxed);
            let busy = Busy::begin(running.clone());
            // Boxed: hyper moves this future several times on its way into a task.
            Box::pin(answer(service.clone(), request, fields, busy))
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
    let mut connection = pin!(connection);
    let mut drain = gate.tasks.drain_signal();
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        () = drain.signalled() => {}
        () = idle(settings.idle, &activity, &running) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = tokio::time::timeout(settings.drain_time, connection).await {
        log_end(ended);
    }
}

/// Ends when no stream has been open for the whole time.
async fn idle(limit: Duration, activity: &AtomicU64, running: &AtomicU64) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(limit).await;
        let now = activity.load(Ordering::Relaxed);
        if now == seen && running.load(Ordering::Relaxed) == 0 {
            return;
        }
        seen = now;
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's HTTP/2 connection ended");
    }
}

/// Counts a stream as open from its head to the last of its answer.
struct Busy(Arc<AtomicU64>);

impl Busy {
    fn begin(running: Arc<AtomicU64>) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(running)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
    fields: usize,
    busy: Busy,
) -> Result<Response<Body>, Infallible> {
    let (parts, incoming) = request.into_parts();
    let body = if incoming.is_end_stream() { Body::Empty } else { Body::H2(incoming) };
    let claimed = claim::h2(parts, &service.connection, fields);
    let head_length = claimed.as_ref().is_ok_and(|asked| asked.method == http::Method::HEAD);
    let reply = service.answer(claimed, body).await;
    let mut response = reply.response;
    if let (true, Some(length)) = (head_length, reply.stated_length) {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    Ok(response.map(|body| if body.is_end_stream() { body } else { Body::stream(Running { body, _busy: busy }) }))
}

/// An answer's body that counts its stream as open until it is dropped, with its last byte or the client's reset.
struct Running {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Running {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
