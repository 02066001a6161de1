//! Planning of writes that need rows of other shards, and the statements that stand for them.

use std::sync::Arc;

use bytes::Bytes;
use router_config::topology::ShardId;

use super::combining::unsupported;
use super::failure::Failure;
use super::names::{Prepared, Told};
use super::param_types::{describe, described};
use super::session::Session;
use crate::backend::conn::Events;
use crate::backend::oids::OidError;
use crate::backend::shape::Shape;
use crate::gather::row;
use crate::route::plan::{Plan, Reason, SessionView, Target};
use crate::route::refusal::Refusal;
use crate::route::values::Values;
use crate::sql::extract::{Context, is_default};
use crate::sql::facts::{Command, Facts, Modify, Scope};
use crate::sql::{broadcast, insert_rows, merge_rows, with_writes};
use crate::wire::backend::tag;
use crate::wire::frame::HEADER;

impl Session {
    /// A plan to read first what cannot be written otherwise, or the refusal as it was.
    pub(super) fn plan_read_first(
        &self,
        refusal: Refusal,
        values: &Values<'_>,
        view: &SessionView<'_>,
    ) -> Result<Plan, Refusal> {
        let Some((facts, text)) = unsupported(&refusal, values, view) else { return Err(refusal) };
        let Command::Modify(modify) = &facts.command else { return Err(refusal) };
        if !is_simple(facts) || self.needs_temporary(facts) {
            return Err(refusal);
        }
        let target = self.in_context(|context, _| read_first(&refusal, (*modify, facts), (text, context)));
        match target.ok_or(refusal)?? {
            _ if !view.two_phase => Err(Refusal::two_phase_off("a write that needs rows of several shards")),
            target => Ok(Plan { target, replica: false, reason: Reason::ReadFirst }),
        }
    }

    /// What the home shard makes of a statement, in the transaction.
    pub(crate) async fn shape_of(&mut self, statement: &Prepared) -> Result<Shape, Failure> {
        let events = self.describe_at_home(statement).await?;
        described(&events).ok_or_else(|| OidError::Truncated.into())
    }

    async fn describe_at_home(&mut self, statement: &Prepared) -> Result<Events, Failure> {
        let at = self.acquire(ShardId(0), false).await?;
        let held = &mut self.held[at];
        held.unnamed = None;
        let mut events = Events::default();
        if let Err(error) = describe(&mut self.io, &mut held.lease, statement, &mut events).await {
            return Err(self.lose(at, error));
        }
        match events.error.take() {
            Some(frame) => Err(Failure::Server(frame)),
            None => Ok(events),
        }
    }

    /// The columns that the home shard gives a statement, in the transaction.
    pub(crate) async fn description_of(&mut self, statement: &Prepared) -> Result<Vec<ColumnOf>, Failure> {
        let events = self.describe_at_home(statement).await?;
        let of = |frame: &&Bytes| frame.first() == Some(&tag::ROW_DESCRIPTION);
        let body = events.descriptions.iter().find(of).and_then(|frame| frame.get(HEADER..));
        let columns = body.into_iter().flat_map(row::columns).map(|column| ColumnOf {
            name: String::from_utf8_lossy(column.name).into_owned(),
            type_oid: column.type_oid,
            modifier: column.modifier,
        });
        Ok(columns.collect())
    }

    /// A statement that nobody else has, with these parameter types.
    pub(crate) fn alone(&mut self, original: Option<&Prepared>, text: &[u8], types: &[u8]) -> Prepared {
        let analysed = self.analyse_extended(text);
        let reading = self.reading();
        let gucs = original.map_or_else(|| Arc::clone(self.gucs_in_force()), |known| Arc::clone(&known.gucs));
        let shared = self.worker.shared.registry.alone(self.parse_context(), text, types);
        let types = types.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        Prepared { shared, analysed, reading, gucs, types, named: false, told: Told::default() }
    }
}

/// A column of a statement's rows, with the home shard's OIDs.
#[derive(Debug)]
pub(crate) struct ColumnOf {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) modifier: i32,
}

/// How a write that was refused is done in steps.
fn read_first(
    refusal: &Refusal,
    (modify, facts): (Modify, &Facts),
    (text, context): (&str, &Context<'_>),
) -> Result<Target, Refusal> {
    let with = with_writes::shape(text, context).map_err(|why| {
        Refusal::parts_of_with(&format!("Its parts cannot be run one after the other: {why}."))
    })?;
    if let Some(with) = with {
        return Ok(Target::WithWrites(Box::new(with)));
    }
    // What a reference table is given is refused where it may differ; defaults are drawn for rows of VALUES.
    if matches!(facts.scope, Scope::ReferenceWrite) && !differs_by_default(facts) {
        return Err(refusal.clone());
    }
    let target = match modify {
        Modify::Insert => match insert_rows::shape(text, context) {
            // Nothing of rows of VALUES has to be known first but their keys, and what they read of other tables.
            Ok(rows)
                if rows.is_of_values() && !refusal.is_of_insert_key() && !refusal.is_of_other_tables() =>
            {
                return Err(refusal.clone());
            }
            shape => shape.map(|rows| Target::InsertRows(Box::new(rows))),
        },
        _ => broadcast::shape(text, context).map(|shape| Target::Broadcast(Box::new(shape))).or_else(|why| {
            match merge_rows::shape(text, context) {
                Ok(merge) => Ok(Target::MergeRows(Box::new(merge))),
                Err(_) => Err(why),
            }
        }),
    };
    target.map_err(|why| match facts.scope {
        // What is said already is all that there is to say.
        Scope::Unknown { .. } => refusal.clone(),
        _ => refusal.clone().because_too(&format!("The rows that it needs cannot be read first: {why}.")),
    })
}

/// Whether nothing but a default of the table would differ from shard to shard.
fn differs_by_default(facts: &Facts) -> bool {
    facts.unrepeatable.as_deref().is_some_and(is_default)
}

/// Whether the statement does nothing but read and write rows.
fn is_simple(facts: &Facts) -> bool {
    let effects = &facts.effects;
    facts.barred.is_none()
        && !facts.unknown_name
        && effects.pins.is_none()
        && !(effects.spoils || effects.advisory_lock || effects.currval || effects.notifies)
        && !(effects.listening_channels || effects.node_dependent)
}
