//! Shards that have no node to go to, or one that gives no connections: how long they are waited for, and what is held meanwhile.
//!
//! Invariant: a statement that waits for a shard keeps no conn of another one from others, but for those that its transaction or
//! its session has work on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use router_config::settings::{DatabaseKind, PoolMode};
use router_config::topology::ShardId;

use super::failure::Failure;
use super::session::{Held, Session};
use super::visible::{Doing, wait};
use crate::backend::pool::LeaseError;
use crate::control::NodeId;
use crate::wire::backend::Status;

/// Pause before a node that gave no connection is asked again, or another one.
const NODE_PAUSE: Duration = Duration::from_millis(100);

/// Why a shard gives no conn.
pub(super) enum Lack {
    /// It has no primary.
    Primary,
    /// Its node goes down or comes up, which nobody knows yet: it gives no connections.
    Connection(Failure),
    /// What no wait cures, or what ended one.
    Final(Failure),
}

impl Lack {
    /// Of a node that gave no connection.
    pub(super) fn of(node: Option<NodeId>, failure: Failure) -> Self {
        let passing = match &failure {
            Failure::Lease { error: LeaseError::Connect(connect), .. } => {
                node.is_some() && connect.is_retryable() && !connect.node_is_full()
            }
            Failure::Lease { .. }
            | Failure::Refused(_)
            | Failure::Server(_)
            | Failure::Lost { .. }
            | Failure::Client(_) => false,
        };
        if passing { Self::Connection(failure) } else { Self::Final(failure) }
    }
}

impl Session {
    /// A conn to `shard`, which is waited for if it has no node that gives one.
    pub(super) async fn lease(&mut self, shard: ShardId, replica: bool) -> Result<Held, Failure> {
        let mut since = None;
        loop {
            match self.lease_now(shard, replica).await {
                Ok(held) => return Ok(held),
                Err(lack) => self.wait_out(shard, lack, &mut since).await?,
            }
        }
    }

    /// Indices of held conns to these shards, as [`Self::acquire`] gives one. A shard that has to be waited for is waited for before
    /// any of them is taken, and if it turns out to be one when some have been taken, they are given back: nothing has been sent.
    pub async fn acquire_all(
        &mut self,
        shards: impl Iterator<Item = ShardId> + Clone,
        replica: bool,
    ) -> Result<Vec<usize>, Failure> {
        if self.needs_snapshots() {
            Box::pin(self.take_snapshots()).await?;
        }
        let mut since = None;
        let leases = loop {
            self.await_nodes(shards.clone(), replica, &mut since).await?;
            match self.lease_all(shards.clone(), replica).await {
                Ok(leases) => break leases,
                Err((shard, lack)) => {
                    self.give_back();
                    self.wait_out(shard, lack, &mut since).await?;
                }
            }
        };
        let mut order = Vec::with_capacity(leases.len());
        for (shard, lease) in shards.zip(leases) {
            order.push(match lease {
                Some(held) => self.take(held).await?,
                None => self.acquire(shard, replica).await?,
            });
        }
        Ok(order)
    }

    /// Waits for those of the shards that the session has no conn to, and that have no node. `since`: of the first wait.
    pub async fn await_nodes(
        &mut self,
        shards: impl Iterator<Item = ShardId> + Clone,
        replica: bool,
        since: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        let lacks = |session: &Self, shard| {
            session.held_for(shard, replica).is_none() && !session.has_node(shard, replica)
        };
        while let Some(shard) = shards.clone().find(|shard| lacks(self, *shard)) {
            self.may_join()?;
            self.give_back();
            self.wait_out(shard, Lack::Primary, since).await?;
        }
        Ok(())
    }

    /// A conn for each shard that the session has none to. On failure, which one gave none; the others are in their pools again.
    async fn lease_all(
        &mut self,
        shards: impl Iterator<Item = ShardId>,
        replica: bool,
    ) -> Result<Vec<Option<Held>>, (ShardId, Lack)> {
        let mut leases = Vec::with_capacity(shards.size_hint().0);
        for shard in shards {
            if self.held_for(shard, replica).is_some() {
                leases.push(None);
                continue;
            }
            self.may_join().map_err(|failure| (shard, Lack::Final(failure)))?;
            leases.push(Some(self.lease_now(shard, replica).await.map_err(|lack| (shard, lack))?));
        }
        Ok(leases)
    }

    /// Whether the health checks know a node of the shard to go to.
    fn has_node(&self, shard: ShardId, replica: bool) -> bool {
        let nodes = self.worker.shared.nodes();
        match self.who.kind {
            DatabaseKind::Node(_) => true,
            DatabaseKind::Sharded | DatabaseKind::FirstShard => {
                nodes.primary(shard).is_some() || (replica && self.replica_at_hand(shard).flatten().is_some())
            }
        }
    }

    /// Waits for a shard, all in all no longer than `backend.primary_wait`. A node that goes down or comes up gives no connections
    /// before or after its role is known: that is waited out as the lack of a primary is, and nothing has been sent yet.
    async fn wait_out(
        &mut self,
        shard: ShardId,
        lack: Lack,
        since: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        let limit = self.worker.shared.settings.load().backend.primary_wait;
        let left = limit.saturating_sub(since.get_or_insert_with(Instant::now).elapsed());
        match lack {
            Lack::Primary => {
                let shared = Arc::clone(&self.worker.shared);
                let found = shared.nodes().wait_primary(shard, left);
                let found = wait(&mut self.io, Doing::Waiting, found).await?;
                found.map(|_| ()).ok_or_else(|| self.no_primary(shard))
            }
            Lack::Connection(failure) if left.is_zero() => Err(failure),
            Lack::Connection(_) => wait(&mut self.io, Doing::Waiting, tokio::time::sleep(NODE_PAUSE)).await,
            Lack::Final(failure) => Err(failure),
        }
    }

    /// In front of a wait: conns on which a statement was only read, or a part of it has run for itself, go back to their pools.
    fn give_back(&mut self) {
        if self.who.mode == PoolMode::Session {
            return;
        }
        let (draws, names, pins) = (&self.draws, &self.names, &self.pins);
        let mut running = self.io.visible.running();
        let cancelling = running.cancelling > 0;
        self.held.retain(|held| {
            let works = held.enlisted || held.unsynced || held.wrote || held.gucs_moved;
            let rests = held.lease.status == Status::Idle && held.lease.is_quiet() && held.asks_lsn.is_none();
            let stays = held.is_bound(draws, names, pins) || works || !rests;
            if !stays {
                self.worker.pools.backend.add(std::mem::take(&mut held.lease.moved));
                held.lease.spoiled |= cancelling;
            }
            stays
        });
        running.conns.clear();
        running.conns.extend(self.held.iter().map(Held::shown));
    }
}
