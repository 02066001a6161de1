//! The extended protocol: frames up to Sync or Flush, placed one after the other.
//!
//! Frames that go to the same shard are sent in one write and answered in one go. When the shard changes, what is owed is
//! awaited first, so that PostgreSQL's order of execution and its stop at the first error hold. Replies of the proxy's own keep their
//! place in the line ([`Owed::Local`]).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use router_config::topology::ShardId;
use smallvec::SmallVec;

use super::control::{Via, aborted, is_control, queue_sync};
use super::failure::Failure;
use super::io::ClientError;
use super::names::{Place, Portal, Prepared};
use super::session::Session;
use super::transaction::Block;
use super::watch::Why;
use crate::backend::owed::{Owed, Show};
use crate::exec::spread::{Ask, Form};
use crate::metrics::Cache;
use crate::route::plan::{Plan, Target};
use crate::route::values::BindParams;
use crate::sql::facts::{Access, Command, Facts, Scope};
use crate::wire::backend::{Status, tag as backend_tag};
use crate::wire::frame::{self, HEADER};
use crate::wire::frontend::{Bind, Execute, Named, Parse, bare, tag};
use crate::wire::{reply, sqlstate};

/// One frame of a batch.
#[derive(Debug, Clone)]
pub struct Op {
    tag: u8,
    body: Range<usize>,
}

/// What a session remembers between the frames of one pipeline.
#[derive(Debug, Default)]
pub struct PipelineState {
    /// After an error: everything up to Sync is skipped.
    pub skipping: bool,
    /// The error was the proxy's own: what the pipeline did before it is to be rolled back at Sync.
    refused: bool,
    /// Names given by Parse in this pipeline, in order, until they are confirmed.
    parsed: Vec<Bytes>,
    /// A plan made ahead, for the Bind at this offset.
    planned: Option<(usize, Plan)>,
    /// A portal over several shards whose description was asked for and is still to come.
    describe: Option<Bytes>,
    /// COPY data was fed: the server has ignored the Sync in front of it.
    pub copied: bool,
    /// A Sync follows in the same batch.
    pub sync_ahead: bool,
}

/// Splits a batch into its frames. The frames are whole and their lengths have been checked.
fn ops(batch: &[u8]) -> SmallVec<[Op; 8]> {
    let mut ops = SmallVec::new();
    let mut at = 0;
    while let Ok(Some(header)) = frame::header(&batch[at..], usize::MAX) {
        ops.push(Op { tag: header.tag, body: at + HEADER..at + header.len });
        at += header.len;
    }
    ops
}

impl Session {
    /// Works off frames of the extended protocol; the batch ends with Sync, Flush, or where the read buffer was full.
    pub async fn extended(&mut self, batch: Bytes) -> Result<(), ClientError> {
        let ops = ops(&batch);
        for (index, op) in ops.iter().enumerate() {
            if op.tag == tag::SYNC {
                if let (Err(error), false) = (bare(&batch[op.body.clone()]), self.pipeline.skipping) {
                    // A Sync with a body is an error, and ends the pipeline all the same.
                    self.refuse(error.into()).await?;
                }
                self.sync().await?;
                continue;
            }
            if self.pipeline.skipping {
                continue;
            }
            self.pipeline.sync_ahead = ops[index + 1..].iter().any(|later| later.tag == tag::SYNC);
            if let Err(failure) = self.op(&batch, &ops, index).await {
                self.refuse(failure).await?;
            }
        }
        let next = self.io.read.first();
        let copy = matches!(next, Some(&(tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL)));
        if copy && !self.pipeline.skipping {
            // The data of a COPY, sent ahead of its CopyInResponse.
            if let Err(failure) = self.flush_pipelines().await {
                self.refuse(failure).await?;
            }
        }
        Ok(())
    }

    /// In front of Query and FunctionCall: whether the pipeline that no Sync has ended is without error. Otherwise everything up
    /// to Sync is skipped.
    pub async fn pipeline_stands(&mut self) -> Result<bool, ClientError> {
        if !self.pipeline.skipping
            && self.held.iter().any(|held| held.unsynced)
            && let Err(failure) = self.flush_pipelines().await
        {
            self.refuse(failure).await?;
        }
        Ok(!self.pipeline.skipping)
    }

    async fn op(&mut self, batch: &Bytes, ops: &[Op], index: usize) -> Result<(), Failure> {
        let op = &ops[index];
        let body = batch.slice(op.body.clone());
        if op.tag != tag::EXECUTE && self.pipeline.describe.is_some() {
            self.describe_spread().await?;
        }
        match op.tag {
            tag::PARSE => self.op_parse(batch, ops, index, &body).await,
            tag::BIND => self.op_bind(&body, op.body.start).await,
            tag::DESCRIBE => self.op_describe(&body).await,
            tag::EXECUTE => self.op_execute(&body).await,
            tag::CLOSE => self.op_close(&body).await,
            tag::FLUSH => {
                bare(&body)?;
                self.flush_pipelines().await
            }
            _ => Ok(()),
        }
    }

    /// An error of the proxy's own in a pipeline: told after everything before it, the rest is skipped.
    async fn refuse(&mut self, failure: Failure) -> Result<(), ClientError> {
        if let Failure::Client(error) = failure {
            return Err(error);
        }
        let drained = self.flush_pipelines().await;
        if self.pipeline.skipping {
            return drained.or_else(|failure| failure.report(&mut self.io.out));
        }
        self.pipeline.skipping = true;
        self.pipeline.refused = true;
        self.doom();
        self.count_failure(&failure);
        failure.report(&mut self.io.out)
    }

    async fn op_parse(
        &mut self,
        batch: &Bytes,
        ops: &[Op],
        index: usize,
        body: &Bytes,
    ) -> Result<(), Failure> {
        let parse = Parse::read(body)?;
        let name = Bytes::copy_from_slice(parse.name);
        if !name.is_empty() && self.names.statements.contains_key(&name) && self.failed_shard().is_none() {
            let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name));
            return Err(Failure::error(sqlstate::DUPLICATE_STATEMENT, message));
        }
        let limit = self.worker.shared.settings.load().limits.session_statements;
        if self.names.statements.len() >= limit {
            let message =
                format!("more than {limit} prepared statements in one session (limits.session_statements)");
            return Err(Failure::error(sqlstate::PROGRAM_LIMIT_EXCEEDED, message));
        }
        let analysed = self.analyse_extended(parse.text);
        let shared = self.worker.shared.registry.intern(self.parse_context(), parse.text, parse.types);
        let types =
            parse.types.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        let prepared = Arc::new(Prepared { shared, analysed, types, named: !name.is_empty() });
        self.names.statements.insert(name.clone(), Arc::clone(&prepared));
        self.pipeline.parsed.push(name.clone());
        let Some(facts) = prepared.facts() else {
            let at = self.goto(ShardId(0), false).await?;
            return self.put_parse(at, &prepared, Show::ALL);
        };
        if self.answered_here(facts) {
            return self.local_bare(backend_tag::PARSE_COMPLETE);
        }
        if let Some(shard) = self.failed_place(facts)? {
            let at = self.goto(shard, false).await?;
            return self.put_parse(at, &prepared, Show::ALL);
        }
        match self.plan_ahead(batch, &ops[index + 1..], &name, &prepared) {
            Ahead::Spread => self.local_bare(backend_tag::PARSE_COMPLETE),
            Ahead::One(shard, replica) => {
                let at = self.goto(shard, replica).await?;
                self.put_parse(at, &prepared, Show::ALL)
            }
            // Known to be right: answered at once, sent along with its first Bind.
            Ahead::Nothing if prepared.shared.accepted.load(Ordering::Relaxed) => {
                self.local_bare(backend_tag::PARSE_COMPLETE)
            }
            Ahead::Nothing => {
                let shard = self.describing_shard(&prepared);
                let at = self.goto_to_describe(shard).await?;
                self.put_parse(at, &prepared, Show::ALL)
            }
        }
    }

    /// Where a Parse is best sent: where its Bind in the same batch will go.
    fn plan_ahead(&mut self, batch: &Bytes, later: &[Op], name: &[u8], prepared: &Prepared) -> Ahead {
        for op in later {
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
                        Target::Any => Ahead::One(self.any_shard(), plan.replica),
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
    fn describing_shard(&mut self, prepared: &Prepared) -> ShardId {
        let busy = self.held.iter().find(|held| held.enlisted || held.unsynced).map(|held| held.shard);
        match (prepared.facts().map(|facts| &facts.scope), busy) {
            (Some(Scope::Nothing | Scope::Reference | Scope::Sharded(_)), Some(shard)) => shard,
            _ => self.pinned.map_or(ShardId(0), |(_, shard)| shard),
        }
    }

    /// Sends a Parse where the conn does not have the statement yet.
    fn put_parse(&mut self, at: usize, prepared: &Prepared, show: Show) -> Result<(), Failure> {
        let limit = self.worker.shared.settings.load().pool.statements;
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
                return self.local_bare(backend_tag::PARSE_COMPLETE);
            }
            return Ok(());
        }
        held.unsynced = true;
        let popular = prepared.named || shared.parses.load(Ordering::Relaxed) > 1;
        if !(popular && healthy && prepared.facts().is_some()) {
            reply::parse(&mut conn.write, b"", &shared.text, &shared.types);
            conn.owe(Owed::Parse { show, statement: None });
            held.unnamed = Some(shared.id);
            return Ok(());
        }
        if let Some(old) = conn.prepared.add(shared.id, limit) {
            reply::named(&mut conn.write, tag::CLOSE, false, format!("gavel_{old}").as_bytes());
            conn.owe(Owed::Close(Show::ERRORS));
        }
        reply::parse(&mut conn.write, &shared.name, &shared.text, &shared.types);
        conn.owe(Owed::Parse { show, statement: Some(shared.id) });
        Ok(())
    }

    /// Makes sure that the conn has the statement; its name there.
    fn ensure_statement(&mut self, at: usize, prepared: &Prepared) -> Result<Box<[u8]>, Failure> {
        let held = &mut self.held[at];
        let id = prepared.shared.id;
        if held.lease.prepared.touch(id) {
            // The Parse of an unnamed one has been counted in this very request.
            if prepared.named {
                self.worker.shared.metrics.cache(Cache::Statements, true);
            }
            return Ok(prepared.shared.name.clone());
        }
        if held.unnamed == Some(id) {
            return Ok(Box::default());
        }
        self.put_parse(at, prepared, Show::ERRORS)?;
        let named = self.held[at].lease.prepared.touch(id);
        Ok(if named { prepared.shared.name.clone() } else { Box::default() })
    }

    async fn op_bind(&mut self, body: &Bytes, offset: usize) -> Result<(), Failure> {
        let bind = Bind::read(body)?;
        let name = Bytes::copy_from_slice(bind.portal);
        let Some(prepared) = self.names.statements.get(bind.statement).cloned() else {
            return self
                .raw_or(tag::BIND, body, Owed::Bind(Show::ALL), || unknown_statement(bind.statement))
                .await;
        };
        let Some(facts) = prepared.facts().cloned() else {
            let at = self.goto(ShardId(0), false).await?;
            return self.put_bind(at, name, &prepared, bind.rest);
        };
        if self.answered_here(&facts) {
            let portal = Portal { statement: prepared, place: Place::Control, sets: None };
            self.names.portals.insert(name, portal);
            return self.local_bare(backend_tag::BIND_COMPLETE);
        }
        if let Some(shard) = self.failed_place(&facts)? {
            let at = self.goto(shard, false).await?;
            return self.put_bind(at, name, &prepared, bind.rest);
        }
        let plan = match self.pipeline.planned.take() {
            Some((for_offset, plan)) if for_offset == offset => plan,
            _ => self.plan_bind(&prepared, bind.rest, None)?,
        };
        let plan = match plan.target {
            Target::Draw(draw) => {
                let drawn = self.draw(&draw).await?;
                self.plan_bind(&prepared, bind.rest, Some(&drawn))?
            }
            _ => plan,
        };
        let why = Why::of(&plan);
        self.note(why, &prepared.shared.text);
        let shard = match plan.target {
            Target::One(shard) | Target::Nowhere(shard) => shard,
            Target::Any => self.any_shard(),
            _ => {
                let rest = body.slice_ref(bind.rest);
                let place = Place::Spread { plan: Box::new(plan), bind: rest };
                self.names.portals.insert(name, Portal { statement: prepared, place, sets: None });
                return self.local_bare(backend_tag::BIND_COMPLETE);
            }
        };
        let before = self.touched(shard);
        let at = self.goto(shard, plan.replica).await?;
        self.runs(at, before, &facts);
        self.note_shard(why, at);
        self.put_bind(at, name, &prepared, bind.rest)
    }

    fn put_bind(
        &mut self,
        at: usize,
        portal: Bytes,
        prepared: &Arc<Prepared>,
        rest: &[u8],
    ) -> Result<(), Failure> {
        let statement = self.ensure_statement(at, prepared)?;
        let held = &mut self.held[at];
        reply::bind(&mut held.lease.write, &portal, &statement, rest);
        held.lease.owe(Owed::Bind(Show::ALL));
        held.unsynced = true;
        let place = Place::Shard(held.shard);
        let sets = prepared.facts().filter(|facts| facts.effects.pins.is_some()).and_then(|facts| {
            let params = BindParams::parse(rest, &prepared.types).ok();
            self.followed(facts, &prepared.shared.text, params.as_ref())
        });
        self.names.portals.insert(portal, Portal { statement: Arc::clone(prepared), place, sets });
        Ok(())
    }

    async fn op_describe(&mut self, body: &Bytes) -> Result<(), Failure> {
        let named = Named::read(tag::DESCRIBE, body)?;
        if named.portal {
            let Some(portal) = self.names.portals.get(named.name).cloned() else {
                let owed = Owed::Describe(Show::ALL);
                return self.raw_or(tag::DESCRIBE, body, owed, || unknown_portal(named.name)).await;
            };
            return match portal.place {
                Place::Control => self.describe_control(&portal.statement, true),
                Place::Shard(shard) => self.raw(shard, tag::DESCRIBE, body, Owed::Describe(Show::ALL)).await,
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
        if prepared.facts().is_some_and(|facts| self.answered_here(facts)) {
            return self.describe_control(&prepared, false);
        }
        let shard = match self.failed_shard() {
            Some(shard) => shard,
            None => self.describing_shard(&prepared),
        };
        let at = self.goto_to_describe(shard).await?;
        let statement = self.ensure_statement(at, &prepared)?;
        let held = &mut self.held[at];
        reply::named(&mut held.lease.write, tag::DESCRIBE, false, &statement);
        held.lease.owe(Owed::Describe(Show::ALL));
        held.unsynced = true;
        Ok(())
    }

    fn describe_control(&mut self, prepared: &Prepared, portal: bool) -> Result<(), Failure> {
        let mut frame = BytesMut::new();
        if !portal {
            reply::frame(&mut frame, backend_tag::PARAMETER_DESCRIPTION, |b| b.extend_from_slice(&[0, 0]));
        }
        if prepared.facts().is_some_and(|facts| matches!(facts.command, Command::ExplainGavel(_))) {
            reply::text_row_description(&mut frame, &["QUERY PLAN"]);
        } else {
            reply::bare(&mut frame, backend_tag::NO_DATA);
        }
        self.local(frame);
        Ok(())
    }

    async fn op_execute(&mut self, body: &Bytes) -> Result<(), Failure> {
        let execute = Execute::read(body)?;
        let Some(portal) = self.names.portals.get(execute.portal).cloned() else {
            self.sent += 1;
            let owed = Owed::Execute(Show::ALL);
            return self.raw_or(tag::EXECUTE, body, owed, || unknown_portal(execute.portal)).await;
        };
        let Some(facts) = portal.statement.facts().cloned() else {
            self.sent += 1;
            return self.raw(ShardId(0), tag::EXECUTE, body, Owed::Execute(Show::ALL)).await;
        };
        match portal.place {
            Place::Control => self.execute_control(&facts, &portal.statement).await,
            Place::Shard(shard) => {
                let before = self.touched(shard);
                let at = self.goto(shard, false).await?;
                let text = String::from_utf8_lossy(&portal.statement.shared.text);
                self.expect_sets(&facts, &text, Some(at), portal.sets.clone());
                self.runs(at, before, &facts);
                self.held[at].wrote |= facts.access != Access::Read && portal.sets.is_none();
                self.put_raw(at, tag::EXECUTE, body, Owed::Execute(Show::ALL));
                self.set_elsewhere(&facts, portal.sets.as_ref(), text.trim(), shard).await
            }
            Place::Spread { plan, bind } => {
                let describe = self.pipeline.describe.take().is_some();
                self.leave_all().await?;
                let form = Form::Execute {
                    statement: Arc::clone(&portal.statement),
                    bind,
                    describe,
                    max_rows: execute.max_rows,
                };
                let text = portal.statement.shared.text.clone();
                self.spread(Ask { plan: *plan, facts, text, form }).await?;
                if self.events.error.is_some() {
                    self.pipeline.skipping = true;
                }
                Ok(())
            }
        }
    }

    async fn execute_control(&mut self, facts: &Arc<Facts>, prepared: &Prepared) -> Result<(), Failure> {
        if let Command::ExplainGavel(_) = &facts.command {
            return Err(Failure::unsupported(
                "EXPLAIN (GAVEL) in the extended protocol",
                "Send it by the simple protocol, or ask `gavel route`.",
            ));
        }
        let text = String::from_utf8_lossy(&prepared.shared.text).into_owned();
        self.control(facts, text.trim(), Via::Extended).await
    }

    /// The description of a portal over several shards, asked of the first of them.
    async fn describe_spread(&mut self) -> Result<(), Failure> {
        let Some(name) = self.pipeline.describe.take() else { return Ok(()) };
        let Some(portal) = self.names.portals.get(&name).cloned() else { return Ok(()) };
        let Place::Spread { plan, bind } = portal.place else { return Ok(()) };
        self.leave_all().await?;
        let (shard, text, bind) = crate::exec::spread::first_share(&plan, &portal.statement, &bind);
        let at = self.goto(shard, false).await?;
        let held = &mut self.held[at];
        let conn = &mut *held.lease;
        reply::parse(&mut conn.write, b"", text.as_bytes(), &bind.types);
        conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
        reply::bind(&mut conn.write, b"", b"", &bind.rest);
        conn.owe(Owed::Bind(Show::ERRORS));
        reply::named(&mut conn.write, tag::DESCRIBE, true, b"");
        conn.owe(Owed::Describe(Show::ALL));
        held.unsynced = true;
        held.unnamed = None;
        Ok(())
    }

    async fn op_close(&mut self, body: &Bytes) -> Result<(), Failure> {
        let named = Named::read(tag::CLOSE, body)?;
        if !named.portal {
            if self.names.statements.remove(named.name).is_none() && self.pinned.is_some() {
                let owed = Owed::Close(Show::ALL);
                return self.raw_or(tag::CLOSE, body, owed, || unknown_statement(named.name)).await;
            }
            return self.local_bare(backend_tag::CLOSE_COMPLETE);
        }
        match self.names.portals.remove(named.name).map(|portal| portal.place) {
            Some(Place::Shard(shard)) => self.raw(shard, tag::CLOSE, body, Owed::Close(Show::ALL)).await,
            Some(Place::Control | Place::Spread { .. }) => self.local_bare(backend_tag::CLOSE_COMPLETE),
            None if self.held.iter().any(|held| held.enlisted) => {
                self.raw_or(tag::CLOSE, body, Owed::Close(Show::ALL), || unknown_portal(named.name)).await
            }
            None => self.local_bare(backend_tag::CLOSE_COMPLETE),
        }
    }

    /// A reply without a body, in its place.
    fn local_bare(&mut self, tag: u8) -> Result<(), Failure> {
        let mut frame = BytesMut::new();
        reply::bare(&mut frame, tag);
        self.local(frame);
        Ok(())
    }

    /// Passes a frame on as it is to the conn of a shard.
    async fn raw(&mut self, shard: ShardId, tag: u8, body: &[u8], owed: Owed) -> Result<(), Failure> {
        let before = self.touched(shard);
        let at = self.goto(shard, false).await?;
        self.held[at].untouched = !before;
        self.put_raw(at, tag, body, owed);
        Ok(())
    }

    fn put_raw(&mut self, at: usize, tag: u8, body: &[u8], owed: Owed) {
        let held = &mut self.held[at];
        reply::frame(&mut held.lease.write, tag, |b| b.extend_from_slice(body));
        held.lease.owe(owed);
        held.unsynced = true;
    }

    /// Passes on what the session has no name for (it may have been made in SQL); without a conn that could know it, the
    /// answer is an error.
    async fn raw_or(
        &mut self,
        tag: u8,
        body: &[u8],
        owed: Owed,
        error: impl FnOnce() -> Failure,
    ) -> Result<(), Failure> {
        self.check_doomed()?;
        let busy = self.held.iter().find(|held| held.enlisted || held.unsynced).map(|held| held.shard);
        match busy.or(self.pinned.map(|(_, shard)| shard)) {
            Some(shard) => self.raw(shard, tag, body, owed).await,
            None => Err(error()),
        }
    }

    /// The conn to go on with. Another one that was in use is brought to rest first.
    pub async fn goto(&mut self, shard: ShardId, replica: bool) -> Result<usize, Failure> {
        while let Some(at) = self.held.iter().position(|held| held.unsynced && held.shard != shard) {
            self.leave(at).await?;
        }
        self.acquire(shard, replica).await
    }

    /// As `goto`, for a question about a statement: the transaction has not been on the shard for that.
    async fn goto_to_describe(&mut self, shard: ShardId) -> Result<usize, Failure> {
        let used = self.touched(shard);
        let at = self.goto(shard, false).await?;
        self.held[at].untouched = !used;
        Ok(at)
    }

    /// Brings every conn in use to rest.
    pub async fn leave_all(&mut self) -> Result<(), Failure> {
        while let Some(at) = self.held.iter().position(|held| held.unsynced) {
            self.leave(at).await?;
        }
        Ok(())
    }

    /// Awaits what a conn owes. What it wrote outside of a block stays uncommitted: the pipeline is one transaction, which from
    /// here on spans several shards.
    async fn leave(&mut self, at: usize) -> Result<(), Failure> {
        let set = self.pending.iter().any(|expected| expected.sets());
        let held = &mut self.held[at];
        if self.block.is_none() && (held.wrote || set) {
            let mut block = Block::new("BEGIN", false, Arc::clone(&self.gucs));
            block.implicit = true;
            self.block = Some(Box::new(block));
            let conn = &mut *held.lease;
            reply::parse(&mut conn.write, b"", b"BEGIN", &[]);
            conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
            reply::bind(&mut conn.write, b"", b"", &[0, 0, 0, 0, 0, 0]);
            conn.owe(Owed::Bind(Show::NOTHING));
            reply::execute(&mut conn.write, b"", 0);
            conn.owe(Owed::Execute(Show::NOTHING));
            held.enlisted = true;
            held.gucs_moved = true;
            held.unnamed = None;
        }
        queue_sync(&mut held.lease);
        held.unsynced = false;
        self.run_to_end(at, false).await?;
        self.check_pipeline_error()?;
        if self.block.is_some() {
            // The next shard joins the block as it is now, or none if this one has ended it.
            self.apply_completed();
        }
        Ok(())
    }

    /// After a run: an error that the server reported skips the rest of the pipeline.
    fn check_pipeline_error(&mut self) -> Result<(), Failure> {
        if self.events.error.is_some() && !self.pipeline.skipping {
            self.pipeline.skipping = true;
            for held in &mut self.held {
                held.unnamed = None;
            }
            // Names whose Parse did not succeed do not exist.
            for name in self.pipeline.parsed.drain(..).skip(self.events.parsed as usize) {
                self.names.statements.remove(&name);
            }
        }
        if self.pipeline.skipping { Err(skip()) } else { Ok(()) }
    }

    /// Simple queries run after everything that a pipeline has left open.
    pub async fn finish_pipelines(&mut self) -> Result<(), Failure> {
        if self.held.iter().all(|held| !held.unsynced) {
            return Ok(());
        }
        self.leave_all().await
    }

    /// Flush: everything owed so far reaches the application.
    async fn flush_pipelines(&mut self) -> Result<(), Failure> {
        if self.pipeline.describe.is_some() {
            self.describe_spread().await?;
        }
        for at in 0..self.held.len() {
            if self.held[at].lease.owed_len() > 0 {
                reply::bare(&mut self.held[at].lease.write, tag::FLUSH);
                self.run_to_end(at, false).await?;
            }
        }
        let _ = self.check_pipeline_error();
        self.io.flush().await?;
        Ok(())
    }

    /// Sync: the pipeline's transaction ends, the application gets ReadyForQuery.
    async fn sync(&mut self) -> Result<(), ClientError> {
        let listened = self.listen_before_sync().await;
        let outcome = self.sync_conns().await;
        let outcome = listened.and(outcome);
        if std::mem::take(&mut self.pipeline.copied) {
            return outcome.or_else(|failure| failure.report(&mut self.io.out));
        }
        let failed = self.pipeline.skipping || self.events.error.is_some() || outcome.is_err();
        self.accept_parsed();
        let _ = self.check_pipeline_error();
        self.apply_completed();
        let mut outcome = if self.pipeline.skipping { Ok(()) } else { outcome };
        if self.block.as_ref().is_some_and(|block| block.implicit) {
            let ended = self.end_implicit(failed).await;
            if !failed {
                outcome = ended;
            }
        }
        self.count_shard_error();
        if let Err(failure) = outcome {
            self.count_failure(&failure);
            failure.report(&mut self.io.out)?;
            self.doom();
        }
        self.pipeline = PipelineState::default();
        // The shards listen already.
        let _ = self.commit_listens(failed).await;
        self.settle();
        self.refresh_catalog().await;
        self.hear_own().await;
        self.ready();
        self.next_events();
        Ok(())
    }

    /// LISTEN in a pipeline that Sync will commit: a shard that does not listen rolls it back.
    async fn listen_before_sync(&mut self) -> Result<(), Failure> {
        if self.block.is_some() || self.pipeline.skipping {
            return Ok(());
        }
        let listened = self.listen_ahead().await;
        self.pipeline.refused |= listened.is_err();
        listened
    }

    /// Statements whose Parse a server has accepted need not be sent for the next session that parses them.
    fn accept_parsed(&self) {
        for name in self.pipeline.parsed.iter().take(self.events.parsed as usize) {
            if let Some(prepared) = self.names.statements.get(name) {
                prepared.shared.accepted.store(true, Ordering::Relaxed);
            }
        }
    }

    async fn sync_conns(&mut self) -> Result<(), Failure> {
        if self.pipeline.describe.is_some() && !self.pipeline.skipping {
            self.describe_spread().await?;
        }
        let abort = self.pipeline.refused && self.block.is_none();
        let mut outcome = Ok(());
        for at in (0..self.held.len()).rev() {
            let held = &mut self.held[at];
            if !held.unsynced {
                if held.lease.owed_len() > 0 {
                    outcome = outcome.and(self.run_to_end(at, false).await);
                }
                continue;
            }
            if abort {
                roll_back_pipeline(&mut held.lease);
                held.unnamed = None;
            }
            queue_sync(&mut held.lease);
            held.unsynced = false;
            outcome = outcome.and(self.run_to_end(at, false).await);
        }
        outcome
    }

    fn answered_here(&self, facts: &Facts) -> bool {
        let here = is_control(&facts.command) || matches!(facts.command, Command::ExplainGavel(_));
        // What a failed transaction says to the others is PostgreSQL's.
        here || (self.acts_on(&facts.command) && self.status() != Status::Failed)
    }

    /// After a run on a conn: what was learned.
    pub fn after_run(&mut self, at: usize) {
        self.learn_lsn(at);
        if self.events.error.is_some() {
            self.held[at].unnamed = None;
        }
    }
}

/// The proxy refused a later statement of the pipeline: what it did before is undone.
fn roll_back_pipeline(conn: &mut crate::backend::conn::Conn) {
    reply::parse(&mut conn.write, b"", b"ROLLBACK", &[]);
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    reply::bind(&mut conn.write, b"", b"", &[0, 0, 0, 0, 0, 0]);
    conn.owe(Owed::Bind(Show::NOTHING));
    reply::execute(&mut conn.write, b"", 0);
    conn.owe(Owed::Execute(Show::NOTHING));
}

/// Where the Bind of a Parse will go.
enum Ahead {
    One(ShardId, bool),
    Spread,
    Nothing,
}

impl Prepared {
    /// Facts of its one statement; `None` for a text of several, which PostgreSQL rejects.
    pub fn facts(&self) -> Option<&Arc<Facts>> {
        match self.analysed.statements() {
            [only] => Some(&only.facts),
            _ => None,
        }
    }
}

/// Not an error of its own: the one that caused the skip has been reported.
fn skip() -> Failure {
    aborted()
}

fn unknown_statement(name: &[u8]) -> Failure {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
    };
    Failure::error(sqlstate::INVALID_STATEMENT_NAME, message)
}

fn unknown_portal(name: &[u8]) -> Failure {
    let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    Failure::error(sqlstate::INVALID_CURSOR_NAME, message)
}
