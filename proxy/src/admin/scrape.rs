//! What is counted when somebody looks: states of sessions and connections, bytes, cache look-ups.
//!
//! These are kept by their owners as plain numbers of one thread; a scrape adds them up, so that requests pay nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::backend::pool::PoolStatus;
use crate::control::NodeRole;
use crate::metrics::{Cache, ConnState, Metrics, ServedBy, SessionState};
use crate::worker::Shared;

/// Has `shared` asked at every scrape, for as long as it lives.
pub fn follow(shared: &Arc<Shared>) {
    let weak = Arc::downgrade(shared);
    shared.metrics.at_scrape(Box::new(move |metrics| {
        if let Some(shared) = weak.upgrade() {
            observe(&shared, metrics);
        }
    }));
}

fn observe(shared: &Shared, metrics: &Metrics) {
    let waiting = conns(shared, metrics);
    sessions(shared, metrics, waiting);
    let (hits, misses) = shared.facts.hits_and_misses();
    metrics.cache_total(Cache::Facts, hits, misses);
    let workers = shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = |part: fn(&crate::backend::pool::Pools) -> u64| workers.iter().map(|pools| part(pools)).sum();
    metrics.raise(&metrics.frontend_read_bytes, sum(|pools| pools.frontend.read()));
    metrics.raise(&metrics.frontend_written_bytes, sum(|pools| pools.frontend.written()));
    metrics.raise(&metrics.backend_read_bytes, sum(|pools| pools.backend.read()));
    metrics.raise(&metrics.backend_written_bytes, sum(|pools| pools.backend.written()));
}

/// Sets the connections by shard, role and state; gives the number of requests that wait for one.
fn conns(shared: &Shared, metrics: &Metrics) -> usize {
    let topology = shared.topology.load();
    let mut sums = vec![[PoolStatus::default(); 2]; topology.shards.len()];
    let mut waiting = 0;
    for pool in shared.pools() {
        let status = pool.status();
        waiting += status.waiting;
        let nodes = shared.nodes();
        let node = nodes.by_address(&pool.key().node).and_then(|id| nodes.get(id));
        let Some(node) = node else { continue };
        let role = if node.role() == NodeRole::Replica { ServedBy::Replica } else { ServedBy::Primary };
        if let Some(sum) = node.shard.and_then(|shard| sums.get_mut(usize::from(shard.0))) {
            sum[role as usize] += status;
        }
    }
    for (shard, roles) in topology.shard_ids().zip(sums) {
        for (role, sum) in [ServedBy::Primary, ServedBy::Replica].into_iter().zip(roles) {
            let Some(children) = metrics.shard(shard, role) else { continue };
            children.conns(ConnState::Idle).set(count(sum.idle));
            children.conns(ConnState::Used).set(count(sum.active));
            children.conns(ConnState::Opening).set(count(sum.opening));
        }
    }
    waiting
}

fn sessions(shared: &Shared, metrics: &Metrics, waiting: usize) {
    let mut states = [0_usize; 3];
    let sessions = shared.sessions();
    for entry in sessions.values() {
        let state = usize::from(entry.visible.state.load(Ordering::Relaxed));
        states[state.min(2)] += 1;
    }
    let known = sessions.len();
    drop(sessions);
    let login = shared.clients.load(Ordering::Acquire).saturating_sub(known);
    let [idle, active, in_transaction] = states;
    metrics.sessions(SessionState::Login).set(count(login));
    metrics.sessions(SessionState::Idle).set(count(idle));
    metrics.sessions(SessionState::Active).set(count(active.saturating_sub(waiting)));
    metrics.sessions(SessionState::InTransaction).set(count(in_transaction));
    metrics.sessions(SessionState::Waiting).set(count(waiting));
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
