//! Statements that use rows of a session's temporary tables together with sharded ones: they are read against the catalog with these
//! tables in it, as their conn has them at that moment.
//!
//! Invariant: what was read so holds for one statement; the next one begins with the catalog that all sessions have.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use router_config::topology::ShardId;

use super::combining::unsupported;
use super::failure::Failure;
use super::names::Prepared;
use super::session::Session;
use crate::control::{OwnCatalog, TextRow};
use crate::route::plan::{Plan, Reason, SessionView, Target};
use crate::route::refusal::Refusal;
use crate::route::values::Values;
use crate::sql::cache::Analysed;
use crate::sql::facts::{Command, DdlKind, Facts, Scope};
use crate::sql::fill;
use crate::sql::schema::{Placement, Relation, Schema, TEMPORARY};
use crate::sql::tokens::Tokens;
use crate::wire::backend::Status;
use crate::wire::reply;

/// A session's temporary tables, as they were found last.
#[derive(Debug, Default)]
pub struct TemporaryTables(Option<Box<Known>>);

#[derive(Debug, Default)]
struct Known {
    found: Option<Found>,
    hidden: Option<Hidden>,
}

/// Permanent tables of other placements whose names, without a schema, mean temporary tables of the session.
#[derive(Debug)]
struct Hidden {
    /// What texts were read over.
    reading: u32,
    names: Vec<String>,
}

/// The same answers over the same catalog are the same catalog again, of which facts are kept.
#[derive(Debug)]
struct Found {
    answers: [Vec<TextRow>; 2],
    base: u64,
    schema: Arc<Schema>,
    /// The statement under way is read against it.
    in_force: bool,
}

impl TemporaryTables {
    /// The catalog with them, if the statement under way is read against it.
    pub fn schema(&self) -> Option<&Arc<Schema>> {
        self.0.as_ref()?.found.as_ref().filter(|found| found.in_force).map(|found| &found.schema)
    }

    /// Whether a statement names a table that is hidden, or `None`: it has to be looked for.
    fn hidden(&self, reading: u32, facts: &Facts) -> Option<Option<&str>> {
        let hidden = self.0.as_ref()?.hidden.as_ref().filter(|hidden| hidden.reading == reading)?;
        // Not all of many names are known.
        let named = |name: &&String| facts.tables.contains(name) || facts.tables.len() >= TABLES_KNOWN;
        Some(hidden.names.iter().find(named).map(String::as_str))
    }

    /// The statement is over.
    pub fn forget(&mut self) {
        if let Some(found) = self.0.as_mut().and_then(|known| known.found.as_mut()) {
            found.in_force = false;
        }
    }
}

/// So many names of a statement are known: [`Facts::tables`].
const TABLES_KNOWN: usize = 16;

impl Session {
    /// Whether a statement names nothing that a temporary table might hide, as far as that is known without asking.
    pub(super) fn hides_nothing(&mut self, facts: &Facts) -> bool {
        if !self.has_temporary() || facts.tables.is_empty() {
            return true;
        }
        let reading = self.reading();
        matches!(self.temporary.hidden(reading, facts), Some(None))
    }

    /// Refuses a statement that names a permanent table which was made after a temporary one of its name, or has come into the search
    /// path after it: without a schema the name means the temporary one.
    async fn check_hidden(&mut self, facts: &Facts, text: &[u8]) -> Result<(), Failure> {
        if self.hides_nothing(facts) || self.status() == Status::Failed || !self.is_placed() {
            return Ok(());
        }
        let reading = self.reading();
        // What was found before may have been dropped since.
        self.leave_all().await?;
        let at = self.acquire(ShardId(0), false).await?;
        let rows = self.ask_rows(at, OwnCatalog::TEMPORARY_NAMES).await?;
        let schema = self.schema();
        let path = self.context.as_ref().map_or(&[][..], |known| &known.search_path);
        let own = |placement: &Placement| matches!(placement, Placement::Unsharded | Placement::Catalog);
        let hidden = rows.iter().filter_map(|row| schema.lookup(path, None, row.text(0)));
        let hidden = hidden.filter(|relation| !relation.is_temporary() && !own(&relation.placement));
        let hidden: Vec<Arc<Relation>> = hidden.collect();
        let names = hidden.iter().map(|relation| relation.full_name()).collect();
        self.temporary.0.get_or_insert_default().hidden = Some(Hidden { reading, names });
        let t = Tokens::new(text, self.text_rules().standard_strings);
        // With its schema in front it means what it says.
        let alone = |relation: &&Arc<Relation>| {
            let named = |at: &usize| t.name(*at).is_some_and(|name| name == relation.name);
            (0..t.len()).filter(named).any(|at| at == 0 || !t.is_mark(at - 1, "."))
        };
        match hidden.iter().find(alone).map(|relation| relation.full_name()) {
            None => Ok(()),
            Some(name) => Err(Failure::unsupported(
                format!("a temporary table of this session hides {name}, which was made after it"),
                "Drop the temporary table, or use another session for the permanent one.",
            )),
        }
    }

    /// Whether a statement may use temporary tables and others whose rows are elsewhere, and has not been read so.
    pub(super) fn needs_temporary(&self, facts: &Facts) -> bool {
        let several = match &facts.scope {
            Scope::Sharded(sharded) => sharded.needs_home.is_some(),
            Scope::Unknown { .. } => true,
            Scope::Nothing | Scope::Reference | Scope::Home | Scope::ReferenceWrite | Scope::Everywhere => {
                false
            }
        };
        several && self.temporary.schema().is_none() && self.has_temporary()
    }

    /// Has the statement under way read against the temporary tables too; whether it is.
    async fn see_temporary(&mut self, facts: &Facts) -> Result<bool, Failure> {
        let named =
            self.context.as_ref().is_some_and(|known| known.search_path.iter().any(|s| s == TEMPORARY));
        let lost = self.status() == Status::Failed || !self.is_placed();
        if lost || named || !self.needs_temporary(facts) {
            return Ok(false);
        }
        self.leave_all().await?;
        let base = self.schema();
        let at = self.acquire(ShardId(0), false).await?;
        let [relations, columns] = OwnCatalog::temporary_questions();
        let answers = [self.ask_rows(at, &relations).await?, self.ask_rows(at, &columns).await?];
        let same = |found: &&Found| found.base == base.generation && found.answers == answers;
        let schema = match self.temporary.0.as_ref().and_then(|known| known.found.as_ref()).filter(same) {
            Some(found) => Arc::clone(&found.schema),
            None => Arc::new(self.worker.shared.control.with_temporary(&answers, &base)),
        };
        let found = Found { answers, base: base.generation, schema, in_force: true };
        self.temporary.0.get_or_insert_default().found = Some(found);
        Ok(true)
    }

    /// A statement of Parse, read so if it has to be.
    pub(super) async fn over_temporary(
        &mut self,
        (statement, facts): (Arc<Prepared>, Arc<Facts>),
    ) -> Result<(Arc<Prepared>, Arc<Facts>), Failure> {
        self.check_hidden(&facts, &statement.shared.text).await?;
        if !self.needs_temporary(&facts) || !Box::pin(self.see_temporary(&facts)).await? {
            return Ok((statement, facts));
        }
        let analysed = self.analyse_extended(&statement.shared.text);
        let reading = self.reading();
        let statement = Arc::new(Prepared { analysed, reading, ..(*statement).clone() });
        let facts = statement.facts().cloned().unwrap_or(facts);
        Ok((statement, facts))
    }

    /// A statement of the simple protocol, read so if it has to be: the frame of it alone, and what it says.
    pub(super) async fn over_temporary_text(
        &mut self,
        facts: &Facts,
        own: &[u8],
        analysed: &Analysed,
    ) -> Result<Option<(Bytes, Analysed)>, Failure> {
        self.check_hidden(facts, own).await?;
        // A hint stands in front of the statement, and says where it goes.
        let hinted = analysed.hints().key.is_some() || analysed.hints().shard.is_some();
        if hinted || !self.needs_temporary(facts) || !Box::pin(self.see_temporary(facts)).await? {
            return Ok(None);
        }
        let mut frame = BytesMut::new();
        reply::query(&mut frame, own);
        Ok(Some((frame.freeze(), self.analyse_simple(own))))
    }

    /// A plan for what makes a temporary table out of rows of several shards, or the refusal as it was.
    pub(super) fn plan_filling(
        &self,
        refusal: Refusal,
        values: &Values<'_>,
        view: &SessionView<'_>,
    ) -> Result<Plan, Refusal> {
        let Some((facts, text)) = unsupported(&refusal, values, view) else { return Err(refusal) };
        let makes = matches!(facts.command, Command::Ddl(DdlKind::Temporary)) && facts.barred.is_none();
        let shape = if makes { self.in_context(|context, _| fill::shape(text, context)) } else { None };
        match shape.ok_or_else(|| refusal.clone())? {
            Ok(fill) => {
                Ok(Plan { target: Target::Fill(Box::new(fill)), replica: false, reason: Reason::ReadFirst })
            }
            Err(why) => Err(refusal.because_too(&format!("Its rows cannot be read first: {why}."))),
        }
    }
}
