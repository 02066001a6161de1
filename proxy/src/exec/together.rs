//! Several conns at the same time, their answers one after the other, or their rows as they come.
//!
//! Invariant: rows of a conn reach the application only where their columns are those of the first conn's rows, which the application
//! has been told of.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;

use crate::backend::conn::{Conn, Events};
use crate::backend::owed::Show;
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
        self.drive_as(order, Way { mixed: false, to_error: false }).await
    }

    /// Runs all shares to their end; the first error ends the others. `mixed`: their rows come in any order.
    pub(super) async fn drive_to_error(
        &mut self,
        order: &[usize],
        mixed: bool,
    ) -> Result<Vec<Events>, Failure> {
        self.drive_as(order, Way { mixed, to_error: order.len() > 1 }).await
    }

    async fn drive_as(&mut self, order: &[usize], way: Way) -> Result<Vec<Events>, Failure> {
        let mut events: Vec<Events> = Vec::new();
        events.resize_with(order.len(), || self.events.beside());
        let agreed = self.events.agreed.clone();
        let ran = {
            let (io, mut conns) = self.conns_in(order);
            let mut all = Together::new(io, &mut conns, &mut events, agreed.as_ref());
            if way.mixed { all.run_mixed(way.to_error).await } else { all.run(way.to_error).await }
        };
        if let Some(failed) = ran.map_err(|(turn, error)| self.lose(order[turn], error))? {
            let description = self.stop_others(order, &mut events, Some(failed)).await?;
            self.io.out.extend_from_slice(&description);
        }
        self.after_shares(order, &mut events);
        Ok(events)
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

/// How conns run at the same time.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Their rows come in any order.
    mixed: bool,
    /// Only until one of them reports an error.
    to_error: bool,
}

/// Conns that run at the same time, and what has come of them.
struct Together<'a, 'c> {
    io: &'a mut ClientIo,
    conns: &'a mut [&'c mut Conn],
    events: &'a mut [Events],
    /// What the rows must be, or are from the first conn on.
    agreed: Option<&'a Agreed>,
    /// Whose answer is passed on; that of the others is kept back.
    open: Vec<bool>,
    ahead: Vec<BytesMut>,
}

impl<'a, 'c> Together<'a, 'c> {
    fn new(
        io: &'a mut ClientIo,
        conns: &'a mut [&'c mut Conn],
        events: &'a mut [Events],
        agreed: Option<&'a Agreed>,
    ) -> Self {
        let (open, ahead) = (vec![false; conns.len()], vec![BytesMut::new(); conns.len()]);
        Self { io, conns, events, agreed, open, ahead }
    }

    /// Runs the conns to their end, answers in order. `to_error`: or until one of them has failed; which, if others still run then.
    /// On failure: whose.
    async fn run(&mut self, to_error: bool) -> Result<Option<usize>, (usize, StepError)> {
        for turn in 0..self.conns.len() {
            loop {
                self.open(turn);
                if let Some(failed) = self.failed(to_error) {
                    return self.break_off(failed).await;
                }
                if self.conns[turn].is_quiet() {
                    break;
                }
                self.step(turn).await?;
                self.flush(turn).await?;
            }
        }
        Ok(None)
    }

    /// As [`Self::run`], but rows are passed on as they come, whoever has them: no shard waits for the application to have taken those
    /// of the others.
    async fn run_mixed(&mut self, to_error: bool) -> Result<Option<usize>, (usize, StepError)> {
        self.conns.iter_mut().for_each(|conn| conn.whole_rows = true);
        loop {
            if let Some(failed) = self.failed(to_error) {
                return self.break_off(failed).await;
            }
            for at in 0..self.conns.len() {
                // The first one describes the rows. Nothing comes between the parts of a long row.
                if (at == 0 || self.open[0]) && self.in_part().is_none() {
                    self.open(at);
                }
            }
            self.flush(0).await?;
            if self.conns.iter().all(|conn| conn.is_quiet()) {
                return Ok(None);
            }
            self.step(0).await?;
        }
    }

    /// The first conn that has reported an error.
    fn failed(&self, to_error: bool) -> Option<usize> {
        to_error.then(|| self.events.iter().position(|events| events.error.is_some())).flatten()
    }

    /// What has been passed on ends with a whole message, the first conn's error among them if it is that which has failed.
    async fn break_off(&mut self, failed: usize) -> Result<Option<usize>, (usize, StepError)> {
        if failed == 0 {
            self.open(0);
        }
        self.conns.iter_mut().for_each(|conn| conn.hide_but(Show::DESCRIPTION));
        while let Some(at) = self.in_part() {
            self.step(at).await?;
            self.flush(at).await?;
        }
        Ok(Some(failed))
    }

    /// Has the answer of a conn passed on, as soon as it is known to fit.
    fn open(&mut self, at: usize) {
        if self.open[at] {
            return;
        }
        self.open[at] = fits(self.conns[at], &mut self.events[at], self.agreed);
        if self.open[at] {
            self.io.out.extend_from_slice(&self.ahead[at].split());
        } else if self.events[at].differs {
            self.ahead[at].clear();
        }
    }

    /// The conn of whose row the application has been given a part.
    fn in_part(&self) -> Option<usize> {
        (0..self.conns.len()).find(|&at| self.open[at] && self.conns[at].shows_part())
    }

    /// Waits until one of the conns from `from` on has gone on.
    async fn step(&mut self, from: usize) -> Result<(), (usize, StepError)> {
        poll_fn(|cx| {
            let mut progress = false;
            for at in from..self.conns.len() {
                let open = self.open[at];
                let waits = open && self.in_part().is_some_and(|other| other != at);
                if self.conns[at].is_quiet() || waits || (!open && self.ahead[at].len() >= AHEAD_BYTES) {
                    continue;
                }
                let out = if open { &mut self.io.out } else { &mut self.ahead[at] };
                match self.conns[at].poll_step(cx, out, &mut self.events[at]) {
                    // Nothing of the others comes behind it.
                    Poll::Ready(Ok(())) if self.events[at].error.is_some() => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err((at, StepError::Backend(error)))),
                    Poll::Pending => {}
                }
            }
            if progress {
                return Poll::Ready(Ok(()));
            }
            self.io.poll_hangup(cx).map_err(|error| (from, error))
        })
        .await
    }

    /// Writes out what has come up to now, if it is much.
    async fn flush(&mut self, turn: usize) -> Result<(), (usize, StepError)> {
        if self.io.out.len() >= OUT_HIGH_BYTES {
            self.io.flush().await.map_err(|error| (turn, StepError::Client(error)))?;
        }
        Ok(())
    }
}

/// Whether the answer of a conn may be passed on or merged: its rows have been described, and are what they must be.
pub(super) fn fits(conn: &Conn, events: &mut Events, agreed: Option<&Agreed>) -> bool {
    let Some(agreed) = agreed else { return true };
    match events.agreed.as_ref().and_then(|own| own.get()) {
        Some(own) => {
            events.differs |= !agreed.get_or_init(|| own.clone()).same_rows(own);
            !events.differs
        }
        // Behind an error there is none.
        None => events.error.is_some() || !conn.awaits_description(),
    }
}
