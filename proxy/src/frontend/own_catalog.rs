//! What statements are read against: the committed catalog, or within a transaction that has run DDL the catalog as that
//! transaction sees it; and the settings that say how names and strings are read.
//!
//! Invariant: a statement is analysed when it is its turn, with everything done that comes before it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use router_config::settings::DatabaseKind;
use router_config::topology::ShardId;

use super::effects::Expected;
use super::failure::Failure;
use super::names::Prepared;
use super::session::Session;
use super::settle::note_lsn;
use crate::backend::conn::Events;
use crate::backend::gucs::Gucs;
use crate::control::{OwnCatalog, TextRow};
use crate::exec::single;
use crate::sql::cache::Analysed;
use crate::sql::logins::Change;
use crate::sql::schema::Schema;
use crate::sql::tokens::Tokens;
use crate::wire::sqlstate;

/// What the session's open transaction has done to the catalog.
#[derive(Debug, Default)]
pub struct CatalogChanges {
    /// DDL has run since the catalog was read.
    changed: bool,
    /// More DDL has run, or was undone, since `own` was read.
    stale: bool,
    own: Option<Arc<Schema>>,
    /// How often DDL has completed.
    count: u32,
    /// What it has changed for those who log in later.
    logins: Option<Change>,
    /// Something else than tables and what belongs to them has been changed.
    beyond_tables: bool,
}

impl CatalogChanges {
    /// DDL has completed.
    pub fn note(&mut self) {
        self.changed = true;
        self.stale = true;
        self.count += 1;
    }

    /// As [`Self::note`], of a statement with this text.
    pub fn note_text(&mut self, text: &[u8], conforming: bool) {
        self.note();
        self.logins = self.logins.max(Change::of(text, conforming));
        self.beyond_tables |= !shapes_tables(&Tokens::new(text, conforming));
    }

    /// A number that changes with each DDL; 0 without any.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// ROLLBACK TO SAVEPOINT: some of it may be undone.
    pub fn partly_undone(&mut self) {
        self.stale |= self.changed;
    }

    /// The transaction's own view, if it has one.
    pub fn own(&self) -> Option<&Arc<Schema>> {
        self.own.as_ref()
    }

    /// Whether the transaction has run DDL.
    pub fn any(&self) -> bool {
        self.changed
    }

    /// Whether a query that another conn computes, over rows that the transaction's own deliver, may mean something else there.
    pub fn beyond_tables(&self) -> bool {
        self.beyond_tables
    }

    /// The transaction is over; if the catalog may have changed, what has changed for logins.
    fn take(&mut self) -> Option<Option<Change>> {
        let Self { changed, logins, .. } = std::mem::take(self);
        changed.then_some(logins)
    }
}

/// Whether a command changes tables, indexes, views and sequences alone.
fn shapes_tables(t: &Tokens<'_>) -> bool {
    const BETWEEN: [&str; 10] = [
        "or",
        "replace",
        "unlogged",
        "unique",
        "materialized",
        "recursive",
        "global",
        "local",
        "temp",
        "temporary",
    ];
    match t.keyword(0).as_str() {
        "create" | "alter" | "drop" => {
            let object = (1..t.len()).find(|at| !t.is_any(*at, &BETWEEN));
            object.is_some_and(|at| t.is_any(at, &["table", "index", "view", "sequence"]))
        }
        // SELECT INTO, setval
        verb => matches!(
            verb,
            "select" | "with" | "truncate" | "comment" | "analyze" | "cluster" | "reindex" | "refresh"
        ),
    }
}

impl Session {
    /// Whether where a statement goes depends on what it says.
    pub fn is_placed(&self) -> bool {
        matches!(self.who.kind, DatabaseKind::Sharded) && self.worker.shared.topology.load().shards.len() > 1
    }

    /// In front of the analysis of a statement: makes sure that it is read against what is there when it runs.
    pub async fn see_catalog(&mut self) -> Result<(), Failure> {
        self.temporary.forget();
        if !self.changes.changed && self.pending.is_empty() {
            return Ok(());
        }
        Box::pin(self.see_changes()).await
    }

    async fn see_changes(&mut self) -> Result<(), Failure> {
        if self.block.is_none() {
            self.refresh_catalog().await;
            return Ok(());
        }
        let completed = self.events.completed;
        let unseen =
            |expected: &Expected| expected.ordinal < completed && expected.facts.effects.changes_catalog;
        if self.pending.iter().any(unseen) {
            self.changes.note();
        }
        let lost = self.failed_shard().is_some() || self.block.as_ref().is_some_and(|block| block.doomed);
        if !self.changes.stale || lost || !self.is_placed() {
            return Ok(());
        }
        self.finish_pipelines().await?;
        self.read_own_catalog().await
    }

    /// A name that the catalog does not know may be a table that was made through another proxy a moment ago; whether the
    /// catalog is another one now. In a session with temporary tables it is taken for one of these.
    pub async fn look_for_names(&mut self, analysed: &Analysed) -> Result<bool, Failure> {
        let unknown = analysed.statements().iter().any(|statement| statement.facts.unknown_name);
        if !unknown || self.has_temporary() || !self.is_placed() {
            return Ok(false);
        }
        let before = self.schema().generation;
        if self.changes.own.is_some() {
            self.changes.stale = true;
            self.see_catalog().await?;
        } else if let Some(catalog) = self.catalog.clone() {
            catalog.look().await.map_err(|error| {
                let message = format!("a relation is not known, and the catalog could not be read: {error}");
                Failure::error(sqlstate::CONNECTION_FAILURE, message)
            })?;
        }
        Ok(self.schema().generation != before)
    }

    /// Reads the catalog again after committed DDL, before the application is told of its success.
    pub async fn refresh_catalog(&mut self) {
        if self.block.is_none()
            && let Some(logins) = self.changes.take()
        {
            logins.into_iter().for_each(|change| self.worker.shared.logins_changed(change));
            self.worker.shared.catalog_changed(self.catalog.as_ref()).await;
            if !matches!(self.who.kind, DatabaseKind::Sharded) {
                self.worker.shared.unrouted_ddl.fetch_add(1, Ordering::Relaxed);
            }
            self.context = None;
        }
    }

    /// Over the transaction's own conn to the home shard, where all DDL runs.
    pub(super) async fn read_own_catalog(&mut self) -> Result<(), Failure> {
        let home = |held: &super::session::Held| held.enlisted && held.shard == ShardId(0);
        let (Some(at), Some(catalog)) = (self.held.iter().position(home), self.catalog.clone()) else {
            return Ok(());
        };
        let committed = catalog.current();
        let answers = self.ask_catalog(at, &OwnCatalog::questions(&committed)).await?;
        let shared = Arc::clone(&self.worker.shared);
        let own = shared.control.own_catalog(answers, &committed).ok_or_else(|| {
            Failure::error(sqlstate::INTERNAL_ERROR, "the catalog of the open transaction could not be read")
        })?;
        for (shard, sql) in (0_u16..).zip(&own.alignment) {
            let at = self.acquire(ShardId(shard), false).await?;
            self.held[at].wrote = true;
            self.ask(at, sql).await?;
        }
        self.changes.own = Some(own.schema);
        self.changes.stale = false;
        self.read_own_oids(at).await
    }

    /// What the transaction has made has an OID of its own on each shard, and the catalog does not know them yet. `home` is the conn
    /// to the home shard.
    async fn read_own_oids(&mut self, home: usize) -> Result<(), Failure> {
        let others: Vec<usize> =
            (0..self.held.len()).filter(|at| *at != home && self.held[*at].enlisted).collect();
        if others.is_empty() {
            return Ok(());
        }
        let question = [OwnCatalog::objects_question()];
        let at_home = self.ask_catalog(home, &question).await?.concat();
        for at in others {
            let there = self.ask_catalog(at, &question).await?.concat();
            self.held[at].lease.own_oids = Some(Box::new(OwnCatalog::oids(&at_home, &there)));
        }
        Ok(())
    }

    /// Rows of questions about the catalog as the transaction sees it on a conn.
    async fn ask_catalog(&mut self, at: usize, questions: &[String]) -> Result<Vec<Vec<TextRow>>, Failure> {
        self.ask(at, OwnCatalog::OPEN).await?;
        let mut answers = Vec::new();
        for question in questions {
            match self.ask_rows(at, question).await {
                Ok(rows) => answers.push(rows),
                Err(failure) => {
                    let _ = self.ask(at, OwnCatalog::CLOSE).await;
                    return Err(failure);
                }
            }
        }
        self.ask(at, OwnCatalog::CLOSE).await?;
        Ok(answers)
    }

    /// Rows of a query of the proxy's own on a held conn that owes nothing.
    pub async fn ask_rows(&mut self, at: usize, sql: &str) -> Result<Vec<TextRow>, Failure> {
        let asks_lsn = self.held[at].asks_lsn.take();
        let held = &mut self.held[at];
        held.unnamed = None;
        let mut events = Events::default();
        let ran = single::ask(&mut self.io, &mut held.lease, sql, &mut events).await;
        self.events.parameters.append(&mut events.parameters);
        if let Err(error) = ran {
            return Err(self.lose(at, error));
        }
        if let Some(ticket) = asks_lsn {
            // Its answer comes in front of the query's own rows.
            let row = (!events.rows.is_empty()).then(|| events.rows.remove(0));
            note_lsn(ticket, row);
        }
        text_rows(&mut events)
    }

    /// A statement of Parse whose text would be read otherwise by now is read again.
    pub fn reread(&mut self, name: &[u8], statement: Arc<Prepared>) -> Arc<Prepared> {
        let reading = self.reading();
        if statement.reading == reading {
            return statement;
        }
        let analysed = self.analyse_extended(&statement.shared.text);
        let statement = Arc::new(Prepared { analysed, reading, ..(*statement).clone() });
        if let Some(known) = self.names.statements.get_mut(name) {
            *known = Arc::clone(&statement);
        }
        statement
    }

    /// Settings that say how the next statement is read: those of the session, or with SET LOCAL of the transaction.
    pub fn gucs_in_force(&self) -> &Arc<Gucs> {
        self.block.as_ref().and_then(|block| block.local()).unwrap_or(&self.gucs)
    }
}

/// The rows that a query of the proxy's own was answered with.
pub fn text_rows(events: &mut Events) -> Result<Vec<TextRow>, Failure> {
    if let Some(frame) = events.error.take() {
        return Err(Failure::Server(frame));
    }
    let rows: Option<Vec<TextRow>> = events.rows.iter().map(|row| TextRow::of_data_row(row)).collect();
    rows.ok_or_else(|| {
        Failure::error(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, "a row that the proxy reads is not UTF-8")
    })
}
