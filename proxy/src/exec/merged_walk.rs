//! Merged rows of several shards, so many at a time: portals with a row limit, and cursors of DECLARE.
//!
//! Every shard has a portal or cursor of its own, and is asked for some rows when those that it gave last are used up. What has come and
//! is not wanted yet is kept: of each shard [`BATCH_ROWS`] at most.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use router_config::topology::ShardId;

use super::ask::{Ask, Form, Share};
use super::cursors::{Part, count_of};
use super::gather::{broken_rows, with_hidden};
use super::spread::queue_shape;
use super::walk::Walk;
use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::backend::shape::Agreed;
use crate::frontend::failure::Failure;
use crate::frontend::io::{ClientIo, OUT_HIGH_BYTES, StepError};
use crate::frontend::session::Session;
use crate::gather::merge::{Merger, Step};
use crate::gather::row;
use crate::route::plan::Gather;
use crate::sql::spelling::quote_ident;
use crate::wire::backend::tag as backend_tag;
use crate::wire::frame::HEADER;
use crate::wire::{frontend, reply, sqlstate};

/// Rows that a shard is asked for at a time.
const BATCH_ROWS: u64 = 128;

/// A merge that goes on from one request to the next.
#[derive(Debug, Clone)]
pub(super) struct Strands {
    gather: Arc<Gather>,
    /// `None` until it has begun, and while it runs.
    state: Arc<Mutex<Option<State>>>,
}

/// How far a merge has come.
#[derive(Debug)]
struct State {
    merger: Merger,
    /// What each shard was sent.
    shares: Vec<Share>,
    /// The shards have their portals.
    bound: bool,
    /// Rows that a shard is asked for at a time.
    batch: u64,
    /// The description of the rows of a cursor, whole.
    description: Option<Bytes>,
}

/// What the rows come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Portal(&'a Part<'a>),
    Cursor(Fetched<'a>),
}

/// What FETCH or MOVE says of a cursor.
#[derive(Clone, Copy)]
struct Fetched<'a> {
    name: &'a str,
    form: &'a Form,
    /// The rows are passed over.
    moves: bool,
}

impl Strands {
    pub(super) fn new(gather: &Arc<Gather>) -> Self {
        Self { gather: Arc::clone(gather), state: Arc::default() }
    }

    /// Columns at the end of the rows that are not the application's.
    pub(super) fn hidden(&self) -> u16 {
        self.gather.hidden
    }

    fn take(&self) -> Option<State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    fn begin(&self, shards: &[ShardId], text: &Bytes, formats: Vec<i16>) -> State {
        let share = |shard: &ShardId| Share::new(*shard, text.clone()).merged(&self.gather);
        State {
            merger: Merger::new(Arc::clone(&self.gather), formats, shards.len()),
            shares: shards.iter().map(share).collect(),
            bound: false,
            batch: 1,
            description: None,
        }
    }
}

impl Session {
    /// Reads a portal on, so many rows at most; how many there were. `None` after an error, which has been told.
    pub(super) async fn merge_portal_on(
        &mut self,
        (walk, strands): (&Walk, &Strands),
        part: &mut Part<'_>,
        limit: Option<u64>,
    ) -> Result<Option<u64>, Failure> {
        if part.describe {
            self.describe_walk(part.statement, part.bind, walk).await?;
            part.describe = false;
        }
        let mut state = match strands.take() {
            Some(state) => state,
            None => {
                let (formats, _) = with_hidden(part.bind, strands.gather.hidden);
                let text = &part.statement.shared.text;
                let mut state = strands.begin(&walk.shards, text, formats);
                if let Some(facts) = part.statement.facts() {
                    self.read_clocks(&facts.clone(), &mut state.shares).await?;
                }
                state
            }
        };
        state.batch = batch(limit);
        let ran = self.merge_on(&mut state, Source::Portal(part), (&walk.agreed, limit)).await;
        strands.put(state);
        ran
    }

    /// FETCH or MOVE of a cursor, so many rows at most; likewise.
    pub(super) async fn merge_cursor_on(
        &mut self,
        (walk, strands): (&Walk, &Strands),
        (name, ask, moves): (&str, &Ask, bool),
        limit: Option<u64>,
    ) -> Result<Option<u64>, Failure> {
        let formats = match &ask.form {
            Form::Query => Vec::new(),
            Form::Execute { bind, .. } => with_hidden(bind, strands.gather.hidden).0,
        };
        let mut state =
            strands.take().unwrap_or_else(|| strands.begin(&walk.shards, &Bytes::new(), formats.clone()));
        if state.merger.formats() != formats {
            strands.put(state);
            return Err(Failure::unsupported(
                "rows of a cursor over several shards cannot be fetched in another format than before",
                "Use one protocol, and the same result formats, for all of them.",
            ));
        }
        let form = ask.form.unlimited();
        let fetched = Fetched { name, form: &form, moves };
        let ran = self.merge_cursor(&mut state, fetched, (&walk.agreed, limit)).await;
        strands.put(state);
        ran
    }

    async fn merge_cursor(
        &mut self,
        state: &mut State,
        fetched: Fetched<'_>,
        (agreed, limit): (&Agreed, Option<u64>),
    ) -> Result<Option<u64>, Failure> {
        state.batch = batch(limit);
        // Nothing is passed on before the rows have been described.
        if self.merge_on(state, Source::Cursor(fetched), (agreed, Some(0))).await?.is_none() {
            return Ok(None);
        }
        let described = match fetched.form {
            Form::Execute { describe, .. } => *describe,
            Form::Query => true,
        };
        if fetched.moves && described && matches!(fetched.form, Form::Execute { .. }) {
            reply::bare(&mut self.io.out, backend_tag::NO_DATA);
        }
        if let (Some(frame), true) = (&state.description, described && !fetched.moves) {
            let hidden = state.shares.first().map_or(0, |share| share.hidden);
            let told = row::put_description(&mut self.io.out, &frame[HEADER..], hidden);
            told.ok_or_else(undescribed)?;
        }
        self.merge_on(state, Source::Cursor(fetched), (agreed, limit)).await
    }

    async fn merge_on(
        &mut self,
        state: &mut State,
        source: Source<'_>,
        (agreed, limit): (&Agreed, Option<u64>),
    ) -> Result<Option<u64>, Failure> {
        let before = state.merger.rows();
        state.merger.pause_after(limit);
        (0..state.shares.len()).for_each(|lane| state.merger.open(lane));
        let skips = match source {
            Source::Portal(part) => part.moves,
            Source::Cursor(fetched) => fetched.moves,
        };
        loop {
            let start = self.io.out.len();
            let step = state.merger.step(&mut self.io.out, OUT_HIGH_BYTES);
            if skips {
                self.io.out.truncate(start);
            }
            match step {
                Err(broken) => return Err(broken_rows(broken)),
                Ok(Step::Paused | Step::Over) => return Ok(Some(state.merger.rows() - before)),
                Ok(Step::Full) => self.io.flush().await?,
                Ok(Step::Starved) => {
                    if !self.refill(state, source, agreed).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Asks the shards that have none left for more rows; whether that has succeeded. If not, the application has been told why.
    async fn refill(
        &mut self,
        state: &mut State,
        source: Source<'_>,
        agreed: &Agreed,
    ) -> Result<bool, Failure> {
        let lanes = state.merger.waiting().to_vec();
        let shards: Vec<ShardId> = lanes.iter().map(|lane| state.shares[*lane].shard).collect();
        let order = Box::pin(self.acquire_all(shards.iter().copied(), false)).await?;
        for (at, lane) in order.iter().zip(&lanes) {
            let lease = &mut self.held[*at];
            lease.lease.capture = lease.asks_lsn.is_some();
            self.queue_lane((*at, *lane), state, source)?;
        }
        state.bound = true;
        let mut events: Vec<Events> = Vec::new();
        events.resize_with(order.len(), || Events {
            agreed: Some(Agreed::clone(agreed)),
            ..self.events.beside()
        });
        let ran = {
            let (io, mut conns) = self.conns_in(&order);
            run_lanes(io, &mut conns, &mut events, (&lanes, &mut state.merger)).await
        };
        ran.map_err(|(turn, error)| self.lose(order[turn], error))?;
        self.after_shares(&order, &mut events);
        for at in &order {
            // Whatever was parsed on the way has no name.
            self.held[*at].unnamed = None;
        }
        if let Some(frame) = events.iter_mut().find_map(|events| events.error.take()) {
            self.io.out.extend_from_slice(&frame);
            self.events.error.get_or_insert(frame);
            self.doom();
            return Ok(false);
        }
        self.check_rows(&events, false)?;
        for (lane, events) in lanes.iter().zip(&mut events) {
            self.events.parameters.append(&mut events.parameters);
            let described = events
                .descriptions
                .drain(..)
                .find(|frame| frame.first() == Some(&backend_tag::ROW_DESCRIPTION));
            state.description = state.description.take().or(described);
            let ended = match (source, &events.last_tag) {
                (Source::Portal(_), tag) => tag.is_some(),
                (Source::Cursor(..), tag) => tag.as_ref().is_none_or(|tag| count_of(tag) < state.batch),
            };
            if ended {
                state.merger.end(*lane);
            }
        }
        Ok(true)
    }

    fn queue_lane(
        &mut self,
        (at, lane): (usize, usize),
        state: &State,
        source: Source<'_>,
    ) -> Result<(), Failure> {
        let (share, wanted) = (&state.shares[lane], state.batch);
        let part = match source {
            Source::Cursor(Fetched { name, form, .. }) => {
                let text = format!("FETCH FORWARD {wanted} FROM {}", quote_ident(name));
                let share = Share { hidden: share.hidden, ..Share::new(share.shard, Bytes::from(text)) };
                return self.queue_share(at, &share, form, Show::ROWS.and(Show::COMPARED));
            }
            Source::Portal(part) => part,
        };
        let conn = &mut *self.held[at].lease;
        let name = format!("gavel_portal_{}", part.id);
        if !state.bound {
            let types = part.statement.type_bytes();
            let types = conn.own_types(&types)?;
            reply::parse(&mut conn.write, b"", &share.text, &types);
            conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
            queue_shape(conn, part.statement, share.text == part.statement.shared.text, share.hidden);
            let (_, rest) = with_hidden(part.bind, share.hidden);
            reply::bind(&mut conn.write, name.as_bytes(), b"", &rest);
            conn.owe(Owed::Bind(Show::NOTHING));
            if !part.statement.must_stay() {
                reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, name.as_bytes());
                conn.owe(Owed::Describe(Show::COMPARED));
            }
        }
        reply::execute(&mut conn.write, name.as_bytes(), wanted as i32);
        conn.owe(Owed::Execute(Show::ROWS));
        conn.sync(Show::NOTHING);
        Ok(())
    }
}

fn batch(limit: Option<u64>) -> u64 {
    limit.map_or(BATCH_ROWS, |limit| limit.clamp(1, BATCH_ROWS))
}

/// Runs conns until all are quiet; their rows go to their streams.
async fn run_lanes(
    io: &mut ClientIo,
    conns: &mut [&mut Conn],
    events: &mut [Events],
    (lanes, merger): (&[usize], &mut Merger),
) -> Result<(), (usize, StepError)> {
    // What a stream cannot take any more is dropped.
    let mut nobody = BytesMut::new();
    while !conns.iter().all(|conn| conn.is_quiet()) {
        poll_fn(|cx| {
            let mut progress = false;
            for turn in 0..conns.len() {
                if conns[turn].is_quiet() {
                    continue;
                }
                nobody.clear();
                let out = if merger.is_over() { &mut nobody } else { merger.ahead(lanes[turn]) };
                match conns[turn].poll_step(cx, out, &mut events[turn]) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err((turn, StepError::Backend(error)))),
                    Poll::Pending => {}
                }
            }
            if progress { Poll::Ready(Ok(())) } else { io.poll_hangup(cx).map_err(|error| (0, error)) }
        })
        .await?;
    }
    Ok(())
}

/// A description that is none.
pub(super) fn undescribed() -> Failure {
    Failure::error(sqlstate::INTERNAL_ERROR, "a shard has not described its rows")
}
