//! What is counted when somebody looks: states of sessions and connections, bytes, cache look-ups.
//!
//! These are kept by their owners as plain numbers of one thread; a scrape adds them up, so that requests pay nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::backend::pool::PoolStatus;
use crate::control::NodeRole;
use crate::frontend::visible::Doing;
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
    conns(shared, metrics);
    sessions(shared, metrics);
    let (hits, misses) = shared.facts.hits_and_misses();
    metrics.cache_total(Cache::Facts, hits, misses);
    let workers = shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = |part: fn(&crate::backend::pool::Pools) -> u64| workers.iter().map(|pools| part(pools)).sum();
    metrics.raise(&metrics.frontend_read_bytes, sum(|pools| pools.frontend.read()));
    metrics.raise(&metrics.frontend_written_bytes, sum(|pools| pools.frontend.written()));
    metrics.raise(&metrics.backend_read_bytes, sum(|pools| pools.backend.read()));
    metrics.raise(&metrics.backend_written_bytes, sum(|pools| pools.backend.written()));
}

/// Sets the connections by shard, role and state.
fn conns(shared: &Shared, metrics: &Metrics) {
    let topology = shared.topology.load();
    let mut sums = vec![[PoolStatus::default(); 2]; topology.shards.len()];
    for pool in shared.pools() {
        let status = pool.status();
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
}

fn sessions(shared: &Shared, metrics: &Metrics) {
    let mut states = [0_usize; SessionState::ALL.len()];
    let sessions = shared.sessions();
    for entry in sessions.values() {
        states[state_of(entry.visible.doing()) as usize] += 1;
    }
    let known = sessions.len();
    drop(sessions);
    let login = shared.clients.load(Ordering::Acquire).saturating_sub(known);
    states[SessionState::Login as usize] = login;
    for state in SessionState::ALL {
        metrics.sessions(state).set(count(states[state as usize]));
    }
}

fn state_of(doing: Doing) -> SessionState {
    match doing {
        Doing::Idle => SessionState::Idle,
        Doing::Active => SessionState::Active,
        Doing::InTransaction => SessionState::InTransaction,
        Doing::Waiting | Doing::Held => SessionState::Waiting,
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
