//! Planning of queries that are no merge of the shards' answers.

use std::sync::Arc;

use router_config::topology::{ShardId, Topology};

use super::failure::Failure;
use super::names::Prepared;
use super::session::Session;
use crate::route::combine::Combine;
use crate::route::plan::{Plan, Reason, SessionView, Target};
use crate::route::refusal::Refusal;
use crate::route::values::{BindParams, Values};
use crate::sql::combine::{self, CombineShape};
use crate::sql::facts::{Access, Command, Facts};
use crate::sql::schema::FIRST_USER_OID;
use crate::sql::tokens::Tokens;
use crate::wire::sqlstate;

/// Begins the reason why a query is refused.
const NOT_GATHERED: &str = "Its rows cannot be gathered in one place";

impl Session {
    /// Why nothing is gathered now, whatever the query.
    fn hinders_combining(&self) -> Option<String> {
        self.changes.beyond_tables().then(|| {
            format!(
                "{NOT_GATHERED} before COMMIT: the transaction has changed other things in the catalog than tables, which the \
                 connection that computes the answer does not see."
            )
        })
    }

    /// Whether a gathered column is of the type of a table that the transaction may have changed, and so holds locked.
    fn waits_for_itself(&self, shape: &CombineShape) -> Option<String> {
        if !self.changes.any() {
            return None;
        }
        let schema = self.schema();
        let of_table = |declared: &str| {
            let (_, name, _) = Tokens::new(declared.as_bytes(), true).qualified(0)?;
            schema.relations.keys().any(|(_, table)| *table == name).then_some(name)
        };
        let columns = shape
            .tables
            .iter()
            .flat_map(|table| table.columns.iter().filter_map(|at| table.relation.columns.get(*at)));
        let mut composite = columns.filter(|column| column.type_oid >= FIRST_USER_OID);
        let table = composite.find_map(|column| of_table(&column.declared))?;
        Some(format!(
            "the transaction has changed tables, and a column has the type of the table {table}: COMMIT first"
        ))
    }

    /// A plan to gather the rows of what cannot be answered otherwise, or the refusal as it was.
    pub(super) fn plan_combine(
        &self,
        refusal: Refusal,
        values: &Values<'_>,
        topology: &Topology,
        view: &SessionView<'_>,
    ) -> Result<Plan, Refusal> {
        let Some((facts, text)) = unsupported(&refusal, values, view) else { return Err(refusal) };
        let reads = matches!(facts.command, Command::Query | Command::CopyOut(_) | Command::Declare { .. });
        if !reads || facts.access == Access::Write || self.needs_temporary(facts) {
            return Err(refusal);
        }
        if let Some(why) = self.hinders_combining() {
            return Err(refusal.because_too(&why));
        }
        // What the transaction has changed is seen on its own conns alone.
        let changed = self.changes.any() || self.held.iter().any(|held| held.enlisted && held.wrote);
        let everything = changed || self.snapshot_level().is_some();
        // Of a catalog that has just been read anew nothing is remembered under the number of the one before.
        let shape = self.in_context(|context, known| match known {
            true => self.worker.shared.facts.combined(text, context, everything),
            false => combine::shape(text, context, everything).map(Arc::new),
        });
        match shape.ok_or_else(|| refusal.clone())? {
            Ok(shape) => {
                // They are on one conn to a primary.
                let temporary = shape.tables.iter().any(|table| table.relation.is_temporary());
                let combine = Box::new(Combine::of(&shape, topology, values)?);
                if let Some(why) = self.bends_texts(&combine).or_else(|| self.waits_for_itself(&shape)) {
                    return Err(refusal.because_too(&format!("{NOT_GATHERED}: {why}.")));
                }
                let reads = facts.access == Access::Read && !temporary;
                let replica = view.reads_replica && !view.in_transaction && reads;
                Ok(Plan { target: Target::Combine(combine), replica, reason: Reason::NoMerge })
            }
            Err(why) => Err(refusal.because_too(&format!("{NOT_GATHERED}: {why}."))),
        }
    }
}

impl Session {
    /// A plan to compute a query on the home shard, whatever other plan it has.
    pub(super) fn plan_at_home(&self, statement: &Prepared, rest: &[u8]) -> Option<Plan> {
        let params = BindParams::parse(rest, statement.types()).ok()?;
        let (text, analysed) = (&statement.shared.text, &statement.analysed);
        let values = Values { text, analysed, index: 0, params: Some(&params), rules: self.text_rules() };
        let view = SessionView { in_transaction: self.block.is_some(), ..SessionView::default() };
        let refusal = Refusal::unsupported("rows of other shards in binary format", "");
        self.plan_combine(refusal, &values, &self.worker.shared.topology.load(), &view).ok()
    }

    /// Rows that carry OIDs of the shard that they come from are computed on the home shard, whose OIDs the application knows.
    pub(super) async fn with_home_oids(
        &mut self,
        plan: Plan,
        prepared: &Prepared,
        bind: &[u8],
    ) -> Result<Plan, Failure> {
        let elsewhere = match &plan.target {
            Target::One(shard) | Target::Nowhere(shard) => *shard != ShardId(0),
            Target::Concat(_) | Target::Gather(..) => true,
            _ => false,
        };
        if !elsewhere || self.has_no_containers(prepared, bind) {
            return Ok(plan);
        }
        match self.check_containers(None, prepared, bind).await {
            Ok(()) => Ok(plan),
            // The application has been told what is wrong.
            Err(failure) if self.events.error.is_some() => Err(failure),
            Err(failure) => self.plan_at_home(prepared, bind).ok_or(failure),
        }
    }
}

/// Facts and text of a statement that has been refused as not supported, and that no hint sends to one shard.
pub(super) fn unsupported<'a>(
    refusal: &Refusal,
    values: &Values<'a>,
    view: &SessionView<'_>,
) -> Option<(&'a Facts, &'a str)> {
    let hinted = view.hint_key.is_some() || view.hint_shard.is_some();
    let fit = refusal.sqlstate == sqlstate::FEATURE_NOT_SUPPORTED && values.rules.ascii_safe && !hinted;
    fit.then(|| explained(values)).flatten()
}

/// Facts and text of the statement to plan: of `EXPLAIN (GAVEL)` what it explains. `None`: the text is not UTF-8.
fn explained<'a>(values: &Values<'a>) -> Option<(&'a Facts, &'a str)> {
    let facts = &*values.analysed.statements().get(values.index)?.facts;
    let text = std::str::from_utf8(values.statement()).ok()?;
    let Command::ExplainGavel(inner) = &facts.command else { return Some((facts, text)) };
    let tokens = Tokens::new(text.as_bytes(), values.rules.standard_strings);
    let first = tokens.list.get(tokens.closing(1)? + 1)?;
    Some((inner, text.get(first.start..)?))
}
