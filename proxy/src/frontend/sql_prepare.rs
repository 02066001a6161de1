//! PREPARE and EXECUTE in SQL of statements on sharded tables: they join the session's other prepared statements, and each
//! EXECUTE is placed by its arguments.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use router_config::topology::ShardId;

use super::control::{is_control, queue_sync};
use super::failure::Failure;
use super::names::{Prepared, Told};
use super::session::Session;
use crate::backend::owed::{Owed, Show};
use crate::exec::bind;
use crate::exec::spread::{Ask, Form};
use crate::route::plan::{Draw, Target};
use crate::sql::facts::{Access, Command, Facts, Scope};
use crate::sql::sql_prepare;
use crate::wire::{frontend, reply, sqlstate};

impl Session {
    /// Whether PREPARE or EXECUTE is the session's own to run.
    pub fn prepares_here(&self, facts: &Facts) -> bool {
        let several = || self.worker.shared.topology.load().shards.len() > 1;
        match &facts.command {
            Command::Prepare(_) => several() && matches!(facts.scope, Scope::Sharded(_)),
            Command::Execute(name) => several() && self.names.statements.contains_key(name.as_bytes()),
            _ => false,
        }
    }

    /// Runs the PREPARE or EXECUTE `text`. `portal`: the Bind of it, in the extended protocol.
    pub async fn prepare_here(
        &mut self,
        facts: &Facts,
        text: &[u8],
        portal: Option<&Bytes>,
    ) -> Result<(), Failure> {
        match &facts.command {
            Command::Prepare(name) => self.prepare_in_sql(name, text).await,
            Command::Execute(name) => self.execute_in_sql(name, text, portal).await,
            _ => Ok(()),
        }
    }

    async fn prepare_in_sql(&mut self, name: &str, text: &[u8]) -> Result<(), Failure> {
        if self.names.statements.contains_key(name.as_bytes()) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Failure::error(sqlstate::DUPLICATE_STATEMENT, message));
        }
        self.check_statement_limit()?;
        let parts = sql_prepare::prepare(text, self.text_rules().standard_strings)
            .ok_or_else(|| Failure::error("42601", "a PREPARE of an unknown form"))?;
        let types = self.type_oids(&parts.types).await?;
        let body = &text[parts.statement];
        let mut raw = BytesMut::new();
        types.iter().for_each(|oid| raw.put_u32(*oid));
        let raw = raw.freeze();
        let analysed = self.analyse_extended(body);
        let reading = self.reading();
        let shared = self.worker.shared.registry.intern(self.parse_context(), body, &raw);
        self.try_parse(body, &raw).await?;
        if self.events.error.is_none() {
            let (types, gucs) = (types.into(), Arc::clone(self.gucs_in_force()));
            let told = Told::default();
            let prepared = Prepared { shared, analysed, reading, gucs, types, named: true, told };
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

    /// No session keeps more statements than it may.
    pub(super) fn check_statement_limit(&self) -> Result<(), Failure> {
        let limit = self.worker.shared.settings.load().limits.session_statements;
        if self.names.statements.len() < limit {
            return Ok(());
        }
        let message =
            format!("more than {limit} prepared statements in one session (limits.session_statements)");
        Err(Failure::error(sqlstate::PROGRAM_LIMIT_EXCEEDED, message))
    }

    /// Queues a Parse of an unnamed statement where the transaction is, else on the home shard; the index of the conn.
    async fn ask_to_parse(&mut self, text: &[u8], types: &Bytes) -> Result<usize, Failure> {
        let at = match self.held.iter().position(|held| held.enlisted) {
            Some(at) => at,
            None => self.acquire(ShardId(0), false).await?,
        };
        let held = &mut self.held[at];
        held.unnamed = None;
        let types = held.lease.own_types(types)?;
        reply::parse(&mut held.lease.write, b"", text, &types);
        held.lease.owe(Owed::Parse { show: Show::ERRORS, statement: None });
        Ok(at)
    }

    /// What PostgreSQL has to say against the statement.
    async fn try_parse(&mut self, body: &[u8], types: &Bytes) -> Result<(), Failure> {
        let at = self.ask_to_parse(body, types).await?;
        let conn = &mut *self.held[at].lease;
        queue_sync(conn);
        self.run_to_end(at).await
    }

    /// The statement that EXECUTE names, with a Bind of its arguments.
    async fn called(
        &mut self,
        name: &str,
        text: &[u8],
        portal: Option<&Bytes>,
    ) -> Result<(Arc<Prepared>, Arc<Facts>, Bytes), Failure> {
        let statement = self.names.statements.get(name.as_bytes()).cloned().ok_or_else(|| {
            let message = format!("prepared statement \"{name}\" does not exist");
            Failure::error(sqlstate::INVALID_STATEMENT_NAME, message)
        })?;
        let statement = self.reread(name.as_bytes(), statement);
        self.check_literals(&statement)?;
        let facts = statement.facts().cloned().filter(|facts| !is_control(&facts.command));
        let facts = facts.ok_or_else(|| {
            Failure::unsupported("EXECUTE of a command of this kind", "Send the command itself.")
        })?;
        let conforming = self.text_rules().standard_strings;
        let arguments = match sql_prepare::arguments(text, conforming) {
            Some(arguments) => arguments,
            None => self.evaluate(sql_prepare::expressions(text, conforming)).await?,
        };
        Ok((statement, facts, bind_of(&arguments, portal)))
    }

    /// What computed arguments come to, on the home shard; what reads tables of several shards is refused.
    async fn evaluate(&mut self, expressions: Option<Vec<String>>) -> Result<Vec<Option<String>>, Failure> {
        let refused = || {
            Failure::unsupported(
                "EXECUTE with arguments that may read sharded tables is not supported",
                "Give the arguments as literals, or bind them by the extended protocol.",
            )
        };
        let expressions = expressions.filter(|list| !list.is_empty()).ok_or_else(refused)?;
        let items: Vec<String> = expressions.iter().map(|item| format!("({item})::text")).collect();
        let sql = format!("SELECT {}", items.join(", "));
        let analysed = self.analyse_simple(sql.as_bytes());
        let facts = analysed.statements().first().map(|statement| &statement.facts);
        let harmless = |facts: &&Arc<Facts>| {
            facts.access != Access::Write
                && matches!(facts.scope, Scope::Nothing | Scope::Reference | Scope::Home)
        };
        facts.filter(harmless).ok_or_else(refused)?;
        let rows = self.ask_apart(&sql, None).await?;
        let row = rows.first().ok_or_else(refused)?;
        Ok((0..expressions.len()).map(|n| row.optional(n)).collect())
    }

    /// What EXECUTE will return.
    pub async fn describe_execute(
        &mut self,
        facts: &Facts,
        text: &[u8],
        portal: Option<&Bytes>,
    ) -> Result<(), Failure> {
        let Command::Execute(name) = &facts.command else { return Ok(()) };
        let (statement, _, bind) = self.called(name, text, portal).await?;
        let at = self.ask_to_parse(&statement.shared.text, &statement.type_bytes()).await?;
        let conn = &mut *self.held[at].lease;
        reply::bind(&mut conn.write, b"", b"", &bind);
        conn.owe(Owed::Bind(Show::ERRORS));
        reply::named(&mut conn.write, frontend::tag::DESCRIBE, true, b"");
        conn.owe(Owed::Describe(Show::ERRORS.and(Show::DESCRIPTION)));
        queue_sync(conn);
        self.run_to_end(at).await
    }

    async fn execute_in_sql(
        &mut self,
        name: &str,
        text: &[u8],
        portal: Option<&Bytes>,
    ) -> Result<(), Failure> {
        let (statement, facts, bind) = self.called(name, text, portal).await?;
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
        let describe = facts.returns_rows && portal.is_none();
        let text = statement.shared.text.clone();
        let form = Form::Execute { statement, bind, describe, max_rows: 0 };
        Box::pin(self.spread(Ask { plan, facts, text, form })).await
    }
}

/// A Bind after its names: the arguments in text format, results as the portal of EXECUTE wants them.
fn bind_of(arguments: &[Option<String>], portal: Option<&Bytes>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u16(0);
    out.put_u16(arguments.len() as u16);
    for argument in arguments {
        match argument {
            None => out.put_i32(-1),
            Some(value) => {
                out.put_i32(value.len() as i32);
                out.put_slice(value.as_bytes());
            }
        }
    }
    match portal {
        Some(portal) => out.put_slice(bind::result_formats_as_sent(portal)),
        None => out.put_u16(0),
    }
    out.freeze()
}
