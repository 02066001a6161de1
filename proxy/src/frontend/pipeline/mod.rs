//! The extended protocol: frames up to Sync or Flush, placed one after the other.
//!
//! Frames that go to the same shard are sent in one write and answered in one go. When the shard changes, what is owed is
//! awaited first, so that PostgreSQL's order of execution and its stop at the first error hold. Replies of the proxy's own keep their
//! place in the line ([`Owed::Local`]).

mod passage;
mod plain;
mod portals;
mod statements;

use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use smallvec::SmallVec;

use super::control::{SYNC_SHOWN, aborted, leaves_failed};
use super::failure::Failure;
use super::io::ClientError;
use super::names::Prepared;
use super::session::Session;
use crate::backend::owed::{Owed, Show};
use crate::route::plan::Plan;
use crate::sql::facts::{Command, Facts};
use crate::wire::backend::Status;
use crate::wire::frame::{self, HEADER};
use crate::wire::frontend::{Bind, Execute, Parse, bare, tag};
use crate::wire::{reply, sqlstate};

/// Frames of one session that are worked off before the others of the thread have a turn.
const OPS_AT_ONCE: usize = 64;

/// One frame of a batch.
#[derive(Debug, Clone)]
pub struct Op {
    tag: u8,
    body: Range<usize>,
}

/// What a session remembers between the frames of one pipeline.
#[derive(Debug, Default)]
pub struct PipelineState {
    /// After an error: everything up to Sync is skipped.
    pub skipping: bool,
    /// The error was the proxy's own: what the pipeline did before it is to be rolled back at Sync.
    refused: bool,
    /// Names given by Parse in this pipeline, in order, until they are confirmed.
    parsed: SmallVec<[Bytes; 1]>,
    /// A plan made ahead, for the Bind at this offset.
    planned: Option<(usize, Plan)>,
    /// A portal over several shards whose description was asked for and is still to come.
    describe: Option<Bytes>,
    /// COPY data was fed: the server has ignored the Sync in front of it.
    pub copied: bool,
    /// The data of a COPY passed over the Sync that the request ends with: nothing is told before the next one.
    pub goes_on: bool,
    /// Its transaction has begun on shards where it has been left: it has no level to choose any more.
    pub looked: bool,
    /// A Sync follows in the same batch.
    pub sync_ahead: bool,
}

impl PipelineState {
    /// Whether no frame of it has been worked off yet.
    pub(super) fn is_new(&self) -> bool {
        let Self { skipping, refused, copied, parsed, planned, describe, looked, goes_on: _, sync_ahead: _ } =
            self;
        !(*skipping || *refused || *copied || *looked)
            && parsed.is_empty()
            && planned.is_none()
            && describe.is_none()
    }
}

/// Splits a batch into its frames. The frames are whole and their lengths have been checked.
fn ops(batch: &[u8]) -> SmallVec<[Op; 8]> {
    let mut ops = SmallVec::new();
    let mut at = 0;
    while let Ok(Some(header)) = frame::header(&batch[at..], usize::MAX) {
        ops.push(Op { tag: header.tag, body: at + HEADER..at + header.len });
        at += header.len;
    }
    ops
}

impl Session {
    /// Works off frames of the extended protocol; the batch ends with Sync, Flush, or where the read buffer was full.
    pub async fn extended(&mut self, batch: Bytes) -> Result<(), ClientError> {
        let ops = ops(&batch);
        let last_sync = ops.iter().rposition(|op| op.tag == tag::SYNC);
        for (index, op) in ops.iter().enumerate() {
            if index % OPS_AT_ONCE == OPS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            if op.tag == tag::SYNC {
                if let (Err(error), false) = (bare(&batch[op.body.clone()]), self.pipeline.skipping) {
                    // A Sync with a body is an error, and ends the pipeline all the same.
                    self.refuse(error.into()).await?;
                }
                self.sync().await?;
                continue;
            }
            if self.pipeline.skipping {
                continue;
            }
            self.pipeline.sync_ahead = last_sync.is_some_and(|last| last > index);
            if let Err(failure) = self.op(&batch, &ops, index).await {
                self.refuse(failure).await?;
            }
        }
        let next = self.io.read.first();
        let copy = matches!(next, Some(&(tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL)));
        let executes = ops.last().is_some_and(|op| op.tag == tag::EXECUTE);
        let copy = copy || (executes && next.is_none() && self.may_copy(&batch));
        if copy && !self.pipeline.skipping {
            // The data of a COPY, sent ahead of its CopyInResponse or to be sent when it has come.
            if let Err(failure) = self.flush_pipelines().await {
                self.refuse(failure).await?;
            }
        }
        Ok(())
    }

    /// Whether the frames end with an Execute that may be one of COPY FROM STDIN. To work them off early costs little.
    pub(in crate::frontend) fn may_copy(&self, frames: &[u8]) -> bool {
        let ops = ops(frames);
        if ops.last().is_none_or(|op| op.tag != tag::EXECUTE) {
            return false;
        }
        let copies = |statement: &Prepared| statement.facts().is_none() || statement.takes_copy();
        ops.iter().any(|op| {
            let body = &frames[op.body.clone()];
            match op.tag {
                tag::PARSE => Parse::read(body)
                    .is_ok_and(|parse| parse.text.windows(4).any(|word| word.eq_ignore_ascii_case(b"copy"))),
                tag::BIND => Bind::read(body).is_ok_and(|bind| {
                    self.names.statements.get(bind.statement).is_some_and(|known| copies(known))
                }),
                tag::EXECUTE => Execute::read(body).is_ok_and(|run| {
                    self.names.portals.get(run.portal).is_some_and(|known| copies(&known.statement))
                }),
                _ => false,
            }
        })
    }

    /// In front of Query and FunctionCall: whether the pipeline that no Sync has ended is without error. Otherwise everything up
    /// to Sync is skipped.
    pub async fn pipeline_stands(&mut self) -> Result<bool, ClientError> {
        let under_way = !self.pending.is_empty() || self.held.iter().any(|held| held.unsynced);
        if !self.pipeline.skipping && under_way {
            let flushed = self.flush_pipelines().await;
            let left =
                if self.pipeline.skipping { flushed } else { flushed.and(self.leave_to_query().await) };
            if let Err(failure) = left {
                self.refuse(failure).await?;
            }
        }
        Ok(!self.pipeline.skipping)
    }

    async fn op(&mut self, batch: &Bytes, ops: &[Op], index: usize) -> Result<(), Failure> {
        let op = &ops[index];
        let body = batch.slice(op.body.clone());
        if op.tag != tag::EXECUTE && self.pipeline.describe.is_some() {
            self.describe_spread().await?;
        }
        match op.tag {
            tag::PARSE => self.op_parse(batch, ops, index, &body).await,
            tag::BIND => self.op_bind(&body, op.body.start).await,
            tag::DESCRIBE => self.op_describe(&body).await,
            tag::EXECUTE => self.op_execute(&body).await,
            tag::CLOSE => self.op_close(&body).await,
            tag::FLUSH => {
                bare(&body)?;
                self.flush_pipelines().await
            }
            _ => Ok(()),
        }
    }

    /// An error of the proxy's own in a pipeline: told after everything before it, the rest is skipped. Of one pipeline one error is
    /// told, the first.
    pub(in crate::frontend) async fn refuse(&mut self, failure: Failure) -> Result<(), ClientError> {
        if let Failure::Client(error) = failure {
            return Err(error);
        }
        let failure = match self.flush_pipelines().await {
            Err(Failure::Client(error)) => return Err(error),
            Err(first) => first,
            Ok(()) => failure,
        };
        // What a shard has reported has been told.
        if self.check_pipeline_error().is_err() {
            return Ok(());
        }
        self.pipeline.skipping = true;
        self.pipeline.refused = true;
        self.forget_unparsed();
        self.doom();
        self.count_failure(&failure);
        failure.report(&mut self.io.out)
    }

    /// A reply without a body, in its place.
    fn local_bare(&mut self, tag: u8) -> Result<(), Failure> {
        self.local(reply::bare_frame(tag));
        Ok(())
    }

    /// After a run: an error that the server reported skips the rest of the pipeline.
    pub(in crate::frontend) fn check_pipeline_error(&mut self) -> Result<(), Failure> {
        if self.events.error.is_some() && !self.pipeline.skipping {
            self.pipeline.skipping = true;
            for held in &mut self.held {
                held.unnamed = None;
            }
            self.forget_unparsed();
        }
        if self.pipeline.skipping { Err(skip()) } else { Ok(()) }
    }

    /// Names whose Parse did not succeed do not exist.
    fn forget_unparsed(&mut self) {
        for name in self.pipeline.parsed.drain(..).skip(self.events.parsed as usize) {
            self.names.statements.remove(&name);
        }
    }

    /// Simple queries run after everything that a pipeline has left open.
    pub async fn finish_pipelines(&mut self) -> Result<(), Failure> {
        if self.held.iter().all(|held| !held.unsynced) {
            return Ok(());
        }
        self.leave_all().await
    }

    /// Everything owed so far is there. Who reads the request knows whether the application is told now (Flush) or at Sync.
    async fn flush_pipelines(&mut self) -> Result<(), Failure> {
        if self.pipeline.describe.is_some() {
            self.describe_spread().await?;
        }
        for at in 0..self.held.len() {
            if self.held[at].lease.owed_len() > 0 {
                reply::bare(&mut self.held[at].lease.write, tag::FLUSH);
                self.run_to_end(at).await?;
            }
        }
        let _ = self.check_pipeline_error();
        Ok(())
    }

    /// Sync: the pipeline's transaction ends, the application gets ReadyForQuery.
    async fn sync(&mut self) -> Result<(), ClientError> {
        let listened = self.listen_before_sync().await;
        let outcome = self.sync_conns().await;
        self.end_pipeline(listened.and(outcome)).await
    }

    /// The servers have answered the Sync, or were lost; the application is told how it ended.
    pub(super) async fn end_pipeline(&mut self, outcome: Result<(), Failure>) -> Result<(), ClientError> {
        if std::mem::take(&mut self.pipeline.copied) {
            self.pipeline.goes_on = true;
            let told = self.pipeline.skipping;
            return outcome.or_else(|failure| if told { Ok(()) } else { failure.report(&mut self.io.out) });
        }
        let failed = self.pipeline.skipping || self.events.error.is_some() || outcome.is_err();
        self.accept_parsed();
        let _ = self.check_pipeline_error();
        self.apply_completed();
        let mut outcome = if self.pipeline.skipping { Ok(()) } else { outcome };
        if self.block.as_ref().is_some_and(|block| block.implicit) {
            let ended = self.end_implicit(failed).await;
            if !failed {
                outcome = ended;
            }
        }
        self.count_shard_error();
        if let Err(failure) = outcome {
            self.count_failure(&failure);
            failure.report(&mut self.io.out)?;
            self.doom();
        }
        self.pipeline = PipelineState::default();
        // The shards listen already.
        let _ = self.commit_listens(failed).await;
        self.fail_everywhere().await;
        self.settle();
        self.refresh_catalog().await;
        self.hear_own().await;
        self.ready();
        self.next_events();
        Ok(())
    }

    /// LISTEN in a pipeline that Sync will commit: a shard that does not listen rolls it back.
    async fn listen_before_sync(&mut self) -> Result<(), Failure> {
        if self.block.is_some() || self.pipeline.skipping {
            return Ok(());
        }
        let listened = self.listen_ahead().await;
        self.pipeline.refused |= listened.is_err();
        listened
    }

    /// Statements whose Parse a server has accepted need not be sent for the next session that parses them.
    fn accept_parsed(&self) {
        for name in self.pipeline.parsed.iter().take(self.events.parsed as usize) {
            if let Some(prepared) = self.names.statements.get(name) {
                prepared.shared.accepted.store(true, Ordering::Relaxed);
            }
        }
    }

    async fn sync_conns(&mut self) -> Result<(), Failure> {
        if self.pipeline.describe.is_some() && !self.pipeline.skipping {
            self.describe_spread().await?;
        }
        let abort = self.pipeline.refused && self.block.is_none();
        let mut outcome = Ok(());
        for at in (0..self.held.len()).rev() {
            let held = &mut self.held[at];
            if !held.unsynced {
                if held.lease.owed_len() > 0 {
                    outcome = outcome.and(self.run_to_end(at).await);
                }
                continue;
            }
            if abort {
                roll_back_pipeline(&mut held.lease);
                held.unnamed = None;
            }
            held.lease.sync(SYNC_SHOWN);
            held.unsynced = false;
            outcome = outcome.and(self.run_to_end(at).await);
        }
        outcome
    }

    fn answered_here(&self, facts: &Facts) -> bool {
        if self.status() == Status::Failed {
            // What a failed transaction says to the others is PostgreSQL's.
            return leaves_failed(&facts.command);
        }
        let explains = matches!(facts.command, Command::ExplainGavel(_));
        explains || self.acts_on(&facts.command) || self.prepares_here(facts)
    }

    /// After a run on a conn: what was learned.
    pub fn after_run(&mut self, at: usize) {
        self.learn_lsn(at);
        if !self.events.reshaped.is_empty() {
            self.adopt_shapes(at);
        }
        if self.events.error.is_some() {
            self.held[at].unnamed = None;
        }
    }
}

/// The proxy refused a later statement of the pipeline: what it did before is undone.
fn roll_back_pipeline(conn: &mut crate::backend::conn::Conn) {
    reply::parse(&mut conn.write, b"", b"ROLLBACK", &[]);
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    reply::bind(&mut conn.write, b"", b"", &[0, 0, 0, 0, 0, 0]);
    conn.owe(Owed::Bind(Show::NOTHING));
    reply::execute(&mut conn.write, b"", 0);
    conn.owe(Owed::Execute(Show::NOTHING));
}

/// Not an error of its own: the one that caused the skip has been reported.
fn skip() -> Failure {
    aborted()
}

fn unknown_statement(name: &[u8]) -> Failure {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
    };
    Failure::error(sqlstate::INVALID_STATEMENT_NAME, message)
}

fn unknown_portal(name: &[u8]) -> Failure {
    let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    Failure::error(sqlstate::INVALID_CURSOR_NAME, message)
}
