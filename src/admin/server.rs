//! Serves the admin socket and the loopback port, by hyper's HTTP/1, one request a connection.

use super::attach;
use super::files::{Files, Receiving};
use super::socket::{self, SocketError, SocketFile};
use super::{Settings, Source, Spawn};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// More at once is nobody's need; more wait in the kernel's queue.
const CONNECTION_LIMIT: usize = 32;

/// A reload compiles policies and runs their case files: the longest answer there is.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

const HEAD_TIME: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 * 1024;

/// After a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("{0} is not a loopback address; health and metrics are served on 127.0.0.1 or ::1 only")]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address} for health and metrics: {source}")]
    Http { address: SocketAddr, source: io::Error },
}

/// Who may use the Unix socket, by the user id that the kernel vouches for.
#[derive(Debug, Clone, Copy)]
struct Admitted([u32; 2]);

impl Admitted {
    fn admits(self, uid: u32) -> bool {
        self.0.contains(&uid)
    }
}

/// Both doors, bound and not yet served.
pub struct Bound {
    socket: std::os::unix::net::UnixListener,
    file: SocketFile,
    http: Option<(StdTcpListener, SocketAddr)>,
    admitted: Admitted,
}

impl Bound {
    pub fn bind(settings: &Settings) -> Result<Self, BindError> {
        let http = settings.http.map(bind_http).transpose()?;
        let (socket, file) = socket::bind(&settings.socket)?;
        Ok(Self { socket, file, http, admitted: Admitted([nix::unistd::geteuid().as_raw(), 0]) })
    }

    /// Where health and metrics are served; tells the port that was given for port 0.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(_, address)| *address)
    }

    /// Accepts until dropped; the socket's file goes away then. Fails when called outside of a runtime.
    pub fn serve(self, source: Arc<Source>, spawn: Spawn) -> io::Result<impl Future<Output = ()> + Send> {
        let socket = UnixListener::from_std(self.socket)?;
        let http = self.http.map(|(listener, _)| TcpListener::from_std(listener)).transpose()?;
        let door = Door { source, spawn, places: Arc::new(Semaphore::new(CONNECTION_LIMIT)) };
        // Places of its own: who floods the port cannot shut the operator out of the socket.
        let http_door = Door { places: Arc::new(Semaphore::new(CONNECTION_LIMIT)), ..door.clone() };
        let (file, admitted) = (self.file, self.admitted);
        Ok(async move {
            let _file = file;
            tokio::join!(door.accept_socket(socket, admitted), async {
                if let Some(listener) = http {
                    http_door.accept_http(listener).await;
                }
            });
        })
    }
}

fn bind_http(address: SocketAddr) -> Result<(StdTcpListener, SocketAddr), BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    let bind = || {
        let listener = StdTcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|source| BindError::Http { address, source })
}

#[derive(Clone)]
struct Door {
    source: Arc<Source>,
    spawn: Spawn,
    places: Arc<Semaphore>,
}

impl Door {
    async fn accept_socket(&self, listener: UnixListener, admitted: Admitted) {
        while let Ok(place) = self.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) if self.may_enter(&stream, admitted) => {
                    let (stream, files) = Receiving::new(stream);
                    self.serve(stream, place, Some(files));
                }
                Ok(_) => {}
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn accept_http(&self, listener: TcpListener) {
        while let Ok(place) = self.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => self.serve(stream, place, None),
                Err(error) => pause(&error).await,
            }
        }
    }

    fn may_enter(&self, stream: &UnixStream, admitted: Admitted) -> bool {
        match stream.peer_cred() {
            Ok(peer) if admitted.admits(peer.uid()) => true,
            Ok(peer) => {
                (self.source.stranger)(peer.uid(), peer.pid());
                false
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection without credentials was closed");
                false
            }
        }
    }

    /// `files`: what a trusted peer sends along.
    fn serve<S>(&self, stream: S, place: OwnedSemaphorePermit, files: Option<Files>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let source = self.source.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (source, files) = (source.clone(), files.clone());
            async move {
                let (head, body) = request.into_parts();
                let (method, path) = (&head.method, head.uri.path());
                let answer = match files {
                    Some(files) if matches!(path, "/attach" | "/detach") && method == Method::POST => {
                        attach::answer(&source, path, body, files.take()).await
                    }
                    Some(_) => answer_socket(&source, method, path).await,
                    None => answer_http(&source, method, path),
                };
                Ok::<_, Infallible>(answer.into_response())
            }
        });
        let connection = http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        (self.spawn)(
            "admin",
            Box::pin(async move {
                let _place = place;
                // Peers that vanish or take too long are no news.
                let _ = timeout(CONNECTION_TIME, connection).await;
            }),
        );
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept an admin connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

pub(super) struct Answer {
    status: StatusCode,
    media: &'static str,
    body: String,
    allow: Option<&'static str>,
}

impl Answer {
    fn new(status: StatusCode, media: &'static str, body: impl Into<String>) -> Self {
        Self { status, media, body: body.into(), allow: None }
    }

    pub(super) fn text(status: StatusCode, words: impl Into<String>) -> Self {
        Self::new(status, TEXT, words)
    }

    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self::new(StatusCode::OK, JSON, body),
            Err(error) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
        }
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, TEXT, "not found\n")
    }

    fn wrong_method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, TEXT, "wrong method\n") }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(self.media));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, http::HeaderValue::from_static(allow));
        }
        response
    }
}

async fn answer_socket(source: &Source, method: &Method, path: &str) -> Answer {
    match (path, method) {
        ("/state", &Method::GET) => Answer::json(&(source.state)()),
        ("/flows", &Method::GET) => Answer::json(&(source.flows)()),
        ("/attachments", &Method::GET) => Answer::json(&(source.attachments)()),
        ("/reload", &Method::POST) => match (source.reload)().await {
            Ok(said) => Answer::new(StatusCode::OK, TEXT, said),
            Err(said) => Answer::new(StatusCode::UNPROCESSABLE_ENTITY, TEXT, said),
        },
        ("/reload" | "/attach" | "/detach", _) => Answer::wrong_method("POST"),
        ("/state" | "/flows" | "/attachments", _) => Answer::wrong_method("GET"),
        _ => answer_http(source, method, path),
    }
}

fn answer_http(source: &Source, method: &Method, path: &str) -> Answer {
    if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return Answer::not_found();
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Answer::wrong_method("GET, HEAD");
    }
    match path {
        "/metrics" => Answer::new(StatusCode::OK, OPEN_METRICS, (source.metrics)()),
        "/healthz" => Answer::new(StatusCode::OK, TEXT, "alive\n"),
        _ => match (source.unready)() {
            missing if missing.is_empty() => Answer::new(StatusCode::OK, TEXT, "ready\n"),
            missing => Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, missing.join("\n") + "\n"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BoxFuture, State, client};
    use super::*;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Run {
        dir: tempfile::TempDir,
        http: SocketAddr,
        ready: Arc<AtomicBool>,
        strangers: Arc<Mutex<Vec<u32>>>,
    }

    impl Run {
        fn path(&self) -> PathBuf {
            self.dir.path().join("admin.sock")
        }

        async fn call(
            &self,
            method: &'static str,
            target: &'static str,
        ) -> Result<(u16, String), client::Error> {
            let path = self.path();
            tokio::task::spawn_blocking(move || client::call(&path, method, target)).await.unwrap()
        }

        async fn http(&self, request: &str) -> String {
            let connecting = tokio::net::TcpSocket::new_v4().unwrap().connect(self.http);
            let mut stream = connecting.await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the runtime here")]
    fn spawn(future: BoxFuture<()>) {
        tokio::spawn(future);
    }

    fn settings(folder: &Path) -> Settings {
        Settings { socket: folder.join("admin.sock"), http: Some("127.0.0.1:0".parse().unwrap()) }
    }

    fn state() -> State {
        State {
            version: "1".into(),
            mode: "transparent".into(),
            listeners: Vec::new(),
            policy: "ab12".into(),
            ready: true,
            unready: Vec::new(),
            uptime_seconds: 1,
            flows: 0,
            audit_seq: 1,
            audit_hash: String::new(),
        }
    }

    fn run(admitted: Option<Admitted>) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let mut bound = Bound::bind(&settings(dir.path())).unwrap();
        bound.admitted = admitted.unwrap_or(bound.admitted);
        let run = Run {
            http: bound.http_address().unwrap(),
            dir,
            ready: Arc::default(),
            strangers: Arc::default(),
        };
        let (ready, strangers) = (run.ready.clone(), run.strangers.clone());
        let source = Source {
            state: Box::new(state),
            reload: Box::new(|| Box::pin(async { Err("policies/a.toml:3:1: error: unknown key".into()) })),
            flows: Box::new(Vec::new),
            attachments: Box::new(Vec::new),
            change: Box::new(|_| Box::pin(std::future::ready(Err("nothing".into())))),
            metrics: Box::new(|| "# EOF\n".into()),
            unready: Box::new(move || match ready.load(Ordering::Relaxed) {
                true => Vec::new(),
                false => vec!["the fence is not verified".into()],
            }),
            stranger: Box::new(move |uid, _| strangers.lock().unwrap().push(uid)),
        };
        let serving = bound.serve(Arc::new(source), Arc::new(|_, task| spawn(task))).unwrap();
        spawn(Box::pin(serving));
        run
    }

    #[tokio::test]
    async fn the_socket_tells_state_flows_and_metrics_and_reloads() {
        let run = run(None);
        let (status, body) = run.call("GET", "/state").await.unwrap();
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, value["policy"].as_str()), (200, Some("ab12")));
        assert_eq!(run.call("GET", "/flows").await.unwrap(), (200, "[]".into()));
        assert_eq!(run.call("GET", "/metrics").await.unwrap(), (200, "# EOF\n".into()));
        let (status, body) = run.call("POST", "/reload").await.unwrap();
        assert_eq!((status, body.contains("a.toml:3:1")), (422, true));
        assert_eq!(run.call("GET", "/reload").await.unwrap().0, 405);
        assert_eq!(run.call("GET", "/nothing").await.unwrap().0, 404);
    }

    #[tokio::test]
    async fn another_user_is_turned_away_and_recorded() {
        let run = run(Some(Admitted([4242, 4243])));
        assert!(matches!(run.call("GET", "/state").await, Err(client::Error::Refused(_))));
        assert_eq!(*run.strangers.lock().unwrap(), [nix::unistd::geteuid().as_raw()]);
    }

    #[tokio::test]
    async fn the_port_is_ready_only_when_that_was_said() {
        let run = run(None);
        let ready = "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
        let answer = run.http(ready).await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("the fence is not verified"),
            "{answer}"
        );
        run.ready.store(true, Ordering::Relaxed);
        assert!(run.http(ready).await.starts_with("HTTP/1.1 200"));
        assert!(run.http("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        assert!(run.http("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn the_port_neither_tells_nor_changes_anything() {
        let run = run(None);
        for request in ["GET /state", "GET /flows", "POST /reload", "GET /../state", "GET http://x/state"] {
            let answer = run.http(&format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
        }
        assert!(run.http("POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(run.http("\u{16}\u{3}\u{1}garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn health_is_never_served_beyond_loopback() {
        let dir = tempfile::tempdir().unwrap();
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let settings = Settings { http: Some(address.parse().unwrap()), ..settings(dir.path()) };
            assert!(matches!(Bound::bind(&settings), Err(BindError::NotLoopback(_))));
        }
        assert!(!dir.path().join("admin.sock").exists());
    }
}
