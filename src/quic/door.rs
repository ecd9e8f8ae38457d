//! The socket of the responder, what each source may cost, and when somebody is told of it.

use super::packet;
use crate::dns::Rate;
use crate::telemetry::Metrics;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Answers a second and at once for each source address.
    pub rate: u32,
    pub burst: u32,
    /// Source addresses whose rate is remembered.
    pub sources: usize,
    /// A client is recorded once in this time; metrics count every answer.
    pub record_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rate: 100, burst: 200, sources: 4096, record_every: Duration::from_secs(60) }
    }
}

/// Who knows the clients, and writes down that one was turned away.
pub trait Judge: Send + Sync {
    /// The number of the client whose source this is. A stranger gets no answer.
    fn client(&self, source: SocketAddr) -> Option<u16>;
    /// Called once in a while for each client, and for all strangers together.
    fn record(&self, source: SocketAddr);
}

/// What is counted over all sockets together.
pub struct Bounds {
    rate: Rate,
    records: Rate<Option<u16>>,
}

impl Bounds {
    pub fn new(settings: &Settings) -> Arc<Self> {
        let every = settings.record_every.as_secs_f64().max(1.0);
        Arc::new(Self {
            rate: Rate::new(settings.rate, settings.burst, settings.sources),
            records: Rate::new(1.0 / every, 1, settings.sources),
        })
    }
}

/// A socket that answers.
pub struct Responder {
    socket: UdpSocket,
    bounds: Arc<Bounds>,
    judge: Arc<dyn Judge>,
    metrics: Arc<Metrics>,
}

/// Headers are far shorter; the rest of a datagram is cut off.
const DATAGRAM: usize = 2048;
/// After an error of the socket itself, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(20);

impl Responder {
    /// `socket` is on an address that clients reach and that is ours: behind the redirect the kernel rewrites replies.
    pub fn new(socket: UdpSocket, bounds: Arc<Bounds>, judge: Arc<dyn Judge>, metrics: Arc<Metrics>) -> Self {
        Self { socket, bounds, judge, metrics }
    }

    pub async fn serve(self) {
        let mut datagram = [0; DATAGRAM];
        loop {
            let (length, source) = match self.socket.recv_from(&mut datagram).await {
                Ok(received) => received,
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let bytes = datagram.get(..length).unwrap_or_default();
            if let Some(reply) = self.answer(bytes, source, Instant::now()) {
                // What the socket cannot take now is lost, as a datagram may be; the client asks again.
                let _ = self.socket.try_send_to(&reply, source);
            }
        }
    }

    fn answer(&self, bytes: &[u8], source: SocketAddr, now: Instant) -> Option<Vec<u8>> {
        let Some(reply) = packet::answer(bytes) else {
            self.metrics.quic_ignored.inc();
            return None;
        };
        let ip = source.ip();
        if !self.bounds.rate.allow(ip, now) {
            self.metrics.quic_limited.inc();
            return None;
        }
        let client = self.judge.client(source);
        if self.bounds.records.allow(client, now) {
            self.judge.record(source);
        }
        if client.is_none() {
            self.metrics.quic_ignored.inc();
            return None;
        }
        self.metrics.quic_answered.inc();
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Notes(Mutex<Vec<SocketAddr>>);

    impl Judge for Notes {
        fn client(&self, source: SocketAddr) -> Option<u16> {
            (source.ip() != "10.0.0.9".parse::<std::net::IpAddr>().unwrap()).then_some(7)
        }

        fn record(&self, source: SocketAddr) {
            self.0.lock().unwrap().push(source);
        }
    }

    #[tokio::test]
    async fn a_source_has_its_rate_a_client_its_record_and_a_stranger_no_answer() {
        let notes = Arc::new(Notes::default());
        let settings = Settings { rate: 10, burst: 20, ..Settings::default() };
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let responder =
            Responder::new(socket, Bounds::new(&settings), notes.clone(), Arc::new(Metrics::new()));
        let mut initial = vec![0xc0, 0, 0, 0, 1, 1, 7, 1, 8];
        initial.resize(1200, 0);
        let (now, ours) = (Instant::now(), "10.0.0.1:1000".parse().unwrap());
        assert_eq!((0..100).filter(|_| responder.answer(&initial, ours, now).is_some()).count(), 20);
        let stranger = "10.0.0.9:1000".parse().unwrap();
        assert_eq!(responder.answer(&initial, stranger, now), None);
        assert_eq!(*notes.0.lock().unwrap(), [ours, stranger]);
        let later = now + Duration::from_secs(59);
        assert!(responder.answer(&initial, ours, later).is_some());
        assert_eq!(notes.0.lock().unwrap().len(), 2);
        assert!(responder.answer(&initial, ours, later + Duration::from_secs(2)).is_some());
        assert_eq!(notes.0.lock().unwrap().len(), 3);
        let text = responder.metrics.encode();
        for line in ["quic_answered_total 22", "quic_limited_total 80", "quic_ignored_total 1"] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
