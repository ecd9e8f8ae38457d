//! What the hosts of the test internet answer, over HTTP/1 and h2 alike, and the list of requests that they understood.
//!
//! The raw bytes are the judge (`origin`); this list is for h2, where bytes are frames, and for bodies.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::mpsc;

use super::files::File;

pub type Answer = http::Response<BoxBody<Bytes, Infallible>>;

#[derive(Debug)]
pub struct Request {
    pub version: http::Version,
    pub method: String,
    pub target: String,
    /// `:authority` on h2, `Host` on HTTP/1.
    pub authority: String,
    pub headers: HeaderMap,
    /// Set when the whole body has arrived: its length, its SHA-256, and its trailers.
    pub body: Mutex<Option<(u64, String, HeaderMap)>>,
}

impl Request {
    pub fn header(&self, name: &str) -> Vec<String> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }
}

pub struct Pages {
    requests: Mutex<Vec<Arc<Request>>>,
    files: Mutex<HashMap<String, File>>,
    git_root: Mutex<Option<std::path::PathBuf>>,
    streams: Mutex<Vec<mpsc::UnboundedSender<Bytes>>>,
}

impl Pages {
    pub fn new() -> Self {
        Self {
            requests: Mutex::default(),
            files: Mutex::default(),
            git_root: Mutex::default(),
            streams: Mutex::default(),
        }
    }

    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.requests.lock().unwrap().clone()
    }

    pub fn serve_file(&self, path: &str, content_type: &str, bytes: impl Into<Bytes>) {
        self.serve_with(path, &[("content-type", content_type)], bytes);
    }

    /// A file with these header fields, in this order.
    pub fn serve_with(&self, path: &str, headers: &[(&str, &str)], bytes: impl Into<Bytes>) {
        let file = File::new(headers, bytes.into());
        self.files.lock().unwrap().insert(path.to_owned(), file);
    }

    /// The validator of a file, as it stands in its `ETag`.
    pub fn tag(&self, path: &str) -> String {
        self.files.lock().unwrap()[path].tag.clone()
    }

    /// 404 at this path, where otherwise everything has a page.
    pub fn serve_nothing(&self, path: &str) {
        let nothing = File { status: StatusCode::NOT_FOUND, ..File::new(&[], Bytes::new()) };
        self.files.lock().unwrap().insert(path.to_owned(), nothing);
    }

    /// Sends one event to every open `/sse`.
    pub fn event(&self, data: &str) {
        let event = Bytes::from(format!("data: {data}\n\n"));
        self.streams.lock().unwrap().retain(|stream| stream.send(event.clone()).is_ok());
    }

    /// How many `/sse` are open.
    pub fn streams(&self) -> usize {
        self.streams.lock().unwrap().len()
    }

    /// Ends every open `/sse`.
    pub fn end_events(&self) {
        self.streams.lock().unwrap().clear();
    }

    /// Repositories below this folder are served under `/git/` by git's own http-backend.
    pub fn serve_git(&self, root: &std::path::Path) {
        *self.git_root.lock().unwrap() = Some(root.to_owned());
    }
}

/// Bytes in which each block of 64 KiB says its number, so that a lost or doubled one changes the hash.
pub fn pattern(length: usize) -> Vec<u8> {
    let filler: Vec<u8> = (0..65_528_u32).map(|place| (place % 251) as u8).collect();
    let mut out = Vec::with_capacity(length + 65_536);
    for block in 0_u64.. {
        if out.len() >= length {
            break;
        }
        out.extend(block.to_be_bytes());
        out.extend(&filler);
    }
    out.truncate(length);
    out
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub async fn answer(pages: Arc<Pages>, request: http::Request<Incoming>) -> Result<Answer, Infallible> {
    let host =
        request.headers().get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let noted = Arc::new(Request {
        version: request.version(),
        method: request.method().to_string(),
        target: request.uri().path_and_query().map_or_else(|| request.uri().to_string(), ToString::to_string),
        authority: request.uri().authority().map(ToString::to_string).or(host).unwrap_or_default(),
        headers: request.headers().clone(),
        body: Mutex::new(None),
    });
    pages.requests.lock().unwrap().push(Arc::clone(&noted));
    Ok(page(&pages, &noted, request).await)
}

async fn page(pages: &Arc<Pages>, noted: &Arc<Request>, mut request: http::Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let file = pages.files.lock().unwrap().get(&path).cloned();
    if let Some(file) = file {
        return file.answer(request.headers());
    }
    let (first, argument) =
        path[1.min(path.len())..].split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match first {
        "echo" => {
            let mut said = format!("{} {} {:?}\n", noted.method, noted.target, noted.version);
            for (name, value) in &noted.headers {
                said += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
            }
            let body = take_body(noted, request.into_body()).await;
            typed("text/plain", [said.as_bytes(), b"\n", &body].concat())
        }
        "bytes" => typed("application/octet-stream", pattern(argument.parse().unwrap_or(0))),
        "status" => {
            let mut answer = typed("text/plain", Bytes::new());
            *answer.status_mut() = argument.parse().unwrap_or(StatusCode::IM_A_TEAPOT);
            answer
        }
        "redirect" => {
            let mut answer = typed("text/plain", Bytes::new());
            *answer.status_mut() = StatusCode::FOUND;
            let to = request.uri().query().unwrap_or("/").to_owned();
            answer.headers_mut().insert(header::LOCATION, to.parse().unwrap());
            answer
        }
        "upload" => {
            let (length, digest) = count_body(noted, request.into_body()).await;
            typed("text/plain", format!("{length} {digest}\n"))
        }
        "sse" => events(pages),
        "trailers" => trailers(),
        "ws" => websocket(&mut request),
        "git" => {
            let root = pages.git_root.lock().unwrap().clone();
            let headers = request.headers().clone();
            let (method, query) = (noted.method.clone(), request.uri().query().unwrap_or("").to_owned());
            let body = take_body(noted, request.into_body()).await;
            super::git::backend(root, &path["/git".len()..], method, query, headers, body).await
        }
        _ => {
            take_body(noted, request.into_body()).await;
            typed("text/plain", format!("hello from {}\n", noted.authority))
        }
    }
}

pub fn typed(content_type: &str, body: impl Into<Bytes>) -> Answer {
    let mut answer = http::Response::new(Full::new(body.into()).boxed());
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
    answer
}

async fn take_body(noted: &Request, body: Incoming) -> Bytes {
    let Ok(collected) = body.collect().await else { return Bytes::new() };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let bytes = collected.to_bytes();
    *noted.body.lock().unwrap() = Some((bytes.len() as u64, sha256(&bytes), trailers));
    bytes
}

async fn count_body(noted: &Request, mut body: Incoming) -> (u64, String) {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let (mut length, mut trailers) = (0, HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (length, "cut".into()) };
        match frame.into_data() {
            Ok(data) => {
                length += data.len() as u64;
                digest.update(&data);
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let digest = hex(digest.finish().as_ref());
    *noted.body.lock().unwrap() = Some((length, digest.clone(), trailers));
    (length, digest)
}

/// A body that ends when its sender goes.
struct Stream(mpsc::UnboundedReceiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

fn events(pages: &Pages) -> Answer {
    let (sender, source) = mpsc::unbounded_channel();
    pages.streams.lock().unwrap().push(sender);
    let mut answer = http::Response::new(Stream(source).boxed());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer
}

fn trailers() -> Answer {
    let body = Full::new(Bytes::from_static(b"body before trailers\n"));
    let trailers =
        HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static("abc123"))]);
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = http::Response::new(BodyExt::boxed(body));
    answer.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-checksum"));
    answer
}

fn websocket(request: &mut http::Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        let mut refusal = typed("text/plain", "a WebSocket lives here\n");
        *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return refusal;
    };
    let upgrade = hyper::upgrade::on(request);
    tokio::runtime::Handle::current().spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            super::websocket::echo(hyper_util::rt::TokioIo::new(upgraded)).await.ok();
        }
    });
    let mut answer = http::Response::new(Full::default().boxed());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-accept", accept_key(key.as_bytes()).parse().unwrap());
    answer
}

/// The answer to a WebSocket key (RFC 6455, section 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    let salted = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &salted))
}
