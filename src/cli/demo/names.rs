//! The internet's name server, which remembers what it was asked, and one plain question to any other.

use super::namespace::Namespace;
use crate::rt::Tasks;
use anyhow::{Context, Result};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use socket2::{Protocol, Type};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Seconds an answer may be remembered.
const TTL: u32 = 30;

/// The names that were asked for, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub(super) fn times(&self, name: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|asked| *asked == name).count()
    }

    fn note(&self, name: &Name) {
        let name = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }
}

/// Serves `names` at one address; every other name does not exist.
pub(super) fn serve(
    internet: &Namespace,
    at: SocketAddr,
    names: &'static [&'static str],
    address: Ipv4Addr,
    tasks: &Tasks,
) -> Result<Asked> {
    let socket: UdpSocket = internet.bind(at, Type::DGRAM, Protocol::UDP)?.into();
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let asked = Asked::default();
    let log = asked.clone();
    tasks.spawn("demo-names", async move {
        let mut bytes = [0; 1232];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let question = bytes.get(..length).map(Message::from_vec);
            if let Some(Ok(question)) = question
                && let Ok(reply) = answer(&question, names, address, &log).to_vec()
            {
                // A resolver that went away asks no more.
                let _ = socket.send_to(&reply, from).await;
            }
        }
    });
    Ok(asked)
}

fn answer(question: &Message, names: &[&str], address: Ipv4Addr, asked: &Asked) -> Message {
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let Some(query) = question.queries.first() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return reply;
    };
    asked.note(query.name());
    let text = query.name().to_ascii();
    let known = names.iter().any(|name| text.trim_end_matches('.').eq_ignore_ascii_case(name));
    if !known {
        reply.metadata.response_code = ResponseCode::NXDomain;
    } else if query.query_type() == RecordType::A {
        reply.add_answer(Record::from_rdata(query.name().clone(), TTL, RData::A(A(address))));
    }
    reply.add_query(query.clone());
    reply
}

/// Asks for the address of `name` once, as a client's resolver would.
pub(super) fn ask(client: &Namespace, server: SocketAddr, name: &str) -> Result<ResponseCode> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    let bytes = question.to_vec()?;
    let socket: UdpSocket =
        client.bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), Type::DGRAM, Protocol::UDP)?.into();
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(server)?;
    socket.send(&bytes)?;
    let mut reply = [0; 1232];
    let length = socket.recv(&mut reply).with_context(|| format!("no answer from {server}"))?;
    let reply = Message::from_vec(reply.get(..length).unwrap_or_default())?;
    Ok(reply.metadata.response_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(name: &str, kind: RecordType) -> (Message, Asked) {
        let asked = Asked::default();
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        (answer(&question, &["here.test"], Ipv4Addr::new(93, 184, 216, 34), &asked), asked)
    }

    #[test]
    fn a_known_name_has_an_address_and_is_remembered() {
        let (reply, asked) = asked_for("Here.test.", RecordType::A);
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 1));
        assert_eq!(asked.times("here.test"), 1);
    }

    #[test]
    fn a_known_name_has_nothing_else_and_an_unknown_one_does_not_exist() {
        let (reply, _) = asked_for("here.test.", RecordType::AAAA);
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));
        let (reply, _) = asked_for("there.test.", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    }
}
