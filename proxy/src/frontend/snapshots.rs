//! REPEATABLE READ over several shards: the snapshots of all of them are taken at one moment, with the first statement, since nobody
//! knows which shards the transaction will come to.
//!
//! Invariant: while the snapshots are taken no two-phase commit is half done, on whichever proxy (see [`Barrier`]). What a single
//! shard commits at that moment may be seen or not, each by itself.
//!
//! [`Barrier`]: crate::control::Barrier

use std::sync::Arc;

use router_config::settings::DatabaseKind;
use router_config::topology::ShardId;

use super::failure::Failure;
use super::session::Session;
use super::visible::{Doing, wait};
use crate::backend::owed::{Owed, Show};
use crate::sql::facts::{Command, Facts, Isolation};
use crate::wire::{reply, sqlstate};

/// Takes a snapshot and does nothing else.
const LOOK: &[u8] = b"SELECT";

impl Session {
    /// Notes the statement that conns are acquired for next: some take no snapshot, as LOCK TABLE, behind which one is to be taken.
    pub(super) fn heed(&mut self, facts: Option<&Facts>) {
        if let Some(block) = &mut self.block {
            block.locks_only = facts.is_some_and(|facts| {
                matches!(facts.command, Command::Lock | Command::Show(_) | Command::SetTransaction { .. })
            });
        }
    }

    /// Whether the open block has the snapshots of all shards.
    pub(super) fn is_whole(&self) -> bool {
        self.block.as_ref().is_some_and(|block| block.whole || block.locks_only)
    }

    /// Whether the next statement is the one with which the snapshots of all shards are taken.
    pub(super) fn needs_snapshots(&self) -> bool {
        self.lacks_snapshots() && !self.block.as_ref().is_some_and(|block| block.locks_only)
    }

    /// Whether the open block is one whose snapshots are of one moment, and has none yet.
    pub(super) fn lacks_snapshots(&self) -> bool {
        let Some(block) = &self.block else { return false };
        let due = !(block.whole || block.implicit || block.opaque || block.doomed);
        due && self.isolation() == Isolation::RepeatableRead
            && matches!(self.who.kind, DatabaseKind::Sharded)
            && self.worker.shared.topology.load().shards.len() > 1
    }

    /// Begins the open block on every shard, and takes their snapshots.
    pub(super) async fn take_snapshots(&mut self) -> Result<(), Failure> {
        let taken = self.begin_everywhere().await;
        if taken.is_err() {
            self.doom();
        }
        taken
    }

    async fn begin_everywhere(&mut self) -> Result<(), Failure> {
        let Some(block) = &mut self.block else { return Ok(()) };
        block.whole = true;
        let shared = Arc::clone(&self.worker.shared);
        let count = shared.topology.load().shards.len();
        let shards = (0..count).filter_map(|n| u16::try_from(n).ok()).map(ShardId);
        let order = self.acquire_all(shards, false).await?;
        let pass = wait(&mut self.io, Doing::Waiting, shared.control.barrier().enter()).await?;
        let pass = pass.ok_or_else(no_moment)?;
        for at in &order {
            let held = &mut self.held[*at];
            reply::query(&mut held.lease.write, LOOK);
            held.lease.owe(Owed::Query(Show::NOTHING));
            (held.unnamed, held.untouched) = (None, true);
        }
        let answers = self.drive(&order).await?;
        if let Some(frame) = answers.into_iter().find_map(|events| events.error) {
            return Err(Failure::Server(frame));
        }
        let held = wait(&mut self.io, Doing::Waiting, pass.leave()).await?;
        if held { Ok(()) } else { Err(no_moment()) }
    }
}

fn no_moment() -> Failure {
    Failure::error(
        sqlstate::SERIALIZATION_FAILURE,
        "no common snapshot of the shards could be taken: a transaction over several shards is being committed, or the \
         control store does not answer",
    )
}
