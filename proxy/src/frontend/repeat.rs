//! Reads that a replica has given up: what it replays takes their rows away (a recovery conflict), they write after all, or it is gone.
//! They are worked off once more, on primaries, and the application is told of that answer alone.
//!
//! Invariant: only a request that stands by itself, outside of a transaction, is repeated, and only where replicas alone have worked at
//! it and nothing of their answers has been written to the application.

use super::session::Session;
use crate::wire::backend::error_field;
use crate::wire::frame::{self, HEADER};
use crate::wire::frontend::tag;
use crate::wire::sqlstate;

/// What PostgreSQL says of a statement that it cancels so that replay can go on, whatever its SQLSTATE is.
const CONFLICT: &[u8] = b"conflict with recovery";

impl Session {
    /// Whether these frames, with which a request begins anew, may be worked off twice.
    pub(super) fn may_repeat(&mut self, frames: &[u8]) -> bool {
        self.given_up = false;
        let at_work = self.held.iter().any(|held| held.enlisted || held.unsynced || held.wrote);
        let bound = self.block.is_some() || at_work || !self.pins.is_empty();
        let busy = bound || self.listening.is_some() || self.pipeline.skipping || !self.io.out.is_empty();
        !busy && self.reads_replica(&self.worker.shared.settings.load()) && stands_alone(frames)
    }

    /// Whether what has been begun on this conn the short way may be worked off twice: the conn is the only one, and it is of a replica.
    pub(super) fn began_on_replica(&mut self, at: usize) -> bool {
        self.given_up = false;
        let replica = self.held.get(at).is_some_and(|held| held.replica);
        let alone = self.block.is_none() && self.pins.is_empty() && self.listening.is_none();
        replica && alone && stands_alone(self.io.current_frames())
    }

    /// The request is about to end with the error of a shard, and the conns that have worked at it are still at hand.
    pub(super) fn note_given_up(&mut self) {
        let Some(error) = &self.events.error else { return };
        let field = |wanted| error_field(&error[HEADER..], wanted).unwrap_or_default();
        let told = field(b'M').windows(CONFLICT.len()).any(|words| words == CONFLICT);
        let only_there = field(b'C') == sqlstate::READ_ONLY_TRANSACTION.as_bytes();
        self.given_up |= (told || only_there) && self.works_on_replicas();
    }

    /// A conn is about to be given up, since the server has ended it or is gone.
    pub(super) fn note_lost(&mut self) {
        self.given_up |= self.works_on_replicas();
    }

    fn works_on_replicas(&self) -> bool {
        !self.held.is_empty() && self.held.iter().all(|held| held.replica && !held.wrote)
    }

    /// Whether it has ended so, and the application knows nothing of it.
    pub(super) fn is_to_be_repeated(&self) -> bool {
        self.given_up && self.io.moved.written == 0
    }

    /// From here on nobody but a primary is asked, until told otherwise.
    pub(super) fn begin_anew(&mut self) {
        self.io.out.clear();
        self.given_up = false;
        self.primaries_only = true;
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
