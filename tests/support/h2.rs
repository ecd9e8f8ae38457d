//! An HTTP/2 client of single streams: what `h2` sends is what was asked for, also when no honest client would.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bed::Bed;
use super::wire::{PATIENCE, Tls};
use super::world::at;

pub struct H2 {
    runtime: Runtime,
    streams: SendRequest<Bytes>,
}

/// A response with its body and trailers, or the words of the stream's error.
pub type Outcome = Result<(Response<Vec<u8>>, HeaderMap), String>;

impl H2 {
    /// Transparent HTTPS with ALPN h2 to where the agent believes `name` to be.
    pub fn connect(bed: &Bed, ip: std::net::IpAddr, name: &str) -> Self {
        Self::over(bed.world.agent.connect(at(ip, 443), PATIENCE).unwrap(), &bed.tls(name))
    }

    pub fn over(socket: std::net::TcpStream, tls: &Tls) -> Self {
        Self::try_over(socket, tls).unwrap()
    }

    /// The error is that of the handshake.
    pub fn try_over(socket: std::net::TcpStream, tls: &Tls) -> std::io::Result<Self> {
        let tls = Tls { alpn: vec!["h2"], ..tls.clone() };
        socket.set_nonblocking(true).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let streams = runtime.block_on(async {
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let connecting = TlsConnector::from(tls.config()).connect(tls.server_name(), socket);
            let stream: TlsStream<_> = connecting.await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "h2 is offered");
            let (streams, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::runtime::Handle::current().spawn(connection);
            Ok::<_, std::io::Error>(streams)
        })?;
        Ok(Self { runtime, streams })
    }

    pub fn get(&self, uri: &str) -> Outcome {
        self.send(Request::get(uri).body(()).unwrap(), None)
    }

    /// One request; `body` is sent as one DATA run.
    pub fn send(&self, request: Request<()>, body: Option<Vec<u8>>) -> Outcome {
        self.send_and_hear(request, body, |_| {})
    }

    /// The same; `hear` is given each interim answer as it comes.
    pub fn send_and_hear(
        &self,
        request: Request<()>,
        body: Option<Vec<u8>>,
        mut hear: impl FnMut(Response<()>),
    ) -> Outcome {
        let streams = self.streams.clone();
        let work = async move {
            let mut streams = streams.ready().await?;
            let (mut response, mut upload) = streams.send_request(request, body.is_none())?;
            if let Some(body) = body {
                upload.send_data(body.into(), true)?;
            }
            while let Some(interim) = poll_fn(|cx| response.poll_informational(cx)).await {
                hear(interim?);
            }
            let (head, mut download) = response.await?.into_parts();
            let mut whole = Vec::new();
            while let Some(data) = download.data().await {
                let data = data?;
                download.flow_control().release_capacity(data.len())?;
                whole.extend(data);
            }
            let trailers = download.trailers().await?.unwrap_or_default();
            Ok::<_, h2::Error>((Response::from_parts(head, whole), trailers))
        };
        let bounded = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
        bounded.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())
    }
}
