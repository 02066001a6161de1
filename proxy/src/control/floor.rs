//! The causal floor of a shard: how far a replica must have replayed to serve reads.
//!
//! Invariant: a read that begins after a write was acknowledged by this proxy is served by a replica only if an LSN that the
//! primary was asked for after that write has been replayed there. While such an answer is under way, or missing, reads go
//! to the primary: that somebody has asked says nothing yet. Sessions ask with the next read, health checks in any case.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use router_config::topology::ShardId;

/// Shards whose floor is kept; the map is refused above.
const SHARDS_MAX: usize = 1024;

/// The floors of all shards.
#[derive(Debug)]
pub struct Floors(Vec<Arc<Floor>>);

/// One shard's floor, shared by all sessions of the process.
#[derive(Debug, Default)]
pub struct Floor {
    /// All writes up to `covered` are before it.
    lsn: AtomicU64,
    /// Writes acknowledged so far.
    written: AtomicU64,
    /// Of these, how many the LSN is known to be behind.
    covered: AtomicU64,
    /// Of these, how many somebody is asking about.
    asked: AtomicU64,
}

/// Where a read may go.
#[derive(Debug)]
pub enum Look {
    /// To a replica that has replayed this LSN.
    Replica(u64),
    /// To the primary, which is to be asked for its LSN along the way.
    Ask(Ticket),
    /// To the primary; another session is asking.
    Primary,
}

/// The duty to ask the primary for its LSN. Dropped without an answer, somebody else gets it.
#[derive(Debug)]
pub struct Ticket {
    floor: Arc<Floor>,
    written: u64,
    answered: bool,
}

impl Default for Floors {
    fn default() -> Self {
        let mut floors = Vec::new();
        floors.resize_with(SHARDS_MAX, Arc::default);
        Self(floors)
    }
}

impl Floors {
    /// That of a shard.
    pub fn of(&self, shard: ShardId) -> &Arc<Floor> {
        &self.0[usize::from(shard.0) % SHARDS_MAX]
    }
}

impl Floor {
    /// A write is about to be acknowledged.
    pub fn wrote(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// How many writes have been acknowledged.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// The primary, asked when so many writes had been acknowledged, was at this LSN.
    pub fn cover(&self, written: u64, lsn: u64) {
        self.lsn.fetch_max(lsn, Ordering::AcqRel);
        self.covered.fetch_max(written, Ordering::AcqRel);
    }

    /// Where a read that begins now may go.
    pub fn look(self: &Arc<Self>) -> Look {
        let written = self.written.load(Ordering::Acquire);
        if self.covered.load(Ordering::Acquire) >= written {
            return Look::Replica(self.lsn.load(Ordering::Acquire));
        }
        if self.asked.fetch_max(written, Ordering::AcqRel) < written {
            return Look::Ask(Ticket { floor: Arc::clone(self), written, answered: false });
        }
        Look::Primary
    }
}

impl Ticket {
    /// The primary's answer, to a question sent after the ticket was drawn.
    pub fn answer(mut self, lsn: u64) {
        self.answered = true;
        self.floor.cover(self.written, lsn);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.floor.asked.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_sends_reads_to_the_primary_until_its_lsn_is_known() {
        let floor = Arc::new(Floor::default());
        assert!(matches!(floor.look(), Look::Replica(0)));
        floor.wrote();
        let Look::Ask(first) = floor.look() else { panic!("the first reader asks") };
        // The question is under way: its answer is not known to anybody yet.
        assert!(matches!(floor.look(), Look::Primary));
        floor.wrote();
        let Look::Ask(second) = floor.look() else { panic!("a later write needs a later answer") };
        first.answer(10);
        assert!(matches!(floor.look(), Look::Primary), "the later write is not covered");
        second.answer(20);
        assert!(matches!(floor.look(), Look::Replica(20)));
    }

    #[test]
    fn a_health_check_covers_the_writes_before_it() {
        let floor = Arc::new(Floor::default());
        floor.wrote();
        let written = floor.written();
        floor.wrote();
        floor.cover(written, 10);
        assert!(matches!(floor.look(), Look::Ask(_)), "a write during the check is not covered");
        floor.cover(floor.written(), 20);
        assert!(matches!(floor.look(), Look::Replica(20)));
    }

    #[test]
    fn an_answer_that_is_overtaken_lowers_nothing() {
        let floor = Arc::new(Floor::default());
        floor.wrote();
        let Look::Ask(first) = floor.look() else { panic!("asked") };
        floor.wrote();
        let Look::Ask(second) = floor.look() else { panic!("asked") };
        second.answer(20);
        first.answer(10);
        assert!(matches!(floor.look(), Look::Replica(20)));
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again() {
        let floor = Arc::new(Floor::default());
        floor.wrote();
        let Look::Ask(ticket) = floor.look() else { panic!("asked") };
        drop(ticket);
        assert!(matches!(floor.look(), Look::Ask(_)));
    }
}
