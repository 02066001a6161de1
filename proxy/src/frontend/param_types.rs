//! Types of parameters that Parse leaves open. A parameter that stands for the key alone has the key column's type; where it is
//! not so plain what PostgreSQL infers, the home shard is asked, once for each shared statement.
//!
//! Invariant: a key is never read as a value of another type than the one that PostgreSQL gives the parameter.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use router_config::topology::ShardId;

use super::failure::Failure;
use super::io::{ClientIo, StepError};
use super::names::Prepared;
use super::session::Session;
use crate::backend::conn::{Conn, Events};
use crate::backend::oids::OidError;
use crate::backend::owed::{Owed, Show};
use crate::backend::shape::Shape;
use crate::exec::single;
use crate::route::refusal::Refusal;
use crate::sql::facts::{Facts, KeyTerm, Pin, Scope, Sharded, ValueRef};
use crate::sql::lexer::{Lexer, param_numbers};
use crate::sql::times::may_have_times;
use crate::wire::backend::tag;
use crate::wire::frame::HEADER;
use crate::wire::{frontend, reply, sqlstate};

/// A type that no key has: what the parameter is cannot be told.
const NO_TYPE: u32 = u32::MAX;

/// Types from here on are the user's; a domain over a key's type is read as the key column is.
const FIRST_USER_TYPE: u32 = 16_384;

impl Session {
    /// Sees to it that the types are known on which it depends where the statement goes.
    pub async fn ask_types(&mut self, statement: &Prepared) -> Result<(), Failure> {
        if statement.shared.asked.get().is_some() || !self.is_placed() {
            return Ok(());
        }
        if !statement.facts().is_some_and(|facts| in_doubt(facts, statement)) {
            let _ = statement.shared.asked.set(None);
            return Ok(());
        }
        Box::pin(self.ask_server(statement)).await
    }

    /// Types of the parameters of EXPLAIN (GAVEL): those of the statement that it explains.
    pub async fn types_of_explained(&mut self, statement: &Prepared) -> Result<Vec<u32>, Failure> {
        if param_numbers(&statement.shared.text).next().is_some() {
            Box::pin(self.ask_server(statement)).await?;
        }
        Ok(statement.types().to_vec())
    }

    /// PostgreSQL reads a literal when it parses; a conn that parses the statement later would read it by other settings.
    pub(super) fn check_literals(&self, statement: &Prepared) -> Result<(), Failure> {
        const READ_BY: [&str; 3] = ["timezone", "datestyle", "intervalstyle"];
        let now = self.gucs_in_force();
        let changed = !Arc::ptr_eq(now, &statement.gucs)
            && self.is_placed()
            && READ_BY.iter().any(|name| now.get(name) != statement.gucs.get(name));
        if !changed || !may_have_times(&statement.shared.text, self.text_rules().standard_strings) {
            return Ok(());
        }
        Err(Failure::unsupported(
            "this statement has a literal that may be a date or time, and TimeZone, DateStyle or IntervalStyle have changed since it \
             was prepared",
            "Prepare it again, or give the literal as a parameter.",
        ))
    }

    /// Why a bound statement is not executed: it may have been right when it was parsed, and be wrong by now.
    pub(super) async fn why_not_bound(&mut self, statement: &Prepared, refusal: Refusal) -> Failure {
        // In a transaction another conn would not see what it has done, and might wait for it.
        let alone = self.held.iter().all(|held| !held.enlisted && !held.unsynced);
        if !alone || refusal.sqlstate != sqlstate::FEATURE_NOT_SUPPORTED {
            return refusal.into();
        }
        match self.ask_shape(statement).await {
            Ok(Asked::Wrong(frame)) => Failure::Server(frame),
            Ok(Asked::Shape(_)) | Err(_) => refusal.into(),
        }
    }

    async fn ask_server(&mut self, statement: &Prepared) -> Result<(), Failure> {
        let shape = match statement.shared.origin.get() {
            Some(shape) => Some(shape.clone()),
            None => match self.ask_shape(statement).await? {
                Asked::Shape(shape) => Some(shape),
                // What only its own conn has, another one does not know.
                Asked::Wrong(_) if !self.pins.is_empty() || self.temp_tables => None,
                Asked::Wrong(frame) => return Err(Failure::Server(frame)),
            },
        };
        let types = match shape {
            Some(shape) => shape.params.to_vec(),
            // The application's own Parse says what is wrong, if something is.
            None => unknown_types(statement),
        };
        let known = |oid: u32| if oid >= FIRST_USER_TYPE && oid != NO_TYPE { 0 } else { oid };
        let _ = statement.shared.asked.set(Some(types.into_iter().map(known).collect()));
        Ok(())
    }

    /// What the home shard makes of a statement as the application has written it. Where nobody has parsed it before, it is what it
    /// is from then on.
    pub(super) async fn ask_shape(&mut self, statement: &Prepared) -> Result<Asked, Failure> {
        let mut events = Events::default();
        if self.changes.own().is_some() {
            self.finish_pipelines().await?;
            let at = self.acquire(ShardId(0), false).await?;
            self.ask(at, "SAVEPOINT gavel_types").await?;
            if let Err(error) = describe(&mut self.io, &mut self.held[at].lease, statement, &mut events).await
            {
                return Err(self.lose(at, error));
            }
            self.ask(at, "ROLLBACK TO SAVEPOINT gavel_types; RELEASE SAVEPOINT gavel_types").await?;
        } else {
            let mut held = self.lease_alone(ShardId(0)).await?;
            if let Err(error) = describe(&mut self.io, &mut held.lease, statement, &mut events).await {
                return Err(Failure::of_step(error, &self.shard_name(ShardId(0)), false));
            }
        }
        let shape = described(&events);
        let shared = &statement.shared;
        if let Some(shape) = shape.as_ref().filter(|_| explained(&shared.text).len() == shared.text.len()) {
            // Another session may have been faster; who parses it now parts ways if it was otherwise then.
            let _ = shared.origin.set(shape.clone());
        }
        match (shape, events.error) {
            (Some(shape), _) => Ok(Asked::Shape(shape)),
            (None, Some(frame)) => Ok(Asked::Wrong(frame)),
            (None, None) => Err(OidError::Truncated.into()),
        }
    }
}

/// What a server says of a statement.
pub(super) enum Asked {
    /// What it makes of it.
    Shape(Shape),
    /// That it is wrong: an ErrorResponse.
    Wrong(Bytes),
}

/// What a server has described.
pub(super) fn described(events: &Events) -> Option<Shape> {
    let frame = |tag: u8| {
        let found = events.descriptions.iter().find(|frame| frame.first() == Some(&tag));
        found.and_then(|frame| frame.get(HEADER..))
    };
    frame(tag::PARAMETER_DESCRIPTION)
        .and_then(|parameters| Shape::of(parameters, frame(tag::ROW_DESCRIPTION)))
}

/// Parse and Describe, hidden.
pub(super) async fn describe(
    io: &mut ClientIo,
    conn: &mut Conn,
    statement: &Prepared,
    events: &mut Events,
) -> Result<(), StepError> {
    reply::parse(&mut conn.write, b"", explained(&statement.shared.text), &statement.shared.types);
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    reply::named(&mut conn.write, frontend::tag::DESCRIBE, false, b"");
    conn.owe(Owed::Describe(Show::NOTHING));
    conn.sync(Show::NOTHING);
    single::run(io, conn, events).await
}

/// Without `EXPLAIN (GAVEL)` in front, which is the proxy's own.
fn explained(text: &[u8]) -> &[u8] {
    let mut tokens = Lexer::new(text, true);
    let words = ["explain", "(", "gavel", ")"];
    let found = words.iter().all(|word| {
        tokens.next().is_some_and(|t| text[t.start..t.end].eq_ignore_ascii_case(word.as_bytes()))
    });
    let rest = tokens.next().filter(|_| found).map(|token| &text[token.start..]);
    rest.unwrap_or(text)
}

/// Parse's own types, and for those that it leaves open one that is no key's.
fn unknown_types(statement: &Prepared) -> Vec<u32> {
    let count = param_numbers(&statement.shared.text).max().unwrap_or(0);
    let of = |n: u16| open(statement, n + 1).map_or(NO_TYPE, |oid| oid);
    (0..count).map(of).collect()
}

/// The type that Parse gives a parameter; `None` where it leaves it open.
fn open(statement: &Prepared, n: u16) -> Option<u32> {
    statement.types.get(usize::from(n) - 1).copied().filter(|oid| *oid != 0)
}

/// Whether a parameter without a type stands for a key and may be of another type than the key column.
fn in_doubt(facts: &Facts, statement: &Prepared) -> bool {
    let Scope::Sharded(sharded) = &facts.scope else { return false };
    if let Some(select) = &sharded.select {
        // The query is run with columns of its own: what they are must be said.
        return select.has_params;
    }
    let by_function = facts.tables.iter().any(|table| table.ends_with("()"));
    let mixed = by_function || sharded.groups.iter().any(mixes);
    let of_keys: Vec<u16> = key_params(sharded).filter(|n| *n > 0 && open(statement, *n).is_none()).collect();
    if of_keys.is_empty() || mixed {
        return !of_keys.is_empty();
    }
    let mut mentions: HashMap<u16, usize> = HashMap::new();
    param_numbers(&statement.shared.text).for_each(|n| *mentions.entry(n).or_default() += 1);
    of_keys.iter().any(|n| mentions.get(n).is_some_and(|count| *count > 1))
}

/// A list of parameters and numbers is of one type that all of them decide.
fn mixes(pin: &Pin) -> bool {
    match pin {
        Pin::Keys(terms) if terms.len() > 1 => {
            terms.iter().any(|term| !matches!(term.value, ValueRef::Param(_) | ValueRef::Null))
        }
        Pin::Keys(_) | Pin::Array(_) | Pin::Any | Pin::Never | Pin::Insert => false,
    }
}

/// Parameters that stand for keys.
fn key_params(sharded: &Sharded) -> impl Iterator<Item = u16> + '_ {
    let of_term = |term: &KeyTerm| match term.value {
        ValueRef::Param(n) => Some(n),
        ValueRef::Literal(_) | ValueRef::Null | ValueRef::Default | ValueRef::Computed => None,
    };
    let pinned = sharded.groups.iter().flat_map(move |pin| match pin {
        Pin::Keys(terms) => terms.iter().filter_map(of_term).collect::<Vec<_>>(),
        Pin::Array(term) => of_term(term).into_iter().collect(),
        Pin::Any | Pin::Never | Pin::Insert => Vec::new(),
    });
    let rows = sharded.insert.iter().flat_map(|shape| &shape.rows);
    pinned.chain(rows.filter_map(move |row| of_term(&row.key)))
}
