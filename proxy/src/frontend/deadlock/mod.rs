//! Deadlocks over several shards, which no single PostgreSQL can see.
//!
//! One task per process. It looks only when a session with conns to two or more nodes has waited for `limits.deadlock`: then the nodes are
//! asked who waits for whom, over the control side's own connections. A cycle must be found twice, each step the same wait, before
//! the session that began to wait last is cancelled; its application reads `40P01` in place of the cancellation. A statement that
//! is run again unseen (see [`super::repeat`]) is looked at sooner, and gives way to the others.

mod graph;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use router_config::topology::NodeAddress;
use tokio::time::{Duration, Instant};

use self::graph::{Edge, Party, Step};
use super::cancel;
use super::visible::{Doing, Visible};
use crate::wire::error::Report;
use crate::wire::sqlstate;
use crate::worker::Shared;

/// Bounds of the pause between two looks; within them it is a quarter of `limits.deadlock`.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// The sessions of the process and the nodes that matter.
struct Scene {
    nodes: Vec<NodeAddress>,
    /// Whose backend a process id on a node is.
    sessions: HashMap<(usize, i32), i32>,
}

/// Looks for deadlocks until the process ends.
pub async fn watch(shared: Arc<Shared>) {
    loop {
        let limit = shared.settings.load().limits.deadlock;
        tokio::time::sleep((limit / 4).clamp(PAUSE[0], PAUSE[1])).await;
        if !limit.is_zero()
            && let Some(scene) = Scene::now(&shared, limit)
        {
            look(&shared, &scene).await;
        }
    }
}

impl Scene {
    /// `None` when no session has waited for so long on several nodes.
    fn now(shared: &Shared, limit: Duration) -> Option<Self> {
        let now = (Instant::now() - shared.since).as_millis() as u64;
        let mut nodes: Vec<NodeAddress> = Vec::new();
        for (_, visible) in all(shared) {
            let age = Duration::from_millis(now.saturating_sub(visible.began_ms.load(Ordering::Relaxed)));
            let limit = if visible.gives_way.load(Ordering::Relaxed) { limit / 4 } else { limit };
            if visible.doing() == Doing::Active && age >= limit {
                let running = visible.running();
                let own = running.conns.iter().map(|(pool, ..)| &pool.node);
                if own.clone().any(|node| *node != running.conns[0].0.node) {
                    own.for_each(|node| {
                        if !nodes.contains(node) {
                            nodes.push(node.clone());
                        }
                    });
                }
            }
        }
        (!nodes.is_empty()).then(|| Self::over(shared, nodes))
    }

    /// Whose backends these nodes have now.
    fn over(shared: &Shared, nodes: Vec<NodeAddress>) -> Self {
        let mut sessions = HashMap::new();
        for (id, visible) in all(shared) {
            for (pool, pid, _) in &visible.running().conns {
                if let Some(node) = nodes.iter().position(|node| *node == pool.node) {
                    sessions.insert((node, *pid), id);
                }
            }
        }
        Self { nodes, sessions }
    }

    async fn edges(&self, shared: &Shared) -> Vec<Edge> {
        graph::edges(&shared.control.lock_waits(self.nodes.clone()).await, &self.sessions)
    }
}

/// The sessions of the process.
fn all(shared: &Shared) -> Vec<(i32, Arc<Visible>)> {
    shared.sessions().iter().map(|(id, entry)| (*id, Arc::clone(&entry.visible))).collect()
}

async fn look(shared: &Arc<Shared>, scene: &Scene) {
    let patience = shared.settings.load().limits.lock_wait_over_shards;
    let Some(cycle) = graph::cycle(&scene.edges(shared).await) else { return };
    let visible = |id: i32| shared.sessions().get(&id).map(|entry| Arc::clone(&entry.visible));
    let gives_way = |id| visible(id).is_some_and(|visible| visible.gives_way.load(Ordering::Relaxed));
    let Some(victim) = graph::victim(&cycle, patience, gives_way) else { return };
    let Some(visible) = visible(victim) else { return };
    let request = visible.verdict.requests.load(Ordering::Relaxed);
    // The nodes were not asked at the same moment: what has held all the while, held at one.
    let again = Scene::over(shared, scene.nodes.clone());
    if !graph::still(&again.edges(shared).await, &cycle) {
        return;
    }
    let detail = detail(shared, scene, &cycle);
    tracing::info!(session = victim, "deadlock over several shards: {}", detail.replace('\n', " "));
    let report = Report::error(sqlstate::DEADLOCK_DETECTED, "deadlock detected")
        .detail(detail.as_str())
        .hint("The transaction was ended for the others to go on: run it again.");
    visible.verdict.pass(request, report.to_frame());
    cancel::cancel_running(shared, &visible).await;
}

/// As PostgreSQL says it, a line for each wait.
fn detail(shared: &Shared, scene: &Scene, cycle: &[Edge]) -> String {
    let topology = shared.topology.load();
    let place = |node: usize| {
        let address = &scene.nodes[node];
        let of = topology
            .shards
            .iter()
            .find(|shard| shard.primary == *address || shard.replicas.contains(address));
        of.map_or_else(|| format!("node {address}"), |shard| format!("shard \"{}\"", shard.name))
    };
    let name = |party: Party| match party {
        Party::Session(id) => format!("process {id}"),
        Party::Backend { node, pid } => format!("process {pid} of {}", place(node)),
    };
    let mut lines = String::new();
    for Edge { from, to, step } in cycle {
        let separator = if lines.is_empty() { "" } else { "\n" };
        let line = match step {
            Step::Waits { node, lock, .. } => {
                let (from, to) = (name(*from).replacen('p', "P", 1), name(*to));
                format!("{from} waits for {lock} on {}; blocked by {to}.", place(*node))
            }
            Step::SameSession => {
                let from = name(*from).replacen('p', "P", 1);
                format!("{from} seems to be of the same session, of another proxy, as {}.", name(*to))
            }
        };
        // Writing to a String cannot fail.
        let _ = write!(lines, "{separator}{line}");
    }
    lines
}
