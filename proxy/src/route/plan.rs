//! The planner's answer.

use std::sync::Arc;

use router_config::key::KeyValue;
use router_config::topology::{ShardId, Slot};
use smallvec::SmallVec;

use super::combine::Combine;
use super::origins::Origins;
use crate::sql::broadcast::Broadcast;
use crate::sql::fill::Fill;
use crate::sql::gather_shape::Order;
use crate::sql::insert_rows::InsertRows;
use crate::sql::merge_rows::MergeRows;
use crate::sql::with_writes::WithWrites;

/// Shards, ascending, without repeats.
pub type ShardSet = SmallVec<[ShardId; 8]>;

/// What to do with a statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Which shards, and how.
    pub target: Target,
    /// A replica may answer (the pool decides which, if any is fit).
    pub replica: bool,
    /// Why, for EXPLAIN (GAVEL), logs and metrics.
    pub reason: Reason,
}

/// Which shards run what.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The statement as it is, on this shard.
    One(ShardId),
    /// The statement as it is, on any shard: an enlisted one if there is one, else spread.
    Any,
    /// The statement as it is on each of these; rows are concatenated, command tags added up. Reads only.
    Concat(ShardSet),
    /// One statement on each of these; their rows are merged. Reads only.
    Gather(ShardSet, Arc<Gather>),
    /// One shard after the other, until there are so many rows.
    Limited(Box<Limited>),
    /// EXPLAIN of what several shards run: the statement that is explained begins at this byte; whether it is run.
    Explain(usize, bool),
    /// The statement as it is on each of these, one after the other in one transaction (two-phase when more than one has written); rows
    /// are concatenated, command tags added up.
    Each(ShardSet),
    /// No shard can hold a matching row: the statement runs on this shard all the same, for its row description and tag.
    Nowhere(ShardId),
    /// The statement on every shard in one transaction (two-phase); the home shard's answer is the client's.
    Everywhere,
    /// As `Everywhere`, but another text, with the same parameters.
    EverywhereAs(String),
    /// The statement shard by shard outside of a transaction; the home shard's answer is the client's.
    EachAlone,
    /// A statement of its own for each shard, in one transaction (two-phase when more than one).
    Split(Vec<Part>),
    /// The query of INSERT … SELECT is run by itself, then its rows are inserted as VALUES.
    InsertRows(Box<InsertRows>),
    /// UPDATE of the shard key: the statement where the rows are, then they move.
    Move(Box<Move>),
    /// The parts of WITH that write are run as statements of their own, and what they return takes their place.
    WithWrites(Box<WithWrites>),
    /// The source of a MERGE is run by itself, then there is one MERGE for each key of its rows.
    MergeRows(Box<MergeRows>),
    /// Tables that the statement reads are read first, and put into it as values.
    Broadcast(Box<Broadcast>),
    /// The query of a new temporary table is run by itself, then its rows fill the table.
    Fill(Box<Fill>),
    /// Values must be drawn first: run the query on the home shard's primary, then plan again with the values.
    Draw(Draw),
    /// COPY FROM STDIN split by key over all shards, in one transaction.
    CopySplit,
    /// COPY FROM STDIN of a reference table: all of the data to every shard, in one transaction; the home shard's
    /// answer is the client's.
    CopyEverywhere,
    /// The rows that the query needs are gathered in one place, where PostgreSQL computes the rest.
    Combine(Box<Combine>),
}

/// A query with LIMIT that locks its rows, or runs a function for each of them: as many as LIMIT says, of any shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Limited {
    /// Where the rows may be, in the order in which they are read.
    pub shards: ShardSet,
    /// The statement in front of the number of rows.
    pub head: String,
    /// The parameter that gives the number, if it is one.
    pub param: Option<u16>,
    /// The statement behind it, and where that begins in the original.
    pub tail: (String, usize),
    /// How many rows.
    pub limit: u64,
}

/// How the rows of several shards, each in order, become the rows of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Gather {
    /// What each shard is sent, and where its pieces stand in the original; `None`: the statement as it is.
    pub text: Option<(String, Origins)>,
    /// Columns at the end of each row that are not the application's.
    pub hidden: u16,
    /// What the rows are ordered by, the first first; none: they come in any order.
    pub keys: Vec<GatherKey>,
    /// What becomes of each of the application's columns, where there is one row of each shard, and one in the answer.
    pub folds: Vec<Fold>,
    /// Rows that are left out.
    pub offset: u64,
    /// Rows that come then, at most.
    pub limit: Option<u64>,
}

impl Gather {
    /// Whether any so many rows of the shards are the answer.
    pub fn takes_any_rows(&self) -> bool {
        self.keys.is_empty() && self.folds.is_empty() && self.offset == 0
    }

    /// For EXPLAIN (GAVEL).
    pub fn in_words(&self) -> &'static str {
        if !self.folds.is_empty() {
            return "aggregates put together";
        }
        let cut = self.limit.is_some() || self.offset > 0;
        match (self.keys.is_empty(), cut) {
            (true, _) => "as many rows as LIMIT says, of any",
            (false, false) => "rows in their order",
            (false, true) => "rows in their order, as many as LIMIT says",
        }
    }
}

/// How the values of one column, one of each shard, become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// `int8` values are added up.
    Integers,
    /// `numeric` values are added up.
    Numerics,
    /// The one that comes first.
    First(GatherKey),
}

/// One of the values that rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatherKey {
    /// How.
    pub order: Order,
    /// Where it is.
    pub column: KeyColumn,
}

/// A column of a row, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyColumn {
    /// One of the application's.
    Output(usize),
    /// One of those that are not.
    Hidden(usize),
}

/// One shard's share of a split statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Where.
    pub shard: ShardId,
    /// Text with this shard's rows only, parameters renumbered from `$1`.
    pub text: String,
    /// For each parameter of `text` the 1-based number of the original.
    pub params: Vec<u16>,
    /// For each row of `text` its position (0-based) in the original.
    pub rows: Vec<u32>,
    /// Where its pieces stand in the original, as far as that is known.
    pub origins: Origins,
}

/// Rows that an UPDATE gives a key of another shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// Where they may be.
    pub from: ShardSet,
    /// Where they belong from now on.
    pub to: ShardId,
    /// Deletes them on one shard; one row: how many, and an array of them as a text.
    pub take: String,
    /// What inserts that array, in front of it and behind it.
    pub put: (String, String),
}

/// Keys to draw before routing.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// A SELECT that returns `rows` rows of one text column, in order: the keys of the rows that leave it to the default.
    pub sql: String,
    /// How many keys; 0: as many as there are.
    pub rows: usize,
    /// It uses the parameters of the statement, by their numbers.
    pub with_params: bool,
}

/// Why a plan is what it is. `Display` is the text of EXPLAIN (GAVEL); `label` is a metric label (closed set).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The key named in the statement.
    Key {
        /// Redacted by `Display`; see [`Reason::with_key`].
        key: KeyValue,
        /// Its slot.
        slot: Slot,
    },
    /// All keys of a list.
    Keys {
        /// How many.
        count: usize,
    },
    /// The conditions exclude each other or compare with NULL.
    NoMatch,
    /// No condition on the key.
    NoKey,
    /// No sharded table.
    NoShardedTable,
    /// Reference tables only.
    ReferenceTable,
    /// Unsharded table or catalog.
    HomeShard,
    /// DDL.
    Ddl,
    /// The rows of VALUES.
    Rows {
        /// How many rows.
        count: usize,
    },
    /// A hint of the application's.
    Hint,
    /// The cluster has one shard.
    OneShard,
    /// A declared key argument of a function that is called.
    FunctionKey,
    /// The database is passed through to one node.
    PassThrough,
    /// A write needs rows of other shards.
    ReadFirst,
    /// It is no merge of the shards' answers.
    NoMerge,
}

/// What the session adds to a decision.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionView<'a> {
    /// `SET gavel.key` or `/* gavel: key=… */`.
    pub hint_key: Option<&'a str>,
    /// `SET gavel.shard` or `/* gavel: shard=… */`.
    pub hint_shard: Option<&'a str>,
    /// Inside a transaction block.
    pub in_transaction: bool,
    /// The transaction (or the session's default) is READ ONLY.
    pub read_only: bool,
    /// A shard that has already been enlisted in the transaction, for [`Target::Any`].
    pub enlisted: Option<ShardId>,
    /// Number that spreads [`Target::Any`] statements.
    pub spread: u32,
    /// The shard of the connection that the session is pinned to: SQL PREPARE, cursors and temporary tables are there.
    pub pinned: Option<ShardId>,
    /// `[routing] two_phase`: a statement may write to several shards.
    pub two_phase: bool,
    /// `[routing] reads = "replica"`, and nothing about the session forbids it.
    pub reads_replica: bool,
}

impl Reason {
    /// A metric label, of a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Key { .. } => "key",
            Self::Keys { .. } => "keys",
            Self::NoMatch => "no_match",
            Self::NoKey => "no_key",
            Self::NoShardedTable => "no_sharded_table",
            Self::ReferenceTable => "reference_table",
            Self::HomeShard => "home_shard",
            Self::Ddl => "ddl",
            Self::Rows { .. } => "rows",
            Self::Hint => "hint",
            Self::OneShard => "one_shard",
            Self::FunctionKey => "function_key",
            Self::PassThrough => "pass_through",
            Self::ReadFirst => "read_first",
            Self::NoMerge => "no_merge",
        }
    }

    /// The text with the key in it, for those who may see values.
    pub fn with_key(&self) -> String {
        match self {
            Self::Key { key, slot } => format!("key {key} in slot {}", slot.0),
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key { slot, .. } => write!(f, "one key, in slot {}", slot.0),
            Self::Keys { count } => write!(f, "{count} keys"),
            Self::NoMatch => write!(f, "no row can match"),
            Self::NoKey => write!(f, "no condition on the shard key"),
            Self::NoShardedTable => write!(f, "no table"),
            Self::ReferenceTable => write!(f, "reference tables only"),
            Self::HomeShard => write!(f, "unsharded table, catalog or state of the home shard"),
            Self::Ddl => write!(f, "DDL"),
            Self::Rows { count } => write!(f, "{count} rows of VALUES"),
            Self::Hint => write!(f, "routing hint"),
            Self::OneShard => write!(f, "the cluster has one shard"),
            Self::FunctionKey => write!(f, "declared key argument of the function"),
            Self::PassThrough => write!(f, "the database is passed through"),
            Self::ReadFirst => write!(f, "rows of other shards than those that are written"),
            Self::NoMerge => write!(f, "more than the shards' answers one after the other"),
        }
    }
}
