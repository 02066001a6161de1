//! Health checks: one task a node asks it what it is, every `backend.health_interval` and when a session says so; after
//! each answer the shard is judged anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use router_config::topology::ShardId;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::connect::Dialer;
use super::error::ControlError;
use super::nodes::{Node, NodeId, Nodes};
use super::roles::{LagClock, NodeRole, Observation, ShardMemory, judge};
use crate::metrics::Metrics;

/// However many sessions ask, a node is checked at most this often.
const MIN_GAP: Duration = Duration::from_millis(20);

/// A node is down after this many failed checks in a row (the second follows the first at once).
const FAILURES: u32 = 2;

/// One round trip. `pg_control_checkpoint` lags behind a promotion, so a primary's timeline comes from the name of its
/// current WAL file; CASE keeps each branch from running on the wrong kind of node.
const CHECK: &str = "SELECT r.rec, \
     (SELECT system_identifier FROM pg_catalog.pg_control_system())::pg_catalog.int8, \
     CASE WHEN r.rec THEN coalesce((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver), \
            nullif((SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), 0), \
            (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())) \
          ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))\
            ::bit(32)::int4 END, \
     (CASE WHEN r.rec THEN coalesce(pg_catalog.pg_last_wal_replay_lsn(), '0/0') \
           ELSE pg_catalog.pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::int8, \
     (CASE WHEN r.rec THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), \
                                    pg_catalog.pg_last_wal_replay_lsn(), '0/0') \
           ELSE pg_catalog.pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::int8, \
     pg_catalog.current_setting('max_prepared_transactions')::int4, \
     (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8 \
     FROM (SELECT pg_catalog.pg_is_in_recovery() AS rec) r";

/// What the checkers share.
pub(crate) struct Health {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) metrics: Arc<Metrics>,
    /// Database of the control connections.
    pub(crate) database: String,
    /// Milliseconds between two checks of a node.
    pub(crate) interval_ms: AtomicU64,
    /// Per shard, by name.
    pub(crate) state: Mutex<HashMap<String, ShardState>>,
}

/// What is remembered of a shard between checks.
#[derive(Debug, Default)]
pub(crate) struct ShardState {
    memory: ShardMemory,
    clock: LagClock,
    newest: HashMap<u16, Option<Observation>>,
    /// The primary whose positions the clock has.
    clocked: Option<NodeId>,
    /// Nodes that are servers of other shards: of which, and when that was last seen.
    twins: HashMap<u16, (String, Instant)>,
}

impl ShardState {
    /// Whether its primary, as it was last seen, is this very server. Copies of a server have its identifier, but not its start.
    fn is_served_by(&self, seen: &Observation) -> bool {
        let primary = self.clocked.and_then(|id| self.newest.get(&id.0).copied().flatten());
        primary.is_some_and(|its| (its.system_id, its.started) == (seen.system_id, seen.started))
    }
}

impl Health {
    /// Of nodes that nobody has looked at yet.
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        nodes: Arc<Nodes>,
        metrics: Arc<Metrics>,
        database: String,
    ) -> Self {
        let (interval_ms, state) = (AtomicU64::new(0), Mutex::default());
        Self { dialer, nodes, metrics, database, interval_ms, state }
    }

    /// Checks `node` until it is retired.
    pub(crate) async fn watch(self: Arc<Self>, node: Arc<Node>) {
        let mut conn: Option<Client> = None;
        let mut failures = 0;
        while !node.retired() {
            let started = Instant::now();
            let written = node.shard.map(|shard| (shard, self.nodes.floors.of(shard).written()));
            match self.check(&mut conn, &node).await {
                Ok(seen) => {
                    failures = 0;
                    self.report(&node, Some(seen), String::new());
                    let writes = written.filter(|(shard, _)| self.nodes.primary(*shard) == Some(node.id));
                    if let Some((shard, written)) = writes {
                        self.nodes.floors.of(shard).cover(written, seen.replay_lsn);
                    }
                }
                Err(error) => {
                    conn = None;
                    failures += 1;
                    if failures >= FAILURES {
                        self.report(&node, None, error.to_string());
                    }
                }
            }
            let pause = if failures > 0 && failures < FAILURES { MIN_GAP } else { self.interval() };
            let _woken = tokio::time::timeout(pause, node.woken()).await;
            tokio::time::sleep_until(started + MIN_GAP).await;
        }
        tracing::info!(node = %node.name(), "no longer part of the cluster, checks ended");
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(Ordering::Relaxed))
    }

    /// Takes over another interval; a wait that has begun ends as it was meant to.
    pub(crate) fn set_interval(&self, interval: Duration) {
        self.interval_ms.store(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What is known of each shard: name, system identifier, newest timeline.
    pub(crate) fn timelines(&self) -> Vec<(String, u64, u32)> {
        let states = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(name, state): (&String, &ShardState)| {
            state.memory.system_id.map(|id| (name.clone(), id, state.memory.timeline))
        };
        states.iter().filter_map(known).collect()
    }

    /// What this process or another one saw of a shard before. The home shard is itself whatever it was: what is
    /// stored came with its data.
    pub(crate) fn recall(&self, name: &str, system_id: u64, timeline: u32) {
        let home = self.nodes.shard(ShardId(0)).is_some_and(|shard| shard.name == name);
        let mut states = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &mut states.entry(name.to_owned()).or_default().memory;
        let same = *memory.system_id.get_or_insert(system_id) == system_id;
        if (same && memory.timeline >= timeline) || (home && !same) {
            return;
        }
        *memory = ShardMemory { timeline, system_id: Some(system_id) };
        drop(states);
        for index in 0..self.nodes.shard_count() {
            let id = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            let Some(shard) = self.nodes.shard(id).filter(|shard| shard.name == name) else { continue };
            let primary = self.nodes.primary(id).and_then(|node| self.nodes.get(node));
            if primary.is_some_and(|node| node.timeline() < timeline || node.system_id() != system_id) {
                let why = format!(
                    "system {system_id} on timeline {timeline} is stored for it, its node is not that"
                );
                self.nodes.set_primary(&shard, None, why);
            }
            if let Some(member) = shard.members.first() {
                self.nodes.check_now(member.id);
            }
        }
    }

    /// Takes a retired node out of memory and metrics.
    pub(crate) fn forget(&self, node: &Node) {
        let mut states = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, state) in states.iter_mut() {
            if state.newest.remove(&node.id.0).is_some() {
                self.metrics.forget_node(shard, &node.name());
            }
        }
    }

    async fn check(&self, conn: &mut Option<Client>, node: &Node) -> Result<Observation, ControlError> {
        let client = match conn {
            Some(client) if !client.is_closed() => client,
            _ => {
                let opened = Instant::now();
                let client = self.dialer.driven(&node.address, &self.database).await?;
                self.metrics.control_connected(opened.elapsed());
                conn.insert(client)
            }
        };
        let timeout = self.dialer.timeout();
        let asked = tokio::time::timeout(timeout, client.query_one(CHECK, &[])).await;
        let row = match asked {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => return Err(ControlError::query("health check", &node.address, &error)),
            Err(_) => {
                return Err(ControlError::Query {
                    doing: String::from("health check"),
                    node: node.name(),
                    sqlstate: None,
                    cause: format!("no answer within {timeout:?}"),
                });
            }
        };
        observation(&row).map_err(|error| ControlError::query("health check", &node.address, &error))
    }

    fn report(&self, node: &Arc<Node>, seen: Option<Observation>, failure: String) {
        let Some(shard_id) = node.shard else { return };
        let Some(shard) = self.nodes.shard(shard_id) else { return };
        let mut states = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut seen, mut failure) = (seen, failure);
        if let Some(of) = seen.as_ref().and_then(|seen| self.twin(&mut states, &shard.name, node.id, seen)) {
            failure = format!(
                "it is the server of shard \"{of}\": each shard needs a server of its own, whatever name it is called by"
            );
            seen = None;
        }
        match &seen {
            Some(seen) => node.observed(seen),
            // Kept until the shard is judged, which waits for its other nodes.
            None => node.failed(failure),
        }
        let state = states.entry(shard.name.clone()).or_default();
        state.newest.insert(node.id.0, seen);
        let newest: Vec<Option<Observation>> =
            shard.members.iter().map(|member| state.newest.get(&member.id.0).copied().flatten()).collect();
        if shard.members.iter().any(|member| !state.newest.contains_key(&member.id.0)) {
            // Not everyone has been asked yet: the one that has not may be on a newer timeline.
            return;
        }
        let verdict = judge(&mut state.memory, &newest);
        let now = Instant::now();
        let elected = verdict.primary.map(|index| shard.members[index].id);
        if elected.is_some() && state.clocked != elected {
            state.clock.reset();
            state.clocked = elected;
        }
        if let Some(lsn) = verdict.primary.and_then(|index| newest[index]).map(|seen| seen.replay_lsn) {
            state.clock.record(now, lsn);
        }
        for (index, member) in shard.members.iter().enumerate() {
            let (role, complaint) = &verdict.roles[index];
            let complaint = match newest[index] {
                Some(_) => complaint.clone(),
                None => member.failure().as_ref().clone(),
            };
            self.publish(&shard.name, member, (*role, newest[index].is_some(), complaint));
            if *role == NodeRole::Replica {
                let (bytes, time) = state.clock.lag(now, member.replay_lsn());
                member.set_lag(bytes, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
                self.metrics.replica_lag(&shard.name, &member.name(), bytes, time);
            }
        }
        drop(states);
        self.elect(shard_id, elected, verdict.why);
    }

    /// The other shard that this node is the server of. One that has been is believed to be, after a restart of the server, until
    /// the other shard has been checked as well.
    fn twin(
        &self,
        states: &mut HashMap<String, ShardState>,
        shard: &str,
        node: NodeId,
        seen: &Observation,
    ) -> Option<String> {
        let now = Instant::now();
        let other =
            |(name, state): &(&String, &ShardState)| name.as_str() != shard && state.is_served_by(seen);
        let found = states.iter().find(other).map(|(name, _)| name.clone());
        let twins = &mut states.entry(shard.to_owned()).or_default().twins;
        if let Some(of) = found {
            twins.insert(node.0, (of, now));
        }
        twins.retain(|_, (_, at)| now.duration_since(*at) < 2 * self.interval());
        twins.get(&node.0).map(|(of, _)| of.clone())
    }

    fn publish(&self, shard: &str, node: &Node, (role, up, complaint): (NodeRole, bool, String)) {
        if node.up() != up || node.role() != role || !node.checked() {
            if complaint.is_empty() {
                tracing::info!(shard, node = %node.name(), role = role.name(), "node is up");
            } else {
                tracing::error!(shard, node = %node.name(), role = role.name(), "node is not used: {complaint}");
            }
        }
        node.judged(up, role, complaint);
        self.metrics.node_state(shard, &node.name(), up, role);
    }

    fn elect(&self, shard_id: ShardId, primary: Option<NodeId>, why: String) {
        let Some(shard) = self.nodes.shard(shard_id) else { return };
        let before = self.nodes.primary(shard_id);
        if before != primary {
            let name = primary.and_then(|id| self.nodes.get(id)).map(|node| node.name());
            match name {
                Some(node) => tracing::info!(shard = %shard.name, %node, "takes the writes of its shard"),
                None => tracing::error!(shard = %shard.name, "shard has no primary: {why}"),
            }
        }
        self.nodes.set_primary(&shard, primary, why);
    }
}

fn observation(row: &tokio_postgres::Row) -> Result<Observation, tokio_postgres::Error> {
    Ok(Observation {
        in_recovery: row.try_get(0)?,
        system_id: row.try_get::<_, i64>(1)?.cast_unsigned(),
        timeline: row.try_get::<_, i32>(2)?.cast_unsigned(),
        replay_lsn: row.try_get::<_, i64>(3)?.cast_unsigned(),
        receive_lsn: row.try_get::<_, i64>(4)?.cast_unsigned(),
        prepared_limit: row.try_get(5)?,
        started: row.try_get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use router_config::settings::Settings;
    use router_config::topology::{NodeAddress, Shard, Topology};

    use super::*;

    #[test]
    fn a_node_that_was_down_first_is_told_with_its_reason_when_the_shard_is_judged() {
        let address = |port| NodeAddress { host: "127.0.0.1".to_owned(), port };
        let shard =
            Shard { name: "s".to_owned(), primary: address(1), replicas: vec![address(2)], weight: 1.0 };
        let nodes = Arc::new(Nodes::default());
        let members = nodes.adopt(&Topology::new(vec![shard]), &[]).new;
        let dialer = Arc::new(Dialer::new(&Settings::default(), None));
        let metrics = Metrics::new(&["s".to_owned()]).expect("a name");
        let health = Health::new(dialer, nodes, metrics, "postgres".to_owned());
        health.report(&members[1], None, "connection refused".to_owned());
        assert_eq!(*members[1].failure(), "connection refused");
        let seen = Observation {
            in_recovery: false,
            timeline: 1,
            system_id: 7,
            replay_lsn: 5,
            receive_lsn: 5,
            prepared_limit: 1,
            started: 0,
        };
        health.report(&members[0], Some(seen), String::new());
        assert_eq!((members[1].up(), members[1].failure().as_str()), (false, "connection refused"));
        assert_eq!((members[0].role(), members[0].failure().as_str()), (NodeRole::Primary, ""));
        health.report(&members[1], Some(Observation { in_recovery: true, ..seen }), String::new());
        assert_eq!((members[1].up(), members[1].failure().as_str()), (true, ""));
    }
}
