//! The DNS door and the resolver against a scripted upstream on loopback: what a client gets, what upstream is asked,
//! what is recorded. Cases carry their id of the gauntlet.

#[path = "support/dns_upstream.rs"]
mod support;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use outgate::base::{ClientAddr, HostName};
use outgate::dns::*;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::*;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PUBLIC: &str = "93.184.216.34";

/// Two clients by source; client 1 may ask for `good.test` and below, and for `*.w.test` by wildcard; client 2 only
/// for `two.test`.
struct Policy;

impl Judge for Policy {
    fn judge(&self, source: ClientAddr, name: Option<&HostName>, qtype: u16) -> Judged {
        let client = match source.0.ip().to_string().as_str() {
            "127.0.0.1" => 1,
            "127.0.0.2" => 2,
            _ => return Judged::UnknownClient,
        };
        let name = name.map_or("", HostName::as_str);
        let wildcard = name.ends_with(".w.test");
        let allowed = match client {
            1 => name.ends_with("good.test") || wildcard,
            _ => name == "two.test",
        };
        if !allowed {
            let detail = format!("no rule for {name}");
            return Judged::Deny { client, rule: None, reason: "no_rule", detail };
        }
        if ![1, 28].contains(&qtype) {
            return Judged::NoData { client };
        }
        let private = if name == "intern.good.test" { vec!["10.99.0.0/24".parse().unwrap()] } else { vec![] };
        Judged::Resolve { client, rule: "the rule".into(), private, wildcard }
    }
}

/// Decisions and ends as one line each.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Recorder for Log {
    fn decided(&self, d: &Decision<'_>) -> Option<u64> {
        let mut lines = self.0.lock().unwrap();
        lines.push(format!(
            "{} {} {:?} {:?} {} {}",
            d.asked.name, d.asked.qtype, d.client, d.outcome, d.reason, d.detail
        ));
        Some(lines.len() as u64)
    }

    fn answered(&self, _id: u64, a: &Answered<'_>) {
        let line = format!(
            "{} {:?} given {:?} blocked {:?} chain {:?} ttl {}",
            a.asked.name, a.outcome, a.given, a.blocked, a.chain, a.ttl
        );
        self.0.lock().unwrap().push(line);
    }
}

struct Full;

impl Recorder for Full {
    fn decided(&self, _: &Decision<'_>) -> Option<u64> {
        None
    }

    fn answered(&self, _: u64, _: &Answered<'_>) {}
}

struct Gate {
    door: SocketAddr,
    upstream: Upstream,
    resolver: Arc<Resolver>,
    leases: Arc<Leases>,
    counters: Arc<Counters>,
    log: Arc<Log>,
    _tasks: JoinSet<()>,
}

impl Gate {
    async fn start(zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static) -> Self {
        Self::with(zone, DoorSettings::default(), |_| {}).await
    }

    async fn with(
        zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static,
        settings: DoorSettings,
        change: impl FnOnce(&mut ResolverSettings),
    ) -> Self {
        let log = Arc::new(Log::default());
        Self::over(zone, settings, change, log.clone(), log).await
    }

    async fn over(
        zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static,
        settings: DoorSettings,
        change: impl FnOnce(&mut ResolverSettings),
        recorder: Arc<dyn Recorder>,
        log: Arc<Log>,
    ) -> Self {
        let upstream = Upstream::start(zone).await;
        let mut resolving = ResolverSettings {
            upstreams: Upstreams::Servers(vec![upstream.address]),
            ..ResolverSettings::default()
        };
        change(&mut resolving);
        let resolver = Arc::new(Resolver::new(resolving).unwrap());
        let leases = Arc::new(Leases::new(LeaseSettings::default()));
        let counters = Arc::new(Counters::default());
        let parts = Parts {
            judge: Arc::new(Policy),
            recorder,
            resolver: resolver.clone(),
            leases: leases.clone(),
            counters: counters.clone(),
            own: ["198.41.0.4".parse().unwrap()].into(),
            spawn: Arc::new(|task| {
                #[allow(clippy::disallowed_methods, reason = "the test has no rt")]
                tokio::spawn(task);
            }),
        };
        let door = Door::bind("127.0.0.1:0".parse().unwrap(), &settings, parts).await.unwrap();
        let address = door.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(door.serve());
        Self { door: address, upstream, resolver, leases, counters, log, _tasks: tasks }
    }

    async fn ask(&self, name: &str, qtype: RecordType) -> Message {
        ask(self.door, &query(fqdn(name), qtype, Some(1232))).await
    }

    fn lines(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }
}

/// Every name has one public address.
fn public(name: &str, qtype: RecordType, _: usize) -> Script {
    match qtype {
        RecordType::A => Script::Records(addresses(name, 60, &[PUBLIC])),
        _ => Script::Records(vec![]),
    }
}

fn blocked(reply: &Message) -> bool {
    reply.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::Unknown(15)).is_some())
}

fn assert_denied(reply: &Message) {
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(blocked(reply), "the extended error says Blocked");
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(reply.authorities[0].ttl, 5);
    assert!(reply.answers.is_empty());
}

fn assert_nodata(reply: &Message) {
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
}

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

mod answers {
    use super::*;

    #[tokio::test]
    async fn dn_01_an_allowed_name_is_answered_recorded_and_leased_over_both_transports() {
        let gate = Gate::start(|name, qtype, _| match qtype {
            RecordType::A => Script::Records(addresses(name, 86_400, &[PUBLIC])),
            _ => Script::Records(addresses(name, 0, &["2606:4700::1"])),
        })
        .await;
        let a = gate.ask("API.good.test", RecordType::A).await;
        assert_eq!(ips(&a), [PUBLIC]);
        assert!((290..=300).contains(&a.answers[0].ttl), "clamped from above: {}", a.answers[0].ttl);
        assert_eq!(a.queries[0].name().to_ascii(), "API.good.test.", "the question keeps its case");
        let aaaa = ask_tcp(gate.door, &query(fqdn("api.good.test"), RecordType::AAAA, None)).await;
        assert_eq!(ips(&aaaa), ["2606:4700::1"]);
        assert!((1..=5).contains(&aaaa.answers[0].ttl), "clamped from below");
        assert!(a.metadata.recursion_available && !a.metadata.authentic_data && !a.metadata.authoritative);
        assert_eq!(gate.leases.names(1, PUBLIC.parse().unwrap()), [name("api.good.test")]);
        let lines = gate.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[0], "api.good.test 1 Some(1) Allowed allowed ");
        assert!(
            lines[1].starts_with("api.good.test Answered given [93.184.216.34] blocked []"),
            "{}",
            lines[1]
        );
    }

    #[tokio::test]
    async fn a_second_question_is_answered_from_the_cache() {
        let gate = Gate::start(public).await;
        for _ in 0..20 {
            assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
        }
        assert_eq!(gate.upstream.asked().len(), 1);
    }

    #[tokio::test]
    async fn dn_05_an_allowed_name_with_another_type_is_nodata_and_asks_nothing() {
        let gate = Gate::start(public).await;
        for qtype in [RecordType::TXT, RecordType::NULL, RecordType::ANY, RecordType::MX, RecordType::CNAME] {
            assert_nodata(&gate.ask("api.good.test", qtype).await);
        }
        assert_eq!(gate.upstream.asked(), []);
        assert!(gate.lines().iter().all(|line| line.contains("TypeClosed dns_type")));
    }

    #[tokio::test]
    async fn dn_06_https_and_svcb_are_nodata() {
        let gate = Gate::start(public).await;
        for qtype in [RecordType::HTTPS, RecordType::SVCB] {
            assert_nodata(&gate.ask("api.good.test", qtype).await);
        }
        assert_eq!(gate.upstream.asked(), []);
    }

    #[tokio::test]
    async fn negative_answers_keep_their_kind() {
        let gate = Gate::start(|name, _, _| match name {
            "none.good.test" => Script::Code(ResponseCode::NXDomain),
            _ => Script::Records(vec![]),
        })
        .await;
        let none = gate.ask("none.good.test", RecordType::A).await;
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
        assert!(!blocked(&none), "upstream said so, not the policy");
        assert_nodata(&gate.ask("v4.good.test", RecordType::AAAA).await);
    }

    #[tokio::test]
    async fn what_cannot_be_recorded_is_not_asked() {
        let log = Arc::new(Log::default());
        let gate = Gate::over(public, DoorSettings::default(), |_| {}, Arc::new(Full), log).await;
        let reply = gate.ask("api.good.test", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(gate.upstream.asked(), []);
    }
}

mod denials {
    use super::*;

    #[tokio::test]
    async fn dn_02_a_denied_name_causes_no_upstream_query() {
        let gate = Gate::start(public).await;
        let random = format!("{}.attacker.test", "q7".repeat(20));
        for asked in ["evil.test", &random] {
            let message = query(fqdn(asked), RecordType::A, Some(1232));
            assert_denied(&ask(gate.door, &message).await);
            assert_denied(&ask_tcp(gate.door, &message).await);
        }
        assert_eq!(gate.upstream.asked(), []);
        assert_eq!(gate.lines().len(), 4);
        assert!(gate.lines()[0].contains("Denied no_rule"));
    }

    #[tokio::test]
    async fn dn_03_a_denied_name_is_denied_for_every_type() {
        use RecordType::*;
        let gate = Gate::start(public).await;
        for qtype in [TXT, MX, NS, SRV, CNAME, SOA, HTTPS, AAAA, ANY, NULL] {
            assert_denied(&gate.ask("evil.test", qtype).await);
        }
        assert_eq!(gate.upstream.asked(), []);
    }

    #[tokio::test]
    async fn dn_08_random_names_under_a_wildcard_run_out_of_budget() {
        let gate = Gate::start(public).await;
        let mut denied = 0;
        for n in 0..500 {
            let reply = gate.ask(&format!("{n:050}.w.test"), RecordType::A).await;
            denied += usize::from(blocked(&reply));
        }
        assert_eq!(denied, 300);
        assert_eq!(gate.upstream.asked().len(), 200);
        assert!(gate.lines().last().unwrap().contains("Budget dns_budget"));
        assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
        assert_eq!(ips(&gate.ask(&format!("{:050}.w.test", 7), RecordType::A).await), [PUBLIC]);
    }

    #[tokio::test]
    async fn dn_32_what_one_client_may_ask_another_may_not() {
        let gate = Gate::start(public).await;
        assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
        let bytes = query(fqdn("api.good.test"), RecordType::A, Some(1232)).to_bytes().unwrap();
        let other = exchange(gate.door, "127.0.0.2", &bytes).await;
        assert_denied(&Message::from_vec(&other).unwrap());
        assert!(gate.leases.names(2, PUBLIC.parse().unwrap()).is_empty());
        let stranger = Message::from_vec(&exchange(gate.door, "127.0.0.3", &bytes).await).unwrap();
        assert_eq!(stranger.metadata.response_code, ResponseCode::Refused);
        assert!(gate.lines().last().unwrap().contains("None UnknownClient unknown_client"));
    }

    #[tokio::test]
    async fn dn_38_transfers_other_operations_and_classes_are_not_served() {
        let gate = Gate::start(public).await;
        for qtype in [RecordType::AXFR, RecordType::IXFR] {
            let reply = gate.ask("api.good.test", qtype).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        }
        for asked in ["version.bind", "id.server"] {
            let mut message = query(fqdn(asked), RecordType::TXT, None);
            message.queries[0].query_class = DNSClass::CH;
            let reply = ask(gate.door, &message).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
            assert!(reply.answers.is_empty());
        }
        for operation in [OpCode::Notify, OpCode::Update, OpCode::Status] {
            let mut bytes = query(fqdn("api.good.test"), RecordType::A, None).to_bytes().unwrap();
            bytes[2] = u8::from(operation) << 3;
            let reply = exchange(gate.door, "127.0.0.1", &bytes).await;
            assert_eq!(reply[3] & 0x0f, 4, "NOTIMP");
        }
        assert_eq!(gate.upstream.asked(), []);
    }

    #[tokio::test]
    async fn dn_43_odd_names_are_denied_and_escaped() {
        let gate = Gate::start(public).await;
        let odd = Name::from_labels([&b"a\nb\x1b\"\0\xff"[..], b"good", b"test"]).unwrap();
        assert_denied(&ask(gate.door, &query(odd, RecordType::A, Some(1232))).await);
        let dotted = Name::from_labels([&b"api.good"[..], b"test"]).unwrap();
        assert_denied(&ask(gate.door, &query(dotted, RecordType::A, Some(1232))).await);
        assert_eq!(gate.upstream.asked(), []);
        assert!(gate.lines()[0].starts_with("a\\010b\\027\\034\\000\\255.good.test 1 Some(1) Denied"));
    }
}

mod guarding {
    use super::*;

    #[tokio::test]
    async fn dn_15_a_name_that_turns_private_is_not_handed_out() {
        let gate = Gate::with(
            |name, _, before| {
                let ip = if before == 0 { PUBLIC } else { "169.254.169.254" };
                Script::Records(addresses(name, 0, &[ip]))
            },
            DoorSettings::default(),
            |settings| settings.min_ttl = Duration::ZERO,
        )
        .await;
        assert_eq!(ips(&gate.ask("rb.good.test", RecordType::A).await), [PUBLIC]);
        assert_nodata(&gate.ask("rb.good.test", RecordType::A).await);
        assert!(gate.lines()[3].starts_with("rb.good.test AddrBlocked given [] blocked [169.254.169.254]"));
    }

    #[tokio::test]
    async fn dn_17_only_the_public_part_of_a_mixed_answer_is_given() {
        let mixed = |name: &str, _, _| {
            Script::Records(addresses(name, 60, &[PUBLIC, "10.0.0.5", "127.0.0.1", "198.41.0.4"]))
        };
        let gate = Gate::start(mixed).await;
        assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
        assert!(gate.lines()[1].contains("blocked [10.0.0.5, 127.0.0.1, 198.41.0.4]"));
        assert!(gate.leases.names(1, "10.0.0.5".parse().unwrap()).is_empty());
    }

    #[tokio::test]
    async fn dn_20_an_alias_to_an_unlisted_name_is_followed_flattened_and_recorded() {
        let gate = Gate::start(|name, _, _| {
            let mut records = vec![alias(name, "edge.cdn.test"), alias("edge.cdn.test", "x.cdn.test")];
            records.extend(addresses("x.cdn.test", 60, &[PUBLIC]));
            Script::Records(records)
        })
        .await;
        let reply = gate.ask("api.good.test", RecordType::A).await;
        assert_eq!(ips(&reply), [PUBLIC]);
        assert_eq!(reply.answers[0].name, fqdn("api.good.test"));
        assert!(gate.lines()[1].contains(r#"chain ["edge.cdn.test", "x.cdn.test"]"#));
    }

    #[tokio::test]
    async fn dn_20_an_alias_whose_addresses_are_asked_apart_is_followed() {
        let gate = Gate::start(|name, qtype, _| match name {
            "api.good.test" => Script::Records(vec![alias(name, "x.cdn.test")]),
            _ => public(name, qtype, 0),
        })
        .await;
        assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
    }

    #[tokio::test]
    async fn dn_21_an_alias_to_a_private_address_gives_nothing() {
        let gate = Gate::start(|name, _, _| {
            let mut records = vec![alias(name, "internal.corp.test")];
            records.extend(addresses("internal.corp.test", 60, &["10.0.0.5"]));
            Script::Records(records)
        })
        .await;
        assert_nodata(&gate.ask("api.good.test", RecordType::A).await);
    }

    #[tokio::test]
    async fn dn_22_broken_alias_chains_fail_soon_and_ask_little() {
        let gate = Gate::start(|name, _, _| match name {
            "self.good.test" => Script::Records(vec![alias(name, name)]),
            "loop.good.test" => Script::Records(vec![alias(name, "pool.good.test")]),
            "pool.good.test" => Script::Records(vec![alias(name, "loop.good.test")]),
            "long.good.test" => {
                let hop = |n: usize| format!("h{n}.good.test");
                let mut records = vec![alias(name, &hop(0))];
                records.extend((0..20).map(|n| alias(&hop(n), &hop(n + 1))));
                records.extend(addresses(&hop(20), 60, &[PUBLIC]));
                Script::Records(records)
            }
            "both.good.test" => {
                let mut records = vec![alias(name, "x.cdn.test")];
                records.extend(addresses(name, 60, &[PUBLIC]));
                records.extend(addresses("x.cdn.test", 60, &[PUBLIC]));
                Script::Records(records)
            }
            _ => Script::Records(vec![]),
        })
        .await;
        for asked in ["self.good.test", "loop.good.test", "long.good.test", "both.good.test"] {
            let (start, before) = (Instant::now(), gate.upstream.asked().len());
            let reply = gate.ask(asked, RecordType::A).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{asked}");
            assert!(start.elapsed() < Duration::from_secs(2), "{asked}");
            let queries = gate.upstream.asked().len() - before;
            assert!(queries <= 16, "{asked}: {queries}");
        }
    }

    #[tokio::test]
    async fn dn_23_a_granted_range_is_handed_out() {
        let gate = Gate::start(|name, _, _| {
            Script::Records(addresses(name, 60, &["10.99.0.5", "10.98.0.5", "127.0.0.1", "169.254.169.254"]))
        })
        .await;
        assert_eq!(ips(&gate.ask("intern.good.test", RecordType::A).await), ["10.99.0.5"]);
    }
}

mod wire {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn dn_25_malformed_messages_do_no_harm() {
        let gate = Gate::start(public).await;
        let good = query(fqdn("api.good.test"), RecordType::A, Some(1232)).to_bytes().unwrap();
        let mut two = good.clone();
        two[5] = 2;
        let garbage = [&good[..], b"garbage"].concat();
        for bytes in [&two[..], &garbage, &good[..20]] {
            let reply = exchange(gate.door, "127.0.0.1", bytes).await;
            assert_eq!(reply[3] & 0x0f, 1, "FORMERR");
        }
        // Every cut and every flipped byte: some answer or none, and the door still stands.
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for at in 0..good.len() {
            socket.send_to(&good[..at], gate.door).await.unwrap();
            let mut flipped = good.clone();
            flipped[at] ^= 0xff;
            socket.send_to(&flipped, gate.door).await.unwrap();
        }
        assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC]);
    }

    #[tokio::test]
    async fn dn_28_pipelined_questions_are_all_answered() {
        let gate = Gate::start(public).await;
        let mut stream = connect(gate.door).await;
        for _ in 0..100 {
            let message = query(fqdn("api.good.test"), RecordType::A, None);
            write_framed(&mut stream, &message.to_bytes().unwrap()).await;
        }
        for _ in 0..100 {
            let reply = timeout(PATIENCE, read_framed(&mut stream)).await.unwrap().unwrap();
            assert_eq!(ips(&Message::from_vec(&reply).unwrap()), [PUBLIC]);
        }
    }

    #[tokio::test]
    async fn dn_28_idle_slow_and_too_many_connections_are_closed() {
        let settings = DoorSettings {
            connections_per_source: 4,
            idle_timeout: Duration::from_millis(200),
            message_timeout: Duration::from_millis(200),
            ..DoorSettings::default()
        };
        let gate = Gate::with(public, settings, |_| {}).await;
        let closed = async |mut stream: tokio::net::TcpStream| {
            let end = timeout(PATIENCE, stream.read_u8()).await.expect("closed in time");
            assert!(end.is_err(), "nothing was said");
        };
        let mut held = Vec::new();
        for sent in [&b""[..], b"\x00", b"\x00\x00", b"\x00\x40short"] {
            let mut stream = connect(gate.door).await;
            stream.write_all(sent).await.unwrap();
            held.push(stream);
        }
        closed(connect(gate.door).await).await;
        assert_eq!(gate.counters.connections_refused.load(Ordering::Relaxed), 1);
        assert_eq!(ips(&gate.ask("api.good.test", RecordType::A).await), [PUBLIC], "UDP is served meanwhile");
        for stream in held {
            closed(stream).await;
        }
        let reply = ask_tcp(gate.door, &query(fqdn("api.good.test"), RecordType::A, None)).await;
        assert_eq!(ips(&reply), [PUBLIC], "their places came back");
    }

    #[tokio::test]
    async fn dn_29_answers_keep_to_the_size_that_the_client_takes() {
        let gate = Gate::start(|name, _, _| {
            let many: Vec<String> = (0..60).map(|n| format!("93.184.216.{n}")).collect();
            Script::Records(addresses(name, 60, &many.iter().map(String::as_str).collect::<Vec<_>>()))
        })
        .await;
        for (size, fits) in
            [(None, false), (Some(0), false), (Some(512), false), (Some(1232), true), (Some(65_535), true)]
        {
            let bytes = query(fqdn("api.good.test"), RecordType::A, size).to_bytes().unwrap();
            let raw = exchange(gate.door, "127.0.0.1", &bytes).await;
            let reply = Message::from_vec(&raw).unwrap();
            assert_eq!(reply.metadata.truncation, !fits, "{size:?}");
            assert_eq!(reply.answers.len(), if fits { 60 } else { 0 }, "{size:?}");
            assert_eq!(reply.edns.is_some(), size.is_some(), "{size:?}");
            assert!(raw.len() <= if fits { 1232 } else { 512 });
        }
        let whole = ask_tcp(gate.door, &query(fqdn("api.good.test"), RecordType::A, None)).await;
        assert_eq!(whole.answers.len(), 60);
    }

    #[tokio::test]
    async fn dn_29_edns_versions_flags_and_options() {
        let gate = Gate::start(public).await;
        let mut message = query(fqdn("api.good.test"), RecordType::A, Some(1232));
        message.metadata.authentic_data = true;
        let edns = message.edns.as_mut().unwrap();
        edns.set_dnssec_ok(true);
        edns.options_mut().insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(100, vec![1, 2, 3]));
        let reply = ask(gate.door, &message).await;
        assert_eq!(ips(&reply), [PUBLIC]);
        assert!(!reply.metadata.authentic_data);
        let said = reply.edns.unwrap();
        assert_eq!((said.version(), said.max_payload(), said.flags().dnssec_ok), (0, 1232, true));
        assert!(said.option(EdnsCode::Unknown(100)).is_none());
        message.edns.as_mut().unwrap().set_version(1);
        let reply = ask(gate.door, &message).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::BADVERS);
        assert_eq!(reply.edns.unwrap().version(), 0);
    }

    #[tokio::test]
    async fn dn_40_a_flood_is_dropped_counted_and_not_recorded() {
        let settings = DoorSettings { rate: 1, burst: 10, ..DoorSettings::default() };
        let gate = Gate::with(public, settings, |_| {}).await;
        let bytes = query(fqdn("evil.test"), RecordType::A, None).to_bytes().unwrap();
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..100 {
            socket.send_to(&bytes, gate.door).await.unwrap();
        }
        // Another source is served after them, in order.
        exchange(gate.door, "127.0.0.2", &bytes).await;
        assert!(gate.counters.rate_dropped.load(Ordering::Relaxed) >= 85);
        assert!(gate.lines().len() <= 16);
    }
}

mod upstream {
    use super::*;

    #[tokio::test]
    async fn dn_44_a_failing_upstream_is_servfail_within_five_seconds() {
        let gate = Gate::start(|name, _, _| match name {
            "refused.good.test" => Script::Code(ResponseCode::Refused),
            "failed.good.test" => Script::Code(ResponseCode::ServFail),
            "cut.good.test" => Script::Truncated,
            _ => Script::Silent,
        })
        .await;
        for asked in ["refused.good.test", "failed.good.test", "cut.good.test", "silent.good.test"] {
            let start = Instant::now();
            let reply = gate.ask(asked, RecordType::A).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{asked}");
            assert!(reply.answers.is_empty());
            assert!(start.elapsed() < Duration::from_secs(5), "{asked}: {:?}", start.elapsed());
        }
        assert!(gate.lines().iter().any(|line| line.contains("silent.good.test Failed(Timeout)")));
    }

    #[tokio::test]
    async fn both_families_are_asked_and_a_late_one_is_not_waited_for() {
        let gate = Gate::start(|name, qtype, _| match (name, qtype) {
            ("late.good.test", RecordType::AAAA) => Script::Silent,
            (_, RecordType::AAAA) => Script::Records(addresses(name, 60, &["2606:4700::1"])),
            _ => Script::Records(addresses(name, 60, &[PUBLIC])),
        })
        .await;
        let both = gate.resolver.addresses(&name("api.good.test")).await.unwrap();
        assert_eq!(both.addrs.iter().map(ToString::to_string).collect::<Vec<_>>(), [PUBLIC, "2606:4700::1"]);
        let start = Instant::now();
        let late = gate.resolver.addresses(&name("late.good.test")).await.unwrap();
        assert_eq!(late.addrs.len(), 1);
        assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
        let asked = gate.upstream.asked().len();
        let again = gate.resolver.addresses(&name("api.good.test")).await.unwrap();
        assert!(Arc::ptr_eq(&both, &again), "the second time costs a look-up");
        assert_eq!(gate.upstream.asked().len(), asked);
    }

    #[tokio::test]
    async fn one_question_is_asked_for_many_that_wait() {
        let gate = Gate::start(public).await;
        let mut callers = JoinSet::new();
        for _ in 0..50 {
            let resolver = gate.resolver.clone();
            callers.spawn(async move { resolver.addresses(&name("api.good.test")).await });
        }
        for result in callers.join_all().await {
            assert_eq!(result.unwrap().addrs.len(), 1);
        }
        assert_eq!(gate.upstream.asked().len(), 2, "A and AAAA");
    }

    #[tokio::test]
    async fn a_failure_is_an_error_and_is_not_asked_for_at_once_again() {
        let gate = Gate::start(|name, _, _| match name {
            "none.good.test" => Script::Code(ResponseCode::NXDomain),
            "empty.good.test" => Script::Records(vec![]),
            _ => Script::Code(ResponseCode::ServFail),
        })
        .await;
        for (asked, error) in [
            ("none.good.test", ResolveError::NxDomain),
            ("empty.good.test", ResolveError::NoData),
            ("failed.good.test", ResolveError::ServFail),
        ] {
            assert_eq!(gate.resolver.addresses(&name(asked)).await.unwrap_err(), error);
            let before = gate.upstream.asked().len();
            assert_eq!(gate.resolver.addresses(&name(asked)).await.unwrap_err(), error);
            assert_eq!(gate.upstream.asked().len(), before, "{asked}");
        }
    }

    #[tokio::test]
    async fn a_caller_that_leaves_does_not_strand_the_others() {
        let gate = Gate::start(public).await;
        let asked = name("api.good.test");
        let gone = timeout(Duration::ZERO, gate.resolver.addresses(&asked)).await;
        assert!(gone.is_err());
        assert_eq!(gate.resolver.addresses(&asked).await.unwrap().addrs.len(), 1);
    }
}
