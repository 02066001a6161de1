//! Requests that are worked off once more, unseen: the application is told of the last answer alone.
//!
//! A read that a replica has given up: what it replays takes its rows away (a recovery conflict), it writes after all, or the replica
//! is gone. And a statement over several shards that went wrong only because there are several: it was in a circle of waits, or DDL
//! came between the shards' answers.
//!
//! Invariant: only a request that stands by itself, with which a transaction begins on the shards, is repeated, and only where it has
//! left nothing behind (replicas alone have worked at it, or its only statement is rolled back everywhere) and nothing of its answer
//! has been written to the application.

use std::sync::atomic::Ordering;

use super::failure::Failure;
use super::session::Session;
use super::transaction::Block;
use crate::sql::facts::Isolation;
use crate::wire::backend::error_field;
use crate::wire::frame::{self, HEADER};
use crate::wire::frontend::tag;
use crate::wire::sqlstate;

/// What PostgreSQL says of a statement that it cancels so that replay can go on, whatever its SQLSTATE is.
const CONFLICT: &[u8] = b"conflict with recovery";

/// How often a request is repeated at most. DDL after DDL can come between the answers of the shards, each time with less chance.
const TIMES: u8 = 5;

/// Why a request is worked off once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Replicas have given it up: only primaries are asked.
    OnPrimaries,
    /// The shards got in each other's way: what it writes, it writes on one shard after the other.
    InOrder,
}

/// Whether the request under way is worked off once more.
#[derive(Debug, Default)]
pub struct Repeat {
    /// It stands by itself, and nothing is bound to what it does.
    allowed: bool,
    /// It is to be.
    wanted: Option<Again>,
    /// It is being worked off once more.
    under_way: Option<Again>,
    /// How often it has been.
    times: u8,
}

impl Repeat {
    /// Whether it is being worked off once more for this reason.
    pub fn is_under_way(&self, why: Again) -> bool {
        self.under_way == Some(why)
    }

    /// The request, and all repetitions of it, are over.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

impl Session {
    /// Whether these frames, with which a request begins anew, may be worked off twice.
    pub(super) fn may_repeat(&mut self, frames: &[u8]) -> bool {
        let at_work = self.held.iter().any(|held| held.unsynced || held.wrote) || self.has_begun();
        let fresh = |block: &Block| block.is_fresh() && self.isolation() == Isolation::ReadCommitted;
        let in_block = !self.block.as_ref().is_none_or(|block| fresh(block));
        let bound = in_block || at_work || !self.pins.is_empty();
        let busy = bound || self.listening.is_some() || self.pipeline.skipping || !self.io.out.is_empty();
        let allowed = !busy && stands_alone(frames);
        self.repeat = Repeat { allowed, ..Repeat::default() };
        allowed
    }

    /// Whether what has been begun on this conn the short way may be worked off twice: the conn is the only one, and it is of a replica.
    pub(super) fn began_on_replica(&mut self, at: usize) -> bool {
        self.repeat.end();
        let replica = self.held.get(at).is_some_and(|held| held.replica);
        let alone = self.block.is_none() && self.pins.is_empty() && self.listening.is_none();
        replica && alone && stands_alone(self.io.current_frames())
    }

    /// Whether the transaction has done something on a shard; to have a statement looked at is nothing.
    fn has_begun(&self) -> bool {
        let ran = self.block.as_ref().is_some_and(|block| block.ran);
        ran || self.held.iter().any(|held| held.enlisted && !held.untouched)
    }

    /// The request is about to end with the error of a shard, and the conns that have worked at it are still at hand.
    pub(super) fn note_given_up(&mut self) {
        let Some(error) = &self.events.error else { return };
        let field = |wanted| error_field(&error[HEADER..], wanted).unwrap_or_default();
        let told = field(b'M').windows(CONFLICT.len()).any(|words| words == CONFLICT);
        let only_there = field(b'C') == sqlstate::READ_ONLY_TRANSACTION.as_bytes();
        if (told || only_there) && self.works_on_replicas() {
            self.repeat.wanted = Some(Again::OnPrimaries);
        }
    }

    /// A conn is about to be given up, since the server has ended it or is gone.
    pub(super) fn note_lost(&mut self) {
        if self.works_on_replicas() {
            self.repeat.wanted = Some(Again::OnPrimaries);
        }
    }

    fn works_on_replicas(&self) -> bool {
        self.block.is_none()
            && !self.held.is_empty()
            && self.held.iter().all(|held| held.replica && !held.wrote)
    }

    /// Whether the statement that is about to run on several shards can be taken back and run again: it is the first one of its
    /// request and of its transaction. Whoever ends circles of waits knows from now on.
    pub fn can_be_taken_back(&self) -> bool {
        let alone = self.events.completed == 0 && !self.has_begun();
        let can = self.repeat.allowed && self.repeat.times < TIMES && alone;
        self.io.visible.gives_way.store(can, Ordering::Relaxed);
        can
    }

    /// The statement has run, and failed so or in the events.
    pub fn note_in_the_way(&mut self, can_be_taken_back: bool, failure: Option<&Failure>) {
        self.io.visible.gives_way.store(false, Ordering::Relaxed);
        let differs = failure.is_some_and(Failure::is_differing_rows);
        let deadlock = self.events.sqlstate() == Some(sqlstate::DEADLOCK_DETECTED.as_bytes());
        if can_be_taken_back && (differs || deadlock) {
            self.repeat.wanted = Some(Again::InOrder);
        }
    }

    /// Whether it is to be worked off once more, from here on. The application knows nothing of it.
    pub(super) async fn begin_anew(&mut self) -> bool {
        let wanted = self.repeat.wanted.take();
        let again = wanted.filter(|_| self.repeat.times < TIMES && self.io.moved.written == 0);
        if again.is_none() || !self.leave_shards().await {
            return false;
        }
        (self.repeat.under_way, self.repeat.times) = (again, self.repeat.times + 1);
        self.io.out.clear();
        self.io.visible.verdict.withdraw();
        true
    }

    /// An open block, which has begun on the shards along with the statement, is rolled back there, to begin anew on other conns: a
    /// cancel request may be on its way to these. Whether that could be done.
    async fn leave_shards(&mut self) -> bool {
        if self.block.is_none() {
            return true;
        }
        let undone = self.rollback_all().await.is_ok();
        let Some(mut block) = self.block.take() else { return false };
        let undone = undone && !block.lost;
        block.doomed &= !undone;
        if undone {
            self.settle();
        }
        self.block = Some(block);
        undone
    }
}

/// A Query, or a pipeline that ends with Sync and gives no statement a name: to repeat that would take the name twice.
fn stands_alone(frames: &[u8]) -> bool {
    let mut rest = frames;
    let mut last = 0;
    while let Ok(Some(header)) = frame::header(rest, usize::MAX) {
        if header.tag == tag::PARSE && rest.get(HEADER) != Some(&0) {
            return false;
        }
        last = header.tag;
        rest = rest.get(header.len..).unwrap_or_default();
    }
    rest.is_empty() && (last == tag::QUERY || last == tag::SYNC)
}

#[cfg(test)]
mod tests {
    use super::stands_alone;

    #[test]
    fn what_gives_names_or_goes_on_is_not_repeated() {
        let frame = |tag: u8, body: &[u8]| [&[tag, 0, 0, 0, body.len() as u8 + 4], body].concat();
        let (query, sync) = (frame(b'Q', b"select 1\0"), frame(b'S', b""));
        let [unnamed, named] = [&b"\0select 1\0\0\0"[..], b"s\0select 1\0\0\0"].map(|body| frame(b'P', body));
        assert!(stands_alone(&query));
        assert!(stands_alone(&[&unnamed[..], &sync].concat()));
        assert!(!stands_alone(&[&named[..], &sync].concat()));
        assert!(!stands_alone(&unnamed));
        assert!(!stands_alone(&[&unnamed[..], &frame(b'H', b"")].concat()));
        assert!(!stands_alone(&sync[..4]));
    }
}
