//! Several conns at the same time, their answers one after the other.
//!
//! Invariant: rows of a conn reach the application only where their columns are those of the first conn's rows, which the application
//! has been told of.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;

use crate::backend::conn::{Conn, Events};
use crate::backend::shape::Agreed;
use crate::frontend::failure::Failure;
use crate::frontend::io::{ClientIo, OUT_HIGH_BYTES, StepError};
use crate::frontend::session::Session;
use crate::frontend::settle::note_lsn;

/// Bytes of a share's answer that are read before its turn.
const AHEAD_BYTES: usize = 256 << 10;

impl Session {
    /// Runs all shares to their end.
    pub(crate) async fn drive(&mut self, order: &[usize]) -> Result<Vec<Events>, Failure> {
        let mut events: Vec<Events> = Vec::new();
        events.resize_with(order.len(), || self.events.beside());
        let agreed = self.events.agreed.clone();
        let (io, mut conns) = self.conns_in(order);
        match run_all(io, &mut conns, &mut events, agreed.as_ref()).await {
            Ok(()) => {
                self.after_shares(order, &mut events);
                Ok(events)
            }
            Err((turn, error)) => Err(self.lose(order[turn], error)),
        }
    }

    /// The application's side, and these conns in their order.
    pub(super) fn conns_in(&mut self, order: &[usize]) -> (&mut ClientIo, Vec<&mut Conn>) {
        let mut conns: Vec<Option<&mut Conn>> = Vec::new();
        conns.resize_with(order.len(), || None);
        for (at, held) in self.held.iter_mut().enumerate() {
            if let Some(turn) = order.iter().position(|wanted| *wanted == at) {
                conns[turn] = Some(&mut held.lease);
            }
        }
        (&mut self.io, conns.into_iter().flatten().collect())
    }

    /// What was set on the conns for one statement is undone, and what they tell besides is learnt.
    pub(super) fn after_shares(&mut self, order: &[usize], events: &mut [Events]) {
        for (at, events) in order.iter().zip(events) {
            let held = &mut self.held[*at];
            held.lease.capture = false;
            held.lease.rewritten = None;
            held.lease.copy_trim = None;
            if let Some(ticket) = held.asks_lsn.take() {
                // Its answer came in front of the share's own rows.
                let row = (!events.rows.is_empty()).then(|| events.rows.remove(0));
                note_lsn(ticket, row);
            }
        }
    }
}

/// Runs the conns to their end, answers in order. `agreed`: what the rows must be, or are from the first conn on. On failure: whose.
pub(super) async fn run_all(
    io: &mut ClientIo,
    conns: &mut [&mut Conn],
    events: &mut [Events],
    agreed: Option<&Agreed>,
) -> Result<(), (usize, StepError)> {
    let mut ahead: Vec<BytesMut> = vec![BytesMut::new(); conns.len()];
    let (mut turn, mut open) = (0, false);
    while turn < conns.len() {
        if !open {
            open = fits(conns[turn], &mut events[turn], agreed);
            if open {
                io.out.extend_from_slice(&ahead[turn].split());
            } else if events[turn].differs {
                ahead[turn].clear();
            }
        }
        if conns[turn].is_quiet() {
            (turn, open) = (turn + 1, false);
            continue;
        }
        poll_fn(|cx| {
            let mut progress = false;
            for at in turn..conns.len() {
                if conns[at].is_quiet() || (at > turn && ahead[at].len() >= AHEAD_BYTES) {
                    continue;
                }
                let out = if at == turn && open { &mut io.out } else { &mut ahead[at] };
                match conns[at].poll_step(cx, out, &mut events[at]) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err((at, StepError::Backend(error)))),
                    Poll::Pending => {}
                }
            }
            if progress {
                return Poll::Ready(Ok(()));
            }
            io.poll_hangup(cx).map_err(|error| (turn, error))
        })
        .await?;
        if io.out.len() >= OUT_HIGH_BYTES {
            io.flush().await.map_err(|error| (turn, StepError::Client(error)))?;
        }
    }
    Ok(())
}

/// Whether the answer of the conn whose turn it is may be passed on: its rows have been described, and are what they must be.
fn fits(conn: &Conn, events: &mut Events, agreed: Option<&Agreed>) -> bool {
    let Some(agreed) = agreed else { return true };
    match events.agreed.as_ref().and_then(|own| own.get()) {
        Some(own) => {
            events.differs = !agreed.get_or_init(|| own.clone()).same_rows(own);
            !events.differs
        }
        None => !conn.awaits_description(),
    }
}
