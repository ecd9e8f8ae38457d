//! HTTP/2 towards the client. The `h2` crate owns the protocol, under `codec::h2`, which watches the frames; it is driven
//! here without a server on top of it, so that a stream that the crate refuses by itself has its record too, and a
//! connection that asks too much of it can be told so.
//!
//! `driver` runs a connection and gives each stream to `stream`, which answers it like any other request.

mod driver;
mod leftover;
mod stream;

use super::h1::Service;
use super::{Gate, Settings};
use crate::codec::h2::watched;
use crate::policy::Reason;
use crate::rt::Lazily;
use crate::tls::Records;
use bytes::Bytes;
use driver::{Driver, Record};
use h2::server::Builder;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stream::Streams;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// What is buffered of an answer for one stream.
const SEND_BUFFER: usize = 64 * 1024;

pub(super) async fn serve(gate: &Arc<Gate>, stream: TlsStream<Records<TcpStream>>, service: Arc<Service>) {
    let settings = &gate.settings;
    let record = Record::new(gate, &service);
    let (io, watch) = watched(stream);
    let shaken = Builder::new()
        .max_concurrent_streams(settings.h2_streams)
        .max_header_list_size(u32::try_from(settings.head_limits.bytes).unwrap_or(u32::MAX))
        .initial_window_size(settings.h2_stream_window)
        .initial_connection_window_size(settings.h2_connection_window)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(io);
    let connection = match tokio::time::timeout(settings.head, shaken).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return record.error(&error),
        Err(_) => return record.refusal(Reason::Timeout, NOTHING_ASKED),
    };
    let streams = Arc::new(Streams::default());
    let driver = Driver::new(connection, watch, gate.clone(), service, streams.clone());
    let mut driver = pin!(Lazily::new(driver));
    let mut drain = gate.tasks.drain_signal();
    tokio::select! {
        () = driver.as_mut() => return,
        () = drain.signalled() => {
            // Open streams have the time of the drain, which ends them.
            driver.as_mut().inner().end();
            return driver.await;
        }
        () = streams.over.notified() => {}
        () = idle(settings, &streams) => {
            if streams.moved.load(Ordering::Relaxed) == 0 {
                record.refusal(Reason::Timeout, NOTHING_ASKED);
            }
        }
    }
    driver.as_mut().inner().end();
    // Who does not take what is left is not waited for.
    let _ = tokio::time::timeout(settings.drain_time, driver).await;
}

const NOTHING_ASKED: &str = "the head of a request did not come in time";

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

#[cfg(test)]
mod tests {
    use super::stream::Busy;
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
