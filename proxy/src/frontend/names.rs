//! The statements and portals that an application has named, and what it called them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use foldhash::fast::RandomState;
use router_config::topology::ShardId;

use crate::backend::gucs::Gucs;
use crate::backend::prepared::SharedStatement;
use crate::exec::walk::Walk;
use crate::route::plan::Plan;
use crate::sql::cache::Analysed;
use crate::sql::facts::{Command, Facts};
use crate::sql::lexer::Lexer;

/// A parsed statement of a session.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Its shared identity.
    pub shared: Arc<SharedStatement>,
    /// Its facts.
    pub analysed: Analysed,
    /// What its text was read against.
    pub reading: u32,
    /// Settings at Parse: literals keep the meaning that they had then.
    pub gucs: Arc<Gucs>,
    /// Parameter type OIDs of Parse.
    pub types: Box<[u32]>,
    /// The application gave it a name: it must outlive this request on whatever conn is used next.
    pub named: bool,
    /// The application has used it, or asked what it is.
    pub told: Told,
}

/// Whether an application knows, or may believe to know, what a statement takes and returns. Until then it takes what comes.
#[derive(Debug, Default)]
pub struct Told(AtomicBool);

impl Told {
    /// Whether it does.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// From now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Clone for Told {
    fn clone(&self) -> Self {
        Self(AtomicBool::new(self.get()))
    }
}

impl Prepared {
    /// Types of its parameters as far as they are known.
    pub fn types(&self) -> &[u32] {
        self.shared.asked.get().and_then(Option::as_ref).unwrap_or(&self.types)
    }

    /// Types of its parameters for another Parse of it: those that it has had from the first one on.
    pub fn type_bytes(&self) -> Bytes {
        match self.shared.origin.get() {
            None => self.shared.types.clone(),
            Some(shape) => shape.params.iter().flat_map(|oid| oid.to_be_bytes()).collect(),
        }
    }

    /// Whether it takes the rows of COPY FROM STDIN.
    pub fn takes_copy(&self) -> bool {
        self.facts().is_some_and(|facts| matches!(facts.command, Command::CopyIn(_)))
    }

    /// Whether PostgreSQL plans it, and looks at it again after DDL; what other commands return is decided when they run.
    pub fn is_planned(&self) -> bool {
        const PLANNED: [&str; 8] =
            ["select", "with", "values", "table", "insert", "update", "delete", "merge"];
        match self.facts().map(|facts| &facts.command) {
            Some(Command::Query | Command::Modify(_)) => true,
            Some(Command::Unreadable { .. }) => {
                let text = &self.shared.text;
                let mut words = Lexer::new(text, true).skip_while(|token| text[token.start] == b'(');
                let first = words.next().map(|token| &text[token.start..token.end]);
                first.is_some_and(|word| PLANNED.iter().any(|p| word.eq_ignore_ascii_case(p.as_bytes())))
            }
            _ => false,
        }
    }

    /// Whether it has rows that are the same kind of rows for as long as it lives.
    pub fn has_rows(&self) -> bool {
        let silent = |facts: &Facts| matches!(facts.command, Command::Modify(_)) && !facts.returns_rows;
        self.is_planned() && !self.facts().is_some_and(|facts| silent(facts))
    }

    /// Whether what another Parse of it comes to must be held against what the application knows.
    pub fn must_stay(&self) -> bool {
        self.told.get() && self.shared.origin.get().is_some() && self.has_rows()
    }
}

/// A bound statement.
#[derive(Debug, Clone)]
pub struct Portal {
    /// What it runs.
    pub statement: Arc<Prepared>,
    /// Where.
    pub place: Place,
    /// What its calls of set_config set.
    pub sets: Option<Arc<[super::effects::Setting]>>,
    /// It was executed, not by a conn that would know.
    pub ran: bool,
}

impl Portal {
    /// One that nothing has run yet, and that sets nothing.
    pub fn new(statement: Arc<Prepared>, place: Place) -> Self {
        Self { statement, place, sets: None, ran: false }
    }
}

/// Where a portal runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// Bound on the conn of this shard.
    Shard(ShardId),
    /// The proxy executes it: transaction control, EXECUTE, EXPLAIN (GAVEL) and the like.
    Control {
        /// Bind's body after the names.
        bind: Bytes,
    },
    /// On several shards, or with a text of the proxy's own: bound when it is executed.
    Spread {
        /// The plan.
        plan: Box<Plan>,
        /// Bind's body after the names.
        bind: Bytes,
    },
    /// On several shards, one after the other, so many rows at a time.
    Walk {
        /// Where it stands.
        walk: Walk,
        /// Number of its name on the conns.
        id: u64,
        /// Bind's body after the names.
        bind: Bytes,
    },
    /// On a conn of its own, where rows were gathered; so many rows at a time.
    Combined {
        /// Bind's body after the names.
        bind: Bytes,
    },
}

/// A cursor of DECLARE.
#[derive(Debug, Clone)]
pub enum Cursor {
    /// On one shard.
    One {
        /// Which.
        shard: ShardId,
        /// It outlives the transaction.
        hold: bool,
    },
    /// Over several shards, gone at the end of the transaction.
    Several(Walk),
    /// On a conn of its own, where rows were gathered.
    Combined {
        /// It outlives the transaction.
        hold: bool,
    },
}

impl Names {
    /// Whether a shard's conn has a cursor that outlives the transaction.
    pub fn holds_cursor(&self, on: ShardId) -> bool {
        self.cursors
            .values()
            .any(|cursor| matches!(cursor, Cursor::One { shard, hold: true } if *shard == on))
    }
}

/// All names of a session.
#[derive(Debug, Default)]
pub struct Names {
    /// Statements; the unnamed one has the empty name.
    pub statements: HashMap<Bytes, Arc<Prepared>, RandomState>,
    /// Names of PREPARE in SQL that a server has: the session is bound to its conn.
    pub passed: Vec<String>,
    /// Portals, gone at the end of the transaction.
    pub portals: HashMap<Bytes, Portal, RandomState>,
    /// Cursors of DECLARE.
    pub cursors: HashMap<String, Cursor, RandomState>,
    /// Portals of kind [`Place::Walk`] so far.
    pub walks: u64,
}

impl Names {
    /// Whether a cursor or a portal has the name: they are the same to PostgreSQL. What has no name is replaced.
    pub fn has_cursor(&self, name: &[u8]) -> bool {
        let cursor = || std::str::from_utf8(name).is_ok_and(|name| self.cursors.contains_key(name));
        !name.is_empty() && (self.portals.contains_key(name) || cursor())
    }

    /// CLOSE has run, of a cursor or a portal; `None`: of all, but for the one that runs it as a rule.
    pub fn close(&mut self, name: Option<&str>) {
        match name {
            Some(name) => {
                self.cursors.remove(name);
                self.portals.remove(name.as_bytes());
            }
            None => {
                self.cursors.clear();
                self.portals.retain(|name, _| name.is_empty());
            }
        }
    }

    /// ROLLBACK TO SAVEPOINT has undone those that were made since.
    pub fn undo(&mut self, made: &[String]) {
        made.iter().for_each(|name| self.close(Some(name)));
    }

    /// Whether there is a statement of this name, here or on the conn that the session is bound to.
    pub fn has_statement(&self, name: &[u8]) -> bool {
        self.statements.contains_key(name) || self.passed.iter().any(|passed| passed.as_bytes() == name)
    }

    /// A simple query takes the place of what has no name.
    pub fn forget_unnamed(&mut self) {
        if !self.statements.is_empty() {
            self.statements.remove(&b""[..]);
        }
        if !self.portals.is_empty() {
            self.portals.remove(&b""[..]);
        }
    }
}
