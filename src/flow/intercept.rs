//! TLS that ends here: a leaf for exactly the decided name, then HTTP/1 or HTTP/2 as the client chose.

use super::decide::Intercepted;
use super::h1::Service;
use super::{Gate, h1, h2, refuse};
use crate::audit::{Event, Text};
use crate::policy::{Reason, Refusal};
use crate::tls::{Records, terminate};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

pub(super) async fn serve(gate: &Arc<Gate>, intercepted: Intercepted) {
    // Boxed, so that the state of a handshake does not weigh on the hours that may follow it.
    let Some((stream, service)) = Box::pin(handshake(gate, intercepted)).await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(h2::serve(gate, stream, service)).await;
    } else {
        Box::pin(h1::serve_tls(gate, stream, service)).await;
    }
}

async fn handshake(
    gate: &Arc<Gate>,
    intercepted: Intercepted,
) -> Option<(TlsStream<Records<TcpStream>>, Arc<Service>)> {
    let Intercepted { stream, opening, flow, ticket, connection, mint, page } = intercepted;
    let may_mint = || gate.mints.allow(gate.registry.client_number(&flow.client_name), Instant::now());
    if !gate.minter.holds(mint.host()) && !may_mint() {
        // A page's refusal has its record already.
        if page.is_none() {
            let refusal = Refusal::new(Reason::Limit, "the client has asked for as many new names as it may");
            refuse::connection(&flow, mint.host().to_string(), "tls", &refusal).await;
        }
        refuse::reset(stream);
        return None;
    }
    let config = match gate.minter.server_config(mint.host()) {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(host = %mint.host(), %error, "no leaf could be minted");
            return None;
        }
    };
    let finished =
        tokio::time::timeout(gate.settings.hello, terminate(opening.accepted, config, stream)).await;
    match finished {
        Ok(Ok(stream)) => Some((stream, Arc::new(Service::new(gate, flow, ticket, connection, page)))),
        Ok(Err(error)) => {
            report(&flow, &mint.host().to_string(), &error.fault.to_string());
            None
        }
        Err(_) => {
            report(&flow, &mint.host().to_string(), "the TLS handshake took too long");
            None
        }
    }
}

/// A handshake that failed has asked for nothing, so it is an event and no decision.
fn report(flow: &crate::pipeline::Flow, host: &str, fault: &str) {
    tracing::warn!(client = %flow.client_name, host, "{fault}");
    flow.shared.log.note(&Event {
        event: "handshake",
        detail: Some(Text::from(fault)),
        fields: &[("client", Text::from(&*flow.client_name)), ("host", Text::from(host))],
    });
}
