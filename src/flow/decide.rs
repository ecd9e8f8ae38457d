//! Third step: one name for the connection, and the policy asked once. What comes out says what is done, and holds the
//! right to do it.

use super::Gate;
use super::claim::Connection;
use super::registry::Ticket;
use super::sniff::{FirstBytes, Sniffed};
use crate::base::{Host, OriginalDst, Scheme};
use crate::dns::Leased;
use crate::pipeline::{self, Facts, Flow};
use crate::policy::{ConnectVerdict, MintRight, Reason, Refusal, TunnelPermit};
use crate::tls::{Alert, HelloError, Opening, Sni};
use bytes::Bytes;
use std::sync::Arc;
use tokio::net::TcpStream;

pub(super) enum Decided {
    /// Requests in clear text.
    Plain(Plain),
    /// TLS that ends here.
    Intercept(Intercepted),
    Tunnel(Tunnelled),
    Refused(Refused),
}

pub(super) struct Plain {
    pub(super) stream: TcpStream,
    pub(super) ahead: Bytes,
    pub(super) flow: Flow,
    pub(super) ticket: Ticket,
    pub(super) connection: Connection,
}

pub(super) struct Intercepted {
    pub(super) stream: TcpStream,
    pub(super) opening: Box<Opening>,
    pub(super) flow: Flow,
    pub(super) ticket: Ticket,
    pub(super) connection: Connection,
    pub(super) mint: MintRight,
    /// Every request is answered with this refusal's page; its record is written already.
    pub(super) page: Option<Refusal>,
}

pub(super) struct Tunnelled {
    pub(super) stream: TcpStream,
    /// What was read of the client's bytes, to be sent on.
    pub(super) ahead: Bytes,
    pub(super) flow: Flow,
    pub(super) ticket: Ticket,
    pub(super) permit: TunnelPermit,
    pub(super) facts: Facts,
}

pub(super) struct Refused {
    pub(super) stream: TcpStream,
    pub(super) flow: Flow,
    pub(super) ticket: Ticket,
    pub(super) facts: Facts,
    pub(super) refusal: Refusal,
    pub(super) how: How,
}

/// How a connection is told no.
pub(super) enum How {
    Reset,
    /// A TLS alert, then the end.
    Alert(Vec<u8>),
    /// A page inside TLS, where the name is one that a leaf can be minted for.
    Page(Box<Opening>, Connection),
}

/// Of a virtual address.
const NO_NAME: &str =
    "no name is stated, and this virtual address stands for none: expired, or of an earlier run";

/// A connection of the transparent door.
pub(super) async fn connection(gate: &Arc<Gate>, sniffed: Sniffed) -> Option<Decided> {
    let Sniffed { stream, flow, ticket, target, first, ahead } = sniffed;
    let (ip, port) = (target.0.ip().to_canonical(), target.0.port());
    let leased = gate.leases.leased(gate.registry.client_number(&flow.client_name), ip);
    if let FirstBytes::Unread = first {
        return Some(unread(stream, flow, ticket, leased, target));
    }
    let literal = match leased {
        Leased::Virtual(name) => Some(Host::Name(name)),
        Leased::Expired => None,
        // What a real address was told for says nothing: many names share one.
        Leased::Unknown | Leased::Name(_) | Leased::Several => Some(Host::Ip(ip)),
    };
    Some(first_bytes(Bound { stream, ahead, flow, ticket, port, named: None, literal }, first))
}

/// A connection whose first bytes are known, with the name that CONNECT gave it, if that is how it came.
pub(super) struct Bound {
    pub(super) stream: TcpStream,
    pub(super) ahead: Bytes,
    pub(super) flow: Flow,
    pub(super) ticket: Ticket,
    pub(super) port: u16,
    pub(super) named: Option<Host>,
    /// What the address that was dialled stands for where no name is stated: itself, or the name of a virtual one.
    pub(super) literal: Option<Host>,
}

pub(super) fn first_bytes(bound: Bound, first: FirstBytes) -> Decided {
    match first {
        FirstBytes::Tls(opening) => tls(bound, opening),
        FirstBytes::BadTls(error) => bad_tls(bound, &error),
        FirstBytes::Http if bound.port != 443 => {
            let Bound { stream, ahead, flow, ticket, port, named, literal } = bound;
            let leased = literal.filter(|host| host.name().is_some());
            let connection = Connection { scheme: Scheme::Http, host: named, leased, port };
            Decided::Plain(Plain { stream, ahead, flow, ticket, connection })
        }
        FirstBytes::Http => {
            refused(bound, "http/1.1", Reason::Protocol, "HTTP in clear text on the port of HTTPS")
        }
        FirstBytes::Other | FirstBytes::Unread => {
            refused(bound, "tcp", Reason::Protocol, "the first bytes are neither TLS nor HTTP")
        }
    }
}

fn tls(mut bound: Bound, opening: Box<Opening>) -> Decided {
    if bound.port == 80 {
        return refused(bound, "tls", Reason::Protocol, "TLS on the port of HTTP in clear text");
    }
    let sni = match opening.hello.sni.clone() {
        Sni::Name(name) => {
            bound.flow.greeted(name.clone());
            Some(Host::Name(name))
        }
        Sni::Address(address) => Some(Host::Ip(address.to_canonical())),
        Sni::Absent => None,
        Sni::Invalid => {
            let alert = Alert::UnrecognizedName.record().to_vec();
            return refused_by(
                bound,
                "tls",
                Reason::BadRequest,
                "the SNI is no host name",
                How::Alert(alert),
            );
        }
    };
    let host = match (&bound.named, sni, bound.literal.clone()) {
        (Some(named), Some(sni), _) if *named != sni => {
            let detail = format!("CONNECT names {named}, the ClientHello {sni}");
            let alert = Alert::UnrecognizedName.record().to_vec();
            return refused_by(bound, "tls", Reason::SniMismatch, &detail, How::Alert(alert));
        }
        (Some(named), _, _) => named.clone(),
        // An address in the SNI is only believed where it is the address that was dialled.
        (None, Some(Host::Ip(stated)), dialled) if dialled != Some(Host::Ip(stated)) => {
            let alert = Alert::UnrecognizedName.record().to_vec();
            return refused_by(
                bound,
                "tls",
                Reason::SniMismatch,
                "the SNI is another address",
                How::Alert(alert),
            );
        }
        (None, Some(sni), _) => sni,
        (None, None, Some(literal)) => literal,
        (None, None, None) => return refused(bound, "tls", Reason::NoAuthority, NO_NAME),
    };
    named_tls(bound, opening, host)
}

fn named_tls(bound: Bound, opening: Box<Opening>, host: Host) -> Decided {
    bound.ticket.named(host.to_string());
    let connection =
        Connection { scheme: Scheme::Https, host: Some(host.clone()), leased: None, port: bound.port };
    let snapshot = bound.flow.shared.snapshot.load_full();
    let ours = pipeline::not_ourselves(&bound.flow, &host);
    let verdict = match ours.and_then(|()| bound.flow.client_in(&snapshot)) {
        Ok(client) => snapshot.judge_connect(client, &host, bound.port),
        Err(refusal) => ConnectVerdict::Refuse(refusal),
    };
    let Bound { stream, ahead, flow, ticket, .. } = bound;
    let facts = facts(&host, connection.port, "tls", Some(Scheme::Https));
    match verdict {
        ConnectVerdict::Tunnel(permit) => {
            Decided::Tunnel(Tunnelled { stream, ahead, flow, ticket, permit, facts })
        }
        ConnectVerdict::Intercept(_) if opening.hello.alpn.is_foreign() => {
            let refusal = Refusal::new(Reason::Alpn, "the client offers neither h2 nor HTTP/1");
            let how = How::Alert(Alert::NoApplicationProtocol.record().to_vec());
            Decided::Refused(Refused { stream, flow, ticket, facts, refusal, how })
        }
        ConnectVerdict::Intercept(permit) => {
            let mint = permit.mint();
            Decided::Intercept(Intercepted { stream, opening, flow, ticket, connection, mint, page: None })
        }
        ConnectVerdict::Refuse(refusal) => {
            // Without a name there is none to say it under.
            let named = host.name().is_some() && refusal.mint().is_some();
            let how = match named && !opening.hello.alpn.is_foreign() {
                true => How::Page(opening, connection),
                false => How::Alert(Alert::AccessDenied.record().to_vec()),
            };
            Decided::Refused(Refused { stream, flow, ticket, facts, refusal, how })
        }
    }
}

/// A port that a rule opens for raw TCP: the lease is the identity, and an ambiguous one is refused.
fn unread(
    stream: TcpStream,
    flow: Flow,
    ticket: Ticket,
    leased: Leased,
    OriginalDst(target): OriginalDst,
) -> Decided {
    let (ip, port) = (target.ip().to_canonical(), target.port());
    let snapshot = flow.shared.snapshot.load_full();
    let no_name = match leased {
        Leased::Several => Some("this address was given for more than one name"),
        Leased::Expired => Some(NO_NAME),
        Leased::Unknown | Leased::Name(_) | Leased::Virtual(_) => None,
    };
    if let Some(detail) = no_name {
        let refusal = Refusal::new(Reason::NoAuthority, detail);
        let facts = facts(&Host::Ip(ip), port, "tcp", Some(Scheme::Tcp));
        return Decided::Refused(Refused { stream, flow, ticket, facts, refusal, how: How::Reset });
    }
    let host = match leased {
        Leased::Name(name) | Leased::Virtual(name) => Host::Name(name),
        Leased::Unknown | Leased::Several | Leased::Expired => Host::Ip(ip),
    };
    ticket.named(host.to_string());
    let facts = facts(&host, port, "tcp", Some(Scheme::Tcp));
    match flow.client_in(&snapshot).and_then(|client| snapshot.judge_tcp(client, &host, port)) {
        Ok(permit) => Decided::Tunnel(Tunnelled { stream, ahead: Bytes::new(), flow, ticket, permit, facts }),
        Err(refusal) => Decided::Refused(Refused { stream, flow, ticket, facts, refusal, how: How::Reset }),
    }
}

/// Raw TCP inside CONNECT: the name is the one that CONNECT gave.
pub(super) fn raw_named(bound: Bound) -> Decided {
    let Bound { stream, ahead, flow, ticket, port, named, .. } = bound;
    let snapshot = flow.shared.snapshot.load_full();
    let Some(host) = named else {
        let refusal = Refusal::new(Reason::NoAuthority, "raw TCP without a name");
        let facts = Facts::connection("", "tcp");
        return Decided::Refused(Refused { stream, flow, ticket, facts, refusal, how: How::Reset });
    };
    let facts = facts(&host, port, "tcp", Some(Scheme::Tcp));
    match flow.client_in(&snapshot).and_then(|client| snapshot.judge_tcp(client, &host, port)) {
        Ok(permit) => Decided::Tunnel(Tunnelled { stream, ahead, flow, ticket, permit, facts }),
        Err(refusal) => Decided::Refused(Refused { stream, flow, ticket, facts, refusal, how: How::Reset }),
    }
}

fn bad_tls(bound: Bound, error: &HelloError) -> Decided {
    let reason = match error {
        HelloError::OldVersion { .. } => Reason::TlsVersion,
        HelloError::NotTls => Reason::Protocol,
        HelloError::Malformed { .. } | HelloError::TooLarge => Reason::BadRequest,
    };
    let how = error.alert().map_or(How::Reset, How::Alert);
    refused_by(bound, "tls", reason, &error.to_string(), how)
}

fn refused(bound: Bound, proto: &'static str, reason: Reason, detail: &str) -> Decided {
    refused_by(bound, proto, reason, detail, How::Reset)
}

fn refused_by(bound: Bound, proto: &'static str, reason: Reason, detail: &str, how: How) -> Decided {
    let Bound { stream, flow, ticket, port, named, .. } = bound;
    let facts = match &named {
        Some(host) => facts(host, port, proto, None),
        None => Facts::connection("", proto),
    };
    Decided::Refused(Refused { stream, flow, ticket, facts, refusal: Refusal::new(reason, detail), how })
}

fn facts(host: &Host, port: u16, proto: &'static str, scheme: Option<Scheme>) -> Facts {
    let mut facts = Facts::connection(format!("{host}:{port}"), proto);
    facts.scheme = scheme;
    facts
}
