//! The nodes of the cluster as the health checks last saw them, read by sessions without locks.
//!
//! Invariants: a [`NodeId`] names the same address for the life of the process; only `health` writes what it observed;
//! [`Nodes::primary`] is `None` whenever it is in doubt which node may be written to.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use router_config::topology::{NodeAddress, ShardId, Topology};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::floor::Floors;
use super::roles::{NodeRole, Observation};

/// One PostgreSQL instance, for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// For how long a connection that was refused is told of.
const REFUSAL_SHOWN: Duration = Duration::from_secs(60);

/// One node's state. All fields are independent atomics: a reader may see a mix of two checks, which every use of them
/// tolerates (a write that meets a replica is answered with 25006 and asks for a new check).
#[derive(Debug)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// Where it listens.
    pub address: NodeAddress,
    /// Its shard; `None` for the target of a passed-through database.
    pub shard: Option<ShardId>,
    up: AtomicBool,
    role: AtomicU8,
    timeline: AtomicU32,
    system_id: AtomicU64,
    replay_lsn: AtomicU64,
    receive_lsn: AtomicU64,
    lag_bytes: AtomicU64,
    lag_ms: AtomicU64,
    prepared_limit: AtomicI32,
    in_flight: AtomicU32,
    retired: AtomicBool,
    checked: AtomicBool,
    failure: ArcSwap<String>,
    /// When a session was last refused a connection, and in which words.
    refused: Mutex<Option<(Instant, Arc<String>)>>,
    wake: Notify,
}

impl Node {
    fn new(id: NodeId, address: NodeAddress, shard: Option<ShardId>) -> Self {
        Self {
            id,
            address,
            shard,
            up: AtomicBool::new(shard.is_none()),
            role: AtomicU8::new(0),
            timeline: AtomicU32::new(0),
            system_id: AtomicU64::new(0),
            replay_lsn: AtomicU64::new(0),
            receive_lsn: AtomicU64::new(0),
            lag_bytes: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            prepared_limit: AtomicI32::new(-1),
            in_flight: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            checked: AtomicBool::new(false),
            failure: ArcSwap::from_pointee(String::from("not checked yet")),
            refused: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Answers checks.
    pub fn up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// What it is.
    pub fn role(&self) -> NodeRole {
        NodeRole::from_u8(self.role.load(Ordering::Acquire))
    }

    /// Timeline of its WAL; 0 when unknown.
    pub fn timeline(&self) -> u32 {
        self.timeline.load(Ordering::Relaxed)
    }

    /// System identifier of its cluster; 0 when unknown.
    pub fn system_id(&self) -> u64 {
        self.system_id.load(Ordering::Relaxed)
    }

    /// Replayed (replica) or inserted (primary) up to this LSN.
    pub fn replay_lsn(&self) -> u64 {
        self.replay_lsn.load(Ordering::Acquire)
    }

    /// Received up to this LSN.
    pub fn receive_lsn(&self) -> u64 {
        self.receive_lsn.load(Ordering::Relaxed)
    }

    /// Bytes of WAL that it has yet to replay.
    pub fn lag_bytes(&self) -> u64 {
        self.lag_bytes.load(Ordering::Relaxed)
    }

    /// For how long it has been behind the primary, in milliseconds.
    pub fn lag_ms(&self) -> u64 {
        self.lag_ms.load(Ordering::Relaxed)
    }

    /// `max_prepared_transactions`; `None` when not known yet. 0: two-phase commit is impossible there.
    pub fn prepared_limit(&self) -> Option<u32> {
        u32::try_from(self.prepared_limit.load(Ordering::Relaxed)).ok()
    }

    /// Statements running on it through this proxy.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Why it is down or not used; empty when it is well.
    pub fn failure(&self) -> Arc<String> {
        self.failure.load_full()
    }

    /// The same, or what it said when it refused a session a connection a moment ago.
    pub fn complaint(&self) -> Arc<String> {
        let failure = self.failure();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match &*refused {
            Some((at, why)) if failure.is_empty() && at.elapsed() < REFUSAL_SHOWN => Arc::clone(why),
            _ => failure,
        }
    }

    /// `host:port`, for messages.
    pub fn name(&self) -> String {
        format!("{}:{}", self.address.host, self.address.port)
    }

    pub(crate) fn observed(&self, seen: &Observation) {
        self.timeline.store(seen.timeline, Ordering::Relaxed);
        self.system_id.store(seen.system_id, Ordering::Relaxed);
        self.receive_lsn.store(seen.receive_lsn, Ordering::Relaxed);
        self.prepared_limit.store(seen.prepared_limit, Ordering::Relaxed);
        self.replay_lsn.store(seen.replay_lsn, Ordering::Release);
    }

    pub(crate) fn set_lag(&self, bytes: u64, ms: u64) {
        self.lag_bytes.store(bytes, Ordering::Relaxed);
        self.lag_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, failure: String) {
        if *self.failure.load_full() != failure {
            self.failure.store(Arc::new(failure));
        }
    }

    pub(crate) fn judged(&self, up: bool, role: NodeRole, failure: String) {
        self.failed(failure);
        self.role.store(role as u8, Ordering::Release);
        self.up.store(up, Ordering::Release);
        self.checked.store(true, Ordering::Release);
    }

    /// Whether a check has ended, well or not.
    pub(crate) fn checked(&self) -> bool {
        self.checked.load(Ordering::Acquire)
    }

    pub(crate) fn retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Resolves when somebody asked for a check now. Cancel safe.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

/// A statement running on a node; counted until dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Node>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A shard's nodes.
#[derive(Debug)]
pub(crate) struct ShardNodes {
    pub(crate) name: String,
    /// The configured primary first.
    pub(crate) members: Vec<Arc<Node>>,
    /// [`NodeId`] of the primary, or [`NOBODY`].
    primary: AtomicU32,
    /// Why there is none.
    pub(crate) why: ArcSwap<String>,
}

const NOBODY: u32 = u32::MAX;

impl ShardNodes {
    fn primary(&self) -> Option<NodeId> {
        u16::try_from(self.primary.load(Ordering::Acquire)).ok().map(NodeId)
    }
}

#[derive(Debug, Default)]
struct Table {
    nodes: Vec<Arc<Node>>,
    shards: Vec<Arc<ShardNodes>>,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    table: ArcSwap<Table>,
    changed: watch::Sender<u64>,
    turn: AtomicU32,
    /// How far replicas must be to serve reads.
    pub floors: Floors,
}

/// Nodes that began and ceased to matter with a new topology.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    pub(crate) new: Vec<Arc<Node>>,
    pub(crate) retired: Vec<Arc<Node>>,
}

impl Nodes {
    /// The node of `shard` that takes writes; `None` while there is none or it is in doubt.
    pub fn primary(&self, shard: ShardId) -> Option<NodeId> {
        self.table.load().shards.get(usize::from(shard.0))?.primary()
    }

    /// Waits until `shard` has a primary, at most `limit`. Cancel safe.
    pub async fn wait_primary(&self, shard: ShardId, limit: Duration) -> Option<NodeId> {
        let mut changes = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(node) = self.primary(shard) {
                    return node;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, found).await.ok()
    }

    /// Why `shard` has no primary, for an error message.
    pub fn why_no_primary(&self, shard: ShardId) -> String {
        let none = || String::from("there is no such shard");
        self.shard(shard).map_or_else(none, |nodes| nodes.why.load().as_ref().clone())
    }

    /// Replicas of `shard` fit to read from: up, of this shard, behind by at most `max_lag`.
    pub fn replica_candidates(&self, shard: ShardId, max_lag: Duration) -> Vec<NodeId> {
        let table = self.table.load();
        let Some(nodes) = table.shards.get(usize::from(shard.0)) else { return Vec::new() };
        nodes.members.iter().filter(|node| fit(node, max_lag)).map(|node| node.id).collect()
    }

    /// The fit replica with the fewest statements in flight that has replayed `floor`; `None`: use the primary.
    /// When only the floor stands in the way, the replicas are asked again soon.
    pub fn pick_replica(&self, shard: ShardId, floor: u64, max_lag: Duration) -> Option<NodeId> {
        let table = self.table.load();
        let members = &table.shards.get(usize::from(shard.0))?.members;
        let start = self.turn.fetch_add(1, Ordering::Relaxed) as usize % members.len().max(1);
        let mut best: Option<&Arc<Node>> = None;
        let mut behind = false;
        for node in members.iter().cycle().skip(start).take(members.len()) {
            if !fit(node, max_lag) {
                continue;
            }
            if node.replay_lsn() < floor {
                behind = true;
                node.wake.notify_one();
                continue;
            }
            if best.is_none_or(|other| node.in_flight() < other.in_flight()) {
                best = Some(node);
            }
        }
        debug_assert!(!behind || floor > 0, "only a floor can make a replica too old");
        best.map(|node| node.id)
    }

    /// LSN that a node has replayed (a primary: written); 0 when unknown.
    pub fn replay_lsn(&self, node: NodeId) -> u64 {
        self.with(node, Node::replay_lsn).unwrap_or(0)
    }

    /// Where a node listens.
    pub fn address(&self, node: NodeId) -> Option<NodeAddress> {
        self.with(node, |node| node.address.clone())
    }

    /// The node that listens there, be it of a shard or the target of a passed-through database.
    pub fn by_address(&self, address: &NodeAddress) -> Option<NodeId> {
        let table = self.table.load();
        table.nodes.iter().find(|node| node.address == *address && !node.retired()).map(|node| node.id)
    }

    /// One node.
    pub fn get(&self, node: NodeId) -> Option<Arc<Node>> {
        self.table.load().nodes.get(usize::from(node.0)).cloned()
    }

    /// Every node, also retired ones, in order of [`NodeId`].
    pub fn all(&self) -> Vec<Arc<Node>> {
        self.table.load().nodes.clone()
    }

    /// The nodes of a shard, the configured primary first.
    pub fn members(&self, shard: ShardId) -> Vec<Arc<Node>> {
        let table = self.table.load();
        table.shards.get(usize::from(shard.0)).map(|nodes| nodes.members.clone()).unwrap_or_default()
    }

    /// Nodes that are up, to be asked for what all shards have alike, as roles: the home shard's primary, its replicas, the other
    /// shards' primaries; so many that one of them answers in time.
    pub fn spread_for_roles(&self) -> Vec<NodeAddress> {
        const ASKED_MAX: usize = 4;
        let table = self.table.load();
        let primary = |shard: &Arc<ShardNodes>| {
            let id = shard.primary()?;
            shard.members.iter().find(|node| node.id == id).cloned()
        };
        let home = table.shards.first();
        let replicas = home.into_iter().flat_map(|shard| &shard.members);
        let replicas = replicas.filter(|node| node.up() && node.role() == NodeRole::Replica).cloned();
        let others = table.shards.iter().skip(1).filter_map(primary);
        let asked = home.and_then(primary).into_iter().chain(replicas.take(2)).chain(others);
        asked.take(ASKED_MAX).map(|node| node.address.clone()).collect()
    }

    /// The first shard that has a primary; the home shard where none has.
    pub fn first_with_primary(&self) -> ShardId {
        let table = self.table.load();
        let found = table.shards.iter().position(|shard| shard.primary().is_some());
        ShardId(found.and_then(|index| u16::try_from(index).ok()).unwrap_or(0))
    }

    /// The shard whose turn it is among those that all have what is asked for. One without a primary is passed over where another one
    /// has a primary, or at least a replica that is up.
    pub fn in_turn(&self, turn: usize) -> ShardId {
        let table = self.table.load();
        let count = table.shards.len().max(1);
        let first = turn % count;
        let at = |has: fn(&ShardNodes) -> bool| {
            let turns = (first..count).chain(0..first);
            turns.into_iter().find(|at| table.shards.get(*at).is_some_and(|shard| has(shard)))
        };
        let replica = |shard: &ShardNodes| shard.members.iter().any(|node| fit(node, Duration::MAX));
        let found = at(|shard| shard.primary().is_some()).or_else(|| at(replica)).unwrap_or(first);
        ShardId(u16::try_from(found).unwrap_or(0))
    }

    /// Shards known.
    pub fn shard_count(&self) -> usize {
        self.table.load().shards.len()
    }

    /// Counts a statement on `node` until the guard is dropped.
    pub fn enter(&self, node: NodeId) -> Option<InFlight> {
        let node = self.get(node)?;
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(InFlight(node))
    }

    /// A session was refused a connection to this node.
    pub fn refused(&self, node: NodeId, why: &dyn std::fmt::Display) {
        let Some(node) = self.get(node) else { return };
        let why = Arc::new(format!("refused a connection: {why}"));
        *node.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why));
    }

    /// A session saw this node fail (connection lost, 25006, 57P01): check it, and its shard, now.
    pub fn check_now(&self, node: NodeId) {
        let table = self.table.load();
        let Some(node) = table.nodes.get(usize::from(node.0)) else { return };
        let Some(shard) = node.shard.and_then(|shard| table.shards.get(usize::from(shard.0))) else { return };
        for member in &shard.members {
            member.wake.notify_one();
        }
    }

    /// Changes whenever some shard's primary or some node's fitness does.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn shard(&self, shard: ShardId) -> Option<Arc<ShardNodes>> {
        self.table.load().shards.get(usize::from(shard.0)).cloned()
    }

    pub(crate) fn set_primary(&self, shard: &ShardNodes, primary: Option<NodeId>, why: String) {
        let value = primary.map_or(NOBODY, |node| u32::from(node.0));
        if *shard.why.load_full() != why {
            shard.why.store(Arc::new(why));
        }
        if shard.primary.swap(value, Ordering::AcqRel) != value {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// Takes over the nodes of a topology and of passed-through databases. Node ids and states of addresses that stay
    /// in their shard are kept.
    pub(crate) fn adopt(&self, topology: &Topology, standalone: &[NodeAddress]) -> Adopted {
        let old = self.table.load_full();
        let mut table = Table { nodes: old.nodes.clone(), shards: Vec::new() };
        let mut adopted = Adopted::default();
        let mut used: Vec<NodeId> = Vec::new();
        for (index, shard) in topology.shards.iter().enumerate() {
            let id = u16::try_from(index).ok().map(ShardId);
            let addresses = std::iter::once(&shard.primary).chain(&shard.replicas);
            let members: Vec<Arc<Node>> =
                addresses.map(|address| table.node(address, id, &mut adopted.new)).collect();
            used.extend(members.iter().map(|node| node.id));
            let known = old.shards.iter().find(|other| other.name == shard.name);
            let primary = known.and_then(|other| other.primary()).filter(|id| used.contains(id));
            table.shards.push(Arc::new(ShardNodes {
                name: shard.name.clone(),
                members,
                primary: AtomicU32::new(primary.map_or(NOBODY, |node| u32::from(node.0))),
                why: ArcSwap::from_pointee(String::from("its nodes have not been checked yet")),
            }));
        }
        for address in standalone {
            if !table.nodes.iter().any(|node| node.address == *address && !node.retired()) {
                used.push(table.node(address, None, &mut adopted.new).id);
            }
        }
        for node in &old.nodes {
            if node.shard.is_some() && !used.contains(&node.id) && !node.retired.swap(true, Ordering::AcqRel)
            {
                node.wake.notify_one();
                adopted.retired.push(Arc::clone(node));
            }
        }
        self.table.store(Arc::new(table));
        self.changed.send_modify(|version| *version += 1);
        adopted
    }

    fn with<T>(&self, node: NodeId, read: impl FnOnce(&Node) -> T) -> Option<T> {
        self.table.load().nodes.get(usize::from(node.0)).map(|node| read(node))
    }
}

impl Table {
    fn node(&mut self, address: &NodeAddress, shard: Option<ShardId>, new: &mut Vec<Arc<Node>>) -> Arc<Node> {
        let same = |node: &&Arc<Node>| node.address == *address && node.shard == shard && !node.retired();
        if let Some(node) = self.nodes.iter().find(same) {
            return Arc::clone(node);
        }
        let id = NodeId(u16::try_from(self.nodes.len()).expect("a process never meets 65,536 nodes"));
        let node = Arc::new(Node::new(id, address.clone(), shard));
        self.nodes.push(Arc::clone(&node));
        new.push(Arc::clone(&node));
        node
    }
}

fn fit(node: &Node, max_lag: Duration) -> bool {
    node.up()
        && node.role() == NodeRole::Replica
        && u128::from(node.lag_ms()) <= max_lag.as_millis()
        && !node.retired()
}
