//! The explicit door: requests in absolute form, and CONNECT, inside of which everything takes the same path as a
//! transparent connection.

use super::claim::{self, Connection, Explicit};
use super::decide::{self, Bound};
use super::h1::{self, Client, Shape};
use super::idle::{Next, idle};
use super::registry::Ticket;
use super::sniff;
use super::target::Identified;
use super::{Gate, carry_out};
use crate::base::{Authority, Host, Scheme};
use crate::codec::Body;
use crate::codec::h1::{Framing, Reader, encode_response, head_buffer, write_head};
use crate::pipeline::{self, Asked, Facts, Flow, Interims, Rejected, Reply};
use crate::policy::{Reason, Refusal};
use crate::rt::boxed;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body as _;
use std::sync::Arc;
use tokio::net::TcpStream;

/// What the door itself binds: nothing but clear text.
const UNBOUND: Connection = Connection { scheme: Scheme::Http, host: None, leased: None, port: 80 };

pub(super) async fn serve(gate: &Arc<Gate>, identified: Identified) {
    let Identified { stream, flow, ticket } = identified;
    let flow = Arc::new(flow);
    let (read, writer) = tokio::io::split(stream);
    let mut connection = Client { reader: Reader::new(read), writer, eof_is_the_end: false };
    let mut idle = idle(gate);
    loop {
        let (shape, claimed) = match idle.next_head(gate, &mut connection.reader).await {
            Next::Head(head) => {
                let shape = Shape::of(&head);
                match claim::explicit(head) {
                    Ok(Explicit::Request(asked)) => (shape, Ok(asked)),
                    Ok(Explicit::Connect { host, port }) => {
                        return Box::pin(connect(gate, connection, flow, ticket, host, port)).await;
                    }
                    Err(rejected) => (shape, Err(rejected)),
                }
            }
            Next::Bad(error) => (Shape::closing(), Err(h1::bad_head(&error, &UNBOUND))),
            Next::Late => (Shape::closing(), Err(h1::late_head(&UNBOUND))),
            Next::End => return,
        };
        // Requests to several origins share this connection. A client that takes an interim answer for the final one
        // (Python's `http.client`) would take what its origin says behind it for the answer of the next origin.
        let (flow, interims) = (flow.clone(), &Interims::new(false));
        let answer = |claimed, body| answer(flow, claimed, body, interims);
        match boxed(|| h1::turn(gate, connection, shape, claimed, interims, answer)).await {
            Some(kept) => connection = kept,
            None => return,
        }
    }
}

async fn answer(
    flow: Arc<Flow>,
    claimed: Result<Box<Asked>, Box<Rejected>>,
    body: Body,
    interims: &Interims,
) -> Reply {
    match claimed {
        Ok(asked) => pipeline::exchange(&flow, asked, body, interims).await,
        Err(mut rejected) => {
            // The target is what was asked for, whatever Host says (RFC 9112 section 3.2.2): where that is refused by
            // itself, it is refused as that.
            if rejected.refusal.reason == Reason::AuthorityMismatch
                && let Ok(target) = Authority::parse(&rejected.authority)
                && let Err(refusal) = may_follow(&flow, &target.host, target.port.unwrap_or(80))
            {
                rejected.refusal = refusal;
                rejected.status = StatusCode::FORBIDDEN;
            }
            pipeline::reject(&flow, *rejected, !body.is_end_stream()).await
        }
    }
}

/// Judges a CONNECT before it is answered: 403 where nothing could follow, else 200 and the path of the door inside.
async fn connect(
    gate: &Arc<Gate>,
    connection: Client<TcpStream>,
    flow: Arc<Flow>,
    ticket: Ticket,
    host: Host,
    port: u16,
) {
    ticket.named(format!("{host}:{port}"));
    if let Err(refusal) = may_follow(&flow, &host, port) {
        return deny(gate, connection, &flow, &host, port, refusal).await;
    }
    let Client { reader, mut writer, .. } = connection;
    let mut head = head_buffer();
    encode_response(&mut head, StatusCode::OK, None, &HeaderMap::new(), Framing::UntilClose, None, false);
    if write_head(&mut writer, head, gate.settings.write_stall).await.is_err() {
        return;
    }
    let (ahead, read) = reader.into_parts();
    let stream = read.unsplit(writer);
    // The flow's only other holder was the loop that called us.
    let Ok(flow) = Arc::try_unwrap(flow) else { return };
    if sniff::is_raw(&flow, port) {
        return raw_tcp(gate, Bound { stream, ahead, flow, ticket, port, named: Some(host), literal: None })
            .await;
    }
    let authority = format!("{host}:{port}");
    let Some((stream, first, ahead)) = sniff::in_time(gate, &flow, stream, ahead.into(), authority).await
    else {
        return;
    };
    let bound = Bound { stream, ahead, flow, ticket, port, named: Some(host), literal: None };
    carry_out(gate, Some(decide::first_bytes(bound, first))).await;
}

async fn raw_tcp(gate: &Arc<Gate>, bound: Bound) {
    carry_out(gate, Some(decide::raw_named(bound))).await;
}

/// Whether anything inside a CONNECT to this place could be allowed.
fn may_follow(flow: &Flow, host: &Host, port: u16) -> Result<(), Refusal> {
    pipeline::not_ourselves(flow, host)?;
    let snapshot = flow.shared.snapshot.load_full();
    snapshot.judge_place(flow.client_in(&snapshot)?, host, port)
}

async fn deny(
    gate: &Arc<Gate>,
    connection: Client<TcpStream>,
    flow: &Arc<Flow>,
    host: &Host,
    port: u16,
    refusal: Refusal,
) {
    let snapshot = flow.shared.snapshot.load_full();
    let mut facts = Facts::connection(format!("{host}:{port}"), "http/1.1");
    facts.method = Some(Method::CONNECT);
    pipeline::refuse(flow, &snapshot, &facts, &refusal).await;
    let page = pipeline::Page::forbidden(refusal.clone(), &facts);
    let reply = async move |_, body: Body| {
        let mut reply = page.reply(!body.is_end_stream());
        reply.close = true;
        reply
    };
    let nothing = Err(h1::unread(refusal, StatusCode::FORBIDDEN, &UNBOUND));
    let shape = Shape::closing();
    let interims = &shape.interims();
    h1::turn(gate, connection, shape, nothing, interims, reply).await;
}
