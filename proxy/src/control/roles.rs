//! Which node of a shard takes the writes: a pure function of what was seen, and the lag of its replicas.
//!
//! Invariants: never two primaries; never a node on a timeline older than the newest that this process has seen in the
//! shard (the old primary after a promotion); never a node with another system identifier. In doubt: nobody.
//! Detection is not fencing: keeping a cut-off primary from writing is the HA manager's task.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Positions of the primary that are remembered to tell lag in time.
const LAG_SAMPLES: usize = 512;

/// What a node was when last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRole {
    /// Not asked yet, or not of this shard (another system identifier).
    Unknown,
    /// Takes writes and is the one that does.
    Primary,
    /// In recovery, follows.
    Replica,
    /// Claims to be a primary, but is not written to: an older timeline, or one of two.
    Stale,
}

impl NodeRole {
    /// Spelling in `SHOW SERVERS` and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Stale => "stale",
        }
    }

    pub(super) fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Primary,
            2 => Self::Replica,
            3 => Self::Stale,
            _ => Self::Unknown,
        }
    }
}

/// What a health check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) in_recovery: bool,
    pub(crate) timeline: u32,
    pub(crate) system_id: u64,
    /// Replayed (replica) or inserted (primary) up to here.
    pub(crate) replay_lsn: u64,
    /// Received (replica) or inserted (primary) up to here.
    pub(crate) receive_lsn: u64,
    pub(crate) prepared_limit: i32,
    /// When the server was started, microseconds since 1970.
    pub(crate) started: i64,
}

/// What a shard is remembered by.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardMemory {
    /// The newest timeline seen on a node of this shard.
    pub(crate) timeline: u32,
    /// System identifier that all its nodes must have.
    pub(crate) system_id: Option<u64>,
}

/// The judgement of one shard: a role and a complaint for each member, and the index of the primary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) roles: Vec<(NodeRole, String)>,
    pub(crate) primary: Option<usize>,
    /// Why there is no primary; empty when there is one.
    pub(crate) why: String,
}

/// Judges a shard by the newest observation of each member (`None`: down), the configured primary first.
pub(crate) fn judge(memory: &mut ShardMemory, members: &[Option<Observation>]) -> Verdict {
    remember(memory, members);
    let mut roles: Vec<(NodeRole, String)> = members.iter().map(|seen| role_of(*memory, *seen)).collect();
    let claims: Vec<usize> = (0..roles.len()).filter(|&i| roles[i].0 == NodeRole::Primary).collect();
    let (primary, why) = match claims.as_slice() {
        [] => (None, String::from("no node of it answers as a primary on the newest timeline")),
        [one] => (Some(*one), String::new()),
        several => {
            let why = format!(
                "{} nodes claim to be its primary on timeline {}; writes are held until only one does \
                 (stop or demote the wrong one)",
                several.len(),
                memory.timeline
            );
            for &index in several {
                roles[index] = (NodeRole::Stale, why.clone());
            }
            (None, why)
        }
    };
    Verdict { roles, primary, why }
}

fn remember(memory: &mut ShardMemory, members: &[Option<Observation>]) {
    for seen in members.iter().flatten() {
        let expected = *memory.system_id.get_or_insert(seen.system_id);
        if seen.system_id == expected {
            memory.timeline = memory.timeline.max(seen.timeline);
        }
    }
}

fn role_of(memory: ShardMemory, seen: Option<Observation>) -> (NodeRole, String) {
    let Some(seen) = seen else { return (NodeRole::Unknown, String::from("it does not answer")) };
    if Some(seen.system_id) != memory.system_id {
        let words = format!(
            "its system identifier {} is not that of its shard ({}): wrong host? If the shard was rebuilt on purpose, \
             delete its row of gavel.shard in the control database and restart",
            seen.system_id,
            memory.system_id.unwrap_or_default()
        );
        return (NodeRole::Unknown, words);
    }
    if seen.in_recovery && seen.timeline < memory.timeline {
        // It may have replayed what the promotion has thrown away, at positions that the new primary reuses.
        let words = format!(
            "it replays timeline {}, but the shard has moved on to {}: not read from until it follows",
            seen.timeline, memory.timeline
        );
        return (NodeRole::Stale, words);
    }
    if seen.in_recovery {
        return (NodeRole::Replica, String::new());
    }
    if seen.timeline < memory.timeline {
        let words = format!(
            "it accepts writes on timeline {}, but the shard has moved on to {}: an old primary, not written to",
            seen.timeline, memory.timeline
        );
        return (NodeRole::Stale, words);
    }
    (NodeRole::Primary, String::new())
}

/// Where the primary was when: tells for how long a replica has been behind, without trusting two clocks.
#[derive(Debug, Default)]
pub(crate) struct LagClock {
    samples: VecDeque<(Instant, u64)>,
}

impl LagClock {
    /// Another primary: its positions are not those of the one before.
    pub(crate) fn reset(&mut self) {
        self.samples.clear();
    }

    /// The primary was at `lsn` at `now`.
    pub(crate) fn record(&mut self, now: Instant, lsn: u64) {
        if self.samples.back().is_some_and(|&(_, last)| last >= lsn) {
            return;
        }
        if self.samples.len() == LAG_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, lsn));
    }

    /// Bytes and time by which a replica that has replayed `replay` is behind at `now`.
    pub(crate) fn lag(&self, now: Instant, replay: u64) -> (u64, Duration) {
        let Some(&(_, newest)) = self.samples.back() else { return (0, Duration::ZERO) };
        let first_ahead = self.samples.partition_point(|&(_, lsn)| lsn <= replay);
        let Some(&(since, _)) = self.samples.get(first_ahead) else { return (0, Duration::ZERO) };
        (newest.saturating_sub(replay), now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(in_recovery: bool, timeline: u32, system_id: u64) -> Option<Observation> {
        Some(Observation {
            in_recovery,
            timeline,
            system_id,
            replay_lsn: 0,
            receive_lsn: 0,
            prepared_limit: 20,
            started: 0,
        })
    }

    #[test]
    fn a_promoted_replica_takes_over_and_the_old_primary_is_not_written_to() {
        let mut memory = ShardMemory::default();
        let first = judge(&mut memory, &[seen(false, 1, 7), seen(true, 1, 7)]);
        assert_eq!(first.primary, Some(0));
        assert_eq!(judge(&mut memory, &[None, seen(true, 1, 7)]).primary, None);
        assert_eq!(judge(&mut memory, &[None, seen(false, 2, 7)]).primary, Some(1));
        let back = judge(&mut memory, &[seen(false, 1, 7), seen(false, 2, 7)]);
        assert_eq!((back.primary, back.roles[0].0), (Some(1), NodeRole::Stale));
        let alone = judge(&mut memory, &[seen(false, 1, 7), None]);
        assert_eq!(alone.primary, None, "the newer timeline is remembered");
    }

    #[test]
    fn two_claims_on_one_timeline_hold_the_writes() {
        let mut memory = ShardMemory::default();
        let both = judge(&mut memory, &[seen(false, 1, 7), seen(false, 1, 7)]);
        assert_eq!(both.primary, None);
        assert!(both.why.contains("2 nodes claim"), "{}", both.why);
    }

    #[test]
    fn a_replica_that_stayed_behind_a_promotion_is_not_read_from() {
        let mut memory = ShardMemory::default();
        let verdict = judge(&mut memory, &[None, seen(false, 2, 7), seen(true, 1, 7), seen(true, 2, 7)]);
        let roles: Vec<NodeRole> = verdict.roles.iter().map(|(role, _)| *role).collect();
        assert_eq!(roles, [NodeRole::Unknown, NodeRole::Primary, NodeRole::Stale, NodeRole::Replica]);
    }

    #[test]
    fn another_system_is_refused() {
        let mut memory = ShardMemory::default();
        let verdict = judge(&mut memory, &[seen(false, 1, 7), seen(false, 9, 8)]);
        assert_eq!(verdict.primary, Some(0));
        assert_eq!(verdict.roles[1].0, NodeRole::Unknown);
        assert_eq!(memory.timeline, 1, "a stranger's timeline does not count");
    }

    #[test]
    fn lag_is_the_time_since_the_primary_passed_the_replica() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = LagClock::default();
        clock.record(at(0), 100);
        clock.record(at(10_000), 200);
        assert_eq!(clock.lag(at(10_500), 200), (0, Duration::ZERO));
        assert_eq!(clock.lag(at(10_500), 150), (50, Duration::from_millis(500)), "idle time is not lag");
        assert_eq!(clock.lag(at(10_500), 50), (150, Duration::from_millis(10_500)));
    }
}
