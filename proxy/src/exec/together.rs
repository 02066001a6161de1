//! Several conns at the same time, their answers one after the other, or their rows as they come.
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
    /// Runs all shares to their end, their answers one after the other.
    pub(crate) async fn drive(&mut self, order: &[usize]) -> Result<Vec<Events>, Failure> {
        self.drive_as(order, false).await
    }

    /// Runs all shares to their end. `mixed`: their rows come in any order.
    pub(super) async fn drive_as(&mut self, order: &[usize], mixed: bool) -> Result<Vec<Events>, Failure> {
        let mut events: Vec<Events> = Vec::new();
        events.resize_with(order.len(), || self.events.beside());
        let agreed = self.events.agreed.clone();
        let (io, mut conns) = self.conns_in(order);
        let ran = if mixed {
            run_mixed(io, &mut conns, &mut events, agreed.as_ref()).await
        } else {
            run_all(io, &mut conns, &mut events, agreed.as_ref()).await
        };
        match ran {
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
            held.lease.whole_rows = false;
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

/// As [`run_all`], but rows are passed on as they come, whoever has them: no shard waits for the application to have taken those of
/// the others.
async fn run_mixed(
    io: &mut ClientIo,
    conns: &mut [&mut Conn],
    events: &mut [Events],
    agreed: Option<&Agreed>,
) -> Result<(), (usize, StepError)> {
    let mut ahead: Vec<BytesMut> = vec![BytesMut::new(); conns.len()];
    let mut open = vec![false; conns.len()];
    conns.iter_mut().for_each(|conn| conn.whole_rows = true);
    loop {
        for at in 0..conns.len() {
            // The first one describes the rows. Nothing comes between the parts of a long row.
            let barred = (at > 0 && !open[0]) || in_part(conns, &open).is_some();
            if open[at] || barred {
                continue;
            }
            open[at] = fits(conns[at], &mut events[at], agreed);
            if open[at] {
                io.out.extend_from_slice(&ahead[at].split());
            } else if events[at].differs {
                ahead[at].clear();
            }
        }
        if io.out.len() >= OUT_HIGH_BYTES {
            io.flush().await.map_err(|error| (0, StepError::Client(error)))?;
        }
        if conns.iter().all(|conn| conn.is_quiet()) {
            return Ok(());
        }
        poll_fn(|cx| {
            let mut progress = false;
            for at in 0..conns.len() {
                let waits = match in_part(conns, &open) {
                    Some(other) => open[at] && other != at,
                    None => false,
                };
                if conns[at].is_quiet() || waits || (!open[at] && ahead[at].len() >= AHEAD_BYTES) {
                    continue;
                }
                let out = if open[at] { &mut io.out } else { &mut ahead[at] };
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
}

/// The conn of whose row the application has been given a part.
fn in_part(conns: &[&mut Conn], open: &[bool]) -> Option<usize> {
    (0..conns.len()).find(|&at| open[at] && conns[at].shows_part())
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
