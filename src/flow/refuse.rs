//! Saying no to a connection, in the protocol it speaks, after the record was written.

use super::decide::{How, Intercepted, Refused};
use super::{Gate, intercept};
use crate::net;
use crate::pipeline::{self, Facts, Flow};
use crate::policy::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How long a client may take to read its alert.
const LAST_WORD: Duration = Duration::from_secs(2);

pub(super) async fn serve(gate: &Arc<Gate>, refused: Refused) {
    let Refused { stream, flow, ticket, facts, refusal, how } = refused;
    let snapshot = flow.shared.snapshot.load_full();
    pipeline::refuse(&flow, &snapshot, &facts, &refusal).await;
    match how {
        How::Reset => reset(stream),
        How::Alert(record) => alert(stream, &record).await,
        How::Page(opening, connection) => {
            let Some(mint) = refusal.mint().cloned() else { return };
            let page = Some(refusal);
            intercept::serve(gate, Intercepted { stream, opening, flow, ticket, connection, mint, page })
                .await;
        }
    }
}

/// Records the refusal of a connection that has no further facts.
pub(super) async fn connection(flow: &Flow, authority: String, proto: &'static str, refusal: &Refusal) {
    let snapshot = flow.shared.snapshot.load_full();
    pipeline::refuse(flow, &snapshot, &Facts::connection(authority, proto), refusal).await;
}

/// A real RST, so that a client with other addresses or protocols to try moves on at once.
pub(super) fn reset(stream: TcpStream) {
    net::reset(stream);
}

async fn alert(mut stream: TcpStream, record: &[u8]) {
    let told = async {
        stream.write_all(record).await?;
        stream.shutdown().await
    };
    // The client may be gone already; there is nobody left to tell.
    let _ = tokio::time::timeout(LAST_WORD, told).await;
}
