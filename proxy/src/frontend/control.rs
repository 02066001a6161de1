//! Statements that are the session's business: transaction control, settings, names, hints; and what statements that have
//! completed leave behind in the session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use router_config::topology::ShardId;

use super::failure::Failure;
use super::hints::Hints;
use super::session::{Held, Session};
use crate::backend::gucs::{Gucs, set_sql};
use crate::backend::owed::{Owed, Show};
use crate::sql::facts::{Command, Facts};
use crate::wire::error::Report;
use crate::wire::{reply, sqlstate};

/// How the application sent the statement: decides the frames that pass it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Query.
    Simple,
    /// Execute.
    Extended,
}

/// Whether the proxy answers Parse, Bind and Describe of this command itself and acts at Execute.
pub fn is_control(command: &Command) -> bool {
    moves_transaction(command)
        || matches!(
            command,
            Command::SetHint { .. } | Command::Deallocate(_) | Command::Discard(_) | Command::Reset(_)
        )
}

/// Whether a command begins or ends a transaction, or a part of one.
pub fn moves_transaction(command: &Command) -> bool {
    matches!(
        command,
        Command::Begin { .. }
            | Command::Commit { .. }
            | Command::Rollback { .. }
            | Command::Savepoint(_)
            | Command::RollbackTo(_)
            | Command::Release(_)
    )
}

/// Whether PostgreSQL takes a command in a failed transaction.
pub(super) fn leaves_failed(command: &Command) -> bool {
    matches!(command, Command::Commit { .. } | Command::Rollback { .. } | Command::RollbackTo(_))
}

impl Session {
    /// Executes a control statement; its CommandComplete is appended or passed on, in order.
    pub async fn control(&mut self, facts: &Arc<Facts>, text: &str, via: Via) -> Result<(), Failure> {
        if !moves_transaction(&facts.command) {
            self.check_doomed()?;
        }
        match &facts.command {
            Command::Begin { .. } => self.begin(facts, text, via).await,
            Command::Commit { .. } | Command::Rollback { .. } => self.end(facts, text, via).await,
            Command::Savepoint(_) | Command::RollbackTo(_) | Command::Release(_) => {
                self.savepoint(facts, text, via).await
            }
            Command::SetHint { name, value, local } => {
                self.set_hint(name, value.clone(), *local, via).await?;
                let resets = text.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("reset"));
                self.answer(if resets { "RESET" } else { "SET" });
                Ok(())
            }
            Command::Deallocate(name) => self.deallocate(facts, name.as_deref(), text, via).await,
            Command::Reset(name) => self.reset_to_login(facts, name.as_deref(), text, via).await,
            Command::Discard(what) => self.discard(facts, what, text, via).await,
            Command::Set { name, local, .. } => self.set_to_login(facts, (name, *local), via).await,
            Command::Listen(_) | Command::Unlisten(_) => self.listen_or_unlisten(facts, text, via).await,
            _ => self.pass_on_home(facts, text, via).await,
        }
    }

    /// A CommandComplete of the proxy's own, in its place.
    pub fn answer(&mut self, command: &str) {
        self.sent += 1;
        self.put_answer(command);
    }

    /// As [`Self::answer`], of a statement whose completion is expected.
    pub fn put_answer(&mut self, command: &str) {
        let mut frame = BytesMut::new();
        reply::command_complete(&mut frame, command);
        self.local(frame.freeze());
    }

    /// Frames of the proxy's own: behind everything that is still owed.
    pub fn local(&mut self, frame: Bytes) {
        // What else a conn owes was asked for the proxy itself and shows nothing.
        let busy = self.held.iter_mut().find(|held| held.unsynced && held.lease.owed_len() > 0);
        match busy {
            Some(held) => held.lease.owe(Owed::Local(frame)),
            None => {
                self.events.note_local(&frame);
                self.io.out.extend_from_slice(&frame);
            }
        }
    }

    async fn deallocate(
        &mut self,
        facts: &Arc<Facts>,
        name: Option<&str>,
        text: &str,
        via: Via,
    ) -> Result<(), Failure> {
        let failed = self.failed_shard().is_some();
        self.pipeline.looked = true;
        if via == Via::Extended {
            self.see_first().await?;
        }
        match name {
            _ if failed => self.pass_on_home(facts, text, via).await,
            Some(name) if self.names.statements.remove(name.as_bytes()).is_some() => {
                self.answer("DEALLOCATE");
                Ok(())
            }
            Some(_) => self.pass_on_home(facts, text, via).await,
            None => {
                self.names.statements.clear();
                self.names.passed.clear();
                if !self.pins.is_empty() {
                    self.finish_pipelines().await?;
                }
                let kept = |held: &&Held| !held.replica && self.pins.holds(held.shard);
                let kept: Vec<ShardId> = self.held.iter().filter(kept).map(|held| held.shard).collect();
                for shard in kept {
                    if let Some(at) = self.held.iter().position(|held| held.shard == shard) {
                        self.ask(at, "DEALLOCATE ALL").await?;
                        self.held[at].lease.prepared.clear();
                    }
                }
                self.answer("DEALLOCATE ALL");
                Ok(())
            }
        }
    }

    /// RESET returns to what the login asked for, which the server does not know as a default.
    async fn reset_to_login(
        &mut self,
        facts: &Arc<Facts>,
        name: Option<&str>,
        text: &str,
        via: Via,
    ) -> Result<(), Failure> {
        let startup = Arc::clone(&self.startup_gucs);
        let again: Vec<String> = startup
            .iter()
            .filter(|(known, _)| name.is_none_or(|name| name == *known))
            .map(|(known, value)| format!("SET {known} TO {value}"))
            .collect();
        if again.is_empty() || self.failed_shard().is_some() {
            return self.set_at_home(facts, text, via).await;
        }
        self.finish_pipelines().await?;
        let shard = self.pins.any().unwrap_or(ShardId(0));
        let at = match self.held.iter().position(|held| held.enlisted) {
            Some(at) => at,
            None => self.acquire(shard, false).await?,
        };
        let sql = format!("{text};{}", again.join(";"));
        let held = &mut self.held[at];
        let conn = (held.shard, held.replica);
        held.unnamed = None;
        reply::query(&mut held.lease.write, sql.as_bytes());
        held.lease.owe(Owed::Query(Show::ERRORS));
        self.run_to_end(at).await?;
        if self.events.error.is_none() {
            self.set_elsewhere(facts, None, sql.as_bytes(), conn.0).await?;
            self.note_local(&sql);
            self.reset(name, Some(conn));
            self.answer("RESET");
        }
        Ok(())
    }

    /// SET … TO DEFAULT of what the login asked for, which the server does not know as a default.
    async fn set_to_login(
        &mut self,
        facts: &Facts,
        (name, local): (&str, bool),
        via: Via,
    ) -> Result<(), Failure> {
        let value = self.startup_gucs.get(name).map(str::to_owned);
        let sql = set_sql(name, value.as_deref(), local);
        let mut facts = Facts::clone(facts);
        facts.command = Command::Set { local, name: name.to_owned(), value };
        let facts = Arc::new(facts);
        self.set_at_home(&facts, &sql, via).await
    }

    /// Passes a change of settings on, and tells the other shards of the transaction.
    async fn set_at_home(&mut self, facts: &Arc<Facts>, text: &str, via: Via) -> Result<(), Failure> {
        // With it the block may begin on the other shards: that is not where it runs.
        let ran = self.failed_shard().or(self.busy_shard()).or(self.pins.any()).unwrap_or(ShardId(0));
        self.pass_on_home(facts, text, via).await?;
        match self.events.error {
            None => self.set_elsewhere(facts, None, text.as_bytes(), ran).await,
            Some(_) => Ok(()),
        }
    }

    async fn discard(&mut self, facts: &Arc<Facts>, what: &str, text: &str, via: Via) -> Result<(), Failure> {
        let begun = self.block.as_ref().map_or(self.sent > 0, |block| block.implicit);
        if what == "all" && via == Via::Extended && begun {
            let message = "DISCARD ALL cannot be executed within a pipeline";
            return Err(Failure::error(sqlstate::ACTIVE_SQL_TRANSACTION, message));
        }
        if what != "all" || self.block.is_some() {
            return self.pass_on_home(facts, text, via).await;
        }
        // What has been parsed and not executed.
        self.leave_all().await?;
        let shard = self.pins.any().unwrap_or(ShardId(0));
        self.acquire(shard, false).await?;
        let shards: Vec<ShardId> = self.held.iter().map(|held| held.shard).collect();
        for shard in shards {
            self.discard_on(shard).await?;
        }
        self.names.statements.clear();
        self.names.passed.clear();
        self.names.portals.clear();
        self.names.cursors.clear();
        self.return_to(Arc::clone(&self.startup_gucs));
        self.pins.clear();
        self.temp_tables = false;
        self.hints = Hints::of_login(&self.startup_gucs);
        self.unlisten_all();
        self.draws = super::draws::Draws::default();
        self.answer("DISCARD ALL");
        // A fresh connection has the login's settings.
        match self.held.iter().position(|held| held.shard == shard) {
            Some(at) => self.renew_settings(at).await,
            None => Ok(()),
        }
    }

    /// DISCARD ALL on a conn that is held: what it leaves there is known.
    async fn discard_on(&mut self, shard: ShardId) -> Result<(), Failure> {
        let Some(at) = self.held.iter().position(|held| held.shard == shard) else { return Ok(()) };
        let held = &mut self.held[at];
        held.unnamed = None;
        held.lease.prepared.clear();
        held.lease.applied = Some(Gucs::none());
        held.lease.spoiled = false;
        reply::query(&mut held.lease.write, b"DISCARD ALL");
        held.lease.owe(Owed::Query(Show::ERRORS));
        self.run_to_end(at).await
    }

    /// Passes a statement on to the shard where the transaction is, else to the pinned one, else to the home shard.
    pub async fn pass_on_home(&mut self, facts: &Arc<Facts>, text: &str, via: Via) -> Result<(), Failure> {
        // A failed transaction is refused by the shard that it has failed on.
        let Some(shard) = self.failed_shard().or(self.busy_shard()) else {
            let names = matches!(facts.command, Command::Deallocate(_));
            let shard = if names { self.pins.names() } else { self.pins.any() }.unwrap_or(ShardId(0));
            let at = self.acquire(shard, false).await?;
            self.held[at].untouched = true;
            return self.pass_on(at, facts, text, via).await;
        };
        let at = self.goto_as_is(shard).await?;
        self.pass_on(at, facts, text, via).await
    }

    /// Passes a text on over a held conn.
    pub async fn pass_on(
        &mut self,
        at: usize,
        facts: &Arc<Facts>,
        text: &str,
        via: Via,
    ) -> Result<(), Failure> {
        self.expect(facts, text.as_bytes(), Some(at));
        self.note_ran();
        let held = &mut self.held[at];
        let conn = &mut *held.lease;
        held.unnamed = None;
        held.committing |= matches!(facts.command, Command::Commit { .. });
        // The next transaction has not been there.
        held.untouched |= matches!(facts.command, Command::Commit { .. } | Command::Rollback { .. });
        match via {
            Via::Simple => {
                reply::query(&mut conn.write, text.as_bytes());
                conn.owe(Owed::Query(Show::ALL.without(Show::READY)));
                self.run_to_end(at).await
            }
            Via::Extended => {
                reply::parse(&mut conn.write, b"", text.as_bytes(), &[]);
                conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
                reply::bind(&mut conn.write, b"", b"", &[0, 0, 0, 0, 0, 0]);
                conn.owe(Owed::Bind(Show::ERRORS));
                reply::execute(&mut conn.write, b"", 0);
                conn.owe(Owed::Execute(Show::ALL));
                held.unsynced = true;
                Ok(())
            }
        }
    }

    /// Runs a text of the proxy's own on a held conn, hidden; a rejection is a failure.
    pub async fn ask(&mut self, at: usize, text: &str) -> Result<(), Failure> {
        let held = &mut self.held[at];
        held.unnamed = None;
        reply::query(&mut held.lease.write, text.as_bytes());
        held.lease.owe(Owed::Query(Show::NOTHING));
        let kept = self.events.error.take();
        let ran = self.run(at).await;
        let error = std::mem::replace(&mut self.events.error, kept);
        ran?;
        error.map_or(Ok(()), |frame| Err(Failure::Server(frame)))
    }

    /// 25P02 or the like where the open transaction is lost.
    pub fn check_doomed(&self) -> Result<(), Failure> {
        if self.block.as_ref().is_some_and(|block| block.doomed) { Err(aborted()) } else { Ok(()) }
    }

    /// A refused statement in a block: as after any error, only ROLLBACK is left. A block that a shard has failed already stays
    /// what it is.
    pub fn doom(&mut self) {
        let failed = self.failed_shard().is_some();
        if let Some(block) = self.block.as_mut().filter(|_| !failed) {
            block.doomed = true;
        }
    }

    /// Counts a request for the console.
    pub fn count_request(&self) {
        self.io.visible.verdict.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// The error of PostgreSQL inside of a failed transaction.
pub fn aborted() -> Failure {
    Failure::error(
        sqlstate::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

/// A warning of the proxy's own.
pub fn warning(out: &mut BytesMut, sqlstate: &str, message: &str) {
    Report::warning(sqlstate, message).write(out);
}

/// What is shown of a Sync: what the server reports of its own accord in front of ReadyForQuery (changed settings) is the
/// application's; ReadyForQuery is the session's to say.
pub(super) const SYNC_SHOWN: Show = Show::ERRORS;
