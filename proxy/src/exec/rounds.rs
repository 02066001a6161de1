//! The order in which the shares of a statement over several shards run.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use router_config::topology::ShardId;

use super::ask::{Ask, Form, Share};
use super::merge::Merge;
use crate::backend::conn::Events;
use crate::frontend::failure::Failure;
use crate::frontend::repeat::Again;
use crate::frontend::session::Session;
use crate::frontend::watch::Why;
use crate::route::plan::{Plan, Target};
use crate::sql::facts::{Access, Command, Facts, Scope};
use crate::sql::normalise::identifiers;
use crate::wire::sqlstate;

/// A statement that locks tables is under way, for as long as this lives.
pub(super) struct Locking(Arc<AtomicUsize>);

impl Drop for Locking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Tells other sessions that a statement locks tables, if it does.
    pub(super) fn note_locking(&self, ask: &Ask) -> Option<Locking> {
        let locking = locks_tables(ask).then(|| Arc::clone(&self.worker.shared.locking))?;
        locking.fetch_add(1, Ordering::Relaxed);
        Some(Locking(locking))
    }

    /// Which shares run at the same time. Sessions that lock rows of several shards, or tables, do it in the order of the shards, and so
    /// wait for each other on one shard, not in a circle. INSERTs seldom wait at all: their shards run at the same time, unless tables are
    /// being locked just now, and one that got into a circle of waits is taken back and run again in that order.
    pub(super) fn rounds(&self, ask: &Ask, merge: Merge, shares: usize) -> Vec<Range<usize>> {
        let mut upserts = false;
        if matches!(ask.plan.target, Target::Split(_)) {
            identifiers(&ask.text, self.text_rules().standard_strings, false, &mut |name| {
                upserts |= name == "conflict";
            });
        }
        let writes = ask.facts.access != Access::Read;
        let locking = self.worker.shared.locking.load(Ordering::Relaxed) > 0;
        let in_order =
            locks_tables(ask) || writes && (upserts || locking || self.repeat.is_under_way(Again::InOrder));
        let alone = match merge {
            _ if in_order || matches!(ask.plan.target, Target::Each(_)) => shares,
            // What is written everywhere meets on the home shard.
            Merge::First if writes => 1,
            Merge::First | Merge::Sum | Merge::Concat | Merge::Ordered | Merge::Gathered(_) => 0,
        };
        let mut rounds: Vec<Range<usize>> = (0..alone.min(shares)).map(|turn| turn..turn + 1).collect();
        rounds.extend((alone < shares).then_some(alone..shares));
        rounds
    }

    /// A statement that cannot run in a transaction: one shard after the other. It can be run again where it stopped.
    pub(super) async fn each_alone(&mut self, ask: Ask) -> Result<(), Failure> {
        let count = self.worker.shared.topology.load().shards.len() as u16;
        if self.block.is_some() {
            // PostgreSQL's own refusal: it cannot run inside a transaction block.
            let plan = Plan { target: Target::One(ShardId(0)), ..ask.plan };
            return Box::pin(self.spread(Ask { plan, ..ask })).await;
        }
        if self.events.completed > 0 && matches!(ask.form, Form::Execute { .. }) {
            let message = "this statement cannot be executed within a pipeline";
            return Err(Failure::error(sqlstate::ACTIVE_SQL_TRANSACTION, message));
        }
        let notices = self.judge_concurrent_index(&ask.text)?;
        self.await_nodes((0..count).map(ShardId), false, &mut None).await?;
        for turn in 0..count {
            let Some(at) = self.acquire_all(std::iter::once(ShardId(turn)), false).await?.pop() else {
                break;
            };
            self.note_shard(Why::of(&ask.plan), at);
            let share = Share::new(ShardId(turn), ask.text.clone());
            // The home shard's answer is kept back until all have succeeded.
            self.writes(at)?;
            self.queue_share(at, &share, &ask.form.described_if(turn == 0), Merge::First.show(true))?;
            let outcome = self.drive(&[at]).await?;
            if turn + 1 < count && outcome.iter().all(|events| events.error.is_none()) {
                continue;
            }
            self.io.out.extend_from_slice(&notices);
            self.expect(&ask.facts, &ask.text, None);
            return self.conclude(outcome, &[share], Merge::First);
        }
        Ok(())
    }

    /// Conns that had not written before and on which no row was touched have nothing to prepare.
    pub(super) fn spare(&mut self, ask: &Ask, order: &[usize], fresh: &[usize], outcome: &[Events]) {
        let fires = match &ask.facts.scope {
            Scope::Sharded(sharded) => sharded.fires.is_some(),
            _ => true,
        };
        if fires || !matches!(ask.plan.target, Target::Each(_)) {
            return;
        }
        for (at, events) in order.iter().zip(outcome) {
            let none = events.last_tag.as_deref().is_some_and(|tag| tag.ends_with(b" 0"));
            if none && events.error.is_none() && fresh.contains(at) {
                self.held[*at].wrote = false;
            }
        }
    }

    /// DDL that fills a table on each shard with rows of that shard (CREATE MATERIALIZED VIEW).
    pub(super) fn fills_on_each(&self, facts: &Facts) -> bool {
        let sharded = |table: &String| {
            self.schema().by_full_name(table).is_some_and(|relation| relation.key_type().is_some())
        };
        matches!(facts.command, Command::Ddl(_)) && facts.tables.iter().any(sharded)
    }
}

/// DDL, TRUNCATE, LOCK: whatever is for every shard and does not write rows.
fn locks_tables(ask: &Ask) -> bool {
    let everywhere = matches!(ask.plan.target, Target::Everywhere | Target::EverywhereAs(_));
    everywhere && !matches!(ask.facts.command, Command::Modify(_))
}
