//! Queries that are no merge of the shards' answers: the rows that they need are gathered in temporary tables of one conn, and
//! PostgreSQL computes the answer there.
//!
//! The conn is one to the home shard's primary, of a pool of its own: whoever waits for it holds conns of shards, and whoever has it
//! waits for no other. What describes the answer, and whatever is wrong with the query itself, comes from a shard, which reads it as
//! the application has written it. Each shard delivers the rows of all its tables out of one snapshot: its statement's, or the
//! transaction's.
//!
//! Invariant: what is gathered never outlives the statement; the conn is in no transaction when it goes back to its pool.

mod flow;
pub mod kept;
mod text;
mod tuples;

use std::sync::Arc;

use bytes::Bytes;
use router_config::topology::ShardId;

pub(super) use self::tuples::escape;

use self::flow::{Drain, Outcome, Supply};
use self::kept::Kept;
use super::ask::{Ask, Form};
use super::bind::{self, Rebound};
use super::spread::queue_shape;
use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::frontend::failure::Failure;
use crate::frontend::names::Cursor;
use crate::frontend::session::{Held, Session};
use crate::frontend::settle::note_lsn;
use crate::frontend::watch::Why;
use crate::route::clocks;
use crate::route::combine::{Combine, Gathered};
use crate::route::refusal::Refusal;
use crate::sql::facts::{Command, Facts};
use crate::wire::{frontend, reply, sqlstate};

/// The end of a Bind: results in binary format.
const BINARY: &[u8] = b"\0\x01\0\x01";

/// A Bind after its names: no parameters, results in binary format.
const BINARY_RESULTS: &[u8] = b"\0\0\0\0\0\x01\0\x01";

/// A Bind after its names: no parameters, results in text format.
const TEXT_RESULTS: &[u8] = b"\0\0\0\0\0\0";

/// Name of the portal of a statement of the proxy's own.
const ASIDE: &[u8] = b"gavel_aside";

impl Session {
    /// Answers a query out of rows that are gathered in one place.
    pub(super) async fn combine(&mut self, ask: Ask, combine: &Combine) -> Result<(), Failure> {
        self.check_needs_block(&ask.facts.command)?;
        let shards = combine.shards();
        let order = self.acquire_all(shards.iter().copied(), ask.plan.replica).await?;
        for at in &order {
            self.note_shard(Why::of(&ask.plan), *at);
        }
        self.expect(&unpinned(&ask.facts), &ask.text, None);
        let Some(first) = order.first().copied() else {
            return Err(Failure::error(
                sqlstate::INTERNAL_ERROR,
                "a query that needs no shard was to be combined",
            ));
        };
        self.describe_whole(&ask, first).await?;
        if std::mem::take(&mut self.events.changed) {
            return Err(Failure::changed_plan());
        }
        if self.events.error.is_some() {
            return Ok(());
        }
        let text = self.combined_text(&ask, combine).await?;
        let mut combiner = self.lease_combiner().await?;
        reply::query(&mut combiner.lease.write, text::setup(combine).as_bytes());
        combiner.lease.owe(Owed::Query(Show::NOTHING));
        if self.gather((&ask, combine), &order, &mut combiner).await? {
            self.answer_of(&ask, &text, &mut combiner).await?;
        }
        self.keep_or_leave(&ask, combiner).await
    }

    /// A cursor or portal that is read on keeps its conn, else it is left.
    async fn keep_or_leave(&mut self, ask: &Ask, combiner: Held) -> Result<(), Failure> {
        if self.events.error.is_some() {
            self.doom();
            self.leave_combiner(combiner);
            return Ok(());
        }
        match &ask.facts.command {
            Command::Declare { name, hold } => {
                self.kept.push(Kept::cursor(combiner, name, *hold));
                self.note_declared(name, Cursor::Combined { hold: *hold });
                if self.block.is_none() { self.hold_kept().await } else { Ok(()) }
            }
            Command::Query if ask.is_limited() && self.events.last_tag.is_none() => {
                self.kept.push(Kept::portal(combiner));
                Ok(())
            }
            _ => {
                self.leave_combiner(combiner);
                Ok(())
            }
        }
    }

    /// Has a shard read the query and describe its answer: that, or an error, is the application's.
    async fn describe_whole(&mut self, ask: &Ask, at: usize) -> Result<(), Failure> {
        if !matches!(ask.facts.command, Command::Query) {
            return Ok(());
        }
        let held = &mut self.held[at];
        held.unnamed = None;
        let conn = &mut *held.lease;
        let described = match &ask.form {
            Form::Query => {
                reply::parse(&mut conn.write, b"", &ask.text, &[]);
                conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
                reply::bind(&mut conn.write, b"", b"", TEXT_RESULTS);
                true
            }
            Form::Execute { statement, bind, describe, .. } => {
                let types = conn.own_types(&statement.type_bytes())?.into_owned();
                reply::parse(&mut conn.write, b"", &ask.text, &types);
                conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
                queue_shape(conn, statement, true, 0);
                reply::bind(&mut conn.write, b"", b"", bind);
                *describe
            }
        };
        conn.owe(Owed::Bind(Show::ERRORS));
        if described {
            reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, b"");
            conn.owe(Owed::Describe(Show::DESCRIPTION.and(Show::ERRORS)));
        }
        conn.sync(Show::NOTHING);
        self.run(at).await
    }

    /// The query as it runs on the combining conn: inside of a transaction its clocks have stood still since that began.
    async fn combined_text(&mut self, ask: &Ask, combine: &Combine) -> Result<Bytes, Failure> {
        let conforming = self.text_rules().standard_strings;
        let text = Bytes::copy_from_slice(combine.text.as_bytes());
        if ask.facts.unrepeatable.is_none() || !clocks::any(&text, conforming) {
            return Ok(text);
        }
        let Some(at) = self.held.iter().position(|held| held.enlisted) else { return Ok(text) };
        let rows = self.ask_rows(at, clocks::DRAW).await?;
        let replaced =
            rows.first().and_then(|row| clocks::replaced(&text, conforming, (row.text(0), row.text(1))));
        Ok(replaced.map_or(text, Bytes::from))
    }

    /// A conn for the rows, with the session's settings.
    async fn lease_combiner(&mut self) -> Result<Held, Failure> {
        let mut held = self.lease_to_combine(ShardId(0)).await?;
        let wanted = Arc::clone(self.gucs_in_force());
        self.bring_settings(&mut held, &wanted).await?;
        self.show_running(&held);
        Ok(held)
    }

    /// Brings the rows into their tables; whether that has succeeded. If not, the application has been told why.
    async fn gather(
        &mut self,
        (ask, combine): (&Ask, &Combine),
        order: &[usize],
        combiner: &mut Held,
    ) -> Result<bool, Failure> {
        let limit = self.worker.shared.settings.load().limits.combine_max_bytes;
        let mut asked: Vec<(usize, Vec<usize>)> = Vec::with_capacity(order.len());
        for at in order {
            let held = &mut self.held[*at];
            let tables = deliveries(combine, held.shard);
            held.unnamed = None;
            queue_gather(&mut held.lease, &ask.form, &tables)?;
            asked.push((*at, tables.iter().map(|(number, _)| *number).collect()));
        }
        let mut supplies: Vec<Supply<'_>> = Vec::with_capacity(order.len());
        let mut places = Vec::with_capacity(order.len());
        for (at, held) in self.held.iter_mut().enumerate() {
            let Some((_, tables)) = asked.iter_mut().find(|(asked, _)| *asked == at) else { continue };
            held.lease.capture = held.asks_lsn.is_some();
            supplies.push(Supply::new(&mut held.lease, self.events.beside(), std::mem::take(tables)));
            places.push(at);
        }
        let mut drain = Drain { conn: &mut combiner.lease, events: self.events.beside(), limit };
        let ran = flow::run(&mut self.io, &mut supplies, &mut drain, combine).await;
        let errors = drain.events.error.take().into_iter();
        let mut error =
            errors.chain(supplies.iter_mut().filter_map(|supply| supply.events.error.take())).last();
        // The LSN comes in front of what else the proxy has asked for.
        let first = |supply: &Supply<'_>| supply.events.rows.first().cloned();
        let rows: Vec<Option<Bytes>> = supplies.iter().map(first).collect();
        let mut events: Vec<Events> = supplies.into_iter().map(|supply| supply.events).collect();
        for (at, row) in places.iter().zip(rows) {
            let held = &mut self.held[*at];
            held.lease.capture = false;
            if let Some(ticket) = held.asks_lsn.take() {
                note_lsn(ticket, row);
            }
        }
        if matches!(ran, Ok(Outcome::TooMany | Outcome::Failed)) {
            self.stop_others(&places, &mut events, None).await?;
        }
        match ran {
            Ok(Outcome::Done) => Ok(true),
            Ok(Outcome::TooMany) => {
                // It is in the midst of a COPY.
                combiner.lease.spoiled = true;
                let cure = "Add conditions that leave fewer rows, name the shard key";
                Err(Refusal::too_many_bytes(limit, "limits.combine_max_bytes", cure).into())
            }
            Ok(Outcome::Failed) => {
                combiner.lease.spoiled = true;
                let frame = error.take().unwrap_or_default();
                self.io.out.extend_from_slice(&frame);
                self.events.error.get_or_insert(frame);
                Ok(false)
            }
            Err((Some(supply), error)) => Err(self.lose(places[supply], error)),
            Err((None, error)) => Err(Failure::of_step(error, &self.shard_name(combiner.shard), false)),
        }
    }

    /// Runs the query over what has been gathered; its rows go to the application.
    async fn answer_of(&mut self, ask: &Ask, text: &Bytes, combiner: &mut Held) -> Result<(), Failure> {
        self.events.last_tag = None;
        let conn = &mut *combiner.lease;
        let shown = Show::ALL.without(Show::READY);
        let described = matches!(ask.facts.command, Command::Query);
        let shown = if described { shown.without(Show::DESCRIPTION) } else { shown };
        let portal = if ask.is_limited() { kept::PORTAL } else { b"" };
        queue_text(conn, &ask.form, (text, portal), (false, shown));
        let ran = super::single::run(&mut self.io, conn, &mut self.events).await;
        ran.map_err(|error| Failure::of_step(error, &self.shard_name(combiner.shard), false))
    }

    /// Ends the transaction of a conn behind the session's back: the answer has been given. It goes back to its pool.
    fn leave_combiner(&self, mut combiner: Held) {
        self.hide_running(&mut combiner);
        if !combiner.lease.spoiled {
            tokio::spawn(async move { kept::end(&mut combiner.lease, &[b"ROLLBACK"]).await });
        }
    }
}

/// Without what would bind the session to a conn of a shard: a cursor is elsewhere.
fn unpinned(facts: &Arc<Facts>) -> Arc<Facts> {
    if facts.effects.pins.is_none() {
        return Arc::clone(facts);
    }
    let mut facts = Facts::clone(facts);
    facts.effects.pins = None;
    Arc::new(facts)
}

/// A text on a conn where rows were gathered, sent as the application has sent its own. `how`: whether it is described, and what is shown.
fn queue_text(conn: &mut Conn, form: &Form, (text, portal): (&[u8], &[u8]), how: (bool, Show)) {
    let (described, shown) = how;
    let Form::Execute { statement, bind, max_rows, .. } = form else {
        reply::query(&mut conn.write, text);
        return conn.owe(Owed::Query(shown));
    };
    reply::parse(&mut conn.write, b"", text, &statement.type_bytes());
    conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
    reply::bind(&mut conn.write, portal, b"", bind);
    conn.owe(Owed::Bind(Show::ERRORS));
    if described {
        reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, portal);
        conn.owe(Owed::Describe(Show::DESCRIPTION.and(Show::ERRORS)));
    }
    reply::execute(&mut conn.write, portal, *max_rows);
    conn.owe(Owed::Execute(shown));
    conn.sync(Show::NOTHING);
}

/// The tables of which a shard delivers rows, with their numbers.
fn deliveries(combine: &Combine, shard: ShardId) -> Vec<(usize, &Gathered)> {
    combine.tables.iter().enumerate().filter(|(_, table)| table.shards.contains(&shard)).collect()
}

/// The query by which a shard delivers its rows, and the parameters of the statement that it uses.
pub(super) fn gather_text(combine: &Combine, shard: ShardId) -> (ShardId, String, Option<Vec<u16>>) {
    let (text, params) = text::gather(&deliveries(combine, shard));
    (shard, text, Some(params))
}

fn queue_gather(conn: &mut Conn, form: &Form, tables: &[(usize, &Gathered)]) -> Result<(), Failure> {
    let (text, params) = text::gather(tables);
    let bound = match form {
        Form::Execute { statement, bind, .. } if !params.is_empty() => {
            bind::choose_for(bind, &statement.type_bytes(), &params, BINARY)
        }
        Form::Execute { .. } | Form::Query => None,
    };
    let bound =
        bound.unwrap_or_else(|| Rebound { rest: Bytes::from_static(BINARY_RESULTS), types: Bytes::new() });
    let types = conn.own_types(&bound.types)?.into_owned();
    reply::parse(&mut conn.write, b"", text.as_bytes(), &types);
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    reply::bind(&mut conn.write, b"", b"", &bound.rest);
    conn.owe(Owed::Bind(Show::NOTHING));
    let texts = tables.iter().any(|(_, table)| !table.binary);
    if texts {
        queue_aside(conn, text::EXACT);
    }
    reply::execute(&mut conn.write, b"", 0);
    conn.owe(Owed::Execute(Show::ROWS));
    if texts {
        queue_aside(conn, text::AS_BEFORE);
    }
    conn.sync(Show::NOTHING);
    Ok(())
}

/// A statement of the proxy's own beside the unnamed portal, which stays.
fn queue_aside(conn: &mut Conn, text: &[u8]) {
    reply::parse(&mut conn.write, b"", text, &[]);
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    reply::bind(&mut conn.write, ASIDE, b"", TEXT_RESULTS);
    conn.owe(Owed::Bind(Show::NOTHING));
    reply::execute(&mut conn.write, ASIDE, 0);
    conn.owe(Owed::Execute(Show::NOTHING));
    reply::named(&mut conn.write, frontend::tag::CLOSE, true, ASIDE);
    conn.owe(Owed::Close(Show::NOTHING));
}
