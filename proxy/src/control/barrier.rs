//! Moments at which no transaction over several shards is between its first COMMIT PREPARED and its last, on whichever proxy: the
//! snapshots of all shards that are taken then see each such transaction whole or not at all.
//!
//! Invariant: a decision to commit becomes visible only in a transaction that holds [`GATE`] shared. The barrier holds it
//! exclusively, so that no second phase begins, and waits until what had been decided before is prepared nowhere any more. A session
//! that has had the barrier asks at the end whether it has held all the while; without a yes its snapshots are of no use.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use router_config::topology::{NodeAddress, ShardId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::complaint::Complaint;
use super::error::ControlError;
use super::resolver::{HOME, Resolver};
use super::two_phase::Outcome;

/// Key of the advisory lock in the control database; decisions take it shared until they are committed.
pub(crate) const GATE: i64 = 7_161_881_724_510_138_113;

/// Sessions that share one barrier.
const BATCH: usize = 256;

/// Sessions that may wait for one; more wait in front of the queue.
const QUEUE: usize = 1024;

/// How long second phases under way may take to end.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);

/// How long decisions of all proxies are held up for sessions that take their snapshots. Below the `lock_timeout` of control
/// connections, so that no decision fails for it.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// How often prepared transactions are looked at meanwhile.
const SETTLE_PAUSE: Duration = Duration::from_millis(2);

/// The sessions' side.
#[derive(Debug, Clone)]
pub struct Barrier {
    queue: mpsc::Sender<oneshot::Sender<Pass>>,
}

/// The barrier is up for its holder, until [`Pass::leave`] or for a limited time.
#[derive(Debug)]
pub struct Pass {
    done: oneshot::Sender<oneshot::Sender<bool>>,
}

/// Requests of sessions.
pub(crate) type Queue = mpsc::Receiver<oneshot::Sender<Pass>>;

impl Barrier {
    pub(crate) fn new() -> (Self, Queue) {
        let (queue, requests) = mpsc::channel(QUEUE);
        (Self { queue }, requests)
    }

    /// Waits until it is up; `None`: it cannot be had now.
    pub async fn enter(&self) -> Option<Pass> {
        let (grant, granted) = oneshot::channel();
        self.queue.send(grant).await.ok()?;
        granted.await.ok()
    }
}

impl Pass {
    /// Whether it has been up until now.
    pub async fn leave(self) -> bool {
        let (answer, held) = oneshot::channel();
        self.done.send(answer).is_ok() && held.await.unwrap_or(false)
    }
}

impl Resolver {
    /// Raises the barrier whenever sessions ask for it, once for all that ask meanwhile.
    pub(crate) async fn keep_barrier(self: Arc<Self>, mut queue: Queue) {
        let mut waiting = Vec::with_capacity(BATCH);
        let mut own: Option<(NodeAddress, Client)> = None;
        let mut complaint = Complaint::default();
        while queue.recv_many(&mut waiting, BATCH).await > 0 {
            let raised = self.raise(&mut own).await;
            let up = raised.is_ok();
            if let Some(error) = complaint.of(raised) {
                tracing::warn!("no common snapshot of the shards can be taken: {error}");
            }
            if !up || !self.let_through(&mut waiting, &own).await {
                // Whoever waits learns it by the end of its channel. The connection may be in a transaction still.
                waiting.clear();
                own = None;
            }
        }
    }

    /// Gives each its pass, and lowers the barrier when all have left. Whether it has been lowered in order.
    async fn let_through(
        &self,
        waiting: &mut Vec<oneshot::Sender<Pass>>,
        own: &Option<(NodeAddress, Client)>,
    ) -> bool {
        let Some((_, client)) = own else { return false };
        let passes = waiting.drain(..).filter_map(|grant| {
            let (done, left) = oneshot::channel();
            grant.send(Pass { done }).is_ok().then_some(left)
        });
        let Ok(left) = timeout(OPEN_LIMIT, join_all(passes)).await else { return false };
        let lowered = client.batch_execute("ROLLBACK").await.is_ok();
        for answer in left.into_iter().flatten() {
            // A session that has gone does not need it.
            let _gone = answer.send(lowered);
        }
        lowered
    }

    /// From here on nothing is decided, and what was has been carried out.
    async fn raise(&self, own: &mut Option<(NodeAddress, Client)>) -> Result<(), ControlError> {
        let home = self.primary(HOME)?;
        if own.as_ref().is_none_or(|(node, client)| *node != home || client.is_closed()) {
            *own = None;
            *own = Some((home.clone(), self.dialer.driven(&home, &self.database).await?));
        }
        let Some((_, client)) = own.as_ref() else { return Ok(()) };
        let sql = format!("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({GATE})");
        let locked = client.batch_execute(&sql).await;
        locked.map_err(|error| ControlError::query("holding up commit decisions", &home, &error))?;
        self.settled().await
    }

    /// Waits until nothing that is decided is prepared on a shard.
    async fn settled(&self) -> Result<(), ControlError> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let shards =
                (0..self.nodes.shard_count()).filter_map(|index| u16::try_from(index).ok()).map(ShardId);
            let prepared = try_join_all(shards.map(|shard| self.prepared_on(shard))).await?;
            let gids: Vec<_> = prepared.iter().flatten().map(|part| part.participant.gid.as_str()).collect();
            if gids.is_empty() {
                return Ok(());
            }
            let decided = self.decisions(&gids).await?;
            let Some((gid, _)) = decided.iter().find(|(_, outcome)| **outcome == Outcome::Committed) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(ControlError::Limit {
                    message: format!("transaction {gid} is decided, but not yet committed on every shard"),
                });
            }
            sleep(SETTLE_PAUSE).await;
        }
    }
}
