//! What the seam below HTTP/2 costs a request: the frames of one request read and of its answer of 1 KiB written, the
//! stream taken and the connection looked at, as the driver does. The bytes move in memory, and `bare` is that alone.
//!
//! - `seam/first`: a head of eleven fields as a client first sends it, in Huffman's code and kept in the table: under
//!   1 µs, most of it the lengths of what the table keeps.
//! - `seam/next`: the head of every later request, indexed but for its path: under 0.2 µs, with the dozen nanoseconds of
//!   each lock.
//!
//! `cargo bench --bench h2`. Compare only runs of one machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench may panic")]

use criterion::{Criterion, criterion_group, criterion_main};
use outgate::codec::h2::watched;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Gives the same bytes with each read, and takes all.
struct Memory(Vec<u8>);

impl AsyncRead for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        buf.put_slice(&self.0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(black_box(buf).len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The HEADERS frames of a client's first two requests, as the `h2` crate writes them.
fn heads() -> [Vec<u8>; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let written = runtime.block_on(async {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (client, mut connection) = h2::client::handshake(near).await.unwrap();
        let mut client = client.ready().await.unwrap();
        let answers = ["/v1/messages?beta=true", "/v1/messages/count"].map(|path| {
            let request = http::Request::get(format!("https://api.example.com{path}"))
                .header("user-agent", "agent/1.0 (linux; x86_64) http-client/2.31.0")
                .header("accept", "application/json")
                .header("accept-encoding", "gzip, deflate, br, zstd")
                .header("accept-language", "en-US,en;q=0.9")
                .header("x-api-key", "placeholder-of-the-agent-0123456789")
                .header("x-request-attempt", "1")
                .header("content-type", "application/json");
            client.send_request(request.body(()).unwrap(), true).unwrap()
        });
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut connection).poll(&mut context).is_pending());
        let mut written = vec![0; 1 << 16];
        let length = far.read(&mut written).await.unwrap();
        written.truncate(length);
        drop(answers);
        written
    });
    let mut rest = &written[24..];
    let mut heads = Vec::new();
    while rest.len() >= 9 {
        let length = 9 + u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        if rest[3] == 1 {
            heads.push(rest[..length].to_vec());
        }
        rest = &rest[length..];
    }
    heads.try_into().unwrap()
}

/// One request through `io`; its stream's number is written into the head beforehand.
fn turn(io: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &[u8], buffer: &mut [u8]) {
    let mut context = Context::from_waker(Waker::noop());
    let mut buf = ReadBuf::new(buffer);
    assert!(Pin::new(&mut *io).poll_read(&mut context, &mut buf).is_ready());
    black_box(buf.filled());
    assert!(Pin::new(io).poll_write(&mut context, answer).is_ready());
}

fn seam(c: &mut Criterion) {
    let mut group = c.benchmark_group("seam");
    let mut buffer = vec![0; 16 * 1024];
    let payload = [0; 1024];
    let answer = [&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88][..], &[0, 4, 0, 0, 1, 0, 0, 0, 1], &payload].concat();
    let [first, next] = heads();
    let mut bare = Memory(next.clone());
    group.bench_function("bare", |b| b.iter(|| turn(&mut bare, &answer, &mut buffer)));
    for (name, head) in [("first", &first), ("next", &next)] {
        // The state's first read is of the preface; the table is as the first request left it.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let source = Shared::new([&preface[..], &first].concat());
        let (mut io, watch) = watched(source.clone());
        turn(&mut io, &answer, &mut buffer);
        watch.take(1);
        let mut stream = 1_u32;
        group.bench_function(name, |b| {
            b.iter(|| {
                // Numbers are used up after a thousand million requests; a bench has fewer.
                stream += 2;
                source.set(head, stream);
                turn(&mut io, &answer, &mut buffer);
                assert!(black_box(watch.take(stream)).is_some());
                let told = watch.told();
                assert!(told.fault.is_none());
            });
        });
    }
    group.finish();
}

/// [`Memory`] whose bytes are set from outside.
#[derive(Clone)]
struct Shared(std::sync::Arc<std::sync::Mutex<Memory>>);

impl Shared {
    fn new(bytes: Vec<u8>) -> Self {
        Self(std::sync::Arc::new(std::sync::Mutex::new(Memory(bytes))))
    }

    fn set(&self, head: &[u8], stream: u32) {
        let mut memory = self.0.lock().unwrap();
        memory.0.clear();
        memory.0.extend_from_slice(head);
        memory.0[5..9].copy_from_slice(&stream.to_be_bytes());
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

criterion_group!(benches, seam);
criterion_main!(benches);
