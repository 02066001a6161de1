//! Portals: Bind, Execute, Close; on one shard they are passed on, over several they are bound when they are executed.

use std::sync::Arc;

use bytes::Bytes;
use router_config::topology::ShardId;

use super::{unknown_portal, unknown_statement};
use crate::backend::owed::{Owed, Show};
use crate::exec::ask::{Ask, Form, row_limit};
use crate::exec::walk::Walk;
use crate::frontend::control::Via;
use crate::frontend::failure::Failure;
use crate::frontend::names::{Place, Portal, Prepared};
use crate::frontend::session::Session;
use crate::frontend::watch::Why;
use crate::route::clocks;
use crate::route::plan::{Plan, Target};
use crate::route::values::BindParams;
use crate::sql::facts::{Access, Command, Facts, Modify};
use crate::wire::backend::tag as backend_tag;
use crate::wire::frontend::{Bind, Execute, Named, tag};
use crate::wire::{reply, sqlstate};

impl Session {
    pub(super) async fn op_bind(&mut self, body: &Bytes, offset: usize) -> Result<(), Failure> {
        let bind = Bind::read(body)?;
        let name = Bytes::copy_from_slice(bind.portal);
        let Some(prepared) = self.names.statements.get(bind.statement).cloned() else {
            return self.bind_unknown(&bind, body).await;
        };
        self.see_catalog().await?;
        let read_against = prepared.reading;
        let prepared = self.reread(bind.statement, prepared);
        self.check_literals(&prepared)?;
        self.heed(prepared.facts().map(|facts| &**facts));
        self.ask_types(&prepared).await?;
        Self::check_count(bind.statement, &prepared, bind.rest)?;
        let Some(facts) = prepared.facts().cloned() else {
            let at = self.goto(ShardId(0), false).await?;
            return self.put_bind(at, name, &prepared, bind.rest).await;
        };
        Self::check_open_count(bind.statement, &prepared, bind.rest)?;
        self.take_portal_name(&name).await?;
        if self.answered_here(&facts) {
            return self.bind_here(name, prepared, body.slice_ref(bind.rest));
        }
        if let Some(shard) = self.failed_place(&facts)? {
            let at = self.goto(shard, false).await?;
            return self.put_bind(at, name, &prepared, bind.rest).await;
        }
        self.check_name_free(&facts, &prepared.shared.text)?;
        if self.may_mean_temporary(&facts, &prepared.shared.text) {
            Box::pin(self.check_temporary(&facts, &prepared.shared.text)).await?;
        }
        let (prepared, facts) = self.over_temporary((prepared, facts)).await?;
        if self.explains_here(&facts, &prepared.shared.text).is_some() {
            self.check_explained(&prepared.shared.text)?;
            return self.bind_here(name, prepared, body.slice_ref(bind.rest));
        }
        let plan = self.plan_bound(&prepared, (bind.rest, offset), &facts).await?;
        let plan = self.of_furthest(plan, &facts, &prepared.shared.text).await?;
        let plan = Box::pin(self.with_home_oids(plan, &prepared, bind.rest)).await?;
        let why = Why::of(&plan);
        self.note(why, &prepared.shared.text);
        let shard = match plan.target {
            Target::One(shard) | Target::Nowhere(shard) => shard,
            Target::Any => self.any_shard_for(bind.rest),
            _ => {
                if prepared.reading != read_against {
                    Box::pin(self.foresee_rows(&prepared)).await?;
                }
                prepared.told.set();
                // What is computed on the home shard has its OIDs.
                if !matches!(plan.target, Target::Combine(_)) {
                    Box::pin(self.check_containers(None, &prepared, bind.rest)).await?;
                }
                let rest = body.slice_ref(bind.rest);
                let place = Place::Spread { plan: Box::new(plan), bind: rest };
                self.names.portals.insert(name, Portal::new(prepared, place));
                return self.local_bare(backend_tag::BIND_COMPLETE);
            }
        };
        let before = self.touched(shard);
        let at = self.goto_to_run(shard, plan.replica).await?;
        self.check_drawn(at, &facts)?;
        self.runs(at, before, &facts);
        self.note_shard(why, at);
        if shard != ShardId(0) {
            self.check_containers(Some(at), &prepared, bind.rest).await?;
        }
        self.put_bind(at, name, &prepared, bind.rest).await
    }

    /// Bind of what the session has no name for. No older portal takes the place of the one that does not come to be.
    async fn bind_unknown(&mut self, bind: &Bind<'_>, body: &Bytes) -> Result<(), Failure> {
        self.names.portals.remove(bind.portal);
        let owed = Owed::Bind(Show::ALL);
        self.raw_or(tag::BIND, body, owed, || unknown_statement(bind.statement)).await
    }

    /// A portal that the proxy executes.
    fn bind_here(&mut self, name: Bytes, prepared: Arc<Prepared>, bind: Bytes) -> Result<(), Failure> {
        self.names.portals.insert(name, Portal::new(prepared, Place::Control { bind }));
        self.local_bare(backend_tag::BIND_COMPLETE)
    }

    /// Where a Bind goes: as was planned for the one at this offset, or planned now, with what it leaves to be drawn.
    async fn plan_bound(
        &mut self,
        prepared: &Prepared,
        (rest, offset): (&[u8], usize),
        facts: &Facts,
    ) -> Result<Plan, Failure> {
        self.draws.next_statement();
        self.asks_drawn(facts);
        let plan = match self.pipeline.planned.take() {
            Some((for_offset, plan)) if for_offset == offset => plan,
            _ => match self.plan_bind(prepared, rest, None) {
                Ok(plan) => plan,
                Err(refusal) => return Err(Box::pin(self.why_not_bound(prepared, refusal)).await),
            },
        };
        let Target::Draw(draw) = plan.target else { return Ok(plan) };
        let drawn = Box::pin(self.draw(&draw, Some((prepared, rest)))).await?;
        self.drew_key(facts, &draw, &drawn);
        Ok(self.plan_bind(prepared, rest, Some(&drawn))?)
    }

    async fn put_bind(
        &mut self,
        at: usize,
        portal: Bytes,
        prepared: &Arc<Prepared>,
        rest: &[u8],
    ) -> Result<(), Failure> {
        let statement = self.ensure_statement(at, prepared).await?;
        prepared.told.set();
        let held = &mut self.held[at];
        reply::bind(&mut held.lease.write, &portal, statement, rest);
        held.lease.owe(Owed::Bind(Show::ALL));
        held.unsynced = true;
        let place = Place::Shard(held.shard);
        let sets = prepared.facts().filter(|facts| facts.effects.pins.is_some()).and_then(|facts| {
            let params = BindParams::parse(rest, &prepared.types).ok();
            self.followed(facts, &prepared.shared.text, params.as_ref())
        });
        let statement = Arc::clone(prepared);
        self.names.portals.insert(portal, Portal { sets, ..Portal::new(statement, place) });
        Ok(())
    }

    pub(super) async fn op_execute(&mut self, body: &Bytes) -> Result<(), Failure> {
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
        self.check_executable(&facts.command)?;
        if portal.ran {
            return self.run_again(execute.portal, &facts);
        }
        if matches!(portal.place, Place::Control { .. } | Place::Spread { .. })
            && let Some(portal) = self.names.portals.get_mut(execute.portal)
        {
            portal.ran = true;
        }
        match portal.place {
            Place::Control { .. } if execute.max_rows > 0 && matches!(facts.command, Command::Execute(_)) => {
                Err(row_limit())
            }
            Place::Control { bind } => Box::pin(self.execute_control(&facts, &portal.statement, &bind)).await,
            Place::Shard(shard) => {
                let before = self.touched(shard);
                let at = self.goto(shard, false).await?;
                self.runs(at, before, &facts);
                if facts.access != Access::Read && portal.sets.is_none() {
                    self.writes(at)?;
                    self.free_database(&facts, &portal.statement.shared.text);
                }
                self.expect_sets(&facts, &portal.statement.shared.text, Some(at), portal.sets.clone());
                self.put_raw(at, tag::EXECUTE, body, Owed::Execute(Show::ALL));
                let text = &portal.statement.shared.text;
                self.set_elsewhere(&facts, portal.sets.as_ref(), text, shard).await
            }
            Place::Walk { .. } => {
                self.leave_all().await?;
                let name = Bytes::copy_from_slice(execute.portal);
                self.walk_portal(&name, (execute.max_rows, false)).await?;
                self.pipeline.skipping |= self.events.error.is_some();
                Ok(())
            }
            Place::Combined { .. } => {
                self.leave_all().await?;
                let name = Bytes::copy_from_slice(execute.portal);
                self.continue_portal(&name, execute.max_rows).await?;
                self.pipeline.skipping |= self.events.error.is_some();
                Ok(())
            }
            Place::Spread { plan, bind } => {
                self.execute_spread((&execute, &portal.statement), facts, (*plan, bind)).await?;
                self.pipeline.skipping |= self.events.error.is_some();
                Ok(())
            }
        }
    }

    /// A portal over several shards, or with a text of the proxy's own.
    async fn execute_spread(
        &mut self,
        (execute, statement): (&Execute<'_>, &Arc<Prepared>),
        facts: Arc<Facts>,
        (plan, bind): (Plan, Bytes),
    ) -> Result<(), Failure> {
        let describe = self.pipeline.describe.take().is_some();
        self.leave_all().await?;
        let name = Bytes::copy_from_slice(execute.portal);
        if execute.max_rows > 0 && facts.returns_rows && self.walks(&facts, &plan, statement) {
            self.begin_walk(&name, &plan, bind);
            return self.walk_portal(&name, (execute.max_rows, describe)).await;
        }
        let form = Form::Execute {
            statement: Arc::clone(statement),
            bind: bind.clone(),
            describe,
            max_rows: execute.max_rows,
        };
        self.pipeline.looked = true;
        let text = statement.shared.text.clone();
        Box::pin(self.spread(Ask { plan, facts, text, form })).await?;
        self.name_kept(&name, &bind);
        Ok(())
    }

    /// What a server would say of a command, had it all that the session has.
    fn check_executable(&self, command: &Command) -> Result<(), Failure> {
        self.check_needs_block(command)?;
        // What has not been answered yet may be the CLOSE of it.
        if self.pending.is_empty() { self.check_cursor_free(command) } else { Ok(()) }
    }

    /// Whether the rows of a portal over several shards can be read so many at a time.
    pub(crate) fn walks(&self, facts: &Facts, plan: &Plan, statement: &Prepared) -> bool {
        let conforming = self.text_rules().standard_strings;
        let text = &statement.shared.text;
        // The time would have to be the same in what is bound later.
        let timeless = || facts.unrepeatable.is_none() || !clocks::any(text, conforming);
        matches!(facts.command, Command::Query)
            && Walk::of(plan).is_some_and(|walk| walk.reads_at_once() || timeless())
    }

    fn begin_walk(&mut self, name: &Bytes, plan: &Plan, bind: Bytes) {
        let Some(walk) = Walk::of(plan) else { return };
        self.names.walks += 1;
        let id = self.names.walks;
        if let Some(portal) = self.names.portals.get_mut(name) {
            (portal.place, portal.ran) = (Place::Walk { walk, id, bind }, false);
        }
    }

    /// A portal that was run to its end has no more rows, and does nothing twice.
    fn run_again(&mut self, name: &[u8], facts: &Facts) -> Result<(), Failure> {
        let tag = match &facts.command {
            Command::Query => Some("SELECT 0"),
            Command::Modify(Modify::Insert) if facts.returns_rows => Some("INSERT 0 0"),
            Command::Modify(Modify::Update) if facts.returns_rows => Some("UPDATE 0"),
            Command::Modify(Modify::Delete) if facts.returns_rows => Some("DELETE 0"),
            Command::Modify(Modify::Other) if facts.returns_rows => Some("SELECT 0"),
            _ => None,
        };
        if let Some(tag) = tag {
            self.answer(tag);
            return Ok(());
        }
        let message = format!("portal \"{}\" cannot be run", String::from_utf8_lossy(name));
        Err(Failure::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
    }

    async fn execute_control(
        &mut self,
        facts: &Arc<Facts>,
        prepared: &Prepared,
        bind: &Bytes,
    ) -> Result<(), Failure> {
        if matches!(facts.command, Command::ExplainGavel(_)) {
            let plan = self.plan_bind(prepared, bind, None);
            let frame = self.explanation(&plan, false);
            self.local(frame.freeze());
            return Ok(());
        }
        if let Some((name, execute)) = self.explains_here(facts, &prepared.shared.text) {
            self.leave_all().await?;
            self.explain_execute(&name, (&prepared.shared.text, execute), Some(bind)).await?;
            self.pipeline.skipping |= self.events.error.is_some();
            return Ok(());
        }
        if self.prepares_here(facts) {
            self.leave_all().await?;
            self.prepare_here(facts, &prepared.shared.text, Some(bind)).await?;
            self.pipeline.skipping |= self.events.error.is_some();
            return Ok(());
        }
        let text = String::from_utf8_lossy(&prepared.shared.text).into_owned();
        self.control(facts, text.trim(), Via::Extended).await
    }

    /// The description of a portal over several shards, asked of the first of them.
    pub(super) async fn describe_spread(&mut self) -> Result<(), Failure> {
        let Some(name) = self.pipeline.describe.take() else { return Ok(()) };
        let Some(portal) = self.names.portals.get(&name).cloned() else { return Ok(()) };
        let Place::Spread { plan, bind } = portal.place else { return Ok(()) };
        self.leave_all().await?;
        let (shard, text, bind) = crate::exec::spread::first_share(&plan, &portal.statement, &bind);
        let at = self.goto(shard, false).await?;
        let held = &mut self.held[at];
        let conn = &mut *held.lease;
        let types = conn.own_types(&bind.types)?;
        reply::parse(&mut conn.write, b"", text.as_bytes(), &types);
        conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
        reply::bind(&mut conn.write, b"", b"", &bind.rest);
        conn.owe(Owed::Bind(Show::ERRORS));
        reply::named(&mut conn.write, tag::DESCRIBE, true, b"");
        conn.owe(Owed::Describe(Show::ALL));
        held.unsynced = true;
        held.unnamed = None;
        Ok(())
    }

    /// What stands behind an error is skipped: no statement is removed before all in front of it has succeeded.
    pub(in crate::frontend) async fn see_first(&mut self) -> Result<(), Failure> {
        if self.held.iter().any(|held| held.lease.owed_len() > 0) {
            self.flush_pipelines().await?;
        }
        if self.pipeline.skipping { Err(super::skip()) } else { Ok(()) }
    }

    pub(super) async fn op_close(&mut self, body: &Bytes) -> Result<(), Failure> {
        let named = Named::read(tag::CLOSE, body)?;
        let doomed = self.check_doomed().is_err();
        if !named.portal {
            if self.names.statements.contains_key(named.name) {
                self.see_first().await?;
            }
            let unknown = self.names.statements.remove(named.name).is_none();
            if unknown && !self.pins.is_empty() && !doomed {
                let owed = Owed::Close(Show::ALL);
                return self.raw_or(tag::CLOSE, body, owed, || unknown_statement(named.name)).await;
            }
            return self.local_bare(backend_tag::CLOSE_COMPLETE);
        }
        match self.names.portals.remove(named.name).map(|portal| portal.place) {
            Some(Place::Shard(shard)) => self.raw(shard, tag::CLOSE, body, Owed::Close(Show::ALL)).await,
            Some(
                Place::Control { .. } | Place::Spread { .. } | Place::Walk { .. } | Place::Combined { .. },
            ) => self.local_bare(backend_tag::CLOSE_COMPLETE),
            None if !doomed && self.held.iter().any(|held| held.enlisted) => {
                self.raw_or(tag::CLOSE, body, Owed::Close(Show::ALL), || unknown_portal(named.name)).await
            }
            None => self.local_bare(backend_tag::CLOSE_COMPLETE),
        }
    }
}
