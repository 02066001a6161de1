//! The planner's answer.

use router_config::topology::ShardId;
use smallvec::SmallVec;

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
    /// No shard can hold a matching row: the statement runs on this shard all the same, for its row description and tag.
    Nowhere(ShardId),
    /// The statement on every shard in one transaction (two-phase); the home shard's answer is the client's.
    Everywhere,
    /// The statement shard by shard outside of a transaction; the home shard's answer is the client's.
    EachAlone,
    /// A statement of its own for each shard, in one transaction (two-phase when more than one).
    Split(Vec<Part>),
    /// Values must be drawn first: run the query on the home shard's primary, then plan again with the values.
    Draw(Draw),
    /// COPY FROM STDIN split by key over all shards, in one transaction.
    CopySplit,
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
}

/// Keys to draw before routing.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// A SELECT that returns one row with `rows` text columns, one key each.
    pub sql: String,
    /// How many keys.
    pub rows: usize,
}

/// Why a plan is what it is. `Display` is the text of EXPLAIN (GAVEL); `label` is a metric label (closed set).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The key named in the statement.
    Key {
        /// For humans, the value is redacted unless asked for.
        key: String,
        /// Its slot.
        slot: u16,
    },
    /// All keys of a list.
    Keys {
        /// How many.
        count: usize,
    },
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
    /// A declared key argument of a function.
    FunctionKey,
    /// The database is passed through to one node.
    PassThrough,
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
}
