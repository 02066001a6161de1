//! Several conns at the same time, their rows merged.
//!
//! Invariants: a conn is not read while more of it waits than [`Merger`] keeps, nor while the application does not take what it is
//! given; rows are passed on only while no conn has failed, and only where their columns are those of all others; whatever
//! happens, every conn is read to its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};

use super::ask::{Ask, Form};
use super::bind;
use super::merge::Merge;
use super::together::fits;
use crate::backend::conn::{Conn, Events};
use crate::backend::shape::Agreed;
use crate::frontend::failure::Failure;
use crate::frontend::io::{ClientIo, OUT_HIGH_BYTES, StepError};
use crate::frontend::session::Session;
use crate::gather::merge::{Broken, Merger, Step};
use crate::route::plan::{Gather, Target};
use crate::sql::facts::{Access, Command};
use crate::wire::sqlstate;

/// How a merge has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merged {
    /// So many rows were passed on, and every conn is quiet.
    Rows(u64),
    /// This conn has failed; others may still be at work.
    Failed(usize),
    /// The rows of this kind cannot be merged.
    Broken(Broken),
}

/// Runs the conns, merging their rows, until all are quiet or one fails. `agreed`: what the rows are from the first of them on.
/// On failure: whose.
pub(super) async fn run_merged(
    io: &mut ClientIo,
    conns: &mut [&mut Conn],
    events: &mut [Events],
    (agreed, merger): (Option<&Agreed>, &mut Merger),
) -> Result<Merged, (usize, StepError)> {
    let mut opened = vec![false; conns.len()];
    loop {
        for at in 0..conns.len() {
            if !opened[at] && fits(conns[at], &mut events[at], agreed) {
                opened[at] = true;
                merger.open(at);
            }
            if conns[at].is_quiet() {
                merger.end(at);
            }
        }
        let failed = |events: &Events| events.error.is_some() || events.changed || events.differs;
        if let Some(at) = events.iter().position(failed) {
            return Ok(Merged::Failed(at));
        }
        match merger.step(&mut io.out, OUT_HIGH_BYTES) {
            Err(broken) => return Ok(Merged::Broken(broken)),
            Ok(Step::Full) => {
                io.flush().await.map_err(|error| (0, StepError::Client(error)))?;
                continue;
            }
            Ok(Step::Over) if conns.iter().all(|conn| conn.is_quiet()) => {
                return Ok(Merged::Rows(merger.rows()));
            }
            Ok(Step::Over | Step::Starved | Step::Paused) => {}
        }
        read_on(io, conns, events, merger).await?;
    }
}

/// Reads conns of which there is not enough, until one of them has made progress.
async fn read_on(
    io: &mut ClientIo,
    conns: &mut [&mut Conn],
    events: &mut [Events],
    merger: &mut Merger,
) -> Result<(), (usize, StepError)> {
    poll_fn(|cx| {
        let mut progress = false;
        for at in 0..conns.len() {
            if conns[at].is_quiet() || !merger.wants(at) {
                continue;
            }
            match conns[at].poll_step(cx, merger.ahead(at), &mut events[at]) {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err((at, StepError::Backend(error)))),
                Poll::Pending => {}
            }
        }
        if progress {
            return Poll::Ready(Ok(()));
        }
        io.poll_hangup(cx).map_err(|error| (0, error))
    })
    .await
}

/// The formats that results are asked for in, and Bind's body after the names with those of the columns that are not the
/// application's.
pub(super) fn with_hidden(rest: &Bytes, hidden: u16) -> (Vec<i16>, Bytes) {
    let mut formats = bind::result_formats(rest).unwrap_or_default();
    if hidden == 0 || formats.len() < 2 {
        return (formats, rest.clone());
    }
    let sent = bind::result_formats_as_sent(rest).len();
    let mut out = BytesMut::from(&rest[..rest.len() - sent]);
    formats.extend(std::iter::repeat_n(1, usize::from(hidden)));
    out.put_u16(formats.len() as u16);
    formats.iter().for_each(|format| out.put_i16(*format));
    (formats, out.freeze())
}

impl Ask {
    /// How the rows are merged, if they are.
    fn gather(&self) -> Option<&Arc<Gather>> {
        match &self.plan.target {
            Target::Gather(_, gather) => Some(gather),
            _ => None,
        }
    }

    /// Whether rows of any share may come at any time: a query says nothing of their order.
    fn mixes(&self) -> bool {
        matches!((&self.plan.target, &self.facts.command), (Target::Concat(_), Command::Query))
            && self.facts.access == Access::Read
            && !self.is_limited()
    }

    /// A merger of the rows of so many shares.
    fn merger(&self, shares: usize) -> Option<Merger> {
        let gather = self.gather()?;
        let formats = match &self.form {
            Form::Query => Vec::new(),
            Form::Execute { bind, .. } => with_hidden(bind, gather.hidden).0,
        };
        Some(Merger::new(Arc::clone(gather), formats, shares))
    }
}

impl Session {
    /// Runs these shares to their end, and notes how many rows were merged, if they are.
    pub(super) async fn drive_shares(
        &mut self,
        ask: &Ask,
        merge: &mut Merge,
        order: &[usize],
    ) -> Result<Vec<Events>, Failure> {
        match ask.merger(order.len()).filter(|_| matches!(merge, Merge::Gathered(_))) {
            Some(mut merger) => {
                let (events, rows) = self.drive_merged(order, &mut merger).await?;
                *merge = Merge::Gathered(rows);
                Ok(events)
            }
            None => self.drive_to_error(order, ask.mixes() && *merge == Merge::Concat).await,
        }
    }

    /// Runs all shares to their end, passing their rows on as one answer's. How many rows there were.
    async fn drive_merged(
        &mut self,
        order: &[usize],
        merger: &mut Merger,
    ) -> Result<(Vec<Events>, u64), Failure> {
        let mut events: Vec<Events> = Vec::new();
        events.resize_with(order.len(), || self.events.beside());
        let agreed = self.events.agreed.clone();
        let merged = {
            let (io, mut conns) = self.conns_in(order);
            run_merged(io, &mut conns, &mut events, (agreed.as_ref(), merger)).await
        };
        let merged = merged.map_err(|(turn, error)| self.lose(order[turn], error))?;
        let rows = match merged {
            Merged::Rows(rows) => rows,
            Merged::Failed(_) | Merged::Broken(_) => {
                let first = if let Merged::Failed(first) = merged { Some(first) } else { None };
                let description = self.stop_others(order, &mut events, first).await?;
                merger.ahead(0).extend_from_slice(&description);
                merger.stop(&mut self.io.out);
                merger.rows()
            }
        };
        self.after_shares(order, &mut events);
        if let Merged::Broken(broken) = merged {
            return Err(broken_rows(broken));
        }
        Ok((events, rows))
    }
}

/// What the application is told of rows that cannot be merged.
pub(super) fn broken_rows(broken: Broken) -> Failure {
    let sqlstate = match broken {
        Broken::Overflow => sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
        Broken::Unreadable(_) | Broken::Columns | Broken::Order => sqlstate::INTERNAL_ERROR,
    };
    Failure::error(sqlstate, broken.to_string())
}
