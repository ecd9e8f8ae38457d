//! Between two requests of an HTTP/1 connection: the next head, the end of patience with its client, or the end of the
//! daemon. One clock and one look at the drain serve all requests of a connection: to make and to forget them for each
//! was a twentieth of what a request costs.

use super::Gate;
use crate::codec::h1::{ReadError, Reader, RequestHead};
use crate::rt::LAST_CALL;
use futures_util::future::{MaybeDone, maybe_done};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::time::{Instant, Sleep, sleep};

pub(super) struct Idle<D: Future> {
    clock: Pin<Box<Sleep>>,
    drained: Pin<Box<MaybeDone<D>>>,
    first: bool,
}

pub(super) enum Next {
    Head(RequestHead),
    Bad(ReadError),
    /// A head that did not come in time.
    Late,
    /// The client closed between requests, was idle too long, or the daemon ends.
    End,
}

/// For a connection that has asked for nothing yet.
pub(super) fn idle(gate: &Gate) -> Idle<impl Future<Output = ()> + Send + use<>> {
    let mut drain = gate.tasks.drain_signal();
    let drained = async move { drain.signalled().await };
    Idle { clock: Box::pin(sleep(Duration::ZERO)), drained: Box::pin(maybe_done(drained)), first: true }
}

impl<D: Future<Output = ()>> Idle<D> {
    pub(super) async fn next_head<R: AsyncRead + Unpin>(
        &mut self,
        gate: &Gate,
        reader: &mut Reader<R>,
    ) -> Next {
        let settings = &gate.settings;
        let first = std::mem::take(&mut self.first);
        let patience = if first { settings.head } else { settings.idle };
        tokio::select! {
            biased;
            data = reader.wait_for_data() => match data {
                Ok(true) => {}
                Ok(false) | Err(_) => return Next::End,
            },
            () = after(self.clock.as_mut(), patience) => return if first { Next::Late } else { Next::End },
            () = ended(self.drained.as_mut(), first) => return Next::End,
        }
        let head = tokio::select! {
            biased;
            head = reader.request(&settings.head_limits) => head,
            () = after(self.clock.as_mut(), settings.head) => return Next::Late,
        };
        match head {
            Ok(Some(head)) => Next::Head(head),
            Ok(None) => Next::End,
            // A head had begun, so something was asked, however its client went.
            Err(ReadError::Io(_)) => Next::Bad(ReadError::Truncated),
            Err(error) => Next::Bad(error),
        }
    }
}

/// The clock is set when somebody waits for it, not before.
async fn after(mut clock: Pin<&mut Sleep>, patience: Duration) {
    clock.as_mut().reset(Instant::now() + patience);
    clock.await;
}

/// Who has not asked for anything yet was let in for one request at least.
async fn ended<D: Future<Output = ()>>(drained: Pin<&mut MaybeDone<D>>, first: bool) {
    drained.await;
    if first {
        // Boxed: every idle connection holds the place of this future.
        Box::pin(sleep(LAST_CALL)).await;
    }
}
