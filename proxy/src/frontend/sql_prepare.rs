//! PREPARE and EXECUTE in SQL of statements on sharded tables: they join the session's other prepared statements, and each
//! EXECUTE is placed by its arguments.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use router_config::topology::ShardId;

use super::control::{is_control, queue_sync};
use super::failure::Failure;
use super::names::Prepared;
use super::session::Session;
use crate::backend::owed::{Owed, Show};
use crate::exec::spread::{Ask, Form};
use crate::route::plan::{Draw, Target};
use crate::sql::facts::{Command, Facts, Scope};
use crate::sql::sql_prepare;
use crate::wire::{reply, sqlstate};

impl Session {
    /// Whether PREPARE or EXECUTE is the session's own to run.
    pub fn prepares_here(&self, facts: &Facts) -> bool {
        let several = self.worker.shared.topology.load().shards.len() > 1;
        match &facts.command {
            Command::Prepare(_) => several && matches!(facts.scope, Scope::Sharded(_)),
            Command::Execute(name) => several && self.names.statements.contains_key(name.as_bytes()),
            _ => false,
        }
    }

    /// Runs the PREPARE or EXECUTE `text`.
    pub async fn prepare_here(&mut self, facts: &Facts, text: &[u8]) -> Result<(), Failure> {
        match &facts.command {
            Command::Prepare(name) => self.prepare_in_sql(name, text).await,
            Command::Execute(name) => self.execute_in_sql(name, text).await,
            _ => Ok(()),
        }
    }

    async fn prepare_in_sql(&mut self, name: &str, text: &[u8]) -> Result<(), Failure> {
        if self.names.statements.contains_key(name.as_bytes()) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Failure::error(sqlstate::DUPLICATE_STATEMENT, message));
        }
        let limit = self.worker.shared.settings.load().limits.session_statements;
        if self.names.statements.len() >= limit {
            let message =
                format!("more than {limit} prepared statements in one session (limits.session_statements)");
            return Err(Failure::error(sqlstate::PROGRAM_LIMIT_EXCEEDED, message));
        }
        let parts = sql_prepare::prepare(text, self.text_rules().standard_strings)
            .ok_or_else(|| Failure::error("42601", "a PREPARE of an unknown form"))?;
        let types = self.type_oids(&parts.types).await?;
        let body = &text[parts.statement];
        let mut raw = BytesMut::new();
        types.iter().for_each(|oid| raw.put_u32(*oid));
        let analysed = self.analyse_extended(body);
        let reading = self.reading();
        let shared = self.worker.shared.registry.intern(self.parse_context(), body, &raw);
        self.try_parse(body, &raw).await?;
        if self.events.error.is_none() {
            let prepared = Prepared { shared, analysed, reading, types: types.into(), named: true };
            self.names.statements.insert(Bytes::copy_from_slice(name.as_bytes()), Arc::new(prepared));
            self.answer("PREPARE");
        }
        Ok(())
    }

    /// OIDs of types by their names.
    async fn type_oids(&mut self, names: &[String]) -> Result<Vec<u32>, Failure> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let listed: Vec<String> = names.iter().map(|n| format!("('{}')", n.replace('\'', "''"))).collect();
        let sql = format!("SELECT t::regtype::oid FROM (VALUES {}) v(t)", listed.join(", "));
        let oids = self.draw(&Draw { sql, rows: names.len(), with_params: false }, None).await?;
        Ok(oids.iter().map(|oid| oid.parse().unwrap_or(0)).collect())
    }

    /// What PostgreSQL has to say against the statement.
    async fn try_parse(&mut self, body: &[u8], types: &[u8]) -> Result<(), Failure> {
        let at = match self.held.iter().position(|held| held.enlisted) {
            Some(at) => at,
            None => self.acquire(ShardId(0), false).await?,
        };
        let held = &mut self.held[at];
        held.unnamed = None;
        let conn = &mut *held.lease;
        reply::parse(&mut conn.write, b"", body, types);
        conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
        queue_sync(conn);
        self.run_to_end(at, false).await
    }

    async fn execute_in_sql(&mut self, name: &str, text: &[u8]) -> Result<(), Failure> {
        let Some(statement) = self.names.statements.get(name.as_bytes()).cloned() else { return Ok(()) };
        let statement = self.reread(name.as_bytes(), statement);
        let facts = statement.facts().cloned().filter(|facts| !is_control(&facts.command));
        let arguments = sql_prepare::arguments(text, self.text_rules().standard_strings);
        let (Some(facts), Some(arguments)) = (facts, arguments) else {
            return Err(Failure::unsupported(
                "EXECUTE with computed arguments, of a statement on sharded tables, is not supported",
                "Give the arguments as literals, or bind them by the extended protocol.",
            ));
        };
        let bind = bind_of(&arguments);
        self.ask_types(&statement).await?;
        let plan = self.plan_bind(&statement, &bind, None)?;
        let plan = match plan.target {
            Target::Draw(draw) => {
                let drawn = self.draw(&draw, Some((&statement, &bind))).await?;
                self.drew_key(&facts, &draw, &drawn);
                self.plan_bind(&statement, &bind, Some(&drawn))?
            }
            _ => plan,
        };
        let describe = facts.returns_rows;
        let text = statement.shared.text.clone();
        let form = Form::Execute { statement, bind, describe, max_rows: 0 };
        Box::pin(self.spread(Ask { plan, facts, text, form })).await
    }
}

/// A Bind after its names: everything in text format.
fn bind_of(arguments: &[Option<String>]) -> Bytes {
    let mut bind = BytesMut::new();
    bind.put_u16(0);
    bind.put_u16(arguments.len() as u16);
    for argument in arguments {
        match argument {
            None => bind.put_i32(-1),
            Some(value) => {
                bind.put_i32(value.len() as i32);
                bind.put_slice(value.as_bytes());
            }
        }
    }
    bind.put_u16(0);
    bind.freeze()
}
