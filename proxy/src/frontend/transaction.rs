//! A session's transaction block: lazily begun on the shards that it touches, the same on all of them.
//!
//! BEGIN is answered by the proxy and travels with the first statement of each shard; so do the savepoints and the settings
//! made LOCAL since.

use std::sync::Arc;

use super::hints::Hints;
use crate::backend::gucs::Gucs;
use crate::sql::facts::Isolation;
use crate::sql::spelling::quote_ident;
use crate::sql::tokens::Tokens;

/// An open transaction block.
#[derive(Debug)]
pub struct Block {
    /// The application's BEGIN, as written.
    pub begin: String,
    /// What a shard that joins later must run after BEGIN: SET TRANSACTION, SAVEPOINT, SET LOCAL, in order.
    replay: Vec<String>,
    savepoints: Vec<Savepoint>,
    /// Cursors declared in it, in order: they go with what is undone.
    declared: Vec<String>,
    /// The session's settings when it began: what a rollback returns to.
    gucs: Arc<Gucs>,
    /// The session's settings with those made LOCAL, if there are such.
    local: Option<Arc<Gucs>>,
    /// Opened by the proxy around a statement or pipeline that turned out to need several shards.
    pub implicit: bool,
    /// READ ONLY was asked for.
    pub read_only: bool,
    /// Hints to return to, where it has set some: when it is rolled back, and when it is committed.
    pub hints: Option<Box<[Hints; 2]>>,
    /// The level named in BEGIN or SET TRANSACTION.
    pub isolation: Option<Isolation>,
    /// Statements were run that the proxy has not looked into (a text of several statements with transaction control): no
    /// further shard may join.
    pub opaque: bool,
    /// A shard has executed something of it, be it without tables.
    pub ran: bool,
    /// It has begun on every shard, and their snapshots are of one moment.
    pub whole: bool,
    /// The statement under way takes no snapshot.
    pub locks_only: bool,
    /// A statement was refused or a shard was lost: only ROLLBACK is left.
    pub doomed: bool,
    /// A shard was lost: savepoints are of no use any more.
    pub lost: bool,
}

#[derive(Debug)]
struct Savepoint {
    name: String,
    replay: usize,
    gucs: Arc<Gucs>,
    /// Changes to what the session listens on before it.
    listens: usize,
    /// Cursors declared before it.
    declared: usize,
    local: Option<Arc<Gucs>>,
}

/// What ROLLBACK TO returns to.
#[derive(Debug)]
pub struct Undone {
    /// The session's settings.
    pub gucs: Arc<Gucs>,
    /// The number of changes to what the session listens on.
    pub listens: usize,
    /// Names of cursors that are no more.
    pub cursors: Vec<String>,
}

impl Block {
    /// A block begun by `begin`, with the session's settings as of now.
    pub fn new(begin: impl Into<String>, read_only: bool, gucs: Arc<Gucs>) -> Self {
        Self {
            begin: begin.into(),
            replay: Vec::new(),
            savepoints: Vec::new(),
            declared: Vec::new(),
            gucs,
            local: None,
            implicit: false,
            read_only,
            hints: None,
            isolation: None,
            opaque: false,
            ran: false,
            whole: false,
            locks_only: false,
            doomed: false,
            lost: false,
        }
    }

    /// Whether nothing is known of it but how it begins and what is set in it: it can begin on the shards once more.
    pub fn is_fresh(&self) -> bool {
        let bound = !self.savepoints.is_empty() || !self.declared.is_empty();
        !(bound || self.ran || self.opaque || self.whole || self.doomed || self.lost)
    }

    /// Everything that a shard runs when it joins, as one text.
    pub fn join_sql(&self) -> String {
        let mut sql = self.begin.clone();
        for statement in &self.replay {
            // A comment at the end of the application's statement ends with its line.
            sql.push_str(if sql.contains("--") { "\n;" } else { ";" });
            sql.push_str(statement);
        }
        sql
    }

    /// The block that AND CHAIN opens: of the same kind.
    pub fn next(&self) -> Self {
        let gucs = Arc::clone(&self.gucs);
        let mut next = Self::new(self.begin.clone(), self.read_only, gucs);
        (next.isolation, next.opaque) = (self.isolation, self.opaque);
        for statement in &self.replay {
            let tokens = Tokens::new(statement.as_bytes(), true);
            let of_kind = |at| tokens.raw(at).to_ascii_lowercase().starts_with(b"transaction");
            if tokens.is(0, "set") && (of_kind(1) || of_kind(2)) {
                // It says more of the kind than BEGIN did.
                let words = (0..tokens.len()).map(|at| String::from_utf8_lossy(tokens.raw(at)));
                next.begin.push(';');
                next.begin.push_str(&words.collect::<Vec<_>>().join(" "));
            }
        }
        next
    }

    /// Settings to return to when the transaction is rolled back.
    pub fn gucs_before(&self) -> Arc<Gucs> {
        Arc::clone(self.gucs_at_begin())
    }

    /// The same, to look at.
    pub fn gucs_at_begin(&self) -> &Arc<Gucs> {
        &self.gucs
    }

    /// COMMIT AND CHAIN: another transaction with the same BEGIN, its settings as of now.
    pub fn committed(&mut self, gucs: Arc<Gucs>) {
        self.whole = false;
        self.replay.clear();
        self.savepoints.clear();
        self.declared.clear();
        self.local = None;
        self.gucs = gucs;
    }

    /// Settings in force where they are not the session's.
    pub fn local(&self) -> Option<&Arc<Gucs>> {
        self.local.as_ref()
    }

    /// SET LOCAL, of a session whose settings are `gucs`.
    pub fn set_local(&mut self, name: &str, value: Option<&str>, gucs: &Arc<Gucs>) {
        self.local = Some(self.local.as_ref().unwrap_or(gucs).with(name, value));
    }

    /// SET: takes the place of a LOCAL one.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        self.local = self.local.take().map(|local| local.with(name, value));
    }

    /// SET TRANSACTION or SET LOCAL that succeeded.
    pub fn note_local(&mut self, statement: &str) {
        self.replay.push(statement.to_owned());
    }

    /// SAVEPOINT.
    pub fn savepoint(&mut self, name: &str, gucs: Arc<Gucs>, listens: usize) {
        self.replay.push(format!("SAVEPOINT {}", quote_ident(name)));
        let (local, replay) = (self.local.clone(), self.replay.len());
        let declared = self.declared.len();
        self.savepoints.push(Savepoint { name: name.to_owned(), replay, gucs, local, listens, declared });
    }

    /// DECLARE.
    pub fn declare(&mut self, cursor: &str) {
        let before = self.savepoints.last().map_or(0, |savepoint| savepoint.declared);
        // As a rule one name is used again and again.
        if self.declared[before..].last().is_none_or(|last| last != cursor) {
            self.declared.push(cursor.to_owned());
        }
    }

    /// The cursors declared in it.
    pub fn declared(&self) -> &[String] {
        &self.declared
    }

    /// ROLLBACK TO; `None` if there is no such savepoint.
    pub fn rollback_to(&mut self, name: &str) -> Option<Undone> {
        let at = self.savepoints.iter().rposition(|savepoint| savepoint.name == name)?;
        self.savepoints.truncate(at + 1);
        let savepoint = &self.savepoints[at];
        self.replay.truncate(savepoint.replay);
        self.local.clone_from(&savepoint.local);
        let cursors = self.declared.split_off(savepoint.declared);
        Some(Undone { gucs: Arc::clone(&savepoint.gucs), listens: savepoint.listens, cursors })
    }

    /// RELEASE; whether there is such a savepoint.
    pub fn release(&mut self, name: &str) -> bool {
        let Some(at) = self.savepoints.iter().rposition(|savepoint| savepoint.name == name) else {
            return false;
        };
        for gone in self.savepoints.drain(at..).rev() {
            self.replay.remove(gone.replay - 1);
        }
        true
    }

    /// Whether a savepoint of this name exists.
    pub fn has_savepoint(&self, name: &str) -> bool {
        self.savepoints.iter().any(|savepoint| savepoint.name == name)
    }
}

/// The modes of a BEGIN or START TRANSACTION as SET TRANSACTION; `None` without modes.
pub fn modes_sql(begin: &str) -> Option<String> {
    let tokens = Tokens::new(begin.as_bytes(), true);
    let first = 1 + usize::from(tokens.is_any(1, &["transaction", "work"]));
    let words: Vec<_> = (first..tokens.len()).map(|at| String::from_utf8_lossy(tokens.raw(at))).collect();
    (!words.is_empty()).then(|| format!("SET TRANSACTION {}", words.join(" ")))
}

/// Whether a text that begins a transaction is START TRANSACTION.
pub fn is_start(begin: &str) -> bool {
    let text = begin.trim_start();
    let begins = |word: &str| text.get(..5).is_some_and(|five| five.eq_ignore_ascii_case(word));
    // Comments may come first.
    begins("start") || (!begins("begin") && Tokens::new(text.as_bytes(), true).is(0, "start"))
}

/// Whether READ WRITE is among the modes.
pub fn names_read_write(modes: &str) -> bool {
    let words: Vec<String> = modes.to_ascii_lowercase().split_whitespace().map(str::to_owned).collect();
    words.windows(2).any(|pair| pair[0] == "read" && pair[1].trim_end_matches(',') == "write")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        Block::new("BEGIN", false, Gucs::none())
    }

    #[test]
    fn a_late_shard_gets_what_is_still_in_force() {
        let mut block = block();
        block.savepoint("a", Gucs::none(), 0);
        block.note_local("SET LOCAL x TO 1");
        block.savepoint("b", Gucs::none(), 0);
        assert_eq!(block.join_sql(), "BEGIN;SAVEPOINT \"a\";SET LOCAL x TO 1;SAVEPOINT \"b\"");
        assert!(block.release("b"));
        assert_eq!(block.join_sql(), "BEGIN;SAVEPOINT \"a\";SET LOCAL x TO 1");
        assert!(block.rollback_to("a").is_some());
        assert_eq!(block.join_sql(), "BEGIN;SAVEPOINT \"a\"");
        assert!(block.rollback_to("b").is_none());
    }

    #[test]
    fn and_chain_keeps_the_kind_of_the_transaction() {
        let mut block = Block::new("BEGIN READ ONLY", true, Gucs::none());
        block.note_local("SET LOCAL x TO 1");
        block.note_local("set transaction deferrable -- so");
        block.savepoint("a", Gucs::none(), 0);
        let mut next = block.next();
        next.committed(Gucs::none());
        assert_eq!(next.join_sql(), "BEGIN READ ONLY;set transaction deferrable");
        assert!(next.read_only && !next.has_savepoint("a"));
    }

    #[test]
    fn modes_of_a_second_begin_are_those_of_set_transaction() {
        let read_only = Some("SET TRANSACTION READ ONLY".to_owned());
        assert_eq!(modes_sql("BEGIN READ ONLY;"), read_only);
        assert_eq!(modes_sql("start Transaction READ ONLY"), read_only);
        assert_eq!(modes_sql("/* a */ begin READ /* b */ ONLY -- c"), read_only);
        assert!(is_start("/* a */ start transaction") && is_start("START transaction") && !is_start("begin"));
        assert_eq!(modes_sql("begin work"), None);
        assert_eq!(modes_sql("BEGIN"), None);
        assert!(names_read_write("SET TRANSACTION isolation level serializable, Read  Write, deferrable"));
        assert!(!names_read_write("SET TRANSACTION READ ONLY"));
    }

    #[test]
    fn releasing_an_outer_savepoint_releases_the_inner_ones() {
        let mut block = block();
        block.savepoint("a", Gucs::none(), 0);
        block.savepoint("b", Gucs::none(), 0);
        block.note_local("SET LOCAL x TO 1");
        assert!(block.release("a"));
        assert_eq!(block.join_sql(), "BEGIN;SET LOCAL x TO 1");
        assert!(!block.has_savepoint("b"));
    }
}
