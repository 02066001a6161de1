//! Rows of several shards on their way into the temporary tables of one conn, in bounded memory: a shard that is ahead of the others,
//! or of the conn, is made to wait.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use super::{text, tuples};
use crate::backend::conn::{Conn, ConnError, Events};
use crate::backend::owed::{Owed, Show};
use crate::frontend::io::{ClientIo, StepError};
use crate::route::combine::{Combine, Gathered};
use crate::wire::frame::{self, HEADER};
use crate::wire::frontend::tag;
use crate::wire::reply;

/// Bytes of a shard's rows that are read before the conn has taken them.
const AHEAD_BYTES: usize = 256 << 10;

/// Bytes that wait for the conn before no more rows are handed to it.
const WRITE_HIGH_BYTES: usize = 256 << 10;

/// A shard that delivers.
pub(super) struct Supply<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) events: Events,
    /// Numbers of the tables that it delivers, in this order.
    pub(super) tables: Vec<usize>,
    rows: BytesMut,
}

impl<'a> Supply<'a> {
    pub(super) fn new(conn: &'a mut Conn, events: Events, tables: Vec<usize>) -> Self {
        Self { conn, events, tables, rows: BytesMut::new() }
    }

    /// Whether no row of table `number` is to come any more.
    fn is_through(&self, number: usize) -> bool {
        let several = self.tables.len() > 1;
        match self.front() {
            None => self.conn.is_quiet(),
            Some(body) => several && tuples::number(body) != Some(number),
        }
    }

    /// The body of the first row that has come whole.
    fn front(&self) -> Option<&[u8]> {
        let header = frame::header(&self.rows, usize::MAX).ok().flatten()?;
        self.rows.get(HEADER..header.len)
    }
}

/// Where the rows go.
pub(super) struct Drain<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) events: Events,
    /// Bytes that may be gathered.
    pub(super) limit: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All rows are in their tables.
    Done,
    /// Somebody has reported an error.
    Failed,
    /// There are more of them than may be gathered.
    TooMany,
}

/// Whose conn failed: a shard's, by its place among the supplies, or (`None`) the one where the rows go.
pub(super) type Whose = Option<usize>;

/// Brings all rows into their tables. The supplies' queries have been queued; they are read to their end if nothing goes wrong.
pub(super) async fn run(
    io: &mut ClientIo,
    supplies: &mut [Supply<'_>],
    drain: &mut Drain<'_>,
    combine: &Combine,
) -> Result<Outcome, (Whose, StepError)> {
    let mut gathered = 0;
    let mut outcome = Outcome::Done;
    for (number, table) in combine.tables.iter().enumerate() {
        reply::query(&mut drain.conn.write, text::copy(table).as_bytes());
        drain.conn.owe(Owed::Query(Show::NOTHING));
        tuples::begin(table.binary, &mut drain.conn.write);
        loop {
            gathered += hand_over(supplies, drain, (number, table)).map_err(|at| (Some(at), malformed()))?;
            outcome = judge(supplies, drain, gathered);
            if outcome != Outcome::Done {
                return Ok(outcome);
            }
            let through = |supply: &Supply<'_>| !supply.tables.contains(&number) || supply.is_through(number);
            if supplies.iter().all(through) {
                break;
            }
            poll_fn(|cx| step(io, supplies, drain, cx)).await?;
        }
        tuples::end(table.binary, &mut drain.conn.write);
        reply::bare(&mut drain.conn.write, tag::COPY_DONE);
    }
    if let Some(keys) = text::keys(combine) {
        reply::query(&mut drain.conn.write, keys.as_bytes());
        drain.conn.owe(Owed::Query(Show::NOTHING));
    }
    while outcome == Outcome::Done && !(drain.conn.is_quiet() && supplies.iter().all(|s| s.conn.is_quiet())) {
        poll_fn(|cx| step(io, supplies, drain, cx)).await?;
        outcome = judge(supplies, drain, gathered);
    }
    Ok(outcome)
}

fn judge(supplies: &[Supply<'_>], drain: &Drain<'_>, gathered: usize) -> Outcome {
    let failed = drain.events.error.is_some() || supplies.iter().any(|supply| supply.events.error.is_some());
    match failed {
        true => Outcome::Failed,
        false if gathered > drain.limit => Outcome::TooMany,
        false => Outcome::Done,
    }
}

/// Moves rows of a table that have come to the conn's output, as far as there is room, in one frame; how many bytes.
fn hand_over(
    supplies: &mut [Supply<'_>],
    drain: &mut Drain<'_>,
    (number, table): (usize, &Gathered),
) -> Result<usize, usize> {
    let out = &mut drain.conn.write;
    let start = out.len();
    let mut moved = Ok(());
    reply::frame(out, tag::COPY_DATA, |out| moved = put_rows(supplies, (number, table), out));
    moved?;
    let bytes = out.len() - start - HEADER;
    if bytes == 0 {
        out.truncate(start);
    }
    Ok(bytes)
}

fn put_rows(
    supplies: &mut [Supply<'_>],
    (number, table): (usize, &Gathered),
    out: &mut BytesMut,
) -> Result<(), usize> {
    for (at, supply) in supplies.iter_mut().enumerate() {
        let several = supply.tables.len() > 1;
        if !supply.tables.contains(&number) {
            continue;
        }
        while out.len() < WRITE_HIGH_BYTES {
            let Some(body) = supply.front() else { break };
            let length = HEADER + body.len();
            let made = if !several {
                tuples::row(body, table.binary, out)
            } else if tuples::number(body) == Some(number) {
                tuples::record(body, table.binary, out)
            } else {
                break;
            };
            made.ok_or(at)?;
            supply.rows.advance(length);
        }
    }
    Ok(())
}

fn malformed() -> StepError {
    StepError::Backend(ConnError::Protocol("a row that is not what was asked for".to_owned()))
}

/// One step of whoever can make one.
fn step(
    io: &mut ClientIo,
    supplies: &mut [Supply<'_>],
    drain: &mut Drain<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), (Whose, StepError)>> {
    let mut progress = false;
    if !drain.conn.is_quiet() {
        let mut nothing = BytesMut::new();
        match drain.conn.poll_step(cx, &mut nothing, &mut drain.events) {
            Poll::Ready(Ok(())) => progress = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err((None, StepError::Backend(error)))),
            Poll::Pending => {}
        }
    }
    for (at, supply) in supplies.iter_mut().enumerate() {
        // A row that is longer than that is read whole.
        let ahead = supply.rows.len() >= AHEAD_BYTES && supply.front().is_some();
        if supply.conn.is_quiet() || ahead {
            continue;
        }
        match supply.conn.poll_step(cx, &mut supply.rows, &mut supply.events) {
            Poll::Ready(Ok(())) => progress = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err((Some(at), StepError::Backend(error)))),
            Poll::Pending => {}
        }
    }
    if progress {
        return Poll::Ready(Ok(()));
    }
    io.poll_hangup(cx).map_err(|error| (None, error))
}
