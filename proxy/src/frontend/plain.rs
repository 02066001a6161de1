//! The short way of a plain statement in the simple protocol: one statement that leaves nothing behind, one shard, a conn at hand.
//!
//! The frame is passed on from where it was read; nothing is waited for but the answer. Invariant: what is not certain to end like
//! that takes the long way ([`super::simple`]), and up to there nothing has been sent, noted or counted.

use bytes::Bytes;

use super::io::{ClientError, StepError};
use super::session::Session;
use super::watch::Why;
use crate::backend::owed::{Owed, Show};
use crate::exec::single;
use crate::route::plan::Target;
use crate::sql::facts::Access;
use crate::wire::backend::Status;
use crate::wire::frame::HEADER;
use crate::wire::frontend;

impl Session {
    /// Queues the Query frame of `len` bytes at the front of what has been read on the conn of its shard; the conn's index. `None`:
    /// it takes the long way.
    pub(super) fn send_plain(&mut self, len: usize) -> Option<usize> {
        if !self.may_be_plain() {
            return None;
        }
        // Taken out for so long, so that the text can be read while the session changes.
        let read = std::mem::take(&mut self.io.read);
        let sent = read.get(..len).and_then(|frame| self.place_plain(frame));
        self.io.read = read;
        sent
    }

    /// Passes the answer on, ReadyForQuery included.
    pub(super) async fn pass_plain(&mut self, at: usize) -> Result<(), ClientError> {
        let done = single::run(&mut self.io, &mut self.held[at].lease, &mut self.events).await;
        if done.is_err() || self.events.error.is_some() || self.events.copy_in {
            return Box::pin(self.end_plain(at, done)).await;
        }
        self.apply_completed();
        self.settle();
        self.ready();
        Ok(())
    }

    /// Whether the session is in no state that takes part in a statement.
    pub(super) fn may_be_plain(&self) -> bool {
        let block = self.block.as_ref().is_none_or(|block| !block.implicit && !block.doomed);
        let held = match self.held.as_slice() {
            [] => true,
            [only] => !only.unsynced && only.lease.is_quiet() && only.lease.status != Status::Failed,
            _ => false,
        };
        let bound = self.pinned.is_some() || self.listening.is_some();
        let unfinished = self.pipeline.skipping || self.changes.any() || !self.pending.is_empty();
        block && held && !bound && !unfinished
    }

    fn place_plain(&mut self, frame: &[u8]) -> Option<usize> {
        let text = frontend::query(frame.get(HEADER..)?).ok()?;
        let analysed = self.analyse_simple(text);
        let [statement] = analysed.statements() else { return None };
        if !statement.plain {
            return None;
        }
        let plan = self.plan_simple(text, &analysed, 0).ok()?;
        let spread = self.spread;
        let shard = match plan.target {
            Target::One(shard) | Target::Nowhere(shard) => shard,
            Target::Any => self.any_shard(),
            _ => return None,
        };
        let before = self.touched(shard);
        let Some(at) = self.acquire_at_hand(shard, plan.replica) else {
            // The long way shall not skip the shard whose turn it is.
            self.spread = spread;
            return None;
        };
        self.next_events();
        self.tag_at = None;
        self.names.forget_unnamed();
        self.draws.next_statement();
        let facts = &statement.facts;
        if facts.access != Access::Read {
            // Of one conn alone, which nothing refuses.
            self.writes(at).ok()?;
        }
        self.runs(at, before, facts);
        let why = Why::of(&plan);
        self.note_in_place(why);
        self.note_shard(why, at);
        self.sent += 1;
        let held = &mut self.held[at];
        held.unnamed = None;
        held.lease.write.extend_from_slice(frame);
        held.lease.owe(Owed::Query(Show::ALL.without(Show::READY)));
        Some(at)
    }

    /// Something has gone otherwise than expected: the end of the long way.
    async fn end_plain(&mut self, at: usize, done: Result<(), StepError>) -> Result<(), ClientError> {
        self.watch.keep_text(Bytes::copy_from_slice(self.io.current_text()));
        self.io.drop_current();
        let outcome = match done {
            Ok(()) => self.run_to_end(at).await,
            Err(error) => Err(self.lose(at, error)),
        };
        self.finish_simple(outcome).await
    }
}
