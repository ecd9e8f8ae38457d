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
use crate::codec::h2::{Watch, watched};
use crate::policy::Reason;
use crate::rt::Lazily;
use crate::tls::Records;
use bytes::Bytes;
use driver::{Driver, Record};
use h2::server::Builder;
use std::pin::pin;
use std::sync::Arc;
use stream::{Now, Streams};
use tokio::net::TcpStream;
use tokio::time::Instant;
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
    let streams = Arc::new(Streams::new());
    let driver = Driver::new(connection, watch.clone(), gate.clone(), service, streams.clone());
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
        patience = impatient(settings, &streams, &watch) => {
            if patience == Impatience::NothingAsked {
                driver.as_mut().inner().nothing_asked();
            }
        }
    }
    driver.as_mut().inner().end();
    // Who does not take what is left is not waited for.
    let _ = tokio::time::timeout(settings.drain_time, driver).await;
}

const NOTHING_ASKED: &str = "the head of a request did not come in time";

#[derive(Debug, PartialEq, Eq)]
enum Impatience {
    NothingAsked,
    /// Nothing is open, or nobody takes what is there.
    Quiet,
}

/// Ends when nothing has happened for too long: no first stream, no open stream, or none that waits for anybody but a
/// client that takes nothing.
async fn impatient(settings: &Settings, streams: &Streams, watch: &Watch) -> Impatience {
    // What is waited for next is waited for at least so long, whenever that begins.
    let step = settings.idle.min(settings.write_stall);
    loop {
        let next = Instant::now() + step;
        let (end, impatience) = match streams.now() {
            Now::NothingAsked { since } => (since + settings.head, Impatience::NothingAsked),
            Now::Idle { since } => (since + settings.idle, Impatience::Quiet),
            Now::Sending { since } => {
                (since.max(watch.delivered()) + settings.write_stall, Impatience::Quiet)
            }
            Now::Working => (next + step, Impatience::Quiet),
        };
        if end <= Instant::now() {
            return impatience;
        }
        tokio::time::sleep_until(end.min(next)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::stream::Busy;
    use super::*;
    use std::time::Duration;

    /// After how many seconds patience ends, if that is within an hour.
    async fn ended(settings: &Settings, streams: &Streams, watch: &Watch) -> Option<u64> {
        let (begun, hour) = (Instant::now(), Duration::from_secs(3600));
        let ended = tokio::time::timeout(hour, impatient(settings, streams, watch)).await;
        ended.ok().map(|_| begun.elapsed().as_secs())
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn ht_06_12_a_connection_ends_when_its_client_says_or_takes_nothing_and_only_then() {
        let settings = Settings::default();
        let streams = Arc::new(Streams::new());
        let (_io, watch) = watched(tokio::io::empty());
        assert_eq!(ended(&settings, &streams, &watch).await, Some(30), "no stream was ever begun");
        let mut busy = Busy::begin(&streams);
        assert_eq!(ended(&settings, &streams, &watch).await, None, "an answer that is awaited, or is silent");
        busy.waits(false);
        assert_eq!(ended(&settings, &streams, &watch).await, Some(600), "a client that takes nothing");
        busy.waits(true);
        busy.waits(false);
        pass(500).await;
        assert_eq!(ended(&settings, &streams, &watch).await, Some(100), "and that since the last piece");
        drop(busy);
        assert_eq!(ended(&settings, &streams, &watch).await, Some(120), "nothing is open");
        let busy = Busy::begin(&streams);
        pass(1000).await;
        drop(busy);
        pass(100).await;
        assert_eq!(ended(&settings, &streams, &watch).await, Some(20), "since the last stream has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn ht_06_12_short_times_hold_as_they_are_set() {
        for (idle, stall, after) in [(4, 600, 4), (600, 4, 600), (4, 4, 4), (7, 3, 7)] {
            let (idle, write_stall) = (Duration::from_secs(idle), Duration::from_secs(stall));
            let settings = Settings { idle, write_stall, ..Settings::default() };
            let streams = Arc::new(Streams::new());
            let (_io, watch) = watched(tokio::io::empty());
            let begun = Instant::now();
            let ends = async {
                let mut busy = Busy::begin(&streams);
                pass(9).await;
                busy.waits(false);
                pass(2).await;
                drop(busy);
            };
            let (ended, ()) = tokio::join!(ended(&settings, &streams, &watch), ends);
            assert_eq!(ended, Some(11 + after), "{idle:?} {write_stall:?}");
            assert!(begun.elapsed().as_secs() >= 11);
            let mut busy = Busy::begin(&streams);
            busy.waits(false);
            assert_eq!(
                self::ended(&settings, &streams, &watch).await,
                Some(stall),
                "{idle:?} {write_stall:?}"
            );
        }
    }
}
