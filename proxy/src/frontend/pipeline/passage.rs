//! From conn to conn: where a frame is put, and what is awaited before the pipeline goes on on another shard.

use router_config::topology::ShardId;

use crate::backend::owed::{Owed, Show};
use crate::frontend::control::SYNC_SHOWN;
use crate::frontend::failure::Failure;
use crate::frontend::session::{Held, Session};
use crate::wire::reply;

impl Session {
    /// Passes a frame on as it is to the conn of a shard.
    pub(super) async fn raw(
        &mut self,
        shard: ShardId,
        tag: u8,
        body: &[u8],
        owed: Owed,
    ) -> Result<(), Failure> {
        let before = self.touched(shard);
        let at = self.goto(shard, false).await?;
        self.held[at].untouched = !before;
        self.note_ran();
        self.put_raw(at, tag, body, owed);
        Ok(())
    }

    pub(super) fn put_raw(&mut self, at: usize, tag: u8, body: &[u8], owed: Owed) {
        let held = &mut self.held[at];
        reply::frame(&mut held.lease.write, tag, |b| b.extend_from_slice(body));
        held.lease.owe(owed);
        held.unsynced = true;
    }

    /// Passes on what the session has no name for (it may have been made in SQL); without a conn that could know it, the
    /// answer is an error.
    pub(super) async fn raw_or(
        &mut self,
        tag: u8,
        body: &[u8],
        owed: Owed,
        error: impl FnOnce() -> Failure,
    ) -> Result<(), Failure> {
        if let Err(aborted) = self.check_doomed() {
            let in_sql = !(self.names.cursors.is_empty() && self.names.passed.is_empty());
            return Err(if in_sql { aborted } else { error() });
        }
        match self.failed_shard().or(self.busy_shard()).or(self.pins.names()) {
            Some(shard) => self.raw(shard, tag, body, owed).await,
            None => Err(error()),
        }
    }

    /// The conn to go on with. Another one that was in use is brought to rest first.
    pub async fn goto(&mut self, shard: ShardId, replica: bool) -> Result<usize, Failure> {
        while let Some(at) = self.held.iter().position(|held| held.unsynced && held.shard != shard) {
            self.leave(at).await?;
        }
        // The transaction that the pipeline may have become meanwhile goes to primaries: it may write.
        let replica = replica && !self.block.as_ref().is_some_and(|block| block.implicit);
        self.acquire(shard, replica).await
    }

    /// As `goto`, for a statement with its values: one that has to be on the primary does not follow a read to a replica.
    pub(super) async fn goto_to_run(&mut self, shard: ShardId, replica: bool) -> Result<usize, Failure> {
        let read_there = |held: &Held| held.shard == shard && held.replica && held.unsynced && !held.enlisted;
        if !replica && let Some(at) = self.held.iter().position(read_there) {
            self.leave(at).await?;
        }
        self.goto(shard, replica).await
    }

    /// As `goto`, for a question about a statement: the transaction has not been on the shard for that.
    pub(in crate::frontend) async fn goto_to_describe(&mut self, shard: ShardId) -> Result<usize, Failure> {
        let used = self.touched(shard);
        let at = self.goto(shard, false).await?;
        self.held[at].untouched = !used;
        Ok(at)
    }

    /// As `goto`, to a conn that is held already, for what reads and writes no tables.
    pub(in crate::frontend) async fn goto_as_is(&mut self, shard: ShardId) -> Result<usize, Failure> {
        let untouched = self.held.iter().any(|held| held.shard == shard && held.untouched);
        let at = self.goto(shard, false).await?;
        self.held[at].untouched = untouched;
        Ok(at)
    }

    /// Brings every conn in use to rest.
    pub async fn leave_all(&mut self) -> Result<(), Failure> {
        while let Some(at) = self.held.iter().position(|held| held.unsynced) {
            self.leave(at).await?;
        }
        Ok(())
    }

    /// As `leave_all`, in front of BEGIN: what runs goes on, as the transaction of an implicit block. Replicas stay in it.
    pub(in crate::frontend) async fn keep_pipeline(&mut self) -> Result<(), Failure> {
        while let Some(at) = self.held.iter().position(|held| held.unsynced) {
            if self.block.is_none() {
                self.open_behind(at);
            }
            self.stop(at).await?;
        }
        Ok(())
    }

    /// As `leave_all`, in front of Query or FunctionCall: it ends the transaction of the pipeline, as Sync would have.
    pub(super) async fn leave_to_query(&mut self) -> Result<(), Failure> {
        let behind = self.held.iter().position(|held| held.unsynced);
        if let Some(at) = behind.filter(|_| self.block.is_none() && !self.pending.is_empty()) {
            self.open_behind(at);
        }
        self.leave_all().await?;
        self.apply_completed();
        Ok(())
    }

    /// Awaits what a conn owes. What it wrote outside of a block stays uncommitted: the pipeline is one transaction, which from
    /// here on spans several shards.
    async fn leave(&mut self, at: usize) -> Result<(), Failure> {
        let set = self.pending.iter().any(|expected| expected.sets());
        if self.block.is_none() && (self.held[at].wrote || set) {
            self.open_behind(at);
        }
        let shard = self.held[at].shard;
        self.stop(at).await?;
        // What may write goes to primaries.
        let on_replica = |held: &Held| held.shard == shard && held.replica && held.enlisted;
        if let Some(at) = self.held.iter().position(on_replica)
            && self.block.as_ref().is_some_and(|block| block.implicit)
        {
            self.pipeline.looked = true;
            self.quit_replica(at).await?;
        }
        Ok(())
    }

    /// Rolls a transaction back on a replica, settings and all: it goes on elsewhere.
    pub(in crate::frontend) async fn quit_replica(&mut self, at: usize) -> Result<(), Failure> {
        let shard = self.held[at].shard;
        self.ask(at, "ROLLBACK").await?;
        if let Some(held) = self.held.iter_mut().find(|held| held.replica && held.shard == shard) {
            (held.enlisted, held.gucs_moved) = (false, false);
        }
        Ok(())
    }

    /// Awaits what a conn owes, and applies it to the open block.
    async fn stop(&mut self, at: usize) -> Result<(), Failure> {
        self.pipeline.looked |= !self.held[at].enlisted;
        self.await_conn(at).await?;
        if self.block.is_some() {
            // The next shard joins the block as it is now, or none if this one has ended it.
            self.apply_completed();
        }
        Ok(())
    }

    /// Turns what runs on a conn into an implicit block.
    fn open_behind(&mut self, at: usize) {
        self.open_implicit();
        let held = &mut self.held[at];
        let conn = &mut *held.lease;
        reply::parse(&mut conn.write, b"", b"BEGIN", &[]);
        conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
        reply::bind(&mut conn.write, b"", b"", &[0, 0, 0, 0, 0, 0]);
        conn.owe(Owed::Bind(Show::NOTHING));
        reply::execute(&mut conn.write, b"", 0);
        conn.owe(Owed::Execute(Show::NOTHING));
        held.enlisted = true;
        held.gucs_moved = true;
        held.unnamed = None;
    }

    /// Behind COMMIT or ROLLBACK outside of a block: what came before it is over.
    pub(in crate::frontend) async fn come_to_rest(&mut self) -> Result<(), Failure> {
        while let Some(at) = self.held.iter().position(|held| held.unsynced) {
            self.await_conn(at).await?;
        }
        self.apply_completed();
        self.names.portals.clear();
        self.pipeline.looked = false;
        Ok(())
    }

    async fn await_conn(&mut self, at: usize) -> Result<(), Failure> {
        let held = &mut self.held[at];
        held.lease.sync(SYNC_SHOWN);
        held.unsynced = false;
        self.run_to_end(at).await?;
        self.check_pipeline_error()
    }
}
