//! INSERT, UPDATE and DELETE in WITH over several shards: each is run as a statement of its own, in one transaction, and what it
//! returns takes its place in the others.

use bytes::Bytes;
use router_config::topology::ShardId;

use super::ask::Ask;
use crate::control::TextRow;
use crate::frontend::failure::Failure;
use crate::frontend::session::Session;
use crate::route::clocks;
use crate::route::refusal::Refusal;
use crate::sql::with_writes::{WithWrites, Written, rows_as_query};
use crate::wire::backend::error_field;
use crate::wire::frame::HEADER;

/// Whether one of some relations may have other rows because another one was written: a partition, a table that inherits from it or
/// that it inherits from, and tables that a foreign key's action changes.
const TOUCHES: &str = "WITH RECURSIVE near (a, b) AS ( \
       SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits UNION ALL SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits \
       UNION ALL SELECT confrelid, conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' \
         AND (confupdtype = ANY ('{updates}') OR confdeltype = ANY ('{deletes}'))), \
     touched (oid) AS (SELECT {written}::pg_catalog.oid UNION SELECT near.b FROM near JOIN touched ON near.a = touched.oid) \
     SELECT c.relname FROM pg_catalog.pg_class c JOIN touched USING (oid) \
     WHERE c.oid = ANY ('{read}'::pg_catalog.oid[]) LIMIT 1";

/// The function of PostgreSQL that finds a foreign key violated (`src/backend/utils/adt/ri_triggers.c`).
const FOREIGN_KEY_CHECK: &[u8] = b"ri_ReportViolation";

impl Session {
    /// Runs the parts in their order; the last one's answer is the statement's.
    pub(super) async fn with_writes(&mut self, ask: Ask, with: &WithWrites) -> Result<(), Failure> {
        self.may_prepare()?;
        self.open_implicit();
        let Some(types) = self.begin_in_steps(&ask).await? else { return Ok(()) };
        for written in &with.writes {
            self.check_apart(written).await?;
        }
        let clock = self.clock_of(&ask.text).await?;
        let mut made = with.unmade();
        let start = self.io.out.len();
        for at in with.writers() {
            let text = self.timed(with.part(Some(at), &made), clock.as_ref());
            self.check_length(&text)?;
            let columns = self.named_columns_of(&ask, (&text, &types)).await?;
            let stand = self.stand_in(&ask, (&text, &types), false).await?;
            let Some(read) = self.capture(&stand, text).await? else {
                return self.judge_key(with, start);
            };
            let rows: Vec<_> = read.into_iter().map(TextRow::into_values).collect();
            made[at] = Some(rows_as_query(&columns, &rows));
        }
        let text = self.timed(with.part(None, &made), clock.as_ref());
        self.check_length(&text)?;
        let stand = self.stand_in(&ask, (&text, &types), true).await?;
        Box::pin(self.spread(stand.ask(text))).await?;
        if ask.facts.effects.sequence {
            self.draws_on_several();
        }
        Ok(())
    }

    /// Refuses parts of which one would see what another has written.
    async fn check_apart(&mut self, written: &Written) -> Result<(), Failure> {
        if written.read_later.is_empty() {
            return Ok(());
        }
        let at = self.acquire(ShardId(0), false).await?;
        let read: Vec<String> = written.read_later.iter().map(u32::to_string).collect();
        const CHANGES: &str = "{c,n,d}";
        let (updates, deletes) = match written.verb.as_str() {
            "insert" => ("{}", "{}"),
            "update" => (CHANGES, "{}"),
            _ => (CHANGES, CHANGES),
        };
        let sql = TOUCHES
            .replace("{written}", &written.oid.to_string())
            .replace("{read}", &format!("{{{}}}", read.join(",")))
            .replace("{updates}", updates)
            .replace("{deletes}", deletes);
        match self.ask_rows(at, &sql).await?.first() {
            None => Ok(()),
            Some(row) => {
                let why = format!(
                    "What it writes to {} may change {}, which a later part reads.",
                    written.table,
                    row.text(0)
                );
                Err(Refusal::parts_of_with(&why).into())
            }
        }
    }

    /// PostgreSQL looks at foreign keys when all parts have run: one between two tables that are both written may hold then. `start`:
    /// where what the application is told of it begins.
    fn judge_key(&mut self, with: &WithWrites, start: usize) -> Result<(), Failure> {
        let Some(body) = self.events.error.as_ref().and_then(|frame| frame.get(HEADER..)) else {
            return Ok(());
        };
        let table = error_field(body, b't').filter(|_| self.events.is_of(FOREIGN_KEY_CHECK));
        let named = |written: &Written| table.is_some_and(|table| written.table.as_bytes() == table);
        let several = with.writes.windows(2).any(|pair| pair[0].oid != pair[1].oid);
        if !several || !with.writes.iter().any(named) {
            return Ok(());
        }
        self.events.error = None;
        self.io.out.truncate(start);
        Err(Refusal::parts_of_with(
            "A foreign key between two tables that it writes did not hold after one of its parts.",
        )
        .into())
    }

    /// The time, if the text asks for it: all of the statement has the same.
    pub(super) async fn clock_of(&mut self, text: &[u8]) -> Result<Option<TextRow>, Failure> {
        if !clocks::any(text, self.text_rules().standard_strings) {
            return Ok(None);
        }
        self.time(ShardId(0)).await.map(Some)
    }

    pub(super) fn timed(&self, text: String, clock: Option<&TextRow>) -> Bytes {
        let conforming = self.text_rules().standard_strings;
        let timed =
            clock.and_then(|row| clocks::replaced(text.as_bytes(), conforming, (row.text(0), row.text(1))));
        Bytes::from(timed.unwrap_or(text))
    }
}
