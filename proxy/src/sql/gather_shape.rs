//! What of a SELECT must be done once for all shards: its order, LIMIT and OFFSET.
//!
//! Invariant: a type is [`Comparable`] only where the proxy can put its values in PostgreSQL's own order, whatever the session's
//! settings are.

use std::ops::Range;

use super::facts::KeyTerm;

/// A type whose order the proxy knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparable {
    /// `int2`, `int4`, `int8`
    Int2,
    /// See [`Self::Int2`].
    Int4,
    /// See [`Self::Int2`].
    Int8,
    /// `oid`
    Oid,
    /// `bool`
    Bool,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    Timestamptz,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytea,
    /// `text`, `varchar` and `name` in the order of their bytes, in a database that is encoded in UTF8
    Text,
    /// `char(n)` likewise: blanks at the end do not count
    Bpchar,
}

impl Comparable {
    /// Of a type by its OID. `bytewise`: its collation compares bytes, which are UTF-8.
    pub fn of(oid: u32, bytewise: bool) -> Option<Self> {
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            19 | 25 | 1043 if bytewise => Self::Text,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            26 => Self::Oid,
            700 => Self::Float4,
            701 => Self::Float8,
            1042 if bytewise => Self::Bpchar,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::Timestamptz,
            1700 => Self::Numeric,
            2950 => Self::Uuid,
            _ => return None,
        })
    }

    /// By the name in a cast, lower case. A modifier may round, but the type is the same.
    pub fn of_name(name: &str) -> Option<Self> {
        let bare = name.split('(').next().unwrap_or(name).trim();
        Some(match bare {
            "smallint" | "int2" => Self::Int2,
            "int" | "integer" | "int4" => Self::Int4,
            "bigint" | "int8" => Self::Int8,
            "bool" | "boolean" => Self::Bool,
            "real" | "float4" => Self::Float4,
            "double precision" | "float8" => Self::Float8,
            "numeric" | "decimal" => Self::Numeric,
            "date" => Self::Date,
            "timestamp" | "timestamp without time zone" if !name.ends_with("with time zone") => {
                Self::Timestamp
            }
            "timestamptz" | "timestamp" | "timestamp with time zone" => Self::Timestamptz,
            "uuid" => Self::Uuid,
            "bytea" => Self::Bytea,
            _ => return None,
        })
    }

    /// Whether the text and the binary format of a value say all of its order, whatever the session's settings are.
    pub fn is_direct(self, utf8_client: bool) -> bool {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Oid | Self::Bool | Self::Uuid | Self::Bytea => true,
            Self::Numeric => true,
            Self::Text | Self::Bpchar => utf8_client,
            Self::Float4 | Self::Float8 | Self::Date | Self::Time | Self::Timestamp | Self::Timestamptz => {
                false
            }
        }
    }

    /// Whether values that are equal have the same text.
    pub fn equal_is_same(self) -> bool {
        !matches!(self, Self::Numeric | Self::Float4 | Self::Float8)
    }

    /// SQL whose value says the order of `e`, whatever the session's settings are. See [`crate::gather::key`].
    pub fn key_of(self, e: &str) -> String {
        let sends = |name: &str| format!("pg_catalog.{name}({e})");
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Oid | Self::Bool | Self::Uuid | Self::Bytea => {
                format!("({e})")
            }
            Self::Numeric => format!("({e})::pg_catalog.numeric"),
            Self::Float4 => sends("float4send"),
            Self::Float8 => sends("float8send"),
            Self::Date => sends("date_send"),
            Self::Time => sends("time_send"),
            Self::Timestamp => sends("timestamp_send"),
            Self::Timestamptz => sends("timestamptz_send"),
            Self::Text | Self::Bpchar => format!("pg_catalog.convert_to(({e})::pg_catalog.text, 'UTF8')"),
        }
    }
}

/// What is done once for all shards.
#[derive(Debug, Clone)]
pub struct GatherShape {
    /// What the rows are ordered by; none: they come in any order.
    pub keys: Vec<SortKey>,
    /// What the one row of each shard becomes, column by column; none: the rows are the answer's.
    pub folds: Vec<FoldShape>,
    /// Just behind the last item of the select list.
    pub list_end: usize,
    /// LIMIT or FETCH FIRST.
    pub limit: Option<Bound>,
    /// OFFSET.
    pub offset: Option<Bound>,
}

impl GatherShape {
    /// What it is in the statement.
    pub fn what(&self) -> &'static str {
        match (self.folds.is_empty(), self.keys.is_empty()) {
            (false, _) => "aggregates",
            (true, true) => "LIMIT or OFFSET",
            (true, false) => "ORDER BY",
        }
    }
}

/// An aggregate of all rows that is made of the same aggregates of the rows of each shard.
#[derive(Debug, Clone)]
pub enum FoldShape {
    /// `count`, and `sum` of `int2` or `int4`.
    Integers,
    /// `sum` of `int8` or `numeric`.
    Numerics,
    /// `min`, `max`, `bool_and`, `bool_or`: the value that comes first.
    First(SortKey),
}

/// How values of an expression of ORDER BY are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Type.
    pub kind: Comparable,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST, said or meant.
    pub nulls_first: bool,
}

/// One expression of ORDER BY.
#[derive(Debug, Clone)]
pub struct SortKey {
    /// How its values are put in order.
    pub order: Order,
    /// Position among the columns of the result, if it is one of them.
    pub output: Option<usize>,
    /// How to ask for it.
    pub source: KeySource,
}

/// An expression that can stand in the select list.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// Bytes of the statement.
    Text(Range<usize>),
    /// SQL.
    Sql(String),
    /// It is what it is in the result, nothing else.
    OutputOnly,
}

/// A number of rows.
#[derive(Debug, Clone)]
pub struct Bound {
    /// `None`: one, which is not written.
    pub term: Option<KeyTerm>,
    /// Where it is written, or would be.
    pub at: Range<usize>,
}
