//! Statements: Parse, Describe, and the shared statement of a conn that stands for the application's own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use router_config::topology::ShardId;
use smallvec::SmallVec;

use super::{Op, unknown_portal, unknown_statement};
use crate::backend::conn::Conn;
use crate::backend::owed::{Owed, Show};
use crate::backend::prepared::SharedStatement;
use crate::frontend::control::is_control;
use crate::frontend::failure::Failure;
use crate::frontend::names::{Cursor, Place, Prepared, Told};
use crate::frontend::session::Session;
use crate::metrics::Cache;
use crate::route::plan::{Plan, Target};
use crate::sql::cache::Analysed;
use crate::sql::facts::{Command, Facts, Scope};
use crate::sql::fetch;
use crate::wire::backend::{Status, tag as backend_tag};
use crate::wire::frontend::{Bind, Named, Parse, tag};
use crate::wire::{reply, sqlstate};

/// A Bind is looked for in so many frames behind its Parse. Drivers send it right behind, and a pipeline of nothing but
/// Parse shall not cost the square of its length.
const BIND_WITHIN: usize = 16;

impl Session {
    pub(super) async fn op_parse(
        &mut self,
        batch: &Bytes,
        ops: &[Op],
        index: usize,
        body: &Bytes,
    ) -> Result<(), Failure> {
        let parse = Parse::read(body)?;
        let name = Bytes::copy_from_slice(parse.name);
        if !name.is_empty() && self.names.has_statement(&name) && self.failed_shard().is_none() {
            let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name));
            return Err(Failure::error(sqlstate::DUPLICATE_STATEMENT, message));
        }
        self.check_statement_limit()?;
        self.see_catalog().await?;
        let analysed = self.read_extended(parse.text).await?;
        let shared = self.worker.shared.registry.intern(self.parse_context(), parse.text, parse.types);
        let prepared = self.make_prepared(&parse, shared, analysed);
        self.names.statements.insert(name.clone(), Arc::clone(&prepared));
        self.pipeline.parsed.push(name.clone());
        self.heed(prepared.facts().map(|facts| &**facts));
        let Some(facts) = prepared.facts() else {
            let at = self.goto(ShardId(0), false).await?;
            return self.put_parse(at, &prepared, Show::ALL).map(|_| ());
        };
        if self.answered_here(facts) {
            return self.local_bare(backend_tag::PARSE_COMPLETE);
        }
        if let Some(shard) = self.failed_place(facts)? {
            let at = self.goto(shard, false).await?;
            return self.put_parse(at, &prepared, Show::ALL).map(|_| ());
        }
        self.ask_types(&prepared).await?;
        match self.plan_ahead(batch, &ops[index + 1..], &name, &prepared) {
            // What one server is not sent as it is must have been read by one as it is.
            Ahead::Spread if prepared.is_accepted() || !prepared.is_planned() => {
                self.local_bare(backend_tag::PARSE_COMPLETE)
            }
            Ahead::One(shard, replica) => {
                let before = self.touched(shard);
                let at = self.goto(shard, replica).await?;
                self.held[at].untouched = !before;
                self.put_parse(at, &prepared, Show::ALL).map(|_| ())
            }
            // Known to be right: answered at once, sent along with its first Bind.
            Ahead::Nothing if prepared.is_accepted() => self.local_bare(backend_tag::PARSE_COMPLETE),
            Ahead::Nothing | Ahead::Spread => {
                let shard = self.describing_shard(&prepared);
                let at = self.goto_to_describe(shard).await?;
                self.put_parse(at, &prepared, Show::ALL).map(|_| ())
            }
        }
    }

    /// The statement of a Parse, for this session.
    pub(super) fn make_prepared(
        &mut self,
        parse: &Parse<'_>,
        shared: Arc<SharedStatement>,
        analysed: Analysed,
    ) -> Arc<Prepared> {
        let reading = self.reading();
        let types =
            parse.types.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        let gucs = Arc::clone(self.gucs_in_force());
        let (named, told) = (!parse.name.is_empty(), Told::default());
        Arc::new(Prepared { shared, analysed, reading, gucs, types, named, told })
    }

    /// Where a Parse is best sent: where its Bind in the same batch will go.
    fn plan_ahead(&mut self, batch: &Bytes, later: &[Op], name: &[u8], prepared: &Prepared) -> Ahead {
        for op in later.iter().take(BIND_WITHIN) {
            let body = &batch[op.body.clone()];
            match op.tag {
                tag::BIND => {
                    let Ok(bind) = Bind::read(body) else { return Ahead::Nothing };
                    if bind.statement != name {
                        continue;
                    }
                    let Ok(plan) = self.plan_bind(prepared, bind.rest, None) else { return Ahead::Nothing };
                    let ahead = match &plan.target {
                        Target::One(shard) | Target::Nowhere(shard) => Ahead::One(*shard, plan.replica),
                        Target::Any => Ahead::One(self.any_shard_for(bind.rest), plan.replica),
                        _ => Ahead::Spread,
                    };
                    // A plan for any shard is fixed here, so that Bind finds the statement where Parse put it.
                    let plan = match ahead {
                        Ahead::One(shard, _) => Plan { target: Target::One(shard), ..plan },
                        Ahead::Spread | Ahead::Nothing => plan,
                    };
                    self.pipeline.planned = Some((op.body.start, plan));
                    return ahead;
                }
                tag::PARSE if Parse::read(body).is_ok_and(|parse| parse.name == name) => {
                    return Ahead::Nothing;
                }
                tag::SYNC | tag::QUERY => return Ahead::Nothing,
                _ => {}
            }
        }
        Ahead::Nothing
    }

    /// The shard that is asked about a statement before its values are known.
    pub(in crate::frontend) fn describing_shard(&mut self, prepared: &Prepared) -> ShardId {
        if let Some(Command::Fetch(name)) = prepared.facts().map(|facts| &facts.command)
            && let Some(Cursor::One { shard, .. }) = self.names.cursors.get(name)
        {
            return *shard;
        }
        if prepared.facts().is_some_and(|facts| self.needs_temporary(facts)) {
            return ShardId(0);
        }
        match (prepared.facts().map(|facts| &facts.scope), self.busy_shard()) {
            (Some(Scope::Nothing | Scope::Reference | Scope::Sharded(_)), Some(shard)) => shard,
            // What all shards have alike can be asked of one that is up.
            (Some(Scope::Nothing | Scope::Reference | Scope::Sharded(_)), None) => {
                self.pins.names().unwrap_or_else(|| self.worker.shared.nodes().first_with_primary())
            }
            _ => self.pins.names().unwrap_or(ShardId(0)),
        }
    }

    /// Sends a Parse where the conn does not have the statement yet; whether its answer has to be awaited before the statement is
    /// used.
    fn put_parse(&mut self, at: usize, prepared: &Prepared, show: Show) -> Result<bool, Failure> {
        let held = &mut self.held[at];
        let conn = &mut *held.lease;
        let shared = &prepared.shared;
        let healthy = conn.status != Status::Failed;
        let known = healthy && conn.prepared.touch(shared.id);
        self.worker.shared.metrics.cache(Cache::Statements, known);
        if known {
            if show.has(Show::COMPLETE) && conn.owed_len() > 0 {
                conn.owe(Owed::Local(Bytes::from_static(b"1\0\0\0\x04")));
                held.unsynced = true;
            } else if show.has(Show::COMPLETE) {
                // Nothing is in front of it: it need not wait for this conn, which may not be the next one used.
                self.local_bare(backend_tag::PARSE_COMPLETE)?;
            }
            return Ok(false);
        }
        let types = if prepared.told.get() { prepared.type_bytes() } else { shared.types.clone() };
        let types = conn.own_types(&types)?;
        held.unsynced = true;
        let retired: SmallVec<[u64; 1]> = conn.prepared.retired().collect();
        for old in retired {
            reply::named(&mut conn.write, tag::CLOSE, false, format!("gavel_{old}").as_bytes());
            conn.owe(Owed::Close(Show::ERRORS));
        }
        let popular = prepared.named || shared.parses.load(Ordering::Relaxed) > 1;
        let lasts = popular && healthy && prepared.facts().is_some() && !prepared.fetches();
        let name: &[u8] = if lasts { &shared.name } else { b"" };
        if lasts {
            let limit = self.worker.shared.settings.load().pool.statements;
            if let Some(old) = conn.prepared.add(shared.id, limit) {
                reply::named(&mut conn.write, tag::CLOSE, false, format!("gavel_{old}").as_bytes());
                conn.owe(Owed::Close(Show::ERRORS));
            }
        } else {
            held.unnamed = Some(shared.id);
        }
        reply::parse(&mut conn.write, name, &shared.text, &types);
        conn.owe(Owed::Parse { show, statement: lasts.then_some(shared.id) });
        Ok(healthy && prepared.facts().is_some() && put_shape(conn, prepared, name))
    }

    /// Makes sure that the conn has the statement, as the application knows it; its name there.
    pub(in crate::frontend) async fn ensure_statement<'a>(
        &mut self,
        at: usize,
        prepared: &'a Prepared,
    ) -> Result<&'a [u8], Failure> {
        let held = &mut self.held[at];
        let id = prepared.shared.id;
        if held.lease.prepared.touch(id) {
            // The Parse of an unnamed one has been counted in this very request.
            if prepared.named {
                self.worker.shared.metrics.cache(Cache::Statements, true);
            }
            return Ok(&prepared.shared.name);
        }
        if held.unnamed == Some(id) && !prepared.fetches() {
            return Ok(b"");
        }
        if self.put_parse(at, prepared, Show::ERRORS)? {
            Box::pin(self.await_shape(at, prepared)).await?;
        }
        let named = self.held[at].lease.prepared.touch(id);
        Ok(if named { &prepared.shared.name } else { b"" })
    }

    pub(super) async fn op_describe(&mut self, body: &Bytes) -> Result<(), Failure> {
        let named = Named::read(tag::DESCRIBE, body)?;
        if named.portal {
            let Some(portal) = self.names.portals.get(named.name).cloned() else {
                if self.check_doomed().is_ok() && self.describe_cursor(named.name).await? {
                    return Ok(());
                }
                let owed = Owed::Describe(Show::ALL);
                return self.raw_or(tag::DESCRIBE, body, owed, || unknown_portal(named.name)).await;
            };
            return match portal.place {
                Place::Control { bind } => self.describe_control(&portal.statement, Some(&bind)).await,
                Place::Walk { walk, bind, .. } => {
                    self.leave_all().await?;
                    self.describe_walk(&portal.statement, &bind, &walk).await?;
                    self.pipeline.skipping |= self.events.error.is_some();
                    Ok(())
                }
                Place::Shard(shard) => self.raw(shard, tag::DESCRIBE, body, Owed::Describe(Show::ALL)).await,
                Place::Combined { bind } => {
                    self.leave_all().await?;
                    self.describe_bound(ShardId(0), &portal.statement, &bind).await
                }
                Place::Spread { .. } if copies(&portal.statement) || declares(&portal.statement) => {
                    self.local_bare(backend_tag::NO_DATA)
                }
                Place::Spread { .. } => {
                    self.pipeline.describe = Some(Bytes::copy_from_slice(named.name));
                    Ok(())
                }
            };
        }
        let Some(prepared) = self.names.statements.get(named.name).cloned() else {
            let owed = Owed::Describe(Show::ALL);
            return self.raw_or(tag::DESCRIBE, body, owed, || unknown_statement(named.name)).await;
        };
        // What returns no rows is described in a failed transaction too.
        let here = |facts: &Arc<Facts>| self.answered_here(facts) || is_control(&facts.command);
        if prepared.facts().is_some_and(here) {
            return self.describe_control(&prepared, None).await;
        }
        if self.describe_fetch(&prepared).await? {
            return Ok(());
        }
        let shard = match self.failed_shard() {
            Some(shard) => shard,
            None => self.describing_shard(&prepared),
        };
        let at = self.goto_to_describe(shard).await?;
        let statement = self.ensure_statement(at, &prepared).await?;
        prepared.told.set();
        let held = &mut self.held[at];
        reply::named(&mut held.lease.write, tag::DESCRIBE, false, statement);
        held.lease.owe(Owed::Describe(Show::ALL));
        held.unsynced = true;
        Ok(())
    }

    /// Describe of a FETCH from a cursor of DECLARE over several shards; whether it is one. No server's Parse finds the cursor.
    async fn describe_fetch(&mut self, prepared: &Prepared) -> Result<bool, Failure> {
        let Some(Command::Fetch(name)) = prepared.facts().map(|facts| &facts.command) else {
            return Ok(false);
        };
        let elsewhere =
            matches!(self.names.cursors.get(name), Some(Cursor::Several(_) | Cursor::Combined { .. }));
        let moves = fetch::moves(&prepared.shared.text, self.text_rules().standard_strings);
        if !elsewhere || moves || self.failed_shard().is_some() {
            return Ok(false);
        }
        let mut frame = BytesMut::new();
        reply::frame(&mut frame, backend_tag::PARAMETER_DESCRIPTION, |b| b.put_u16(0));
        self.local(frame.freeze());
        self.describe_cursor(name.as_bytes()).await
    }

    /// Describe of a cursor of DECLARE over several shards, by its name; whether it is one.
    async fn describe_cursor(&mut self, name: &[u8]) -> Result<bool, Failure> {
        let known = std::str::from_utf8(name).ok().and_then(|name| self.names.cursors.get(name));
        match known.cloned() {
            Some(Cursor::Several(walk)) => {
                self.leave_all().await?;
                self.describe_several(name, &walk).await?;
            }
            Some(Cursor::Combined { .. }) => {
                self.leave_all().await?;
                self.describe_kept(name).await?;
            }
            Some(Cursor::One { .. }) | None => return Ok(false),
        }
        self.pipeline.skipping |= self.events.error.is_some();
        Ok(true)
    }

    /// `portal`: the Bind of the portal that is described, if it is one.
    async fn describe_control(&mut self, prepared: &Prepared, portal: Option<&Bytes>) -> Result<(), Failure> {
        let facts = prepared.facts();
        let explains = facts.is_some_and(|facts| matches!(facts.command, Command::ExplainGavel(_)));
        let mut frame = BytesMut::new();
        if portal.is_none() {
            let types = if explains { self.types_of_explained(prepared).await? } else { Vec::new() };
            reply::frame(&mut frame, backend_tag::PARAMETER_DESCRIPTION, |b| {
                b.put_u16(types.len() as u16);
                types.iter().for_each(|oid| b.put_u32(*oid));
            });
        }
        let executes = facts.filter(|facts| matches!(facts.command, Command::Execute(_)));
        if let Some(facts) = executes.cloned().filter(|facts| self.prepares_here(facts)) {
            self.local(frame.freeze());
            self.leave_all().await?;
            return self.describe_execute(&facts, &prepared.shared.text, portal).await;
        }
        if explains || facts.is_some_and(|facts| matches!(facts.command, Command::Explain)) {
            reply::text_row_description(&mut frame, &["QUERY PLAN"]);
        } else {
            reply::bare(&mut frame, backend_tag::NO_DATA);
        }
        self.local(frame.freeze());
        Ok(())
    }
}

/// Whether it is a COPY, whose rows are none of a result.
fn copies(statement: &Prepared) -> bool {
    let out = |facts: &Arc<Facts>| matches!(facts.command, Command::CopyOut(_));
    statement.takes_copy() || statement.facts().is_some_and(out)
}

/// Whether it is a DECLARE, which returns no rows.
fn declares(statement: &Prepared) -> bool {
    statement.facts().is_some_and(|facts| matches!(facts.command, Command::Declare { .. }))
}

/// Asks for the shape of a statement whose Parse has just been queued, where it matters; whether it must be what it was.
fn put_shape(conn: &mut Conn, prepared: &Prepared, name: &[u8]) -> bool {
    let must_stay = prepared.must_stay();
    let first = prepared.shared.origin.get().is_none();
    if !(must_stay || first || (!prepared.told.get() && prepared.is_planned())) {
        return false;
    }
    reply::named(&mut conn.write, tag::DESCRIBE, false, name);
    let by = (!must_stay).then_some(std::ptr::from_ref(prepared).addr());
    conn.owe(Owed::Shape { of: Arc::clone(&prepared.shared), by, hidden: 0 });
    must_stay
}

/// Where the Bind of a Parse will go.
enum Ahead {
    One(ShardId, bool),
    Spread,
    Nothing,
}

impl Prepared {
    /// Whether a server has accepted the like.
    fn is_accepted(&self) -> bool {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Whether it is FETCH or MOVE. What a server has read of it holds as long as the cursor lives: PostgreSQL 15 crashes when a
    /// prepared FETCH is described after that.
    fn fetches(&self) -> bool {
        matches!(self.facts().map(|facts| &facts.command), Some(Command::Fetch(_)))
    }

    /// Facts of its one statement; `None` for a text of several, which PostgreSQL rejects.
    pub fn facts(&self) -> Option<&Arc<Facts>> {
        match self.analysed.statements() {
            [only] => Some(&only.facts),
            _ => None,
        }
    }
}
