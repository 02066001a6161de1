//! What statements that have completed leave behind in the session: settings, pins, names, the open block; and what the
//! application is told of its settings.
//!
//! Invariant: the session's settings are those that the server would have: what a failed or rolled back transaction set is gone.

use std::sync::Arc;

use router_config::topology::ShardId;

use super::failure::Failure;
use super::names::Cursor;
use super::session::{Held, Session};
use super::transaction::{Block, modes_sql, names_read_write};
use crate::backend::conn::set_parameter;
use crate::backend::gucs::{Gucs, literal, set_sql, value_sql};
use crate::route::values::{BindParams, ParamValue};
use crate::sql::facts::{Command, Facts, Isolation, PinCause};
use crate::sql::set_config::{Argument, WHERE_KNOWN, calls};
use crate::wire::backend::Status;
use crate::wire::reply;

/// A statement that was sent, and what it will do to the session when it has completed.
#[derive(Debug)]
pub struct Expected {
    /// Its place among the statements of the request.
    pub(super) ordinal: u32,
    pub(super) facts: Arc<Facts>,
    text: Arc<str>,
    /// The conn that runs it: shard, and whether it is a replica.
    conn: Option<(ShardId, bool)>,
    sets: Option<Arc<[Setting]>>,
}

/// What a call of set_config sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    name: String,
    /// As SET wants it; `None`: the default.
    value: Option<String>,
    /// For the transaction.
    local: bool,
}

impl Expected {
    /// Whether it changes settings.
    pub fn sets(&self) -> bool {
        self.sets.is_some() || sets_something(&self.facts.command)
    }
}

impl Session {
    /// Notes a statement whose completion is shown, and what it will do to the session then; `at`: the conn that alone runs it.
    pub fn expect(&mut self, facts: &Arc<Facts>, text: &[u8], at: Option<usize>) {
        let sets = self.followed(facts, text, None);
        self.expect_sets(facts, text, at, sets);
    }

    /// As [`Self::expect`]; `sets`: what its calls of set_config say.
    pub fn expect_sets(
        &mut self,
        facts: &Arc<Facts>,
        text: &[u8],
        at: Option<usize>,
        sets: Option<Arc<[Setting]>>,
    ) {
        if leaves_trace(facts) {
            let conn = at.and_then(|at| self.held.get(at)).map(|held| (held.shard, held.replica));
            let (facts, text) = (Arc::clone(facts), Arc::from(&*String::from_utf8_lossy(text)));
            self.pending.push(Expected { ordinal: self.sent, facts, text, conn, sets });
        }
        self.sent += 1;
    }

    /// The settings that a SELECT of set_config makes, where they are certain; `None` for any other statement.
    pub fn followed(
        &self,
        facts: &Facts,
        text: &[u8],
        params: Option<&BindParams<'_>>,
    ) -> Option<Arc<[Setting]>> {
        if facts.effects.pins != Some(PinCause::Config) || !matches!(facts.command, Command::Query) {
            return None;
        }
        let value = |argument: &Argument| match argument {
            Argument::Literal(value) => Some(value.clone()),
            Argument::Param(n) => match params?.get(*n)? {
                ParamValue::Null => Some(None),
                ParamValue::Text(bytes) => Some(Some(std::str::from_utf8(bytes).ok()?.to_owned())),
                // Text is the same in both formats; a boolean is one byte.
                ParamValue::Binary([flag @ (0 | 1)]) => Some(Some(flag.to_string())),
                ParamValue::Binary(bytes) => Some(Some(std::str::from_utf8(bytes).ok()?.to_owned())),
            },
        };
        let calls = calls(text, self.text_rules().standard_strings)?;
        calls
            .iter()
            .map(|[name, to, local]| {
                let (name, to) = (value(name)??.to_lowercase(), value(to)?);
                if name == WHERE_KNOWN && !self.restricts_relations() {
                    return None;
                }
                let local = match value(local)??.to_lowercase().as_str() {
                    "true" | "t" | "on" | "yes" | "1" => true,
                    "false" | "f" | "off" | "no" | "0" => false,
                    _ => return None,
                };
                // The server's own default is not the login's.
                let known = to.is_some() || self.startup_gucs.get(&name).is_none();
                known.then(|| Setting { value: to.map(|to| value_sql(&name, &to)), name, local })
            })
            .collect()
    }

    /// Whether the servers have the setting [`WHERE_KNOWN`]: it came with minor versions.
    fn restricts_relations(&self) -> bool {
        const SINCE: [(u32, u32); 5] = [(12, 20), (13, 16), (14, 13), (15, 8), (16, 4)];
        let version = self.reported.iter().find(|(name, _)| name == "server_version");
        let Some((_, version)) = version else { return false };
        let mut numbers =
            version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
        let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        SINCE.iter().find(|(of, _)| *of == major).map_or(major > 16, |(_, since)| minor >= *since)
    }

    /// In a transaction over several shards: what one of them has just been told to set, the others are told too.
    pub async fn set_elsewhere(
        &mut self,
        facts: &Facts,
        sets: Option<&Arc<[Setting]>>,
        text: &[u8],
        shard: ShardId,
    ) -> Result<(), Failure> {
        if !(sets.is_some() || sets_something(&facts.command)) {
            return Ok(());
        }
        let as_written = || String::from_utf8_lossy(text).trim().to_owned();
        let sql = sets.map_or_else(as_written, |sets| sets_sql(sets));
        self.tell_others(&sql, shard).await
    }

    /// The shards of the transaction other than this one run it too, hidden.
    pub(super) async fn tell_others(&mut self, sql: &str, shard: ShardId) -> Result<(), Failure> {
        let others = |held: &&Held| held.enlisted && held.shard != shard;
        let others: Vec<ShardId> = self.held.iter().filter(others).map(|held| held.shard).collect();
        if others.is_empty() {
            return Ok(());
        }
        self.leave_all().await?;
        if self.events.error.is_some() {
            return Ok(());
        }
        for shard in others {
            if let Some(at) = self.held.iter().position(|held| held.enlisted && held.shard == shard) {
                self.ask(at, sql).await?;
            }
        }
        Ok(())
    }

    /// Applies what the completed statements of the request do to the session.
    pub fn apply_completed(&mut self) {
        if self.pending.is_empty() && self.events.error.is_none() {
            (self.sent, self.events.completed) = (0, 0);
            self.events.rolled_back.clear();
            if self.block.is_none() {
                self.settle_gucs();
            }
            return;
        }
        let completed = std::mem::take(&mut self.events.completed);
        let rolled_back = std::mem::take(&mut self.events.rolled_back);
        self.sent = 0;
        // Outside of a block the statements up to a COMMIT or the end are one transaction.
        let mut begun = Arc::clone(&self.gucs);
        let outside = self.block.is_none();
        for expected in std::mem::take(&mut self.pending) {
            if expected.ordinal >= completed {
                // A lock outlives the transaction that failed.
                self.spoil(&expected);
                continue;
            }
            match &expected.facts.command {
                Command::Begin { .. } => self.begun(&expected.facts, &expected.text, &begun),
                Command::Commit { chain } | Command::Rollback { chain } => {
                    self.ended(*chain, rolled_back.contains(&expected.ordinal), &begun);
                    begun = Arc::clone(&self.gucs);
                }
                _ => self.apply(&expected),
            }
        }
        let failed = self.events.error.is_some();
        if outside && self.block.is_some() && self.held.iter().all(|held| !held.enlisted) {
            // The transaction has begun and ended in one text (PREPARE TRANSACTION, a COMMIT that failed).
            self.end_block(failed);
        } else if failed && self.block.is_none() {
            self.return_to(begun);
        }
        if self.block.is_none() {
            self.settle_gucs();
        }
    }

    /// No transaction is open: what was set on conns is what the session has.
    pub(super) fn settle_gucs(&mut self) {
        for held in self.held.iter_mut().filter(|held| held.gucs_moved) {
            held.gucs_moved = false;
            held.lease.applied = Some(Arc::clone(&self.gucs));
        }
    }

    /// BEGIN within a text or pipeline that was passed on: what came before it is part of the transaction.
    fn begun(&mut self, facts: &Facts, text: &str, begun: &Arc<Gucs>) {
        let Command::Begin { read_only, isolation } = facts.command else { return };
        if let Some(block) = &mut self.block {
            // A warning, but its modes count.
            if let Some(modes) = modes_sql(text) {
                block.note_local(&modes);
                block.read_only = read_only || (block.read_only && !names_read_write(&modes));
                block.isolation = isolation.or(block.isolation);
            }
        } else {
            let mut block = Block::new(text.trim_end_matches(';'), read_only, Arc::clone(begun));
            block.isolation = isolation;
            self.block = Some(Box::new(block));
            for held in &mut self.held {
                held.enlisted = held.lease.status != Status::Idle;
                held.gucs_moved |= held.enlisted;
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
        let (mut next, before, declared) = (block.next(), block.gucs_before(), block.declared().to_vec());
        self.end_cursors(&declared, rolled_back);
        self.return_to_hints(rolled_back);
        if rolled_back {
            self.return_to(before);
        }
        next.committed(Arc::clone(&self.gucs));
        self.block = Some(Box::new(next));
        self.end_listens(!rolled_back);
    }

    fn apply(&mut self, expected: &Expected) {
        let Expected { facts, text, conn, sets, .. } = expected;
        self.note_listen(&facts.command);
        if sets.is_none() && !self.acts_on(&facts.command) {
            self.spoil(expected);
        }
        if let Some(sets) = sets {
            for set in sets.iter() {
                self.note_local(&set_sql(&set.name, set.value.as_deref(), set.local));
                self.apply_set((&set.name, set.value.as_deref(), set.local), *conn);
            }
        } else if let Some(cause) = facts.pin().filter(|_| !self.acts_on(&facts.command)) {
            self.pin(cause, conn.map(|(shard, _)| shard));
            if cause == PinCause::SqlPrepare
                && let Some(name) = self.name_of_prepare(facts, text.as_bytes())
            {
                self.names.passed.push(name);
            }
        }
        if facts.effects.changes_catalog {
            let conforming = self.text_rules().standard_strings;
            self.changes.note_text(text.as_bytes(), conforming);
        }
        match &facts.command {
            Command::Set { local, name, value } => {
                self.note_local(text);
                self.apply_set((name, value.as_deref(), *local), *conn);
            }
            Command::SetTransaction { session: false, isolation, .. } => {
                self.note_local(text);
                if let (Some(block), Some(isolation)) = (&mut self.block, isolation) {
                    block.isolation = Some(*isolation);
                }
            }
            Command::SetTransaction { read_only, isolation, session: true } => {
                self.note_local(text);
                if let Some(read_only) = read_only {
                    let value = if *read_only { "on" } else { "off" };
                    self.set("default_transaction_read_only", Some(value), *conn);
                }
                if let Some(isolation) = isolation {
                    self.set("default_transaction_isolation", Some(isolation_sql(*isolation)), *conn);
                }
            }
            Command::Reset(name) => {
                self.note_local(text);
                self.reset(name.as_deref(), *conn);
            }
            Command::Savepoint(_) | Command::RollbackTo(_) | Command::Release(_) => {
                self.note_savepoint(facts)
            }
            Command::Declare { name, hold } => {
                if let Some((shard, _)) = conn {
                    self.note_declared(name, Cursor::One { shard: *shard, hold: *hold });
                }
            }
            Command::CloseCursor(name) => self.close_cursors(name.as_deref()),
            Command::Deallocate(Some(name)) => self.names.passed.retain(|passed| passed != name),
            Command::Deallocate(None) => {
                self.names.statements.clear();
                self.names.passed.clear();
                for held in &mut self.held {
                    held.lease.prepared.clear();
                }
            }
            _ => {}
        }
    }

    /// DECLARE has run.
    pub fn note_declared(&mut self, name: &str, cursor: Cursor) {
        self.names.cursors.insert(name.to_owned(), cursor);
        if let Some(block) = &mut self.block {
            block.declare(name);
        }
    }

    /// CLOSE has run.
    pub fn close_cursors(&mut self, name: Option<&str>) {
        self.names.close(name);
        self.pins.keep_cursors(&self.names);
    }

    fn apply_set(&mut self, (name, value, local): (&str, Option<&str>, bool), conn: Option<(ShardId, bool)>) {
        match &mut self.block {
            Some(block) if local => block.set_local(name, value, &self.gucs),
            _ if local => {}
            _ => self.set_as_written(name, value, conn),
        }
    }

    /// What a statement may have left on conns does not reach another session.
    fn spoil(&mut self, expected: &Expected) {
        if expected.facts.pin().is_some() || expected.facts.effects.spoils {
            let ran = |held: &&mut Held| expected.conn.is_none_or(|(shard, _)| held.shard == shard);
            self.held.iter_mut().filter(ran).for_each(|held| held.lease.spoiled = true);
        }
    }

    fn pin(&mut self, cause: PinCause, shard: Option<ShardId>) {
        let shard = shard.or(self.held.first().map(|held| held.shard)).unwrap_or(ShardId(0));
        self.pins.add(cause, shard);
        if cause == PinCause::Temporary {
            self.temp_tables = true;
            self.context = None;
        }
    }

    /// A shard that joins the block later runs it too, in its place among the savepoints.
    pub(super) fn note_local(&mut self, text: &str) {
        if let Some(block) = &mut self.block {
            block.note_local(text.trim_end_matches(';'));
        }
    }

    /// SET: what other conns are to run for it.
    fn set_as_written(&mut self, name: &str, value: Option<&str>, conn: Option<(ShardId, bool)>) {
        // Half of a DateStyle (`SET datestyle TO 'SQL'`) leaves the other half as it was: the server knows the whole.
        if name == "datestyle"
            && value.is_some()
            && let Some(whole) = self.parameter("DateStyle").map(literal)
        {
            return self.set(name, Some(&whole), conn);
        }
        self.set(name, value, conn);
    }

    /// The value of a setting that servers report.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let news = self.events.parameters.iter().rev();
        let found = news.chain(self.reported.iter()).find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A setting of the session has changed on this conn. The others of the block have been told; those that are idle are told when
    /// they are used.
    fn set(&mut self, name: &str, value: Option<&str>, conn: Option<(ShardId, bool)>) {
        self.return_to(self.gucs.with(name, value));
        if let Some(block) = &mut self.block {
            block.set(name, value);
        }
        for held in &mut self.held {
            held.gucs_moved |= conn == Some((held.shard, held.replica));
        }
    }

    /// RESET has run on this conn, followed by what the login had asked for.
    pub(super) fn reset(&mut self, name: Option<&str>, conn: Option<(ShardId, bool)>) {
        match name {
            Some(name) => {
                let value = self.startup_gucs.get(name).map(str::to_owned);
                self.set(name, value.as_deref(), conn);
            }
            None => {
                let keep = |name: &str| self.gucs.get(name).map(str::to_owned);
                let (role, authorization) = (keep("role"), keep("session_authorization"));
                self.gucs = self.startup_gucs.with("session_authorization", authorization.as_deref());
                self.set("role", role.as_deref(), conn);
            }
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
        self.events.clear();
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

/// Whether a command changes settings, for the session or the transaction.
pub fn sets_something(command: &Command) -> bool {
    matches!(command, Command::Set { .. } | Command::SetTransaction { .. } | Command::Reset(_))
}

fn sets_sql(sets: &[Setting]) -> String {
    let each = sets.iter().map(|set| set_sql(&set.name, set.value.as_deref(), set.local));
    each.collect::<Vec<_>>().join(";")
}

fn leaves_trace(facts: &Facts) -> bool {
    facts.pin().is_some()
        || facts.effects.spoils
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
                | Command::Deallocate(_)
                | Command::Declare { .. }
                | Command::CloseCursor(_)
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
