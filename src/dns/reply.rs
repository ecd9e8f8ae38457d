//! Writes answers: within the size that the client can take, never with AD, always with RA, the question's bytes as
//! they came.

use super::Transport;
use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;
use std::net::IpAddr;

/// Without EDNS (RFC 1035 section 4.2.1).
const PLAIN_LIMIT: u16 = 512;
/// What fits every path without fragments (DNS flag day 2020); both what we send and what we say we take.
const EDNS_LIMIT: u16 = 1232;
/// Extended DNS error (RFC 8914) "Blocked".
const EDE: u16 = 15;
const EDE_BLOCKED: [u8; 2] = [0, 15];

/// The answer to one question.
#[derive(Debug, Default)]
pub(super) struct Reply<'a> {
    pub code: ResponseCode,
    pub addresses: &'a [IpAddr],
    /// Seconds, of the addresses or of the SOA that says how long "none" holds.
    pub ttl: u32,
    /// "There is none": carries a SOA.
    pub negative: bool,
    /// Refused by policy: says so to a client that speaks EDNS.
    pub blocked: bool,
}

impl Reply<'_> {
    pub(super) fn encode(&self, request: &Request, transport: Transport) -> Vec<u8> {
        let name = request
            .queries
            .queries()
            .first()
            .map(|query| query.original().name().clone())
            .unwrap_or_default();
        let edns = request.edns.as_ref().map(|asked| self.edns(asked));
        let limit = match (transport, request.edns.as_ref()) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_LIMIT,
            (Transport::Udp, Some(asked)) => asked.max_payload().clamp(PLAIN_LIMIT, EDNS_LIMIT),
        };
        let answers: Vec<Record> =
            self.addresses.iter().map(|ip| address_record(&name, *ip, self.ttl)).collect();
        let soa = self.negative.then(|| soa_record(&name, self.ttl));
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = self.code;
        metadata.recursion_available = true;
        let whole = emit(request, edns.as_ref(), metadata, &answers, soa.as_ref(), limit);
        if let Some(bytes) = whole {
            return bytes;
        }
        // What does not fit is asked again over TCP; a part of an answer is of no use.
        metadata.truncation = true;
        emit(request, edns.as_ref(), metadata, &[], None, limit).unwrap_or_default()
    }

    fn edns(&self, asked: &Edns) -> Edns {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_LIMIT).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
        if self.blocked {
            edns.options_mut().insert(EdnsOption::Unknown(EDE, EDE_BLOCKED.to_vec()));
        }
        edns
    }
}

/// `None` when it does not fit.
fn emit(
    request: &Request,
    edns: Option<&Edns>,
    metadata: Metadata,
    answers: &[Record],
    soa: Option<&Record>,
    limit: u16,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(PLAIN_LIMIT.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    let response = MessageResponseBuilder::new(&request.queries, edns).build(metadata, answers, [], soa, []);
    let info = response.destructive_emit(&mut encoder).ok()?;
    (info.truncation == metadata.truncation).then_some(bytes)
}

fn address_record(name: &Name, address: IpAddr, ttl: u32) -> Record {
    let data = match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

/// The SOA of a negative answer (RFC 2308): its TTL and minimum are all that anyone reads of it.
fn soa_record(name: &Name, ttl: u32) -> Record {
    let zone = name.base_name();
    let data = SOA::new(zone.clone(), Name::root(), 1, 3600, 600, 86_400, ttl);
    Record::from_rdata(zone, ttl, RData::SOA(data))
}
