//! The short way of a plain statement in the simple protocol: one statement that leaves nothing behind, one shard, a conn at hand;
//! and of BEGIN, and of the end of a transaction on one shard.
//!
//! The frame is passed on from where it was read; nothing is waited for but the answer. Invariant: what is not certain to end like
//! that takes the long way ([`super::simple`]), and up to there nothing has been sent, noted or counted.

use std::sync::Arc;

use router_config::topology::ShardId;

use super::failure::Failure;
use super::io::StepError;
use super::session::Session;
use super::watch::Why;
use crate::backend::owed::{Owed, Show};
use crate::exec::single;
use crate::route::plan::Target;
use crate::sql::facts::{Access, Command, Facts};
use crate::wire::backend::Status;
use crate::wire::frame::HEADER;
use crate::wire::frontend;

/// How far a request has come on the short way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The proxy has answered it.
    Answered,
    /// It is queued on the held conn of this index.
    Sent(usize),
    /// It has been answered to its end.
    Ended,
    /// It needs a conn to this shard, to a replica if one is fit, and none is at hand.
    Wants(ShardId, bool),
}

impl Session {
    /// Queues the Query frame of `len` bytes at the front of what has been read on the conn of its shard. `None`: it takes the long
    /// way.
    pub(super) fn send_plain(&mut self, len: usize) -> Option<Way> {
        if !self.may_be_plain() {
            return None;
        }
        // Taken out for so long, so that the text can be read while the session changes.
        let read = std::mem::take(&mut self.io.read);
        let sent = read.get(..len).and_then(|frame| self.place_plain(frame));
        self.io.read = read;
        sent
    }

    /// Passes the answer on, ReadyForQuery included, in both protocols. `Some`: something has gone otherwise than expected, on this
    /// conn.
    pub(super) async fn run_plain(&mut self, way: Way) -> Option<(usize, Result<(), StepError>)> {
        match way {
            Way::Sent(at) => {
                let done = single::run(&mut self.io, &mut self.held[at].lease, &mut self.events).await;
                if done.is_err() || self.events.error.is_some() || self.events.copy_in {
                    return Some((at, done));
                }
            }
            Way::Ended => return None,
            Way::Answered | Way::Wants(..) => {}
        }
        self.apply_completed();
        self.settle();
        self.ready();
        None
    }

    /// Whether the session is in no state that takes part in a statement.
    pub(super) fn may_be_plain(&self) -> bool {
        let block = self.block.as_ref().is_none_or(|block| !block.implicit && !block.doomed);
        let held = match self.held.as_slice() {
            [] => true,
            [only] => !only.unsynced && only.lease.is_quiet() && only.lease.status != Status::Failed,
            _ => false,
        };
        let bound = !self.pins.is_empty() || self.listening.is_some();
        let unfinished = self.pipeline.skipping || self.changes.any() || !self.pending.is_empty();
        block && held && !bound && !unfinished
    }

    fn place_plain(&mut self, frame: &[u8]) -> Option<Way> {
        let text = frontend::query(frame.get(HEADER..)?).ok()?;
        let analysed = self.analyse_simple(text);
        let [statement] = analysed.statements() else { return None };
        if !statement.plain {
            return self.place_end_or_begin(frame, &text[analysed.range(0)], &statement.facts);
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
            // Whoever comes next shall not skip the shard whose turn it is.
            self.spread = spread;
            return Some(Way::Wants(shard, plan.replica));
        };
        self.start_plain(at, before, &statement.facts)?;
        self.names.forget_unnamed();
        let why = Why::of(&plan);
        self.note_in_place(why);
        self.note_shard(why, at);
        let held = &mut self.held[at];
        held.unnamed = None;
        held.lease.write.extend_from_slice(frame);
        held.lease.owe(Owed::Query(Show::ALL.without(Show::READY)));
        Some(Way::Sent(at))
    }

    /// Waits for the conn that the short way wants.
    pub(super) async fn acquire_wanted(&mut self, shard: ShardId, replica: bool) -> Result<(), Failure> {
        self.heed(None);
        let before = self.touched(shard);
        let at = self.acquire(shard, replica).await?;
        // The statement itself has not come there yet.
        self.held[at].untouched = !before;
        Ok(())
    }

    /// The request is certain to go the short way.
    pub(super) fn begin_plain(&mut self) {
        self.next_events();
        self.tag_at = usize::MAX;
        self.draws.next_statement();
    }

    /// The statement is certain to run on this conn alone; `before`: what `touched` said before it was acquired.
    pub(super) fn start_plain(&mut self, at: usize, before: bool, facts: &Facts) -> Option<()> {
        self.begin_plain();
        if facts.access != Access::Read {
            // Of one conn alone, which nothing refuses.
            self.writes(at).ok()?;
        }
        self.runs(at, before, facts);
        self.sent += 1;
        Some(())
    }

    fn place_end_or_begin(&mut self, frame: &[u8], own: &[u8], facts: &Arc<Facts>) -> Option<Way> {
        let ends = self.ends_alone(facts);
        if !ends && !self.may_open_block(facts) {
            return None;
        }
        let own = String::from_utf8_lossy(own);
        self.begin_plain();
        self.names.forget_unnamed();
        if !ends {
            self.open_block(facts, own.trim());
            return Some(Way::Answered);
        }
        self.send_end(facts, own.trim(), frame);
        Some(Way::Sent(0))
    }

    /// Whether it is a BEGIN that opens a block of which no shard has to know yet.
    pub(super) fn may_open_block(&self, facts: &Facts) -> bool {
        matches!(facts.command, Command::Begin { .. }) && self.block.is_none()
    }

    /// Whether it is the end of a transaction that the one held conn alone has part in.
    pub(super) fn ends_alone(&self, facts: &Facts) -> bool {
        let ends =
            matches!(facts.command, Command::Commit { chain: false } | Command::Rollback { chain: false });
        ends && self.block.is_some() && matches!(self.held.as_slice(), [only] if only.enlisted)
    }

    /// Queues the end of the transaction, a Query frame, on the one held conn.
    pub(super) fn send_end(&mut self, facts: &Arc<Facts>, text: &str, frame: &[u8]) {
        self.expect(facts, text.as_bytes(), Some(0));
        let held = &mut self.held[0];
        held.unnamed = None;
        held.committing |= matches!(facts.command, Command::Commit { .. });
        held.lease.write.extend_from_slice(frame);
        held.lease.owe(Owed::Query(Show::ALL.without(Show::READY)));
    }
}
