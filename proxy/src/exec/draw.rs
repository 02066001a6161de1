//! What the proxy asks a shard before it can send a statement: keys and defaults from sequences, keys of computed rows, the time.

use bytes::Bytes;
use router_config::topology::ShardId;

use super::ask::Share;
use super::bind;
use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::control::TextRow;
use crate::frontend::failure::Failure;
use crate::frontend::io::{ClientIo, StepError};
use crate::frontend::names::Prepared;
use crate::frontend::own_catalog::text_rows;
use crate::frontend::session::Session;
use crate::route::clocks;
use crate::route::origins::Origins;
use crate::route::plan::Draw;
use crate::sql::facts::{Command, Facts};
use crate::wire::{reply, sqlstate};

impl Session {
    /// The time is read once for all shares.
    pub(super) async fn read_clocks(&mut self, facts: &Facts, shares: &mut [Share]) -> Result<(), Failure> {
        let evaluates = matches!(
            facts.command,
            Command::Query | Command::Modify(_) | Command::CopyOut(_) | Command::Declare { .. }
        );
        let conforming = self.text_rules().standard_strings;
        let reads = |share: &Share| clocks::any(&share.text, conforming);
        if shares.len() < 2 || !evaluates || facts.unrepeatable.is_none() || !shares.iter().any(reads) {
            return Ok(());
        }
        let row = self.time(shares[0].shard).await?;
        for share in shares {
            if let Some(text) = clocks::replaced(&share.text, conforming, (row.text(0), row.text(1))) {
                share.text = Bytes::from(text);
                share.origins = Origins::default();
            }
        }
        Ok(())
    }

    /// What [`clocks::DRAW`] gives in the transaction: what comes later in it has the same time. One that has touched nothing yet begins
    /// at this shard.
    pub(super) async fn time(&mut self, first: ShardId) -> Result<TextRow, Failure> {
        let rows = match self.held.iter().position(|held| held.enlisted) {
            Some(at) => self.ask_rows(at, clocks::DRAW).await?,
            None if self.block.is_some() => {
                let at = self.acquire(first, false).await?;
                self.ask_rows(at, clocks::DRAW).await?
            }
            None => self.ask_apart(clocks::DRAW, None).await?,
        };
        let told = rows.into_iter().next();
        told.ok_or_else(|| Failure::error(sqlstate::INTERNAL_ERROR, "a shard did not tell the time"))
    }

    /// Values drawn on the home shard, outside of the application's transaction (as sequences are), unless the transaction
    /// has made what is drawn from. `bound`: the statement and Bind that the query takes its parameters from.
    pub async fn draw(
        &mut self,
        draw: &Draw,
        bound: Option<(&Prepared, &[u8])>,
    ) -> Result<Vec<String>, Failure> {
        let bound = bound.filter(|_| draw.with_params);
        let rows = if self.changes.own().is_some() {
            self.finish_pipelines().await?;
            let at = self.acquire(ShardId(0), false).await?;
            self.held[at].lease.drew_for = 0;
            match bound {
                None => self.ask_rows(at, &draw.sql).await?,
                Some(bound) => {
                    let mut events = Events::default();
                    let conn = &mut self.held[at].lease;
                    if let Err(error) = ask_bound(&mut self.io, conn, &draw.sql, bound, &mut events).await {
                        return Err(self.lose(at, error));
                    }
                    text_rows(&mut events)?
                }
            }
        } else {
            self.ask_apart(&draw.sql, bound).await?
        };
        let values: Option<Vec<String>> = rows.iter().map(|row| row.optional(0)).collect();
        values.filter(|values| draw.rows == 0 || values.len() == draw.rows).ok_or_else(|| {
            Failure::error("23502", "the default of the shard key gave NULL, or not one value for each row")
        })
    }

    /// A query of the proxy's own on a conn to the home shard that is not the session's.
    pub async fn ask_apart(
        &mut self,
        sql: &str,
        bound: Option<(&Prepared, &[u8])>,
    ) -> Result<Vec<TextRow>, Failure> {
        let mut held = self.lease_alone(ShardId(0)).await?;
        let mut events = Events::default();
        let conn = &mut held.lease;
        conn.drew_for = 0;
        let ran = match bound {
            None => super::single::ask(&mut self.io, conn, sql, &mut events).await,
            Some(bound) => ask_bound(&mut self.io, conn, sql, bound, &mut events).await,
        };
        if let Err(error) = ran {
            return Err(Failure::of_step(error, &self.shard_name(ShardId(0)), false));
        }
        text_rows(&mut events)
    }
}

/// As [`super::single::ask`], with the parameters of a Bind.
async fn ask_bound(
    io: &mut ClientIo,
    conn: &mut Conn,
    sql: &str,
    (statement, bind): (&Prepared, &[u8]),
    events: &mut Events,
) -> Result<(), StepError> {
    conn.capture = true;
    reply::parse(&mut conn.write, b"", sql.as_bytes(), &statement.type_bytes());
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    reply::bind(&mut conn.write, b"", b"", &bind::with_text_results(bind));
    conn.owe(Owed::Bind(Show::NOTHING));
    reply::execute(&mut conn.write, b"", 0);
    conn.owe(Owed::Execute(Show::NOTHING));
    conn.sync(Show::NOTHING);
    let ran = super::single::run(io, conn, events).await;
    conn.capture = false;
    ran
}
