//! The closed sets of label values, and the buckets.

use crate::route::plan::Target;

/// Seconds; from a fast point read to a statement that somebody will ask about.
pub(super) const BUCKETS: [f64; 16] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Groups of slots whose load is counted apart.
pub const SLOT_GROUPS: usize = 64;

/// SQLSTATEs with a child of their own; the others are counted by class with `xxx`, or as `other`.
pub(super) const SQLSTATES: [&str; 34] = [
    "08000", "08003", "08006", "08007", "08P01", "0A000", "22001", "22003", "22012", "22P02", "23502",
    "23503", "23505", "23514", "25001", "25006", "25P02", "26000", "28000", "28P01", "34000", "40001",
    "40P01", "42501", "42601", "42703", "42P01", "53300", "53400", "54000", "55P03", "57014", "57P01",
    "57P05",
];

/// SQLSTATEs that are counted from the start: an alert on their increase sees nothing of a series that begins with its first
/// error.
pub(super) const ALERTED: [&str; 1] = ["08007"];

/// Classes of SQLSTATEs, for codes without a child of their own.
pub(super) const CLASSES: [&str; 22] = [
    "01", "02", "08", "0A", "21", "22", "23", "24", "25", "26", "28", "2B", "2D", "34", "3D", "40", "42",
    "53", "54", "55", "57", "XX",
];

/// In which role a node served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedBy {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
}

/// What kind of plan a statement had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// One shard.
    One,
    /// Any shard.
    Any,
    /// Several shards, concatenated.
    Concat,
    /// No shard can hold a row.
    Nowhere,
    /// All shards, one transaction.
    Everywhere,
    /// Several shards one after the other, one transaction.
    Each,
    /// All shards, one by one.
    EachAlone,
    /// A part for each shard.
    Split,
    /// A key drawn first.
    Draw,
    /// COPY split by key.
    CopySplit,
    /// Not routed: a passed-through database.
    PassThrough,
    /// Rows gathered in one place, where the rest is computed.
    Combine,
    /// A write for which rows are read first.
    ReadFirst,
}

pub(super) const PLANS: [&str; 13] = [
    "one",
    "any",
    "concat",
    "nowhere",
    "everywhere",
    "each",
    "each_alone",
    "split",
    "draw",
    "copy_split",
    "pass_through",
    "combine",
    "read_first",
];

impl PlanKind {
    /// The label's value.
    pub fn label(self) -> &'static str {
        PLANS[self as usize]
    }
}

impl From<&Target> for PlanKind {
    fn from(target: &Target) -> Self {
        match target {
            Target::One(_) => Self::One,
            Target::Any => Self::Any,
            Target::Concat(_) | Target::Gather(..) | Target::Limited(_) | Target::Explain(..) => Self::Concat,
            Target::Nowhere(_) => Self::Nowhere,
            Target::Everywhere | Target::EverywhereAs(_) => Self::Everywhere,
            Target::Each(_) | Target::Move(_) => Self::Each,
            Target::EachAlone => Self::EachAlone,
            Target::Split(_) => Self::Split,
            Target::Draw(_) => Self::Draw,
            Target::CopySplit | Target::CopyEverywhere => Self::CopySplit,
            Target::Combine(_) => Self::Combine,
            Target::InsertRows(_)
            | Target::Broadcast(_)
            | Target::WithWrites(_)
            | Target::MergeRows(_)
            | Target::Fill(_) => Self::ReadFirst,
        }
    }
}

/// A cache whose hits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Facts by text.
    Facts,
    /// Prepared statements on a backend connection.
    Statements,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Logging in.
    Login,
    /// Between requests, outside of a transaction.
    Idle,
    /// A request is running.
    Active,
    /// Between requests, inside of a transaction.
    InTransaction,
    /// A request waits: for a backend connection, for a primary, for the end of PAUSE.
    Waiting,
}

impl SessionState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Login, Self::Idle, Self::Active, Self::InTransaction, Self::Waiting];
}

pub(super) const SESSION_STATES: [&str; 5] = ["login", "idle", "active", "in_transaction", "waiting"];

/// What a backend connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnState {
    /// In the pool.
    Idle,
    /// Lent.
    Used,
    /// Being opened.
    Opening,
}

pub(super) const CONN_STATES: [&str; 3] = ["idle", "used", "opening"];

/// Why a statement was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalClass {
    /// `0A000`: cannot be placed.
    Unsupported,
    /// Class 22 or 23: a key that is NULL or not of its type.
    BadKey,
    /// Class 25: not in this transaction.
    Transaction,
    /// Classes 53 and 54: a limit.
    Limit,
    /// Class 42: syntax or names.
    Syntax,
    /// Anything else.
    Other,
}

pub(super) const REFUSALS: [&str; 6] = ["unsupported", "bad_key", "transaction", "limit", "syntax", "other"];

impl RefusalClass {
    /// The class of a refusal with this SQLSTATE.
    pub fn of(sqlstate: &str) -> Self {
        match sqlstate.get(..2) {
            Some("0A") => Self::Unsupported,
            Some("22" | "23") => Self::BadKey,
            Some("25") => Self::Transaction,
            Some("53" | "54") => Self::Limit,
            Some("42") => Self::Syntax,
            _ => Self::Other,
        }
    }
}
