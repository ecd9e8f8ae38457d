//! A door with a policy of two clients, a scripted upstream behind it, and its records as lines.

use crate::peers::{Script, Upstream, ask, fqdn, query};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;
use outgate::base::{ClientAddr, HostName};
use outgate::dns::*;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

pub const PUBLIC: &str = "93.184.216.34";

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
pub struct Log(Mutex<Vec<String>>);

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

pub struct Full;

impl Recorder for Full {
    fn decided(&self, _: &Decision<'_>) -> Option<u64> {
        None
    }

    fn answered(&self, _: u64, _: &Answered<'_>) {}
}

pub struct Gate {
    pub door: SocketAddr,
    pub upstream: Upstream,
    pub resolver: Arc<Resolver>,
    pub leases: Arc<Leases>,
    pub counters: Arc<Counters>,
    log: Arc<Log>,
    _tasks: JoinSet<()>,
}

impl Gate {
    pub async fn start(zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static) -> Self {
        Self::with(zone, DoorSettings::default(), |_| {}).await
    }

    pub async fn with(
        zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static,
        settings: DoorSettings,
        change: impl FnOnce(&mut ResolverSettings),
    ) -> Self {
        let log = Arc::new(Log::default());
        Self::over(zone, settings, change, log.clone(), log).await
    }

    pub async fn over(
        zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static,
        settings: DoorSettings,
        change: impl FnOnce(&mut ResolverSettings),
        recorder: Arc<dyn Recorder>,
        log: Arc<Log>,
    ) -> Self {
        let leases = Leases::new(LeaseSettings::default());
        Self::build(zone, settings, change, (recorder, log), leases).await
    }

    /// A door that answers with virtual addresses, and has room for so many names.
    pub async fn lending(names: usize) -> Self {
        let synthetic = SyntheticSettings { per_client: names, ..SyntheticSettings::default() };
        let settings = LeaseSettings { synthetic: Some(synthetic), ..LeaseSettings::default() };
        let log = Arc::new(Log::default());
        let leases = Leases::of_epoch(settings, Some(Epoch(5)));
        Self::build(public, DoorSettings::default(), |_| {}, (log.clone(), log), leases).await
    }

    async fn build(
        zone: impl Fn(&str, RecordType, usize) -> Script + Send + Sync + 'static,
        settings: DoorSettings,
        change: impl FnOnce(&mut ResolverSettings),
        (recorder, log): (Arc<dyn Recorder>, Arc<Log>),
        leases: Leases,
    ) -> Self {
        let upstream = Upstream::start(zone).await;
        let mut resolving = ResolverSettings {
            upstreams: Upstreams::Servers(vec![upstream.address]),
            ..ResolverSettings::default()
        };
        change(&mut resolving);
        let resolver = Arc::new(Resolver::new(resolving).unwrap());
        let leases = Arc::new(leases);
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
        let door = Bound::bind("127.0.0.1:0".parse().unwrap(), &settings, parts).await.unwrap();
        let address = door.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(door.serve());
        Self { door: address, upstream, resolver, leases, counters, log, _tasks: tasks }
    }

    pub async fn ask(&self, name: &str, qtype: RecordType) -> Message {
        ask(self.door, &query(fqdn(name), qtype, Some(1232))).await
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }
}

/// Every name has one public address.
pub fn public(name: &str, qtype: RecordType, _: usize) -> Script {
    match qtype {
        RecordType::A => Script::Records(crate::peers::addresses(name, 60, &[PUBLIC])),
        _ => Script::Records(vec![]),
    }
}

pub fn blocked(reply: &Message) -> bool {
    reply.edns.as_ref().is_some_and(|edns| edns.option(EdnsCode::Unknown(15)).is_some())
}

pub fn assert_denied(reply: &Message) {
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(blocked(reply), "the extended error says Blocked");
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(reply.authorities[0].ttl, 5);
    assert!(reply.answers.is_empty());
}

pub fn assert_nodata(reply: &Message) {
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
}

pub fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}
