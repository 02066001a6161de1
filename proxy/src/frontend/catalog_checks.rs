//! What the catalog forbids besides what the planner knows: tables with problems, and binary data with OIDs in them that are
//! not the same on every shard.

use std::sync::Arc;

use router_config::topology::ShardId;

use super::failure::Failure;
use super::names::Prepared;
use super::session::Session;
use crate::backend::oids::{OidError, column_types};
use crate::backend::owed::{Owed, Show};
use crate::backend::pool::Lease;
use crate::control::Forbids;
use crate::exec::bind;
use crate::route::plan::{Plan, Target};
use crate::route::refusal::Refusal;
use crate::sql::copy_shape::CopyFormat;
use crate::sql::facts::{Access, Command, Facts};
use crate::sql::normalise::identifiers;
use crate::sql::schema::{FIRST_USER_OID, Relation, Schema};
use crate::wire::frontend::tag;
use crate::wire::reply;

impl Session {
    /// Refuses statements on tables that the catalog has found unfit. DDL is let through: it may be the cure.
    pub(super) fn check_problems(&self, facts: &Facts) -> Result<(), Refusal> {
        let Some(catalog) = &self.catalog else { return Ok(()) };
        let current = catalog.load();
        if current.problems.is_empty() {
            return Ok(());
        }
        let facts = match &facts.command {
            Command::Ddl(_) => return Ok(()),
            Command::ExplainGavel(inner) => inner,
            _ => facts,
        };
        let forbidden = current.problems.iter().find(|problem| {
            let applies = match problem.forbids {
                Forbids::All => true,
                Forbids::Writes => facts.access == Access::Write,
                Forbids::Nothing => false,
            };
            applies && facts.tables.contains(&problem.table)
        });
        let Some(problem) = forbidden else { return Ok(()) };
        let what = if problem.forbids == Forbids::Writes { "writes to" } else { "statements on" };
        let refusal = Refusal::unsupported(
            format!("{what} {} are refused", problem.table),
            "SHOW PROBLEMS on the admin console lists what is wrong; it is looked at again every few seconds.",
        );
        Err(refusal.because(problem.message.clone()))
    }

    /// COPY in binary format carries the OIDs of elements and columns.
    pub(super) fn check_copy(&self, facts: &Facts, plan: &mut Plan, text: &[u8]) -> Result<(), Refusal> {
        let (Command::CopyIn(shape) | Command::CopyOut(shape)) = &facts.command else { return Ok(()) };
        let Some(catalog) = self.catalog.as_ref().filter(|_| shape.format == CopyFormat::Binary) else {
            return Ok(());
        };
        let current = catalog.load();
        if current.oids.is_uniform() {
            return Ok(());
        }
        if plan.target == Target::Any && self.held.is_empty() {
            // Where the OIDs are as the application is told.
            plan.target = Target::One(ShardId(0));
        }
        // What is computed on the home shard is in its terms.
        if matches!(plan.target, Target::Combine(_)) {
            return Ok(());
        }
        if matches!(plan.target, Target::One(shard) | Target::Nowhere(shard) if shard == ShardId(0)) {
            return Ok(());
        }
        let differs = |name: &String| {
            let (schema, name) = name.split_once('.').unwrap_or(("", name));
            let relation = current.schema.lookup(&[], Some(schema), name);
            relation.is_none_or(|relation| {
                relation.columns.iter().any(|column| current.oids.binary_differs(column.type_oid))
            })
        };
        let query = facts.tables.is_empty() || shape.columns == 0;
        let refused = if query {
            self.may_have_user_types(facts, text, &current.schema)
        } else {
            facts.tables.iter().any(differs)
        };
        if refused {
            return Err(Refusal::unsupported(
                format!("COPY in binary format: {}", OidError::Container),
                "Use the text or the csv format.",
            ));
        }
        Ok(())
    }

    /// Whether a value of a query may be of a type of the user's, or hold one: the columns of the query itself are not known here, but
    /// what they are made of.
    fn may_have_user_types(&self, facts: &Facts, text: &[u8], schema: &Schema) -> bool {
        let tables: Vec<_> = facts.tables.iter().map(|table| schema.by_full_name(table)).collect();
        let read = || tables.iter().flatten();
        let user =
            |table: &Arc<Relation>| table.columns.iter().any(|column| column.type_oid >= FIRST_USER_OID);
        let mut found = tables.iter().any(Option::is_none) || read().any(|table| user(table));
        identifiers(text, self.text_rules().standard_strings, false, &mut |name| {
            // The type of a table's rows has its name.
            let row = || read().any(|table| table.name == name);
            found |= schema.types.contains_key(name) && !row();
            found |= schema.function(name).is_some_and(|function| !function.built_in);
        });
        found
    }

    /// Refuses rows in binary format with OIDs in them that are another shard's. `at`: the conn that has the statement or is
    /// to get it; otherwise one is found.
    pub(super) async fn check_containers(
        &mut self,
        at: Option<usize>,
        prepared: &Prepared,
        bind: &[u8],
    ) -> Result<(), Failure> {
        let Some(catalog) = self.catalog.as_ref().filter(|_| !self.has_no_containers(prepared, bind)) else {
            return Ok(());
        };
        let oids = Arc::clone(&catalog.load().oids);
        let formats = bind::result_formats(bind).unwrap_or_default();
        let columns = match prepared.shared.origin.get() {
            Some(shape) => shape.columns.to_vec(),
            None => self.ask_columns(at, prepared).await?,
        };
        let binary = |n: usize| match formats.as_slice() {
            [all] => *all != 0,
            each => each.get(n).is_some_and(|format| *format != 0),
        };
        if columns.iter().enumerate().any(|(n, column)| binary(n) && oids.binary_differs(*column)) {
            return Err(OidError::Container.into());
        }
        Ok(())
    }

    /// Whether nothing has to be asked to know that [`Self::check_containers`] refuses nothing.
    pub(super) fn has_no_containers(&self, prepared: &Prepared, bind: &[u8]) -> bool {
        !prepared.facts().is_some_and(|facts| facts.returns_rows) || !self.may_have_oids(bind)
    }

    /// Whether rows in these formats may have OIDs in them that depend on the shard.
    fn may_have_oids(&self, bind: &[u8]) -> bool {
        let differ = self.catalog.as_ref().is_some_and(|catalog| !catalog.load().oids.is_uniform());
        differ && bind::result_formats(bind).is_some_and(|formats| formats.iter().any(|f| *f != 0))
    }

    /// As `any_shard`, but for rows in binary format the home shard where it matters: its OIDs are right as they are.
    pub(super) fn any_shard_for(&mut self, bind: &[u8]) -> ShardId {
        let at_home = self.held.is_empty() && self.may_have_oids(bind);
        if at_home && self.worker.shared.nodes().primary(ShardId(0)).is_some() {
            return ShardId(0);
        }
        self.any_shard()
    }

    /// Types of a statement's columns, as the home shard has them.
    async fn ask_columns(&mut self, at: Option<usize>, prepared: &Prepared) -> Result<Vec<u32>, Failure> {
        let at = match at {
            Some(at) => at,
            None => {
                let shard = self.describing_shard(prepared);
                self.goto_to_describe(shard).await?
            }
        };
        let name = self.ensure_statement(at, prepared).await?;
        let held = &mut self.held[at];
        reply::named(&mut held.lease.write, tag::DESCRIBE, false, name);
        held.lease.owe(Owed::Describe(Show::ERRORS));
        reply::bare(&mut held.lease.write, tag::FLUSH);
        held.unsynced = true;
        self.events.descriptions.clear();
        self.run_to_end(at).await?;
        self.check_pipeline_error()?;
        let described = self.events.descriptions.drain(..).rev().find(|frame| frame.first() == Some(&b'T'));
        Ok(described.and_then(|frame| column_types(&frame)).unwrap_or_default())
    }

    /// Makes a conn translate its shard's OIDs; whether the catalog was read again for that.
    pub(super) async fn translate_oids(&self, shard: ShardId, lease: &mut Lease) -> bool {
        let Some(catalog) = &self.catalog else { return false };
        if lease.oids.is_none() {
            lease.oids = catalog.oid_cell(shard);
        }
        // The shard did not answer when the catalog was read, and does now. If it still does not, what cannot be translated
        // is an error.
        lease.oids_unread() && catalog.reread().await.is_ok()
    }
}
