//! A scripted upstream DNS server that logs what it is asked, and a client of the door that speaks bytes.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// No exchange in these tests takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What the upstream does with a question.
pub enum Script {
    Records(Vec<Record>),
    Code(ResponseCode),
    Truncated,
    Silent,
}

type Zone = Box<dyn Fn(&str, RecordType, usize) -> Script + Send + Sync>;

/// The upstream; it stops when dropped.
pub struct Upstream {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<(String, RecordType)>>>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// `zone` is called with the lower-case name, the type, and how often that was asked before.
    pub async fn start(zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let zone: Arc<Zone> = Arc::new(Box::new(zone));
        let mut tasks = JoinSet::new();
        let (zone_tcp, log_tcp, log_udp) = (zone.clone(), log.clone(), log.clone());
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                if let Some(reply) = respond(&buffer[..length], &zone, &log_udp) {
                    udp.send_to(&reply, from).await.unwrap();
                }
            }
        });
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = tcp.accept().await {
                let (zone, log) = (zone_tcp.clone(), log_tcp.clone());
                connections.spawn(async move {
                    let mut stream = stream;
                    while let Ok(message) = read_framed(&mut stream).await {
                        if let Some(reply) = respond(&message, &zone, &log) {
                            write_framed(&mut stream, &reply).await;
                        }
                    }
                });
            }
        });
        Self { address, log, _tasks: tasks }
    }

    /// Every question so far, resends included.
    pub fn asked(&self) -> Vec<(String, RecordType)> {
        self.log.lock().unwrap().clone()
    }
}

fn respond(bytes: &[u8], zone: &Zone, log: &Mutex<Vec<(String, RecordType)>>) -> Option<Vec<u8>> {
    let request = Message::from_vec(bytes).unwrap();
    let query = request.queries[0].clone();
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let key = (name, query.query_type());
    let before = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|asked| **asked == key).count();
        log.push(key.clone());
        before
    };
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(query);
    match zone(&key.0, key.1, before) {
        Script::Records(records) => {
            reply.add_answers(records);
        }
        Script::Code(code) => reply.metadata.response_code = code,
        Script::Truncated => reply.metadata.truncation = true,
        Script::Silent => return None,
    }
    Some(reply.to_vec().unwrap())
}

/// Address records of one name.
pub fn addresses(name: &str, ttl: u32, ips: &[&str]) -> Vec<Record> {
    let records = ips.iter().map(|ip| match ip.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    });
    records.map(|data| Record::from_rdata(fqdn(name), ttl, data)).collect()
}

pub fn alias(name: &str, target: &str) -> Record {
    Record::from_rdata(fqdn(name), 60, RData::CNAME(CNAME(fqdn(target))))
}

pub fn fqdn(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).unwrap()
}

/// One question; with EDNS where a payload size is given.
pub fn query(name: Name, qtype: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, qtype));
    message.edns = edns.map(|size| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns
    });
    message
}

/// Sends bytes from `from` and waits for the answer's.
pub async fn exchange(door: SocketAddr, from: &str, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((from, 0)).await.unwrap();
    socket.send_to(bytes, door).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let (length, _) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

pub async fn ask(door: SocketAddr, message: &Message) -> Message {
    let reply = exchange(door, "127.0.0.1", &message.to_bytes().unwrap()).await;
    Message::from_vec(&reply).unwrap()
}

pub async fn ask_tcp(door: SocketAddr, message: &Message) -> Message {
    let mut stream = connect(door).await;
    write_framed(&mut stream, &message.to_bytes().unwrap()).await;
    let reply = timeout(PATIENCE, read_framed(&mut stream)).await.expect("an answer").unwrap();
    Message::from_vec(&reply).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "a client of the door, not an upstream")]
pub async fn connect(door: SocketAddr) -> TcpStream {
    TcpStream::connect(door).await.unwrap()
}

pub async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], message].concat()).await.unwrap();
}

/// The addresses in an answer.
pub fn ips(message: &Message) -> Vec<String> {
    let data =
        message.answers.iter().map(|record| record.data.ip_addr().expect("only addresses").to_string());
    data.collect()
}
