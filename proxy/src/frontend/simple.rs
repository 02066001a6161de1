//! The simple protocol: one Query, any number of statements, one ReadyForQuery.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::control::Via;
use super::failure::Failure;
use super::io::ClientError;
use super::session::Session;
use super::transaction::Block;
use super::watch::Why;
use crate::backend::owed::{Owed, Show};
use crate::exec::ask::{Ask, Form};
use crate::route::plan::{Plan, Target};
use crate::sql::cache::Analysed;
use crate::sql::facts::{Access, Command, Facts};
use crate::wire::backend::tag;
use crate::wire::frame::HEADER;
use crate::wire::{frontend, reply};

/// The longest tag of a completed statement, bytes.
const TAG_BYTES: usize = 64;

impl Session {
    /// Works off one Query frame, ReadyForQuery included.
    pub async fn simple_query(&mut self, frame: Bytes) -> Result<(), ClientError> {
        if !self.pipeline_stands().await? {
            return Ok(());
        }
        self.next_events();
        self.tag_at = usize::MAX;
        self.names.forget_unnamed();
        let outcome = match frontend::query(&frame[HEADER..]) {
            Ok(text) => {
                let text = frame.slice(HEADER..HEADER + text.len());
                self.simple(&frame, &text).await
            }
            Err(error) => Err(error.into()),
        };
        self.finish_simple(outcome).await
    }

    async fn simple(&mut self, frame: &Bytes, text: &Bytes) -> Result<(), Failure> {
        self.finish_pipelines().await?;
        self.see_catalog().await?;
        let analysed = self.read_simple(text).await?;
        match analysed.statements() {
            [only] => {
                let facts = Arc::clone(&only.facts);
                if let Some(shard) = self.failed_place(&facts)? {
                    let at = self.acquire(shard, false).await?;
                    return self.forward_query(at, frame, &facts, text).await;
                }
                self.statement(frame, text, &analysed, 0).await
            }
            _ => Box::pin(self.several(frame, text, &analysed)).await,
        }
    }

    /// One statement. `frame` is sent as it is where the whole text goes to one shard.
    async fn statement(
        &mut self,
        frame: &Bytes,
        text: &Bytes,
        analysed: &Analysed,
        index: usize,
    ) -> Result<(), Failure> {
        let facts = Arc::clone(&analysed.statements()[index].facts);
        let own = text.slice(analysed.range(index));
        self.heed(Some(&facts));
        self.draws.next_statement();
        self.asks_drawn(&facts);
        if self.acts_on(&facts.command) {
            let own = String::from_utf8_lossy(&own);
            return Box::pin(self.control(&facts, own.trim(), Via::Simple)).await;
        }
        if matches!(facts.command, Command::ExplainGavel(_)) {
            let frame = self.explanation(&self.plan_simple(text, analysed, index), true);
            self.io.out.extend_from_slice(&frame);
            return Ok(());
        }
        if self.prepares_here(&facts) {
            return Box::pin(self.prepare_here(&facts, &own, None)).await;
        }
        self.check_name_free(&facts, &own)?;
        self.check_cursor_free(&facts.command)?;
        if let Some((name, execute)) = self.explains_here(&facts, &own) {
            return Box::pin(self.explain_execute(&name, (&own, execute), None)).await;
        }
        if matches!(facts.command, Command::TwoPhase) {
            self.check_no_listens()?;
        }
        if self.may_mean_temporary(&facts, &own) {
            Box::pin(self.check_temporary(&facts, &own)).await?;
        }
        if let Some((frame, again)) = self.over_temporary_text(&facts, &own, analysed).await? {
            self.stands_behind(&text[..analysed.range(index).start]);
            return Box::pin(self.statement(&frame, &own, &again, 0)).await;
        }
        let plan = self.plan_simple(text, analysed, index);
        let one = |plan: &Plan| matches!(plan.target, Target::One(_) | Target::Nowhere(_) | Target::Any);
        if !plan.as_ref().is_ok_and(one) {
            self.stands_behind(&text[..analysed.range(index).start]);
        }
        let plan = match plan {
            Ok(plan) => self.of_furthest(plan, &facts, &own).await?,
            Err(refusal) => return Err(Box::pin(self.why_not(&own, refusal.into())).await),
        };
        let why = Why::of(&plan);
        let shard = match plan.target {
            Target::One(shard) | Target::Nowhere(shard) => shard,
            Target::Any => self.any_shard(),
            Target::Draw(draw) => {
                let drawn = match self.draw(&draw, None).await {
                    Ok(drawn) => drawn,
                    Err(failure) => return Err(Box::pin(self.why_not(&own, failure)).await),
                };
                self.drew_key(&facts, &draw, &drawn);
                let plan = self.plan_drawn(text, analysed, index, &drawn)?;
                return Box::pin(self.spread_query(plan, &facts, &own)).await;
            }
            _ => return Box::pin(self.spread_query(plan, &facts, &own)).await,
        };
        self.note(why, &own);
        let before = self.touched(shard);
        let at = self.acquire(shard, plan.replica).await?;
        self.check_drawn(at, &facts)?;
        self.runs(at, before, &facts);
        self.note_shard(why, at);
        self.forward_query(at, frame, &facts, &own).await?;
        if self.events.error.is_none() {
            let sets = self.followed(&facts, &own, None);
            self.set_elsewhere(&facts, sets.as_ref(), &own, shard).await?;
        }
        Ok(())
    }

    async fn spread_query(&mut self, plan: Plan, facts: &Arc<Facts>, own: &Bytes) -> Result<(), Failure> {
        self.note(Why::of(&plan), own);
        self.spread(Ask { plan, facts: Arc::clone(facts), text: own.clone(), form: Form::Query }).await
    }

    /// Sends the frame as it is and passes the answer on, but for ReadyForQuery.
    async fn forward_query(
        &mut self,
        at: usize,
        frame: &Bytes,
        facts: &Arc<Facts>,
        own: &Bytes,
    ) -> Result<(), Failure> {
        if leaves_a_name(facts) || self.held[at].lease.spoiled {
            self.expect(facts, own, Some(at));
        } else {
            self.sent += 1;
        }
        if facts.access != Access::Read && self.followed(facts, own, None).is_none() {
            self.writes(at)?;
            self.free_database(facts, own);
        }
        let held = &mut self.held[at];
        held.unnamed = None;
        held.lease.write.extend_from_slice(frame);
        held.lease.owe(Owed::Query(Show::ALL.without(Show::READY)));
        self.run_to_end(at).await
    }

    /// Several statements in one text: one implicit transaction. Passed on whole when all of it goes to one shard; else each
    /// is read when it is its turn.
    async fn several(&mut self, frame: &Bytes, text: &Bytes, analysed: &Analysed) -> Result<(), Failure> {
        if let Some((shard, replica)) = self.common_shard(text, analysed)? {
            self.note(Why::whole_text(), text);
            self.heed(None);
            let at = self.acquire(shard, replica).await?;
            for (index, statement) in analysed.statements().iter().enumerate() {
                self.expect(&statement.facts, text[analysed.range(index)].trim_ascii(), Some(at));
            }
            let mut drawn = false;
            for statement in analysed.statements() {
                if !drawn {
                    self.check_drawn(at, &statement.facts)?;
                }
                drawn |= statement.facts.access != Access::Read;
            }
            self.note_shard(Why::whole_text(), at);
            if analysed.statements().iter().any(|s| s.facts.access != Access::Read) {
                self.writes(at)?;
            }
            let held = &mut self.held[at];
            held.unnamed = None;
            held.committing |=
                analysed.statements().iter().any(|s| matches!(s.facts.command, Command::Commit { .. }));
            held.lease.write.extend_from_slice(frame);
            held.lease.owe(Owed::Query(Show::ALL.without(Show::READY)));
            return self.run_to_end(at).await;
        }
        if let Some(at) = self.check_grammar(text).await? {
            // The transaction fails where it is, by the server's own words.
            let held = &mut self.held[at];
            held.unnamed = None;
            held.lease.write.extend_from_slice(frame);
            held.lease.owe(Owed::Query(Show::ALL.without(Show::READY)));
            return self.run_to_end(at).await;
        }
        let reading = self.reading();
        for index in 0..analysed.statements().len() {
            self.see_catalog().await?;
            let range = analysed.range(index);
            let ahead = self.characters(&text[..range.start]);
            self.events.ahead = ahead;
            if self.reading() == reading {
                self.one_of_several(text, analysed, index).await?;
            } else {
                // What came before has changed what names or strings mean.
                let own = text.slice(range);
                let again = self.read_simple(&own).await?;
                for index in 0..again.statements().len() {
                    self.events.ahead = ahead + self.characters(&own[..again.range(index).start]);
                    self.one_of_several(&own, &again, index).await?;
                }
            }
            if self.events.error.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// The statement is sent without what stands in front of it, a comment as a rule: positions in its errors count that too.
    fn stands_behind(&mut self, text: &[u8]) {
        if self.events.ahead == 0 {
            self.events.ahead = self.characters(text);
        }
    }

    /// Characters of a piece of the application's text.
    pub(super) fn characters(&self, text: &[u8]) -> usize {
        let continues = |byte: &&u8| self.text_rules().utf8 && **byte & 0xC0 == 0x80;
        text.len() - text.iter().filter(continues).count()
    }

    async fn one_of_several(
        &mut self,
        text: &Bytes,
        analysed: &Analysed,
        index: usize,
    ) -> Result<(), Failure> {
        let facts = &analysed.statements()[index].facts;
        if self.block.is_none() && self.runs_within(&facts.command, analysed) {
            let mut block = Block::new("BEGIN", false, Arc::clone(&self.gucs));
            block.implicit = true;
            self.block = Some(Box::new(block));
        }
        let own = text.slice(analysed.range(index));
        let mut frame = BytesMut::new();
        reply::query(&mut frame, &own);
        // The frame of this statement alone, planned within the whole text.
        let frame = frame.freeze();
        if let Some(shard) = self.failed_place(facts)? {
            let at = self.acquire(shard, false).await?;
            return self.forward_query(at, &frame, facts, &own).await;
        }
        Box::pin(self.statement(&frame, text, analysed, index)).await?;
        self.apply_completed();
        // Of the last statement PostgreSQL tells nothing before the transaction around the text is committed.
        self.tag_at = tag_behind(&self.io.out).unwrap_or(usize::MAX);
        Ok(())
    }

    /// The one shard that all statements of a text go to, if they do.
    fn common_shard(
        &mut self,
        text: &[u8],
        analysed: &Analysed,
    ) -> Result<Option<(router_config::topology::ShardId, bool)>, Failure> {
        if let Some(first) = analysed.statements().first()
            && let Some(shard) = self.failed_place(&first.facts)?
        {
            return Ok(Some((shard, false)));
        }
        if self.ends_on_several(analysed) || self.block.as_ref().is_some_and(|block| block.doomed) {
            // The servers do not know that the transaction has failed, or where else it is.
            return Ok(None);
        }
        let mut common = None;
        let mut replica = true;
        let mut anywhere = false;
        let last = analysed.statements().len().saturating_sub(1);
        for (index, statement) in analysed.statements().iter().enumerate() {
            if index < last && self.is_placed() && changes_reading(&statement.facts) {
                return Ok(None);
            }
            replica &= statement.facts.access == Access::Read;
            if self.acts_on(&statement.facts.command) || matches!(statement.facts.command, Command::Empty) {
                if self.is_for_the_proxy(&statement.facts.command, analysed) {
                    return Ok(None);
                }
                replica = false;
                continue;
            }
            let own = &text[analysed.range(index)];
            let here =
                self.prepares_here(&statement.facts) || self.explains_here(&statement.facts, own).is_some();
            let free = self.check_name_free(&statement.facts, own).is_ok()
                && self.check_cursor_free(&statement.facts.command).is_ok();
            if here || !free || self.may_mean_temporary(&statement.facts, own) {
                return Ok(None);
            }
            if matches!(statement.facts.command, Command::Lock) && self.is_placed() {
                // Where it goes depends on the transaction that a text of several statements is.
                return Ok(None);
            }
            let Ok(plan) = self.plan_simple(text, analysed, index) else { return Ok(None) };
            replica &= plan.replica;
            match plan.target {
                Target::Any => anywhere = true,
                Target::One(shard) | Target::Nowhere(shard) if common.is_none_or(|other| other == shard) => {
                    common = Some(shard);
                }
                _ => return Ok(None),
            }
        }
        let enlisted = self.enlisted_shards();
        let shard = match common {
            Some(shard) => shard,
            None if anywhere || enlisted.is_empty() => self.any_shard(),
            None => enlisted[0],
        };
        let alone = enlisted.is_empty() || enlisted == [shard];
        Ok(alone.then_some((shard, replica)))
    }

    /// Whether a command in a text of several statements is one that the server must not be given as it is.
    fn is_for_the_proxy(&self, command: &Command, analysed: &Analysed) -> bool {
        match command {
            Command::SetHint { .. } | Command::Listen(_) | Command::Set { .. } => true,
            Command::Unlisten(_) => self.listening.is_some(),
            Command::Deallocate(Some(name)) => self.names.has_statement(name.as_bytes()),
            // Among others the server refuses it.
            Command::Discard(_) => analysed.is_single(),
            Command::Reset(name) => {
                self.startup_gucs.iter().any(|(known, _)| name.as_deref().is_none_or(|name| name == known))
            }
            _ => false,
        }
    }

    /// Effects of what has completed so far; then the implicit transaction, if the proxy opened one, ends.
    pub(super) async fn finish_simple(&mut self, outcome: Result<(), Failure>) -> Result<(), ClientError> {
        let mut outcome = outcome;
        self.events.ahead = 0;
        let failed = outcome.is_err() || self.events.error.is_some();
        self.apply_completed();
        if self.block.as_ref().is_some_and(|block| block.implicit) {
            let ended = self.end_implicit(failed).await;
            if outcome.is_ok() && !failed {
                if ended.is_err() {
                    // What was said to have succeeded has not.
                    self.io.out.truncate(self.tag_at);
                }
                outcome = ended;
            }
        } else if outcome.is_err() {
            self.doom();
        } else if let Err(failure) = self.commit_listens(failed).await {
            self.io.out.truncate(self.tag_at);
            outcome = Err(failure);
        }
        self.count_shard_error();
        if let Err(failure) = outcome {
            self.count_failure(&failure);
            failure.report(&mut self.io.out)?;
        }
        // A pipeline that follows knows nothing of it.
        self.events.error = None;
        self.events.rolled_back.clear();
        self.fail_everywhere().await;
        self.settle();
        self.refresh_catalog().await;
        self.hear_own().await;
        self.ready();
        Ok(())
    }

    /// Commits or rolls back the transaction that the proxy opened.
    pub async fn end_implicit(&mut self, failed: bool) -> Result<(), Failure> {
        let listened = if failed { Ok(()) } else { self.listen_ahead().await };
        let done = match listened {
            Ok(()) if !failed => self.commit_all().await,
            listened => self.rollback_all().await.and(listened),
        };
        self.end_block(failed || done.is_err());
        done
    }

    /// Runs a held conn until it owes nothing, feeding it COPY data when it asks.
    pub async fn run_to_end(&mut self, at: usize) -> Result<(), Failure> {
        loop {
            let held = &mut self.held[at];
            if !self.events.copy_in
                && let Err(error) =
                    crate::exec::single::run(&mut self.io, &mut held.lease, &mut self.events).await
            {
                return Err(self.lose(at, error));
            }
            if !std::mem::take(&mut self.events.copy_in) {
                break;
            }
            let held = &mut self.held[at];
            let fed = crate::exec::copy_in::feed(&mut self.io, &mut held.lease, &mut self.events).await;
            if let Err(error) = fed {
                return Err(self.lose(at, error));
            }
            let held = &mut self.held[at];
            if let Some(ignored) = held.lease.forget_ignored_syncs() {
                // Extended protocol: the server ignored the Sync in front of the data, the next one ends the COPY.
                held.unsynced = true;
                self.pipeline.copied = ignored;
                return Ok(());
            }
        }
        self.after_run(at);
        Ok(())
    }
}

/// Whether what comes behind the statement may be read otherwise than in front of it.
fn changes_reading(facts: &Facts) -> bool {
    const NAMES: [&str; 4] = ["search_path", "standard_conforming_strings", "client_encoding", "role"];
    match &facts.command {
        Command::Set { name, .. } => NAMES.contains(&name.as_str()),
        Command::Reset(name) => name.as_deref().is_none_or(|name| NAMES.contains(&name)),
        _ => facts.effects.changes_catalog,
    }
}

/// Whether the session must know when the statement has completed.
fn leaves_a_name(facts: &Facts) -> bool {
    facts.pin().is_some()
        || facts.effects.changes_catalog
        || !matches!(facts.command, Command::Query | Command::Modify(_) | Command::Empty)
}

/// Whether a reply frame is an error.
pub fn is_error(frame: &[u8]) -> bool {
    frame.first() == Some(&tag::ERROR)
}

/// Where the CommandComplete that ends the output begins, if one does.
fn tag_behind(out: &[u8]) -> Option<usize> {
    let least = out.len().saturating_sub(HEADER + TAG_BYTES);
    let begins = |at: &usize| {
        let length =
            out.get(at + 1..at + HEADER).map(|bytes| bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
        out[*at] == tag::COMMAND_COMPLETE && length == Some(out.len() - at - 1)
    };
    (least..out.len()).rev().find(begins)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::tag_behind;
    use crate::wire::reply;

    #[test]
    fn the_last_tag_is_found_where_it_is_the_last_frame() {
        let mut out = BytesMut::new();
        assert_eq!(tag_behind(&out), None);
        reply::command_complete(&mut out, "INSERT 0 1");
        assert_eq!(tag_behind(&out), Some(0));
        let first = out.len();
        reply::command_complete(&mut out, "CREATE TABLE");
        assert_eq!(tag_behind(&out), Some(first));
        reply::text_row(&mut out, std::iter::once(Some("C")));
        assert_eq!(tag_behind(&out), None);
    }
}
