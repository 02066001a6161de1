//! The end of a transaction over several shards: never a half commit.
//!
//! One writing shard: a plain COMMIT. More: every writer prepares, the decision is recorded durably, every writer commits what it has
//! prepared. What cannot be finished here is finished by the resolver, by the same decision.

use crate::backend::gucs::Gucs;
use crate::control::{Outcome, commit_prepared_sql, prepare_sql, rollback_prepared_sql};
use crate::frontend::failure::Failure;
use crate::frontend::session::{Held, Session};
use crate::route::refusal::Refusal;
use crate::wire::backend::Status;
use crate::wire::sqlstate;

/// Cancel requests that can be on their way to one conn: the application's, the proxy's own, and those that it has repeated.
const LATE_CANCELS: usize = 8;

impl Session {
    /// Commits on every enlisted shard, or on none.
    pub async fn commit_all(&mut self) -> Result<(), Failure> {
        let writers = self.enlisted().into_iter().filter(|at| self.held[*at].wrote).count();
        let done = if writers > 1 { self.commit_two_phase().await } else { self.commit_one_phase().await };
        if done.is_err() {
            // Those that had not come to their COMMIT are in the transaction still.
            let _ = self.rollback_all().await;
        }
        done
    }

    /// The writer first: what the readers answer changes nothing.
    async fn commit_one_phase(&mut self) -> Result<(), Failure> {
        let mut order = self.enlisted();
        order.sort_by_key(|at| !self.held[*at].wrote);
        let shards: Vec<_> = order.iter().map(|at| self.held[*at].shard).collect();
        for (turn, shard) in shards.into_iter().enumerate() {
            let Some(at) = self.held.iter().position(|held| held.shard == shard && held.enlisted) else {
                continue;
            };
            let done = self.end_on(at, "COMMIT").await;
            if turn == 0 {
                done?;
            }
        }
        Ok(())
    }

    /// Rolls back everywhere. A shard that cannot be reached rolls back by itself.
    pub async fn rollback_all(&mut self) -> Result<(), Failure> {
        while let Some(at) = self.held.iter().position(|held| held.enlisted) {
            match self.end_on(at, "ROLLBACK").await {
                Ok(()) | Err(Failure::Lost { .. } | Failure::Server(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// COMMIT or ROLLBACK on one conn, which then is no longer part of the block.
    async fn end_on(&mut self, at: usize, command: &str) -> Result<(), Failure> {
        let shard = self.held[at].shard;
        self.held[at].committing = command == "COMMIT";
        let done = self.ask(at, command).await;
        // A cancel request that was meant for the statement may come late, and end the end of the transaction before it has begun.
        for _ in 0..LATE_CANCELS {
            let in_it = |held: &Held| {
                held.shard == shard
                    && held.enlisted
                    && held.lease.is_quiet()
                    && held.lease.status != Status::Idle
            };
            let Some(at) = self.held.iter().position(in_it) else { break };
            let _ = self.ask(at, "ROLLBACK").await;
        }
        if let Some(held) = self.held.iter_mut().find(|held| held.shard == shard && held.enlisted) {
            held.enlisted = false;
            held.lease.spoiled |= held.lease.status != Status::Idle;
        }
        done
    }

    async fn commit_two_phase(&mut self) -> Result<(), Failure> {
        self.may_prepare()?;
        while let Some(at) = self.held.iter().position(|held| held.enlisted && !held.wrote) {
            self.end_on(at, "COMMIT").await?;
        }
        let shared = std::sync::Arc::clone(&self.worker.shared);
        let transaction = shared.control.two_phase().begin();
        let gid = transaction.gid().clone();
        let shards = self.enlisted_shards();
        let mut prepared = Vec::new();
        for shard in &shards {
            let Some(at) = self.held.iter().position(|held| held.shard == *shard && held.enlisted) else {
                continue;
            };
            match self.end_on(at, &prepare_sql(&gid, *shard)).await {
                Ok(()) => prepared.push(*shard),
                Err(failure) => {
                    // A shard that was lost while preparing may have prepared: the resolver looks.
                    for done in &prepared {
                        let _ = self.finish_prepared(*done, &rollback_prepared_sql(&gid, *done)).await;
                    }
                    transaction.hand_over();
                    let _ = self.rollback_all().await;
                    self.forget_settings();
                    shared.metrics.two_phase(Outcome::Aborted);
                    return Err(failure);
                }
            }
        }
        let names = shards.iter().map(|shard| self.shard_name(*shard)).collect();
        let outcome = shared.control.two_phase().decide(&gid, names).await;
        shared.metrics.two_phase(outcome);
        match outcome {
            Outcome::Committed => {}
            Outcome::Aborted => {
                transaction.hand_over();
                self.forget_settings();
                return Err(Failure::error(
                    sqlstate::SERIALIZATION_FAILURE,
                    "the transaction was rolled back on all shards: a resolver took its coordinator for dead",
                ));
            }
            Outcome::Unknown => {
                transaction.hand_over();
                self.forget_settings();
                return Err(Failure::error(
                    sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
                    "the outcome of the two-phase commit is unknown: the decision store did not answer; it will be the same on all shards",
                ));
            }
        }
        let mut finished = true;
        for shard in shards {
            finished &= self.finish_prepared(shard, &commit_prepared_sql(&gid, shard)).await.is_ok();
        }
        if !finished {
            transaction.hand_over();
        }
        Ok(())
    }

    /// A conn that has prepared keeps what the transaction set, whatever becomes of it.
    fn forget_settings(&mut self) {
        let before = self.block.as_ref().map(|block| block.gucs_before());
        if before.is_some_and(|before| !before.same(&self.gucs)) {
            for held in self.held.iter_mut().filter(|held| held.gucs_moved) {
                held.gucs_moved = false;
                held.lease.applied = None;
            }
        }
    }

    async fn finish_prepared(
        &mut self,
        shard: router_config::topology::ShardId,
        sql: &str,
    ) -> Result<(), Failure> {
        match self.held.iter().position(|held| held.shard == shard && !held.replica) {
            Some(at) => {
                // What is decided is not cut short by a limit of the application's.
                if self.gucs.limits_statements() {
                    self.held[at].lease.applied = None;
                    self.held[at].gucs_moved = false;
                    self.ask(at, Gucs::LIFT).await?;
                }
                self.ask(at, sql).await
            }
            None => Err(Failure::error(sqlstate::CONNECTION_FAILURE, "the shard's connection was lost")),
        }
    }

    /// Notes that a held conn is about to write. The second writing shard of a transaction is refused here, before it has
    /// written, where the transaction could not be committed.
    pub fn writes(&mut self, at: usize) -> Result<(), Failure> {
        let shard = self.held[at].shard;
        let other = |held: &Held| held.wrote && held.shard != shard && (held.enlisted || held.unsynced);
        if !self.held[at].wrote && self.held.iter().any(other) {
            self.may_prepare()?;
        }
        self.held[at].wrote = true;
        self.draws_on(at);
        Ok(())
    }

    /// Whether a second shard may write at all.
    pub fn may_prepare(&self) -> Result<(), Failure> {
        let shared = &self.worker.shared;
        if !shared.settings.load().routing.two_phase {
            return Err(Refusal::two_phase_off("the transaction").into());
        }
        shared.control.can_prepare().map_err(|node| {
            let refusal = Refusal {
                sqlstate: sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                message: format!(
                    "writing to several shards needs prepared transactions, which node {node} has disabled \
                     (max_prepared_transactions = 0)"
                ),
                detail: None,
                hint: Some(
                    "Set max_prepared_transactions to at least max_connections on every node and restart it."
                        .to_owned(),
                ),
            };
            refusal.into()
        })
    }
}
