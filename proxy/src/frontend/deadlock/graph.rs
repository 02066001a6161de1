//! Who waits for whom over all nodes, and the cycles in it. Pure.
//!
//! The backends of one session of this process are one party. Those of another process cannot be told apart: a backend that is idle
//! within a transaction on one node, and one that waits on another node with the same role, database, address and application, *may*
//! be one session ([`Step::SameSession`]). Invariant: a cycle on one node alone is PostgreSQL's to end, and is not found here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::control::NodeLocks;

/// Who waits, or is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Party {
    /// A session of this process, by the process id that its application knows.
    Session(i32),
    /// Any other backend.
    Backend {
        /// Index of its node.
        node: usize,
        /// Its process id.
        pid: i32,
    },
}

/// Why one party comes before another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It waits for the other.
    Waits {
        /// Index of the node.
        node: usize,
        /// When the wait began, as the node has it.
        since: String,
        /// For how long.
        age: Duration,
        /// What for.
        lock: String,
    },
    /// The two may be one session of another process.
    SameSession,
}

/// A party, the next one, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from: Party,
    pub(super) to: Party,
    pub(super) step: Step,
}

/// What the nodes say, as a graph. `sessions`: whose backend a process id of a node is.
pub(super) fn edges(nodes: &[Option<NodeLocks>], sessions: &HashMap<(usize, i32), i32>) -> Vec<Edge> {
    let party = |node: usize, pid: i32| match sessions.get(&(node, pid)) {
        Some(session) => Party::Session(*session),
        None => Party::Backend { node, pid },
    };
    let known = || nodes.iter().enumerate().filter_map(|(node, locks)| Some((node, locks.as_ref()?)));
    let mut edges = Vec::new();
    for (node, locks) in known() {
        for wait in &locks.waits {
            // 0 is a prepared transaction: whoever prepared it ends it.
            for blocker in wait.blockers.iter().filter(|pid| **pid != 0 && **pid != wait.pid) {
                let (from, to) = (party(node, wait.pid), party(node, *blocker));
                let (since, lock) = (wait.since.clone(), wait.lock.clone());
                if from != to && !since.is_empty() {
                    edges.push(Edge { from, to, step: Step::Waits { node, since, age: wait.age, lock } });
                }
            }
        }
    }
    let strangers = |node: usize, pid: i32| matches!(party(node, pid), Party::Backend { .. });
    for (node, locks) in known() {
        for idle in locks.idle.iter().filter(|pid| strangers(node, **pid)) {
            for (other, waits) in known().filter(|(other, _)| *other != node) {
                let same = |pid: i32| waits.owners.get(&pid) == locks.owners.get(idle);
                for wait in waits.waits.iter().filter(|wait| strangers(other, wait.pid) && same(wait.pid)) {
                    let (from, to) = (party(node, *idle), party(other, wait.pid));
                    edges.push(Edge { from, to, step: Step::SameSession });
                }
            }
        }
    }
    edges
}

/// A cycle over more than one node, if there is one; one that is certain before one that is not.
pub(super) fn cycle(edges: &[Edge]) -> Option<Vec<Edge>> {
    let certain: Vec<Edge> = edges.iter().filter(|edge| edge.step != Step::SameSession).cloned().collect();
    search(&certain).or_else(|| search(edges))
}

/// Depth first, from each party once.
fn search(edges: &[Edge]) -> Option<Vec<Edge>> {
    let mut next: BTreeMap<Party, Vec<&Edge>> = BTreeMap::new();
    for edge in edges {
        next.entry(edge.from).or_default().push(edge);
    }
    let mut done = HashSet::new();
    for start in next.keys() {
        let mut path: Vec<&Edge> = Vec::new();
        // Of each party on the path, the edges that are still to be tried.
        let mut tries = vec![next[start].iter()];
        while let Some(last) = tries.last_mut() {
            let here = path.last().map_or(*start, |edge| edge.to);
            let Some(edge) = last.next() else {
                done.insert(here);
                tries.pop();
                path.pop();
                continue;
            };
            let from = path.iter().position(|passed| passed.from == edge.to);
            if let Some(from) = from.or((edge.to == here).then_some(path.len())) {
                let found = path[from..].iter().copied().chain([*edge]);
                let found: Vec<Edge> = found.cloned().collect();
                if over_nodes(&found) {
                    return Some(found);
                }
            } else if !done.contains(&edge.to)
                && let Some(further) = next.get(&edge.to)
            {
                path.push(edge);
                tries.push(further.iter());
            }
        }
    }
    None
}

fn over_nodes(cycle: &[Edge]) -> bool {
    let node = |edge: &Edge| match &edge.step {
        Step::Waits { node, .. } => Some(*node),
        Step::SameSession => None,
    };
    let mut nodes = cycle.iter().filter_map(node);
    let first = nodes.next();
    nodes.any(|other| Some(other) != first)
}

/// Whether every step of a cycle is still there, each the same wait.
pub(super) fn still(edges: &[Edge], cycle: &[Edge]) -> bool {
    let same = |one: &Edge, other: &Edge| {
        let steps = match (&one.step, &other.step) {
            (Step::SameSession, Step::SameSession) => true,
            (Step::Waits { since, .. }, Step::Waits { since: then, .. }) => since == then,
            _ => false,
        };
        steps && one.from == other.from && one.to == other.to
    };
    cycle.iter().all(|step| edges.iter().any(|edge| same(edge, step)))
}

/// The session of this process that is to be ended: one that gives way, at once. Else the one that began to wait last, if its time has
/// come: at once where the cycle is certain, else after `patience`, and when it has waited for less time than every other party, or
/// for twice that long.
pub(super) fn victim(cycle: &[Edge], patience: Duration, gives_way: impl Fn(i32) -> bool) -> Option<i32> {
    let waits = cycle.iter().filter_map(|edge| match &edge.step {
        Step::Waits { age, .. } => Some((*age, edge.from)),
        Step::SameSession => None,
    });
    let own = |(age, party): (Duration, Party)| match party {
        Party::Session(session) => Some((age, session)),
        Party::Backend { .. } => None,
    };
    if let Some((_, session)) = waits.clone().filter_map(own).filter(|(_, id)| gives_way(*id)).min() {
        return Some(session);
    }
    let (age, session) = waits.clone().filter_map(own).min()?;
    if cycle.iter().all(|edge| edge.step != Step::SameSession) {
        return Some(session);
    }
    let last = waits.map(|(age, _)| age).min() == Some(age);
    let due = !patience.is_zero() && age >= patience && (last || age >= patience * 2);
    due.then_some(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::LockWait;

    fn wait(pid: i32, age_ms: u64, blockers: &[i32]) -> LockWait {
        LockWait {
            pid,
            since: format!("t{pid}"),
            age: Duration::from_millis(age_ms),
            lock: "ShareLock on transaction 7".to_owned(),
            blockers: blockers.to_vec(),
        }
    }

    fn node(waits: Vec<LockWait>, idle: &[i32], owner: &str) -> Option<NodeLocks> {
        let pids = waits.iter().map(|wait| wait.pid).chain(idle.iter().copied());
        let owners = pids.map(|pid| (pid, owner.to_owned())).collect();
        Some(NodeLocks { owners, waits, idle: idle.to_vec() })
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn two_sessions_over_two_nodes() {
        // Session 1 has 11 and 21, session 2 has 12 and 22.
        let sessions = [((0, 11), 1), ((0, 12), 2), ((1, 21), 1), ((1, 22), 2)].into();
        let first =
            [node(vec![wait(11, 900, &[12])], &[12], "a"), node(vec![wait(22, 500, &[21])], &[21], "a")];
        let edges = super::edges(&first, &sessions);
        let found = cycle(&edges).expect("a cycle");
        assert_eq!(victim(&found, PATIENCE, |_| false), Some(2), "the one that began to wait last");
        assert_eq!(victim(&found, PATIENCE, |id| id == 1), Some(1), "the one that is run again");
        assert!(still(&edges, &found));
        let later = [first[0].clone(), node(vec![], &[], "a")];
        assert!(!still(&super::edges(&later, &sessions), &found));
    }

    #[test]
    fn a_stranger_between_two_sessions_of_one_node_is_passed() {
        let sessions = [((0, 11), 1), ((0, 12), 2), ((1, 21), 1), ((1, 22), 2)].into();
        let nodes = [
            node(vec![wait(11, 900, &[19]), wait(19, 900, &[12])], &[], "a"),
            node(vec![wait(22, 500, &[21])], &[], "a"),
        ];
        assert!(cycle(&super::edges(&nodes, &sessions)).is_some());
    }

    #[test]
    fn what_one_node_can_see_is_left_to_it_and_a_chain_is_no_cycle() {
        let sessions = [((0, 11), 1), ((0, 12), 2), ((1, 22), 2)].into();
        let own = [node(vec![wait(11, 900, &[12]), wait(12, 900, &[11])], &[], "a"), node(vec![], &[], "a")];
        assert_eq!(cycle(&super::edges(&own, &sessions)), None);
        let chain =
            [node(vec![wait(11, 900, &[12])], &[], "a"), node(vec![wait(22, 900, &[29])], &[29], "a")];
        assert_eq!(cycle(&super::edges(&chain, &sessions)), None);
    }

    #[test]
    fn a_session_of_another_process_is_given_time() {
        // Session 1 waits on node 0 for a stranger that is idle; a stranger of the same kind waits for it on node 1.
        let sessions = [((0, 11), 1), ((1, 21), 1)].into();
        let nodes = |own: u64, other: u64, owner: &str| {
            [node(vec![wait(11, own, &[91])], &[91], "app"), node(vec![wait(92, other, &[21])], &[], owner)]
        };
        let victim_of = |own, other, owner| {
            let edges = super::edges(&nodes(own, other, owner), &sessions);
            cycle(&edges).map(|cycle| victim(&cycle, PATIENCE, |_| false))
        };
        let edges = super::edges(&nodes(300, 9_000, "app"), &sessions);
        let hasty = cycle(&edges).and_then(|cycle| victim(&cycle, PATIENCE, |_| true));
        assert_eq!(hasty, Some(1), "what is run again need not be certain");
        assert_eq!(victim_of(9_000, 9_500, "app"), Some(None), "not yet");
        assert_eq!(victim_of(10_001, 10_500, "app"), Some(Some(1)));
        assert_eq!(victim_of(10_500, 10_001, "app"), Some(None), "the other process's session gives way");
        assert_eq!(victim_of(20_000, 19_000, "app"), Some(Some(1)), "it has not");
        assert_eq!(victim_of(20_000, 20_000, "another"), None, "these are two");
    }
}
