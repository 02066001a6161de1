//! PREPARE and EXECUTE in SQL of statements on sharded tables: they join the session's other prepared statements, and each
//! EXECUTE is placed by its arguments.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use router_config::topology::ShardId;

use super::control::{SYNC_SHOWN, is_control};
use super::failure::Failure;
use super::io::{ClientIo, StepError};
use super::names::{Prepared, Told};
use super::own_catalog::text_rows;
use super::session::Session;
use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::exec::ask::{Ask, Form};
use crate::exec::{bind, single};
use crate::route::plan::{Draw, Target};
use crate::route::refusal::Refusal;
use crate::sql::facts::{Access, Command, Facts, PinCause, Scope};
use crate::sql::normalise::identifiers;
use crate::sql::sql_prepare;
use crate::wire::backend::Status;
use crate::wire::{frontend, reply, sqlstate};

impl Session {
    /// Whether PREPARE or EXECUTE is the session's own to run.
    pub fn prepares_here(&self, facts: &Facts) -> bool {
        let several = || self.worker.shared.topology.load().shards.len() > 1;
        match &facts.command {
            Command::Prepare(_) => {
                matches!(facts.scope, Scope::Sharded(_) | Scope::ReferenceWrite) && several()
            }
            Command::Execute(name) => several() && self.names.statements.contains_key(name.as_bytes()),
            _ => false,
        }
    }

    /// The statement that EXPLAIN EXECUTE names and that is the session's own, and where EXECUTE begins.
    pub(super) fn explains_here(&self, facts: &Facts, text: &[u8]) -> Option<(String, usize)> {
        if !matches!(facts.command, Command::Explain) || !self.is_placed() {
            return None;
        }
        let found = sql_prepare::explained(text, self.text_rules().standard_strings);
        found.filter(|(name, _)| self.names.statements.contains_key(name.as_bytes()))
    }

    /// In the extended protocol the plan is described as text.
    pub(super) fn check_explained(&self, text: &[u8]) -> Result<(), Failure> {
        let mut typed = false;
        identifiers(text, self.text_rules().standard_strings, false, &mut |name| {
            typed |= matches!(name, "json" | "xml");
        });
        if !typed {
            return Ok(());
        }
        Err(Failure::unsupported(
            "EXPLAIN EXECUTE of a statement on sharded tables in this format in the extended protocol is not supported",
            "Send it by the simple protocol, or with FORMAT TEXT.",
        ))
    }

    /// The name that a PREPARE gives.
    pub(super) fn name_of_prepare(&self, facts: &Facts, text: &[u8]) -> Option<String> {
        match &facts.command {
            Command::Prepare(name) => Some(name.clone()),
            Command::Unreadable { .. } if facts.effects.pins == Some(PinCause::SqlPrepare) => {
                sql_prepare::unread(text, self.text_rules().standard_strings)
            }
            _ => None,
        }
    }

    /// DECLARE does not take the name of a cursor or portal, which may be on another shard.
    pub(super) fn check_cursor_free(&self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::Declare { name, .. } => self.check_portal_free(name.as_bytes()),
            _ => Ok(()),
        }
    }

    fn check_portal_free(&self, name: &[u8]) -> Result<(), Failure> {
        if !self.names.has_cursor(name) {
            return Ok(());
        }
        let message = format!("cursor \"{}\" already exists", String::from_utf8_lossy(name));
        Err(Failure::error(sqlstate::DUPLICATE_CURSOR, message))
    }

    /// Bind takes the name of no cursor or portal either, wherever that is.
    pub(super) async fn take_portal_name(&mut self, name: &[u8]) -> Result<(), Failure> {
        if name.is_empty() || self.status() == Status::Failed {
            return Ok(());
        }
        if !self.pending.is_empty() {
            // It may close the cursor, or be a savepoint.
            if self.block.is_none() {
                return Ok(());
            }
            self.rest().await?;
        }
        self.check_portal_free(name)?;
        if let Some(block) = &mut self.block {
            block.declare(&String::from_utf8_lossy(name));
        }
        Ok(())
    }

    /// A PREPARE that goes to a server does not take a name that the session has for a statement of its own.
    pub(super) fn check_name_free(&self, facts: &Facts, text: &[u8]) -> Result<(), Failure> {
        if self.names.statements.is_empty() || facts.effects.pins != Some(PinCause::SqlPrepare) {
            return Ok(());
        }
        match self.name_of_prepare(facts, text) {
            Some(name) if self.names.statements.contains_key(name.as_bytes()) => Err(name_taken(&name)),
            _ => Ok(()),
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
        if self.names.has_statement(name.as_bytes()) {
            return Err(name_taken(name));
        }
        self.check_statement_limit()?;
        let parts = sql_prepare::prepare(text, self.text_rules().standard_strings)
            .ok_or_else(|| Failure::error("42601", "a PREPARE of an unknown form"))?;
        let types = self.type_oids(&parts.types).await?;
        let ahead = self.characters(&text[..parts.statement.start]);
        let body = &text[parts.statement];
        let mut raw = BytesMut::new();
        types.iter().for_each(|oid| raw.put_u32(*oid));
        let raw = raw.freeze();
        let analysed = self.analyse_extended(body);
        let reading = self.reading();
        let shared = self.worker.shared.registry.intern(self.parse_context(), body, &raw);
        let (types, gucs, told) = (types.into(), Arc::clone(self.gucs_in_force()), Told::default());
        let prepared = Arc::new(Prepared { shared, analysed, reading, gucs, types, named: true, told });
        let key = Bytes::copy_from_slice(name.as_bytes());
        self.names.statements.insert(key.clone(), Arc::clone(&prepared));
        let before = std::mem::replace(&mut self.events.ahead, ahead);
        self.events.ahead += before;
        let tried = self.try_parse(&prepared, &raw).await;
        self.events.ahead = before;
        match self.names.statements.get(&key) {
            Some(prepared) if tried.is_ok() && self.events.error.is_none() => {
                prepared.told.set();
                self.answer("PREPARE");
            }
            _ => drop(self.names.statements.remove(&key)),
        }
        tried
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
        let at = match self.held.iter().position(|held| held.enlisted && !self.has_temporary()) {
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

    /// What PostgreSQL has to say against the statement; if nothing, what it makes of it.
    async fn try_parse(&mut self, prepared: &Arc<Prepared>, types: &Bytes) -> Result<(), Failure> {
        let at = self.ask_to_parse(&prepared.shared.text, types).await?;
        let conn = &mut *self.held[at].lease;
        reply::named(&mut conn.write, frontend::tag::DESCRIBE, false, b"");
        let (of, by) = (Arc::clone(&prepared.shared), Some(Arc::as_ptr(prepared).addr()));
        conn.owe(Owed::Shape { of, by, hidden: 0 });
        conn.sync(SYNC_SHOWN);
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
        let written = sql_prepare::expressions(text, conforming)
            .ok_or_else(|| Failure::error("42601", "syntax error in the arguments of EXECUTE"))?;
        let types = match statement.shared.origin.get() {
            Some(shape) if shape.params.len() != written.len() => {
                return Err(wrong_number(name, shape.params.len(), written.len()));
            }
            Some(shape) => shape.params.clone(),
            None => statement.types.clone(),
        };
        let arguments = match sql_prepare::arguments(text, conforming, &types) {
            Some(arguments) => arguments,
            None => self.evaluate(&statement, &written).await?,
        };
        Ok((statement, facts, bind_of(&arguments, portal)))
    }

    /// What computed arguments come to, cast to the types of the parameters, on the home shard; what reads tables of several shards
    /// is refused.
    async fn evaluate(
        &mut self,
        statement: &Prepared,
        written: &[String],
    ) -> Result<Vec<Option<String>>, Failure> {
        let items: Vec<String> = written.iter().map(|item| format!("({item})::text")).collect();
        let analysed = self.analyse_simple(format!("SELECT {}", items.join(", ")).as_bytes());
        let facts = analysed.statements().first().map(|statement| &statement.facts);
        let harmless = |facts: &&Arc<Facts>| {
            facts.access != Access::Write
                && matches!(facts.scope, Scope::Nothing | Scope::Reference | Scope::Home)
        };
        facts.filter(harmless).ok_or_else(refused)?;
        let mut held = self.lease_alone(ShardId(0)).await?;
        let mut events = Events::default();
        let conn = &mut held.lease;
        conn.drew_for = 0;
        let cast = cast(&mut self.io, conn, (&statement.type_bytes(), written), &mut events).await;
        cast.map_err(|error| Failure::of_step(error, &self.shard_name(ShardId(0)), false))?;
        let rows = text_rows(&mut events)?;
        let row = rows.first().ok_or_else(refused)?;
        Ok((0..written.len()).map(|n| row.optional(n)).collect())
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
        conn.sync(SYNC_SHOWN);
        self.run_to_end(at).await
    }

    /// EXPLAIN of EXECUTE: of the statement with its arguments. EXECUTE begins at the byte `execute`.
    pub(super) async fn explain_execute(
        &mut self,
        name: &str,
        (text, execute): (&[u8], usize),
        portal: Option<&Bytes>,
    ) -> Result<(), Failure> {
        let (statement, _, bind) = self.called(name, &text[execute..], portal).await?;
        let text: Bytes = [&text[..execute], &statement.shared.text].concat().into();
        let analysed = self.analyse_extended(&text);
        let types = statement.type_bytes();
        let shared = self.worker.shared.registry.intern(self.parse_context(), &text, &types);
        let (types, told) = (statement.types().into(), Told::default());
        let explained = Prepared { shared, analysed, types, told, ..(*statement).clone() };
        let facts = explained.facts().cloned().ok_or_else(refused)?;
        let plan = self.plan_bind(&explained, &bind, None)?;
        let describe = portal.is_none();
        let form = Form::Execute { statement: Arc::new(explained), bind, describe, max_rows: 0 };
        Box::pin(self.spread(Ask { plan, facts, text, form })).await
    }

    async fn execute_in_sql(
        &mut self,
        name: &str,
        text: &[u8],
        portal: Option<&Bytes>,
    ) -> Result<(), Failure> {
        let (statement, facts, bind) = self.called(name, text, portal).await?;
        let (statement, facts) = self.over_temporary((statement, facts)).await?;
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

/// Has a server cast arguments as EXECUTE does, by an EXECUTE of a statement that gives its parameters back.
async fn cast(
    io: &mut ClientIo,
    conn: &mut Conn,
    (types, written): (&Bytes, &[String]),
    events: &mut Events,
) -> Result<(), StepError> {
    const NAME: &str = "gavel_arguments";
    let columns: Vec<String> = (1..=written.len()).map(|n| format!("${n}")).collect();
    (conn.capture, conn.rewritten) = (true, Some(Box::default()));
    let text = format!("SELECT {}", columns.join(", "));
    reply::parse(&mut conn.write, NAME.as_bytes(), text.as_bytes(), types);
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    conn.sync(Show::NOTHING);
    reply::query(&mut conn.write, format!("EXECUTE {NAME} ({})", written.join(", ")).as_bytes());
    conn.owe(Owed::Query(Show::NOTHING));
    reply::named(&mut conn.write, frontend::tag::CLOSE, false, NAME.as_bytes());
    conn.owe(Owed::Close(Show::NOTHING));
    conn.sync(Show::NOTHING);
    let ran = single::run(io, conn, events).await;
    (conn.capture, conn.rewritten) = (false, None);
    ran
}

fn name_taken(name: &str) -> Failure {
    let message = format!("prepared statement \"{name}\" already exists");
    Failure::error(sqlstate::DUPLICATE_STATEMENT, message)
}

fn wrong_number(name: &str, wanted: usize, given: usize) -> Failure {
    let message = format!("wrong number of parameters for prepared statement \"{name}\"");
    let detail = Some(format!("Expected {wanted} parameters but got {given}."));
    Refusal { sqlstate: "42601", message, detail, hint: None }.into()
}

fn refused() -> Failure {
    Failure::unsupported(
        "EXECUTE with arguments that may read sharded tables is not supported",
        "Give the arguments as literals, or bind them by the extended protocol.",
    )
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
