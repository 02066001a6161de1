//! What statements that have completed leave behind in the session: settings, pins, names, the open block; and what the
//! application is told of its settings.
//!
//! Invariant: the session's settings are those that the server would have: what a failed or rolled back transaction set is gone.

use std::sync::Arc;

use router_config::topology::ShardId;

use super::session::Session;
use super::transaction::Block;
use crate::backend::conn::{Events, set_parameter};
use crate::backend::gucs::{Gucs, literal};
use crate::sql::facts::{Command, Facts, Isolation, PinCause};
use crate::wire::backend::Status;
use crate::wire::reply;

impl Session {
    /// Notes a statement whose completion is shown, and what it will do to the session then.
    pub fn expect(&mut self, facts: &Arc<Facts>, text: &str) {
        if leaves_trace(facts) {
            self.pending.push((self.sent, Arc::clone(facts), Arc::from(text)));
        }
        self.sent += 1;
    }

    /// Applies what the completed statements of the request do to the session.
    pub fn apply_completed(&mut self) {
        let completed = std::mem::take(&mut self.events.completed);
        let rolled_back = std::mem::take(&mut self.events.rolled_back);
        self.sent = 0;
        // Outside of a block the statements up to a COMMIT or the end are one transaction.
        let mut begun = Arc::clone(&self.gucs);
        let outside = self.block.is_none();
        for (ordinal, facts, text) in std::mem::take(&mut self.pending) {
            if ordinal >= completed {
                continue;
            }
            match &facts.command {
                Command::Begin { .. } => self.begun(&facts, &text, &begun),
                Command::Commit { chain } | Command::Rollback { chain } => {
                    self.ended(*chain, rolled_back.contains(&ordinal), &begun);
                    begun = Arc::clone(&self.gucs);
                }
                _ => self.apply(&facts, &text),
            }
        }
        let failed = self.events.error.is_some();
        if outside && self.block.is_some() && self.held.iter().all(|held| !held.enlisted) {
            // The transaction has begun and ended in one text (PREPARE TRANSACTION, a COMMIT that failed).
            self.end_block(failed);
        } else if failed && self.block.is_none() {
            self.return_to(begun);
        }
    }

    /// BEGIN within a text or pipeline that was passed on: what came before it is part of the transaction.
    fn begun(&mut self, facts: &Facts, text: &str, begun: &Arc<Gucs>) {
        let Command::Begin { read_only, isolation } = facts.command else { return };
        if self.block.is_none() {
            let mut block = Block::new(text.trim_end_matches(';'), read_only, Arc::clone(begun));
            block.isolation = isolation;
            self.block = Some(Box::new(block));
            for held in &mut self.held {
                held.enlisted = held.lease.status != Status::Idle;
            }
        }
    }

    /// COMMIT or ROLLBACK has run; with `rolled_back` nothing was committed.
    fn ended(&mut self, chain: bool, rolled_back: bool, begun: &Arc<Gucs>) {
        let Some(block) = &mut self.block else {
            if rolled_back {
                self.return_to(Arc::clone(begun));
            }
            self.end_listens(!rolled_back);
            return;
        };
        if !chain {
            return self.end_block(rolled_back);
        }
        if rolled_back {
            let before = block.gucs_before();
            self.return_to(before);
        } else {
            block.committed(Arc::clone(&self.gucs));
        }
        self.end_listens(!rolled_back);
    }

    fn apply(&mut self, facts: &Facts, text: &str) {
        self.note_listen(&facts.command);
        if let Some(cause) = pin_of(facts).filter(|_| !self.acts_on(&facts.command)) {
            let shard = self.held.first().map_or(ShardId(0), |held| held.shard);
            self.pinned = Some((cause, shard));
            if cause == PinCause::Temporary {
                self.temp_tables = true;
                self.context = None;
            }
            for held in &mut self.held {
                held.lease.spoiled = true;
            }
        }
        if facts.effects.changes_catalog {
            self.changes.note();
        }
        match &facts.command {
            Command::Set { local: true, name, value } => {
                self.note_local(text);
                if let Some(block) = &mut self.block {
                    block.set_local(name, value.as_deref(), &self.gucs);
                }
            }
            Command::Set { name, value, .. } => self.set_as_written(name, value.as_deref()),
            Command::SetTransaction { session: false, isolation, .. } => {
                self.note_local(text);
                if let (Some(block), Some(isolation)) = (&mut self.block, isolation) {
                    block.isolation = Some(*isolation);
                }
            }
            Command::SetTransaction { read_only, isolation, session: true } => {
                if let Some(read_only) = read_only {
                    self.set("default_transaction_read_only", Some(if *read_only { "on" } else { "off" }));
                }
                if let Some(isolation) = isolation {
                    self.set("default_transaction_isolation", Some(isolation_sql(*isolation)));
                }
            }
            Command::Reset(name) => self.reset(name.as_deref()),
            Command::Savepoint(_) | Command::RollbackTo(_) | Command::Release(_) => {
                self.note_savepoint(facts)
            }
            Command::Deallocate(None) => {
                self.names.statements.clear();
                for held in &mut self.held {
                    held.lease.prepared.clear();
                }
            }
            _ => {}
        }
    }

    fn note_local(&mut self, text: &str) {
        if let Some(block) = &mut self.block {
            block.note_local(text.trim_end_matches(';'));
        }
    }

    /// SET: what other conns are to run for it.
    fn set_as_written(&mut self, name: &str, value: Option<&str>) {
        // Half of a DateStyle (`SET datestyle TO 'SQL'`) leaves the other half as it was: the server knows the whole.
        if name == "datestyle"
            && value.is_some()
            && let Some(whole) = self.parameter("DateStyle").map(literal)
        {
            return self.set(name, Some(&whole));
        }
        self.set(name, value);
    }

    /// The value of a setting that servers report.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let news = self.events.parameters.iter().rev();
        let found = news.chain(self.reported.iter()).find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A setting of the session has changed on the conns that are held.
    fn set(&mut self, name: &str, value: Option<&str>) {
        self.return_to(self.gucs.with(name, value));
        if let Some(block) = &mut self.block {
            block.set(name, value);
        }
        for held in &mut self.held {
            if held.lease.status == Status::Idle {
                held.lease.applied = Some(Arc::clone(&self.gucs));
            } else {
                held.gucs_moved = true;
            }
        }
    }

    /// RESET has run on the conns that are held.
    pub(super) fn reset(&mut self, name: Option<&str>) {
        match name {
            Some(name) => {
                let value = self.startup_gucs.get(name).map(str::to_owned);
                self.set(name, value.as_deref());
            }
            None => {
                let keep = |name: &str| self.gucs.get(name).map(str::to_owned);
                let (role, authorization) = (keep("role"), keep("session_authorization"));
                self.gucs = self.startup_gucs.with("session_authorization", authorization.as_deref());
                self.set("role", role.as_deref());
            }
        }
        // The server went back to its own default, which the session's login may have overridden.
        for held in &mut self.held {
            held.lease.applied = None;
        }
    }

    /// Settings in force from here on.
    pub fn return_to(&mut self, gucs: Arc<Gucs>) {
        let on = |value: &str| {
            matches!(value.trim_matches('\'').to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
        };
        self.read_only = gucs.get("default_transaction_read_only").is_some_and(on);
        self.gucs = gucs;
        self.context = None;
    }

    /// Makes place for the next request's events. What the application has not been told yet of its settings is kept.
    pub fn next_events(&mut self) {
        let parameters = std::mem::take(&mut self.events.parameters);
        self.events = Events { parameters, ..Events::default() };
    }

    /// ReadyForQuery, and in front of it the settings that have changed, in the server's order.
    pub fn ready(&mut self) {
        let mut news = std::mem::take(&mut self.events.parameters);
        if !news.is_empty() {
            news.reverse();
            // Stable: the latest value of each comes first and the others go.
            news.sort_by_cached_key(|(name, _)| name.to_ascii_lowercase());
            news.dedup_by(|later, first| later.0 == first.0);
            let reported = Arc::make_mut(&mut self.reported);
            for (name, value) in news {
                if set_parameter(reported, &name, &value) {
                    reply::parameter_status(&mut self.io.out, &name, &value);
                }
            }
        }
        let status = self.status();
        reply::ready(&mut self.io.out, status);
    }
}

/// Why a statement binds the session to its conn, if it does. An UPDATE of pg_settings is a SET that the proxy cannot follow.
pub fn pin_of(facts: &Facts) -> Option<PinCause> {
    facts.effects.pins.or_else(|| {
        let sets = matches!(facts.command, Command::Modify(_))
            && facts.tables.iter().any(|table| table.ends_with("pg_settings"));
        sets.then_some(PinCause::Settings)
    })
}

fn leaves_trace(facts: &Facts) -> bool {
    pin_of(facts).is_some()
        || facts.effects.changes_catalog
        || matches!(
            facts.command,
            Command::Begin { .. }
                | Command::Set { .. }
                | Command::SetTransaction { .. }
                | Command::Reset(_)
                | Command::Savepoint(_)
                | Command::RollbackTo(_)
                | Command::Release(_)
                | Command::Commit { .. }
                | Command::Rollback { .. }
                | Command::Deallocate(None)
                | Command::Listen(_)
                | Command::Unlisten(_)
        )
}

fn isolation_sql(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "'read committed'",
        Isolation::RepeatableRead => "'repeatable read'",
        Isolation::Serializable => "'serializable'",
    }
}
