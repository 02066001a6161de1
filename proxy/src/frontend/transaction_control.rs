//! Statements that begin and end transactions, or parts of one.
//!
//! What a pipeline or a text has run in front of BEGIN is one transaction with what follows, on every shard: it becomes the block.
//! Invariant: the session's block is never open without the shards where the transaction is, and never closed with one of them.

use std::sync::Arc;

use super::control::{Via, aborted, warning};
use super::failure::Failure;
use super::session::{Held, Session};
use super::transaction::{Block, is_start, modes_sql};
use crate::sql::cache::Analysed;
use crate::sql::facts::{Command, Facts, Isolation};
use crate::wire::backend::Status;
use crate::wire::sqlstate;

/// Fails a transaction on a shard that has not seen the failure, in words that say why in the server's log.
const FAIL: &str = "ROLLBACK TO SAVEPOINT \"the transaction has failed elsewhere\"";

impl Session {
    /// BEGIN or START TRANSACTION.
    pub(super) async fn begin(&mut self, facts: &Arc<Facts>, text: &str, via: Via) -> Result<(), Failure> {
        self.check_doomed()?;
        let explicit = |session: &Self| session.block.as_ref().is_some_and(|block| !block.implicit);
        if via == Via::Extended && !explicit(self) {
            self.keep_pipeline().await?;
            self.check_level(facts)?;
        }
        if self.block.is_none() {
            self.open_block(facts, text);
            return Ok(());
        }
        if !explicit(self) {
            return self.adopt(facts, text).await;
        }
        // PostgreSQL warns, and its modes count.
        self.pass_on_home(facts, text, via).await?;
        match (modes_sql(text), self.busy_shard()) {
            (Some(modes), Some(shard)) if self.events.error.is_none() => {
                self.tell_others(&modes, shard).await
            }
            _ => Ok(()),
        }
    }

    /// The level of a pipeline's transaction that has run on shards and left them again.
    fn check_level(&self, facts: &Facts) -> Result<(), Failure> {
        let Command::Begin { isolation: Some(level), .. } = facts.command else { return Ok(()) };
        if !self.pipeline.looked || level == self.isolation() {
            return Ok(());
        }
        let message = "SET TRANSACTION ISOLATION LEVEL must be called before any query";
        Err(Failure::error(sqlstate::ACTIVE_SQL_TRANSACTION, message))
    }

    /// BEGIN outside of a block: no shard has to know yet.
    pub(super) fn open_block(&mut self, facts: &Facts, text: &str) {
        let Command::Begin { read_only, isolation } = facts.command else { return };
        let mut block = Block::new(text.trim_end_matches(';'), read_only, Arc::clone(&self.gucs));
        block.isolation = isolation;
        self.block = Some(Box::new(block));
        self.answer(begin_tag(text));
    }

    /// BEGIN behind other statements of a pipeline or text: what came before is part of the block, on every shard where it is.
    async fn adopt(&mut self, facts: &Facts, text: &str) -> Result<(), Failure> {
        let Command::Begin { read_only, isolation } = facts.command else { return Ok(()) };
        self.rest().await?;
        let modes = modes_sql(text);
        for shard in self.enlisted_shards() {
            let Some(at) = self.held.iter().position(|held| held.enlisted && held.shard == shard) else {
                continue;
            };
            if self.held[at].replica {
                // It has had its say about the level. The block itself may write, and goes to primaries.
                if let Some(level) = isolation {
                    self.ask(at, standby_level(level)).await?;
                }
                self.quit_replica(at).await?;
            } else if let Some(modes) = &modes {
                self.ask(at, modes).await?;
            }
        }
        if let Some(block) = &mut self.block {
            text.trim_end_matches(';').clone_into(&mut block.begin);
            (block.implicit, block.read_only, block.isolation) = (false, read_only, isolation);
        }
        self.answer(begin_tag(text));
        Ok(())
    }

    /// COMMIT or ROLLBACK.
    pub(super) async fn end(&mut self, facts: &Arc<Facts>, text: &str, via: Via) -> Result<(), Failure> {
        let (commit, chain) = match facts.command {
            Command::Commit { chain } => (true, chain),
            Command::Rollback { chain } => (false, chain),
            _ => return Ok(()),
        };
        let Some(block) = &self.block else {
            self.listen_ahead().await?;
            self.pass_on_home(facts, text, via).await?;
            // What follows in a pipeline is another transaction.
            return if via == Via::Extended { self.come_to_rest().await } else { Ok(()) };
        };
        if block.implicit {
            return self.end_too_early(commit, chain).await;
        }
        self.listen_before_end(commit).await?;
        self.hold_before_end(commit).await?;
        let enlisted = self.enlisted();
        let doomed = self.block.as_ref().is_some_and(|block| block.doomed);
        if enlisted.len() == 1 && !doomed {
            return self.pass_out(enlisted[0], facts, text, via).await;
        }
        self.rest().await?;
        let commit = commit && !doomed && self.failed_shard().is_none();
        let next = self.block.as_ref().filter(|_| chain).map(|block| block.next());
        let done = if commit { self.commit_all().await } else { self.rollback_all().await };
        self.end_block(!commit || done.is_err());
        done?;
        self.answer(if commit { "COMMIT" } else { "ROLLBACK" });
        if let Some(mut next) = next {
            next.committed(Arc::clone(&self.gucs));
            self.block = Some(Box::new(next));
        }
        Ok(())
    }

    /// Passes on what ends a transaction or a part of it. Where it has failed, what follows in a pipeline is placed after that.
    async fn pass_out(&mut self, at: usize, facts: &Arc<Facts>, text: &str, via: Via) -> Result<(), Failure> {
        let failed = self.failed_shard().is_some();
        self.pass_on(at, facts, text, via).await?;
        if failed && via == Via::Extended { self.come_to_rest().await } else { Ok(()) }
    }

    /// COMMIT or ROLLBACK behind other statements of a pipeline or text, without a BEGIN: a warning, and what came before ends.
    async fn end_too_early(&mut self, commit: bool, chain: bool) -> Result<(), Failure> {
        self.rest().await?;
        let tag = if commit { "COMMIT" } else { "ROLLBACK" };
        if chain {
            return Err(only_in_blocks(&format!("{tag} AND CHAIN")));
        }
        let message = "there is no transaction in progress";
        warning(&mut self.io.out, sqlstate::NO_ACTIVE_SQL_TRANSACTION, message);
        self.end_implicit(!commit).await?;
        self.pipeline.looked = false;
        self.answer(tag);
        Ok(())
    }

    /// Brings all conns to rest and applies what has run in the open block, so that what follows comes after it.
    pub(super) async fn rest(&mut self) -> Result<(), Failure> {
        self.finish_pipelines().await?;
        if self.block.is_some() {
            self.apply_completed();
        }
        Ok(())
    }

    /// COMMIT with LISTENs: a shard that does not listen fails the transaction.
    async fn listen_before_end(&mut self, commit: bool) -> Result<(), Failure> {
        let doomed = self.block.as_ref().is_some_and(|block| block.doomed);
        let listens = |session: &Self| {
            session.listening.is_some()
                || session.pending.iter().any(|expected| matches!(expected.facts.command, Command::Listen(_)))
        };
        if !commit || doomed || !listens(self) {
            return Ok(());
        }
        self.rest().await?;
        if self.failed_shard().is_some() {
            return Ok(());
        }
        let listened = self.listen_ahead().await;
        if listened.is_err() {
            // The server's words are about a transaction that is given up.
            let _ = self.rollback_all().await;
            self.end_block(true);
        }
        listened
    }

    /// COMMIT with cursors WITH HOLD that are read from gathered rows: one that cannot be computed fails the transaction.
    async fn hold_before_end(&mut self, commit: bool) -> Result<(), Failure> {
        if self.kept.is_empty() || !commit || self.check_doomed().is_err() || self.failed_shard().is_some() {
            return Ok(());
        }
        self.rest().await?;
        let held = self.hold_kept().await;
        if held.is_err() {
            // The server's words are about a transaction that is given up.
            let _ = self.rollback_all().await;
            self.end_block(true);
        }
        held
    }

    /// Whether a text ends a transaction that is on several shards, or will be: no one of them can be sent it whole.
    pub(super) fn ends_on_several(&self, text: &Analysed) -> bool {
        let ends = |command: &Command| matches!(command, Command::Commit { .. } | Command::Rollback { .. });
        let several = self.enlisted().len() > 1 || self.lacks_snapshots();
        several && text.statements().iter().any(|statement| ends(&statement.facts.command))
    }

    /// SAVEPOINT, ROLLBACK TO or RELEASE.
    pub(super) async fn savepoint(
        &mut self,
        facts: &Arc<Facts>,
        text: &str,
        via: Via,
    ) -> Result<(), Failure> {
        let enlisted = self.enlisted();
        let Some(block) = &mut self.block else { return self.pass_on_home(facts, text, via).await };
        if block.implicit {
            self.rest().await?;
            return Err(only_in_blocks(savepoint_name(&facts.command)));
        }
        let (doomed, goes_back) = (block.doomed, matches!(facts.command, Command::RollbackTo(_)));
        if doomed && (block.lost || !goes_back) {
            return Err(aborted());
        }
        let failed = self.held.iter().position(|held| held.lease.status == Status::Failed);
        if let Some(at) = failed.filter(|_| !goes_back) {
            return self.pass_on(at, facts, text, via).await;
        }
        match enlisted.len() {
            0 => self.savepoint_alone(facts, text, via).await,
            1 if !doomed => self.pass_out(enlisted[0], facts, text, via).await,
            _ => {
                self.rest().await?;
                for at in enlisted {
                    self.ask(at, text).await?;
                }
                self.note_savepoint(facts);
                self.answer(savepoint_tag(&facts.command));
                Ok(())
            }
        }
    }

    /// No shard has begun yet: the block alone knows of the savepoint.
    async fn savepoint_alone(&mut self, facts: &Arc<Facts>, text: &str, via: Via) -> Result<(), Failure> {
        self.rest().await?;
        let known = |name: &String| self.block.as_ref().is_some_and(|block| block.has_savepoint(name));
        if let Command::RollbackTo(name) | Command::Release(name) = &facts.command
            && !known(name)
        {
            return self.pass_on_home(facts, text, via).await;
        }
        self.note_savepoint(facts);
        self.answer(savepoint_tag(&facts.command));
        Ok(())
    }

    /// A transaction that has failed holds no locks but those from before its savepoint: the shards that did not see the failure
    /// give theirs up as the one that did.
    pub(super) async fn fail_everywhere(&mut self) {
        let Some(block) = self.block.as_ref().filter(|block| !block.implicit) else { return };
        if !block.doomed && self.failed_shard().is_none() {
            return;
        }
        let goes_on = |held: &Held| held.enlisted && held.lease.status == Status::InTransaction;
        while let Some(at) = self.held.iter().position(goes_on) {
            // To be rejected is what it is for. Whoever is lost has no locks either.
            let rejected = self.ask(at, FAIL).await;
            if rejected.is_ok() {
                break;
            }
        }
    }

    /// Whether a statement of a text of several is part of the transaction around them.
    pub(super) fn runs_within(&self, command: &Command, text: &Analysed) -> bool {
        match command {
            Command::SetHint { local, .. } => *local,
            // Which the server refuses there.
            Command::Discard(_) => !text.is_single(),
            command => !self.acts_on(command),
        }
    }

    /// What needs a transaction block of the application's own is not content with the one that the proxy has opened around a
    /// pipeline.
    pub(crate) fn check_needs_block(&self, command: &Command) -> Result<(), Failure> {
        let command = match command {
            Command::Lock => "LOCK TABLE",
            Command::Declare { hold: false, .. } => "DECLARE CURSOR",
            _ => return Ok(()),
        };
        let inside = self.block.as_ref().is_some_and(|block| !block.implicit);
        if inside { Ok(()) } else { Err(only_in_blocks(command)) }
    }

    pub(super) fn note_savepoint(&mut self, facts: &Facts) {
        let gucs = Arc::clone(&self.gucs);
        let listens = self.listening.as_ref().map_or(0, |listening| listening.changes());
        let Some(block) = &mut self.block else { return };
        match &facts.command {
            Command::Savepoint(name) => block.savepoint(name, gucs, listens),
            Command::Release(name) => drop(block.release(name)),
            Command::RollbackTo(name) => {
                self.changes.partly_undone();
                block.doomed &= block.lost;
                if let Some(undone) = block.rollback_to(name) {
                    self.names.undo(&undone.cursors);
                    self.return_to(undone.gucs);
                    if let Some(listening) = &mut self.listening {
                        listening.return_to(undone.listens);
                    }
                }
            }
            _ => {}
        }
    }
}

fn savepoint_tag(command: &Command) -> &'static str {
    match command {
        Command::RollbackTo(_) => "ROLLBACK",
        Command::Release(_) => "RELEASE",
        _ => "SAVEPOINT",
    }
}

/// As PostgreSQL calls the command in its complaints.
fn savepoint_name(command: &Command) -> &'static str {
    match command {
        Command::RollbackTo(_) => "ROLLBACK TO SAVEPOINT",
        Command::Release(_) => "RELEASE SAVEPOINT",
        _ => "SAVEPOINT",
    }
}

fn only_in_blocks(command: &str) -> Failure {
    let message = format!("{command} can only be used in transaction blocks");
    Failure::error(sqlstate::NO_ACTIVE_SQL_TRANSACTION, message)
}

fn begin_tag(text: &str) -> &'static str {
    if is_start(text) { "START TRANSACTION" } else { "BEGIN" }
}

/// A level that a standby takes where a primary takes this one: it has none that is serializable.
fn standby_level(level: Isolation) -> &'static str {
    match level {
        Isolation::ReadCommitted => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        Isolation::RepeatableRead | Isolation::Serializable => {
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
        }
    }
}
