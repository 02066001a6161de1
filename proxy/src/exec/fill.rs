//! A temporary table that is made out of rows of several shards: on the conn of the session's temporary tables.

use bytes::{BufMut, Bytes, BytesMut};
use router_config::topology::ShardId;

use super::ask::{Ask, Form, Share};
use crate::backend::owed::{Owed, Show};
use crate::control::TextRow;
use crate::frontend::failure::Failure;
use crate::frontend::session::Session;
use crate::sql::fill::Fill;
use crate::sql::schema::TEMPORARY;
use crate::sql::spelling::quote_ident;
use crate::wire::frontend::tag;
use crate::wire::reply;

/// Bytes of rows in one message.
const PIECE_BYTES: usize = 64 << 10;

impl Session {
    /// The query is run by whatever plan it has; then the table is made, and filled.
    pub(super) async fn fill(&mut self, ask: Ask, fill: &Fill) -> Result<(), Failure> {
        self.check_exact_texts()?;
        let types = self.types_of(&ask).await?;
        self.read_as_written(&ask).await?;
        if self.events.error.is_some() {
            return Ok(());
        }
        let rows = match &fill.query {
            None => None,
            Some(query) => {
                let query = Bytes::copy_from_slice(query.as_bytes());
                let stand = self.stand_in(&ask, (&query, &types), false).await?;
                let Some(rows) = self.capture(&stand, query).await? else { return Ok(()) };
                Some(rows)
            }
        };
        self.open_implicit();
        let make = Bytes::copy_from_slice(fill.make.as_bytes());
        let form = self.form_of(&ask, (&make, &types), true);
        let at = self.acquire(ShardId(0), false).await?;
        self.writes(at)?;
        self.expect(&ask.facts, &ask.text, Some(at));
        self.queue_share(at, &Share::new(ShardId(0), make), &form, Show::ERRORS)?;
        self.run(at).await?;
        if self.events.error.is_some() {
            return Ok(());
        }
        match rows {
            None => self.complete("CREATE TABLE AS"),
            Some(rows) => {
                self.put_rows(at, &fill.name, &rows).await?;
                if self.events.error.is_none() {
                    self.complete(&format!("SELECT {}", rows.len()));
                }
            }
        }
        Ok(())
    }

    /// What the home shard has to say against the statement, in the words of the application's text.
    async fn read_as_written(&mut self, ask: &Ask) -> Result<(), Failure> {
        let at = self.acquire(ShardId(0), false).await?;
        let held = &mut self.held[at];
        held.unnamed = None;
        let types = match &ask.form {
            Form::Query => Bytes::new(),
            Form::Execute { statement, .. } => statement.type_bytes(),
        };
        let conn = &mut *held.lease;
        reply::parse(&mut conn.write, b"", &ask.text, &types);
        conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
        conn.sync(Show::NOTHING);
        self.run(at).await
    }

    async fn put_rows(&mut self, at: usize, table: &str, rows: &[TextRow]) -> Result<(), Failure> {
        if rows.iter().all(|row| row.is_empty()) {
            return Ok(());
        }
        let held = &mut self.held[at];
        held.unnamed = None;
        let conn = &mut *held.lease;
        reply::query(
            &mut conn.write,
            format!("COPY {TEMPORARY}.{} FROM STDIN", quote_ident(table)).as_bytes(),
        );
        conn.owe(Owed::Query(Show::ERRORS));
        let mut piece = BytesMut::new();
        for (n, row) in rows.iter().enumerate() {
            line(row, &mut piece);
            if piece.len() >= PIECE_BYTES || n + 1 == rows.len() {
                reply::frame(&mut conn.write, tag::COPY_DATA, |b| b.extend_from_slice(&piece));
                piece.clear();
            }
        }
        reply::bare(&mut conn.write, tag::COPY_DONE);
        while !self.held[at].lease.is_quiet() {
            self.run(at).await?;
            self.events.copy_in = false;
        }
        Ok(())
    }
}

/// A row as a line of COPY in text format.
fn line(row: &TextRow, out: &mut BytesMut) {
    for (n, value) in row.values().enumerate() {
        if n > 0 {
            out.put_u8(b'\t');
        }
        match value {
            None => out.put_slice(b"\\N"),
            Some(value) => super::combine::escape(value.as_bytes(), out),
        }
    }
    out.put_u8(b'\n');
}
