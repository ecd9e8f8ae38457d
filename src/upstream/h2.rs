//! HTTP/2 to an upstream host: one connection for a key, many streams. hyper owns the protocol.

use super::dial::Dialled;
use super::{Answer, Upstream, UpstreamError, UpstreamRequest};
use crate::base::{Scheme, UpstreamAddr};
use crate::codec::{Body, Pace, Paced};
use http::header::{CONTENT_LENGTH, COOKIE, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::Arc;

#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    address: UpstreamAddr,
    /// Counts the answers that are still being read, for idleness.
    users: Arc<()>,
}

impl Connection {
    pub(super) async fn open(dialled: Dialled, upstream: &Upstream) -> Result<Self, UpstreamError> {
        let settings = &upstream.settings;
        let address = dialled.address;
        let (sender, driver) = Builder::new(upstream.tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(settings.h2_stream_window)
            .initial_connection_window_size(settings.h2_connection_window)
            .max_header_list_size(u32::try_from(settings.head.bytes).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(dialled.wire))
            .await
            .map_err(|e| UpstreamError::Protocol(e.to_string()))?;
        upstream.tasks.spawn("upstream-h2", async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "an upstream HTTP/2 connection ended");
            }
        });
        Ok(Self { sender, address, users: Arc::new(()) })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// No exchange holds a copy of this connection.
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.users) == 1
    }
}

pub(super) async fn exchange(
    connection: Connection,
    request: UpstreamRequest,
    upstream: &Upstream,
) -> Result<Answer, UpstreamError> {
    let Connection { mut sender, address, users } = connection;
    let authority = request.authority();
    let scheme = if request.right.scheme() == Scheme::Https { "https" } else { "http" };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(request.target)
        .build()
        .map_err(|e| UpstreamError::Protocol(format!("the target has no HTTP/2 form: {e}")))?;
    let is_head = request.method == Method::HEAD;
    let mut message = Request::new(request.body);
    *message.method_mut() = request.method;
    *message.uri_mut() = uri;
    *message.version_mut() = Version::HTTP_2;
    *message.headers_mut() = request.headers;
    let sending = async {
        sender.ready().await.map_err(|_| UpstreamError::Stale)?;
        sender.try_send_request(message).await.map_err(|mut error| {
            // hyper gives the message back when it never began to send it.
            if error.take_message().is_some() { UpstreamError::Stale } else { failure(error.into_error()) }
        })
    };
    let response = tokio::time::timeout(upstream.settings.response_head, sending)
        .await
        .unwrap_or(Err(UpstreamError::HeadTimeout))?;
    let (mut parts, body) = response.into_parts();
    // As over HTTP/1: the length is framing and no field, and an answer that has no body by its nature has none.
    let length = parts.headers.remove(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let no_content = parts.status == StatusCode::NO_CONTENT;
    let pace = Pace { patience: upstream.settings.response_silence, bytes_per_second: 0 };
    let bodiless = is_head || no_content || parts.status == StatusCode::NOT_MODIFIED;
    let body = if bodiless {
        Body::Empty
    } else {
        Body::stream(Held { body: Paced::new(body, pace), _users: users })
    };
    let mut response = http::Response::new(body);
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    let stated_length = length.filter(|_| bodiless && !no_content);
    Ok(Answer { response, from: address, version: Version::HTTP_2, stated_length, switched: None })
}

fn failure(error: hyper::Error) -> UpstreamError {
    // A body of ours that failed is the cause, not the origin.
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        if inner.is::<crate::codec::BodyError>() {
            return UpstreamError::RequestBody(crate::codec::BodyError::Refused);
        }
        cause = inner.source();
    }
    if error.is_user() {
        return UpstreamError::RequestBody(crate::codec::BodyError::H2(error));
    }
    UpstreamError::Protocol(error.to_string())
}

/// Cookies that HTTP/2 carries in pieces are one field in HTTP/1 (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// An answer's body that keeps its connection from counting as idle.
struct Held {
    body: Paced,
    _users: Arc<()>,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = crate::codec::BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
