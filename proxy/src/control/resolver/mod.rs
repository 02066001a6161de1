//! The durable side of two-phase commit, on the control runtime: writes decisions, holds this process's owner lock,
//! finishes what dead or lost coordinators left behind, and forgets decisions that nobody needs.
//!
//! A live coordinator is not robbed: this process knows its own; another process shows that it lives by an advisory
//! lock on the home shard, named by its gids and held by a connection for as long as it runs. What has no live owner
//! and is older than [`GRACE`] is finished: a tombstone under the decision's primary key first, then by whatever
//! decision is there. Were a lock lost for a moment, the worst is a rolled back transaction, never half of one.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use router_config::topology::{NodeAddress, ShardId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::control::barrier::GATE;
use crate::control::complaint::Complaint;
use crate::control::connect::Dialer;
use crate::control::error::ControlError;
use crate::control::nodes::Nodes;
use crate::control::two_phase::{
    BATCH, DECIDE_LIMIT, Decide, Gid, Live, Outcome, Owner, Participant, parse_participant,
};
use crate::metrics::Metrics;

/// The home shard.
pub(crate) const HOME: ShardId = ShardId(0);

/// A prepared transaction younger than this is left to its coordinator.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Pause between passes.
pub(crate) const PASS: Duration = Duration::from_secs(3);

/// Committed decisions older than this are deleted once no shard needs them.
const FORGET_COMMITTED: &str = "60 seconds";

/// Tombstones are kept for this long: a coordinator that slept must still find them.
const FORGET_ABORTED: &str = "1 day";

/// Rows deleted in one pass.
const FORGET_BATCH: i64 = 1000;

/// What resolver and decider share.
pub(crate) struct Resolver {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) live: Arc<Live>,
    pub(crate) owner: Owner,
    /// Control database.
    pub(crate) database: String,
    pub(crate) grace: Duration,
    pub(crate) pass: Duration,
}

/// A prepared transaction found on a shard.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) shard: ShardId,
    name: String,
    pub(crate) database: String,
    pub(crate) role: String,
    pub(crate) age: Duration,
    pub(crate) participant: Participant,
    /// Old enough to look for its owner.
    due: bool,
}

impl Resolver {
    /// Writes decisions until the queue closes.
    pub(crate) async fn decide_all(self: Arc<Self>, mut queue: mpsc::Receiver<Decide>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut complaint = Complaint::default();
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            let outcomes = self.decide_batch(&batch, &mut complaint).await;
            for (request, outcome) in batch.drain(..).zip(outcomes) {
                // A session that has gone does not need its answer: the row is there for the resolver.
                let _gone = request.answer.send(outcome);
            }
        }
    }

    async fn decide_batch(&self, batch: &[Decide], complaint: &mut Complaint) -> Vec<Outcome> {
        let deadline = Instant::now() + DECIDE_LIMIT;
        loop {
            let tried = tokio::time::timeout_at(deadline, self.try_decide(batch)).await;
            match tried {
                Ok(Ok(outcomes)) => {
                    if complaint.over() {
                        tracing::info!("decisions are recorded again");
                    }
                    return outcomes;
                }
                Ok(Err(error)) => {
                    if complaint.due(&error.to_string()) {
                        let count = batch.len();
                        tracing::error!("decisions of {count} transactions are not recorded yet: {error}");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(_) => return vec![Outcome::Unknown; batch.len()],
            }
            if Instant::now() >= deadline {
                return vec![Outcome::Unknown; batch.len()];
            }
        }
    }

    /// Idempotent: a row that an earlier try wrote reads as committed, since nobody else writes `committed` for a gid
    /// of ours.
    async fn try_decide(&self, batch: &[Decide]) -> Result<Vec<Outcome>, ControlError> {
        let (home, client) = self.store().await?;
        let failed = |error| ControlError::query("recording commit decisions", &home, &error);
        let gids: Vec<&str> = batch.iter().map(|request| request.gid.as_str()).collect();
        let names: Vec<String> = batch.iter().map(|request| request.participants.join(",")).collect();
        let insert = format!(
            "INSERT INTO gavel.decision (gid, state, participants) \
             SELECT g, 'committed', pg_catalog.string_to_array(p, ',') \
             FROM unnest($1::text[], $2::text[]) AS d (g, p), \
             (SELECT pg_catalog.pg_advisory_xact_lock_shared({GATE})) AS gate ON CONFLICT (gid) DO NOTHING"
        );
        let statement = client.prepare_cached(&insert).await.map_err(failed)?;
        let written = client.execute(&statement, &[&gids, &names]).await.map_err(failed)?;
        if written == gids.len() as u64 {
            return Ok(vec![Outcome::Committed; batch.len()]);
        }
        let states = read_decisions(&client, &gids).await.map_err(failed)?;
        Ok(gids.iter().map(|gid| states.get(*gid).copied().unwrap_or(Outcome::Unknown)).collect())
    }

    /// Keeps the advisory lock that tells other proxies that this one lives.
    pub(crate) async fn hold_lock(self: Arc<Self>) {
        let key = Owner::lock_key(&self.owner.proxy).unwrap_or_default();
        let mut held: Option<(NodeAddress, Client)> = None;
        let mut complaint = Complaint::default();
        loop {
            let renewed = self.renew_lock(key, &mut held).await;
            if renewed.is_err() {
                held = None;
            }
            if let Some(error) = complaint.of(renewed) {
                tracing::warn!(
                    "the owner lock is not held, other proxies may finish our transactions: {error}"
                );
            }
            tokio::time::sleep(self.pass.min(Duration::from_secs(1))).await;
        }
    }

    async fn renew_lock(
        &self,
        key: i64,
        held: &mut Option<(NodeAddress, Client)>,
    ) -> Result<(), ControlError> {
        let home = self.primary(HOME)?;
        if let Some((node, client)) = held.as_ref()
            && *node == home
            && !client.is_closed()
        {
            // A connection cut without a word would otherwise look held here and free there.
            let answered = tokio::time::timeout(self.grace / 2, client.simple_query("")).await;
            if matches!(answered, Ok(Ok(_))) {
                return Ok(());
            }
        }
        *held = None;
        let client = self.dialer.driven(&home, &self.database).await?;
        client
            .execute("SELECT pg_catalog.pg_advisory_lock_shared($1)", &[&key])
            .await
            .map_err(|error| ControlError::query("taking the owner lock", &home, &error))?;
        *held = Some((home, client));
        Ok(())
    }

    /// Finishes orphans until the process ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut complaint = Complaint::default();
        loop {
            if let Some(error) = complaint.of(self.pass().await) {
                tracing::warn!("two-phase recovery will try again: {error}");
            }
            let _woken = tokio::time::timeout(self.pass, self.live.wake.notified()).await;
        }
    }

    /// One pass over all shards. Returns how many prepared transactions it finished.
    pub(crate) async fn pass(&self) -> Result<usize, ControlError> {
        // Decisions first: a decision row is there only once all participants have prepared, so that a shard that is
        // asked later and has nothing under the gid needs it no more.
        let forgettable = self.old_decisions().await?;
        let mut found = Vec::new();
        let mut unreachable: Option<ControlError> = None;
        for index in 0..self.nodes.shard_count() {
            let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            match self.prepared_on(shard).await {
                Ok(list) => found.extend(list),
                Err(error) => unreachable = Some(error),
            }
        }
        let orphans = self.orphans(&found).await?;
        let mut finished = 0;
        for (gid, parts) in &orphans {
            finished += self.finish(gid, parts).await?;
        }
        if let Some(error) = unreachable {
            return Err(error);
        }
        let needed: HashSet<&str> = found.iter().map(|part| part.participant.gid.as_str()).collect();
        self.forget(forgettable.into_iter().filter(|gid| !needed.contains(gid.as_str())).collect()).await?;
        Ok(finished)
    }

    /// What is prepared on a shard by proxies of this cluster.
    pub(crate) async fn prepared_on(&self, shard: ShardId) -> Result<Vec<Found>, ControlError> {
        let node = self.primary(shard)?;
        let client = self.dialer.client(&node, &self.database).await?;
        let rows = client
            .query(
                "SELECT gid, database::text, owner::text, (extract(epoch FROM \
                 pg_catalog.clock_timestamp() - prepared) * 1000)::int8 FROM pg_catalog.pg_prepared_xacts \
                 WHERE gid LIKE 'gavel:%'",
                &[],
            )
            .await
            .map_err(|error| ControlError::query("listing prepared transactions", &node, &error))?;
        let mut list = Vec::new();
        for row in rows {
            let name: String = row.get(0);
            let Some(participant) = parse_participant(&self.owner.cluster, &name) else { continue };
            let age = Duration::from_millis(u64::try_from(row.get::<_, i64>(3)).unwrap_or(0));
            // Our own are known for sure, whatever their age.
            let due = participant.proxy == self.owner.proxy || age >= self.grace;
            let (database, role) = (row.get(1), row.get(2));
            list.push(Found { shard, name, database, role, age, participant, due });
        }
        Ok(list)
    }

    /// Groups what has no live owner by transaction.
    pub(crate) async fn orphans(&self, found: &[Found]) -> Result<HashMap<Gid, Vec<Found>>, ControlError> {
        let mut alive: HashMap<&str, bool> = HashMap::new();
        let mut orphans: HashMap<Gid, Vec<Found>> = HashMap::new();
        for part in found.iter().filter(|part| part.due) {
            let owner = part.participant.proxy.as_str();
            let lives = if owner == self.owner.proxy {
                self.live.contains(part.participant.counter)
            } else if let Some(known) = alive.get(owner) {
                *known
            } else {
                let lives = self.owner_lives(owner).await?;
                alive.insert(owner, lives);
                lives
            };
            if !lives {
                orphans.entry(part.participant.gid.clone()).or_default().push(part.clone());
            }
        }
        Ok(orphans)
    }

    /// Another process lives if an exclusive lock on its name cannot be had.
    pub(crate) async fn owner_lives(&self, proxy: &str) -> Result<bool, ControlError> {
        let home = self.primary(HOME)?;
        let client = self.dialer.client(&home, &self.database).await?;
        let key = Owner::lock_key(proxy).unwrap_or_default();
        let row = client
            .query_one("SELECT NOT pg_catalog.pg_try_advisory_xact_lock($1)", &[&key])
            .await
            .map_err(|error| ControlError::query("looking for the owner's lock", &home, &error))?;
        Ok(row.get(0))
    }

    /// Decides (roll back, unless decided already) and carries out, on the shards where it is prepared.
    pub(crate) async fn finish(&self, gid: &Gid, parts: &[Found]) -> Result<usize, ControlError> {
        let outcome = self.tombstone(gid).await?;
        let (verb, word) = match outcome {
            Outcome::Committed => ("COMMIT", "committed"),
            Outcome::Aborted => ("ROLLBACK", "rolled back"),
            Outcome::Unknown => return Ok(0),
        };
        let mut finished = 0;
        for part in parts {
            match self.second_phase(verb, part).await {
                Ok(()) => {
                    finished += 1;
                    self.metrics.two_phase_recovered(outcome);
                    tracing::warn!(gid = %part.name, "{word} a prepared transaction whose coordinator was lost");
                }
                // 42704: finished meanwhile by somebody else.
                Err(error) if error.sqlstate() == Some("42704") => {}
                Err(error) => {
                    tracing::error!(gid = %part.name, "cannot finish a prepared transaction: {error}")
                }
            }
        }
        Ok(finished)
    }

    async fn tombstone(&self, gid: &Gid) -> Result<Outcome, ControlError> {
        let (home, client) = self.store().await?;
        let failed = |error| ControlError::query("deciding an orphaned transaction", &home, &error);
        client
            .execute(
                "INSERT INTO gavel.decision (gid, state, participants) VALUES ($1, 'aborted', '{}') \
                 ON CONFLICT (gid) DO NOTHING",
                &[&gid.as_str()],
            )
            .await
            .map_err(failed)?;
        let states = read_decisions(&client, &[gid.as_str()]).await.map_err(failed)?;
        Ok(states.get(gid.as_str()).copied().unwrap_or(Outcome::Unknown))
    }

    /// Needs the owner or a superuser; a control role that is neither tries as a member of the owner's role.
    async fn second_phase(&self, verb: &str, part: &Found) -> Result<(), ControlError> {
        let node = self.primary(part.shard)?;
        let client = self.dialer.client(&node, &part.database).await?;
        let sql = format!("{verb} PREPARED '{}'", part.name.replace('\'', "''"));
        let doing =
            format!("{verb} PREPARED of {} (as its owner \"{}\" or a superuser)", part.name, part.role);
        let Err(error) = client.batch_execute(&sql).await else { return Ok(()) };
        if error.code() != Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) {
            return Err(ControlError::query(&doing, &node, &error));
        }
        let role = part.role.replace('"', "\"\"");
        let as_owner = async {
            client.batch_execute(&format!("SET ROLE \"{role}\"")).await?;
            client.batch_execute(&sql).await
        };
        let result = as_owner.await.map_err(|error| ControlError::query(&doing, &node, &error));
        if client.batch_execute("RESET ROLE").await.is_err() {
            let _broken = deadpool_postgres::Object::take(client);
        }
        result
    }

    async fn old_decisions(&self) -> Result<Vec<String>, ControlError> {
        let home = self.primary(HOME)?;
        let client = self.dialer.client(&home, &self.database).await?;
        let sql = format!(
            "SELECT gid FROM gavel.decision WHERE created < pg_catalog.clock_timestamp() - \
             CASE state WHEN 'committed' THEN interval '{FORGET_COMMITTED}' ELSE interval '{FORGET_ABORTED}' END \
             LIMIT {FORGET_BATCH}"
        );
        let rows = client
            .query(&sql, &[])
            .await
            .map_err(|error| ControlError::query("reading old commit decisions", &home, &error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn forget(&self, gids: Vec<String>) -> Result<(), ControlError> {
        if gids.is_empty() {
            return Ok(());
        }
        let home = self.primary(HOME)?;
        let client = self.dialer.client(&home, &self.database).await?;
        client
            .execute("DELETE FROM gavel.decision WHERE gid = ANY ($1)", &[&gids])
            .await
            .map_err(|error| ControlError::query("forgetting old commit decisions", &home, &error))?;
        Ok(())
    }

    /// A connection to the store on which a commit is durable when it is acknowledged.
    async fn store(&self) -> Result<(NodeAddress, deadpool_postgres::Object), ControlError> {
        let home = self.primary(HOME)?;
        let client = self.dialer.client(&home, &self.database).await?;
        client
            .batch_execute(
                "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
                 WHERE pg_catalog.current_setting('synchronous_commit') IN ('off', 'local')",
            )
            .await
            .map_err(|error| ControlError::query("making decisions durable", &home, &error))?;
        Ok((home, client))
    }

    /// What has been decided of these.
    pub(crate) async fn decisions(&self, gids: &[&str]) -> Result<HashMap<String, Outcome>, ControlError> {
        let home = self.primary(HOME)?;
        let client = self.dialer.client(&home, &self.database).await?;
        let read = read_decisions(&client, gids).await;
        read.map_err(|error| ControlError::query("reading commit decisions", &home, &error))
    }

    pub(crate) fn primary(&self, shard: ShardId) -> Result<NodeAddress, ControlError> {
        primary(&self.nodes, shard)
    }
}

/// Address of a shard's primary.
pub(crate) fn primary(nodes: &Nodes, shard: ShardId) -> Result<NodeAddress, ControlError> {
    nodes.primary(shard).and_then(|id| nodes.address(id)).ok_or_else(|| ControlError::NoPrimary {
        shard: nodes.shard(shard).map(|known| known.name.clone()).unwrap_or_default(),
        why: nodes.why_no_primary(shard),
    })
}

async fn read_decisions(
    client: &Client,
    gids: &[&str],
) -> Result<HashMap<String, Outcome>, tokio_postgres::Error> {
    let rows = client.query("SELECT gid, state FROM gavel.decision WHERE gid = ANY ($1)", &[&gids]).await?;
    let outcome = |state: &str| if state == "committed" { Outcome::Committed } else { Outcome::Aborted };
    Ok(rows.iter().map(|row| (row.get(0), outcome(row.get(1)))).collect())
}
