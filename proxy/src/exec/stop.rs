//! The end of a statement over several shards that has failed on one of them: the others are cancelled.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use crate::backend::conn::{Conn, Events};
use crate::backend::owed::Show;
use crate::frontend::cancel::deliver;
use crate::frontend::failure::Failure;
use crate::frontend::io::{ClientIo, StepError};
use crate::frontend::session::Session;

/// Time in which the others may end by themselves: a conn that was cancelled is not used again, and most statements are short.
const GRACE: Duration = Duration::from_millis(20);

/// How long a cancel request of the proxy's own may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

/// After this time the request is sent again, then after twice of it, and so on: a server that has not begun with the statement takes
/// no notice of it.
const AGAIN: Duration = Duration::from_millis(250);

/// The longest time between two requests.
const AGAIN_AT_MOST: Duration = Duration::from_secs(8);

impl Session {
    /// Ends what still runs on these conns. `first`: whose error the statement's is; what the others say is that they were cancelled.
    /// The description of the rows, if the first conn gives one only now: the application is to be told what it was to be told before
    /// the error.
    pub(super) async fn stop_others(
        &mut self,
        order: &[usize],
        events: &mut [Events],
        first: Option<usize>,
    ) -> Result<BytesMut, Failure> {
        let (mut wait, mut description) = (GRACE, BytesMut::new());
        loop {
            let ended = {
                let (io, mut conns) = self.conns_in(order);
                timeout(wait, run_down(io, &mut conns, events, &mut description)).await
            };
            if let Ok(ended) = ended {
                ended.map_err(|(turn, error)| self.lose(order[turn], error))?;
                break;
            }
            wait = if wait == GRACE { AGAIN } else { AGAIN_AT_MOST.min(wait * 2) };
            self.cancel_others(order).await;
        }
        let others =
            events.iter_mut().enumerate().filter(|(turn, _)| first.is_some_and(|first| first != *turn));
        others.for_each(|(_, events)| events.error = None);
        Ok(description)
    }

    /// Cancels what still runs on these conns.
    async fn cancel_others(&mut self, order: &[usize]) {
        let mut running = Vec::new();
        for &at in order {
            let held = &mut self.held[at];
            if !held.lease.is_quiet() {
                // A request that comes late must meet nobody else.
                held.lease.spoiled = true;
                running.push(held.shown());
            }
        }
        let delivered = deliver(&self.worker.shared, running);
        if timeout(CANCEL_LIMIT, delivered).await.is_err() {
            tracing::warn!("cancel requests not delivered within {CANCEL_LIMIT:?}");
        }
    }
}

/// Reads the conns to their end; nothing of it is passed on, but for what the first one describes.
async fn run_down(
    io: &mut ClientIo,
    conns: &mut [&mut Conn],
    events: &mut [Events],
    description: &mut BytesMut,
) -> Result<(), (usize, StepError)> {
    conns.iter_mut().for_each(|conn| conn.hide_but(Show::DESCRIPTION));
    let mut nobody = BytesMut::new();
    while !conns.iter().all(|conn| conn.is_quiet()) {
        poll_fn(|cx| {
            let mut progress = false;
            for at in 0..conns.len() {
                nobody.clear();
                if conns[at].is_quiet() {
                    continue;
                }
                let out = if at == 0 { &mut *description } else { &mut nobody };
                match conns[at].poll_step(cx, out, &mut events[at]) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err((at, StepError::Backend(error)))),
                    Poll::Pending => {}
                }
            }
            if progress { Poll::Ready(Ok(())) } else { io.poll_hangup(cx).map_err(|error| (0, error)) }
        })
        .await?;
    }
    Ok(())
}
